"""Real clips as haystacks: read from files, kept small, shown back and forth for ever."""

from __future__ import annotations

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
        most_frames: of each clip, evenly chosen.

    Raises:
        MediaError: a file that cannot be read as a video, or no files at all.
    """
    if not paths:
        raise MediaError(
            want="video files to use as haystacks", got="none", do="name a folder with clips"
        )
    clips = [_read(path, height, width, most_frames) for path in paths]
    edges = tuple(np.cumsum([0, *map(len, clips)]).tolist())
    return Footage(
        frames=torch.from_numpy(np.concatenate(clips)).permute(0, 3, 1, 2).contiguous(),
        edges=edges,
        names=tuple(path.stem for path in paths),
    )


def save_frames(footage: Footage, path: Path) -> None:
    """Write clips to an .npz file, for a machine without the videos."""
    np.savez(
        path,
        frames=footage.frames.cpu().numpy(),
        edges=np.asarray(footage.edges),
        names=np.asarray(footage.names),
    )


def load_frames(path: Path, device: torch.device | str = "cpu") -> Footage:
    """Read what `save_frames` wrote."""
    with np.load(path, allow_pickle=False) as found:
        frames, edges, names = (found[key] for key in ("frames", "edges", "names"))
    return Footage(
        frames=torch.from_numpy(frames).to(device),
        edges=tuple(edges.tolist()),
        names=tuple(str(name) for name in names),
    )


def _read(path: Path, height: int, width: int, most: int) -> NDArray[np.uint8]:
    try:
        with av.open(str(path)) as container:
            found = [
                frame.to_ndarray(format="rgb24", width=width, height=height)
                for frame in container.decode(video=0)
            ]
    except (OSError, IndexError) as error:
        raise MediaError(
            want=f"a video at {path}", got=error, do="name a file that plays"
        ) from error
    if not found:
        raise MediaError(want=f"frames in {path}", got="none", do="name a file that plays")
    step = max(1, -(-len(found) // most))
    return np.stack(found[::step])
