"""The tower's ops and both towers on a CUDA device, at the sizes of SigLIP so400m."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.tolerances import TOL, close
from timeviper.model.config import VisionConfig
from timeviper.model.vision.fp8 import quantize_tower_
from timeviper.model.vision.towers import build_tower
from timeviper.ops import backend
from timeviper.ops.fp8_product import add_product, add_product_norm, fp8_product, fp8_rows_product
from timeviper.ops.layer_norm import add_layer_norm
from timeviper.ops.linear import quantize
from timeviper.ops.linear_gelu import linear_gelu
from timeviper.ops.patch_attention import patch_attention
from timeviper.ops.product import Fp8Norm, Fp8Weight, Product

pytestmark = pytest.mark.gpu

WIDTH, INNER, HEADS, PATCHES = 1152, 4304, 16, 729
BF16 = torch.bfloat16


def _draw(*shape: int, scale: float = 1.0) -> Tensor:
    return (scale * torch.randn(shape, device="cuda")).to(BF16)


@pytest.mark.parametrize(
    ("op", "name"),
    [
        ("patch_attention", "cudnn"),
        ("linear_gelu", "fused"),
        ("add_layer_norm", "triton"),
        ("fp8_product", "scaled_mm"),
        ("add_product_norm", "triton"),
    ],
)
def test_what_a_cuda_device_gets(op: str, name: str) -> None:
    assert backend.choose(op, device_type="cuda").name == name


@pytest.mark.parametrize("frames", [1, 3, 27])
def test_attention_of_patches(frames: int) -> None:
    qkv = _draw(frames, PATCHES, 3 * WIDTH)
    got = patch_attention(qkv, HEADS)
    assert got.is_contiguous()
    close("values", got=got, want=patch_attention(qkv.double(), HEADS), tol=TOL.attention.bf16)
    learning = qkv.requires_grad_()
    (grad,) = torch.autograd.grad(patch_attention(learning, HEADS).sum(), [learning])
    assert grad.isfinite().all()


def test_the_product_ends_in_the_tanh_formula() -> None:
    # Below zero the two formulas of GELU differ by more than float16 rounds.
    x = torch.linspace(-4, -0.5, 4096, device="cuda").half()[:, None].expand(-1, 16).contiguous()
    weight = torch.eye(16, device="cuda").half()
    got = linear_gelu(x, weight, torch.zeros(16, device="cuda").half(), backend="fused")
    tanh, erf = (F.gelu(x.double(), approximate=kind) for kind in ("tanh", "none"))
    assert (got.double() - tanh).abs().mean() < 0.5 * (got.double() - erf).abs().mean()


def test_product_and_gelu() -> None:
    x, weight, bias = _draw(999, WIDTH), _draw(INNER, WIDTH, scale=0.03), _draw(INNER)
    high = [t.double() for t in (x, weight, bias)]
    close("gelu", got=linear_gelu(x, weight, bias), want=linear_gelu(*high), tol=TOL.norm.bf16)


@pytest.mark.parametrize("rows", [1, 7, 999])
def test_sum_and_norm(rows: int) -> None:
    leaves = [_draw(rows, WIDTH).requires_grad_() for _ in range(2)]
    leaves += [_draw(WIDTH).requires_grad_() for _ in range(2)]
    high = [leaf.detach().double().requires_grad_() for leaf in leaves]
    got, want = (add_layer_norm(*values, eps=1e-6) for values in (leaves, high))
    for a, b in zip(got, want, strict=True):
        close("sum and norm", got=a, want=b, tol=TOL.norm.bf16)
    found, wanted = (
        torch.autograd.grad(out[1].square().sum(), list(values))
        for out, values in ((got, leaves), (want, high))
    )
    for a, b in zip(found, wanted, strict=True):
        close("gradient", got=a, want=b, tol=2 * TOL.norm.bf16)


@pytest.mark.parametrize("rows", [1, 7, 999])
def test_passes_that_finish_products(rows: int) -> None:
    x, weight, bias = _draw(rows, WIDTH), _draw(INNER, WIDTH, scale=0.03), _draw(INNER)
    product = fp8_product(quantize(x), Fp8Weight.of(weight), bias)
    close("product", got=product.finished(), want=F.linear(x, weight, bias), tol=2 * TOL.fp8.f32)
    inner = product.finished().bfloat16()
    want = F.gelu(inner.double(), approximate="tanh")
    close(
        "gelu",
        got=quantize(inner, activation="gelu_tanh").dequantized(),
        want=want,
        tol=TOL.fp8.f32,
    )
    stream, factor, offset = _draw(rows, WIDTH), _draw(WIDTH), _draw(WIDTH)
    added = Product(_draw(rows, WIDTH), torch.rand(rows, 1, device="cuda"), offset)
    total, normed = add_product_norm(stream, added, Fp8Norm.of(factor, offset, 1e-6))
    assert torch.equal(total, add_product(stream, added))
    want = stream.double() + added.sums.double() * added.scales.double() + offset.double()
    close("sum", got=total, want=want, tol=TOL.norm.bf16)
    high = (t.double() for t in (total, factor, offset))
    want = F.layer_norm(next(high), (WIDTH,), *high, 1e-6)
    close("norm", got=normed.dequantized(), want=want, tol=TOL.fp8.f32)
    got = fp8_rows_product(normed, Fp8Weight.of(weight), bias)
    close(
        "finished",
        got=got,
        want=F.linear(want.float(), weight.float(), bias.float()),
        tol=2 * TOL.fp8.f32,
    )


def test_towers_with_odd_numbers_of_frames() -> None:
    config = VisionConfig(
        tower="siglip", hidden_size=WIDTH, intermediate_size=INNER, num_layers=4,
        num_heads=HEADS, image_size=384, patch_size=14,
    )  # fmt: skip
    exact = build_tower(config).cuda().eval().requires_grad_(requires_grad=False)
    low = copy.deepcopy(exact).bfloat16()
    fp8 = copy.deepcopy(low)
    assert len(quantize_tower_(fp8)) == 3
    frames = torch.randn(5, 3, 384, 384, device="cuda")
    want = exact(frames)
    close("bfloat16", got=low(frames), want=want, tol=TOL.vision.bf16)
    close("fp8", got=fp8(frames), want=want, tol=3 * TOL.fp8.f32)
    for tower in (low, fp8):
        close("alone", got=tower(frames[3:4]), want=tower(frames)[3:4], tol=TOL.vision.bf16)
