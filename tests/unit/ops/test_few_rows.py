"""Products of a few rows: as torch's, in one piece or in parts that settle adds up."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from tests.tolerances import TOL, close
from tests.unit.ops.draws import unchecked
from timeviper.core.errors import LayoutError
from timeviper.ops.few_rows import few_rows, few_rows_parts, settle, some_rows
from timeviper.ops.norm import add_rms_norm

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="no Triton for this platform"
)
BACKENDS = ["torch", pytest.param("triton", marks=needs_triton)]


@pytest.fixture(autouse=True)
def _any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny weights take the paths of large ones."""
    if importlib.util.find_spec("triton") is not None:
        monkeypatch.setattr("timeviper.ops.few_rows_triton._FEW_OUTPUTS", 30)
        monkeypatch.setattr("timeviper.ops.few_rows_triton._MANY_OUTPUTS", 150)


@pytest.mark.parametrize("relu2", [False, True])
@pytest.mark.parametrize("outputs", [20, 40, 200])
@pytest.mark.parametrize("rows", [1, 16, 70, 140, 400])
@pytest.mark.parametrize("op", [few_rows, some_rows])
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_piece(
    backend: str, op, rows: int, outputs: int, relu2: bool, spoiled_scratch: None
) -> None:
    # Rows out of a wider tensor; a width that no step of the walk divides.
    x, weight = torch.randn(rows, 330)[:, 7:307], torch.randn(outputs, 300)
    got = op(x, weight, relu2=relu2, backend=backend)
    want = x.double() @ weight.double().t()
    want = want.clamp(min=0).square() if relu2 else want
    close("product", got=got, want=want, tol=TOL.model.f32)
    assert got.dtype == x.dtype


@pytest.mark.parametrize(("width", "parts"), [(640, 10), (448, 7), (300, 5), (64, 1)])
@needs_triton
def test_parts_of_the_width(width: int, parts: int, spoiled_scratch: None) -> None:
    x, weight = torch.randn(2, width), torch.randn(130, width)
    got = few_rows_parts(x, weight, backend="triton")
    assert got.shape == (parts, 2, 130)
    assert got.dtype == torch.float32
    want = x.double() @ weight.double().t()
    close("sum of the parts", got=got.sum(0), want=want, tol=TOL.model.f32)
    alone = few_rows_parts(x[1:], weight, backend="triton")
    assert torch.equal(alone[:, 0], got[:, 1])


def test_torch_gives_one_part() -> None:
    x, weight = torch.randn(3, 20), torch.randn(8, 20)
    got = few_rows_parts(x, weight, backend="torch")
    assert torch.equal(got, torch.nn.functional.linear(x, weight)[None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_settling_is_adding_and_norming(
    backend: str, dtype: torch.dtype, spoiled_scratch: None
) -> None:
    x, weight = torch.randn(3, 100, dtype=dtype), torch.randn(100, dtype=dtype)
    parts = torch.randn(4, 3, 100, dtype=torch.promote_types(dtype, torch.float32))
    total, y = settle(x, parts, weight, 1e-5, backend=backend)
    stored = parts.sum(0).to(dtype)
    want_total, want = add_rms_norm(x, stored, weight, 1e-5, backend="torch")
    tol = {torch.float64: "f64", torch.float32: "f32", torch.bfloat16: "bf16"}[dtype]
    close("sum", got=total, want=want_total, tol=getattr(TOL.norm, tol))
    close("norm", got=y, want=want, tol=getattr(TOL.norm, tol))
    assert total.dtype == y.dtype == dtype


@needs_triton
def test_what_the_kernel_does_not_take_goes_to_torch() -> None:
    weight = torch.randn(200, 30)
    for op in (few_rows, some_rows):
        assert op(torch.randn(0, 30), weight, backend="triton").shape == (0, 200)
        x = torch.randn(2, 30, dtype=torch.float64)
        got = op(x, weight.double(), backend="triton")
        assert torch.equal(got, torch.nn.functional.linear(x, weight.double()))
    assert few_rows_parts(x, weight.double(), backend="triton").shape == (1, 2, 200)


@pytest.mark.parametrize("op", [few_rows, some_rows, few_rows_parts])
def test_rows_of_another_width_are_refused(op) -> None:
    with pytest.raises(LayoutError, match="rows of width 30"):
        unchecked(op)(torch.randn(2, 31), torch.randn(8, 30))


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 8, 33, 65, 300])
def test_on_a_gpu(rows: int) -> None:
    x = torch.randn(rows, 4480, device="cuda").bfloat16()
    up = torch.randn(15680, 4480, device="cuda").bfloat16() / 67
    down = torch.randn(4480, 15680, device="cuda").bfloat16() / 125
    inner = few_rows(x, up, relu2=True)
    want_up = torch.nn.functional.linear(x.float(), up.float()).relu().square()
    got = few_rows_parts(inner, down).sum(0)
    want = torch.nn.functional.linear(inner.float(), down.float())
    close("down", got=got, want=want, tol=TOL.model.bf16)
    for op in (few_rows, some_rows):
        close(op.__name__, got=op(x, up, relu2=True), want=want_up, tol=TOL.model.bf16)
        assert torch.equal(op(x[-1:], up), op(x, up)[-1:])
    assert torch.equal(few_rows_parts(inner[-1:], down)[:, 0], few_rows_parts(inner, down)[:, -1])
