"""Choose where to compute and say why."""

from __future__ import annotations

import resource
import sys

import torch

from timeviper.core.errors import ConfigError


def pick_device(name: str | None = None) -> torch.device:
    """The device called `name`, or the first CUDA device, or the CPU.

    Raises:
        ConfigError: the named device does not exist here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(
            want="a device such as cpu, cuda or cuda:0", got=repr(name), do="name one of these"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(want="a CUDA device", got="none on this machine", do="use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            want=f"a CUDA device from 0 to {torch.cuda.device_count() - 1}",
            got=repr(name),
            do="name one of these",
        )
    return device


def explain_device(device: torch.device) -> str:
    """One line on why this device is used."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}"
    return "no CUDA device found" if not torch.cuda.is_available() else "asked for"


def peak_bytes(device: torch.device) -> int:
    """Highest memory so far in bytes: of the device for CUDA, of the process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
