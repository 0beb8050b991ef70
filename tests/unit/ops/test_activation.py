"""Squared ReLU: its formula, its gradient, its precision under autocast; the kernel as torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.ops.draws import gradients
from timeviper.ops.activation import squared_relu

F64 = torch.float64


@pytest.fixture(params=["torch", "triton"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "triton":
        pytest.importorskip("triton", reason="no Triton for this platform")
        from timeviper.ops import activation_triton

        monkeypatch.setattr(activation_triton, "_BLOCK", 16)
    return name


@pytest.mark.parametrize("shape", [(1,), (16,), (5, 7), (0, 3), (2, 3, 4)], ids=str)
def test_formula_and_gradient(backend: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, dtype=F64, requires_grad=True)
    y = squared_relu(x, backend=backend)
    close("y", got=y, want=x.clamp(min=0) ** 2, tol=TOL.activation.f64)
    (dx,) = gradients([y], [x])
    (want,) = gradients([x.clamp(min=0) ** 2], [x])
    close("gradient", got=dx, want=want, tol=TOL.activation.f64)


@pytest.mark.parametrize(("dtype", "precision"), [(torch.float32, "f32"), (torch.bfloat16, "bf16")])
def test_working_precisions(backend: str, dtype: torch.dtype, precision: str) -> None:
    x = torch.randn(50, dtype=dtype, requires_grad=True)
    y = squared_relu(x, backend=backend)
    (dx,) = torch.autograd.grad(y.sum(), [x])
    assert y.dtype == dx.dtype == dtype
    tol = getattr(TOL.activation, precision)
    close("y", got=y, want=x.double().clamp(min=0) ** 2, tol=tol)
    close("gradient", got=dx, want=2 * x.double().clamp(min=0), tol=tol)


def test_autocast_does_not_widen_it(backend: str) -> None:
    x = torch.randn(8, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        assert squared_relu(x, backend=backend).dtype == torch.bfloat16


def test_values_that_do_not_lie_side_by_side(backend: str) -> None:
    x = torch.randn(6, 8, dtype=F64).t()[1:5].requires_grad_()
    y = squared_relu(x, backend=backend)
    close("y", got=y, want=x.clamp(min=0) ** 2, tol=TOL.activation.f64)
    dy = torch.randn(6, 4, dtype=F64).t()
    (dx,) = torch.autograd.grad(y, [x], dy)
    close("gradient", got=dx, want=2 * x.clamp(min=0) * dy, tol=TOL.activation.f64)


def test_what_is_not_a_number_stays_so(backend: str) -> None:
    y = squared_relu(torch.tensor([torch.nan, -torch.inf, torch.inf]), backend=backend)
    assert y[0].isnan()
    assert y[1:].tolist() == [0.0, torch.inf]


def test_scratch_is_written_before_it_is_read(backend: str, spoiled_scratch: None) -> None:
    x = torch.randn(37, dtype=F64, requires_grad=True)
    y: Tensor = squared_relu(x, backend=backend)
    for value in (y, *gradients([y], [x])):
        assert value.isfinite().all()
