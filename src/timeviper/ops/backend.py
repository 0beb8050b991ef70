"""Which implementation each op runs on, and why: one table, no silent fallback."""

import importlib
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from timeviper.core.errors import ConfigError
from timeviper.ops import (
    activation_torch,
    attention_flash,
    attention_parts,
    attention_pieces,
    attention_torch,
    conv1d_torch,
    few_rows_torch,
    fp8_product_torch,
    hollow,
    layer_norm_torch,
    linear_gelu_torch,
    linear_scaled,
    linear_torch,
    merge,
    norm_torch,
    patch_attention_cudnn,
    patch_attention_torch,
    rotary,
    ssd_chunked,
    ssd_reference,
    step_torch,
)
from timeviper.ops.fp8 import probe_fp8
from timeviper.ops.triton_probe import Probe, probe_triton


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """One way to compute an op.

    `probe` is asked with a device type ("cpu", "cuda"); the available one of highest `priority`
    is chosen. `run` is the function, or "module:function" where importing the module needs a
    package that may be missing: it is loaded when chosen.
    """

    name: str
    run: Callable[..., Any] | str
    probe: Callable[[str], Probe]
    priority: int = 0


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The implementation that an op runs on, and the reason."""

    op: str
    name: str
    why: str
    run: Callable[..., Any]


def _anywhere(why: str) -> Callable[[str], Probe]:
    """A probe of plain torch code, which runs on every device."""
    return lambda device_type: Probe(available=True, why=f"{why}, on {device_type}")


def _only(name: str, run: Callable[..., Any], why: str) -> tuple[Implementation, ...]:
    """The entry of an op that has one implementation so far."""
    return (Implementation(name=name, run=run, probe=_anywhere(why)),)


def _torch_or_triton(
    run: Callable[..., Any], why: str, *, kernels: str
) -> tuple[Implementation, ...]:
    """Fused kernels where they can run, and plain torch."""
    return (
        Implementation(name="triton", run=kernels, probe=probe_triton, priority=10),
        *_only("torch", run, why),
    )


_TABLE = MappingProxyType(
    {
        "ssd": (
            Implementation(
                name="triton",
                run="timeviper.ops.ssd_triton:ssd",
                probe=probe_triton,
                priority=20,
            ),
            Implementation(
                name="chunked",
                run=ssd_chunked.ssd,
                probe=_anywhere("matrix products over chunks in plain torch"),
                priority=10,
            ),
            Implementation(
                name="reference",
                run=ssd_reference.ssd,
                probe=_anywhere("float64 step loop, the oracle; slow"),
            ),
        ),
        "causal_conv1d": _torch_or_triton(
            conv1d_torch.causal_conv1d,
            "shifted sums in plain torch",
            kernels="timeviper.ops.conv1d_triton:causal_conv1d",
        ),
        "few_rows": _torch_or_triton(
            few_rows_torch.few_rows,
            "torch's products",
            kernels="timeviper.ops.few_rows_triton:few_rows",
        ),
        "some_rows": _torch_or_triton(
            few_rows_torch.few_rows,
            "torch's products",
            kernels="timeviper.ops.few_rows_triton:some_rows",
        ),
        "few_rows_parts": _torch_or_triton(
            few_rows_torch.few_rows_parts,
            "torch's products",
            kernels="timeviper.ops.few_rows_triton:few_rows_parts",
        ),
        "settle": _torch_or_triton(
            few_rows_torch.settle,
            "torch's sum and rms_norm in float32",
            kernels="timeviper.ops.few_rows_triton:settle",
        ),
        "mamba_step": _torch_or_triton(
            step_torch.mamba_step,
            "one token a sequence in plain torch",
            kernels="timeviper.ops.step_triton:mamba_step",
        ),
        "write_slots": _torch_or_triton(
            step_torch.write_slots,
            "two writes of plain torch",
            kernels="timeviper.ops.pick_triton:write_slots",
        ),
        "best_token": _torch_or_triton(
            step_torch.best_token,
            "a sum and an argmax of plain torch",
            kernels="timeviper.ops.pick_triton:best_token",
        ),
        "attention": (
            Implementation(
                name="cudnn",
                run="timeviper.ops.attention_chunks_triton:attention",
                probe=attention_pieces.probe_pieces,
                priority=20,
            ),
            Implementation(
                name="flash",
                run=attention_flash.attention,
                probe=attention_flash.probe_flash,
                priority=10,
            ),
            *_only("sdpa", attention_torch.attention, "torch's scaled_dot_product_attention"),
        ),
        "attention_part": (
            Implementation(
                name="cudnn",
                run="timeviper.ops.attention_chunks_triton:further",
                probe=attention_pieces.probe_pieces,
                priority=10,
            ),
            *_only("torch", attention_parts.further, "plain torch"),
        ),
        "attention_step": _torch_or_triton(
            attention_torch.attention_step,
            "torch's scaled_dot_product_attention",
            kernels="timeviper.ops.attention_triton:attention_step",
        ),
        "rotary": _only("torch", rotary.rotary, "plain torch"),
        "rms_norm": _torch_or_triton(
            norm_torch.rms_norm,
            "torch's rms_norm in float32",
            kernels="timeviper.ops.norm_triton:rms_norm",
        ),
        "gated_rms_norm": _torch_or_triton(
            norm_torch.gated_rms_norm,
            "torch's rms_norm in float32",
            kernels="timeviper.ops.norm_triton:gated_rms_norm",
        ),
        "add_rms_norm": _torch_or_triton(
            norm_torch.add_rms_norm,
            "a sum, then torch's rms_norm",
            kernels="timeviper.ops.norm_row_triton:add_rms_norm",
        ),
        "add_rms_norm_fp8": _torch_or_triton(
            norm_torch.add_rms_norm_fp8,
            "a sum, torch's rms_norm and rounding",
            kernels="timeviper.ops.norm_row_triton:add_rms_norm_fp8",
        ),
        "gated_rms_norm_fp8": _torch_or_triton(
            norm_torch.gated_rms_norm_fp8,
            "torch's rms_norm and rounding",
            kernels="timeviper.ops.norm_row_triton:gated_rms_norm_fp8",
        ),
        "squared_relu": _torch_or_triton(
            activation_torch.squared_relu,
            "two passes of plain torch",
            kernels="timeviper.ops.activation_triton:squared_relu",
        ),
        "quantize": _torch_or_triton(
            linear_torch.quantize,
            "several passes of plain torch",
            kernels="timeviper.ops.linear_triton:quantize",
        ),
        "fp8_linear": (
            Implementation(
                name="scaled_mm", run=linear_scaled.fp8_linear, probe=probe_fp8, priority=10
            ),
            Implementation(
                name="emulated", run=linear_torch.fp8_linear, probe=linear_torch.probe_emulation
            ),
        ),
        "patch_attention": (
            Implementation(
                name="cudnn",
                run=patch_attention_cudnn.patch_attention,
                probe=patch_attention_cudnn.probe_cudnn,
                priority=10,
            ),
            *_only("sdpa", patch_attention_torch.patch_attention, "torch's choice of kernel"),
        ),
        "add_layer_norm": _torch_or_triton(
            layer_norm_torch.add_layer_norm,
            "a sum, then torch's layer_norm",
            kernels="timeviper.ops.layer_norm_triton:add_layer_norm",
        ),
        "linear_gelu": (
            Implementation(
                name="fused",
                run=linear_gelu_torch.fused_linear_gelu,
                probe=linear_gelu_torch.probe_fused,
                priority=10,
            ),
            *_only("torch", linear_gelu_torch.linear_gelu, "a product, then torch's gelu"),
        ),
        "fp8_product": (
            Implementation(
                name="scaled_mm", run=fp8_product_torch.device_product, probe=probe_fp8, priority=10
            ),
            Implementation(
                name="emulated",
                run=fp8_product_torch.emulated_product,
                probe=linear_torch.probe_emulation,
            ),
        ),
        "add_product": _torch_or_triton(
            fp8_product_torch.add_product,
            "plain torch",
            kernels="timeviper.ops.fp8_product_triton:add_product",
        ),
        "add_product_norm": _torch_or_triton(
            fp8_product_torch.add_product_norm,
            "plain torch",
            kernels="timeviper.ops.fp8_product_triton:add_product_norm",
        ),
        "tome": _only("torch", merge.tome, "products with zeros and ones in plain torch"),
    }
)

# Per context, not per process: two threads or tasks may override differently.
_OVERRIDES: ContextVar[dict[str, str] | None] = ContextVar("timeviper_op_overrides", default=None)


def names(op: str) -> tuple[str, ...]:
    """Implementations of an op, best first.

    Args:
        op: name of the op, "ssd" for instance.

    Returns:
        Their names by falling priority.

    Raises:
        ConfigError: there is no such op.
    """
    return tuple(i.name for i in _implementations(op))


def choose(op: str, name: str | None = None, *, device_type: str | None = None) -> Choice:
    """Settle what an op runs on.

    Args:
        op: name of the op.
        name: the implementation asked for; None leaves it to an override, then to the probes.
        device_type: where the tensors are; None means this machine's best device.

    Returns:
        The choice with its reason.

    Raises:
        ConfigError: no such op or implementation, or the one asked for cannot run here.
    """
    device_type = device_type or _best_device_type()
    overridden = (_OVERRIDES.get() or {}).get(op)
    asked = name or overridden
    if asked is None and device_type == "meta" and op in hollow.OPS:
        return Choice(op=op, name="hollow", why="no data, only memory", run=hollow.OPS[op])
    if asked is None:
        for entry in _implementations(op):
            probe = entry.probe(device_type)
            if probe.available and not probe.by_name:
                return Choice(op=op, name=entry.name, why=probe.why, run=_load(entry))
        raise ConfigError(
            want=f"an implementation of {op} for {device_type}", got=None, do="use another device"
        )
    entry = _named(op, asked)
    probe = entry.probe(device_type)
    if not probe.available:
        raise ConfigError(
            want=f"{op} backend {asked!r} to run on {device_type}",
            got=probe.why,
            do=f"use one of {', '.join(names(op))}",
        )
    why = "asked for by the call" if name else "overridden"
    return Choice(op=op, name=asked, why=f"{why}; {probe.why}", run=_load(entry))


def explain(device_type: str | None = None) -> list[Choice]:
    """The choice of every op, for `doctor`.

    Args:
        device_type: "cpu" or "cuda"; None means this machine's best device.

    Returns:
        One choice an op, in the order of the table; named "none" where nothing can run it there.
    """
    return [_told(op, device_type or _best_device_type()) for op in _TABLE]


def _told(op: str, device_type: str) -> Choice:
    """The choice of an op, or why there is none."""
    try:
        return choose(op, device_type=device_type)
    except ConfigError as error:
        why = _implementations(op)[0].probe(device_type).why
        refused = error

    def refuse(*_: object) -> None:
        raise refused

    return Choice(op=op, name="none", why=why, run=refuse)


@contextmanager
def override(op: str, name: str) -> Generator[None]:
    """Run an op on a named implementation inside a `with` block.

    Args:
        op: name of the op.
        name: one of `names(op)`.

    Raises:
        ConfigError: no such op or implementation.
    """
    _named(op, name)
    token = _OVERRIDES.set({**(_OVERRIDES.get() or {}), op: name})
    try:
        yield
    finally:
        _OVERRIDES.reset(token)


def _implementations(op: str) -> list[Implementation]:
    """Entries of an op by falling priority."""
    if op not in _TABLE:
        raise ConfigError(want=f"one of the ops {', '.join(_TABLE)}", got=op, do="fix the name")
    return sorted(_TABLE[op], key=lambda entry: -entry.priority)


def _named(op: str, name: str) -> Implementation:
    """The entry of that name."""
    for entry in _implementations(op):
        if entry.name == name:
            return entry
    raise ConfigError(
        want=f"a backend of {op}: {', '.join(names(op))}", got=name, do="pick one of them"
    )


def _load(entry: Implementation) -> Callable[..., Any]:
    """The function of an entry, its module imported when it is given by name."""
    if not isinstance(entry.run, str):
        return entry.run
    module, function = entry.run.split(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return loaded


def _best_device_type() -> str:
    """What `pick_device` would take, without making a device."""
    return "cuda" if torch.cuda.is_available() else "cpu"
