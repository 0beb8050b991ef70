"""The split kernel and the merges, interpreted: oracle, odd lengths, NaN in all that is spare."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="no Triton for this platform")

from tests.tolerances import TOL, close
from tests.unit.ops.draws import cached_keys, slow_attention
from tests.unit.ops.test_attention_shared import copied_in_front, fronts, shared_keys
from timeviper.ops import attention_triton as room
from timeviper.ops.attention import attention_step
from timeviper.ops.attention_parts import Part, SharedKeys, merge, part
from timeviper.ops.fronts import Fronts
from timeviper.ops.triton_probe import is_interpreted

DEVICE = torch.device("cpu" if is_interpreted() else "cuda")
DTYPES = pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float32, 2 * TOL.attention.f32), (torch.bfloat16, TOL.attention.bf16)]
)


def on_device(*tensors: Tensor) -> list[Tensor]:
    return [x.detach().to(DEVICE) for x in tensors]


def shared_on_device(shared: SharedKeys | None) -> SharedKeys | None:
    if shared is None:
        return None
    k, v = on_device(shared.k, shared.v)
    return SharedKeys(k=k, v=v, length=shared.length)


def tables(shared: SharedKeys | None, sequences: int, ratio: int) -> Fronts:
    return fronts([shared_on_device(shared)] * sequences, ratio=ratio, device=DEVICE)


def slow_step(
    q: Tensor, k: Tensor, v: Tensor, k_lengths: list[int], shared: SharedKeys | None
) -> Tensor:
    if shared is not None:
        k, v, k_lengths = copied_in_front(shared, k, v, k_lengths)
    q, k, v = (x.double() for x in (q, k, v))
    ones = [1] * len(k_lengths)
    return slow_attention(q, k, v, q_lengths=ones, k_lengths=k_lengths, causal=False)


@pytest.fixture
def many_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short keys are cut too."""
    monkeypatch.setattr(room, "_FEWEST_KEYS", 8)


