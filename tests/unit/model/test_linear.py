"""FP8 layers: near the layer they were made from, in its place, and no gradient through them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tolerances import TOL, close
from timeviper.core.errors import ConfigError
from timeviper.model.linear import Fp8Linear, all_take_fp8, quantize_
from timeviper.ops.backend import override
from timeviper.ops.linear import quantize


@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_it_is_near_the_layer_that_it_was_made_from(bias: bool) -> None:
    linear = nn.Linear(64, 48, bias=bias)
    layer = Fp8Linear.of(linear)
    x = torch.randn(2, 5, 64)
    with override("fp8_linear", "emulated"):
        got, again = layer(x), layer(quantize(x))
    assert got.shape == (2, 5, 48)
    assert torch.equal(got, again)
    close("layer", got=got, want=linear(x), tol=2 * TOL.fp8.f32)
    assert "in_features=64, out_features=48" in repr(layer)


@torch.no_grad()
def test_results_have_the_format_of_the_weights() -> None:
    linear = nn.Linear(16, 16).bfloat16()
    with override("fp8_linear", "emulated"):
        assert Fp8Linear.of(linear)(torch.randn(3, 16)).dtype == torch.bfloat16
        assert Fp8Linear.of(linear, dtype=torch.float32)(torch.randn(3, 16)).dtype == torch.float32


def test_layers_that_fit_are_replaced_and_their_weights_freed() -> None:
    model = nn.ModuleDict(
        {
            "inner": nn.Sequential(nn.Linear(32, 48, bias=False), nn.GELU()),
            "odd": nn.Linear(32, 20),
            "narrow": nn.Linear(24, 32),
            "scale": nn.LayerNorm(32),
        }
    )
    before = {name: p.numel() for name, p in model.named_parameters()}
    assert quantize_(model) == ("inner.0",)
    layer = model.get_submodule("inner.0")
    assert all_take_fp8([layer])
    assert not all_take_fp8([layer, model["odd"]])
    assert isinstance(layer, Fp8Linear)
    assert "inner.0.weight" in before
    assert "inner.0.weight" not in dict(model.named_parameters())
    assert sum(b.nbytes for b in layer.buffers()) == 48 * 32 + 48 * 4
    assert quantize_(model) == ()


def test_gradients_are_refused() -> None:
    layer = Fp8Linear.of(nn.Linear(16, 16))
    with (
        override("fp8_linear", "emulated"),
        pytest.raises(ConfigError, match="no gradients through FP8"),
    ):
        layer(torch.randn(2, 16, requires_grad=True))


def test_a_cpu_says_that_it_has_no_such_products() -> None:
    layer = Fp8Linear.of(nn.Linear(16, 16))
    with torch.no_grad(), pytest.raises(ConfigError, match="fp8_linear for cpu"):
        layer(torch.randn(2, 16))
