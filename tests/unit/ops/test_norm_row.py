"""Norms after an addition and norms rounded to FP8: as their parts, outputs and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.ops.draws import gradients
from timeviper.core.errors import ConfigError
from timeviper.ops import backend as backends
from timeviper.ops.fp8 import E4M3
from timeviper.ops.norm import (
    add_rms_norm,
    add_rms_norm_fp8,
    gated_rms_norm,
    gated_rms_norm_fp8,
    rms_norm,
)

F64 = torch.float64
SHAPES = [(1, 4), (3, 16), (19, 24), (2, 3, 5), (33,)]
# Numpy's, where Triton interprets.
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in multiply")


@pytest.fixture(params=["torch", "triton"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Either; in the kernel a few rows need several programs, and e4m3 keeps all bits.

    The interpreter loses carries when it rounds to e4m3; without rounding all else is seen.
    """
    name: str = request.param
    if name == "triton":
        pytest.importorskip("triton", reason="no Triton for this platform")
        from timeviper.ops import norm_row_triton

        monkeypatch.setattr(norm_row_triton, "_PROGRAMS_WANTED", 2)
        if not torch.cuda.is_available():
            monkeypatch.setattr(norm_row_triton, "E4M3", torch.float32)
    return name


def _leaf(*shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, dtype=dtype).requires_grad_()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_adding_and_norming_is_both_one_after_the_other(
    backend: str, shape: tuple[int, ...]
) -> None:
    leaves = [_leaf(*shape), _leaf(*shape), _leaf(shape[-1])]
    x, addition, weight = leaves
    got = add_rms_norm(x, addition, weight, 1e-5, backend=backend)
    want = (x + addition, rms_norm(x + addition, weight, 1e-5, backend="torch"))
    for name, a, b in zip(("sum", "norm"), got, want, strict=True):
        assert a.is_contiguous()
        close(name, got=a, want=b, tol=TOL.norm.f64)
    for chosen in (slice(0, 2), slice(0, 1), slice(1, 2)):
        pairs = zip(gradients(got[chosen], leaves), gradients(want[chosen], leaves), strict=True)
        for a, b in pairs:
            close("gradient", got=a, want=b, tol=TOL.norm.f64)
        got = add_rms_norm(x, addition, weight, 1e-5, backend=backend)
        want = (x + addition, rms_norm(x + addition, weight, 1e-5, backend="torch"))


@pytest.mark.parametrize(
    ("x", "addition", "sum_"),
    [
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
    ],
    ids=str,
)
def test_formats_as_under_autocast(
    backend: str, x: torch.dtype, addition: torch.dtype, sum_: torch.dtype
) -> None:
    leaves = [_leaf(9, 12, dtype=x), _leaf(9, 12, dtype=addition), _leaf(12, dtype=torch.float32)]
    total, y = add_rms_norm(leaves[0], leaves[1], leaves[2], 1e-5, backend=backend)
    assert total.dtype == y.dtype == sum_
    tol = TOL.norm.f32 if sum_ == torch.float32 else 2 * TOL.norm.bf16
    exact = leaves[0].double() + leaves[1].double()
    close("sum", got=total, want=exact, tol=tol)
    close("norm", got=y, want=rms_norm(exact, leaves[2].double(), 1e-5), tol=tol)
    for leaf, gradient in zip(leaves, gradients([total, y], leaves), strict=True):
        assert gradient.dtype == leaf.dtype


def test_what_is_normed_is_the_rounded_sum(backend: str) -> None:
    x, addition = torch.randn(4, 16).bfloat16(), (1e-3 * torch.randn(4, 16)).bfloat16()
    total, y = add_rms_norm(x, addition, torch.ones(16), 1e-5, backend=backend)
    want = rms_norm(total.float(), torch.ones(16), 1e-5)
    close("norm", got=y, want=want, tol=TOL.norm.bf16)
    _, low = add_rms_norm_fp8(x, addition, torch.ones(16), 1e-5, backend=backend)
    close("norm in FP8", got=low.dequantized(), want=want, tol=TOL.fp8.f32)


def test_nothing_to_add_leaves_the_stream_itself(backend: str) -> None:
    x, weight = torch.randn(5, 16), torch.rand(16)
    total, y = add_rms_norm(x, None, weight, 1e-5, backend=backend)
    assert total is x
    close("norm", got=y, want=rms_norm(x, weight, 1e-5), tol=TOL.norm.f32)
    total, low = add_rms_norm_fp8(x, None, weight, 1e-5, backend=backend)
    assert total is x
    close("norm in FP8", got=low.dequantized(), want=y, tol=TOL.fp8.f32)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.no_grad()
def test_in_fp8_it_stands_for_the_same_norm(backend: str, shape: tuple[int, ...]) -> None:
    x, addition, weight = (torch.randn(s) for s in (shape, shape, shape[-1:]))
    total, low = add_rms_norm_fp8(x, addition, weight, 1e-5, backend=backend)
    want = rms_norm(x + addition, weight, 1e-5)
    assert low.values.dtype == (E4M3 if backend == "torch" else torch.float32)
    close("sum", got=total, want=x + addition, tol=TOL.norm.f32)
    close("norm", got=low.dequantized(), want=want, tol=TOL.fp8.f32)
    most = weight.abs().max() * shape[-1] ** 0.5
    close("scale", got=low.scales, want=(most / 448).expand(low.scales.shape), tol=1e-5)
    assert float(low.values.float().abs().max()) <= 448.001


