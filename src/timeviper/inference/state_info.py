"""What a state file says of itself, as strict JSON; reading it loads no model and no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from timeviper.core.config import from_dict, to_dict
from timeviper.core.errors import ConfigError
from timeviper.inference.files.sealed import Sealed, check_hashes, damaged, read_header, read_piece

# Raised whenever a file of before can no longer be read as it was meant.
VERSION = 1
# Name of the tensor that holds all pictures.
THUMBNAILS = "thumbnails"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Everything that decides what a state means, as hashes.

    Args:
        model: its name, for people; it is not compared.
        weights: of the numbers it computes with.
        config: of its sizes and of its transfer plan.
        processor: of tokenizer, chat template, time prompt and image preparation.
    """

    model: str
    weights: str
    config: str
    processor: str


@dataclass(frozen=True, kw_only=True)
class Spent:
    """Seconds that reading the video took, by stage, as in `Timing`."""

    decode: float = 0.0
    encode: float = 0.0
    prefill: float = 0.0
    answer: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """What one layer remembers.

    Args:
        kind: `attention`, `mamba` or `none`.
        lengths: keys of each sequence, of an attention layer.
    """

    kind: str
    lengths: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SiteInfo:
    """What waits at one transfer site.

    Args:
        seen: vision tokens that reached it, of each sequence.
        dropped: dropped tokens of each sequence; None while there are none.
        parked: tokens of each sequence that wait to be chosen among; None while there are none.
    """

    seen: tuple[int, ...]
    dropped: tuple[int, ...] | None = None
    parked: tuple[int, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class ThumbnailInfo:
    """One small picture.

    Args:
        seconds: when it is on screen.
        bytes: length of its JPEG.
    """

    seconds: float
    bytes: int


@dataclass(frozen=True, kw_only=True)
class StateInfo:
    """The header of a state file.

    Args:
        version: of the format.
        made_by: timeviper that wrote it.
        identity: of the model that read the video.
        source: name of the video's file, for people; it is not compared.
        pixels: chain of hashes of the frames that were read; see `PixelChain`.
        frames: frames that were read; their times are the tensor `times`.
        duration_seconds: length of the video.
        tokens: tokens read; those before the video are the tensors `prefix.ids`, `prefix.kinds`.
        dtype: number format that the model computed in.
        compress: how keys, values and parked tokens are stored.
        state_bytes: of the state in memory.
        layers: one a layer.
        sites: one a transfer site; None before anything reached it.
        notes: sentences for the user.
        timing: what reading took.
        thumbnails: pictures that lie behind one another in the tensor `thumbnails`.
    """

    version: int
    made_by: str
    identity: Identity
    source: str
    pixels: str
    frames: int
    duration_seconds: float
    tokens: int
    dtype: str
    compress: str
    state_bytes: int
    layers: tuple[LayerInfo, ...]
    sites: tuple[SiteInfo | None, ...]
    notes: tuple[str, ...] = ()
    timing: Spent = Spent()
    thumbnails: tuple[ThumbnailInfo, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, which `read_info` reads back."""
        return to_dict(self)


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """One small picture itself.

    Args:
        seconds: when it is on screen.
        jpeg: its bytes.
    """

    seconds: float
    jpeg: bytes


@dataclass(frozen=True, kw_only=True)
class StateHeader:
    """A state file's checked header.

    Args:
        info: what it says of itself.
        sealed: where its tensors lie.
    """

    info: StateInfo
    sealed: Sealed


def read_info(path: Path | str) -> StateHeader:
    """Read what a state file says of itself; cheap, whatever its size.

    Args:
        path: the file.

    Returns:
        Its header. Seal, length and version were checked, the tensors' bytes were not.

    Raises:
        StateFileError: no such file, not a state file, cut short, changed, or another version.
    """
    sealed = read_header(Path(path), version=VERSION)
    return StateHeader(info=_info(sealed.info, sealed.path), sealed=sealed)


def verify_file(path: Path | str) -> StateHeader:
    """Compare every byte of a state file with its hash; needs no model.

    Args:
        path: the file.

    Returns:
        Its header.

    Raises:
        StateFileError: as `read_info`, or a tensor that is not as it was written.
    """
    header = read_info(path)
    check_hashes(header.sealed)
    return header


def read_thumbnails(header: StateHeader) -> tuple[Thumbnail, ...]:
    """The small pictures of a state file.

    Args:
        header: of the file.

    Returns:
        In order of time; empty when none were asked for.

    Raises:
        StateFileError: they cannot be read.
    """
    if not header.info.thumbnails:
        return ()
    data = read_piece(header.sealed, THUMBNAILS)
    ends = accumulate(told.bytes for told in header.info.thumbnails)
    return tuple(
        Thumbnail(seconds=told.seconds, jpeg=data[end - told.bytes : end])
        for told, end in zip(header.info.thumbnails, ends, strict=True)
    )


def _info(values: Mapping[str, Any], path: Path) -> StateInfo:
    try:
        return from_dict(StateInfo, values)
    except ConfigError as error:
        raise damaged(path, f"a header with {error.got} where {error.want} should be") from None
