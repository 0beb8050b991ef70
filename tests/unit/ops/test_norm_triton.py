"""The norms' kernels, interpreted: as plain torch in every output and gradient."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.ops.draws import gradients
from timeviper.ops import backend
from timeviper.ops.norm import gated_rms_norm, rms_norm

pytest.importorskip("triton", reason="no Triton for this platform")

from timeviper.ops import norm_triton

F64 = torch.float64

Op = Callable[[str], Tensor]


@pytest.fixture(autouse=True)
def _small_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few elements a program, so that a few rows need several programs of several tiles."""
    monkeypatch.setattr(norm_triton, "_FORWARD_ELEMENTS", 2)
    monkeypatch.setattr(norm_triton, "_BACKWARD_ELEMENTS", 1)
    monkeypatch.setattr(norm_triton, "_WARPS_WANTED", 4)


def _agree(op: Op, leaves: dict[str, Tensor], tol: float) -> None:
    """Both variants, output and all gradients."""
    got, want = op("triton"), op("torch")
    assert got.dtype == want.dtype
    assert got.is_contiguous()
    close("y", got=got, want=want, tol=tol)
    found, wanted = (gradients([y], list(leaves.values())) for y in (got, want))
    for (name, leaf), a, b in zip(leaves.items(), found, wanted, strict=True):
        assert a.dtype == leaf.dtype
        close(f"gradient of {name}", got=a, want=b, tol=tol)


def _leaf(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_()


def _rms(leaves: dict[str, Tensor]) -> Op:
    return lambda name: rms_norm(leaves["x"], leaves["weight"], 1e-5, backend=name)


def _gated(leaves: dict[str, Tensor], group_size: int) -> Op:
    return lambda name: gated_rms_norm(**leaves, eps=1e-5, group_size=group_size, backend=name)


@pytest.mark.parametrize("shape", [(1, 4), (3, 16), (19, 24), (2, 3, 5), (33,)], ids=str)
def test_rms_norm(shape: tuple[int, ...]) -> None:
    leaves = {"x": _leaf(*shape), "weight": _leaf(shape[-1])}
    _agree(_rms(leaves), leaves, TOL.norm.f64)


@pytest.mark.parametrize(
    ("rows", "width", "group_size"), [(1, 8, 8), (17, 24, 8), (5, 40, 20), (3, 6, 1)]
)
def test_gated_norm(rows: int, width: int, group_size: int) -> None:
    leaves = {"x": _leaf(rows, width), "gate": _leaf(rows, width), "weight": _leaf(width)}
    _agree(_gated(leaves, group_size), leaves, TOL.norm.f64)


@pytest.mark.parametrize("begin", [0, 5])
def test_slices_of_a_projection_are_read_where_they_lie(begin: int) -> None:
    wide = torch.full((6, 29), torch.nan, dtype=F64)
    wide[:, begin : begin + 12] = torch.randn(6, 12, dtype=F64)
    part = wide[:, begin : begin + 12].requires_grad_()
    leaves = {"x": _leaf(6, 12), "gate": part, "weight": _leaf(12)}
    _agree(_gated(leaves, 4), leaves, TOL.norm.f64)
    leaves = {"x": part, "weight": _leaf(12)}
    _agree(_rms(leaves), leaves, TOL.norm.f64)


def test_heads_of_a_slice_and_channels_that_lie_apart() -> None:
    heads = torch.randn(4, 30, dtype=F64)[:, 3:15].unflatten(1, (3, 4)).requires_grad_()
    leaves = {"x": heads, "weight": _leaf(4)}
    _agree(_rms(leaves), leaves, TOL.norm.f64)
    leaves = {"x": torch.randn(6, 5, dtype=F64).t().requires_grad_(), "weight": _leaf(6)}
    _agree(_rms(leaves), leaves, TOL.norm.f64)


@pytest.mark.parametrize(
    ("x", "gate", "weight"),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.float32),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.float32, torch.bfloat16),
    ],
    ids=str,
)
def test_precisions_as_under_autocast(
    x: torch.dtype, gate: torch.dtype, weight: torch.dtype
) -> None:
    low = torch.bfloat16 in (x, gate, weight)
    # The interpreter cuts bits off where a GPU rounds: twice the error.
    tol = 2 * (TOL.norm.bf16 if low else TOL.norm.f32)
    leaves = {"x": _leaf(9, 12, dtype=x), "gate": _leaf(9, 12, dtype=gate)}
    leaves["weight"] = _leaf(12, dtype=weight)
    _agree(_gated(leaves, 6), leaves, tol)
    leaves = {"x": leaves["x"], "weight": leaves["weight"]}
    _agree(_rms(leaves), leaves, tol)


def test_squares_of_half_precision_do_not_overflow() -> None:
    x = torch.full((2, 4), 60000.0, dtype=torch.float16)
    y = rms_norm(x, torch.ones(4), 1e-5, backend="triton")
    close("norm", got=y, want=torch.ones(2, 4), tol=1e-3)


def test_scratch_is_written_before_it_is_read(spoiled_scratch: None) -> None:
    leaves = {"x": _leaf(19, 24), "gate": _leaf(19, 24), "weight": _leaf(24)}
    y = _gated(leaves, 8)("triton")
    for value in (y, *gradients([y], list(leaves.values()))):
        assert value.isfinite().all()


def test_a_row_and_a_group_do_not_see_their_neighbours() -> None:
    leaves = {"x": _leaf(3, 8), "gate": _leaf(3, 8), "weight": _leaf(8)}
    before = _gated(leaves, 4)("triton")
    with torch.no_grad():
        leaves["x"][1] = torch.nan
        leaves["gate"][2, 4:] = torch.nan
    after = _gated(leaves, 4)("triton")
    close("row", got=after[0], want=before[0], tol=0.0)
    close("group", got=after[2, :4], want=before[2, :4], tol=0.0)
    (dx,) = torch.autograd.grad(after.sum(), [leaves["x"]])
    assert dx[0].isfinite().all()
    assert dx[1].isnan().all()


def test_no_rows() -> None:
    leaves = {"x": _leaf(0, 8), "weight": _leaf(8)}
    _agree(_rms(leaves), leaves, 0.0)


@pytest.mark.parametrize("op", ["rms_norm", "gated_rms_norm"])
def test_the_registry_runs_it_only_when_asked_here(op: str) -> None:
    assert backend.choose(op, device_type="cpu").name == "torch"
    chosen = backend.choose(op, "triton", device_type="cpu")
    assert chosen.run.__module__ == "timeviper.ops.norm_triton"


@pytest.mark.parametrize(
    ("rows", "group_size"), [(98_304, 384), (98_304, 768), (16_384, 1280), (1, 16_384), (10**7, 1)]
)
def test_every_row_has_a_program_and_tiles_stay_small(
    monkeypatch: pytest.MonkeyPatch, rows: int, group_size: int
) -> None:
    monkeypatch.setattr(norm_triton, "_WARPS_WANTED", 4096)
    for elements in (16, 32):
        x = torch.empty(rows, group_size, device="meta")
        shape = norm_triton._Shape(x, group_size, elements)
        covered = shape.runs * shape.tiles * shape.rows
        assert rows <= covered < rows + shape.tiles * shape.rows
        assert shape.block >= group_size
        for size in (shape.tiles, shape.rows, shape.block, shape.warps):
            assert size & (size - 1) == 0
