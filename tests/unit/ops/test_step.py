"""The single step: as the convolution and the scan called with one token a sequence."""

from __future__ import annotations

import importlib.util
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from timeviper.core.errors import LayoutError
from timeviper.ops.conv1d import causal_conv1d
from timeviper.ops.ssd import ssd
from timeviper.ops.step import StepWeights, mamba_step

BACKENDS = ["torch", *(["triton"] if importlib.util.find_spec("triton") else [])]


class Sizes(NamedTuple):
    heads: int = 4
    # Not a multiple of what a program of the kernel takes.
    head_dim: int = 20
    groups: int = 2
    size: int = 5
    width: int = 4

    @property
    def channels(self) -> int:
        return self.heads * self.head_dim + 2 * self.groups * self.size


def _weights(s: Sizes, dtype: torch.dtype, *, bias: bool = True) -> StepWeights:
    return StepWeights(
        filters=torch.randn(s.channels, s.width, dtype=dtype),
        bias=torch.randn(s.channels, dtype=dtype) if bias else None,
        A=-0.1 - 4 * torch.rand(s.heads, dtype=torch.promote_types(dtype, torch.float32)),
        D=torch.randn(s.heads, dtype=dtype),
        dt_bias=torch.randn(s.heads, dtype=dtype) - 2,
    )


