"""Tell whether two models compute with the same numbers: a hash of the weights as they lie."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

# Wider formats that may hold nothing but numbers of this one, as after loading it into them.
_WIDER = (torch.float64, torch.float32, torch.float16)
_NARROW = (torch.bfloat16, torch.float32)
_MOST_THREADS = 16


def fingerprint(module: nn.Module) -> str:
    """Hash of the names, shapes and values of all weights.

    Taken from memory and not from files, so that it speaks of what computes: adapters that were
    merged, weights that were rounded. A weight is hashed in the narrowest format that holds it
    exactly, so bfloat16 weights loaded as float32 on a CPU are those of the GPU.

    Args:
        module: a model, on any device.

    Returns:
        64 hexadecimal digits.

    Law: equal for two models exactly when all their weights are equal numbers.
    """
    state = sorted(module.state_dict().items())
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        digests = list(pool.map(_digest, (tensor for _, tensor in state)))
    whole = hashlib.sha256()
    for (name, _), digest in zip(state, digests, strict=True):
        whole.update(f"{name}\0{digest}\n".encode())
    return whole.hexdigest()


def _digest(tensor: Tensor) -> str:
    exact = _narrowest(tensor.detach())
    said = hashlib.sha256(f"{exact.dtype} {tuple(exact.shape)}\n".encode())
    if exact.numel():
        # Bytes of a tensor without axes can be seen only after it got one.
        flat = exact.cpu().contiguous().reshape(-1)
        said.update(flat.view(torch.uint8).numpy().data)
    return said.hexdigest()


def _narrowest(tensor: Tensor) -> Tensor:
    if tensor.dtype not in _WIDER:
        return tensor
    for dtype in _NARROW:
        if dtype.itemsize < tensor.dtype.itemsize:
            narrow = tensor.to(dtype)
            if torch.equal(narrow.to(tensor.dtype), tensor):
                return narrow
    return tensor
