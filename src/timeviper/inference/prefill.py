"""Read a video into a decoder's state, a clip at a time, and open answers on what was read."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from timeviper.core.errors import CapacityError
from timeviper.core.layout import TokenLayout
from timeviper.inference.identity import identify
from timeviper.inference.lookahead import Lookahead, one_thread_an_op, side_by_side
from timeviper.inference.state_info import Identity
from timeviper.inference.timing import Stopwatch, Timing
from timeviper.inference.watch import SILENT, Stage, Watch
from timeviper.model.decoder import last_of_each
from timeviper.model.parts import Spread, in_turn
from timeviper.model.state import DecoderState
from timeviper.model.tokens import Tokens
from timeviper.model.vlm import TimeViper
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.image import ImageConfig, Resize
from timeviper.processing.processor import Processor
from timeviper.processing.prompt import PromptPlan
from timeviper.video.base import Size, VideoInfo, VideoSource
from timeviper.video.clips import Clip, available_cores, iterate_clips
from timeviper.video.fingerprint import PixelChain
from timeviper.video.sampling import Sampling

CLIP_FRAMES = 64
# Patches that a tower takes at once: on a CPU more are no faster and cost memory in every thread,
# a GPU wants to be filled.
_PATCHES_AT_ONCE = {"cpu": 2**10}
_MOST_PATCHES_AT_ONCE = 2**16
# Room for a question and its answer behind the keys of a video.
_SPARE_KEYS = 1024
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


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenAnswer:
    """A prompt read to its end: scores of the first token, and the state to go on from."""

    logits: Float[Tensor, "sequence vocab"]
    state: DecoderState


@final
class VideoEncoder:
    """Runs prompts through a model with memory that does not grow by frames, only by state.

    Args:
        model: in evaluation mode, on its device.
        processor: of the same model.
        clip_frames: frames that are decoded, encoded and read together.
        workers: threads that decode; one a core when not given.

    Law: the state does not depend on `clip_frames`, and a question on it is answered as by one
    run over the whole prompt.
    """

    def __init__(
        self,
        model: TimeViper,
        processor: Processor,
        *,
        clip_frames: int = CLIP_FRAMES,
        workers: int | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self.clip_frames = clip_frames
        self.workers = workers
        weight = next(model.parameters())
        self.device, self.dtype = weight.device, weight.dtype
        size = sum(p.nbytes for p in model.parameters())
        # On a CPU such a model gains by clips side by side, not by cores inside an operation.
        self.is_small = self.device.type == "cpu" and size <= _SMALL_MODEL_BYTES
        self._looks = (workers or available_cores()) if self.is_small else 1

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
            watch: told after each clip, and asked before each whether to go on.

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
        """Read on where an encoded video ends, a clip at a time; nothing is read twice.

        Args:
            encoded: what was read so far; it stays as it is.
            plan: prompt that it was read with.
            clips: what follows; `asked` are seconds on the time line of the whole video.
            total: frames that they hold together.
            watch: told after each clip, and asked before each whether to go on.

        Yields:
            The video up to each clip; its duration is left to the caller, who knows the source.

        Raises:
            CancelledError: `watch` asked to stop; what was given out before stays good.

        Law: extended clip by clip equals encoded at once.
        """
        clock, before = Stopwatch(self.device), encoded.timing
        done, chain = 0, PixelChain(encoded.pixels)
        with (
            one_thread_an_op(self.is_small),
            Lookahead(clips, self.look, threads=self._looks) as ahead,
        ):
            while done < total:
                watch.check("reading the video")
                with clock.stage("decode"):
                    ahead.fill()
                with clock.stage("encode"):
                    clip, vision = ahead.take()
                with clock.stage("prefill"):
                    # The moment asked for, not the frame's own: at 29.97 frames a second the frame
                    # on screen at 5 s appeared at 4.97 s, and its mark would say 00:04.
                    marked = plan.clip_tokens(clip.asked, first_frame_index=encoded.frames)
                    state = self.read(marked, vision, encoded.state)
                    tokens = encoded.tokens + len(marked)
                    if done == 0:
                        left = len(marked) * (total / len(clip.asked) - 1)
                        state = self._with_room(state, encoded.frames, left / tokens)
                done += len(clip.asked)
                chain.add(clip.frames)
                encoded = replace(
                    encoded,
                    state=state,
                    times=np.append(encoded.times, clip.asked),
                    tokens=tokens,
                    notes=encoded.notes + clip.notes,
                    timing=before + clock.timing,
                    pixels=chain.digest,
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
    def look(self, clip: Clip) -> Float[Tensor, "frame kept hidden"]:
        """Vision tokens of a clip's frames, a bounded number of patches at a time."""
        pixels = self.processor.pixels(clip.frames).to(self.device, self.dtype)
        most = _PATCHES_AT_ONCE.get(self.device.type, _MOST_PATCHES_AT_ONCE)
        most //= self.model.config.vision.patches
        return torch.cat([self.model.encode_frames(part) for part in pixels.split(max(1, most))])

    @torch.inference_mode()
    def read(
        self,
        tokens: PromptTokens,
        vision: Float[Tensor, "frame kept hidden"] | None,
        state: DecoderState | None,
    ) -> DecoderState:
        """Continue a state by tokens after which more of the same prompt follow."""
        return self._run([tokens], vision, state, more=True)[1]

    @torch.inference_mode()
    def open_answer(self, encoded: EncodedVideo, *suffixes: PromptTokens) -> OpenAnswer:
        """Read questions from a fork of what was encoded, all in one pass.

        Args:
            encoded: stays as it is; its keys are shared, not copied.
            suffixes: one or several, each of a sequence of its own.

        Law: each is read as it would be alone.
        """
        state = encoded.state
        # At the start of time there is nothing to continue, for any number of sequences.
        forked = state if state.sequences is None else state.fork(len(suffixes))
        with side_by_side(self._looks) as spread:
            out, state = self._run(suffixes, None, forked, more=False, spread=spread)
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
    def _with_room(self, state: DecoderState, frames: int, growth: float) -> DecoderState:
        """Room for the keys of all that comes, as the first clip foretells them."""
        if frames and not growth:
            # One clip more, as of a camera: a copy of everything each time would cost too much.
            return state
        return state.reserve(1 + growth, _SPARE_KEYS)

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
        x = self.model.embed(torch.from_numpy(ids).to(self.device), vision, layout)
        tokens = Tokens.of(x, layout)
        return self.model.decoder.run(tokens, state, more=more, only_last=True, spread=spread)

    def clips(self, source: VideoSource, sampling: Sampling) -> Generator[Clip, None, None]:
        """Clips of a source at the chosen moments, as the vision tower wants them.

        Raises:
            MediaError: while iterating, when nothing can be decoded.
        """
        return iterate_clips(
            source,
            sampling.times,
            size=decode_size(source.info, self.processor.image),
            clip_frames=self.clip_frames,
            workers=self.workers,
        )


def decode_size(info: VideoInfo, image: ImageConfig) -> Size:
    """Rows and columns to decode at, so that nothing larger than needed is ever held.

    Args:
        info: of the video.
        image: what the vision tower reads.

    Returns:
        The tower's square for a plain resize; otherwise the frame's own shape, scaled so that the
        square is cut from it or filled by it.
    """
    return fitted((info.height, info.width), image)


def fitted(sides: Size, image: ImageConfig) -> Size:
    """As `decode_size`, from rows and columns as shown."""
    if not image.do_resize:
        return sides
    if image.resize is Resize.NAIVE:
        return image.size, image.size
    reference = min(sides) if image.resize is Resize.CROP else max(sides)
    height, width = (max(1, round(image.size * side / reference)) for side in sides)
    return height, width
