"""FP8 products whose rows are scaled later: each pass against float64, and the whole chain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.tolerances import TOL, close
from timeviper.core.errors import ConfigError
from timeviper.ops import backend as backends
from timeviper.ops.fp8 import E4M3, Activation, Quantized
from timeviper.ops.fp8_product import add_product, add_product_norm, fp8_product, quantize_product
from timeviper.ops.linear import quantize
from timeviper.ops.product import Fp8Weight, Product

# Numpy's, where Triton interprets.
pytestmark = pytest.mark.filterwarnings(
    "ignore:overflow encountered in exp",
    "ignore:invalid value encountered in multiply",
    "ignore:All-NaN slice encountered",
)


@pytest.fixture(params=["torch", "triton"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "triton":
        module = pytest.importorskip("timeviper.ops.fp8_product_triton")
        if not torch.cuda.is_available():
            # The interpreter loses carries when it rounds to e4m3; all else is seen without.
            monkeypatch.setattr(module, "E4M3", torch.float32)
    return request.param


def _product(*shape: int, dtype: torch.dtype = torch.float32) -> Product:
    sums = (100 * torch.randn(shape)).to(dtype)
    return Product(sums, 0.01 + 0.02 * torch.rand(*shape[:-1], 1), torch.randn(shape[-1]))


def _exact(product: Product) -> Tensor:
    return product.sums.double() * product.scales.double() + product.bias.double()


def _act(x: Tensor, activation: Activation) -> Tensor:
    if activation == "relu2":
        return x.clamp(min=0) ** 2
    return F.gelu(x, approximate="tanh") if activation == "gelu_tanh" else x


def _close_rows(name: str, *, got: Quantized, want: Tensor) -> None:
    """Rows as FP8 holds them, and scales exactly."""
    close(name, got=got.dequantized(), want=want, tol=TOL.fp8.f32)
    close("scales", got=got.scales, want=want.abs().amax(-1, keepdim=True) / 448, tol=1e-5)


@pytest.mark.parametrize("activation", ["none", "relu2", "gelu_tanh"])
@pytest.mark.parametrize("shape", [(1, 16), (7, 48), (2, 3, 33), (5, 272)], ids=str)
def test_finish_activate_and_round(
    kernel: str, activation: Activation, shape: tuple[int, ...]
) -> None:
    product = _product(*shape)
    got = quantize_product(product, activation=activation, backend=kernel)
    assert got.values.shape == shape
    assert got.scales.shape == (*shape[:-1], 1)
    _close_rows("rows", got=got, want=_act(_exact(product), activation))


@pytest.mark.parametrize("shape", [(1, 16), (19, 24), (2, 3, 33), (6, 1152)], ids=str)
@pytest.mark.parametrize("kind", ["product", "numbers", "none"])
def test_add_norm_and_round(kernel: str, shape: tuple[int, ...], kind: str) -> None:
    stream, product = torch.randn(shape), _product(*shape)
    numbers = product.finished()
    update = {"product": product, "numbers": numbers, "none": None}[kind]
    weight, bias = torch.randn(shape[-1]), torch.randn(shape[-1])
    total, normed = add_product_norm(stream, update, weight, bias, eps=1e-6, backend=kernel)
    want = stream.double() if update is None else stream.double() + _exact(product)
    close("sum", got=total, want=want, tol=TOL.norm.f32)
    wanted = F.layer_norm(want, (shape[-1],), weight.double(), bias.double(), 1e-6)
    _close_rows("norm", got=normed, want=wanted)
    if update is product:
        close("sum alone", got=add_product(stream, product, backend=kernel), want=total, tol=1e-6)


def test_bfloat16_rows_are_rounded_once(kernel: str) -> None:
    stream, product = torch.randn(9, 80).bfloat16(), _product(9, 80, dtype=torch.bfloat16)
    weight, bias = torch.randn(80).bfloat16(), torch.randn(80).bfloat16()
    total, normed = add_product_norm(stream, product, weight, bias, eps=1e-6, backend=kernel)
    assert total.dtype == torch.bfloat16
    close("sum", got=total, want=stream.double() + _exact(product), tol=TOL.norm.bf16)
    wanted = F.layer_norm(total.double(), (80,), weight.double(), bias.double(), 1e-6)
    _close_rows("norm", got=normed, want=wanted)


def _spoil(monkeypatch: pytest.MonkeyPatch) -> None:
    """New buffers start as NaN, e4m3 ones too."""
    plain = torch.empty

    def empty(*args: Any, **options: Any) -> Tensor:
        fresh = plain(*args, **options)
        return fresh.copy_(torch.full(fresh.shape, torch.nan))

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch, "empty_like", lambda x: empty(x.shape, dtype=x.dtype))


def test_scratch_is_written_before_it_is_read(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, product = torch.randn(11, 40), _product(11, 40)
    weight, bias = torch.randn(40), torch.randn(40)
    _spoil(monkeypatch)
    total, normed = add_product_norm(stream, product, weight, bias, eps=1e-6, backend=kernel)
    low = quantize_product(product, activation="gelu_tanh", backend=kernel)
    for value in (total, *normed, *low, add_product(stream, product, backend=kernel)):
        assert value.float().isfinite().all()


def test_a_row_does_not_see_its_neighbours(kernel: str) -> None:
    product, stream = _product(6, 40), torch.randn(6, 40)
    ones = torch.ones(40)
    before = quantize_product(product, activation="gelu_tanh", backend=kernel)
    normed_before = add_product_norm(stream, product, ones, ones, eps=1e-6, backend=kernel)[1]
    product.sums[2, 7] = torch.nan
    after = quantize_product(product, activation="gelu_tanh", backend=kernel)
    normed_after = add_product_norm(stream, product, ones, ones, eps=1e-6, backend=kernel)[1]
    others = [0, 1, 3, 4, 5]
    for a, b in ((after, before), (normed_after, normed_before)):
        close("rows", got=a.dequantized()[others], want=b.dequantized()[others], tol=0.0)
        assert a.dequantized()[2].isnan().any()


def test_no_rows(kernel: str) -> None:
    product, ones = _product(0, 16), torch.ones(16)
    assert quantize_product(product, backend=kernel).values.shape == (0, 16)
    total, normed = add_product_norm(product.sums, product, ones, ones, eps=1e-6, backend=kernel)
    assert total.shape == normed.values.shape == (0, 16)


def test_a_product_in_fp8_is_the_product() -> None:
    x, weight, bias = torch.randn(2, 40, 64), torch.randn(32, 64) / 8, torch.randn(32)
    got = fp8_product(quantize(x), Fp8Weight.of(weight), bias, backend="emulated")
    assert got.sums.dtype == torch.bfloat16
    close("product", got=got.finished(), want=x @ weight.T + bias, tol=2 * TOL.fp8.f32)


def test_a_weight_keeps_its_largest_value() -> None:
    weight = torch.randn(16, 32)
    low = Fp8Weight.of(weight)
    assert low.values.dtype == E4M3
    assert low.scale.shape == ()
    close("weight", got=low.values.float() * low.scale, want=weight, tol=TOL.fp8.f32)
    assert float(low.values.float().abs().max()) == 448
    assert not Fp8Weight.of(torch.zeros(16, 16)).values.float().any()


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="multiples of 16"):
        Fp8Weight.of(torch.randn(24, 16))
    product = _product(3, 16)
    product.sums.requires_grad_()
    with pytest.raises(ConfigError, match="gradient"):
        quantize_product(product)
    low = (
        fp8_product,
        (quantize(torch.randn(2, 16)), Fp8Weight.of(torch.ones(16, 16)), product.bias),
    )
    with pytest.raises(ConfigError, match="fp8_product"):
        low[0](*low[1])
    assert backends.names("fp8_product") == ("scaled_mm", "emulated")
