"""The chunked scan against the oracle: outputs, states and every gradient, all its paths."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.ops.draws import gradients, scan_operands
from timeviper.ops import ssd_chunked, ssd_reference

# One chunk, whole chunks, an odd rest, single steps, nothing, ragged, very unlike lengths.
LENGTHS = [[5], [16], [37], [8, 8], [13, 13, 13], [1, 1, 1], [0, 0], [], [1, 0, 1]]
LENGTHS += [[5, 0, 40, 1, 18, 3], [3, 200, 17], [1, 30]]


def _compare(
    operands: dict[str, Tensor], lengths: list[int], precision: str, chunk_size: int
) -> None:
    call = {"lengths": lengths, "dt_softplus": True, "chunk_size": chunk_size}
    got = ssd_chunked.ssd(**operands, **call)
    want = ssd_reference.ssd(**operands, **call)
    tol, grad_tol = getattr(TOL.ssd, precision), getattr(TOL.ssd_grad, precision)
    for name, a, b in zip(("y", "state"), got, want, strict=True):
        assert a.dtype == b.dtype
        close(name, got=a, want=b, tol=tol)
    leaves = list(operands.values())
    pairs = zip(operands, gradients(got, leaves), gradients(want, leaves), strict=True)
    for name, a, b in pairs:
        close(f"gradient of {name}", got=a, want=b, tol=grad_tol)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("precision", ["f64", "f32"])
def test_outputs_states_and_gradients_are_the_oracles(lengths: list[int], precision: str) -> None:
    dtype = torch.float64 if precision == "f64" else torch.float32
    _compare(scan_operands(lengths, dtype=dtype), lengths, precision, chunk_size=8)


@pytest.mark.parametrize(("heads", "groups"), [(1, 1), (6, 1), (6, 2), (6, 6)])
def test_every_ratio_of_heads_to_groups(heads: int, groups: int) -> None:
    operands = scan_operands([21, 4], heads=heads, groups=groups)
    _compare(operands, [21, 4], "f64", chunk_size=8)


@pytest.mark.parametrize("chunk_size", [1, 2, 7, 64, 1000])
def test_the_chunk_size_does_not_matter(chunk_size: int) -> None:
    _compare(scan_operands([23, 23]), [23, 23], "f64", chunk_size=chunk_size)


@pytest.mark.parametrize("length", [64, 333])
def test_small_blocks_with_a_carried_state_are_the_whole(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssd_chunked, "_CPU_BLOCK_BYTES", 1)
    operands = scan_operands([length])
    _compare(operands, [length], "f64", chunk_size=8)
    with torch.no_grad():
        got = ssd_chunked.ssd(**operands, lengths=[length], chunk_size=8, dt_limit=(0.0, 1.0))
        want = ssd_reference.ssd(**operands, lengths=[length], dt_limit=(0.0, 1.0))
    close("y", got=got[0], want=want[0], tol=TOL.ssd.f64)
    close("state", got=got[1], want=want[1], tol=TOL.ssd.f64)


@pytest.mark.parametrize("lengths", [[90, 90], [90, 11, 0, 64], [8, 8], [3]], ids=str)
def test_the_way_of_the_gpu_is_the_same_scan(
    lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded rows and one product between chunks, as on a GPU, but here."""
    monkeypatch.setattr(ssd_chunked, "_few_kernels", lambda device_type: True)
    monkeypatch.setattr(ssd_chunked, "_GPU_BLOCK_CHUNKS", 9)
    _compare(scan_operands(lengths), lengths, "f64", chunk_size=4)
    _compare(scan_operands(lengths, dtype=torch.float32), lengths, "f32", chunk_size=4)


