"""Where Triton can run, and what is said where it cannot."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from timeviper.core.errors import ConfigError
from timeviper.ops import backend
from timeviper.ops.triton_probe import is_interpreted, probe_triton


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Triton is installed and not asked to interpret."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return monkeypatch


def test_without_the_package_it_says_so(compiled: pytest.MonkeyPatch) -> None:
    compiled.setattr(importlib.util, "find_spec", lambda name: None)
    for device_type in ("cpu", "cuda"):
        probe = probe_triton(device_type)
        assert not probe.available
        assert "not installed" in probe.why
    with pytest.raises(ConfigError, match="not installed"):
        backend.choose("rms_norm", "triton", device_type="cuda")
    assert backend.choose("rms_norm", device_type="cuda").name == "torch"


@pytest.mark.usefixtures("compiled")
def test_nothing_is_compiled_for_a_cpu() -> None:
    assert not is_interpreted()
    assert probe_triton("cpu").why == "Triton compiles nothing for cpu"


@pytest.mark.parametrize(
    ("capability", "available"), [((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_old_devices_are_told_apart(
    compiled: pytest.MonkeyPatch, capability: tuple[int, int], available: bool
) -> None:
    compiled.setattr(torch.cuda, "is_available", lambda: True)
    compiled.setattr(torch.cuda, "get_device_capability", lambda: capability)
    probe = probe_triton("cuda")
    assert probe.available == available
    assert not probe.by_name
    assert ("older than 8.0" in probe.why) != available


def test_no_cuda_device(compiled: pytest.MonkeyPatch) -> None:
    compiled.setattr(torch.cuda, "is_available", lambda: False)
    assert probe_triton("cuda").why == "no CUDA device found"


def test_interpreted_kernels_must_be_asked_for(compiled: pytest.MonkeyPatch) -> None:
    compiled.setenv("TRITON_INTERPRET", "1")
    probe = probe_triton("cpu")
    assert probe.available
    assert probe.by_name
    assert backend.choose("gated_rms_norm", device_type="cpu").name == "torch"
    chosen = backend.choose("gated_rms_norm", "triton", device_type="cpu")
    assert chosen.why.startswith("asked for by the call; Triton, interpreted")


def test_functions_given_by_name_are_found() -> None:
    """A kernel's module is imported only when chosen: a wrong name would show late."""
    pytest.importorskip("triton", reason="no Triton for this platform")
    for op, entries in backend._TABLE.items():
        for entry in entries:
            assert callable(backend._load(entry)), op
