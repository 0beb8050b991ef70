"""The same ops on a CUDA device: float32 and bfloat16, outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.ops.draws import cached_keys, gradients, scan_operands, slow_attention
from timeviper.ops import ssd_reference
from timeviper.ops.attention import attention
from timeviper.ops.conv1d import causal_conv1d
from timeviper.ops.merge import tome
from timeviper.ops.ssd import ssd

pytestmark = pytest.mark.gpu

DTYPES = pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float32, "f32"), (torch.bfloat16, "bf16")]
)


def _both(leaves: dict[str, Tensor], dtype: torch.dtype) -> tuple[dict[str, Tensor], ...]:
    """The same values as leaves on the device and as float64 leaves here."""
    low = {n: v.detach().to("cuda", dtype).requires_grad_() for n, v in leaves.items()}
    high = {n: v.detach().cpu().double().requires_grad_() for n, v in low.items()}
    return low, high


@DTYPES
@pytest.mark.parametrize("lengths", [[700], [64, 64], [300, 5, 0, 17], [1, 1]], ids=str)
def test_scan(dtype: torch.dtype, precision: str, lengths: list[int]) -> None:
    operands = scan_operands(lengths, heads=8, head_dim=16, groups=2, size=16)
    low, high = _both(operands, dtype)
    got = ssd(**low, lengths=lengths, dt_softplus=True)
    want = ssd_reference.ssd(**high, lengths=lengths, dt_softplus=True)
    tol, grad_tol = getattr(TOL.ssd, precision), getattr(TOL.ssd_grad, precision)
    for name, a, b in zip(("y", "state"), got, want, strict=True):
        close(name, got=a, want=b, tol=tol)
    found = gradients([y.cpu() for y in got], list(low.values()))
    wanted = gradients(want, list(high.values()))
    for name, a, b in zip(low, found, wanted, strict=True):
        close(f"gradient of {name}", got=a, want=b, tol=grad_tol)


@DTYPES
@pytest.mark.parametrize(
    "lengths",
    [([9], [9]), ([300], [900]), ([1] * 3, [7] * 3), ([5, 0, 2] * 9, list(range(6, 33)))],
    ids=["whole", "cached", "step", "ragged"],
)
def test_attention(
    dtype: torch.dtype, precision: str, lengths: tuple[list[int], list[int]]
) -> None:
    q_lengths, k_lengths = lengths
    k, v = cached_keys(k_lengths, head_dim=16)
    q = torch.randn(sum(q_lengths), 8, 16)
    low, high = _both({"q": q, "k": k, "v": v}, dtype)
    call = {"q_lengths": q_lengths, "k_lengths": k_lengths}
    got = attention(**low, **call)
    want = slow_attention(**high, **call)
    tol = 2 * getattr(TOL.attention, precision)
    close("y", got=got, want=want, tol=tol)
    found = gradients([got.cpu()], list(low.values()))
    for a, b in zip(found, gradients([want], list(high.values())), strict=True):
        close("gradient", got=a, want=b, tol=2 * tol)


@DTYPES
@pytest.mark.parametrize("lengths", [[50], [20, 0, 7]], ids=str)
def test_convolution(dtype: torch.dtype, precision: str, lengths: list[int]) -> None:
    x, weight, bias = torch.randn(sum(lengths), 8), torch.randn(8, 4), torch.randn(8)
    low, high = _both({"x": x, "weight": weight, "bias": bias}, dtype)
    got, _ = causal_conv1d(**low, lengths=lengths)
    want, _ = causal_conv1d(**high, lengths=lengths)
    close("y", got=got, want=want, tol=getattr(TOL.conv1d, precision))


def test_merging_chooses_as_on_a_cpu() -> None:
    x = torch.randn(4, 64, 96)
    tokens, sizes = tome(x.cuda(), 4)
    want, want_sizes = tome(x, 4)
    close("sizes", got=sizes, want=want_sizes, tol=0.0)
    close("tokens", got=tokens, want=want, tol=TOL.merge.f32)
