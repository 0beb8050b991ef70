"""The convolution's kernels, interpreted: as plain torch in every output and gradient."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.ops.draws import gradients
from timeviper.ops import backend
from timeviper.ops.conv1d import causal_conv1d

pytest.importorskip("triton", reason="no Triton for this platform")

from timeviper.ops import conv1d_triton

F64 = torch.float64


@pytest.fixture(autouse=True)
def _small_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of few tokens and channels, so that tiny shapes have several programs and edges."""
    monkeypatch.setattr(conv1d_triton, "_FORWARD_ROWS", 4)
    monkeypatch.setattr(conv1d_triton, "_BACKWARD_ROWS", 8)
    monkeypatch.setattr(conv1d_triton, "_UNROLL", 2)
    monkeypatch.setattr(conv1d_triton, "_BLOCK_CHANNELS", 4)


def _operands(
    lengths: Sequence[int], *, width: int = 4, channels: int = 3, dtype: torch.dtype = F64
) -> dict[str, Tensor]:
    shapes = {
        "x": (sum(lengths), channels),
        "weight": (channels, width),
        "bias": (channels,),
        "tail": (len(lengths), width - 1, channels),
    }
    return {n: torch.randn(s, dtype=dtype).requires_grad_() for n, s in shapes.items()}


def _agree(o: dict[str, Tensor], lengths: Sequence[int], tol: float, **call: object) -> None:
    """Both variants, outputs and all gradients."""
    got = causal_conv1d(**o, lengths=lengths, backend="triton", **call)
    want = causal_conv1d(**o, lengths=lengths, backend="torch", **call)
    for name, a, b in zip(("y", "tail"), got, want, strict=True):
        assert a.dtype == b.dtype
        assert a.is_contiguous()
        close(name, got=a, want=b, tol=tol)
    found = gradients(got, list(o.values()))
    for name, a, b in zip(o, found, gradients(want, list(o.values())), strict=True):
        assert a.dtype == o[name].dtype
        close(f"gradient of {name}", got=a, want=b, tol=tol)


@pytest.mark.parametrize("lengths", [[1], [8], [4, 0, 6, 1], [0, 0]], ids=str)
def test_outputs_and_gradients(lengths: list[int]) -> None:
    _agree(_operands(lengths), lengths, TOL.conv1d.f64)


def test_more_channels_than_one_program_takes() -> None:
    _agree(_operands([5], channels=6), [5], TOL.conv1d.f64)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_widths(width: int) -> None:
    _agree(_operands([3, 1], width=width), [3, 1], TOL.conv1d.f64)


@pytest.mark.parametrize(
    ("left_out", "activation"), [("bias", "silu"), ("tail", "silu"), ("bias tail", None)]
)
def test_without_bias_tail_and_activation(left_out: str, activation: str | None) -> None:
    operands = {n: v for n, v in _operands([5, 0, 2]).items() if n not in left_out.split()}
    _agree(operands, [5, 0, 2], TOL.conv1d.f64, activation=activation)


def test_single_precision_sums_in_single_precision() -> None:
    _agree(_operands([5, 2], dtype=torch.float32), [5, 2], 2 * TOL.conv1d.f32)


def test_low_inputs_with_float32_weights_as_under_autocast() -> None:
    # The interpreter cuts bits off where a GPU rounds: twice the error.
    operands = _operands([5, 2], dtype=torch.float32)
    for name in ("x", "tail"):
        operands[name] = operands[name].detach().bfloat16().requires_grad_()
    _agree(operands, [5, 2], 2 * TOL.conv1d.bf16)


def test_a_tail_in_another_precision_is_rounded_as_in_torch() -> None:
    operands = _operands([3, 1], dtype=torch.float32)
    operands["tail"] = operands["tail"].detach().double().requires_grad_()
    _agree(operands, [3, 1], 2 * TOL.conv1d.f32)


@pytest.mark.parametrize("begin", [1, 4])
def test_a_slice_of_a_projection_is_read_where_it_lies(begin: int) -> None:
    o = _operands([3, 2], channels=4)
    wide = torch.full((5, 12), torch.nan, dtype=F64)
    with torch.no_grad():
        wide[:, begin : begin + 4] = o["x"]
    _agree({**o, "x": wide[:, begin : begin + 4].requires_grad_()}, [3, 2], TOL.conv1d.f64)


def test_channels_that_do_not_lie_side_by_side() -> None:
    o = _operands([3, 2])
    turned = o["x"].detach().t().contiguous().t().requires_grad_()
    _agree({**o, "x": turned}, [3, 2], TOL.conv1d.f64)


def test_scratch_is_written_before_it_is_read(spoiled_scratch: None) -> None:
    operands = _operands([5, 0, 9])
    got = causal_conv1d(**operands, lengths=[5, 0, 9], backend="triton")
    for value in (*got, *gradients(got, list(operands.values()))):
        assert value.isfinite().all()


def test_the_future_and_other_sequences_are_not_seen() -> None:
    o = {n: v.detach() for n, v in _operands([4, 4, 2]).items()}
    before, _ = causal_conv1d(**o, lengths=[4, 4, 2], backend="triton")
    o["x"][6:] = torch.nan
    o["tail"][0] = torch.nan
    after, tails = causal_conv1d(**o, lengths=[4, 4, 2], backend="triton")
    close("clean part", got=after[4:6], want=before[4:6], tol=0.0)
    assert after[:3].isnan().all()
    assert tails[0].isfinite().all()


def test_gradients_do_not_see_other_sequences() -> None:
    o = _operands([3, 3])
    with torch.no_grad():
        o["x"][2] = torch.nan
    y, _ = causal_conv1d(**o, lengths=[3, 3], backend="triton")
    (dx,) = torch.autograd.grad(y[3:].sum(), [o["x"]])
    assert dx[3:].isfinite().all()


def test_cut_and_carried_is_one_call() -> None:
    o = {n: v.detach() for n, v in _operands([8]).items()}
    whole, final = causal_conv1d(**o, lengths=[8], backend="triton")
    tail, outputs = o["tail"], []
    for piece in o["x"].split([1, 2, 0, 5]):
        call = {**o, "x": piece, "tail": tail}
        y, tail = causal_conv1d(**call, lengths=[len(piece)], backend="triton")
        outputs.append(y)
    close("y", got=torch.cat(outputs), want=whole, tol=TOL.conv1d.f64)
    close("tail", got=tail, want=final, tol=0.0)


def test_only_the_gradients_that_are_wanted() -> None:
    o = _operands([5])
    o["x"].requires_grad_(False)
    y, _ = causal_conv1d(**o, lengths=[5], backend="triton")
    y.sum().backward()
    assert o["x"].grad is None
    assert o["weight"].grad is not None


def test_no_sequences_at_all() -> None:
    o = {n: v.detach() for n, v in _operands([]).items()}
    y, tail = causal_conv1d(**o, lengths=[], backend="triton")
    assert (y.shape, tail.shape) == ((0, 3), (0, 3, 3))


def test_the_registry_runs_it_only_when_asked_here() -> None:
    assert backend.choose("causal_conv1d", device_type="cpu").name == "torch"
    with backend.override("causal_conv1d", "triton"):
        chosen = backend.choose("causal_conv1d", device_type="cpu")
    assert chosen.run.__module__ == "timeviper.ops.conv1d_triton"
    assert "interpreted" in chosen.why
