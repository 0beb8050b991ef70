"""Following a live video: when questions are asked, what is told, and when it ends."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tests.live_server import FPS, camera
from tests.live_server import film as film_bytes
from tests.toy_engine import noise, toy_engine, write_video
from timeviper.core.errors import CancelledError, RequestError
from timeviper.inference.request import AskOptions
from timeviper.inference.session import Session
from timeviper.inference.standing import Change, Event, Follower, FollowOptions, Note, Status
from timeviper.inference.watch import CancelToken, Watch
from timeviper.video.live import LiveOptions, LiveVideo
from timeviper.video.live_place import find_place

ENGINE = toy_engine("transv")
SHORT = AskOptions(max_new_tokens=4)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds at five frames a second."""
    return write_video(tmp_path_factory.mktemp("film") / "film.mp4", noise(60, side=16), fps=5)


def _followed(
    session: Session, place: Path | str, *, watch: Watch | None = None, fps: float = 1.0, **options
) -> list[Event]:
    follow = FollowOptions(asking=SHORT, **options)
    with LiveVideo(find_place(str(place)), LiveOptions(fps=fps)) as live:
        live.open()
        return list(Follower(session, live, follow, watch or Watch()).run())


def _changes(events: list[Event]) -> list[Change]:
    return [event for event in events if isinstance(event, Change)]


def test_law_answers_are_those_of_the_video_at_that_length(film: Path) -> None:
    session = ENGINE.session()
    events = _followed(session, film, questions=("What?", "When?"), every=5.0)
    told: dict[tuple[float, str], Change] = {(c.seconds, c.question): c for c in _changes(events)}
    before: dict[str, str] = {}
    for seconds in (5.0, 10.0, 12.0):
        cut = ENGINE.encode(film, AskOptions(end=seconds))
        for question in ("What?", "When?"):
            want = ENGINE.ask(cut, question, SHORT).text
            change = told.pop((seconds, question), None)
            if before.get(question) == want:
                assert change is None, "told although nothing changed"
            else:
                assert change is not None
                assert (change.answer.text, change.before) == (want, before.get(question))
            before[question] = want
    assert told == {}
    assert session.frames == 12
    assert session.seconds == 12.0


def test_a_file_at_once_and_followed_are_one_state(film: Path) -> None:
    session = ENGINE.session()
    events = _followed(session, film, every=3.0)
    whole = ENGINE.encode(film)
    assert session.encoded.pixels == whole.pixels
    assert session.encoded.tokens == whole.tokens
    assert session.ask("What?", SHORT).text == ENGINE.ask(whole, "What?", SHORT).text
    last = events[-1]
    assert isinstance(last, Status)
    assert (last.seconds, last.frames, last.dropped, last.waiting) == (12.0, 12, 0, 0)
    assert last.lag_seconds == 0
    assert last.nbytes == session.nbytes
    assert _changes(events) == []


def test_it_goes_on_behind_what_was_there(film: Path) -> None:
    session = ENGINE.session()
    session.append(film)
    _followed(session, film, every=5.0)
    assert session.encoded.times.tolist() == list(range(24))
    twice = ENGINE.session()
    twice.append(film)
    twice.append(film)
    assert session.encoded.pixels == twice.encoded.pixels


def test_it_stops_after_so_much_video(film: Path) -> None:
    session = ENGINE.session()
    _followed(session, film, every=4.0, most_seconds=6.0)
    assert session.seconds == 6.0


def test_a_full_session_ends_it_and_says_so(film: Path) -> None:
    session = ENGINE.session(AskOptions(max_frames=7))
    events = _followed(session, film, questions=("What?",), every=5.0)
    assert session.frames == 7
    assert Note("stopped at 7 frames (max_frames)") in events
    assert _changes(events)[-1].seconds in (5.0, 7.0)


def test_a_stop_keeps_what_was_read(film: Path) -> None:
    session, switch = ENGINE.session(), CancelToken()
    with LiveVideo(find_place(str(film))) as live:
        live.open()
        follower = Follower(session, live, FollowOptions(every=3.0), Watch(cancel=switch))
        events = follower.run()
        next(events)
        read = session.frames
        switch.cancel()
        with pytest.raises(CancelledError, match="following"):
            list(events)
    assert 0 < read == session.frames
    assert session.ask("What?", SHORT).frames == read


def test_a_camera_is_followed_as_it_plays() -> None:
    session = ENGINE.session(AskOptions(fps=5.0))
    with camera() as one:
        began = time.monotonic()
        events = _followed(
            session, one.address, fps=5.0, questions=("What?",), every=0.5, most_seconds=1.0
        )
        assert time.monotonic() - began < 15
    assert session.frames <= 5
    assert session.seconds >= 1.0
    assert _changes(events)[0].seconds >= 0.4
    assert max(e.lag_seconds for e in events if isinstance(e, Status)) < 10


def test_a_camera_that_is_gone_does_not_hold_up_the_end() -> None:
    session = ENGINE.session(AskOptions(fps=5.0))
    with camera() as one:
        threading.Timer(0.5, one.go).start()
        began = time.monotonic()
        _followed(session, one.address, fps=5.0, most_seconds=0.7)
        assert time.monotonic() - began < 10


def test_a_pipe_without_a_frame_yet_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    session = ENGINE.session()
    with LiveVideo(find_place(str(tmp_path / "pipe"))) as live:
        events = Follower(session, live, FollowOptions()).run()
        first = next(events)
    assert isinstance(first, Status)
    assert (first.frames, first.waiting, first.dropped) == (0, 0, 0)


def test_a_pipe_that_pauses_holds_up_nothing_that_came(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    data, session, switch = (
        list(film_bytes(lambda n: n / FPS, frames=60)),
        ENGINE.session(),
        CancelToken(),
    )
    with LiveVideo(find_place(str(tmp_path / "pipe"))) as live:
        writer = os.open(tmp_path / "pipe", os.O_RDWR)
        os.write(writer, b"".join(data))
        live.open()
        events = Follower(session, live, FollowOptions(), Watch(cancel=switch)).run()
        ends = time.monotonic() + 20
        while session.frames < 2:
            assert time.monotonic() < ends
            next(events)
        switch.cancel()
        with pytest.raises(CancelledError):
            list(events)
    os.close(writer)


@pytest.mark.parametrize(
    "options",
    [
        {"every": 0.0},
        {"every": float("inf")},
        {"most_seconds": -1.0},
        {"questions": ("What?", " ")},
    ],
)
def test_options_without_sense_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(RequestError):
        FollowOptions(**options)
