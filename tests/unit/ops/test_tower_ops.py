"""Ops of vision towers: residual sum and norm, attention of patches, product and GELU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.tolerances import TOL, close
from tests.unit.ops.draws import gradients
from timeviper.core.errors import ConfigError
from timeviper.ops import backend, linear_gelu_torch, patch_attention_cudnn
from timeviper.ops.layer_norm import add_layer_norm
from timeviper.ops.linear_gelu import linear_gelu
from timeviper.ops.patch_attention import patch_attention

F64 = torch.float64


def _norm_leaves(*shape: int, dtype: torch.dtype = F64) -> dict[str, Tensor]:
    width = shape[-1]
    drawn = {"stream": torch.randn(shape), "update": torch.randn(shape)}
    drawn |= {"weight": torch.randn(width), "bias": torch.randn(width)}
    return {name: value.to(dtype).requires_grad_() for name, value in drawn.items()}


def _plain_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * weight + bias


@pytest.fixture(params=["torch", "triton"])
def kernel(request: pytest.FixtureRequest) -> str:
    if request.param == "triton":
        pytest.importorskip("triton", reason="no Triton for this platform")
    return request.param


@pytest.mark.parametrize("shape", [(1, 16), (19, 24), (2, 3, 33), (5, 1), (3, 128)], ids=str)
def test_sum_and_norm(kernel: str, shape: tuple[int, ...]) -> None:
    leaves = _norm_leaves(*shape)
    total = leaves["stream"] + leaves["update"]
    want = (total, _plain_norm(total, leaves["weight"], leaves["bias"]))
    got = add_layer_norm(**leaves, eps=1e-6, backend=kernel)
    inputs = list(leaves.values())
    for name, a, b in zip(("sum", "norm"), got, want, strict=True):
        close(name, got=a, want=b, tol=TOL.norm.f64)
    found, wanted = gradients(got, inputs), gradients(want, inputs)
    for name, a, b in zip(leaves, found, wanted, strict=True):
        close(f"gradient of {name}", got=a, want=b, tol=100 * TOL.norm.f64)


def test_the_first_norm_has_nothing_to_add(kernel: str) -> None:
    leaves = _norm_leaves(7, 12) | {"update": None}
    stream, normed = add_layer_norm(**leaves, eps=1e-6, backend=kernel)
    assert stream is leaves["stream"]
    want = _plain_norm(leaves["stream"], leaves["weight"], leaves["bias"])
    close("norm", got=normed, want=want, tol=TOL.norm.f64)


@pytest.mark.parametrize("update", [torch.float32, torch.bfloat16], ids=str)
def test_a_stream_keeps_its_precision_under_coarser_updates(
    kernel: str, update: torch.dtype
) -> None:
    leaves = _norm_leaves(9, 40, dtype=torch.float32)
    leaves["update"] = leaves["update"].detach().to(update).requires_grad_()
    stream, normed = add_layer_norm(**leaves, eps=1e-6, backend=kernel)
    total = leaves["stream"] + leaves["update"].float()
    close("sum", got=stream, want=total, tol=TOL.norm.f32)
    want = _plain_norm(total, leaves["weight"], leaves["bias"])
    close("norm", got=normed, want=want, tol=TOL.norm.f32)
    (grad,) = torch.autograd.grad(normed.sum(), [leaves["update"]])
    assert grad.dtype == update


def test_bfloat16_is_rounded_once_before_the_norm(kernel: str) -> None:
    leaves = {n: v.detach() for n, v in _norm_leaves(33, 72, dtype=torch.bfloat16).items()}
    stream, normed = add_layer_norm(**leaves, eps=1e-6, backend=kernel)
    close("sum", got=stream, want=leaves["stream"] + leaves["update"], tol=TOL.norm.bf16)
    want = _plain_norm(stream.double(), leaves["weight"].double(), leaves["bias"].double())
    close("norm", got=normed, want=want, tol=TOL.norm.bf16)


def test_scratch_is_written_before_it_is_read(spoiled_scratch: None, kernel: str) -> None:
    for shape in ((19, 24), (6, 1152)):
        for value in add_layer_norm(**_norm_leaves(*shape), eps=1e-6, backend=kernel):
            assert value.isfinite().all()


def test_a_row_does_not_see_its_neighbours(kernel: str) -> None:
    leaves = {name: value.detach() for name, value in _norm_leaves(5, 24).items()}
    before = add_layer_norm(**leaves, eps=1e-6, backend=kernel)
    leaves["update"][2] = torch.nan
    after = add_layer_norm(**leaves, eps=1e-6, backend=kernel)
    others = [0, 1, 3, 4]
    for a, b in zip(after, before, strict=True):
        close("rows", got=a[others], want=b[others], tol=0.0)
        assert a[2].isnan().all()


def test_no_rows(kernel: str) -> None:
    stream, normed = add_layer_norm(**_norm_leaves(0, 8), eps=1e-6, backend=kernel)
    assert stream.shape == normed.shape == (0, 8)


def test_rows_are_split_without_waste() -> None:
    halves = pytest.importorskip("timeviper.ops.layer_norm_triton").halves
    assert halves(1152) == (1024, 128)
    assert halves(4304) == (4096, 256)
    for width in (1, 2, 16, 17, 31, 33, 768, 1024, 1025, 4480):
        head, tail = halves(width)
        assert head + tail >= width
        assert head & (head - 1) == tail & (tail - 1) == 0


def _slow_attention(qkv: Tensor, heads: int) -> Tensor:
    """Head by head, frame by frame."""
    frames, patches, wide = qkv.shape
    size = wide // 3 // heads
    q, k, v = qkv.reshape(frames, patches, 3, heads, size).unbind(2)
    out = torch.empty(frames, patches, heads, size, dtype=qkv.dtype)
    for f in range(frames):
        for h in range(heads):
            scores = q[f, :, h] @ k[f, :, h].T / size**0.5
            out[f, :, h] = scores.softmax(-1) @ v[f, :, h]
    return out.reshape(frames, patches, heads * size)


@pytest.mark.parametrize("name", ["sdpa"])
@pytest.mark.parametrize(("frames", "patches", "heads", "size"), [(3, 25, 2, 6), (1, 1, 3, 4)])
def test_patches_attend_within_their_frame(
    name: str, frames: int, patches: int, heads: int, size: int
) -> None:
    qkv = torch.randn(frames, patches, 3 * heads * size, dtype=F64)
    got = patch_attention(qkv, heads, backend=name)
    assert got.is_contiguous()
    close("values", got=got, want=_slow_attention(qkv, heads), tol=TOL.attention.f64)


def test_product_and_gelu() -> None:
    x, weight, bias = (torch.randn(s, dtype=F64) for s in ((2, 5, 8), (6, 8), (6,)))
    h = x @ weight.T + bias
    want = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
    for run in (linear_gelu, linear_gelu_torch.fused_linear_gelu):
        close("values", got=run(x, weight, bias), want=want, tol=TOL.activation.f64)


@pytest.mark.parametrize(
    ("op", "fast", "slow"),
    [
        ("patch_attention", "cudnn", "sdpa"),
        ("linear_gelu", "fused", "torch"),
        ("add_layer_norm", "triton", "torch"),
    ],
)
def test_what_runs_on_a_cpu_and_why_not_the_other(op: str, fast: str, slow: str) -> None:
    assert backend.names(op) == (fast, slow)
    assert backend.choose(op, device_type="cpu").name == slow
    if fast != "triton":
        with pytest.raises(ConfigError, match="cpu"):
            backend.choose(op, fast, device_type="cpu")


def test_float32_and_gradients_never_meet_the_kernels_of_halves() -> None:
    qkv = torch.randn(2, 9, 36, requires_grad=True)
    close(
        "attention",
        got=patch_attention_cudnn.patch_attention(qkv, 2),
        want=patch_attention(qkv, 2),
        tol=0.0,
    )
    low = [torch.randn(s).bfloat16().requires_grad_() for s in ((3, 8), (6, 8), (6,))]
    got = linear_gelu_torch.fused_linear_gelu(*low)
    close("gelu", got=got, want=F.gelu(F.linear(*low), approximate="tanh"), tol=0.0)
    assert torch.autograd.grad(got.sum(), low)[0].any()


@pytest.mark.parametrize(
    ("frames", "want"),
    [(128, [128]), (256, [256]), (7, [7]), (8, [8]), (100, [64, 32, 4]), (61, [32, 16, 8, 5])],
)
def test_few_numbers_of_frames_are_planned_for(frames: int, want: list[int]) -> None:
    assert patch_attention_cudnn.stretches(frames) == want
    assert sum(want) == frames
