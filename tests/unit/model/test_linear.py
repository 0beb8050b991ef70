"""FP8 layers: near the layer they were made from, in its place, and no gradient through them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tolerances import TOL, close
from timeviper.core.errors import ConfigError
from timeviper.model.linear import FEW_TOKENS, Fp8Linear, all_take_fp8, product_of, quantize_
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


@pytest.mark.parametrize(
    "lengths", [[3], [3, 5], [600], [4, 600, 2, 3, 700, 1], [600, 600]], ids=str
)
def test_a_product_is_the_layers_own_whatever_the_lengths(lengths: list[int]) -> None:
    linear, x = nn.Linear(16, 24, bias=False).double(), torch.randn(sum(lengths), 16).double()
    with torch.no_grad():
        got = product_of(lengths)(linear, x)
    close("product", got=got, want=linear(x), tol=TOL.model.f64)


def test_sequences_alone_decide_how_they_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long one alone by the layer, short ones together by the product that feels no batch."""
    calls: list[tuple[str, int]] = []
    linear = nn.Linear(4, 6, bias=False)

    def some(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        calls.append(("some", len(x)))
        return x @ weight.t()

    monkeypatch.setattr("timeviper.model.linear.some_rows", some)
    linear.register_forward_hook(lambda _, given, out: calls.append(("layer", len(out))))

    def taken(lengths: list[int]) -> list[tuple[str, int]]:
        calls.clear()
        product_of(lengths)(linear, torch.randn(sum(lengths), 4))
        return list(calls)

    with torch.no_grad():
        assert taken([FEW_TOKENS]) == [("some", FEW_TOKENS)]
        assert taken([FEW_TOKENS + 1]) == [("layer", FEW_TOKENS + 1)]
        assert taken([3, 0, 9]) == [("some", 12)]
        assert taken([3, 9, 600, 2, 700]) == [
            ("some", 12),
            ("layer", 600),
            ("some", 2),
            ("layer", 700),
        ]
        assert taken([600, 700]) == [("layer", 600), ("layer", 700)]
    # With gradients, training's product; a bias or FP8 keeps the layer's own.
    assert taken([3]) == [("layer", 3)]
    linear = nn.Linear(4, 6)
    linear.register_forward_hook(lambda _, given, out: calls.append(("biased", len(out))))
    with torch.no_grad():
        assert taken([3, 4]) == [("biased", 7)]


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
