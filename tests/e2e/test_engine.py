"""The engine: from a checkpoint folder and a real video file to an answer, and out of trouble."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import timeviper
from tests.toy_engine import noise, toy_config, toy_engine, toy_model, toy_processor, write_video
from timeviper.core.errors import (
    CancelledError,
    CapacityError,
    CheckpointError,
    MediaError,
    RequestError,
    StateFileError,
    TimeviperError,
)
from timeviper.core.precision import Precision
from timeviper.inference.admission import Gate
from timeviper.inference.engine import Degrade, Engine, Limits
from timeviper.inference.request import Answer, AskOptions
from timeviper.inference.state_file import load_state, save_state
from timeviper.inference.store import Store
from timeviper.inference.watch import CancelToken, Progress, Watch
from timeviper.weights.native import save_model

QUESTION = "When does the cat appear?"
SHORT = AskOptions(max_new_tokens=5)


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    """Twenty seconds of H.264 at 2 frames a second."""
    return write_video(tmp_path_factory.mktemp("video") / "noise.mp4", noise(40, side=48), fps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint of the toy model."""
    home = tmp_path_factory.mktemp("checkpoint") / "toy"
    save_model(toy_model(toy_config("transv"), dtype=torch.float32), home)
    toy_processor().save(home)
    return home


@pytest.fixture(scope="module")
def engine(folder) -> Engine:
    return Engine.load(folder, device="cpu", precision=Precision.FLOAT64)


def test_the_package_offers_the_engine():
    assert timeviper.Engine is Engine
    assert timeviper.Answer is Answer


def test_an_answer_about_a_file(engine, video):
    answer = engine.ask(video, QUESTION, SHORT)
    assert answer.frames == 20
    assert answer.duration_seconds == pytest.approx(20.0)
    assert answer.tokens <= 5
    assert answer.peak_bytes > 2**20
    assert min(answer.timing.to_dict().values()) >= 0
    assert set(answer.to_dict()) == {
        "answer", "start_seconds", "end_seconds", "frames", "duration_seconds", "timing",
        "peak_bytes", "notes",
    }  # fmt: skip
    json.dumps(answer.to_dict())


def test_an_encoded_file_is_asked_again_and_again(engine, video):
    encoded = engine.encode(video)
    for question in (QUESTION, "Does the wolf appear?"):
        fresh, again = engine.ask(video, question, SHORT), engine.ask(encoded, question, SHORT)
        assert fresh.text == again.text
        # What was spent on encoding is not counted twice.
        assert (again.timing.decode, again.timing.encode, again.timing.prefill) == (0, 0, 0)
        assert fresh.timing.encode > 0


def test_how_to_look_is_followed_and_caps_are_said(engine, video):
    few = engine.ask(video, QUESTION, AskOptions(max_frames=4, max_new_tokens=1))
    assert few.frames == 4
    assert any("asked 20 frames" in note for note in few.notes)
    part = AskOptions(fps=2.0, start=5.0, end=9.0, max_new_tokens=1)
    assert engine.ask(video, QUESTION, part).frames == 8
    beyond = engine.ask(video, QUESTION, AskOptions(end=100.0, num_frames=3, max_new_tokens=1))
    assert any("the video ends at 20" in note for note in beyond.notes)
    assert any("max_new_tokens" in note for note in beyond.notes)


def test_a_stream_ends_with_the_answer(engine, video):
    *pieces, answer = engine.stream(video, QUESTION, SHORT)
    assert isinstance(answer, Answer)
    assert "".join(pieces) == answer.text
    assert torch.is_inference_mode_enabled() is False


def test_an_interval_in_the_answer_is_read(engine, video, monkeypatch):
    encoded = engine.encode(video)
    words = iter(engine.processor.tokenizer.encode("from 00:03 to 01:00."))
    monkeypatch.setattr("timeviper.inference.steps.choose", lambda logits, choosers: [next(words)])
    answer = engine.ask(encoded, QUESTION, AskOptions(max_new_tokens=20))
    assert (answer.text, answer.start_seconds) == ("from 00:03 to 01:00.", 3.0)
    assert answer.end_seconds == pytest.approx(20.0)


def test_frames_in_memory_and_sources_are_videos(engine):
    frames = noise(6)
    assert engine.ask(frames, QUESTION, SHORT).frames == 6
    assert (
        engine.ask(list(frames), QUESTION, SHORT).text == engine.ask(frames, QUESTION, SHORT).text
    )


def test_a_shared_video_is_read_once_in_a_batch(engine, video):
    def talk(question: str, **more) -> list[dict[str, object]]:
        shown = {"type": "video", "video": str(video), **more}
        return [{"role": "user", "content": [shown, {"type": "text", "text": question}]}]

    heard: list[Progress] = []
    talks = [talk("One?"), talk("Two?"), talk("Three?", max_frames=2)]
    answers = engine.generate(talks, SHORT, watch=Watch(progress=heard.append))
    assert [answer.frames for answer in answers] == [20, 20, 2]
    assert [p.total for p in heard if p.stage == "video" and p.done == 0] == [20, 2]
    assert answers[0].timing.encode > 0
    assert answers[1].timing.encode == 0
    assert engine.generate([]) == []


def test_an_image_is_one_frame_without_a_mark(engine, tmp_path):
    picture = write_video(tmp_path / "one.mp4", noise(1, side=48))
    part = {"type": "image", "image": str(picture)}
    talk = [{"role": "user", "content": [part, {"type": "text", "text": "What is this?"}]}]
    assert engine.generate([talk], SHORT)[0].frames == 1


