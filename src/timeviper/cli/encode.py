"""`timeviper encode`: read a video once and keep what the model remembers of it as a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from timeviper.cli.following import following
from timeviper.cli.looking import (
    CACHE_GB,
    AsJson,
    Cache,
    CacheGb,
    Degrading,
    Device,
    End,
    Fps,
    Looking,
    MaxFrames,
    Model,
    NoTransv,
    NumFrames,
    PrecisionName,
    Start,
    engine_loader,
    open_store,
)
from timeviper.cli.sizes import size
from timeviper.cli.terminal import messages, print_json, print_note, results
from timeviper.core.errors import RequestError
from timeviper.inference.degrade import Degrade
from timeviper.inference.files.sealed import SUFFIX, is_state_file
from timeviper.processing.timestamps import format_time

if TYPE_CHECKING:
    from timeviper.inference.engine import AskOptions, EncodedVideo, Engine
    from timeviper.inference.files.compress import Compress
    from timeviper.inference.state_info import Thumbnail
    from timeviper.inference.store import Store
    from timeviper.video.base import VideoSource

_FORMATS = ("none", "bf16", "fp8")
# Twelve pictures of 72 rows; a JPEG of that size never takes as much.
_PICTURES_BYTES = 12 * 2**16


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """What is to be made of a video."""

    source: VideoSource
    options: AskOptions
    out: Path | None
    compress: Compress
    pictures: bool


def encode(  # noqa: PLR0913
    video: Annotated[Path, typer.Argument(help="A video file, or a folder of pictures.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help=f"The file to write, such as film{SUFFIX}.")
    ] = None,
    model: Model = "tiny",
    thumbnails: Annotated[
        bool, typer.Option(help="Store twelve small pictures of the video as well.")
    ] = False,
    compress: Annotated[
        str,
        typer.Option(
            help="none: answers stay the same to the last bit. bf16: half of float32. "
            "fp8: keys and values in eight bits, a little less exact."
        ),
    ] = "none",
    fps: Fps = None,
    num_frames: NumFrames = None,
    max_frames: MaxFrames = None,
    start: Start = None,
    end: End = None,
    device: Device = None,
    precision: PrecisionName = None,
    degrade: Degrading = Degrade.SAME_ANSWERS,
    no_transv: NoTransv = False,
    cache: Cache = None,
    cache_gb: CacheGb = CACHE_GB,
    as_json: AsJson = False,
) -> None:
    """Read a video once, to ask it any number of questions later.

    The file holds what the model remembers, not the video. Ask it with
    `timeviper ask FILE.tvstate "…"`, look into it with `timeviper info FILE.tvstate`.
    """
    # Wishes and files first: what is wrong with them shows before torch and a model are loaded.
    looking = Looking.parse(
        fps=fps, num_frames=num_frames, max_frames=max_frames, start=start, end=end
    )
    load = engine_loader(
        model, device=device, precision=precision, degrade=degrade, transv=not no_transv
    )
    _check_out(video, out, cache)
    if compress not in _FORMATS:
        raise RequestError(
            want=f"--compress {', '.join(_FORMATS)}", got=repr(compress), do="name one of them"
        )
    from timeviper.video.source import open_video

    source = open_video(video)
    store = open_store(cache, cache_gb)
    from timeviper.inference.files.compress import Compress

    wish = _Wish(
        source=source,
        options=looking.options(),
        out=out,
        compress=Compress(compress),
        pictures=thumbnails,
    )
    engine = load()
    record = _run(engine, wish, store, video.name)
    if as_json:
        print_json(record)
    else:
        _show(record, video.name)


def _run(engine: Engine, wish: _Wish, store: Store | None, name: str) -> dict[str, Any]:
    from timeviper.inference.files.whole_file import whole_file
    from timeviper.inference.state_file import SaveOptions, write_state
    from timeviper.inference.viewing import forecast_bytes, view

    if wish.out is None:
        encoded, found = _encoded(engine, wish, store, name)
        return _record(wish, encoded, found)
    viewing = view(wish.source, engine.encoder, wish.options)
    forecast = forecast_bytes(viewing, engine.encoder, wish.compress)
    forecast += _PICTURES_BYTES * wish.pictures
    _tell(f"about {size(forecast)} for {viewing.frames:,} frames, set aside at {wish.out}")
    # The room is taken before the first frame is read: a disk that fills meanwhile loses nothing.
    with whole_file(wish.out, room=forecast) as file:
        encoded, found = _encoded(engine, wish, store, name)
        pictures = _pictures(wish, encoded)
        how = SaveOptions(compress=wish.compress, thumbnails=pictures, source=name)
        # Of the model as it was read by: dropping may have been switched on to make it fit.
        write_state(file, encoded, engine.gate.reader_of(encoded.state), how)
        written = file.tell()
    record = _record(wish, encoded, found)
    return {"file": str(wish.out), "bytes": written, "forecast_bytes": forecast} | record


def _encoded(
    engine: Engine, wish: _Wish, store: Store | None, name: str
) -> tuple[EncodedVideo, bool]:
    with following(f"reading {name}") as watch:
        if store is None:
            return engine.encode(wish.source, wish.options, watch=watch), False
        fetched = store.encode(engine, wish.source, wish.options, watch=watch)
        return fetched.encoded, fetched.found


def _pictures(wish: _Wish, encoded: EncodedVideo) -> tuple[Thumbnail, ...]:
    if not wish.pictures:
        return ()
    from timeviper.inference.thumbnails import thumbnails

    first = wish.options.start or 0.0
    last = min(wish.options.end or encoded.duration_seconds, encoded.duration_seconds)
    return thumbnails(wish.source, start=first, end=last)


def _record(wish: _Wish, encoded: EncodedVideo, found: bool) -> dict[str, Any]:
    return {
        "frames": encoded.frames,
        "duration_seconds": encoded.duration_seconds,
        "tokens": encoded.tokens,
        "state_bytes": encoded.nbytes,
        "compress": wish.compress.value,
        "pixels": encoded.pixels,
        "from_cache": found,
        "timing": encoded.timing.to_dict(),
        "notes": list(encoded.notes),
    }


def _check_out(video: Path, out: Path | None, cache: Path | None) -> None:
    if out is None:
        if cache is None:
            raise RequestError(
                want="a file to write", got="neither -o nor --cache", do=f"add -o film{SUFFIX}"
            )
        return
    if is_state_file(video):
        raise RequestError(
            want="a video",
            got=f"{video}, a video that is encoded already",
            do=f'ask it: timeviper ask {video} "…"',
        )
    if os.path.isfile(out) and os.path.getsize(out) and not is_state_file(out):
        raise RequestError(
            want="a new file, or a state file to replace",
            got=f"{out}, which is something else",
            do="name another file with -o",
        )


def _tell(words: str) -> None:
    messages().print(Text(words, style="dim"), soft_wrap=True)


def _show(record: dict[str, Any], name: str) -> None:
    seen = f"{record['frames']:,} frames of {format_time(record['duration_seconds'])}"
    spent = sum(record["timing"].values())
    how = "taken from the cache" if record["from_cache"] else f"read in {spent:.1f} s"
    if "file" in record:
        results().print(Text(str(record["file"]), style="bold"), soft_wrap=True)
        how += f" · {size(record['bytes'])}"
    _tell(f"{name}: {seen} · {how}")
    for note in record["notes"]:
        print_note(note)
