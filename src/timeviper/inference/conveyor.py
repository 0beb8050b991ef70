"""Carry decoded frames to the tower's device while it works: bytes, in slots that are reused."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import final

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from timeviper.video.base import Pixels
from timeviper.video.clips import Clip
from timeviper.video.fingerprint import PixelChain

# One that is looked at, one that travels, one that is filled.
SLOTS = 3


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Frames at the tower's device; valid until the next one is asked for.

    Args:
        frames: bytes of the frames.
        asked: float64 (frame,) the moments that were asked for.
        notes: sentences for the user.
        pixels: hash of all frames up to the last one here; see `PixelChain`.
    """

    frames: UInt8[Tensor, "frame size size 3"]
    asked: NDArray[np.float64]
    notes: tuple[str, ...]
    pixels: str


@dataclass
class _Load:
    """What one slot carries."""

    slot: _Slot
    asked: list[NDArray[np.float64]] = field(default_factory=list[NDArray[np.float64]])
    notes: tuple[str, ...] = ()
    pixels: str = ""
    count: int = 0


@final
class _Slot:
    """Room for one batch here and, where the device is another, there.

    Args:
        shape: frames and their sides.
        device: of the tower.
        stream: copies for a GPU, beside its work.
    """

    def __init__(
        self, shape: tuple[int, ...], device: torch.device, stream: torch.cuda.Stream | None
    ) -> None:
        self._stream, self._device = stream, device
        # The hardware copies on its own only from memory that cannot be swapped out.
        self.here = torch.empty(shape, dtype=torch.uint8, pin_memory=stream is not None)
        self._there = self.here if stream is None else self.here.to(device)
        self._copied = None if stream is None else torch.cuda.Event()
        self._used = None if stream is None else torch.cuda.Event()

    def ready(self) -> None:
        """Wait until what was here before has left."""
        if self._copied is not None:
            self._copied.synchronize()

    def send(self, count: int) -> None:
        """Begin to copy the first frames to the device, after the tower is done with the last."""
        if self._stream is None or self._copied is None or self._used is None:
            return
        self._stream.wait_event(self._used)
        with torch.cuda.stream(self._stream):
            self._there[:count].copy_(self.here[:count], non_blocking=True)
            self._copied.record(self._stream)

    def arrived(self, count: int) -> Tensor:
        """The frames; work of the current stream that follows waits for them."""
        if self._copied is not None:
            torch.cuda.current_stream(self._device).wait_event(self._copied)
        return self._there[:count]

    def release(self) -> None:
        """Work that was given to the current stream so far is the last that reads the frames."""
        if self._used is not None:
            self._used.record(torch.cuda.current_stream(self._device))


@final
class Conveyor:
    """A thread that takes clips, packs their frames into batches and sends them off.

    Args:
        clips: taken one by one, only in the conveyor's thread.
        squares: makes frames the tower's size, as bytes.
        side: that size, in pixels.
        batch_frames: frames of a batch; the last one may hold fewer.
        device: where the tower is.
        chain: continued by every frame.

    Law: the batches hold the frames of the clips in order, whatever the sizes of both.
    """

    def __init__(
        self,
        clips: Iterator[Clip],
        squares: Callable[[Pixels], UInt8[Tensor, "frame size size 3"]],
        *,
        side: int,
        batch_frames: int,
        device: torch.device,
        chain: PixelChain,
    ) -> None:
        self._clips, self._squares, self._chain = clips, squares, chain
        self._batch = batch_frames
        self._shape, self._device = (batch_frames, side, side, 3), device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._free: SimpleQueue[_Slot | None] = SimpleQueue()
        self._sent: SimpleQueue[_Load | BaseException | None] = SimpleQueue()
        self._stopped = threading.Event()

    def batches(self) -> Generator[Batch, None, None]:
        """Frames at the device, in order; closing the generator ends the thread.

        Raises:
            Exception: whatever taking a clip or preparing it failed with, after what came before.
        """
        # Plain tensors, whatever mode the caller is in: another thread writes to them.
        with torch.inference_mode(mode=False):
            for _ in range(SLOTS):
                self._free.put(_Slot(self._shape, self._device, self._stream))
        # A daemon: an abandoned generator must not keep the interpreter from ending.
        thread = threading.Thread(target=self._work, name="timeviper-conveyor", daemon=True)
        thread.start()
        try:
            while (load := self._sent.get()) is not None:
                if isinstance(load, BaseException):
                    raise load
                yield Batch(
                    frames=load.slot.arrived(load.count),
                    asked=np.concatenate(load.asked),
                    notes=load.notes,
                    pixels=load.pixels,
                )
                load.slot.release()
                self._free.put(load.slot)
        finally:
            self._stopped.set()
            self._free.put(None)
            thread.join()
            if self._stream is not None:
                # A copy that nobody waits for must not outlive the memory that it writes to.
                self._stream.synchronize()

    def _work(self) -> None:
        try:
            self._pack()
            self._sent.put(None)
        # Whatever it is, the consumer raises it again.
        except BaseException as failure:
            self._sent.put(failure)

    def _pack(self) -> None:
        load: _Load | None = None
        for clip in self._clips:
            squares = self._squares(clip.frames)
            start, notes = 0, clip.notes
            while start < len(squares):
                load = load or self._next()
                if load is None:
                    return
                end = min(len(squares), start + self._batch - load.count)
                part = slice(start, end)
                load.slot.here[load.count : load.count + end - start].copy_(squares[part])
                self._chain.add(clip.frames[part])
                load.asked.append(clip.asked[part])
                load.notes, notes = load.notes + notes, ()
                load.count, load.pixels = load.count + end - start, self._chain.digest
                start = end
                if load.count == self._batch:
                    self._send(load)
                    load = None
            if self._stopped.is_set():
                return
        if load is not None:
            self._send(load)

    def _next(self) -> _Load | None:
        """An empty load, as soon as a slot is free; None when nobody wants it any more."""
        slot = self._free.get()
        if slot is None or self._stopped.is_set():
            return None
        slot.ready()
        return _Load(slot)

    def _send(self, load: _Load) -> None:
        load.slot.send(load.count)
        self._sent.put(load)
