"""The short convolution against torch's own, with tails, boundaries and gradients."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.tolerances import TOL, close
from tests.unit.ops.draws import gradients, unchecked
from timeviper.core.errors import ConfigError, LayoutError
from timeviper.ops.conv1d import causal_conv1d


def slow_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    tail: Tensor,
    lengths: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """The convolution of torch on each sequence by itself, its tail in front."""
    outputs, tails = [], []
    for s, piece in enumerate(x.split(list(lengths))):
        extended = torch.cat([tail[s], piece])
        tails.append(extended[len(piece) :])
        if len(piece):
            y = F.conv1d(extended.t()[None], weight[:, None], bias, groups=x.shape[1])
            outputs.append(F.silu(y[0].t()))
    return torch.cat([*outputs, x[:0]]), torch.stack(tails)


def _operands(
    lengths: Sequence[int], width: int = 4, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    channels = 6
    shapes = [
        (sum(lengths), channels),
        (channels, width),
        (channels,),
        (len(lengths), width - 1, channels),
    ]
    return [torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes]


LENGTHS = [[1], [9], [1, 1, 1], [2, 2], [4, 0, 7, 1], [0, 0], [0, 1, 0, 30, 2]]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("width", [1, 2, 4])
def test_outputs_tails_and_gradients_are_torchs(lengths: list[int], width: int) -> None:
    leaves = _operands(lengths, width)
    got = causal_conv1d(*leaves, lengths=lengths)
    want = slow_conv1d(*leaves, lengths)
    close("y", got=got[0], want=want[0], tol=TOL.conv1d.f64)
    close("tail", got=got[1], want=want[1], tol=TOL.conv1d.f64)
    for name, a, b in zip("xwbt", gradients(got, leaves), gradients(want, leaves), strict=True):
        close(f"gradient of {name}", got=a, want=b, tol=TOL.conv1d.f64)


@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float32, TOL.conv1d.f32), (torch.bfloat16, TOL.conv1d.bf16)]
)
@pytest.mark.parametrize("lengths", [[40], [25, 3]])
def test_working_precisions(dtype: torch.dtype, tol: float, lengths: list[int]) -> None:
    low = [value.detach().to(dtype) for value in _operands(lengths)]
    y, tail = causal_conv1d(*low, lengths=lengths)
    want, _ = slow_conv1d(*[value.double() for value in low], lengths)
    assert y.dtype == tail.dtype == dtype
    close("y", got=y, want=want, tol=tol)


def test_no_tail_means_zeros_before_the_start() -> None:
    x, weight, bias, tail = _operands([5, 3])
    got = causal_conv1d(x, weight, bias, lengths=[5, 3])
    want = causal_conv1d(x, weight, bias, torch.zeros_like(tail), lengths=[5, 3])
    close("y", got=got[0], want=want[0], tol=0.0)


def test_without_activation_and_bias_it_is_linear() -> None:
    x, weight, _, _ = _operands([8])
    once, _ = causal_conv1d(x, weight, lengths=[8], activation=None)
    twice, _ = causal_conv1d(2 * x, weight, lengths=[8], activation=None)
    close("linear", got=twice, want=2 * once, tol=TOL.conv1d.f64)
    close("last tap is now", got=once[0], want=x[0] * weight[:, -1], tol=TOL.conv1d.f64)


def test_the_future_and_other_sequences_are_not_seen() -> None:
    x, weight, bias, tail = (value.detach() for value in _operands([4, 4, 2]))
    before, _ = causal_conv1d(x, weight, bias, tail, lengths=[4, 4, 2])
    x[6:] = torch.nan
    tail[0] = torch.nan
    after, tails = causal_conv1d(x, weight, bias, tail, lengths=[4, 4, 2])
    close("clean part", got=after[4:6], want=before[4:6], tol=0.0)
    assert after[:3].isnan().all()
    assert tails[0].isfinite().all()


def test_a_tail_does_not_keep_the_input_alive() -> None:
    x, weight, bias, _ = (value.detach() for value in _operands([50]))
    _, tail = causal_conv1d(x, weight, bias, lengths=[50])
    assert tail.untyped_storage().nbytes() == tail.numel() * tail.element_size()


def test_gradcheck() -> None:
    leaves = _operands([3, 1], width=3)
    assert torch.autograd.gradcheck(lambda *a: causal_conv1d(*a, lengths=[3, 1]), leaves)


def test_refusals_name_the_numbers() -> None:
    x, weight, bias, tail = (value.detach() for value in _operands([5, 3]))
    conv = unchecked(causal_conv1d)
    with pytest.raises(LayoutError, match="sum to the 8 packed tokens"):
        conv(x, weight, bias, tail, lengths=[5, 2])
    with pytest.raises(LayoutError, match=r"\(1, 3, 6\)"):
        conv(x, weight, bias, tail, lengths=[8])
    with pytest.raises(LayoutError, match="each of 6 channels"):
        conv(x, weight[:5], None, tail, lengths=[5, 3])
    with pytest.raises(ConfigError, match="'silu' or None"):
        conv(x, weight, bias, tail, lengths=[5, 3], activation="relu")
