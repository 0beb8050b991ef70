"""The loss in parts is the loss at once, with its gradients, and never holds all scores."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tolerances import TOL, close
from timeviper.core.errors import LayoutError
from timeviper.ops.cross_entropy import linear_cross_entropy, linear_cross_entropy_reference

WORDS, WIDTH = 37, 8


def operands(rows: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    hidden = torch.randn(rows, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(WORDS, WIDTH, generator=generator).to(dtype).requires_grad_()
    return hidden, weight, torch.randint(WORDS, (rows,), generator=generator)


def slopes(rows: int) -> Tensor:
    return torch.linspace(-1, 2, rows, dtype=torch.float64)


@pytest.mark.parametrize("rows", [1, 2, 7, 13])
@pytest.mark.parametrize("at_once", [1, WORDS, 3 * WORDS, 10**6])
def test_parts_of_any_size_are_the_oracle(rows: int, at_once: int) -> None:
    found, wanted = operands(rows), operands(rows)
    got, best = linear_cross_entropy(*found, at_once=at_once)
    want, first = linear_cross_entropy_reference(*wanted)
    close("loss", got=got, want=want, tol=TOL.cross_entropy.f64)
    assert torch.equal(best, first)
    for losses in (got, want):
        (losses * slopes(rows)).sum().backward()
    for name, a, b in zip(("hidden", "weight"), found, wanted, strict=False):
        close(name, got=a.grad, want=b.grad, tol=TOL.cross_entropy.f64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_coarse_operands_sum_in_float32(dtype: torch.dtype) -> None:
    tol = TOL.cross_entropy.f32 if dtype == torch.float32 else TOL.cross_entropy.bf16
    found = operands(50, dtype)
    exact = [t.detach().double().requires_grad_() for t in found[:2]]
    got, _ = linear_cross_entropy(*found, at_once=4 * WORDS)
    want, _ = linear_cross_entropy_reference(exact[0], exact[1], found[2])
    assert got.dtype == torch.float32
    close("loss", got=got, want=want, tol=tol)
    got.sum().backward()
    want.sum().backward()
    for name, a, b in zip(("hidden", "weight"), found, exact, strict=False):
        assert a.grad.dtype == dtype
        close(name, got=a.grad, want=b.grad, tol=tol)


def test_under_autocast_products_are_coarse_and_gradients_are_not() -> None:
    found, wanted = operands(20, torch.float32), operands(20, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got, _ = linear_cross_entropy(*found)
    got.sum().backward()
    want, _ = linear_cross_entropy_reference(*wanted)
    want.sum().backward()
    close("loss", got=got, want=want, tol=TOL.cross_entropy.bf16)
    assert not torch.equal(got, want)
    assert found[1].grad.dtype == torch.float32
    close("weight", got=found[1].grad, want=wanted[1].grad, tol=TOL.cross_entropy.bf16)


class Largest(TorchDispatchMode):
    """Remembers the numbers of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for one in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(one, Tensor):
                self.numel = max(self.numel, one.numel())
        return out


def test_nothing_as_large_as_the_scores_ever_exists() -> None:
    rows = 400
    at_once = 20 * WORDS
    with Largest() as seen:
        losses, _ = linear_cross_entropy(*operands(rows), at_once=at_once)
        losses.sum().backward()
    # The operands themselves, and the scores of the rows of one part.
    assert seen.numel == max(rows * WIDTH, at_once)
    with Largest() as seen:
        linear_cross_entropy_reference(*operands(rows))
    assert seen.numel == rows * WORDS


def test_frozen_words_get_no_gradient() -> None:
    hidden, weight, target = operands(5)
    weight.requires_grad_(requires_grad=False)
    losses, _ = linear_cross_entropy(hidden, weight, target)
    losses.sum().backward()
    assert weight.grad is None
    assert hidden.grad is not None


def test_scores_far_from_zero_stay_finite() -> None:
    hidden, weight, target = operands(5, torch.float32)
    losses, _ = linear_cross_entropy(hidden * 1e4, weight, target)
    losses.sum().backward()
    assert losses.isfinite().all()
    assert weight.grad.isfinite().all()


def test_no_rows_have_no_loss() -> None:
    losses, best = linear_cross_entropy(*operands(0))
    assert losses.shape == best.shape == (0,)


def test_a_target_too_many_is_refused() -> None:
    hidden, weight, target = operands(3)
    with pytest.raises(LayoutError, match="3 targets, one a row"):
        linear_cross_entropy(hidden[:, :], weight, torch.cat([target, target]))
