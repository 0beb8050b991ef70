"""Before a video is read: does it fit as it is, with less at a time, elsewhere, or not at all."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import groupby
from typing import final

import numpy as np
import torch

from timeviper.core.device import free_bytes
from timeviper.core.errors import CapacityError
from timeviper.core.layout import SpanKind
from timeviper.core.precision import Precision
from timeviper.inference.degrade import Degrade
from timeviper.inference.ladder import Rung, in_host, rungs, sentences
from timeviper.inference.planning.advice import Load, advise
from timeviper.inference.planning.planner import Setting
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.survival import release
from timeviper.inference.watch import Watch
from timeviper.model.config import TransferPlan
from timeviper.model.linear import Fp8Linear
from timeviper.model.pattern import LayerKind
from timeviper.model.state import DecoderState
from timeviper.model.vlm import under_plan
from timeviper.processing.prompt import PromptPlan
from timeviper.video.base import VideoSource
from timeviper.video.sampling import Sampling

_GIB = 2**30
# Frames at the end of a video whose time marks tell how long marks are.
_SAMPLE = 8
# Times a coarse upper bound must fit before nothing more is reckoned.
_PLENTY = 2
_HOST = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What an engine may take.

    Args:
        bytes: most memory, weights included; None for what is free when a video comes.
        degrade: what may be changed, aloud, so that a video fits.
        host_bytes: most memory of the host for keys and values; None for what is free.
    """

    bytes: int | None = None
    degrade: Degrade = Degrade.SAME_ANSWERS
    host_bytes: int | None = None


UNLIMITED = Limits()


@final
class Gate:
    """Lets videos in that fit.

    Args:
        encoder: that would read them, as the device likes it best.
        limits: what it may take.
        dropping: sites that the model was trained with and that are switched off.
    """

    def __init__(
        self, encoder: VideoEncoder, limits: Limits, *, dropping: TransferPlan | None = None
    ) -> None:
        self._encoder, self._limits, self._dropping = encoder, limits, dropping
        self._twin: VideoEncoder | None = None
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
            watch: told first what was changed; follows and stops the work.

        Returns:
            The encoded video; its notes tell what was changed.

        Raises:
            CapacityError: it does not fit, with the numbers and what would help.
        """
        encoder, said = self.admit(plan, sampling.times, fresh=True)
        watch.say(*said)
        encoded = encoder.encode(source, plan, sampling, watch=watch)
        return replace(encoded, notes=(*encoded.notes, *said)) if said else encoded

    def admit(
        self, plan: PromptPlan, times: np.ndarray, *, held: int = 0, fresh: bool = False
    ) -> tuple[VideoEncoder, tuple[str, ...]]:
        """Decide about a video.

        Args:
            plan: prompt about it.
            times: moments of its frames, shape (frame,).
            held: bytes that what was read of it already takes.
            fresh: whether nothing of it was read yet, so that tokens may still be dropped.

        Returns:
            Who reads it, and sentences about what was changed so that it fits.

        Raises:
            CapacityError: it does not fit, with the numbers and what would help.
        """
        there = self._there() + held
        if not len(times) or self.most(plan, len(times)) * _PLENTY <= there:
            return self._encoder, ()
        # Every GiB counts now: what nobody uses goes back, and no large tensor hopes for a hole.
        release(self._encoder.device)
        there = self._there(holes=False) + held
        load = self.load(plan, times)
        ways = rungs(
            load,
            degrade=self._limits.degrade,
            dropping=self._dropping if fresh else None,
            host=_has_host(self._encoder.device),
        )
        for _, kind in groupby(ways, key=lambda rung: (rung.dropping, rung.keys_in_host)):
            rung = self._first_fitting(list(kind), there)
            if rung is not None:
                return self._reader(rung), sentences(rung, load, there)
        raise self._refusal(load, there)

    def reader_of(self, state: DecoderState) -> VideoEncoder:
        """Who asks what was read: the model under the sites that it was read with.

        Args:
            state: of an encoded video.
        """
        sites = len(self._encoder.model.config.decoder.transfer.sites)
        return self._encoder if len(state.pending) == sites else self._dropper()

    def _first_fitting(self, kind: list[Rung], there: int) -> Rung | None:
        """The first that fits of ways that differ by their chunks, ever smaller ones."""
        whole, *smaller = kind
        if self._fits(whole, there):
            return whole
        # Each look takes most of a second: where the smallest does not fit, none between does.
        if not smaller or not self._fits(smaller[-1], there):
            return None
        return next(rung for rung in smaller if self._fits(rung, there))

    def _fits(self, rung: Rung, there: int) -> bool:
        if self._needs(rung.load) > there:
            return False
        return not rung.keys_in_host or rung.load.forecast.host_bytes <= self._host_there()

    def _host_there(self) -> int:
        free, most = free_bytes(_HOST), self._limits.host_bytes
        return free if most is None else min(free, most)

    def _there(self, *, holes: bool = True) -> int:
        """Bytes for a video: beside the weights, which are there already."""
        free = free_bytes(self._encoder.device, holes=holes)
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

    def _reader(self, rung: Rung) -> VideoEncoder:
        encoder = self._dropper() if rung.dropping else self._encoder
        if not (rung.chunked or rung.keys_in_host):
            return encoder
        sizes = encoder.chunks
        if rung.chunked:
            frames = max(1, rung.load.chunk // encoder.model.config.tokens_per_frame)
            sizes = replace(
                sizes,
                chunk_frames=frames,
                clip_frames=min(frames, sizes.clip_frames),
                batch_frames=min(frames, sizes.batch_frames),
            )
        return VideoEncoder(
            encoder.model,
            encoder.processor,
            chunks=sizes,
            workers=encoder.workers,
            keys_in_host=rung.keys_in_host,
        )

    def _dropper(self) -> VideoEncoder:
        """The same weights under the sites that were switched off."""
        encoder = self._encoder
        if self._twin is None and self._dropping is not None:
            self._twin = VideoEncoder(
                under_plan(encoder.model, self._dropping),
                encoder.processor,
                chunks=encoder.chunks,
                workers=encoder.workers,
            )
        return self._twin or encoder

    def _tried(self, load: Load) -> str:
        """What keys in host memory would have taken, where they were allowed."""
        if self._limits.degrade is Degrade.NO or not _has_host(self._encoder.device):
            return ""
        away = in_host(load)
        return (
            f"; with keys in host memory {self._needs(away) / _GIB:.2f} GiB, and of the host's "
            f"{self._host_there() / _GIB:.2f} GiB {away.forecast.host_bytes / _GIB:.2f}"
        )

    def _refusal(self, load: Load, there: int) -> CapacityError:
        needs, told = self._needs(load), load.forecast
        # Advice speaks of a whole device: what is there, and what the model has already.
        limit = there + told.parts["weights"] + told.device_bytes - told.reserved
        found = [
            one
            for one in advise(load, limit, bare=self._dropping)
            # Where it may do so by itself, it has tried that already.
            if self._limits.degrade is Degrade.NO or not one.host_bytes
        ]
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
            got=f"{needs / _GIB:.2f} GiB needed (GiB: {parts}){self._tried(load)}",
            do="; or ".join(changes) or "free memory of the device",
        )


def _has_host(device: torch.device) -> bool:
    """Whether keys can lie in another memory than the device's."""
    return device.type == "cuda"


def _precision(encoder: VideoEncoder) -> Precision:
    return next(p for p in Precision if p.dtype == encoder.dtype)
