"""Choose where to compute and say why."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

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


def total_bytes(device: torch.device) -> int:
    """Memory of a device, or of the machine for a CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), _allowed())


def free_bytes(device: torch.device, *, holes: bool = True) -> int:
    """Memory that new tensors can take.

    Args:
        device: where.
        holes: on a GPU count what the allocator holds empty as well; between blocks in use a
            large tensor may find no place there.
    """
    if device.type == "cuda":
        # The limit of `set_per_process_memory_fraction` bites before the device is full.
        share = torch.cuda.get_per_process_memory_fraction(device)
        free, total = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        empty = reserved - torch.cuda.memory_allocated(device) if holes else 0
        return min(free, max(0, int(share * total) - reserved)) + empty
    used = _number(Path("/sys/fs/cgroup/memory.current")) or 0
    return min(_available(), max(0, _allowed() - used))


def _available() -> int:
    """What Linux believes it could give; elsewhere all there is."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    words = next((line.split() for line in lines if line.startswith("MemAvailable:")), None)
    return 1024 * int(words[1]) if words else sys.maxsize


def _allowed() -> int:
    """What the container may take."""
    return _number(Path("/sys/fs/cgroup/memory.max")) or sys.maxsize


def _number(path: Path) -> int | None:
    try:
        text = path.read_text(encoding="ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
