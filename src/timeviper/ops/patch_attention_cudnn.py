"""Attention of patches through cuDNN, which is 1.5 times FlashAttention at a tower's sizes."""

from __future__ import annotations

import torch
from torch import Tensor

from timeviper.ops import patch_attention_torch
from timeviper.ops.patch_attention_torch import by_head, joined
from timeviper.ops.triton_probe import Probe

_HALF = (torch.float16, torch.bfloat16)
# Before Hopper cuDNN's kernels are no faster than FlashAttention.
_OLDEST_CAPABILITY = (9, 0)
# Heads that its kernels take.
_MULTIPLE, _WIDEST_HEAD = 8, 128
# Fewer frames gain less than a plan for their number costs.
_FEWEST = 8


def probe_cudnn(device_type: str) -> Probe:
    """Whether cuDNN's attention can run for a kind of device, and why."""
    if device_type != "cuda":
        return Probe(available=False, why=f"cuDNN is not built for {device_type}")
    if not (torch.cuda.is_available() and torch.backends.cudnn.is_available()):
        return Probe(available=False, why="no CUDA device with cuDNN found")
    capability = torch.cuda.get_device_capability()
    found = ".".join(map(str, capability))
    if capability < _OLDEST_CAPABILITY:
        return Probe(available=False, why=f"compute capability {found} is older than 9.0")
    why = f"cuDNN {torch.backends.cudnn.version()} (SDPA for float32, odd heads and gradients)"
    return Probe(available=True, why=why)


def patch_attention(qkv: Tensor, heads: int) -> Tensor:
    """Attend in cuDNN; see `timeviper.ops.patch_attention.patch_attention`.

    Its kernels take halves only; what they do not take goes through SDPA, as the probe says.
    """
    if qkv.dtype not in _HALF or (torch.is_grad_enabled() and qkv.requires_grad):
        return patch_attention_torch.patch_attention(qkv, heads)
    size = qkv.shape[-1] // 3 // heads
    if size % _MULTIPLE or size > _WIDEST_HEAD or not qkv.numel():
        return patch_attention_torch.patch_attention(qkv, heads)
    parts = [_attend(part, heads) for part in qkv.split(stretches(len(qkv)))]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def stretches(frames: int) -> list[int]:
    """Numbers of frames that are attended to at once: powers of two, then the few that are left.

    cuDNN plans for each number of frames anew, 70 ms in each thread: a handful of numbers serves
    every video.
    """
    whole = frames - frames % _FEWEST
    powers = [1 << bit for bit in range(whole.bit_length()) if whole >> bit & 1]
    return [*reversed(powers), *([frames - whole] if frames > whole else [])]


def _attend(qkv: Tensor, heads: int) -> Tensor:
    """One stretch of frames."""
    if len(qkv) < _FEWEST:
        return patch_attention_torch.patch_attention(qkv, heads)
    # Straight to the op: SDPA would choose by a priority that is set for the whole process.
    q, k, v = by_head(qkv, heads)
    out = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, False, 0.0, False, False
    )
    return joined(out[0])
