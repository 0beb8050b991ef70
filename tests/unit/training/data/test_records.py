"""Records of every form become the same conversations; others are refused with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.training.data.toys import chat, llava
from timeviper.processing.messages import ImagePart, TextPart, VideoPart
from timeviper.training.data.records import Record, read_record
from timeviper.training.data.samples import Origin, Reason, Sample, SampleError

HERE = Origin("data.jsonl", 7)
ROOT = Path("/media")


def read(data: dict) -> Sample:
    return read_record(Record(data=data, origin=HERE, root=ROOT))


def parts(sample: Sample) -> list[tuple[str, list[object]]]:
    """Turns as (role, words and media names)."""
    return [
        (turn.role, [p.text if isinstance(p, TextPart) else p.source for p in turn.parts])
        for turn in sample.turns
    ]


VIDEO_TALK = [("user", ["/media/a.mp4", "When?"]), ("assistant", ["at 00:03."])]


@pytest.mark.parametrize(
    "record",
    [
        llava("<video>\nWhen?", "at 00:03.", video="a.mp4"),
        # As LLaVA-Video writes it.
        llava("<image>\nWhen?", "at 00:03.", video="a.mp4"),
        # sharegpt with lists, as LLaMA-Factory writes it.
        llava("<video>When?", "at 00:03.", videos=["a.mp4"]),
        chat("<video>\nWhen?", "at 00:03.", videos=["a.mp4"]),
        chat([{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "When?"}], "at 00:03."),
        chat([{"type": "video"}, {"type": "text", "text": "When?"}], "at 00:03.", videos="a.mp4"),
    ],
)
def test_forms_of_one_conversation_agree(record):
    sample = read(record)
    assert parts(sample) == VIDEO_TALK
    assert sample.media == (VideoPart(source="/media/a.mp4"),)
    assert sample.origin == HERE


def test_roles_system_and_later_turns():
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "a?"},
        {"from": "gpt", "value": "b"},
        {"from": "user", "value": "c?"},
        {"from": "assistant", "value": "d"},
    ]
    sample = read({"conversations": turns})
    roles = ["system", "user", "assistant", "user", "assistant"]
    assert [turn.role for turn in sample.turns] == roles
    assert sample.media == ()
    assert sample.form == "conversations"


def test_marks_keep_their_places_among_the_words():
    sample = read(
        llava("One <image> and\n<image>\nhere\n<video>", "no.", image=["c", "d"], video="a")
    )
    assert parts(sample)[0] == (
        "user",
        ["One ", "/media/c", " and\n", "/media/d", "here", "/media/a"],
    )
    kinds = [type(part) for part in sample.media]
    assert kinds == [ImagePart, ImagePart, VideoPart]


def test_a_caption_asks_the_same_thing_each_time():
    first, again = (read({"caption": "a red car", "image": "c.png"}) for _ in range(2))
    assert parts(first) == parts(again)
    assert parts(first)[0][1][0] == "/media/c.png"
    assert parts(first)[1] == ("assistant", ["a red car"])
    others = {read({"caption": f"car {n}", "image": "c"}).turns[0].text for n in range(20)}
    assert len(others) > 1


def test_ranges_and_targets_are_read():
    sample = read(
        llava("<video>When?", "now.", video="a.mp4", video_start=2, video_end=9.5)
        | {"start_seconds": 3, "end_seconds": 4.5}
    )
    assert sample.media == (VideoPart(source="/media/a.mp4", start_seconds=2.0, end_seconds=9.5),)
    assert (sample.start_seconds, sample.end_seconds) == (3.0, 4.5)
    part = {"type": "video", "video": "a.mp4", "video_start": 1, "fps": 2}
    sample = read(chat([part, {"type": "text", "text": "a?"}], "b"))
    assert sample.media == (VideoPart(source="/media/a.mp4", start_seconds=1.0, fps=2.0),)
    listed = chat([{"type": "video"}, {"type": "text", "text": "a?"}], "b", videos=["a.mp4"])
    sample = read(listed | {"video_start": 1})
    assert sample.media == (VideoPart(source="/media/a.mp4", start_seconds=1.0),)


@pytest.mark.parametrize(
    ("record", "reason", "message"),
    [
        ({}, Reason.MALFORMED, "conversations, messages, caption; got keys none"),
        ({"conversations": "hi"}, Reason.MALFORMED, "a list of objects"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, Reason.MALFORMED, "'bot'"),
        ({"conversations": [{"from": "human", "value": 3}]}, Reason.MALFORMED, "turn 1"),
        ({"messages": [{"role": "user"}]}, Reason.MALFORMED, "content"),
        ({"messages": [{"role": "bot", "content": "x"}]}, Reason.MALFORMED, "role"),
        ({"caption": 3, "image": "c"}, Reason.MALFORMED, "caption as text"),
        (llava("<image>a?", "b"), Reason.MARKS, "1 <image> for 0 images"),
        (llava("a?", "b", image="c.png"), Reason.MARKS, "0 <image> for 1 images"),
        (llava("<image>a?", "b", image=["c", "d"]), Reason.MARKS, "1 <image> for 2 images"),
        (llava("<video><video>a?", "b", video="a"), Reason.MARKS, "2 <video> for 1 videos"),
        (chat([{"type": "image"}], "b"), Reason.MARKS, "a name for each part of type image"),
        (llava("<image>a?", "b", image=3), Reason.MALFORMED, "a path or a list of paths"),
        (llava("<image>a?", "b", image=["", "c"]), Reason.MALFORMED, "a path or a list of paths"),
        (llava("<image>a?", "b", image="a\0b"), Reason.MALFORMED, "a path"),
        (llava("a?"), Reason.CONVERSATION, "ends with an answer"),
        (llava("a?", ""), Reason.CONVERSATION, "an empty one"),
        (llava("<image>", "b", image="c"), Reason.CONVERSATION, "a question"),
        (llava("a?", "<image>b", image="c"), Reason.CONVERSATION, "users' turns"),
        (llava("a?", "b", video_start=1), Reason.MALFORMED, "0 videos"),
        (
            llava("<video>a?", "b", video="a", video_start=3, video_end=2),
            Reason.MALFORMED,
            "ends after it starts",
        ),
        (llava("a?", "b", start_seconds="x", end_seconds=2), Reason.MALFORMED, "start_seconds as"),
        (llava("a?", "b", start_seconds=float("nan"), end_seconds=2), Reason.MALFORMED, "seconds"),
        (llava("a?", "b", start_seconds=3, end_seconds=2), Reason.RANGE, "in this order"),
        (llava("a?", "b", start_seconds=3), Reason.RANGE, "3.0 and None"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(record, reason, message):
    with pytest.raises(SampleError, match=r"data\.jsonl:7") as caught:
        read(record)
    assert caught.value.reason is reason
    assert message in str(caught.value)
