"""The Triton scan, interpreted on a CPU, against the oracle: outputs, states, every gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.ops.draws import gradients, scan_operands
from tests.unit.ops.scratch import fill_scratch
from timeviper.core.errors import ConfigError
from timeviper.ops import backend, ssd_chunked, ssd_reference
from timeviper.ops.ssd import ssd
from timeviper.ops.triton_probe import is_interpreted

pytest.importorskip("triton.runtime.interpreter")
ssd_triton = pytest.importorskip("timeviper.ops.ssd_triton")

pytestmark = [
    pytest.mark.skipif(not is_interpreted(), reason="kernels are compiled here"),
    pytest.mark.usefixtures("loops_count"),
]

ORDER = ("x", "dt", "A", "B", "C", "D", "dt_bias", "state")
WHOLE = ssd_triton.Tuning(programs=1, shortest=1000)
# More programs than there is work: every chunk, or every other one, is a segment of its own.
CUT = ssd_triton.Tuning(programs=1000, shortest=1)
PAIRS = ssd_triton.Tuning(programs=1000, shortest=2)


def _scan(
    operands: dict[str, Tensor], lengths: list[int], tuning: Any = WHOLE, **options: Any
) -> tuple[Tensor, Tensor]:
    given = {"softplus": True, "chunk": 16, **options}
    named = tuple(operands.get(name) for name in ORDER)
    return ssd_triton.scan(
        named, ssd_triton.Options(lengths=tuple(lengths), tuning=tuning, **given)
    )


def _leaves(lengths: list[int], dtype: torch.dtype = torch.float32, **sizes: int) -> dict[str, Any]:
    """Leaves in the dtype that kernels get, drawn as for the other scans."""
    drawn = scan_operands(lengths, **{"heads": 2, "groups": 1, **sizes})
    return {name: v.detach().to(dtype).requires_grad_() for name, v in drawn.items()}


def _oracle(operands: dict[str, Tensor], lengths: list[int], **call: Any) -> Any:
    high = {name: v.detach().double().requires_grad_() for name, v in operands.items()}
    want = ssd_reference.ssd(**high, lengths=lengths, **{"dt_softplus": True, **call})
    return want, gradients(want, list(high.values()))


def _compare(
    got: tuple[Tensor, Tensor], operands: dict[str, Tensor], oracle: Any, precision: str = "f32"
) -> None:
    want, wanted = oracle
    tol, grad_tol = getattr(TOL.ssd, precision), getattr(TOL.ssd_grad, precision)
    for name, a, b in zip(("y", "state"), got, want, strict=True):
        close(name, got=a, want=b, tol=tol)
    found = gradients(got, list(operands.values()))
    for (name, leaf), a, b in zip(operands.items(), found, wanted, strict=True):
        assert a.dtype == leaf.dtype, name
        close(f"gradient of {name}", got=a, want=b, tol=grad_tol)


@pytest.fixture
def nan_scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fresh memory holds NaN, as it may; what is read before it is written shows."""
    made = fill_scratch(monkeypatch)
    yield
    assert made, "nothing asked for memory through torch.empty"


@pytest.mark.parametrize("lengths", [[5], [32], [37], [17, 0, 2], [0, 40, 1]], ids=str)
@pytest.mark.parametrize("tuning", [WHOLE, PAIRS], ids=["whole", "cut"])
@pytest.mark.usefixtures("nan_scratch")
def test_outputs_states_and_gradients_are_the_oracles(lengths: list[int], tuning: Any) -> None:
    operands = _leaves(lengths)
    _compare(_scan(operands, lengths, tuning), operands, _oracle(operands, lengths))


def test_segments_are_joined_in_both_directions() -> None:
    lengths = [70, 3, 90]
    operands = _leaves(lengths, heads=1)
    plan = ssd_triton.plan(tuple(lengths), 16, 2)
    assert plan.is_cut
    assert plan.sequences[:, 1].tolist() == [3, 1, 3]
    oracle = _oracle(operands, lengths)
    for tuning in (CUT, PAIRS):
        _compare(_scan(operands, lengths, tuning), operands, oracle)