@pytest.mark.parametrize("lengths", [[40], [40, 9]])
def test_bfloat16_inputs_lose_no_more_than_their_own_rounding(lengths: list[int]) -> None:
    operands = scan_operands(lengths, heads=8, head_dim=16, size=16)
    low = {name: v.detach().bfloat16() for name, v in operands.items()}
    y, state = ssd_chunked.ssd(**low, lengths=lengths, dt_softplus=True)
    high = {name: v.double() for name, v in low.items()}
    want, final = ssd_reference.ssd(**high, lengths=lengths, dt_softplus=True)
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)
    close("y", got=y, want=want, tol=TOL.ssd.bf16)
    close("state", got=state, want=final, tol=TOL.ssd.f32)


def test_autocast_does_not_reach_the_sums() -> None:
    operands = scan_operands([70], dtype=torch.float32)
    run = partial(ssd_chunked.ssd, **operands, lengths=[70], dt_softplus=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = run()
    for name, a, b in zip(("y", "state"), got, run(), strict=True):
        assert a.dtype == torch.float32
        close(name, got=a, want=b, tol=0.0)


def test_strong_and_vanishing_decay_give_no_nan() -> None:
    """The exponential underflows between far tokens; gradients must be 0 there, not NaN."""
    operands = scan_operands([100])
    with torch.no_grad():
        operands["A"].copy_(torch.tensor([-1000.0, -1e-6, -30.0, -1e4]))
        operands["dt"].add_(3)
    _compare(operands, [100], "f64", chunk_size=32)


def test_steps_at_their_limits() -> None:
    operands = scan_operands([19])
    call = {"lengths": [19], "dt_softplus": True, "dt_limit": (0.05, 0.2)}
    got, want = ssd_chunked.ssd(**operands, **call), ssd_reference.ssd(**operands, **call)
    leaves = list(operands.values())
    close("y", got=got[0], want=want[0], tol=TOL.ssd.f64)
    for a, b in zip(gradients(got, leaves), gradients(want, leaves), strict=True):
        close("gradient", got=a, want=b, tol=TOL.ssd_grad.f64)


@pytest.mark.parametrize("lengths", [[5], [3, 0, 2], [1, 1]])
def test_gradcheck(lengths: list[int]) -> None:
    operands = scan_operands(lengths, heads=2, head_dim=2, groups=1, size=2)

    def run(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        named = dict(zip(operands, leaves, strict=True))
        return ssd_chunked.ssd(**named, lengths=lengths, dt_softplus=True, chunk_size=2)

    assert torch.autograd.gradcheck(run, tuple(operands.values()))


def test_without_bias_direct_path_and_state() -> None:
    o = scan_operands([12, 5])
    call = (o["x"], o["dt"].exp(), o["A"], o["B"], o["C"])
    got = ssd_chunked.ssd(*call, lengths=[12, 5])
    want = ssd_reference.ssd(*call, lengths=[12, 5])
    close("y", got=got[0], want=want[0], tol=TOL.ssd.f64)
    close("state", got=got[1], want=want[1], tol=TOL.ssd.f64)


def test_one_poisoned_sequence_does_not_spoil_the_others() -> None:
    o = {name: value.detach() for name, value in scan_operands([9, 14, 3]).items()}
    clean, _ = ssd_chunked.ssd(**o, lengths=[9, 14, 3], dt_softplus=True, chunk_size=4)
    o["x"][9:23] = torch.nan
    y, state = ssd_chunked.ssd(**o, lengths=[9, 14, 3], dt_softplus=True, chunk_size=4)
    close("first", got=y[:9], want=clean[:9], tol=0.0)
    close("last", got=y[23:], want=clean[23:], tol=0.0)
    assert state[[0, 2]].isfinite().all()


@pytest.mark.parametrize(
    ("lengths", "chunk", "groups"),
    [
        ([5, 3, 1], 64, [[0, 1, 2]]),
        ([100, 1, 60, 0, 49], 16, [[0, 2], [4], [1]]),
        ([100, 30, 20, 10], 32, [[0], [1, 2, 3]]),
        ([0, 0], 8, []),
        ([7, 7], 2, [[0, 1]]),
    ],
)
def test_like_lengths_share_rows(lengths: list[int], chunk: int, groups: list[list[int]]) -> None:
    assert ssd_chunked.like_lengths(lengths, chunk) == groups
