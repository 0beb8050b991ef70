"""`timeviper watch`: questions that stand while a camera, a stream or a file plays."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from timeviper.cli.looking import Device, Fps, MaxFrames, Model, PrecisionName, parse_precision
from timeviper.cli.watch_screen import JsonScreen, Screen, TextScreen
from timeviper.core.errors import CancelledError, RequestError, TimeviperError
from timeviper.inference.files.sealed import SUFFIX, is_state_file
from timeviper.processing.timestamps import parse_times

if TYPE_CHECKING:
    from timeviper.inference.engine import Engine
    from timeviper.inference.session import Session
    from timeviper.inference.standing import Follower, FollowOptions
    from timeviper.inference.watch import CancelToken
    from timeviper.video.live import LiveOptions
    from timeviper.video.live_place import Place

# After these, memory that ran out among them, what was seen is kept before they are told.
_FAILURES = (TimeviperError, RuntimeError, MemoryError)
_WHEN_FULL = ("drop-oldest", "drop-newest", "wait")
Source = Annotated[
    str,
    typer.Argument(
        help="A camera (/dev/video0), an rtsp:// or http:// address, a named pipe, a video file, "
        "or - for what is piped in."
    ),
]
Questions = Annotated[
    list[str], typer.Option("--question", "-q", help="A question that stands; several may.")
]
Every = Annotated[str, typer.Option(help="Ask again after so much video: 10, 10s or 01:30.")]
Most = Annotated[
    str | None, typer.Option("--for", help="Stop after so much video: 60, 60s or 10:00.")
]
Save = Annotated[
    Path | None,
    typer.Option(help=f"Keep what was seen as a file, such as gate{SUFFIX}, also on Ctrl-C."),
]
Resume = Annotated[Path | None, typer.Option(help="Go on behind the video of such a file.")]
Buffer = Annotated[int, typer.Option(help="Most frames that wait for the model.")]
Full = Annotated[
    str | None,
    typer.Option(help="drop-oldest (what plays in real time), drop-newest, wait (files, pipes)."),
]
Lines = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What to follow and how; complete before a model is loaded."""

    place: Place
    follow: FollowOptions
    live: LiveOptions
    fps: float | None
    max_frames: int | None
    save: Path | None
    resume: Path | None


def watch(  # noqa: PLR0913
    source: Source,
    question: Questions = [],  # noqa: B006
    every: Every = "10s",
    fps: Fps = None,
    model: Model = "tiny",
    most: Most = None,
    max_frames: MaxFrames = None,
    save: Save = None,
    resume: Resume = None,
    buffer: Buffer = 64,
    when_full: Full = None,
    device: Device = None,
    precision: PrecisionName = None,
    as_json: Lines = False,
) -> None:
    """Answer standing questions while a video plays, and tell when an answer changes.

    Each frame is read once, and every question sees all that came so far.
    When the model is slower than a camera, frames are dropped and counted.
    A camera that goes away is called again, and the gap is told.
    Ctrl-C ends with a summary, a second one at once.

        timeviper watch /dev/video0 -q "How many people are there?" --every 5s

        timeviper watch rtsp://camera/1 -q "Is the gate open?" --json

        ffmpeg … -f mpegts - | timeviper watch - -q "What happens?"
    """
    # Wishes and source first: what is wrong with them shows before torch and a model are loaded.
    _check_files(save, resume)
    numbers = parse_precision(precision)
    pace, ends = _seconds("every", every), None if most is None else _seconds("for", most)
    from timeviper.video.live import LiveOptions, check_live
    from timeviper.video.live_place import find_place
    from timeviper.video.live_queue import WhenFull

    if when_full is not None and when_full not in _WHEN_FULL:
        raise RequestError(
            want=f"--when-full {', '.join(_WHEN_FULL)}", got=when_full, do="name one of them"
        )
    full = None if when_full is None else WhenFull(when_full)
    live = check_live(LiveOptions(fps=1.0 if fps is None else fps, capacity=buffer, when_full=full))
    place = find_place(source)
    from timeviper.inference.standing import FollowOptions

    wish = _Wish(
        place=place,
        follow=FollowOptions(questions=tuple(question), every=pace, most_seconds=ends),
        live=live,
        fps=fps,
        max_frames=max_frames,
        save=save,
        resume=resume,
    )
    from timeviper.inference.engine import Engine

    screen: Screen = JsonScreen() if as_json else TextScreen()
    _run(Engine.load(model, device=device, precision=numbers), wish, screen)