def test_system_words_stand_before_the_video(engine, video):
    told = AskOptions(system="Be brief.", max_new_tokens=5)
    encoded = engine.encode(video, told)
    assert engine.ask(encoded, QUESTION, told).text == engine.ask(video, QUESTION, told).text
    with pytest.raises(RequestError, match="words before the video"):
        engine.ask(encoded, QUESTION, SHORT)
    talk = [{"role": "user", "content": "Hello?"}]
    own = [{"role": "system", "content": "Be brief."}, *talk]
    texts = [engine.generate([t], o)[0].text for t, o in ((talk, told), (own, SHORT))]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_refused_before_the_video_is_opened(engine, question):
    with pytest.raises(RequestError, match="an empty one"):
        engine.ask("no-such-file.mp4", question)


def test_a_question_beyond_the_context_is_refused_before_the_video_is_opened():
    small = toy_engine("plain", context=64)
    with pytest.raises(CapacityError, match="at most 64 tokens"):
        small.ask("no-such-file.mp4", "very " * 50)


def test_a_video_beyond_the_known_range_is_answered_and_said():
    answer = toy_engine("plain", context=64).ask(noise(12), "When?", SHORT)
    assert any("up to 64" in note for note in answer.notes)


def test_a_missing_video_and_a_bad_range_are_clear(engine, video):
    with pytest.raises(MediaError):
        engine.ask("no-such-file.mp4", QUESTION)
    with pytest.raises(RequestError, match="before the end of the video"):
        engine.ask(video, QUESTION, AskOptions(start=50.0))


def test_an_encoded_video_does_not_take_new_wishes(engine):
    encoded = engine.encode(noise(3))
    with pytest.raises(RequestError, match="give them to `encode`"):
        engine.ask(encoded, QUESTION, AskOptions(fps=2.0))


def test_messages_are_all_checked_before_the_first_video(engine):
    good = [{"role": "user", "content": [
        {"type": "video", "video": "no-such-file.mp4"}, {"type": "text", "text": "When?"},
    ]}]  # fmt: skip
    with pytest.raises(RequestError, match="an empty one"):
        engine.generate([good, [{"role": "user", "content": " "}]])
    with pytest.raises(MediaError):
        engine.generate([good])


def test_a_turned_switch_cancels(engine):
    switch = CancelToken()
    switch.cancel()
    with pytest.raises(CancelledError):
        engine.ask(noise(3), QUESTION, watch=Watch(cancel=switch))
    encoded = engine.encode(noise(3))
    with pytest.raises(CancelledError, match="the answer"):
        engine.ask(encoded, QUESTION, watch=Watch(cancel=switch))
    assert engine.ask(encoded, QUESTION, SHORT).tokens > 0


def test_broken_weights_end_in_an_error_and_not_in_text():
    engine = toy_engine("plain")
    with torch.no_grad():
        engine.model.decoder.layers[3].mixer.get_parameter("dt_bias")[0] = float("nan")
    with pytest.raises(TimeviperError, match="finite scores"):
        engine.ask(noise(3), QUESTION)


def test_unknown_models_and_unfinished_folders_are_refused(tmp_path, folder):
    with pytest.raises(CheckpointError):
        Engine.load("no-such-model")
    for file in folder.iterdir():
        if file.name != "processor_config.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"processor_config\.json"):
        Engine.load(tmp_path, device="cpu")


def test_threads_are_set_when_asked(folder):
    before = torch.get_num_threads()
    try:
        Engine.load(folder, device="cpu", threads=2).ask(noise(3), QUESTION, SHORT)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_answers_repeat(engine):
    drawn = AskOptions(temperature=1.0, seed=3, max_new_tokens=8)
    frames: np.ndarray = noise(4)
    assert engine.ask(frames, QUESTION, drawn).text == engine.ask(frames, QUESTION, drawn).text


def test_dropping_switched_off_and_on_again_when_memory_is_short(
    folder: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state, a file and a cache all belong to the model as the video was read."""
    wide = {"device": "cpu", "precision": Precision.FLOAT64}
    trained, plain = Engine.load(folder, **wide), Engine.load(folder, **wide, transv=False)
    assert plain.encoder.identity != trained.encoder.identity
    read = plain.encode(video)
    assert read.state.pending == ()
    assert plain.gate.reader_of(read.state) is plain.encoder
    limits = Limits(bytes=0, degrade=Degrade.ANY)
    short = Engine.load(folder, **wide, transv=False, limits=limits)
    monkeypatch.setattr(Gate, "_fits", lambda gate, rung, there: rung.dropping)
    store = Store(tmp_path / "cache")
    for _ in range(2):
        # What was read otherwise than asked for is given, and not kept.
        fetched = store.encode(short, video)
        assert not fetched.found
    assert any("TransV" in note for note in fetched.encoded.notes)
    reader = short.gate.reader_of(fetched.encoded.state)
    save_state(fetched.encoded, tmp_path / "film.tvstate", reader)
    loaded = load_state(tmp_path / "film.tvstate", trained.encoder)
    want = trained.ask(loaded, QUESTION, SHORT).text
    assert short.ask(fetched.encoded, QUESTION, SHORT).text == want
    with pytest.raises(StateFileError):
        load_state(tmp_path / "film.tvstate", plain.encoder)
