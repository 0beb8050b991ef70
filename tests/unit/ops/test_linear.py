"""FP8 rows and products: error of the rounding, the kernel as torch, shapes, what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.tolerances import TOL, close
from timeviper.core.errors import ConfigError
from timeviper.ops import backend as backends
from timeviper.ops import fp8
from timeviper.ops.fp8 import E4M3, Activation, Quantized
from timeviper.ops.linear import fp8_linear, quantize

ACTIVATIONS: tuple[Activation, ...] = ("none", "relu2", "gelu_tanh")


# Numpy's, where Triton interprets.
pytestmark = pytest.mark.filterwarnings(
    "ignore:overflow encountered in exp", "ignore:invalid value encountered in multiply"
)


@pytest.fixture(params=["torch", "triton"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    if name == "triton":
        pytest.importorskip("triton", reason="no Triton for this platform")
        if not torch.cuda.is_available():
            _keep_all_bits(monkeypatch)
    return name


def _keep_all_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter loses carries when it rounds to e4m3; without rounding all else is seen."""
    from timeviper.ops import linear_triton

    monkeypatch.setattr(linear_triton, "E4M3", torch.float32)


def _act(x: Tensor, activation: Activation) -> Tensor:
    x = x.double()
    if activation == "relu2":
        return x.clamp(min=0) ** 2
    return F.gelu(x, approximate="tanh") if activation == "gelu_tanh" else x


def _multiply(x: Quantized, weight: Quantized, bias: Tensor | None = None) -> Tensor:
    return fp8_linear(x, weight, bias, dtype=torch.float32, backend="emulated")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1, 16), (7, 48), (2, 3, 33), (600, 5), (3, 700)], ids=str)