def _one_by_one(
    s: Sizes, w: StepWeights, xbc: Tensor, dt: Tensor, start: tuple[Tensor, Tensor], limit
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (sequence, token, …), tail and state by the ops that take any length."""
    sequences, tokens = xbc.shape[:2]
    lengths = [tokens] * sequences
    mixed, tail = causal_conv1d(
        xbc.flatten(0, 1), w.filters, w.bias, start[0], lengths=lengths, backend="torch"
    )
    both = s.groups * s.size
    x, b, c = mixed.split([s.heads * s.head_dim, both, both], -1)
    b, c = (t.unflatten(-1, (s.groups, s.size)) for t in (b, c))
    y, ssm = ssd(
        x.unflatten(-1, (s.heads, s.head_dim)),
        dt.flatten(0, 1),
        w.A,
        b,
        c,
        w.D,
        start[1],
        lengths=lengths,
        dt_bias=w.dt_bias,
        dt_softplus=True,
        dt_limit=limit,
        backend="reference",
    )
    return y.unflatten(0, (sequences, tokens)), tail, ssm


_SIZES = Sizes()


def _agree(
    backend: str,
    *,
    sizes: Sizes = _SIZES,
    sequences: int = 3,
    dtype: torch.dtype = torch.float64,
    bias: bool = True,
    limit: tuple[float, float] = (0.0, float("inf")),
) -> None:
    """Six steps from a ring that each sequence has turned differently."""
    s, w, tokens = sizes, _weights(sizes, dtype, bias=bias), 6
    kept = torch.promote_types(dtype, torch.float32)
    # Slices of wider rows, as a projection gives them.
    wide = torch.randn(sequences, tokens, s.channels + s.heads + 3, dtype=dtype)
    xbc, dt = wide[..., 2 : 2 + s.channels], wide[..., 3 + s.channels :][..., : s.heads]
    tail = torch.randn(sequences, s.width - 1, s.channels, dtype=dtype)
    ssm = torch.randn(sequences, s.heads, s.head_dim, s.size, dtype=kept)
    want, want_tail, want_ssm = _one_by_one(s, w, xbc, dt, (tail, ssm), limit)
    place = torch.arange(sequences) * 3 + s.width - 1
    ring = torch.full((sequences, s.width, s.channels), torch.nan, dtype=dtype)
    for row, first in enumerate((place + 1).tolist()):
        for age in range(s.width - 1):
            ring[row, (first + age) % s.width] = tail[row, age]
    outputs: list[Tensor] = []
    for token in range(tokens):
        call = {"ring": ring, "ssm": ssm, "place": place + token, "dt_limit": limit}
        outputs.append(mamba_step(xbc[:, token], dt[:, token], w, **call, backend=backend))
    tol = {torch.float64: "f64", torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
    close("y", got=torch.stack(outputs, 1), want=want, tol=getattr(TOL.ssd, tol))
    close("state", got=ssm, want=want_ssm, tol=getattr(TOL.ssd, tol))
    newest = (place + tokens - 1).tolist()
    for row in range(sequences):
        slots = [(newest[row] - age) % s.width for age in reversed(range(s.width - 1))]
        assert torch.equal(ring[row, slots], want_tail[row])
    assert outputs[0].dtype == dtype
    assert ssm.dtype == kept


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_are_one_call_of_many_tokens(backend: str, spoiled_scratch: None) -> None:
    _agree(backend)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_other_precisions(backend: str, dtype: torch.dtype) -> None:
    _agree(backend, dtype=dtype, sequences=2)


@pytest.mark.parametrize("width", [1, 2, 5])
@pytest.mark.parametrize("backend", BACKENDS)
def test_widths(backend: str, width: int) -> None:
    _agree(backend, sizes=Sizes(width=width), sequences=1)


@pytest.mark.parametrize("backend", BACKENDS)
def test_limits_one_group_and_no_bias(backend: str) -> None:
    _agree(backend, sizes=Sizes(groups=1, size=16), bias=False, limit=(0.05, 0.2))


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_and_small_step_sizes(backend: str) -> None:
    s = Sizes()
    w = _weights(s, torch.float64)
    xbc, dt = torch.randn(4, 1, s.channels).double(), torch.zeros(4, 1, s.heads).double()
    dt[:, 0] = torch.tensor([-60.0, -30.0, 40.0, 800.0])[:, None]
    tail = torch.zeros(4, s.width - 1, s.channels).double()
    ssm = torch.randn(4, s.heads, s.head_dim, s.size).double()
    want, _, want_ssm = _one_by_one(s, w, xbc, dt, (tail, ssm), (0.0, float("inf")))
    ring, place = torch.zeros(4, s.width, s.channels).double(), torch.zeros(4, dtype=torch.int64)
    got = mamba_step(xbc[:, 0], dt[:, 0], w, ring=ring, ssm=ssm, place=place, backend=backend)
    close("y", got=got, want=want[:, 0], tol=TOL.ssd.f64)
    close("state", got=ssm, want=want_ssm, tol=TOL.ssd.f64)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_sequences(backend: str) -> None:
    s = Sizes()
    got = mamba_step(
        torch.zeros(0, s.channels),
        torch.zeros(0, s.heads),
        _weights(s, torch.float32),
        ring=torch.zeros(0, s.width, s.channels),
        ssm=torch.zeros(0, s.heads, s.head_dim, s.size),
        place=torch.zeros(0, dtype=torch.int64),
        backend=backend,
    )
    assert got.shape == (0, s.heads, s.head_dim)


def test_rows_and_channels_that_do_not_fit_are_refused() -> None:
    s = Sizes()
    good = {
        "ring": torch.zeros(2, s.width, s.channels),
        "ssm": torch.zeros(2, s.heads, s.head_dim, s.size),
        "place": torch.zeros(2, dtype=torch.int64),
    }
    xbc, dt, w = torch.zeros(2, s.channels), torch.zeros(2, s.heads), _weights(s, torch.float32)
    mamba_step(xbc, dt, w, **good)
    odd = torch.zeros(2, s.channels + 1)
    ring = torch.zeros(2, s.width, s.channels + 1)
    weights = w._replace(filters=torch.zeros(s.channels + 1, s.width), bias=None)
    with pytest.raises(LayoutError, match=r"B and C of 5 a group.*got 101 channels"):
        mamba_step(odd, dt, weights, **{**good, "ring": ring})


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_on_a_gpu(dtype: torch.dtype) -> None:
    with torch.device("cuda"):
        _agree("triton", sizes=Sizes(8, 80, 4, 128), sequences=9, dtype=dtype)
