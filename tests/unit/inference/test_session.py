"""Sessions: what they refuse, what they tell, and what they let go."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from tests.toy_engine import noise, toy_engine, write_video
from timeviper.core.errors import CancelledError, CapacityError, MediaError, RequestError
from timeviper.inference.admission import Limits
from timeviper.inference.engine import Engine
from timeviper.inference.request import AskOptions
from timeviper.inference.session import Session
from timeviper.inference.watch import CancelToken, Progress, Stage, Watch
from timeviper.model.state import MambaMemory
from timeviper.video.still_sources import ArraySource

ENGINE = toy_engine("transv")
SHORT = AskOptions(max_new_tokens=4)


@pytest.fixture
def session() -> Session:
    return ENGINE.session(SHORT)


def test_a_new_session_holds_nothing_but_the_words_before_the_video(session: Session) -> None:
    assert (session.frames, session.seconds, session.turns, session.room) == (0, 0.0, (), None)
    assert session.fps == ENGINE.processor.config.fps
    assert session.clip_frames == 4
    with pytest.raises(RequestError, match="without a frame"):
        session.ask("What?")


def test_what_chooses_at_the_end_of_a_video_cannot_grow() -> None:
    with pytest.raises(RequestError, match="uniform_whole at layer 1"):
        toy_engine("whole").session()


@pytest.mark.parametrize(
    "options",
    [AskOptions(num_frames=4), AskOptions(start=1.0), AskOptions(end=9.0)],
)
def test_wishes_that_need_the_end_of_the_video_are_refused(options: AskOptions) -> None:
    with pytest.raises(RequestError, match="a video that grows"):
        ENGINE.session(options)


def test_fewer_than_two_snapshots_are_refused() -> None:
    with pytest.raises(RequestError, match="2 snapshots"):
        Session(ENGINE, snapshots=1)


def test_a_closed_session_says_so(session: Session) -> None:
    session.append(noise(3))
    kept = session.encoded
    with session as same:
        assert same is session
    session.close()
    for use in (
        lambda: session.append(noise(1)),
        lambda: session.ask("What?"),
        lambda: session.rewind(1),
        lambda: session.encoded,
        lambda: session.seconds,
    ):
        with pytest.raises(RequestError, match="closed"):
            use()
    # What was taken out before stays good, and can be gone on from.
    again = Session.of(ENGINE, kept)
    again.append(noise(2))
    assert again.frames == 5


def test_memory_returns_when_a_session_closes_or_goes_back(session: Session) -> None:
    session.append(noise(4))
    session.append(noise(4))

    def newest() -> weakref.ref[object]:
        states = session.encoded.state.memories
        return next(weakref.ref(m.ssm) for m in states if isinstance(m, MambaMemory))

    late = newest()
    session.rewind(4)
    early = newest()
    gc.collect()
    assert late() is None
    assert early() is not None
    session.close()
    gc.collect()
    assert early() is None


def test_a_session_is_full_at_max_frames_and_stays_usable() -> None:
    session = ENGINE.session(AskOptions(max_frames=6, max_new_tokens=3))
    session.append(noise(4))
    with pytest.raises(CapacityError, match="at most 6 frames"):
        session.append(noise(3))
    assert (session.frames, session.room) == (4, 2)
    assert session.append(noise(2)) == 2
    assert session.ask("What?").frames == 6


def test_what_would_not_fit_is_refused_before_it_is_read() -> None:
    weights = sum(p.nbytes for p in ENGINE.model.parameters())
    small = Engine(
        ENGINE.model,
        ENGINE.processor,
        clip_frames=4,
        limits=Limits(bytes=weights + 2_000_000, degrade=False),
    )
    session = small.session(SHORT)
    session.append(noise(40))
    before = session.encoded
    with pytest.raises(CapacityError, match="GiB beside the weights for 340 frames"):
        session.append(noise(300))
    assert session.encoded is before
    session.append(noise(3))
    assert session.ask("What?").frames == 43


def test_many_small_appends_leave_few_parts() -> None:
    session, at_once = ENGINE.session(), ENGINE.session()
    video = noise(24)
    for frame in video:
        session.append(frame[None])
    at_once.append(video)
    parts = [site.parked for site in session.encoded.state.pending if site is not None]
    assert max(len(parked) for parked in parts) <= 6
    assert session.encoded.nbytes == at_once.encoded.nbytes
    assert session.ask("What?", SHORT).text == at_once.ask("What?", SHORT).text


def test_times_must_follow(session: Session) -> None:
    session.append(noise(2), times=[0.5, 1.0])
    assert session.seconds == pytest.approx(1.5)
    for times in ([1.0, 2.0], [0.2, 3.0]):
        with pytest.raises(RequestError, match="behind the last frame, at 1 s"):
            session.append(noise(2), times=times)
    for times in ([2.0], [3.0, 2.0], [2.0, float("nan")], [[2.0, 3.0]]):
        with pytest.raises((MediaError, RequestError)):
            session.append(noise(2), times=times)
    assert session.frames == 2
    session.append(noise(1), times=[9.0], until=9.25)
    assert session.seconds == 9.25
    session.append(noise(1), times=[11.0], until=4.0)
    assert session.seconds == 11.0


def test_one_frame_lasts_as_long_as_the_rate_says() -> None:
    session = ENGINE.session(AskOptions(fps=4.0))
    session.append(noise(1), times=[2.0])
    assert session.seconds == pytest.approx(2.25)


def test_a_file_cannot_be_given_times(session: Session, tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", noise(2, side=32))
    with pytest.raises(RequestError, match="a file has its own"):
        session.append(path, times=[0.0, 1.0])
    with pytest.raises(MediaError):
        session.append(tmp_path / "none.mp4")
    assert session.append(path) == 2


def test_a_piece_between_two_moments_is_not_looked_at_but_counts(session: Session) -> None:
    session.append(ArraySource(noise(3), [0.0, 0.1, 0.2]))
    assert (session.frames, session.seconds) == (1, pytest.approx(0.3))
    assert session.append(ArraySource(noise(3, seed=2), [0.0, 0.1, 0.2])) == 0
    assert (session.frames, session.seconds) == (1, pytest.approx(0.6))


def test_progress_is_told_clip_by_clip(session: Session) -> None:
    heard: list[Progress] = []
    session.append(noise(6), watch=Watch(progress=heard.append))
    assert [(p.done, p.total) for p in heard if p.stage is Stage.VIDEO] == [(0, 6), (4, 6), (6, 6)]


def test_cancelling_an_answer_changes_nothing(session: Session) -> None:
    session.append(noise(3))
    before, switch = session.encoded, CancelToken()
    switch.cancel()
    with pytest.raises(CancelledError):
        session.ask("What?", keep=True, watch=Watch(cancel=switch))
    assert session.encoded is before
    assert session.turns == ()


def test_words_before_the_video_hold_for_the_session() -> None:
    told = AskOptions(system="Be brief.", max_new_tokens=4)
    session = ENGINE.session(told)
    session.append(noise(4))
    want = ENGINE.ask(noise(4), "What?", told).text
    assert session.ask("What?").text == want
    assert session.ask("What?", SHORT).text == want
    with pytest.raises(RequestError, match="words before the video"):
        Session.of(ENGINE, session.encoded)
    assert Session.of(ENGINE, session.encoded, told).ask("What?").text == want


def test_going_back_forgets_later_turns_and_has_a_limit(session: Session) -> None:
    session.append(noise(4))
    session.ask("One?", keep=True)
    session.append(noise(4, seed=1))
    session.ask("Two?", keep=True)
    assert [turn.seconds for turn in session.turns] == [4.0, 8.0]
    assert session.rewind(3.5) == 4.0
    assert [turn.question for turn in session.turns] == ["One?"]
    for seconds in (-1.0, 4.5, float("nan"), float("inf")):
        with pytest.raises(RequestError, match="0 to 4 seconds"):
            session.rewind(seconds)
    assert session.rewind(0) == 4.0
    assert session.rewind(4) == 0.0
    assert session.turns == ()
    opened = Session.of(ENGINE, ENGINE.encode(noise(5)))
    opened.append(noise(2))
    with pytest.raises(RequestError, match="0 to 2 seconds"):
        opened.rewind(3)
    assert opened.rewind(2) == 5.0


def test_an_empty_question_is_refused(session: Session) -> None:
    session.append(noise(2))
    with pytest.raises(RequestError, match="an empty one"):
        session.ask("  ")
    assert session.ask_many([]) == []


def test_bytes_are_told_and_bounded() -> None:
    few, many = (Session(ENGINE, snapshots=n) for n in (2, 8))
    for frame in noise(12):
        for session in (few, many):
            session.append(frame[None])
    assert few.encoded.nbytes == many.encoded.nbytes
    ssm = sum(m.nbytes for m in few._snapshots[0].memories if not isinstance(m, tuple) and m)
    assert few.nbytes == few.encoded.nbytes + ssm
    assert many.nbytes == many.encoded.nbytes + 7 * ssm


def test_notes_of_sources_are_kept(tmp_path: Path) -> None:
    path = write_video(tmp_path / "cut.mkv", noise(200, side=32))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    session = ENGINE.session(SHORT)
    session.append(path)
    assert any("damaged or cut off" in note for note in session.ask("What?").notes)
    session.rewind(session.seconds)
    session.append(noise(2))
    assert not any("damaged" in note for note in session.ask("What?").notes)


def test_the_rate_of_a_video_taken_up_again(tmp_path: Path) -> None:
    encoded = ENGINE.encode(noise(8), AskOptions(fps=0.5))
    assert Session.of(ENGINE, encoded).fps == 0.5
    assert Session.of(ENGINE, encoded, AskOptions(fps=2.0)).fps == 2.0
    one = ENGINE.encode(noise(1))
    assert Session.of(ENGINE, one).fps == ENGINE.processor.config.fps
    assert np.array_equal(one.times, [0.0])