@pytest.mark.parametrize(("heads", "groups"), [(1, 1), (6, 2), (3, 3)])
def test_every_ratio_of_heads_to_groups(heads: int, groups: int) -> None:
    operands = _leaves([21, 4], heads=heads, groups=groups)
    _compare(_scan(operands, [21, 4]), operands, _oracle(operands, [21, 4]))


@pytest.mark.parametrize("tuning", [WHOLE, CUT], ids=["whole", "cut"])
@pytest.mark.parametrize("head_dim", [48, 40])
def test_heads_in_two_parts(tuning: Any, head_dim: int) -> None:
    """A head_dim that is no power of two is walked as a large part and a padded rest."""
    operands = _leaves([18, 35], head_dim=head_dim, size=17)
    _compare(_scan(operands, [18, 35], tuning), operands, _oracle(operands, [18, 35]))


@pytest.mark.parametrize("head_dim", [20, 70])
def test_parts_that_reach_beyond_a_head(head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As bfloat16 is walked on a GPU: padded to 64 channels, the last part too."""
    parts = ssd_triton._parts(head_dim, broad=True)
    monkeypatch.setattr(ssd_triton, "_parts", lambda head_dim, broad: parts)
    operands = _leaves([18, 3], head_dim=head_dim, size=17)
    _compare(_scan(operands, [18, 3], CUT), operands, _oracle(operands, [18, 3]))


def test_more_heads_than_a_block_of_steps() -> None:
    operands = _leaves([18], heads=18, head_dim=18, size=17)
    _compare(_scan(operands, [18], CUT), operands, _oracle(operands, [18]))


@pytest.mark.parametrize("tuning", [WHOLE, CUT], ids=["whole", "cut"])
def test_bfloat16_tokens(tuning: Any) -> None:
    operands = _leaves([40, 9], torch.bfloat16)
    got = _scan(operands, [40, 9], tuning)
    assert (got[0].dtype, got[1].dtype) == (torch.bfloat16, torch.float32)
    _compare(got, operands, _oracle(operands, [40, 9]), "bf16")


def test_views_of_one_projection_are_read_where_they_lie() -> None:
    """Token strides of a wider row, channels not side by side, gradients expanded from one."""
    o = _leaves([20, 3], head_dim=3, size=5)
    row = torch.cat([o["x"].flatten(1), o["B"].flatten(1), o["C"].flatten(1), o["dt"]], dim=1)
    row = row.detach().t().contiguous().t()
    x, b, c, dt = row.split([6, 5, 5, 2], dim=1)
    views = {**o, "x": x.unflatten(1, (2, 3)), "B": b[:, None], "C": c[:, None], "dt": dt}
    leaves = {n: v.detach().requires_grad_() for n, v in views.items()}
    assert not leaves["x"].is_contiguous()
    y, state = _scan(leaves, [20, 3])
    want_y, want_state = _scan(o, [20, 3])
    close("y", got=y, want=want_y, tol=0.0)
    close("state", got=state, want=want_state, tol=0.0)
    found = torch.autograd.grad(y.sum(), list(leaves.values()))
    wanted = torch.autograd.grad((want_y * torch.ones_like(want_y)).sum(), list(o.values()))
    for name, a, b in zip(o, found, wanted, strict=True):
        close(f"gradient of {name}", got=a, want=b, tol=1e-7)


@pytest.mark.parametrize("part", [0, 1], ids=["outputs", "state"])
def test_gradients_of_one_result_alone(part: int) -> None:
    operands = _leaves([19])
    got = _scan(operands, [19], CUT)
    high = {name: v.detach().double().requires_grad_() for name, v in operands.items()}
    want = ssd_reference.ssd(**high, lengths=[19], dt_softplus=True)
    found = gradients(got[part : part + 1], list(operands.values()))
    wanted = gradients(want[part : part + 1], list(high.values()))
    for name, a, b in zip(operands, found, wanted, strict=True):
        close(f"gradient of {name}", got=a, want=b, tol=TOL.ssd_grad.f32)


@pytest.mark.parametrize("softplus", [True, False])
def test_steps_at_their_limits(softplus: bool) -> None:
    operands = _leaves([19])
    limit = (0.05, 0.2)
    oracle = _oracle(operands, [19], dt_softplus=softplus, dt_limit=limit)
    _compare(_scan(operands, [19], softplus=softplus, limit=limit), operands, oracle)


def test_steps_of_zero_have_gradients() -> None:
    operands = _leaves([18])
    with torch.no_grad():
        operands["dt"].abs_()[3:9] = 0
        operands["dt_bias"].zero_()
    oracle = _oracle(operands, [18], dt_softplus=False)
    _compare(_scan(operands, [18], softplus=False), operands, oracle)


def test_small_steps_keep_their_digits() -> None:
    """softplus(-20) is 2e-9: as log(1 + u) in float32 it would be zero."""
    operands = _leaves([16])
    with torch.no_grad():
        operands["dt"].copy_(torch.linspace(-30, 30, 32).reshape(16, 2))
        operands["dt_bias"].zero_()
        operands["A"].fill_(-0.01)
    _compare(_scan(operands, [16]), operands, _oracle(operands, [16]))


def test_strong_and_vanishing_decay_give_no_nan() -> None:
    operands = _leaves([36], heads=4)
    with torch.no_grad():
        operands["A"].copy_(torch.tensor([-1000.0, -1e-6, -30.0, -1e4]))
        operands["dt"].add_(3)
    _compare(_scan(operands, [36]), operands, _oracle(operands, [36]))


def test_without_bias_direct_path_and_state() -> None:
    o = _leaves([20])
    few = {name: o[name] for name in ("x", "dt", "A", "B", "C")}
    _compare(_scan(few, [20], PAIRS), few, _oracle(few, [20]))


def test_one_poisoned_sequence_does_not_spoil_the_others() -> None:
    o = {name: value.detach() for name, value in _leaves([9, 34, 3]).items()}
    clean, _ = _scan(o, [9, 34, 3], PAIRS)
    o["x"][9:43] = torch.nan
    y, state = _scan(o, [9, 34, 3], PAIRS)
    close("first", got=y[:9], want=clean[:9], tol=0.0)
    close("last", got=y[43:], want=clean[43:], tol=0.0)
    assert state[[0, 2]].isfinite().all()


def test_the_public_scan_takes_it_by_name_with_every_argument() -> None:
    operands = {name: value.detach() for name, value in _leaves([30, 4]).items()}
    call = {"lengths": [30, 4], "dt_softplus": True, "dt_limit": (0.05, 0.4), "chunk_size": 20}
    got, want = ssd(**operands, **call, backend="triton"), ssd_reference.ssd(**operands, **call)
    close("y", got=got[0], want=want[0], tol=TOL.ssd.f32)
    close("state", got=got[1], want=want[1], tol=TOL.ssd.f32)


def test_interpreted_kernels_are_taken_by_name_only() -> None:
    assert backend.choose("ssd", device_type="cpu").name == "chunked"
    assert "interpreted" in backend.choose("ssd", "triton", device_type="cpu").why


@pytest.mark.parametrize("lengths", [[1, 1], [0, 1], [0], []], ids=str)
def test_single_steps_stay_with_the_recurrence(
    lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssd_triton, "scan", None)
    operands = _leaves(lengths)
    call = {"lengths": lengths, "dt_softplus": True, "dt_limit": (0.1, 0.3)}
    got, want = ssd_triton.ssd(**operands, **call), ssd_chunked.ssd(**operands, **call)
    close("y", got=got[0], want=want[0], tol=0.0)
    close("state", got=got[1], want=want[1], tol=0.0)


def test_float64_is_refused_not_rounded() -> None:
    with pytest.raises(ConfigError, match=r"got float64.*backend='chunked'"):
        ssd_triton.ssd(**scan_operands([3]), lengths=[3])


@pytest.mark.parametrize("sizes", [{"head_dim": 129}, {"size": 130}], ids=str)
def test_larger_heads_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at most 128 for the triton scan"):
        ssd_triton.ssd(**_leaves([3], **sizes), lengths=[3])


@pytest.mark.parametrize(
    ("lengths", "chunk", "most"),
    [((100, 0, 1, 64), 16, 2), ((5,), 64, 9), ((0, 0, 7), 16, 1), ((1000, 999), 32, 7)],
    ids=str,
)
def test_plans_hold_every_token_once(lengths: tuple[int, ...], chunk: int, most: int) -> None:
    plan = ssd_triton.plan(lengths, chunk, most)
    tokens = np.concatenate([np.arange(first, first + n) for first, n in plan.chunks])
    assert tokens.tolist() == list(range(sum(lengths)))
    assert (plan.chunks[:, 1] <= chunk).all()
    assert len(plan.sequences) == len(lengths)
    assert (plan.sequences[:, 1] >= 1).all()
    assert plan.sequences[-1].sum() == len(plan.segments)
    start = 0
    for (first, many), length in zip(plan.sequences, lengths, strict=True):
        own = plan.segments[first : first + many]
        assert own[0, 2] == start
        assert own[-1, 3] == start + length
        assert (own[1:, 2] == own[:-1, 3]).all()
        for first_chunk, chunks, token, end in own:
            assert chunks <= most
            assert plan.chunks[first_chunk : first_chunk + chunks, 1].sum() == end - token
        start += length


@pytest.mark.parametrize(
    ("counts", "walkers", "most"),
    [
        ([960], 12, 23),  # one long sequence: cut into even shares
        ([6] * 256, 12, 6),  # many short ones fill the chip
        ([960, *[2] * 100], 12, 28),
        ([9], 12, 9),  # too little work to walk twice
        ([2560], 1024, 2560 * 1024 // 512),
    ],
)
def test_sequences_are_cut_where_that_halves_the_longest_walk(
    counts: list[int], walkers: int, most: int
) -> None:
    got = ssd_triton.most_chunks(counts, walkers=walkers, wanted=512, shortest=8)
    assert min(got, max(counts)) == min(most, max(counts))


@pytest.mark.parametrize(("asked", "taken"), [(1, 16), (16, 16), (63, 32), (64, 64), (256, 64)])
def test_chunks_are_powers_of_two(asked: int, taken: int) -> None:
    x, b = torch.zeros(1, 1, 64, dtype=torch.bfloat16), torch.zeros(1, 1, 128)
    assert ssd_triton._chunk(asked, x, b) == taken


def test_large_states_of_float32_take_shorter_chunks() -> None:
    """64 tokens of float32 beside a state of 64 x 128 need more memory than a program has."""
    x = torch.zeros(1, 1, 64)
    assert ssd_triton._chunk(64, x, torch.zeros(1, 1, 128)) == 32
    assert ssd_triton._chunk(64, x, torch.zeros(1, 1, 64)) == 64


@pytest.mark.parametrize(
    ("head_dim", "parts", "broad"),
    [
        (16, [(0, 16)], [(0, 64)]),
        (20, [(0, 32)], [(0, 64)]),
        (48, [(0, 32), (32, 16)], [(0, 64)]),
        (64, [(0, 64)], [(0, 64)]),
        (80, [(0, 64), (64, 16)], [(0, 64), (64, 16)]),
        (96, [(0, 64), (64, 32)], [(0, 64), (64, 64)]),
        (128, [(0, 128)], [(0, 128)]),
    ],
)
def test_parts_of_a_head(head_dim: int, parts: list[Any], broad: list[Any]) -> None:
    """Outputs from products of bfloat16 are never walked by 32 channels: an H100 gets it wrong."""
    assert ssd_triton._parts(head_dim) == parts
    assert ssd_triton._parts(head_dim, broad=True) == broad
