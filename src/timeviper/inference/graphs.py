"""Work of one shape on buffers that never move: on a GPU captured once, then replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from timeviper.model.decoder import Decoder
from timeviper.model.slots import StepSlots, most_own, prefixes
from timeviper.model.state import DecoderState
from timeviper.ops.step import best_token

# Own keys come in blocks, so that the next question finds room in the buffers of the last.
_BLOCK = 256


@final
class StepRunner:
    """Writes answers of a fixed number of sequences, one token of each a step.

    The first step runs as it is, which also compiles what needs compiling; the second is captured
    as a CUDA graph where there is one, and every later one replayed. On a CPU all run as they are.

    Args:
        decoder: of the model.
        slots: memories of `decoder.slots_for`, loaded before the first step.
        capture: whether to replay at all; without, a profiler sees every call.

    Law: scores are those of `Decoder.run` with one answer token a sequence.
    """

    def __init__(self, decoder: Decoder, slots: StepSlots, *, capture: bool = True) -> None:
        self.slots = slots
        self._captures = capture and slots.place.device.type == "cuda"
        self._decoder = decoder
        self._tokens = torch.zeros_like(slots.place)
        self._best = torch.zeros_like(slots.place)
        self._logits: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        # Pinned, so that a copy to it does not stop the host.
        self._there = torch.zeros(
            len(slots.place), dtype=torch.int64, pin_memory=self.device.type == "cuda"
        )

    @classmethod
    @torch.inference_mode()
    def of(
        cls,
        decoder: Decoder,
        states: Sequence[DecoderState],
        *,
        steps: int,
        capture: bool = True,
    ) -> StepRunner:
        """A runner that continues these states by so many tokens at most.

        Args:
            decoder: that made the states.
            states: nothing waits in them; they stay as they are, and lend their shared keys.
            steps: tokens of the longest answer.
            capture: whether to replay at all.
        """
        shared = prefixes(states)
        capacity = [_roomy(own + steps) for own in most_own(states)]
        sequences = sum(state.sequences or 0 for state in states)
        slots = decoder.slots_for(sequences, capacity=capacity, shared=shared)
        runner = cls(decoder, slots, capture=capture)
        runner.slots.load(states)
        return runner

    @property
    def device(self) -> torch.device:
        """Where the steps run."""
        return self._tokens.device

    @property
    def logits(self) -> Float[Tensor, "sequence vocab"]:
        """Scores after the newest step; the next step overwrites them."""
        if self._logits is None:
            raise RuntimeError("no step was taken yet")
        return self._logits

    @property
    def best(self) -> Tensor:
        """The best token of each sequence, -1 where scores are not finite; on the device."""
        return self._best

    @property
    def sequences(self) -> int:
        """Number of answers, those that ended counted."""
        return len(self._tokens)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers; what is shared belongs to others."""
        return self.slots.nbytes

    def fits(self, states: Sequence[DecoderState], *, steps: int) -> bool:
        """Whether `load` of these states leaves room for so many steps, in the same graph."""
        shared = prefixes(states)
        return self.slots.fits(
            sum(state.sequences or 0 for state in states),
            [own + steps for own in most_own(states)],
            shared,
        )

    @torch.inference_mode()
    def load(self, states: Sequence[DecoderState]) -> None:
        """Begin again from other states, which `fits`."""
        self.slots.load(states)

    @torch.inference_mode()
    def step(self, tokens: Sequence[int] | Tensor | None = None) -> None:
        """Take one token of each sequence; afterwards `logits` and `best` are the next one's.

        Args:
            tokens: the newest token of each sequence, where it is; None goes on with `best`.
        """
        found = self._best if tokens is None else tokens
        if isinstance(found, Tensor):
            # A sequence whose scores are no numbers has no best token; its reader will say so.
            self._tokens.copy_(found.clamp(min=0))
        else:
            self._tokens.copy_(torch.tensor(list(found)))
        if self._graph is None and self._logits is not None and self._captures:
            self._graph = record(self._run, self.device)
        if self._graph is None:
            self._run()
        else:
            self._graph.replay()

    @torch.inference_mode()
    def retire(self, rows: Sequence[int]) -> None:
        """Sequences that ended; they run along, but nobody reads their keys any more."""
        self.slots.retire(rows)

    def broken_layer(self) -> int | None:
        """The first layer that remembers a number that is not finite, if any does."""
        return self.slots.broken_layer()

    def read(self, ids: Tensor) -> Callable[[], list[int]]:
        """Fetch numbers while the device goes on.

        Args:
            ids: on the device, one a sequence.

        Returns:
            A function that waits for them.
        """
        if self.device.type != "cuda":
            return ids.clone().tolist
        there, done = self._there, torch.cuda.Event()
        there.copy_(ids, non_blocking=True)
        done.record()

        def wait() -> list[int]:
            done.synchronize()
            return there.tolist()

        return wait

    def _run(self) -> None:
        self._logits = self._decoder.step(self._tokens, self.slots)
        self._best.copy_(best_token(self._logits))


@final
class LookRunner:
    """Looks at batches of frames; those of one size are captured on a GPU, and replayed.

    Told kernel by kernel, a GPU waits for this thread while others decode on every core: an hour
    took 23 s of the tower instead of 14. The first batch runs as it is, which also compiles what
    needs compiling. What is captured keeps its memory until the runner is gone.

    Args:
        see: vision tokens of frames on the device; gives nothing to the host.
        frames: of a batch that is captured; every other number runs as it is.
        device: of the tower; a CPU captures nothing.

    Law: what it gives is what `see` gives, to the bit.
    """

    def __init__(
        self, see: Callable[[Tensor], Tensor], *, frames: int, device: torch.device
    ) -> None:
        self._see, self._count, self._device = see, frames, device
        self._is_warm = False
        self._frames: Tensor | None = None
        self._vision: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None

    @torch.inference_mode()
    def __call__(
        self, frames: UInt8[Tensor, "frame size size 3"]
    ) -> Float[Tensor, "frame kept hidden"]:
        """Vision tokens of some frames."""
        if self._device.type != "cuda" or len(frames) != self._count or not self._is_warm:
            self._is_warm |= len(frames) == self._count
            return self._see(frames)
        if self._graph is None or self._frames is None or self._vision is None:
            self._frames = frames.clone()
            self._graph = record(self._look, self._device)
        self._frames.copy_(frames)
        self._graph.replay()
        if self._vision is None:
            raise RuntimeError("what was captured gave nothing")
        return self._vision.clone()

    def _look(self) -> None:
        if self._frames is not None:
            self._vision = self._see(self._frames)


def record(work: Callable[[], None], device: torch.device) -> torch.cuda.CUDAGraph:
    """Capture work without doing it.

    Args:
        work: launches on the current stream; does not wait for the device.
        device: where.

    Returns:
        What replays it, on the memory that it used.
    """
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(device)
    torch.cuda.synchronize(device)
    # Other threads may go on copying frames meanwhile.
    with torch.cuda.stream(stream):
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            work()
        except BaseException:
            # What went wrong is told, and not that a recording cannot end well after it.
            with suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()
    torch.cuda.current_stream(device).wait_stream(stream)
    return graph


def _roomy(slots: int) -> int:
    return -(-slots // _BLOCK) * _BLOCK