def test_rows_stand_for_what_they_were(
    backend: str, activation: Activation, shape: tuple[int, ...]
) -> None:
    x = 3 * torch.randn(shape)
    got = quantize(x, activation=activation, backend=backend)
    assert got.values.dtype == (E4M3 if backend == "torch" else torch.float32)
    assert float(got.values.float().abs().max()) <= 448.001
    assert got.scales.dtype == torch.float32
    assert got.values.shape == x.shape
    assert got.scales.shape == (*shape[:-1], 1)
    want = _act(x, activation)
    close("values", got=got.dequantized(), want=want, tol=TOL.fp8.f32)
    close("scales", got=got.scales, want=want.abs().amax(-1, keepdim=True) / 448, tol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_before_it_rounds_the_kernel_is_as_torch(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    pytest.importorskip("triton", reason="no Triton for this platform")
    _keep_all_bits(monkeypatch)
    x = torch.randn(9, 80).to(dtype)
    got, want = (quantize(x, activation="relu2", backend=name) for name in ("triton", "torch"))
    close("scales", got=got.scales, want=want.scales, tol=TOL.activation.f32)
    exact = x.float().clamp(min=0) ** 2 / got.scales
    close("values", got=got.values, want=exact, tol=TOL.activation.f32)


def test_each_row_has_its_own_scale(backend: str) -> None:
    x = torch.randn(4, 32) * torch.tensor([1e-6, 1.0, 1e6, 0.0])[:, None]
    got = quantize(x, backend=backend)
    for row in range(3):
        close(f"row {row}", got=got.dequantized()[row], want=x[row], tol=TOL.fp8.f32)
    assert got.dequantized()[3].tolist() == [0.0] * 32


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_row_that_is_not_finite_stays_so_and_alone(backend: str, bad: float) -> None:
    x, w = torch.randn(3, 16), torch.randn(16, 16)
    x[1, 5] = bad
    y = _multiply(quantize(x, backend=backend), quantize(w, backend="torch"))
    assert not y[1].isfinite().any()
    assert y[[0, 2]].isfinite().all()


def test_slices_are_read_where_they_lie_and_scratch_is_written(
    backend: str, spoiled_scratch: None
) -> None:
    wide = torch.full((6, 29), torch.nan)
    wide[:, 5:21] = torch.randn(6, 16)
    part = wide[:, 5:21]
    got = quantize(part, backend=backend)
    assert got.values.is_contiguous()
    close("slice", got=got.dequantized(), want=part, tol=TOL.fp8.f32)
    apart = torch.randn(16, 6).t()
    close("apart", got=quantize(apart, backend=backend).dequantized(), want=apart, tol=TOL.fp8.f32)


def test_no_rows(backend: str) -> None:
    got = quantize(torch.empty(0, 16), backend=backend)
    y = _multiply(got, quantize(torch.randn(32, 16), backend="torch"))
    assert y.shape == (0, 32)


@pytest.mark.parametrize("leading", [(1,), (7,), (2, 5)], ids=str)
@pytest.mark.parametrize("biased", [False, True])
def test_a_product_is_near_the_exact_one(leading: tuple[int, ...], biased: bool) -> None:
    x, w = torch.randn(*leading, 64), torch.randn(48, 64)
    bias = torch.randn(48) if biased else None
    left, right = quantize(x), quantize(w)
    got = _multiply(left, right, bias)
    assert got.shape == (*leading, 48)
    exact = F.linear(left.dequantized(), right.dequantized(), bias)
    close("what the operands stand for", got=got, want=exact, tol=1e-5)
    close("product", got=got, want=F.linear(x, w, bias), tol=2 * TOL.fp8.f32)


def test_the_result_has_the_dtype_asked_for() -> None:
    x = quantize(torch.randn(16, 16))
    assert fp8_linear(x, x, backend="emulated").dtype == torch.bfloat16


@pytest.mark.parametrize(("wide", "shape"), [(32, (16, 16)), (24, (16, 24)), (16, (8, 16))])
def test_widths_that_do_not_fit_are_refused(wide: int, shape: tuple[int, int]) -> None:
    x, w = quantize(torch.randn(2, wide)), quantize(torch.randn(shape))
    with pytest.raises(ConfigError, match="multiples of 16"):
        fp8_linear(x, w, backend="emulated")


def test_a_gradient_is_refused_rather_than_lost() -> None:
    x = torch.randn(2, 16, requires_grad=True)
    with pytest.raises(ConfigError, match="no gradients through FP8"):
        quantize(x)
    with torch.no_grad():
        assert quantize(x).values.shape == x.shape


def test_a_cpu_multiplies_only_when_the_emulation_is_named() -> None:
    x = quantize(torch.randn(16, 16))
    with pytest.raises(ConfigError, match="an implementation of fp8_linear for cpu"):
        fp8_linear(x, x)
    with backends.override("fp8_linear", "emulated"):
        assert fp8_linear(x, x).shape == (16, 16)
    told = {choice.op: choice for choice in backends.explain("cpu")}["fp8_linear"]
    assert (told.name, told.why) == ("none", "no FP8 products on cpu")
    with pytest.raises(ConfigError, match="for cpu"):
        told.run(x, x, None, torch.bfloat16)


@pytest.mark.parametrize(("capability", "available"), [((8, 6), False), ((8, 9), True)])
def test_old_devices_are_told_apart(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], available: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    probe = fp8.probe_fp8("cuda")
    assert probe.available is available
    assert available or probe.why == "compute capability 8.6 is older than 8.9"


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 7, 300])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_on_a_gpu_as_emulated(rows: int, activation: Activation) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(rows, 1152, device="cuda", generator=generator, dtype=torch.bfloat16)
    w = torch.randn(4304, 1152, device="cuda", generator=generator)
    bias = torch.randn(4304, device="cuda", generator=generator)
    left, right = quantize(x, activation=activation), quantize(w)
    got = fp8_linear(left, right, bias)
    want = fp8_linear(left, right, bias, dtype=torch.float32, backend="emulated")
    close("product", got=got, want=want, tol=TOL.fp8.bf16)
    close("kernel", got=left.dequantized(), want=_act(x, activation), tol=TOL.fp8.f32)
