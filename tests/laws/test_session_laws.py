"""Laws of sessions: however a video grew, it is the video encoded at once."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.tolerances import TOL, close
from tests.toy_engine import noise, toy_engine, toy_processor, write_video
from timeviper.core.errors import CancelledError
from timeviper.inference.engine import Engine
from timeviper.inference.prefill import EncodedVideo
from timeviper.inference.request import AskOptions
from timeviper.inference.session import Session
from timeviper.inference.watch import Watch
from timeviper.processing.messages import VideoPart
from timeviper.processing.prompt import TimePrompt
from timeviper.video.sampling import Sampling
from timeviper.video.still_sources import ArraySource

QUESTION = "When does the cat appear?"
SHORT = AskOptions(max_new_tokens=6)
STREAMING = ("plain", "transv")
LONG = 11
ENGINES = {name: toy_engine(name) for name in STREAMING}
PROCESSORS = {
    "a mark each frame": toy_processor(),
    "a mark each third frame": toy_processor(mark_every=3),
    "a sentence": toy_processor(TimePrompt.SENTENCE),
}
# Points at which a video is cut, before its first frame and behind its last among them.
cuts = st.lists(st.integers(0, LONG), max_size=4).map(lambda at: sorted({0, *at, LONG}))


def _scores(engine: Engine, encoded: EncodedVideo, question: str = QUESTION) -> torch.Tensor:
    """Scores of the first token of an answer."""
    plan = engine.processor.plan_question(question, video=VideoPart(source="video"))
    suffix = engine.encoder.suffix(
        plan, duration_seconds=encoded.duration_seconds, num_frames=encoded.frames
    )
    return engine.encoder.open_answer(encoded, suffix).logits


def _same(engine: Engine, got: EncodedVideo, want: EncodedVideo) -> None:
    """Two videos that the model cannot tell apart."""
    close("scores", got=_scores(engine, got), want=_scores(engine, want), tol=TOL.cuts.f64)
    assert (got.frames, got.tokens, got.pixels) == (want.frames, want.tokens, want.pixels)
    close("times", got=got.times, want=want.times, tol=TOL.times.f64)
    close("length", got=got.duration_seconds, want=want.duration_seconds, tol=TOL.times.f64)
    assert got.nbytes == want.nbytes


def _grown(engine: Engine, frames: np.ndarray, at: list[int], **options) -> Session:
    session = Session(engine, AskOptions(**options))
    for first, last in pairwise(at):
        assert session.append(frames[first:last]) == last - first
    return session


@pytest.mark.parametrize("told", PROCESSORS)
@pytest.mark.parametrize("name", STREAMING)
@settings(max_examples=1)
@given(at=cuts, seed=st.integers(0, 2))
@example(at=[0, 1, 5, 9, LONG], seed=0)
def test_law_appended_in_any_pieces_is_encoded_at_once(name, told, at, seed):
    video = noise(LONG, seed=seed)
    engine = Engine(ENGINES[name].model, PROCESSORS[told], clip_frames=3, threads=1)
    session = _grown(engine, video, at)
    _same(engine, session.encoded, engine.encode(video))


@settings(max_examples=3)
@given(at=cuts, data=st.data())
def test_law_frames_with_times_are_a_source_with_those_times(at, data):
    gaps = data.draw(st.lists(st.integers(1, 40), min_size=LONG - 1, max_size=LONG - 1))
    times, video = np.cumsum([0, *gaps]) / 20, noise(LONG)
    engine = ENGINES["transv"]
    session = engine.session()
    for first, last in pairwise(at):
        session.append(video[first:last], times=times[first:last])
    plan = engine.processor.plan_question("?", video=VideoPart(source="video"))
    source = ArraySource(video, times)
    clips = engine.encoder.clips(source, Sampling(source.frame_times))
    *_, want = engine.encoder.extend(engine.encoder.encode_nothing(plan), plan, clips, total=LONG)
    close("scores", got=_scores(engine, session.encoded), want=_scores(engine, want), tol=1e-10)
    assert session.encoded.times.tolist() == times.tolist()
    close("length", got=session.seconds, want=source.info.duration_seconds, tol=TOL.times.f64)


@settings(max_examples=3)
@given(
    lengths=st.lists(st.integers(1, 37), min_size=1, max_size=4), rate=st.sampled_from([1, 3, 7])
)
def test_law_files_of_any_length_lie_on_one_grid_of_moments(lengths, rate):
    # Ten frames a second: most pieces end between two moments at which the model looks.
    video = noise(sum(lengths))
    edges = np.cumsum([0, *lengths])
    engine = ENGINES["transv"]
    session = engine.session(AskOptions(fps=rate))
    for first, last in pairwise(edges.tolist()):
        session.append(ArraySource(video[first:last], np.arange(last - first) / 10))
        # A single frame knows no rate: its source shows it for a second.
        if last - first == 1:
            return
    whole = ArraySource(video, np.arange(len(video)) / 10)
    _same(engine, session.encoded, engine.encode(whole, AskOptions(fps=rate)))


@pytest.mark.parametrize("name", STREAMING)
@settings(max_examples=1)
@given(at=cuts, back=st.integers(0, LONG), other=st.integers(1, 6))
@example(at=[0, 4, 8, LONG], back=5, other=2)
def test_law_after_going_back_the_later_part_never_came(name, at, back, other):
    engine, video, later = ENGINES[name], noise(LONG), noise(other, seed=9)
    session = _grown(engine, video, at)
    before = session.encoded
    left = session.rewind(back)
    assert left == session.seconds <= LONG - back
    assert session.frames == left
    session.append(later)
    truth = np.concatenate([video[: int(left)], later])
    _same(engine, session.encoded, engine.encode(truth))
    # Neither the earlier value nor what follows on both sides is disturbed.
    _same(engine, before, engine.encode(video))


@pytest.mark.parametrize("name", STREAMING)
def test_law_forks_do_not_disturb_each_other(name):
    engine, video = ENGINES[name], noise(8)
    ends = [noise(5, seed=5), noise(7, seed=7)]
    session = _grown(engine, video, [0, 5, 8])
    twins = [session, session.fork()]
    for start in (0, 3):
        for twin, end in zip(twins, ends, strict=True):
            twin.append(end[start : start + 3 if start == 0 else None])
    for twin, end in zip(twins, ends, strict=True):
        _same(engine, twin.encoded, engine.encode(np.concatenate([video, end])))
    twins[1].rewind(6)
    twins[1].close()
    _same(engine, session.encoded, engine.encode(np.concatenate([video, ends[0]])))


@pytest.mark.parametrize("name", STREAMING)
def test_law_questions_leave_no_trace(name):
    engine, video = ENGINES[name], noise(LONG)
    session, brief = Session(engine), AskOptions(max_new_tokens=3)
    for first, last in pairwise([0, 1, 6, LONG]):
        session.append(video[first:last])
        asked = session.ask_many([QUESTION, "What?"], brief)
        alone = [engine.ask(video[:last], q, brief).text for q in (QUESTION, "What?")]
        assert [answer.text for answer in asked] == alone
    _same(engine, session.encoded, engine.encode(video))


@pytest.mark.parametrize("name", STREAMING)
def test_law_kept_turns_are_one_run_over_the_conversation(name, tmp_path):
    engine, video = ENGINES[name], noise(6, side=32)
    first = write_video(tmp_path / "first.mp4", video[:4])
    whole = write_video(tmp_path / "whole.mp4", video[:4])
    session = engine.session(AskOptions(max_new_tokens=6))
    session.append(first)
    told = session.ask(QUESTION, keep=True).text
    loose = session.ask("Which?").text
    again = session.ask("And the wolf?", keep=True).text
    assert [turn.question for turn in session.turns] == [QUESTION, "And the wolf?"]

    def talk(*words: str) -> list[dict[str, object]]:
        shown = {"type": "video", "video": str(whole)}
        rest = [{"type": "text", "text": words[0]}]
        turns: list[dict[str, object]] = [{"role": "user", "content": [shown, *rest]}]
        for number, text in enumerate(words[1:]):
            turns.append({"role": "user" if number % 2 else "assistant", "content": text})
        return turns

    talks = [talk(QUESTION), talk(QUESTION, told, "Which?"), talk(QUESTION, told, "And the wolf?")]
    want = engine.generate(talks, SHORT)
    assert [told, loose, again] == [answer.text for answer in want]


@pytest.mark.parametrize("name", STREAMING)
@settings(max_examples=1)
@given(stop=st.integers(0, 4), keep=st.integers(0, 6))
@example(stop=1, keep=3)
def test_law_what_was_read_before_a_stop_is_read_once_and_stays(name, stop, keep):
    engine, video = ENGINES[name], noise(LONG)
    session = Session(engine)
    if keep:
        session.append(video[:keep])
    calls = iter(range(100))
    with pytest.raises(CancelledError):
        session.append(
            video[keep:],
            watch=Watch(cancel=lambda: next(calls) == min(stop, (LONG - keep - 1) // 4)),
        )
    read = session.frames
    assert keep <= read < LONG
    assert session.seconds == read
    if read:
        _same(engine, session.encoded, engine.encode(video[:read]))
    session.append(video[read:])
    _same(engine, session.encoded, engine.encode(video))


@pytest.mark.parametrize("name", STREAMING)
def test_law_a_video_taken_up_again_goes_on(name):
    engine, video = ENGINES[name], noise(LONG)
    for rate in (1.0, 0.5):
        options = AskOptions(fps=rate)
        session = Session.of(engine, engine.encode(video[:8], options))
        assert session.fps == rate
        session.append(video[8:])
        _same(engine, session.encoded, engine.encode(video, options))


def test_law_a_file_goes_on_where_the_camera_stopped(tmp_path: Path):
    engine, video = ENGINES["transv"], noise(10, side=32)
    film = write_video(tmp_path / "film.mp4", video)
    session = engine.session()
    session.append(film)
    session.append(film)
    frames, times = session.frames, session.encoded.times
    assert frames == 20
    assert times.tolist() == list(range(20))
