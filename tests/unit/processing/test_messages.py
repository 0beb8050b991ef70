"""Messages: what is understood, and where each mistake is pointed at."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeviper.core.errors import RequestError
from timeviper.processing.messages import (
    ImagePart,
    Message,
    TextPart,
    VideoPart,
    check_conversation,
    parse_messages,
)


def user(*parts: object) -> list[dict[str, object]]:
    return [{"role": "user", "content": list(parts)}]


TEXT = {"type": "text", "text": "When?"}


def video(**options: object) -> dict[str, object]:
    return {"type": "video", "video": "a.mp4", **options}


def test_a_string_is_one_text_part():
    (turn,) = parse_messages([{"role": "user", "content": "What?"}])
    assert turn == Message(role="user", parts=(TextPart("What?"),))
    assert turn.text == "What?"


def test_every_option_of_a_video_is_read():
    options = {"fps": 2, "max_frames": 64, "video_start": 1, "video_end": 9.5}
    (turn,) = parse_messages(user(video(**options), TEXT))
    assert turn.parts == (
        VideoPart(source="a.mp4", fps=2.0, max_frames=64, start_seconds=1.0, end_seconds=9.5),
        TextPart("When?"),
    )


@pytest.mark.parametrize("key", ["num_frames", "nframes"])
def test_the_number_of_frames_has_two_names(key):
    (turn,) = parse_messages(user(video(**{key: 8, "fps": None}), TEXT))
    assert turn.parts[0] == VideoPart(source="a.mp4", num_frames=8)


def test_sources_may_be_paths_and_lists_of_frames():
    part = {"type": "video", "video": [Path("x/1.png"), "x/2.png"]}
    assert parse_messages(user(part, TEXT))[0].parts[0] == VideoPart(source=("x/1.png", "x/2.png"))
    still = {"type": "image", "image": Path("a.png")}
    assert parse_messages(user(still, TEXT))[0].parts[0] == ImagePart(source="a.png")


def test_a_longer_conversation_keeps_its_order():
    turns = parse_messages(
        [
            {"role": "system", "content": ""},
            *user(video(), TEXT),
            {"role": "assistant", "content": "from 00:01 to 00:02."},
            {"role": "user", "content": "And the dog?"},
        ]
    )
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        (None, "messages to be a list"),
        ([], "messages to be a list with at least one entry"),
        ("What?", "messages to be a list"),
        (["What?"], r"messages\[0\] to be an object"),
        ([{"content": "a"}], r"messages\[0\].role to be one of system, user, assistant"),
        ([{"role": "tool", "content": "a"}], "got 'tool'"),
        ([{"role": "user"}], r"messages\[0\].content to be a list"),
        ([{"role": "user", "content": "a", "name": "b"}], "unknown key 'name'"),
        (user("a"), r"content\[0\] to be an object"),
        (user({"type": "audio"}), "one of text, video, image"),
        (user({"type": "text", "text": 3}), r"content\[0\].text to be a string"),
        (user({"type": "text", "text": "a", "bold": True}), "unknown key 'bold'"),
        (user({"type": "video"}, TEXT), r"content\[0\].video to be a path"),
        (user({"type": "video", "video": []}, TEXT), "at least one entry"),
        (user({"type": "video", "video": ["a", 3]}, TEXT), r"video\[1\] to be a path"),
        (user({"type": "video", "video": ""}, TEXT), "to be a path"),
        (user({"type": "image", "image": b"a"}, TEXT), "to be a path"),
        (user(video(min_pixels=3), TEXT), "unknown key 'min_pixels'"),
        (user(video(fps=0), TEXT), "fps to be a number above zero"),
        (user(video(fps=True), TEXT), "fps to be a finite number"),
        (user(video(fps="1"), TEXT), "fps to be a finite number"),
        (user(video(fps=float("nan")), TEXT), "fps to be a finite number"),
        (user(video(fps=10**400), TEXT), "fps to be a finite number"),
        (user(video(num_frames=0), TEXT), "num_frames to be a whole number"),
        (user(video(nframes=1.5), TEXT), "nframes to be a whole number"),
        (user(video(num_frames=2, nframes=2), TEXT), "either num_frames or nframes"),
        (user(video(fps=1, num_frames=2), TEXT), "either fps or num_frames"),
        (user(video(video_start=-1), TEXT), "video_start to be zero seconds or more"),
        (user(video(video_start=5, video_end=5), TEXT), "ends after it starts"),
        (user(video(video_end=0), TEXT), "ends after it starts"),
        (user(video()), "a question; got an empty one"),
        (user({"type": "text", "text": " \n"}), "a question"),
        ([{"role": "user", "content": ""}], "a question"),
        (user(video(), video(), TEXT), "at most one video"),
        ([{"role": "system", "content": "a"}], "ends with the user's question"),
        ([{"role": "assistant", "content": "a"}], "assistant in the place of user"),
        ([*user(TEXT), *user(TEXT)], "user in the place of assistant"),
        ([*user(TEXT), {"role": "system", "content": "a"}], "system in the place of assistant"),
        ([*user(TEXT), {"role": "assistant", "content": "a"}], "ends with the user's question"),
        ([{"role": "system", "content": [video()]}, *user(TEXT)], "in a user's turn"),
    ],
)
def test_mistakes_are_refused_with_their_place(messages, place):
    with pytest.raises(RequestError, match=place):
        parse_messages(messages)


def test_long_values_are_shortened_in_the_message():
    with pytest.raises(RequestError) as caught:
        parse_messages([{"role": "x" * 10_000, "content": "a"}])
    assert len(str(caught.value)) < 300


def test_no_turns_at_all_are_refused():
    with pytest.raises(RequestError):
        check_conversation([])


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "video", "fps", "image"]),
            inner | st.sampled_from(["user", "system", "text", "video", "image"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JUNK)
def test_law_junk_is_refused_or_read_never_more(messages):
    try:
        turns = parse_messages(messages)
    except RequestError:
        return
    assert turns[-1].role == "user"
