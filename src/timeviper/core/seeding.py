"""Named random streams: the same names give the same numbers on every machine."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def seed_of(seed: int, *names: object) -> int:
    """A 63-bit seed that depends on `seed` and every name, in order."""
    text = "/".join([str(seed), *map(str, names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def stream(seed: int, *names: object) -> np.random.Generator:
    """NumPy generator of its own for (seed, names)."""
    return np.random.default_rng(seed_of(seed, *names))


def torch_stream(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Torch generator of its own for (seed, names) on `device`."""
    return torch.Generator(device=device).manual_seed(seed_of(seed, *names))
