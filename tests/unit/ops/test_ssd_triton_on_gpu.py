"""The Triton scan compiled: the oracle, the chunked scan at real sizes, 64-bit offsets, repeats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.ops.draws import gradients, scan_operands
from tests.unit.ops.scratch import fill_scratch
from timeviper.ops import ssd_reference
from timeviper.ops.ssd import ssd

pytestmark = pytest.mark.gpu
pytest.importorskip("triton")

SHAPES = {
    "training": {"heads": 12, "head_dim": 64, "groups": 1, "size": 64},
    "nano": {"heads": 16, "head_dim": 80, "groups": 2, "size": 128},
    "odd": {"heads": 6, "head_dim": 20, "groups": 3, "size": 33},
}


# Each pair of dtype and shape is compiled anew, which is what takes time here.
@pytest.mark.parametrize(
    ("dtype", "precision", "shape", "lengths"),
    [
        (torch.bfloat16, "bf16", "training", [64, 0, 17, 333]),
        (torch.bfloat16, "bf16", "nano", [64, 0, 17, 333]),
        (torch.bfloat16, "bf16", "nano", [1100]),
        (torch.bfloat16, "bf16", "odd", [200]),
        (torch.float32, "f32", "training", [200]),
        (torch.float32, "f32", "odd", [64, 0, 17, 333]),
        pytest.param(torch.float32, "f32", "nano", [200], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_oracle_at_odd_lengths(
    dtype: torch.dtype,
    precision: str,
    shape: str,
    lengths: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn = scan_operands(lengths, **SHAPES[shape])
    low = {n: v.detach().to("cuda", dtype).requires_grad_() for n, v in drawn.items()}
    high = {n: v.detach().cpu().double().requires_grad_() for n, v in low.items()}
    want = ssd_reference.ssd(**high, lengths=lengths, dt_softplus=True)
    wanted = gradients(want, list(high.values()))
    with monkeypatch.context() as patched:
        fill_scratch(patched)
        got = ssd(**low, lengths=lengths, dt_softplus=True, backend="triton")
        found = gradients([y.cpu() for y in got], list(low.values()))
    tol, grad_tol = getattr(TOL.ssd, precision), getattr(TOL.ssd_grad, precision)
    for name, a, b in zip(("y", "state"), got, want, strict=True):
        close(name, got=a, want=b, tol=tol)
    for name, a, b in zip(low, found, wanted, strict=True):
        close(f"gradient of {name}", got=a, want=b, tol=grad_tol)


def _projected(tokens: int, shape: dict[str, int]) -> dict[str, Tensor]:
    """Operands as a mixer has them: x, B and C views of one tensor in bfloat16."""
    heads, groups = shape["heads"], shape["groups"]
    widths = [heads * shape["head_dim"], groups * shape["size"], groups * shape["size"]]
    row = torch.randn(tokens, sum(widths), device="cuda", dtype=torch.bfloat16)
    x, b, c = row.requires_grad_().split(widths, -1)
    return {
        "x": x.unflatten(-1, (heads, -1)),
        "dt": torch.randn(tokens, heads, device="cuda", dtype=torch.bfloat16).requires_grad_(),
        "A": -torch.linspace(1, 16, heads, device="cuda"),
        "B": b.unflatten(-1, (groups, -1)),
        "C": c.unflatten(-1, (groups, -1)),
        "D": torch.ones(heads, device="cuda").requires_grad_(),
        "dt_bias": torch.full((heads,), -4.0, device="cuda").requires_grad_(),
    }


def _run(o: dict[str, Any], lengths: list[int], backend: str) -> list[Tensor]:
    """Outputs, states and gradients of what takes one, under fixed weights."""
    y, state = ssd(**o, lengths=lengths, dt_softplus=True, backend=backend)
    torch.manual_seed(3)
    leaves = [v for v in o.values() if v.requires_grad]
    chance = torch.Generator(y.device).manual_seed(3)
    weights = [
        torch.randn(r.shape, generator=chance, device=r.device, dtype=r.dtype) for r in (y, state)
    ]
    found = torch.autograd.grad([y, state], leaves, weights)
    return [y.detach(), state.detach(), *found]


@pytest.mark.parametrize("shape", ["training", "nano"])
@pytest.mark.parametrize("lengths", [[20_000], [384] * 40, [9_000, 100, 3_333]], ids=str)
def test_the_chunked_scan_at_real_sizes(shape: str, lengths: list[int]) -> None:
    o = _projected(sum(lengths), SHAPES[shape])
    got, want = _run(o, lengths, "triton"), _run(o, lengths, "chunked")
    for number, (a, b) in enumerate(zip(got, want, strict=True)):
        close(f"result {number}", got=a, want=b, tol=TOL.ssd_grad.bf16)


@pytest.mark.parametrize("lengths", [[30_000], [500] * 30], ids=str)
def test_two_runs_agree_bit_for_bit(lengths: list[int]) -> None:
    o = _projected(sum(lengths), SHAPES["training"])
    for a, b in zip(_run(o, lengths, "triton"), _run(o, lengths, "triton"), strict=True):
        assert torch.equal(a, b)


def test_the_scan_is_what_the_registry_takes_here() -> None:
    o = _projected(300, SHAPES["training"])
    with torch.no_grad():
        chosen, _ = ssd(**o, lengths=[300], dt_softplus=True)
        named, _ = ssd(**o, lengths=[300], dt_softplus=True, backend="triton")
    assert torch.equal(chosen, named)


@pytest.mark.slow
def test_tokens_beyond_32_bit_offsets() -> None:
    """Packed is alone on both sides of element 2^31 of x, y and their gradients."""
    shape = {"heads": 128, "head_dim": 64, "groups": 1, "size": 16}
    tail, tokens = 1000, 2**31 // (128 * 64) + 500
    o = _projected(tokens, shape)
    lengths = [tokens - tail, tail]
    y, _ = ssd(**o, lengths=lengths, dt_softplus=True, backend="triton")
    weights = torch.randn_like(y[-tail:])
    grads = torch.autograd.grad((y[-tail:] * weights).sum(), [o["x"], o["B"], o["dt"]])
    found = [y[-tail:].detach(), *(g[-tail:].clone() for g in grads)]
    del y, grads
    alone = {n: v[-tail:].detach() if n in ("x", "B", "C", "dt") else v for n, v in o.items()}
    alone = {n: v.detach().clone().requires_grad_() for n, v in alone.items()}
    own, _ = ssd(**alone, lengths=[tail], dt_softplus=True, backend="triton")
    wanted = torch.autograd.grad((own * weights).sum(), [alone["x"], alone["B"], alone["dt"]])
    for number, (a, b) in enumerate(zip(found, [own.detach(), *wanted], strict=True)):
        close(f"result {number}", got=a, want=b, tol=TOL.ssd.bf16)


@pytest.mark.parametrize("cut", [3, 61, 2051])
def test_a_cut_inside_a_chunk(cut: int) -> None:
    """A short last chunk leaves the state from which the rest goes on as if never cut."""
    shape = {"heads": 128, "head_dim": 80, "groups": 8, "size": 128}
    o = _projected(4096, shape)
    shared = {n: o.pop(n) for n in ("A", "D", "dt_bias") if n in o}
    whole = ssd(**o, **shared, lengths=[4096], dt_softplus=True, backend="triton")
    state, parts = None, []
    for piece in (slice(0, cut), slice(cut, None)):
        own = {n: v[piece] for n, v in o.items()}
        count = len(own["x"])
        y, state = ssd(
            **own, **shared, state=state, lengths=[count], dt_softplus=True, backend="triton"
        )
        parts.append(y)
    close("y", got=torch.cat(parts), want=whole[0], tol=TOL.ssd.bf16)
    close("state", got=state, want=whole[1], tol=TOL.ssd.bf16)
