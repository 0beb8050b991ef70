"""When memory runs out after all: free, halve, try once more, and only then give up, in numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import TypeVar, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from timeviper.core.device import free_bytes, total_bytes
from timeviper.core.errors import CapacityError
from timeviper.model.keys import LEAST_IN_HOST, in_host
from timeviper.model.state import AttentionMemory, DecoderState, MambaMemory
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.prompt import PromptPlan

Result = TypeVar("Result")
_GIB = 2**30
# Room for a question and its answer behind the keys of a video.
_SPARE_KEYS = 1024
# What the driver says, also of page-locked memory of the host, and what matrix libraries say.
_OUT_OF_MEMORY = ("CUDA error: out of memory", "STATUS_ALLOC_FAILED")


@final
class SteadyReader:
    """Reads chunks of one video; after the first one that does not fit, all by halves.

    Args:
        read: continues a state by tokens and the vision tokens among them.
        plan: prompt of the video.
        device: that may run out of memory.
    """

    def __init__(
        self,
        read: Callable[[PromptTokens, Tensor, DecoderState], DecoderState],
        plan: PromptPlan,
        device: torch.device,
    ) -> None:
        self._read, self._plan, self._device = read, plan, device
        self._parts = 1

    def read(
        self, asked: NDArray[np.float64], vision: Tensor, first: int, state: DecoderState
    ) -> tuple[DecoderState, int, tuple[str, ...]]:
        """Continue a state by a chunk of frames.

        Args:
            asked: moments of the frames.
            vision: their vision tokens, shape (frame, kept, hidden).
            first: number of the first frame in the video.
            state: the last good one; it stays as it is, whatever happens.

        Returns:
            The state after the frames, tokens read, sentences for the user.

        Raises:
            CapacityError: half a chunk does not fit either.
        """
        rooms = _rooms(state)
        notes: tuple[str, ...] = ()
        found = self._parts_of(asked, vision, first, state)
        if found is None:
            # Nobody continues what failed: its room is free again.
            _give_back(rooms)
            release(self._device)
            notes = self._halve(first, len(asked))
            found = self._parts_of(asked, vision, first, state)
        if found is None:
            _give_back(rooms)
            release(self._device)
            raise out_of_memory(
                self._device,
                f"reading frames {first:,} to {first + len(asked):,} in {self._parts} parts",
                f"keep the first {first:,} frames, which are encoded, or choose fewer frames",
            )
        return (*found, notes)

    def _parts_of(
        self, asked: NDArray[np.float64], vision: Tensor, first: int, state: DecoderState
    ) -> tuple[DecoderState, int] | None:
        """State and tokens after all parts; None when memory ran out."""
        count, tokens = min(self._parts, len(asked)), 0
        edges = np.linspace(0, len(asked), count + 1).astype(int).tolist()
        try:
            for start, stop in pairwise(edges):
                # The moment asked for, not the frame's own: at 29.97 frames a second the frame on
                # screen at 5 s appeared at 4.97 s, and its mark would say 00:04.
                moments = asked[start:stop]
                marked = self._plan.clip_tokens(moments, first_frame_index=first + start)
                state = self._read(marked, vision[start:stop], state)
                tokens += len(marked)
        except RuntimeError as error:
            if not ran_out(error):
                raise
            return None
        return state, tokens

    def _halve(self, first: int, frames: int) -> tuple[str, ...]:
        self._parts *= 2
        return (
            f"memory ran out at frame {first:,}: from there on {frames} frames were read in "
            f"{self._parts} parts, which is slower and gives the same",
        )


def twice(
    work: Callable[[], Result],
    *,
    again: Callable[[], Result] | None = None,
    device: torch.device,
    doing: str,
    do: str,
) -> Result:
    """Do work; when memory runs out, free what is free and try once more.

    Args:
        work: leaves nothing behind when it fails.
        again: the second attempt, with less at a time; None for the same again.
        device: that may run out of memory.
        doing: what is being done, for the message.
        do: the next step that mends it.

    Returns:
        What one of the attempts returned.

    Raises:
        CapacityError: it did not fit either time.
    """
    # Outside of `except`: there, the error would keep alive what the failed attempt held.
    for attempt in (work, again or work):
        try:
            return attempt()
        except RuntimeError as error:
            if not ran_out(error):
                raise
        release(device)
    raise out_of_memory(device, doing, do)


def with_room(
    state: DecoderState, times: float, *, since: DecoderState, fresh: bool, keys_in_host: bool
) -> DecoderState:
    """A state with room for the keys of all that comes, so that none are copied while it grows.

    Args:
        state: after the first chunk.
        times: so many chunks will come, that one counted.
        since: before it.
        fresh: whether it was the first of the whole video.
        keys_in_host: whether long keys and values are to lie in host memory.

    Raises:
        CapacityError: there is no such room.
    """
    device = _device(state)
    away = keys_in_host and _long_ones(state, device)
    if times <= 1 and not fresh and not away:
        # One chunk more, as of a camera: a copy of everything each time would cost too much.
        return state
    room = in_host if keys_in_host else None
    work = partial(state.reserve, times, _SPARE_KEYS, since=since, room=room)
    doing = "the keys and values of the whole video"
    return twice(work, device=device, doing=doing, do="choose fewer frames")


def _device(state: DecoderState) -> torch.device:
    """Where a state is computed, wherever its keys lie."""
    found = [m.ssm for m in state.memories if isinstance(m, MambaMemory)]
    found += [m.k for m in state.memories if isinstance(m, AttentionMemory)]
    return found[0].device if found else torch.device("cpu")


def _long_ones(state: DecoderState, device: torch.device) -> bool:
    """Whether keys that should lie in host memory lie on the device."""
    known = [m for m in state.memories if isinstance(m, AttentionMemory)]
    return any(max(m.own) >= LEAST_IN_HOST and m.lies_on(device) for m in known)


def in_batches(
    see: Callable[[Tensor], Tensor], frames: Tensor, most: int, *, device: torch.device
) -> Tensor:
    """Vision tokens of frames, a batch at a time; by halves where a batch does not fit.

    Args:
        see: vision tokens of one batch.
        frames: shape (frame, ...).
        most: frames of a batch.
        device: that may run out of memory.

    Raises:
        CapacityError: half a batch does not fit either.
    """
    return twice(
        partial(_batches, see, frames, most),
        again=partial(_batches, see, frames, max(1, most // 2)),
        device=device,
        doing=f"the vision tower on {min(most, len(frames))} frames",
        do="free memory of the device",
    )


def _batches(see: Callable[[Tensor], Tensor], frames: Tensor, most: int) -> Tensor:
    found = [see(part) for part in frames.split(most)]
    return found[0] if len(found) == 1 else torch.cat(found)


def ran_out(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out: of the allocator, of a library, of the host."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _OUT_OF_MEMORY)


def release(device: torch.device) -> None:
    """Give what is not used back to the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()


def out_of_memory(device: torch.device, doing: str, do: str) -> CapacityError:
    """The error that tells how much there is.

    Args:
        device: that ran out of memory.
        doing: what was being done.
        do: the next step that mends it.
    """
    free, total = free_bytes(device) / _GIB, total_bytes(device) / _GIB
    held = ""
    if device.type == "cuda":
        held = f", {torch.cuda.memory_allocated(device) / _GIB:.2f} GiB hold tensors"
    return CapacityError(
        want=f"memory for {doing}",
        got=f"none left, twice ({free:.2f} GiB of {total:.2f} GiB are free{held})",
        do=f"{do}; `timeviper plan` tells what fits",
    )


def _rooms(state: DecoderState) -> Sequence[tuple[AttentionMemory, tuple[int, ...]]]:
    """Every buffer with what is used of it now."""
    found = [m for m in state.memories if isinstance(m, AttentionMemory)]
    found += [p.dropped for p in state.pending if p is not None and p.dropped is not None]
    return [(memory, memory.buffer.used) for memory in found]


def _give_back(rooms: Sequence[tuple[AttentionMemory, tuple[int, ...]]]) -> None:
    for memory, used in rooms:
        memory.buffer.used = used
