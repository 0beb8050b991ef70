"""Whether Triton kernels can run for a kind of device, and why; imports nothing of Triton."""

import importlib.util
import os
from dataclasses import dataclass

import torch

# bfloat16 arithmetic and asynchronous copies begin with Ampere.
_OLDEST_CAPABILITY = (8, 0)


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Whether an implementation can run on a kind of device, in words for `doctor`.

    `by_name` marks one that can run but is too slow to be chosen unless it is asked for.
    """

    available: bool
    why: str
    by_name: bool = False


def probe_triton(device_type: str) -> Probe:
    """Ask whether Triton kernels can run.

    Args:
        device_type: where the tensors are, "cpu" or "cuda".

    Returns:
        Available on CUDA devices with Triton installed; under `TRITON_INTERPRET=1` kernels are
        interpreted on any device, for tests, and only when asked for by name.
    """
    if importlib.util.find_spec("triton") is None:
        return Probe(available=False, why="the package triton is not installed")
    if is_interpreted():
        return Probe(available=True, why=f"Triton, interpreted, on {device_type}", by_name=True)
    if device_type != "cuda":
        return Probe(available=False, why=f"Triton compiles nothing for {device_type}")
    if not torch.cuda.is_available():
        return Probe(available=False, why="no CUDA device found")
    capability = torch.cuda.get_device_capability()
    if capability < _OLDEST_CAPABILITY:
        found = ".".join(map(str, capability))
        return Probe(available=False, why=f"compute capability {found} is older than 8.0")
    return Probe(available=True, why=f"fused Triton kernels, on {device_type}")


def overlaps(device: torch.device) -> bool:
    """Whether a kernel may begin while the one before it still runs (since Hopper).

    Args:
        device: where it is launched.
    """
    if is_interpreted() or device.type != "cuda":
        return False
    return torch.cuda.get_device_capability(device) >= (9, 0)


def is_interpreted() -> bool:
    """Whether `TRITON_INTERPRET` asks for kernels to run step by step in Python."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"
