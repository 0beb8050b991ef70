"""What the fused kernels of a GPU take in memory, for tensors without data: a rehearsal's ops."""

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor

from timeviper.ops.attention_parts import Shared
from timeviper.ops.attention_streamed import BLOCK_KEYS
from timeviper.ops.fp8 import E4M3, Activation, Quantized

# Segments that a walk of the scan is cut into at most, each with a state at both of its ends.
_SEGMENTS = 8
_CHUNK = 64
# Parts that the keys of a step are cut into.
_SPLITS = 64


# What tensors without data stand for while something is rehearsed.
_REHEARSED: ContextVar[str] = ContextVar("timeviper_rehearsed_device", default="cuda")
# Whether long keys are thought to lie in host memory, from where attention has them copied.
_STREAMS: ContextVar[bool] = ContextVar("timeviper_rehearsed_streams", default=False)


def stands_for(device: torch.device) -> str:
    """The type of a device; of one without data, that of the device which is rehearsed."""
    return _REHEARSED.get() if device.type == "meta" else device.type


@contextmanager
def rehearsing(device_type: str, *, streams: bool = False) -> Generator[None]:
    """Inside `with`, tensors without data stand for a device of that type.

    Args:
        device_type: its type.
        streams: whether attention has its keys copied from host memory.
    """
    token, streaming = _REHEARSED.set(device_type), _STREAMS.set(streams)
    try:
        yield
    finally:
        _STREAMS.reset(streaming)
        _REHEARSED.reset(token)


def ssd(  # noqa: PLR0913
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    state: Tensor | None = None,
    *,
    lengths: Sequence[int],
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    chunk_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """As `ops.ssd.ssd`: outputs, steps and their sums, states at the ends of segments."""
    tokens, heads, width = x.shape
    chunks = sum(-(-length // _CHUNK) for length in lengths)
    steps = x.new_empty(2, heads, chunks, _CHUNK, dtype=torch.float32)
    y = x.new_empty(tokens, heads, width)
    segments = len(lengths) + min(chunks, _SEGMENTS)
    ends = x.new_empty(2, segments, heads, width, B.shape[2], dtype=torch.float32)
    final = x.new_empty(len(lengths), heads, width, B.shape[2], dtype=torch.float32)
    del steps, ends
    return y, final


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    tail: Tensor | None = None,
    *,
    lengths: Sequence[int],
    activation: Literal["silu"] | None = "silu",
) -> tuple[Tensor, Tensor]:
    """As `ops.conv1d.causal_conv1d`: outputs and new tails."""
    channels, width = weight.shape
    return x.new_empty(x.shape), x.new_empty(len(lengths), width - 1, channels)


def attention(  # noqa: PLR0913
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
    causal: bool = True,
    scale: float | None = None,
    shared: Shared | None = None,
) -> Tensor:
    """As `ops.attention.attention`: two parts with their masses, merged in float32."""
    longest = max([*k_lengths, *(front.length for front in shared or () if front is not None)])
    # Keys and values of two blocks, the last of which may be longer by the queries.
    block = min(longest, BLOCK_KEYS + len(q)) if _STREAMS.get() else 0
    blocks = k.new_empty(2, 2, block, *k.shape[2:])
    parts = [q.new_empty(q.shape) for _ in range(2)]
    masses = q.new_empty(2, *q.shape[:2], dtype=torch.float32)
    # Ragged rows are packed without their gaps.
    packed = [k.new_empty(sum(k_lengths), *k.shape[2:]) for _ in range(2 * (len(k_lengths) > 1))]
    merged = q.new_empty(q.shape, dtype=torch.float32)
    out = q.new_empty(q.shape)
    del blocks, parts, masses, packed, merged
    return out


def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    k_lengths: Tensor,
    shared: object = None,
    scale: float | None = None,
) -> Tensor:
    """As `ops.attention.attention_step`: a part of each split of the keys, and the whole."""
    parts = q.new_empty(_SPLITS, *q.shape, dtype=torch.float32)
    out = q.new_empty(q.shape)
    del parts
    return out


def mamba_step(  # noqa: PLR0913
    xbc: Tensor,
    dt: Tensor,
    weights: object,
    *,
    ring: Tensor,
    ssm: Tensor,
    place: Tensor,
    dt_limit: tuple[float, float] = (0.0, math.inf),
) -> Tensor:
    """As `ops.step.mamba_step`: buffers are written in place."""
    return xbc.new_empty(ssm.shape[:3])


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """As `ops.norm.rms_norm`."""
    return x.new_empty(x.shape)


def gated_rms_norm(
    x: Tensor, gate: Tensor, weight: Tensor, *, eps: float, group_size: int
) -> Tensor:
    """As `ops.norm.gated_rms_norm`."""
    return x.new_empty(x.shape)


def squared_relu(x: Tensor) -> Tensor:
    """As `ops.activation.squared_relu`."""
    return x.new_empty(x.shape)


def add_rms_norm(
    x: Tensor, addition: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As `ops.norm.add_rms_norm`."""
    return (x if addition is None else x.new_empty(x.shape)), x.new_empty(x.shape)


def add_rms_norm_fp8(
    x: Tensor, addition: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Quantized]:
    """As `ops.norm.add_rms_norm_fp8`."""
    return (x if addition is None else x.new_empty(x.shape)), _rounded(x)


def gated_rms_norm_fp8(
    x: Tensor, gate: Tensor, weight: Tensor, *, eps: float, group_size: int
) -> Quantized:
    """As `ops.norm.gated_rms_norm_fp8`."""
    return _rounded(x)


def add_layer_norm(
    stream: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """As `ops.layer_norm.add_layer_norm`."""
    return stream.new_empty(stream.shape), stream.new_empty(stream.shape)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As `ops.linear_gelu.linear_gelu`: the GELU ends the product."""
    return x.new_empty(*x.shape[:-1], len(weight))


def patch_attention(qkv: Tensor, heads: int) -> Tensor:
    """As `ops.patch_attention.patch_attention`: outputs and their masses."""
    frames, patches, wide = qkv.shape
    masses = qkv.new_empty(frames, heads, patches, dtype=torch.float32)
    out = qkv.new_empty(frames, patches, wide // 3)
    del masses
    return out


def quantize(x: Tensor, activation: Activation = "none") -> Quantized:
    """As `ops.linear.quantize`."""
    return _rounded(x)


def fp8_linear(x: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """As `ops.linear.fp8_linear`."""
    return x.values.new_empty(len(x.values), len(weight.values), dtype=dtype)


def _rounded(x: Tensor) -> Quantized:
    values = x.new_empty(x.shape, dtype=E4M3)
    return Quantized(values, x.new_empty(*x.shape[:-1], 1, dtype=torch.float32))


OPS: MappingProxyType[str, Callable[..., Any]] = MappingProxyType(
    {
        "ssd": ssd,
        "causal_conv1d": causal_conv1d,
        "attention": attention,
        "attention_step": attention_step,
        "mamba_step": mamba_step,
        "rms_norm": rms_norm,
        "gated_rms_norm": gated_rms_norm,
        "add_rms_norm": add_rms_norm,
        "add_rms_norm_fp8": add_rms_norm_fp8,
        "gated_rms_norm_fp8": gated_rms_norm_fp8,
        "squared_relu": squared_relu,
        "add_layer_norm": add_layer_norm,
        "linear_gelu": linear_gelu,
        "patch_attention": patch_attention,
        "quantize": quantize,
        "fp8_linear": fp8_linear,
    }
)