def _run(engine: Engine, wish: _Wish, screen: Screen) -> None:
    from dataclasses import replace

    from timeviper.inference.fitting import fitted
    from timeviper.inference.standing import Follower
    from timeviper.inference.watch import CancelToken, Watch
    from timeviper.video.live import LiveVideo

    token, failure = CancelToken(), None
    session = _session(engine, wish)
    image = engine.processor.image
    options = replace(wish.live, fps=session.fps)
    live = LiveVideo(wish.place, options, fit=lambda sides: fitted(sides, image))
    told = _Told()
    with _ended_by_signals(token), screen, live:
        try:
            info = live.open(token)
            if info is not None:
                screen.opened(wish.place.name, info)
                follower = Follower(session, live, wish.follow, Watch(cancel=token))
                _show(follower, session, screen, told)
        except _FAILURES as error:
            failure = error
        except BrokenPipeError:
            # Whoever read the lines has gone, such as `head`: nothing is left to say to them.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    interrupted = token() or isinstance(failure, CancelledError)
    if failure is not None and not interrupted and live.info is None:
        raise failure
    saved = None
    try:
        saved = _save(engine, session, wish)
    except TimeviperError as error:
        failure = error
    screen.ended(
        {
            "interrupted": interrupted,
            "seconds": round(session.seconds, 3),
            "frames": session.frames,
            "dropped": live.dropped,
            "changes": told.changes,
            "state_bytes": session.nbytes,
            "saved": None if saved is None else str(saved),
        }
    )
    if failure is not None and not isinstance(failure, CancelledError):
        raise failure
    if interrupted:
        raise KeyboardInterrupt


@dataclass
class _Told:
    """How many answers were told."""

    changes: int = 0


def _show(follower: Follower, session: Session, screen: Screen, told: _Told) -> None:
    from timeviper.inference.standing import Change, Note

    for event in follower.run():
        if isinstance(event, Change):
            told.changes += 1
            screen.changed(event)
        elif isinstance(event, Note):
            screen.noted(event.words, session.seconds)
        else:
            screen.status(event)


def _session(engine: Engine, wish: _Wish) -> Session:
    from timeviper.inference.engine import AskOptions
    from timeviper.inference.session import Session
    from timeviper.inference.state_file import load_state

    options = AskOptions(fps=wish.fps, max_frames=wish.max_frames)
    if wish.resume is None:
        return Session(engine, options)
    return Session.of(engine, load_state(wish.resume, engine.encoder), options)


def _save(engine: Engine, session: Session, wish: _Wish) -> Path | None:
    from timeviper.inference.state_file import SaveOptions, save_state

    if wish.save is None or session.frames == 0:
        return None
    save_state(session.encoded, wish.save, engine.encoder, SaveOptions(source=wish.place.name))
    return wish.save


@contextmanager
def _ended_by_signals(token: CancelToken) -> Generator[None, None, None]:
    """Let the first Ctrl-C (or SIGTERM) end the work where nothing is lost, the second at once."""

    def stop(number: int, _frame: FrameType | None) -> None:
        if token():
            raise KeyboardInterrupt
        token.cancel()

    kept = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _check_files(save: Path | None, resume: Path | None) -> None:
    if resume is not None and not is_state_file(resume):
        raise RequestError(
            want=f"a state file (*{SUFFIX}) for --resume",
            got=f"{resume}, which is none",
            do="make one with `timeviper encode` or `timeviper watch --save`",
        )
    if save is None:
        return
    if not save.absolute().parent.is_dir():
        raise RequestError(
            want="a folder that exists for --save",
            got=f"{save.parent}, which does not",
            do="make it, or name another file",
        )
    mine = os.path.isfile(save) and (not os.path.getsize(save) or is_state_file(save))
    if os.path.exists(save) and not mine:
        raise RequestError(
            want="a new file, or a state file to replace",
            got=f"{save}, which is something else",
            do="name another file with --save",
        )


def _seconds(name: str, text: str) -> float:
    times = parse_times(text)
    if len(times) != 1 or times[0] <= 0:
        raise RequestError(
            want=f"one time above 0 for --{name}", got=repr(text), do="write 10, 10s or 01:30"
        )
    return times[0]