@pytest.mark.parametrize(
    ("rows", "width", "group_size"), [(1, 8, 8), (17, 24, 8), (5, 60, 20), (3, 6, 1)]
)
@torch.no_grad()
def test_the_gated_norm_in_fp8(backend: str, rows: int, width: int, group_size: int) -> None:
    x, weight = torch.randn(rows, width), torch.rand(width)
    wide = torch.full((rows, width + 9), torch.nan)
    wide[:, 5 : 5 + width] = torch.randn(rows, width)
    gate = wide[:, 5 : 5 + width]
    got = gated_rms_norm_fp8(x, gate, weight, eps=1e-5, group_size=group_size, backend=backend)
    want = gated_rms_norm(x, gate, weight, eps=1e-5, group_size=group_size, backend="torch")
    close("norm", got=got.dequantized(), want=want, tol=TOL.fp8.f32)
    most = weight.abs().max() * group_size**0.5
    close("scale", got=got.scales, want=(most / 448).expand(rows, 1), tol=1e-5)


@torch.no_grad()
def test_one_value_that_is_all_of_a_row_is_the_largest_number(backend: str) -> None:
    x, weight = torch.zeros(2, 16), torch.ones(16)
    x[0, 3], x[1] = -1e4, torch.randn(16)
    _, low = add_rms_norm_fp8(x, None, weight, 1e-6, backend=backend)
    assert abs(float(low.values.float()[0, 3]) + 448) < 0.01
    close("others", got=low.dequantized()[1], want=rms_norm(x[1], weight, 1e-6), tol=TOL.fp8.f32)


@torch.no_grad()
def test_rows_of_zeros_and_rows_that_are_not_finite_stay_alone(backend: str) -> None:
    x, weight = torch.randn(4, 16), torch.rand(16)
    x[1], x[2, 3] = 0, torch.nan
    _, low = add_rms_norm_fp8(x, torch.zeros_like(x), weight, 1e-5, backend=backend)
    y = low.dequantized()
    assert y[1].tolist() == [0.0] * 16
    assert not y[2].isfinite().any()
    close("others", got=y[[0, 3]], want=rms_norm(x[[0, 3]], weight, 1e-5), tol=TOL.fp8.f32)


def test_scratch_is_written_before_it_is_read(backend: str, spoiled_scratch: None) -> None:
    leaves = [_leaf(19, 24), _leaf(19, 24), _leaf(24)]
    outputs = add_rms_norm(leaves[0], leaves[1], leaves[2], 1e-5, backend=backend)
    for value in (*outputs, *gradients(outputs, leaves)):
        assert value.isfinite().all()


@pytest.mark.parametrize("rows", [0, 1])
def test_few_rows(backend: str, rows: int) -> None:
    x, weight = torch.randn(rows, 16), torch.rand(16)
    total, low = add_rms_norm_fp8(x, x, weight, 1e-5, backend=backend)
    assert (total.shape, low.values.shape, low.scales.shape) == ((rows, 16), (rows, 16), (rows, 1))
    assert add_rms_norm(x, x, weight, 1e-5, backend=backend)[1].shape == (rows, 16)


def test_gradients_through_fp8_are_refused(backend: str) -> None:
    x, weight = torch.randn(2, 16), torch.rand(16, requires_grad=True)
    with pytest.raises(ConfigError, match="no gradients through FP8"):
        add_rms_norm_fp8(x, x, weight, 1e-5, backend=backend)
    with pytest.raises(ConfigError, match="no gradients through FP8"):
        gated_rms_norm_fp8(x, x, weight, eps=1e-5, group_size=4, backend=backend)


def test_groups_that_do_not_divide_are_refused() -> None:
    x = torch.randn(2, 24)
    with pytest.raises(ConfigError, match="divides the width 24"):
        gated_rms_norm_fp8(x, x, torch.ones(24), eps=1e-5, group_size=5)


@pytest.mark.parametrize("op", ["add_rms_norm", "add_rms_norm_fp8", "gated_rms_norm_fp8"])
def test_the_registry_runs_the_kernel_only_when_asked_here(op: str) -> None:
    pytest.importorskip("triton", reason="no Triton for this platform")
    assert backends.choose(op, device_type="cpu").name == "torch"
    assert backends.choose(op, "triton", device_type="cpu").run.__name__ == op


@pytest.mark.gpu
@torch.no_grad()
def test_on_a_gpu_as_in_plain_torch() -> None:
    draw = torch.Generator("cuda").manual_seed(0)
    x, gate = (torch.randn(700, 10240, device="cuda", generator=draw).bfloat16() for _ in range(2))
    weight = torch.rand(10240, device="cuda", generator=draw)
    runs = {
        name: (
            add_rms_norm_fp8(x, gate, weight, 1e-5, backend=name)[1].dequantized(),
            gated_rms_norm_fp8(
                x, gate, weight, eps=1e-5, group_size=1280, backend=name
            ).dequantized(),
            *add_rms_norm(x, gate, weight, 1e-5, backend=name),
        )
        for name in ("triton", "torch")
    }
    for got, want in zip(runs["triton"], runs["torch"], strict=True):
        # Values that lie half-way may go to either neighbour.
        close("norm", got=got, want=want, tol=TOL.fp8.bf16)
