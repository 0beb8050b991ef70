"""What may be changed so that a video fits, in the order in which it is tried. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from timeviper.inference.degrade import Degrade
from timeviper.inference.planning.advice import LEAST_CHUNK, Load, with_plan
from timeviper.model.config import TransferPlan

_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One way to read a video.

    Args:
        load: what it asks of the model.
        chunked: whether its chunks are smaller than wished.
        dropping: whether tokens are dropped although that was switched off.
        keys_in_host: whether long keys and values lie in host memory.
    """

    load: Load
    chunked: bool = False
    dropping: bool = False
    keys_in_host: bool = False


def rungs(
    load: Load, *, degrade: Degrade, dropping: TransferPlan | None, host: bool
) -> Iterator[Rung]:
    """Ways to read a video, the dearest in memory and the best otherwise first.

    Args:
        load: as wished.
        degrade: what may be changed.
        dropping: sites that the model has and that are switched off, if any.
        host: whether there is a host whose memory is another than the device's.

    Yields:
        As it is; then with smaller chunks; with dropped tokens; with keys in host memory; with
        both; the last three also with smaller chunks.
    """
    yield Rung(load=load)
    if degrade is Degrade.NO:
        return
    yield from _smaller(Rung(load=load))
    found: list[Rung] = []
    if degrade is Degrade.ANY and dropping is not None and dropping.sites:
        found.append(Rung(load=with_plan(load, dropping), dropping=True))
    if host:
        found += [
            replace(rung, load=in_host(rung.load), keys_in_host=True)
            for rung in (Rung(load=load), *found)
        ]
    for rung in found:
        yield rung
        yield from _smaller(rung)


def in_host(load: Load) -> Load:
    """The same load with its long keys and values in host memory.

    Args:
        load: what is asked.
    """
    return replace(load, setting=replace(load.setting, keys_in_host=True))


def sentences(rung: Rung, first: Load, there: int) -> tuple[str, ...]:
    """What has to be said about a change, a line each.

    Args:
        rung: how the video is read.
        first: how it was to be read.
        there: bytes for it, beside the weights.

    Returns:
        Nothing for a video that is read as it is.
    """
    told = rung.load.forecast
    room = f"to fit into the {there / _GIB:.2f} GiB that are free"
    found: list[str] = []
    if rung.chunked:
        found.append(
            f"read in chunks of {rung.load.chunk:,} tokens instead of {first.chunk:,}, {room}: "
            "slower, and the same answers"
        )
    if rung.dropping:
        saved = first.forecast.held.total - with_plan(first, _plan(rung)).forecast.held.total
        found.append(
            f"tokens are dropped (TransV) as the model was trained to, which saves "
            f"{saved / _GIB:.2f} GiB, {room}: faster, and other answers"
        )
    if rung.keys_in_host:
        found.append(
            f"{told.host_bytes / _GIB:.2f} GiB of keys and values lie in host memory, {room}: "
            "slower, and the same answers"
        )
    return tuple(found)


def _plan(rung: Rung) -> TransferPlan:
    return rung.load.config.decoder.transfer


def _smaller(rung: Rung) -> Iterator[Rung]:
    """The same with ever smaller chunks, and batches of frames that are no larger."""
    chunk = rung.load.chunk
    while chunk // 2 >= LEAST_CHUNK:
        chunk //= 2
        frames = max(1, chunk // rung.load.config.tokens_per_frame)
        known = rung.load.setting.batch_frames
        batch = frames if known is None else min(frames, known)
        load = replace(rung.load, chunk=chunk).by(batch_frames=batch)
        yield replace(rung, load=load, chunked=True)
