"""Read a video into a decoder's state, a clip at a time, and open answers on what was read."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from timeviper.core.errors import CapacityError
from timeviper.core.layout import TokenLayout
from timeviper.inference.chunks import Chunks
from timeviper.inference.conveyor import Conveyor
from timeviper.inference.fitting import decode_size
from timeviper.inference.graphs import LookRunner
from timeviper.inference.identity import identify
from timeviper.inference.lookahead import one_thread_an_op, side_by_side
from timeviper.inference.opened import OpenAnswer
from timeviper.inference.seeing import Seen, gathered, seen_in_batches, seen_side_by_side
from timeviper.inference.state_info import Identity
from timeviper.inference.survival import SteadyReader, in_batches, with_room
from timeviper.inference.timing import Pacer, Stopwatch, Timing
from timeviper.inference.watch import SILENT, Stage, Watch
from timeviper.model.decoder import last_of_each
from timeviper.model.parts import Spread, in_turn
from timeviper.model.state import DecoderState, fork_each
from timeviper.model.tokens import Tokens
from timeviper.model.vlm import TimeViper
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.processor import Processor
from timeviper.processing.prompt import PromptPlan
from timeviper.video.base import VideoSource
from timeviper.video.clips import Clip, available_cores, iterate_clips
from timeviper.video.fingerprint import PixelChain
from timeviper.video.sampling import Sampling

# A model beyond this keeps every core busy with one clip.
_SMALL_MODEL_BYTES = 2**30


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedVideo:
    """A video as the model remembers it; any number of questions may be asked of it.

    Immutable: a question continues from a fork of the state and leaves it as it was.

    Args:
        state: what the decoder remembers of everything before the question.
        prefix: tokens that stand before the video.
        times: seconds of the frames that were seen, shape (frame,).
        duration_seconds: length of the video; 0 without one.
        tokens: tokens read so far.
        notes: sentences for the user: caps that bit, frames that could not be decoded.
        timing: what reading took.
        pixels: chain of hashes of the frames that were seen; see `PixelChain`.
    """

    state: DecoderState
    prefix: PromptTokens
    times: NDArray[np.float64]
    duration_seconds: float
    tokens: int
    notes: tuple[str, ...] = ()
    timing: Timing = field(default_factory=Timing)
    pixels: str = ""

    @property
    def frames(self) -> int:
        """Number of frames that were seen."""
        return len(self.times)

    @property
    def nbytes(self) -> int:
        """Bytes of the remembered state."""
        return self.state.nbytes


@final
class VideoEncoder:
    """Runs prompts through a model with memory that does not grow by frames, only by state.

    Args:
        model: in evaluation mode, on its device.
        processor: of the same model.
        chunks: how many frames are decoded, encoded and read together; as suits the device when
            not given.
        clip_frames: one number for all of `chunks`.
        workers: threads that decode; see `decoders` for what is taken when not given.
        keys_in_host: whether long keys and values lie in host memory, from where attention has
            them copied: less memory of the device, and slower.

    Law: the state depends neither on `chunks` nor on where keys lie, and a question on it is
    answered as by one run over the whole prompt.
    """

    def __init__(
        self,
        model: TimeViper,
        processor: Processor,
        *,
        chunks: Chunks | None = None,
        clip_frames: int | None = None,
        workers: int | None = None,
        keys_in_host: bool = False,
    ) -> None:
        self.model = model
        self.processor = processor
        self.workers = workers
        self.keys_in_host = keys_in_host
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        sizes = chunks or Chunks.of(model.config, self.device.type)
        self.chunks = sizes if clip_frames is None else sizes.even(clip_frames)
        size = sum(p.nbytes for p in model.parameters())
        # On a CPU such a model gains by clips side by side, not by cores inside an operation.
        self.is_small = self.device.type == "cpu" and size <= _SMALL_MODEL_BYTES
        self.looks = (workers or available_cores()) if self.is_small else 1

    @property
    def clip_frames(self) -> int:
        """Frames that are decoded together."""
        return self.chunks.clip_frames

    @cached_property
    def identity(self) -> Identity:
        """Which model this is; its weights are hashed once, when it is first asked for."""
        return identify(self.model, self.processor)

    def encode(
        self, source: VideoSource, plan: PromptPlan, sampling: Sampling, *, watch: Watch = SILENT
    ) -> EncodedVideo:
        """Read what stands before the question: the prefix and the frames at the chosen times.

        Args:
            source: an open video.
            plan: prompt of a conversation about it.
            sampling: moments to look at, with notes about the choice.
            watch: told after each chunk, and asked before each clip or batch whether to go on.

        Returns:
            The encoded video.

        Raises:
            CancelledError: `watch` asked to stop; the file is released.
            MediaError: nothing of the video can be decoded.
        """
        watch.tell(Stage.VIDEO, 0, len(sampling.times))
        encoded = self.encode_nothing(plan)
        notes = (*source.info.notes, *sampling.notes)
        with closing(self.clips(source, sampling)) as clips:
            grown = self.extend(encoded, plan, clips, total=len(sampling.times), watch=watch)
            with closing(grown):
                for further in grown:
                    encoded = further
        return replace(
            encoded,
            duration_seconds=source.info.duration_seconds,
            notes=(*notes, *encoded.notes),
        )

    def extend(
        self,
        encoded: EncodedVideo,
        plan: PromptPlan,
        clips: Iterator[Clip],
        *,
        total: int,
        watch: Watch = SILENT,
    ) -> Generator[EncodedVideo, None, None]:
        """Read on where an encoded video ends, a chunk at a time; nothing is read twice.

        Args:
            encoded: what was read so far; it stays as it is.
            plan: prompt that it was read with.
            clips: what follows; `asked` are seconds on the time line of the whole video.
            total: frames that they hold together.
            watch: told after each chunk, and asked before each clip or batch whether to go on.

        Yields:
            The video up to each chunk; its duration is left to the caller, who knows the source.

        Raises:
            CancelledError: `watch` asked to stop; what was given out before stays good.

        Law: extended chunk by chunk equals encoded at once.
        """
        clock, before, done = Pacer(self.device), encoded.timing, 0
        reader = SteadyReader(self.read, plan, self.device)
        with (
            one_thread_an_op(self.is_small),
            closing(self._seen(clips, PixelChain(encoded.pixels), total, clock)) as seen,
        ):
            watched = self._watched(seen, watch)
            for chunk in gathered(watched, self.chunks.chunk_frames):
                with clock.stage("prefill"):
                    state, tokens, said = reader.read(
                        chunk.asked, chunk.vision, encoded.frames, encoded.state
                    )
                    if done == 0:
                        state = self._with_room(state, encoded, total / len(chunk.asked))
                done += len(chunk.asked)
                clock.pace(last=done >= total)
                encoded = replace(
                    encoded,
                    state=state,
                    times=np.append(encoded.times, chunk.asked),
                    tokens=encoded.tokens + tokens,
                    notes=encoded.notes + chunk.notes + said,
                    timing=before + clock.timing,
                    pixels=chunk.pixels,
                )
                watch.tell(Stage.VIDEO, done, total)
                yield encoded

    def encode_nothing(self, plan: PromptPlan) -> EncodedVideo:
        """Read the prefix of a conversation without a video."""
        clock = Stopwatch(self.device)
        with clock.stage("prefill"):
            state = self.read(plan.prefix, None, None)
        return EncodedVideo(
            state=state,
            prefix=plan.prefix,
            times=np.zeros(0),
            duration_seconds=0.0,
            tokens=len(plan.prefix),
            timing=clock.timing,
        )

    def suffix(self, plan: PromptPlan, *, duration_seconds: float, num_frames: int) -> PromptTokens:
        """Tokens of the question.

        Raises:
            CapacityError: the words are more than the model's context.
        """
        suffix = plan.suffix(duration_seconds=duration_seconds, num_frames=num_frames)
        context = self.model.config.decoder.max_position_embeddings
        words = len(plan.prefix) + len(suffix)
        if words > context:
            raise CapacityError(
                want=f"at most {context} tokens of text, the context of this model",
                got=f"{words} tokens",
                do="ask a shorter question",
            )
        return suffix

    @torch.inference_mode()
    def look(
        self, frames: UInt8[Tensor, "frame size size 3"]
    ) -> Float[Tensor, "frame kept hidden"]:
        """Vision tokens of frames of the tower's size, a bounded number of them at a time."""
        return in_batches(self._see, frames, self.chunks.batch_frames, device=self.device)

    @torch.inference_mode()
    def _see(self, frames: Tensor) -> Tensor:
        pixels = self.processor.pixels_there(frames).to(self.device, self.dtype)
        return self.model.encode_frames(pixels)

    @torch.inference_mode()
    def read(
        self,
        tokens: PromptTokens,
        vision: Float[Tensor, "frame kept hidden"] | None,
        state: DecoderState | None,
    ) -> DecoderState:
        """Continue a state by tokens after which more of the same prompt follow."""
        return self._run([tokens], vision, state, more=True)[1]

    def open_answer(self, encoded: EncodedVideo, *suffixes: PromptTokens) -> OpenAnswer:
        """Read questions about one video in one pass; see `open_each`."""
        return self.open_each([(encoded, suffix) for suffix in suffixes])

    @torch.inference_mode()
    def open_each(self, asked: Sequence[tuple[EncodedVideo, PromptTokens]]) -> OpenAnswer:
        """Read questions from forks of what was encoded, all in one pass.

        Args:
            asked: each with its video, which stays as it is; its keys are shared, not copied.

        Law: each is read as it would be alone.
        """
        state, suffixes = fork_each([v.state for v, _ in asked]), [tokens for _, tokens in asked]
        with side_by_side(self.looks) as spread:
            out, state = self._run(suffixes, None, state, more=False, spread=spread)
        return OpenAnswer(logits=self.model.decoder.logits(last_of_each(out)), state=state)

    def context_notes(self, tokens: int) -> tuple[str, ...]:
        """What has to be said about a prompt of so many tokens."""
        context = self.model.config.decoder.max_position_embeddings
        if tokens <= context:
            return ()
        return (
            f"the prompt takes {tokens} tokens, this model knows prompts of up to {context}: "
            "answers may be worse; lower fps or max_frames",
        )

    @torch.inference_mode()
    def _with_room(self, state: DecoderState, before: EncodedVideo, times: float) -> DecoderState:
        """Room for the keys of all that comes: so many times what the first clip brought."""
        return with_room(
            state,
            times,
            since=before.state,
            fresh=not before.frames,
            keys_in_host=self.keys_in_host,
        )

    def _run(
        self,
        prompts: Sequence[PromptTokens],
        vision: Tensor | None,
        state: DecoderState | None,
        *,
        more: bool,
        spread: Spread = in_turn,
    ) -> tuple[Tokens, DecoderState]:
        layout = TokenLayout.pack([tokens.layout for tokens in prompts])
        ids = PromptTokens.join(prompts).ids
        # Not waited for: a GPU still works on what came before.
        ids_there = torch.from_numpy(ids).to(self.device, non_blocking=True)
        x = self.model.embed(ids_there, vision, layout)
        tokens = Tokens.of(x, layout)
        return self.model.decoder.run(tokens, state, more=more, only_last=True, spread=spread)

    def _seen(
        self, clips: Iterator[Clip], chain: PixelChain, total: int, clock: Pacer
    ) -> Generator[Seen, None, None]:
        """Vision tokens of clips, made as suits the device."""
        squares = self.processor.squares
        if self.is_small:
            return seen_side_by_side(
                clips,
                lambda clip: self.look(squares(clip.frames)),
                chain,
                threads=self.looks,
                clock=clock,
            )
        most = min(total, self.chunks.batch_frames)
        conveyor = Conveyor(
            clips,
            squares,
            side=self.processor.image.size,
            batch_frames=most,
            device=self.device,
            chain=chain,
        )
        see = LookRunner(self._see, frames=most, device=self.device)
        return seen_in_batches(
            conveyor,
            lambda frames: in_batches(see, frames, most, device=self.device),
            clock=clock,
        )

    @staticmethod
    def _watched(seen: Iterator[Seen], watch: Watch) -> Iterator[Seen]:
        """The same, asking before each whether to go on."""
        while True:
            watch.check("reading the video")
            piece = next(seen, None)
            if piece is None:
                return
            yield piece

    def clips(self, source: VideoSource, sampling: Sampling) -> Generator[Clip, None, None]:
        """Clips of a source at the chosen moments, as the vision tower wants them.

        Raises:
            MediaError: while iterating, when nothing can be decoded.
        """
        return iterate_clips(
            source,
            sampling.times,
            size=decode_size(source.info, self.processor.image),
            clip_frames=self.chunks.clip_frames,
            workers=self.workers or decoders(self.device),
        )


def decoders(device: torch.device) -> int:
    """Threads that decode for a tower: one a core, but where a GPU wants to be told what to do."""
    cores = available_cores()
    return cores - cores // 8 if device.type == "cuda" else cores
