"""What would be read of a video, before a frame is decoded: its moments, its size, its key."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import torch

from timeviper.core.config import to_dict
from timeviper.inference.files.compress import BLOCK_TOKENS, Compress
from timeviper.inference.fitting import decode_size
from timeviper.inference.prefill import VideoEncoder
from timeviper.inference.request import AskOptions
from timeviper.inference.state_info import VERSION
from timeviper.model.config import DecoderConfig, DropPolicy
from timeviper.model.pattern import LayerKind
from timeviper.processing.messages import VideoPart
from timeviper.processing.prompt import PromptPlan
from timeviper.video.base import VideoSource
from timeviper.video.fingerprint import media_digest
from timeviper.video.sampling import Sampling, sample_times
from timeviper.video.source import Openable, open_video

# Header, alignment and what a last block leaves empty: always enough, never much.
_SPARE_BYTES = 2**16
# A choice by rounding may keep a token more than its share.
_SPARE_TOKENS = 2
_TIME_BYTES, _ID_BYTES = 8, 9
_SCALE_BYTES = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Viewing:
    """A video and the moments of it that would be read.

    Args:
        source: the open video.
        plan: prompt around it.
        sampling: the moments.
    """

    source: VideoSource
    plan: PromptPlan
    sampling: Sampling

    @property
    def frames(self) -> int:
        """Number of moments."""
        return len(self.sampling.times)


def view(video: Openable, encoder: VideoEncoder, options: AskOptions) -> Viewing:
    """Open a video and choose its moments, as `Engine.encode` would.

    Args:
        video: as there.
        encoder: of the engine.
        options: as there.

    Raises:
        MediaError: it is not there, or cannot be read as a video.
        RequestError: options that this video cannot meet.
    """
    source = open_video(video)
    processor = encoder.processor
    plan = processor.plan_question("?", video=VideoPart(source="video"), system=options.system)
    sampling = sample_times(source.info.duration_seconds, options.look(processor.config))
    return Viewing(source=source, plan=plan, sampling=sampling)


def forecast_bytes(
    viewing: Viewing, encoder: VideoEncoder, compress: Compress = Compress.NONE
) -> int:
    """Most bytes that the state file of a video takes, thumbnails aside.

    Args:
        viewing: the video and its moments.
        encoder: that would read it.
        compress: how it would be stored.

    Returns:
        Never less than the file takes, and little more.
    """
    times = viewing.sampling.times
    tokens = len(viewing.plan.clip_tokens(times))
    vision = viewing.frames * encoder.model.config.tokens_per_frame
    prefix = len(viewing.plan.prefix)
    decoder = encoder.model.config.decoder
    first = len(viewing.plan.clip_tokens(times[:1])) - encoder.model.config.tokens_per_frame
    amount = _Amounts(before=prefix + first, marks=tokens - vision - first, vision=vision).of(
        decoder
    )
    size = encoder.dtype.itemsize
    narrow = size if compress is Compress.NONE else min(size, torch.bfloat16.itemsize)
    pair = 2 * decoder.num_kv_heads * decoder.head_dim
    keys = amount.keys * pair * (1 if compress is Compress.FP8 else narrow)
    if compress is Compress.FP8:
        blocks = amount.keys / BLOCK_TOKENS + amount.caches
        keys += math.ceil(blocks) * 2 * decoder.num_kv_heads * _SCALE_BYTES
    parked = amount.parked * (decoder.hidden_size * narrow + 1)
    lists = len(times) * _TIME_BYTES + prefix * _ID_BYTES
    return keys + parked + _mamba_bytes(decoder, size) + lists + _SPARE_BYTES


def key_of(viewing: Viewing, encoder: VideoEncoder) -> str:
    """Name of an encoded video by all that decides its state, and by nothing else.

    The pixels are known by the bytes that they are decoded from, which are hashed whole: the same
    file under another name has the same key, another file of the same name, length and date has
    another.

    Args:
        viewing: the video and its moments.
        encoder: that would read it.

    Returns:
        64 hexadecimal digits.

    Raises:
        MediaError: the video's files cannot be read.
    """
    info, plan = viewing.source.info, viewing.plan
    identity = to_dict(encoder.identity)
    parts = {
        "version": VERSION,
        "media": media_digest(viewing.source),
        "size": decode_size(info, encoder.processor.image),
        "times": hashlib.sha256(viewing.sampling.times.tobytes()).hexdigest(),
        "duration": info.duration_seconds,
        "notes": [*info.notes, *viewing.sampling.notes],
        "prefix": [plan.prefix.ids.tolist(), plan.prefix.kinds.tolist()],
        "model": {name: identity[name] for name in ("weights", "config", "processor")},
        "dtype": str(encoder.dtype),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """Tokens in keys and values, how many caches hold them, and tokens that are parked."""

    keys: int
    caches: int
    parked: int


@dataclass(frozen=True, kw_only=True)
class _Amounts:
    """Tokens in front of the decoder.

    Args:
        before: words and a mark before the first frame.
        marks: time marks behind it.
        vision: tokens of all frames.
    """

    before: int
    marks: int
    vision: int

    def of(self, decoder: DecoderConfig) -> _Stored:
        """Walk through the layers as the tokens do."""
        keys = caches = parked = 0
        text, vision = self.before + self.marks, self.vision
        sites = {site.layer: site for site in decoder.transfer.sites}
        for number, kind in enumerate(decoder.layers):
            site = sites.get(number)
            if site is not None and site.policy is DropPolicy.UNIFORM_STREAM:
                left = min(vision, site.kept(vision) + _SPARE_TOKENS)
                if site.transfer:
                    keys, caches = keys + vision - left + 2 * _SPARE_TOKENS, caches + 1
                vision = left
            elif site is not None:
                # All waits here for the question, and only what stands before the video goes on.
                parked += vision + text
                text, vision = self.before, 0
            if kind is LayerKind.ATTENTION:
                keys, caches = keys + text + vision, caches + 1
        return _Stored(keys=keys, caches=caches, parked=parked)


def _mamba_bytes(decoder: DecoderConfig, size: int) -> int:
    mamba = decoder.mamba
    if mamba is None:
        return 0
    ssm = mamba.inner_size * mamba.state_size * max(size, torch.float32.itemsize)
    tail = (mamba.conv_kernel - 1) * mamba.conv_size * size
    return len(decoder.layers_of(LayerKind.MAMBA)) * (ssm + tail)