@DTYPES
@pytest.mark.parametrize("k_lengths", [[150], [1, 77, 64], [65, 0, 3, 128, 31]], ids=str)
@pytest.mark.parametrize("front", [None, 0, 90])
@pytest.mark.usefixtures("many_splits", "spoiled_scratch")
def test_steps_are_the_oracles(
    dtype: torch.dtype, tol: float, k_lengths: list[int], front: int | None
) -> None:
    q = torch.randn(len(k_lengths), 6, 8).to(dtype)
    k, v = cached_keys(k_lengths, dtype=dtype)
    shared = None if front is None else shared_keys(front, dtype=dtype)
    got = attention_step(
        *on_device(q, k, v),
        k_lengths=torch.tensor(k_lengths, device=DEVICE),
        shared=tables(shared, len(k_lengths), 3),
        backend="triton",
    )
    assert got.dtype == dtype
    close("y", got=got, want=slow_step(q, k, v, k_lengths, shared), tol=tol)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(1, 1, 16), (5, 1, 24), (40, 8, 4), (34, 2, 8)]
)
@pytest.mark.usefixtures("many_splits", "spoiled_scratch")
def test_every_ratio_of_heads_and_width(heads: int, kv_heads: int, head_dim: int) -> None:
    q = torch.randn(2, heads, head_dim)
    sizes = {"kv_heads": kv_heads, "head_dim": head_dim, "dtype": torch.float32}
    (k, v), (front, values) = cached_keys([40, 3], **sizes), cached_keys([35], **sizes)
    shared = SharedKeys(k=front[0], v=values[0], length=35)
    lengths = torch.tensor([40, 3], dtype=torch.int32, device=DEVICE)
    operands = on_device(q, k, v)
    call = {"k_lengths": lengths, "shared": tables(shared, 2, heads // kv_heads)}
    got = room.attention_step(*operands, **call)
    want = slow_step(q, k, v, [40, 3], shared)
    close("y", got=got, want=want, tol=2 * TOL.attention.f32)


@pytest.mark.usefixtures("many_splits")
def test_lengths_that_grow_on_the_device_need_no_new_call_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a CUDA graph relies on: the launches do not depend on the lengths."""
    grids: list[tuple[int, ...]] = []
    kernel = room._split_kernel

    class Spy:
        def __getitem__(self, grid: tuple[int, ...]) -> object:
            grids.append(grid)
            return kernel[grid]

    monkeypatch.setattr(room, "_split_kernel", Spy())
    q, k, v = torch.randn(2, 4, 8), *(torch.randn(2, 100, 2, 8) for _ in range(2))
    operands = on_device(q, k, v)
    for filled in ([1, 2], [100, 50]):
        lengths = torch.tensor(filled, device=DEVICE)
        got = room.attention_step(*operands, k_lengths=lengths)
        want = slow_step(q, k, v, filled, None)
        close("y", got=got, want=want, tol=2 * TOL.attention.f32)
    assert grids[0] == grids[1]
    assert grids[0][1] > 1


@pytest.mark.usefixtures("many_splits", "spoiled_scratch")
def test_strided_queries_and_scale() -> None:
    wide = torch.randn(3, 4, 20)
    k, v = cached_keys([9, 30, 2], dtype=torch.float32)
    q, k, v = on_device(wide[..., 6:14], k, v)
    lengths = torch.tensor([9, 30, 2], device=DEVICE)
    got = room.attention_step(q, k, v, k_lengths=lengths, scale=0.2)
    want = slow_step(q.cpu() * 0.2 * 8**0.5, k.cpu(), v.cpu(), [9, 30, 2], None)
    close("y", got=got, want=want, tol=2 * TOL.attention.f32)


def test_other_precisions_go_through_torch() -> None:
    q, (k, v) = torch.randn(2, 4, 8).double(), cached_keys([5, 3])
    got = room.attention_step(q, k, v, k_lengths=torch.tensor([5, 3]))
    close("y", got=got, want=slow_step(q, k, v, [5, 3], None), tol=TOL.attention.f64)


@pytest.mark.parametrize("tokens", [1, 9, 70])
@pytest.mark.usefixtures("many_splits", "spoiled_scratch")
def test_parts_of_few_queries_with_their_log_sums(tokens: int) -> None:
    q, k, v = torch.randn(tokens, 6, 8), torch.randn(77, 2, 8), torch.randn(77, 2, 8)
    want = part(q, k, v, causal=False, scale=None)
    got = room.part(*on_device(q, k, v), scale=None)
    close("y", got=got.out, want=want.out, tol=2 * TOL.attention.f32)
    close("log-sum", got=got.lse, want=want.lse, tol=2 * TOL.attention.f32)


@DTYPES
@pytest.mark.usefixtures("spoiled_scratch")
def test_two_parts_merge_with_any_strides(dtype: torch.dtype, tol: float) -> None:
    q = torch.randn(11, 6, 8)
    k, v = (torch.randn(30, 2, 8) for _ in range(2))
    pieces = [
        part(q, k[a:b], v[a:b], causal=False, scale=None) for a, b in ((0, 0), (0, 13), (13, 30))
    ]
    heads_first = [
        Part(
            p.out.to(DEVICE, dtype).transpose(0, 1).contiguous().transpose(0, 1),
            p.lse.to(DEVICE).t().contiguous().t(),
        )
        for p in pieces
    ]
    nothing, first, second = heads_first
    sums = room.merge_two(room.merge_two(nothing, first, torch.float32), second, torch.float32)
    want = merge(pieces)
    close("y", got=sums.out, want=want.out, tol=tol)
    close("log-sum", got=sums.lse, want=want.lse, tol=2 * TOL.attention.f32)
    again = room.merge_two(sums, nothing, torch.float32)
    assert again.out.data_ptr() == sums.out.data_ptr(), "sums are written over"
    assert room.merge_two(sums, nothing, dtype).out.dtype == dtype


def test_nothing_merged_with_nothing_is_nothing() -> None:
    nothing = Part(*on_device(torch.zeros(3, 2, 8), torch.full((3, 2), -torch.inf)))
    merged = room.merge_two(nothing, nothing, torch.bfloat16)
    assert merged.out.abs().max() == 0
    assert bool((merged.lse == -torch.inf).all())


def test_no_sequences() -> None:
    q, k, v = on_device(torch.zeros(0, 4, 8), *(torch.zeros(0, 5, 2, 8),) * 2)
    lengths = torch.zeros(0, dtype=torch.int64, device=DEVICE)
    assert room.attention_step(q, k, v, k_lengths=lengths).shape == (0, 4, 8)


def test_splits_fill_the_device_and_stay_long() -> None:
    for programs in (1, 8, 64, 256, 10_000):
        for capacity in (1, 600, 33_000, 163_840, 2_000_000):
            splits = room.splits_of(torch.device("cpu"), programs, capacity)
            assert 1 <= splits <= max(1, capacity // 512)
            assert splits == 1 or programs * splits <= 1.5 * room._ROUNDS * room._NO_MULTIPROCESSORS


@pytest.mark.parametrize(
    ("multiprocessors", "kv_heads", "splits"), [(132, 8, 16), (108, 8, 8), (132, 2, 64), (2, 8, 8)]
)
def test_splits_of_any_batch_fill_the_device_with_one_sequence_in_eights(
    multiprocessors: int, kv_heads: int, splits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_NO_MULTIPROCESSORS", multiprocessors)
    assert room.even_splits(DEVICE, kv_heads) == splits


@pytest.mark.usefixtures("many_splits", "spoiled_scratch")
def test_what_is_no_number_stays_so() -> None:
    q, (k, v) = torch.randn(2, 3, 8), cached_keys([20, 30], kv_heads=1, dtype=torch.float32)
    front = shared_keys(40, dtype=torch.float32)
    film = SharedKeys(k=front.k[:, :1].contiguous(), v=front.v[:, :1].contiguous(), length=40)
    operands = on_device(q, k, v)
    call = {"k_lengths": torch.tensor([20, 30], device=DEVICE)}
    for spoiled in (film.k, film.v):
        before = spoiled[7, 0, 3].clone()
        spoiled.data[7, 0, 3] = torch.nan
        got = room.attention_step(
            *operands, **call, shared=fronts([shared_on_device(film), None], ratio=3, device=DEVICE)
        )
        spoiled.data[7, 0, 3] = before
        assert bool(got[0].isnan().any())
        assert bool(got[1].isfinite().all())


def test_queries_that_do_not_fit_their_table_are_a_bug_of_ours() -> None:
    q, k, v = on_device(torch.zeros(2, 4, 8), *torch.zeros(2, 2, 5, 2, 8))
    lengths = torch.tensor([1, 1], device=DEVICE)
    one = tables(shared_keys(3, dtype=torch.float32), 1, 2)
    with pytest.raises(ValueError, match="1 queries"):
        room.attention_step(q, k, v, k_lengths=lengths, shared=one)


def test_splits_of_an_h100(monkeypatch: pytest.MonkeyPatch) -> None:
    """As measured: one program a multiprocessor for one sequence, two for eight, then rounds."""
    monkeypatch.setattr(room, "_NO_MULTIPROCESSORS", 132)
    sequences = (1, 8, 32, 64)
    splits = [room.splits_of(torch.device("cpu"), 8 * n, 33_000) for n in sequences]
    assert splits == [16, 4, 4, 2]


def test_tiles_hold_the_rows_up_to_what_registers_hold() -> None:
    assert [room.tile_of(rows).rows for rows in (1, 16, 17, 40, 65, 9_999)] == [
        16,
        16,
        32,
        64,
        128,
        128,
    ]
    assert room.tile_of(500, itemsize=4).rows == 64


@pytest.mark.gpu
@DTYPES
def test_a_graph_stays_right_while_lengths_grow(dtype: torch.dtype, tol: float) -> None:
    capacity, shared = 9_000, shared_keys(5_001, dtype=dtype)
    q = torch.randn(3, 10, 8).to(dtype)
    k, v = (torch.randn(3, capacity, 2, 8).to(dtype) for _ in range(2))
    operands, front = on_device(q, k, v), tables(shared, 3, 5)
    lengths = torch.tensor([1, 4_000, 8_990], device=DEVICE)
    call = {"k_lengths": lengths, "shared": front}
    attention_step(*operands, **call)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = attention_step(*operands, **call)
    for _ in range(2):
        lengths += 5
        graph.replay()
        want = slow_step(q, k, v, lengths.tolist(), shared)
        close("y", got=y, want=want, tol=tol)
