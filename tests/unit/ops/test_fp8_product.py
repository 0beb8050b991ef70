"""FP8 products whose rows are scaled later: each pass against float64, and the whole chain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tolerances import TOL, close
from timeviper.core.errors import ConfigError
from timeviper.ops import backend as backends
from timeviper.ops.fp8 import E4M3
from timeviper.ops.fp8_product import add_product, add_product_norm, fp8_product, fp8_rows_product
from timeviper.ops.linear import quantize
from timeviper.ops.product import Fp8Norm, Fp8Weight, Product

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


def _norm(width: int, *, dtype: torch.dtype = torch.float32) -> nn.LayerNorm:
    norm = nn.LayerNorm(width, eps=1e-6).requires_grad_(requires_grad=False)
    norm.weight.copy_(torch.randn(width))
    norm.bias.copy_(torch.randn(width))
    return norm.to(dtype)


def _folded(norm: nn.LayerNorm) -> Fp8Norm:
    return Fp8Norm.of(norm.weight, norm.bias, norm.eps)


@pytest.mark.parametrize("shape", [(1, 16), (19, 24), (2, 3, 33), (6, 1152)], ids=str)
@pytest.mark.parametrize("kind", ["product", "numbers", "none"])
def test_add_norm_and_round(kernel: str, shape: tuple[int, ...], kind: str) -> None:
    stream, product = torch.randn(shape), _product(*shape)
    numbers = product.finished()
    update = {"product": product, "numbers": numbers, "none": None}[kind]
    norm = _norm(shape[-1])
    total, normed = add_product_norm(stream, update, _folded(norm), backend=kernel)
    want = stream.double() if update is None else stream.double() + _exact(product)
    close("sum", got=total, want=want, tol=TOL.norm.f32)
    close("norm", got=normed.dequantized(), want=norm.double()(want), tol=TOL.fp8.f32)
    if update is product:
        close("sum alone", got=add_product(stream, product, backend=kernel), want=total, tol=1e-6)


def test_bfloat16_rows_are_rounded_once(kernel: str) -> None:
    stream, product = torch.randn(9, 80).bfloat16(), _product(9, 80, dtype=torch.bfloat16)
    norm = _norm(80, dtype=torch.bfloat16)
    total, normed = add_product_norm(stream, product, _folded(norm), backend=kernel)
    assert total.dtype == torch.bfloat16
    close("sum", got=total, want=stream.double() + _exact(product), tol=TOL.norm.bf16)
    want = norm.double()(total.double())
    close("norm", got=normed.dequantized(), want=want, tol=TOL.fp8.f32)


def test_no_row_is_larger_than_the_scale_allows_and_the_largest_is(kernel: str) -> None:
    # One channel alone is as far from the mean as a channel can be; its factor is the largest.
    stream, norm = torch.zeros(2, 48), _norm(48)
    norm.weight[5], norm.bias[5] = 30, 4
    stream[0, 5], stream[1, 7] = 1e4, -1e4
    values = add_product_norm(stream, None, _folded(norm), backend=kernel)[1].values.float()
    assert values.isfinite().all()
    assert 440 < float(values[0, 5]) <= 448
    assert float(values.abs().max()) == float(values[0, 5])


def test_channels_that_differ_a_thousandfold_keep_their_digits(kernel: str) -> None:
    stream, norm = torch.randn(40, 1152), _norm(1152)
    norm.weight[3] = 200
    norm.bias.zero_()
    got = add_product_norm(stream, None, _folded(norm), backend=kernel)[1].dequantized()
    want = norm.double()(stream.double())
    ordinary = [c for c in range(1152) if c != 3]
    close("others", got=got[:, ordinary], want=want[:, ordinary], tol=TOL.fp8.f32)


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
    norm = _folded(_norm(40))
    _spoil(monkeypatch)
    total, normed = add_product_norm(stream, product, norm, backend=kernel)
    for value in (total, normed.values, add_product(stream, product, backend=kernel)):
        assert value.float().isfinite().all()


def test_a_row_does_not_see_its_neighbours(kernel: str) -> None:
    product, stream, norm = _product(6, 40), torch.randn(6, 40), _folded(_norm(40))
    before = add_product_norm(stream, product, norm, backend=kernel)[1].dequantized()
    product.sums[2, 7] = torch.nan
    after = add_product_norm(stream, product, norm, backend=kernel)[1].dequantized()
    others = [0, 1, 3, 4, 5]
    close("rows", got=after[others], want=before[others], tol=0.0)
    assert after[2].isnan().any()


def test_no_rows(kernel: str) -> None:
    product, norm = _product(0, 16), _folded(_norm(16))
    total, normed = add_product_norm(product.sums, product, norm, backend=kernel)
    assert total.shape == normed.values.shape == (0, 16)


def test_rows_of_one_scale_are_multiplied_and_finished_at_once() -> None:
    stream, norm = torch.randn(2, 40, 64), _norm(64)
    weight, bias = torch.randn(32, 64) / 8, torch.randn(32)
    normed = add_product_norm(stream, None, _folded(norm), backend="torch")[1]
    got = fp8_rows_product(normed, Fp8Weight.of(weight), bias, backend="emulated")
    assert got.dtype == torch.bfloat16
    close("product", got=got, want=norm(stream) @ weight.T + bias, tol=2 * TOL.fp8.f32)


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
        add_product_norm(torch.randn(3, 16), product, _folded(_norm(16)))
    low = (
        fp8_product,
        (quantize(torch.randn(2, 16)), Fp8Weight.of(torch.ones(16, 16)), product.bias),
    )
    with pytest.raises(ConfigError, match="fp8_product"):
        low[0](*low[1])
    assert backends.names("fp8_product") == ("scaled_mm", "emulated")
