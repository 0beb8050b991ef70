"""A whole model of toy size with a byte tokenizer, and videos to ask it about: fast and exact."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from timeviper.inference.engine import Engine
from timeviper.model.config import (
    DecoderConfig,
    DropPolicy,
    MambaConfig,
    ProjectorConfig,
    TimeViperConfig,
    TransferPlan,
    TransferSite,
    VisionConfig,
)
from timeviper.model.init import init_decoder, init_linear
from timeviper.model.vlm import TimeViper
from timeviper.processing.image import ImageConfig
from timeviper.processing.processor import Processor, ProcessorConfig
from timeviper.processing.prompt import TimePrompt
from timeviper.processing.tokenizer import Tokenizer

SPECIALS = (
    "<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<image>",
)  # fmt: skip
SIDE, PATCH, KEPT = 16, 4, 3

UNIFORM = TransferSite(layer=1, policy=DropPolicy.UNIFORM_STREAM, drop_rate=0.5)
WHOLE = TransferSite(layer=1, policy=DropPolicy.UNIFORM_WHOLE, drop_rate=0.5)
RANKED = TransferSite(layer=4, policy=DropPolicy.ATTENTION, drop_rate=0.6)
# What a model drops, by name; the second is the arrangement of the paper.
SITES: dict[str, tuple[TransferSite, ...]] = {
    "plain": (),
    "transv": (UNIFORM, RANKED),
    "whole": (WHOLE, RANKED),
    "drop-only": (replace(UNIFORM, transfer=False), replace(RANKED, transfer=False)),
}


def byte_tokenizer() -> Tokenizer:
    """Every byte a token, and the special tokens of the `tiny` template."""
    names = [*SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Backend(models.BPE(vocab={name: n for n, name in enumerate(names)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(n, normalized=False, special=True) for n in SPECIALS])
    return Tokenizer(backend)


def toy_config(sites: str = "plain", *, context: int = 4096) -> TimeViperConfig:
    """A hybrid of six layers whose attention layers are 2 and 4."""
    return TimeViperConfig(
        name=f"toy-{sites}",
        vision=VisionConfig(
            tower="siglip",
            hidden_size=16,
            intermediate_size=24,
            num_layers=2,
            num_heads=2,
            image_size=SIDE,
            patch_size=PATCH,
        ),
        projector=ProjectorConfig(tokens_per_frame=KEPT, merge_heads=2),
        decoder=DecoderConfig(
            vocab_size=264,
            hidden_size=24,
            pattern="M-*M*-",
            intermediate_size=32,
            num_heads=4,
            num_kv_heads=2,
            head_dim=8,
            mamba=MambaConfig(num_heads=4, head_dim=8, state_size=8, n_groups=2, chunk_size=16),
            # Wider than a real start, so that scores differ and ranks have no near ties.
            initializer_range=0.3,
            max_position_embeddings=context,
            transfer=TransferPlan(sites=SITES[sites]),
        ),
    )


def toy_model(config: TimeViperConfig, *, dtype: torch.dtype = torch.float64) -> TimeViper:
    """Random weights, gates of the transfers open."""
    generator = torch.Generator().manual_seed(7)
    # The blocks of transformers draw their own first weights.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = TimeViper(config)
    for part in (model.vision, model.projector):
        init_linear(part, 0.3, generator)
    init_decoder(model.decoder, generator)
    with torch.no_grad():
        for transfer in model.decoder.transfers.values():
            transfer.get_parameter("alpha").fill_(0.7)
    return model.to(dtype).eval()


def toy_processor(time_prompt: TimePrompt = TimePrompt.INTERLEAVED, **config) -> Processor:
    """Processor of the toy model."""
    return Processor(
        byte_tokenizer(),
        image=ImageConfig(size=SIDE),
        config=ProcessorConfig(
            template="tiny", tokens_per_frame=KEPT, time_prompt=time_prompt, **config
        ),
    )


def toy_engine(
    sites: str = "transv", *, clip_frames: int = 4, context: int = 4096, threads: int = 1
) -> Engine:
    """An engine in float64, so that laws hold to the last digits."""
    model = toy_model(toy_config(sites, context=context))
    return Engine(model, toy_processor(), clip_frames=clip_frames, threads=threads)


def noise(frames: int, *, seed: int = 0, side: int = SIDE) -> np.ndarray:
    """Frames of random pixels, uint8 (frame, row, column, channel)."""
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


def write_video(path: Path, frames: np.ndarray, *, fps: int = 1) -> Path:
    """An H.264 file of these frames."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=fps)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.gop_size = "yuv420p", 10
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path
