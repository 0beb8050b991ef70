"""The fused elementwise kernels on a CUDA device, at sizes of training and of the 9B model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from timeviper.ops import backend
from timeviper.ops.activation import squared_relu
from timeviper.ops.conv1d import causal_conv1d
from timeviper.ops.norm import gated_rms_norm, rms_norm

pytestmark = pytest.mark.gpu

DTYPES = pytest.mark.parametrize(
    ("dtype", "precision"),
    [(torch.float64, "f64"), (torch.float32, "f32"), (torch.bfloat16, "bf16")],
)

Op = Callable[..., Tensor]


def _leaf(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=dtype).requires_grad_()


def _slice(rows: int, width: int, before: int, dtype: torch.dtype) -> Tensor:
    """Some columns of a wider projection whose rows are multiples of no vector load."""
    wide = torch.randn(rows, before + width + 12, device="cuda", dtype=dtype)
    return wide[:, before : before + width].requires_grad_()


def _agree(op: Op, leaves: dict[str, Tensor], tol: float) -> None:
    """The kernels in their precision against plain torch in float64, twice the same bits."""
    high = {n: v.detach().double().requires_grad_() for n, v in leaves.items()}
    got, want = op(**leaves, backend="triton"), op(**high, backend="torch")
    close("y", got=got, want=want, tol=tol)
    dy = torch.randn_like(want)
    found = torch.autograd.grad(got, list(leaves.values()), dy.to(got.dtype), retain_graph=True)
    wanted = torch.autograd.grad(want, list(high.values()), dy.to(got.dtype).double())
    again = torch.autograd.grad(got, list(leaves.values()), dy.to(got.dtype))
    for name, a, b, c in zip(leaves, found, wanted, again, strict=True):
        assert a.dtype == leaves[name].dtype
        assert torch.equal(a, c)
        close(f"gradient of {name}", got=a, want=b, tol=tol)


@pytest.mark.parametrize("op", ["causal_conv1d", "rms_norm", "gated_rms_norm", "squared_relu"])
def test_the_kernels_are_what_a_cuda_device_gets(op: str) -> None:
    assert backend.choose(op, device_type="cuda").name == "triton"


@DTYPES
@pytest.mark.parametrize("channels", [896, 100])
@pytest.mark.parametrize("lengths", [[1024] * 3, [1500, 0, 1, 300, 2], [1] * 5], ids=str)
def test_convolution(dtype: torch.dtype, precision: str, channels: int, lengths: list[int]) -> None:
    weights = dtype if dtype == torch.float64 else torch.float32
    leaves = {
        "x": _slice(sum(lengths), channels, 768, dtype),
        "weight": _leaf(channels, 4, dtype=weights),
        "bias": _leaf(channels, dtype=weights),
        "tail": _leaf(len(lengths), 3, channels, dtype=dtype),
    }

    def outputs_and_tails(backend: str, **leaves: Tensor) -> Tensor:
        y, tail = causal_conv1d(**leaves, lengths=lengths, backend=backend)
        return torch.cat([y, tail.flatten(0, 1)])

    _agree(outputs_and_tails, leaves, 2 * getattr(TOL.conv1d, precision))


@DTYPES
@pytest.mark.parametrize(("width", "group_size"), [(768, 768), (10_240, 1280), (96, 24)])
def test_gated_norm(dtype: torch.dtype, precision: str, width: int, group_size: int) -> None:
    weights = dtype if dtype == torch.float64 else torch.float32
    leaves = {
        "x": _leaf(700, width, dtype=dtype),
        "gate": _slice(700, width, 0, dtype),
        "weight": _leaf(width, dtype=weights),
    }

    def op(backend: str, **leaves: Tensor) -> Tensor:
        return gated_rms_norm(**leaves, eps=1e-5, group_size=group_size, backend=backend)

    _agree(op, leaves, 2 * getattr(TOL.norm, precision))


@DTYPES
@pytest.mark.parametrize("shape", [(3000, 384), (300, 4480), (50, 12, 128), (9000, 64)], ids=str)
def test_rms_norm(dtype: torch.dtype, precision: str, shape: tuple[int, ...]) -> None:
    weights = dtype if dtype == torch.float64 else torch.float32
    leaves = {"x": _leaf(*shape, dtype=dtype), "weight": _leaf(shape[-1], dtype=weights)}

    def op(backend: str, **leaves: Tensor) -> Tensor:
        return rms_norm(leaves["x"], leaves["weight"], 1e-5, backend=backend)

    _agree(op, leaves, 2 * getattr(TOL.norm, precision))


@DTYPES
@pytest.mark.parametrize("shape", [(3000, 1024), (7, 15_680), (1, 1)], ids=str)
def test_squared_relu(dtype: torch.dtype, precision: str, shape: tuple[int, ...]) -> None:
    leaves = {"x": _leaf(*shape, dtype=dtype)}
    _agree(squared_relu, leaves, getattr(TOL.activation, precision))


def test_places_beyond_32_bits() -> None:
    """180,000 tokens of the 9B model are 2.2e9 elements a tensor: wrapped offsets would show."""
    tokens, channels, last = 180_000, 12_288, 64
    x = torch.randn(tokens, channels, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(channels, 4, device="cuda")
    end, start = x[-last:].clone(), x[-last - 3 : -last].clone()
    tail = start[None]
    want, _ = causal_conv1d(end, weight, None, tail, lengths=[last], backend="torch")
    got, _ = causal_conv1d(x, weight, lengths=[tokens], backend="triton")
    close("convolution", got=got[-last:], want=want, tol=TOL.conv1d.bf16)
    leaf = x.requires_grad_()
    y, _ = causal_conv1d(leaf, weight, lengths=[tokens], backend="triton")
    (dx,) = torch.autograd.grad(y, [leaf], torch.ones_like(y))
    small = end.requires_grad_()
    y, _ = causal_conv1d(small, weight, None, tail, lengths=[last], backend="torch")
    (wanted,) = torch.autograd.grad(y, [small], torch.ones_like(y))
    close("gradient", got=dx[-last:], want=wanted, tol=TOL.conv1d.bf16)
    scale = torch.rand(channels, device="cuda")
    got = rms_norm(leaf.detach(), scale, 1e-5, backend="triton")[-last:]
    want = rms_norm(end.detach(), scale, 1e-5, backend="torch")
    close("norm", got=got, want=want, tol=TOL.norm.bf16)
    got = squared_relu(leaf.detach(), backend="triton")[-last:]
    want = squared_relu(end.detach(), backend="torch")
    close("squared ReLU", got=got, want=want, tol=TOL.activation.bf16)
