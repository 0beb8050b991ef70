"""The row of one query: what attention gives, in pieces, with gradients, and what is refused."""

from __future__ import annotations

import weakref
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from timeviper.core.errors import LayoutError
from timeviper.ops.attention import attention
from timeviper.ops.attention_row import attention_row


def query_and_keys(heads: int, keys: int, *, kv_heads: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    q = torch.randn(heads, 8, dtype=torch.float64, requires_grad=True)
    k, v = (torch.randn(keys, kv_heads, 8, dtype=torch.float64) for _ in range(2))
    return q, k.requires_grad_(), v


@pytest.mark.parametrize("ratio", [1, 3])
@pytest.mark.parametrize("size", [1, 4, 11])
def test_the_row_times_the_values_is_the_attention_output(ratio: int, size: int) -> None:
    q, k, v = query_and_keys(2 * ratio, 11)
    want = attention(q[None], k[None], v[None], q_lengths=[1], k_lengths=[11])[0]
    row = attention_row(q, k.split(size))
    got = torch.einsum("hc,chd->hd", row, v.repeat_interleave(ratio, dim=1))
    close("y", got=got, want=want, tol=TOL.attention.f64)
    weight = torch.randn_like(want)
    for a, b in zip(
        torch.autograd.grad((got * weight).sum(), [q, k]),
        torch.autograd.grad((want * weight).sum(), [q, k]),
        strict=True,
    ):
        close("gradient", got=a, want=b, tol=TOL.attention.f64)


def test_low_precision_is_summed_in_float32_also_under_autocast() -> None:
    q, k, _ = query_and_keys(4, 9)
    low = q.detach().bfloat16(), k.detach().bfloat16()
    want = attention_row(low[0].double(), [low[1].double()])
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            row = attention_row(low[0], low[1].split(2))
        assert row.dtype == torch.float32
        close("row", got=row.double(), want=want, tol=TOL.attention.f32)


def test_scale_of_the_row() -> None:
    q, k, _ = query_and_keys(2, 5)
    got = attention_row(q, [k], scale=0.25)
    close("row", got=got, want=attention_row(q * 0.25 * 8**0.5, [k]), tol=TOL.attention.f64)


@torch.no_grad()
def test_no_piece_outlives_its_turn() -> None:
    q, alive = torch.randn(4, 8), 0
    most: list[int] = []

    def gone() -> None:
        nonlocal alive
        alive -= 1

    def pieces() -> Iterator[Tensor]:
        nonlocal alive
        for _ in range(6):
            piece = torch.randn(3, 2, 8)
            alive += 1
            weakref.finalize(piece, gone)
            most.append(alive)
            yield piece
            del piece

    attention_row(q, pieces())
    assert max(most) <= 2


def test_refusals() -> None:
    with pytest.raises(LayoutError, match="keys to attend to; got none"):
        attention_row(torch.randn(4, 8), [])
    with pytest.raises(LayoutError, match="divides 4 query heads; got 3"):
        attention_row(torch.randn(4, 8), [torch.randn(5, 3, 8)])
