"""Encoded videos as files: saved whole or not at all, loaded by mapping, refused with a reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

import timeviper
from timeviper.core.device import free_bytes
from timeviper.core.errors import LayoutError
from timeviper.inference.files.compress import Compress
from timeviper.inference.files.sealed import check_hashes, damaged
from timeviper.inference.files.tensor_file import (
    Entry,
    entry_of,
    file_bytes,
    map_file,
    write_file,
)
from timeviper.inference.files.whole_file import whole_file
from timeviper.inference.identity import check_same
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.state_info import (
    THUMBNAILS,
    VERSION,
    Spent,
    StateInfo,
    Thumbnail,
    ThumbnailInfo,
    read_info,
)
from timeviper.inference.state_parts import StateReader, entries_of, layers_of, sites_of
from timeviper.inference.survival import twice
from timeviper.inference.timing import Timing
from timeviper.model.state import DecoderState
from timeviper.processing.clip_tokens import PromptTokens


@dataclass(frozen=True, kw_only=True)
class SaveOptions:
    """How an encoded video is stored.

    Args:
        compress: of keys, values and parked tokens; `NONE` answers as before to the last bit.
        thumbnails: small pictures to store beside it.
        source: name of the video, for people.
    """

    compress: Compress = Compress.NONE
    thumbnails: tuple[Thumbnail, ...] = ()
    source: str = ""


EXACT = SaveOptions()
# Bytes that a question and its answer may want beside a state.
_ROOM = 2**30
_IN_HOST = (
    "long keys and values lie in host memory, because the device has no room for them: slower, "
    "and the same answers"
)


def save_state(
    encoded: EncodedVideo, path: Path | str, encoder: VideoEncoder, options: SaveOptions = EXACT
) -> int:
    """Write an encoded video as a file, whole or not at all.

    Args:
        encoded: the video; stays as it is, also when the disk is full.
        path: where to; a file of that name is replaced at the end.
        encoder: that read it (`Engine.encoder`).
        options: how to store it.

    Returns:
        Bytes of the file.

    Raises:
        StateFileError: no room or no permission; nothing is left behind.

    Law: a question on what `load_state` gives is answered as on `encoded`, to the last bit unless
    it was compressed.
    """
    info, entries = _parts(encoded, encoder, options)
    size = file_bytes(info.to_json(), entries)
    with whole_file(Path(path), room=size) as file:
        write_file(file, info.to_json(), entries)
    return size


def state_bytes(encoded: EncodedVideo, encoder: VideoEncoder, options: SaveOptions = EXACT) -> int:
    """Bytes of the file that `save_state` would write."""
    info, entries = _parts(encoded, encoder, options)
    return file_bytes(info.to_json(), entries)


def write_state(
    file: BinaryIO, encoded: EncodedVideo, encoder: VideoEncoder, options: SaveOptions = EXACT
) -> None:
    """As `save_state`, into a file that `whole_file` gave.

    Raises:
        OSError: the disk does not take it; `whole_file` says so.
    """
    info, entries = _parts(encoded, encoder, options)
    write_file(file, info.to_json(), entries)


def load_state(path: Path | str, encoder: VideoEncoder, *, verify: bool = True) -> EncodedVideo:
    """Read an encoded video from a file.

    Args:
        path: as `save_state` wrote it.
        encoder: of the same model (`Engine.encoder`); device and number format may differ.
        verify: compare every byte with its hash. Without it only header and length are checked,
            and on a CPU a page is read when a question first needs it.

    Returns:
        The encoded video. On a CPU in the same number format its tensors are the file, mapped;
        they stay good when the file is replaced or removed.

    Raises:
        StateFileError: not a whole state file of this version, or of another model.
        CapacityError: it does not fit, with its long keys in host memory neither.
    """
    header = read_info(path)
    info = header.info
    check_same(info.identity, encoder.identity, path)
    if verify:
        check_hashes(header.sealed)
    tensors = map_file(header.sealed)
    try:
        state, said = _resident(info, tensors, encoder)
        return EncodedVideo(
            state=state,
            prefix=PromptTokens(_array(tensors, "prefix.ids"), _array(tensors, "prefix.kinds")),
            times=_array(tensors, "times"),
            duration_seconds=info.duration_seconds,
            tokens=info.tokens,
            notes=(*info.notes, *_notes(info, encoder), *said),
            timing=Timing(**asdict(info.timing)),
            pixels=info.pixels,
        )
    except (KeyError, LayoutError, RuntimeError) as error:
        raise damaged(header.sealed.path, f"tensors that do not fit its header: {error}") from None


def _resident(
    info: StateInfo, tensors: Mapping[str, Tensor], encoder: VideoEncoder
) -> tuple[DecoderState, tuple[str, ...]]:
    """The state where the model computes; its long keys in host memory where they do not fit."""
    device = encoder.device

    def read(*, keys_in_host: bool) -> tuple[DecoderState, tuple[str, ...]]:
        reader = StateReader(
            tensors=tensors, dtype=encoder.dtype, device=device, keys_in_host=keys_in_host
        )
        said = (_IN_HOST,) if keys_in_host else ()
        return reader.state(info.layers, info.sites), said

    away = partial(read, keys_in_host=True)
    # A CPU has no other memory; on a GPU questions and answers want room as well.
    full = device.type == "cuda" and info.state_bytes + _ROOM > free_bytes(device)
    first = away if full or encoder.keys_in_host else partial(read, keys_in_host=False)
    doing = f"the state of {info.frames:,} frames"
    return twice(first, again=away, device=device, doing=doing, do="free memory of the device")


def _parts(
    encoded: EncodedVideo, encoder: VideoEncoder, options: SaveOptions
) -> tuple[StateInfo, list[Entry]]:
    pictures = options.thumbnails
    info = StateInfo(
        version=VERSION,
        made_by=timeviper.__version__,
        identity=encoder.identity,
        source=options.source,
        pixels=encoded.pixels,
        frames=encoded.frames,
        duration_seconds=encoded.duration_seconds,
        tokens=encoded.tokens,
        dtype=str(encoder.dtype).removeprefix("torch."),
        compress=options.compress.value,
        state_bytes=encoded.nbytes,
        layers=layers_of(encoded.state),
        sites=sites_of(encoded.state),
        notes=encoded.notes,
        timing=Spent(**asdict(encoded.timing)),
        thumbnails=tuple(
            ThumbnailInfo(seconds=one.seconds, bytes=len(one.jpeg)) for one in pictures
        ),
    )
    entries = entries_of(encoded.state, options.compress)
    entries.append(_entry("times", encoded.times))
    entries.append(_entry("prefix.ids", encoded.prefix.ids))
    entries.append(_entry("prefix.kinds", encoded.prefix.kinds))
    if pictures:
        data = b"".join(one.jpeg for one in pictures)
        entries.append(_entry(THUMBNAILS, np.frombuffer(data, np.uint8)))
    return info, entries


def _entry(name: str, values: np.ndarray) -> Entry:
    # A copy: torch warns of arrays that may not be written to.
    return entry_of(name, torch.from_numpy(values.copy()))


def _array(tensors: Mapping[str, Tensor], name: str) -> np.ndarray:
    return tensors[name].numpy()


def _notes(info: StateInfo, encoder: VideoEncoder) -> Sequence[str]:
    now = str(encoder.dtype).removeprefix("torch.")
    notes: list[str] = []
    if info.dtype != now:
        notes.append(f"the video was encoded in {info.dtype} and is asked in {now}")
    if info.compress != Compress.NONE:
        notes.append(f"keys and values were stored in {info.compress}: scores differ a little")
    return notes
