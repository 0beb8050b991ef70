"""The one table of tolerances, at home and in CI; a looser number needs a decision record."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import torch

Values = torch.Tensor | np.ndarray | float | list[float]


@dataclass(frozen=True, kw_only=True)
class Tol:
    """Allowed relative error ||got - want|| / ||want|| for each precision of the operands."""

    f64: float = 1e-12
    f32: float
    bf16: float = 2e-2


TOL = SimpleNamespace(
    ssd=Tol(f64=1e-11, f32=5e-6, bf16=1e-2),
    ssd_grad=Tol(f64=1e-10, f32=2e-5, bf16=3e-2),
    conv1d=Tol(f32=1e-6, bf16=1e-2),
    attention=Tol(f32=2e-6, bf16=1e-2),
    rotary=Tol(f32=2e-6, bf16=1e-2),
    norm=Tol(f32=1e-6, bf16=1e-2),
    activation=Tol(f32=1e-6, bf16=1e-2),
    # Three bits after the point: 2.6 % on average, in each operand of a product.
    fp8=Tol(f32=4e-2, bf16=1e-2),
    merge=Tol(f32=2e-6, bf16=1e-2),
    cross_entropy=Tol(f32=2e-6, bf16=1e-2),
    # Many layers in a row: rounding adds up.
    model=Tol(f64=1e-10, f32=1e-5, bf16=3e-2),
    cuts=Tol(f64=1e-10, f32=1e-5, bf16=3e-2),
    parity=Tol(f64=1e-10, f32=1e-5, bf16=3e-2),
    vision=Tol(f32=1e-5, bf16=3e-2),
    # Pixels pass through a lossy codec: relative error of whole frames.
    video=Tol(f32=5e-2),
    times=Tol(f64=1e-9, f32=1e-6),
    weights=Tol(f64=0.0, f32=0.0, bf16=0.0),
    training=Tol(f64=1e-9, f32=2e-5, bf16=3e-2),
    # Weights after some steps of another sharding; a bias of keys has no true gradient
    # (decision 0013), so Adam makes steps of its rounding.
    sharded=Tol(f32=1e-4),
    unlearned=Tol(f32=1e-2),
)


def _array(values: Values) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().to("cpu")
        values = values.double().numpy() if not values.is_complex() else values.numpy()
    return np.asarray(values, dtype=np.float64)


def close(name: str, *, got: Values, want: Values, tol: float) -> None:
    """Fail when `got` is further from `want` than `tol`, relative to the size of `want`.

    Args:
        name: what is compared, for the message.
        got: result under test.
        want: the oracle's result; same shape.
        tol: largest ||got - want|| / ||want||, a number of `TOL`.

    Raises:
        AssertionError: shapes differ, a value is not finite where the oracle's is, or the
            error is too large.
    """
    __tracebackhide__ = True
    left, right = _array(got), _array(want)
    if left.shape != right.shape:
        raise AssertionError(f"{name}: shape {left.shape}, want {right.shape}")
    infinite = ~np.isfinite(right)
    if np.isnan(right).any():
        raise AssertionError(f"{name}: the oracle itself holds NaN")
    if not np.array_equal(left[infinite], right[infinite]):
        raise AssertionError(f"{name}: infinities at other places than the oracle's")
    left, right = left[~infinite], right[~infinite]
    wrong = int((~np.isfinite(left)).sum())
    if wrong:
        raise AssertionError(f"{name}: {wrong} of {left.size} values are NaN or infinite")
    if left.size == 0:
        return
    gap, size = float(np.linalg.norm(left - right)), float(np.linalg.norm(right))
    error = gap / size if size > 0 else gap
    if error > tol:
        worst = float(np.abs(left - right).max())
        raise AssertionError(
            f"{name}: relative error {error:.3g} > {tol:.3g} (largest difference {worst:.3g}, "
            f"size of the oracle {size:.3g}, {left.size} values)"
        )
