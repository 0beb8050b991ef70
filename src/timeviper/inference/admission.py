"""Before a video is read: does it fit as it is, in smaller chunks, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import final

import numpy as np

from timeviper.core.device import free_bytes
from timeviper.core.errors import CapacityError
from timeviper.core.layout import SpanKind
from timeviper.core.precision import Precision
from timeviper.inference.planning.advice import LEAST_CHUNK, Load, advise
from timeviper.inference.planning.planner import Setting
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.watch import Watch
from timeviper.model.linear import Fp8Linear
from timeviper.model.pattern import LayerKind
from timeviper.processing.prompt import PromptPlan
from timeviper.video.base import VideoSource
from timeviper.video.sampling import Sampling

_GIB = 2**30
# Frames at the end of a video whose time marks tell how long marks are.
_SAMPLE = 8
# Times a coarse upper bound must fit before nothing more is reckoned.
_PLENTY = 2


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an engine may take.

    Args:
        bytes: most memory, weights included; None for what is free when a video comes.
        degrade: whether a video that does not fit may be read in smaller chunks, which is told.
    """

    bytes: int | None = None
    degrade: bool = True


UNLIMITED = Limits()


@final
class Gate:
    """Lets videos in that fit.

    Args:
        encoder: that would read them, as the device likes it best.
        limits: what it may take.
    """

    def __init__(self, encoder: VideoEncoder, limits: Limits) -> None:
        self._encoder, self._limits = encoder, limits
        self._weights = sum(p.nbytes for p in encoder.model.parameters())
        self._weights += sum(b.nbytes for b in encoder.model.buffers())
        modules = encoder.model.decoder.modules()
        self._fp8 = any(isinstance(module, Fp8Linear) for module in modules)

    def encode(
        self, source: VideoSource, plan: PromptPlan, sampling: Sampling, *, watch: Watch
    ) -> EncodedVideo:
        """As `VideoEncoder.encode`, for a video that fits or can be made to.

        Args:
            source: an open video.
            plan: prompt of a conversation about it.
            sampling: moments to look at.
            watch: follows and stops the work.

        Returns:
            The encoded video; its notes tell what was changed.

        Raises:
            CapacityError: it does not fit, with the numbers and what would help.
        """
        encoder, said = self.admit(plan, sampling.times)
        encoded = encoder.encode(source, plan, sampling, watch=watch)
        return replace(encoded, notes=(*encoded.notes, *said)) if said else encoded

    def admit(
        self, plan: PromptPlan, times: np.ndarray, *, held: int = 0
    ) -> tuple[VideoEncoder, tuple[str, ...]]:
        """Decide about a video.

        Args:
            plan: prompt about it.
            times: moments of its frames, shape (frame,).
            held: bytes that what was read of it already takes.

        Returns:
            Who reads it, and sentences about what was changed so that it fits.

        Raises:
            CapacityError: it does not fit, with the numbers and what would help.
        """
        there = self._there() + held
        if not len(times) or self.most(plan, len(times)) * _PLENTY <= there:
            return self._encoder, ()
        load = self.load(plan, times)
        if self._needs(load) <= there:
            return self._encoder, ()
        if self._limits.degrade:
            for chunk in _halves(load.chunk):
                encoder = self._with_chunk(chunk)
                batch = encoder.chunks.batch_frames
                smaller = replace(load, chunk=chunk).by(batch_frames=batch)
                if self._needs(smaller) <= there:
                    return encoder, (_said(load, chunk, there),)
        raise self._refusal(load, there)

    def _there(self) -> int:
        """Bytes for a video: beside the weights, which are there already."""
        free = free_bytes(self._encoder.device)
        if self._limits.bytes is None:
            return free
        return min(free, self._limits.bytes - self._weights)

    def _needs(self, load: Load) -> int:
        told = load.forecast
        return told.reserved - told.parts["weights"]

    def load(self, plan: PromptPlan, times: np.ndarray) -> Load:
        """What a video asks of this model; what a forecast is made of.

        Args:
            plan: prompt about it.
            times: moments of its frames, shape (frame,).
        """
        encoder, config = self._encoder, self._encoder.model.config
        last = times[-_SAMPLE:]
        marked = plan.clip_tokens(last, first_frame_index=len(times) - len(last)).layout
        text = sum(marked.lengths) - sum(marked.count(SpanKind.VISION))
        setting = Setting(
            device_type=encoder.device.type,
            fp8=self._fp8,
            looks=encoder.looks,
            batch_frames=encoder.chunks.batch_frames,
            text_per_frame=Fraction(text, len(last)),
            prefix=len(plan.prefix),
        )
        return Load(
            config=config,
            frames=len(times),
            chunk=encoder.chunks.chunk_frames
            * int(config.tokens_per_frame + setting.text_per_frame),
            precision=_precision(encoder),
            setting=setting,
        )

    def most(self, plan: PromptPlan, frames: int) -> int:
        """More bytes than a video can take beside the weights, in no time.

        Args:
            plan: prompt about it.
            frames: of the video.
        """
        encoder, config = self._encoder, self._encoder.model.config
        decoder, vision, number = config.decoder, config.vision, encoder.dtype.itemsize
        tokens = frames * (config.tokens_per_frame + 16) + len(plan.prefix) + 2048
        keys = 2 * decoder.num_kv_heads * decoder.head_dim
        layers = len(decoder.layers_of(LayerKind.ATTENTION)) + len(decoder.transfer.sites)
        held = tokens * (3 * keys * layers + 8 * decoder.hidden_size) * number
        mamba = decoder.mamba
        wide = 3 * decoder.intermediate_size + 16 * decoder.hidden_size
        if mamba is not None:
            wide += 16 * mamba.projection_size
            held += 4 * 4 * mamba.inner_size * mamba.state_size * len(decoder.layers)
        chunk = min(frames, encoder.chunks.chunk_frames) * (config.tokens_per_frame + 16) + 512
        patches = min(frames, encoder.chunks.batch_frames) * vision.patches
        eyes = 8 * (3 * vision.hidden_size + vision.intermediate_size) * patches
        pixels = 8 * encoder.chunks.clip_frames * 3 * vision.image_size**2
        logits = 4 * decoder.vocab_size
        work = chunk * wide * 4 + encoder.looks * (eyes + pixels) * number + logits * 4
        return held + work

    def _with_chunk(self, chunk: int) -> VideoEncoder:
        encoder = self._encoder
        per_frame = encoder.model.config.tokens_per_frame
        frames = max(1, chunk // per_frame)
        sizes = replace(
            encoder.chunks,
            chunk_frames=frames,
            clip_frames=min(frames, encoder.chunks.clip_frames),
            batch_frames=min(frames, encoder.chunks.batch_frames),
        )
        return VideoEncoder(encoder.model, encoder.processor, chunks=sizes, workers=encoder.workers)

    def _refusal(self, load: Load, there: int) -> CapacityError:
        needs, told = self._needs(load), load.forecast
        # Advice speaks of a whole device: what is there, and what the model has already.
        limit = there + told.parts["weights"] + told.device_bytes - told.reserved
        found = advise(load, limit)
        changes = [
            f"{one.change} (saves {one.saves / _GIB:.2f} GiB"
            + (")" if one.fits else ", not enough alone)")
            for one in found[:3]
        ]
        parts = ", ".join(
            f"{name} {count / _GIB:.2f}"
            for name, count in sorted(told.parts.items(), key=lambda item: -item[1])
            if count > needs // 50
        )
        return CapacityError(
            want=f"at most {there / _GIB:.2f} GiB beside the weights for {load.frames:,} frames",
            got=f"{needs / _GIB:.2f} GiB needed (GiB: {parts})",
            do="; or ".join(changes) or "free memory of the device",
        )


def _halves(chunk: int) -> list[int]:
    found: list[int] = []
    while chunk // 2 >= LEAST_CHUNK:
        chunk //= 2
        found.append(chunk)
    return found


def _said(load: Load, chunk: int, there: int) -> str:
    return (
        f"read in chunks of {chunk:,} tokens instead of {load.chunk:,}, to fit into the "
        f"{there / _GIB:.2f} GiB that are free: slower, and the same answers"
    )


def _precision(encoder: VideoEncoder) -> Precision:
    return next(p for p in Precision if p.dtype == encoder.dtype)
