"""Keys behind a prefix that rows share: forks copy nothing long and never disturb each other."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from timeviper.core.errors import LayoutError
from timeviper.model import keys as keys_module
from timeviper.model.keys import (
    LEAST_IN_HOST,
    AttentionMemory,
    extend,
    fresh,
    in_host,
    stack_attention,
)
from timeviper.ops.attention_parts import SharedKeys


def keys(total: int, first: float = 0.0) -> torch.Tensor:
    """Keys (token, 1, 2) that count upwards."""
    return (torch.arange(total * 2.0) + first).view(total, 1, 2)


def grown(*sizes: int, first: float = 0.0) -> AttentionMemory:
    """One sequence that grew by so many keys a call."""
    memory: AttentionMemory | None = None
    with torch.no_grad():
        for number, size in enumerate(sizes):
            k = keys(size, first + 100.0 * number)
            memory = extend(memory, k, -k, lengths=(size,))
    assert memory is not None
    return memory


def more(memory: AttentionMemory, *counts: int, first: float = 0.0) -> AttentionMemory:
    with torch.no_grad():
        k = keys(sum(counts), first)
        return extend(memory, k, -k, lengths=counts)


def rows(memory: AttentionMemory) -> list[list[float]]:
    """First number of every key of each sequence, the shared ones in front."""
    whole = memory.whole()
    filled = [(whole.k[r, :n], whole.v[r, :n]) for r, n in enumerate(whole.lengths)]
    assert all(torch.equal(v, -k) for k, v in filled)
    return [k[:, 0, 0].tolist() for k, _ in filled]


def held(*parts: tuple[int, float]) -> list[float]:
    return [first + 2.0 * n for count, first in parts for n in range(count)]


def test_a_fork_reads_the_keys_where_they_lie() -> None:
    video = grown(5, 3)
    fork = video.fork(3)
    assert all(f.k.data_ptr() == video.k.data_ptr() for f in fork.shared if f)
    assert all(f.v.data_ptr() == video.v.data_ptr() for f in fork.shared if f)
    assert None not in fork.shared
    assert fork.k.numel() == 0
    assert (fork.lengths, fork.own) == ((8, 8, 8), (0, 0, 0))
    assert rows(fork) == [held((5, 0.0), (3, 100.0))] * 3
    assert fork.nbytes == video.nbytes


def test_forks_and_the_video_go_on_without_feeling_each_other() -> None:
    video = grown(40, 1)
    first, second = video.fork(1), video.fork(2)
    longer = more(video, 4, first=500.0)
    # There was room: the video went on where it lay, behind what the forks share.
    assert longer.k.data_ptr() == video.k.data_ptr()
    first, second = more(first, 2, first=600.0), more(second, 1, 3, first=700.0)
    first = more(first, 1, first=800.0)
    before = [(40, 0.0), (1, 100.0)]
    assert rows(longer) == [held(*before, (4, 500.0))]
    assert rows(first) == [held(*before, (2, 600.0), (1, 800.0))]
    assert rows(second) == [held(*before, (1, 700.0)), held(*before, (3, 702.0))]
    assert second.own == (1, 3)
    assert second.nbytes == (41 + 4) * 2 * 2 * 4
    assert rows(video) == [held(*before)]


def test_a_fork_of_a_fork_copies_what_is_short_and_shares_the_rest() -> None:
    asked = more(grown(6).fork(1), 2, first=50.0)
    again = asked.fork(2)
    assert again.shared == asked.shared * 2
    assert again.shared[0] is not None
    assert again.own == (2, 2)
    one, other = (more(m, 1, 1, first=70.0 + n) for n, m in enumerate((again, again)))
    assert rows(one)[0] == held((6, 0.0), (2, 50.0), (1, 70.0))
    assert rows(other)[1] == held((6, 0.0), (2, 50.0), (1, 73.0))
    assert rows(asked) == [held((6, 0.0), (2, 50.0))]


def test_what_became_long_behind_a_prefix_joins_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "_SHORT", 2)
    long = more(grown(4).fork(1), 3, first=50.0)
    again = long.fork(2)
    assert [front.length for front in again.shared if front] == [7, 7]
    assert again.own == (0, 0)
    assert rows(again) == [held((4, 0.0), (3, 50.0))] * 2


def test_only_one_sequence_can_be_forked() -> None:
    with pytest.raises(LayoutError, match="one sequence to fork; got 2"):
        grown(3).fork(2).fork(1)


def test_selecting_keeps_the_prefix_and_copies_own_rows() -> None:
    pair = more(grown(3).fork(2), 1, 2, first=50.0)
    chosen = pair.select([1, 1, 0])
    assert chosen.shared == pair.shared[:1] * 3
    assert chosen.own == (2, 2, 1)
    assert rows(chosen) == [held((3, 0.0), (2, 52.0))] * 2 + [held((3, 0.0), (1, 50.0))]
    chosen.k.zero_()
    assert rows(pair)[1] == held((3, 0.0), (2, 52.0))


def test_room_is_made_for_own_rows_only() -> None:
    fork = more(grown(30).fork(1), 2, first=50.0)
    roomy = fork.reserve(10)
    assert roomy.k.shape[1] == 10
    assert roomy.shared == fork.shared
    longer = more(roomy, 8, first=60.0)
    assert longer.k.data_ptr() == roomy.k.data_ptr()
    assert rows(longer) == [held((30, 0.0), (2, 50.0), (8, 60.0))]


def test_stacking_leaves_what_is_in_front_where_it_lies() -> None:
    video, twin = grown(4), grown(4)
    pair, single = more(video.fork(2), 1, 0, first=50.0), more(video.fork(1), 2, first=60.0)
    together = stack_attention([pair, single], [2, 1])
    assert together is not None
    assert together.shared == (*pair.shared, *single.shared)
    assert together.own == (1, 0, 2)
    want = [held((4, 0.0), *tail) for tail in ([(1, 50.0)], [], [(2, 60.0)])]
    assert rows(together) == want
    for other in (more(twin.fork(1), 2, first=60.0), more(twin, 2, first=60.0)):
        apart = stack_attention([pair, other], [2, 1])
        assert apart is not None
        assert apart.shared == (*pair.shared, *other.shared)
        assert rows(apart) == want
    nothing = stack_attention([pair, None], [2, 1])
    assert nothing is not None
    assert rows(nothing) == [*want[:2], []]
    assert stack_attention([None, None], [1, 1]) is None


@given(data=st.data())
def test_any_tree_of_forks_and_appends_holds_what_each_branch_saw(data: st.DataObject) -> None:
    nodes = [(grown(3), [held((3, 0.0))])]
    for step in range(data.draw(st.integers(1, 12))):
        memory, seen = nodes[data.draw(st.integers(0, len(nodes) - 1))]
        if len(seen) == 1 and data.draw(st.booleans()):
            count = data.draw(st.integers(1, 3))
            nodes.append((memory.fork(count), seen * count))
            continue
        counts = data.draw(st.lists(st.integers(0, 3), min_size=len(seen), max_size=len(seen)))
        at = 1000.0 * (step + 1)
        starts = [at + 2.0 * sum(counts[:n]) for n in range(len(counts))]
        longer = [s + held((n, a)) for s, n, a in zip(seen, counts, starts, strict=True)]
        nodes.append((more(memory, *counts, first=at), longer))
    for memory, seen in nodes:
        assert rows(memory) == seen


def test_gradients_reach_what_was_appended_behind_a_prefix() -> None:
    k = keys(2, 5.0).requires_grad_()
    longer = extend(grown(3).fork(1), k, k, lengths=(2,))
    (longer.k[0, :2].sum() + longer.v[0, 1].sum()).backward()
    assert k.grad is not None
    assert k.grad[:, 0, 0].tolist() == [1.0, 2.0]
    assert longer.lengths == (5,)


def test_long_rows_can_be_moved_to_host_memory_and_go_on_there() -> None:
    made: list[tuple[int, ...]] = []

    def room(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        made.append(shape)
        return in_host(shape, like)

    short, long = grown(9).reserve(100, room), grown(9).reserve(LEAST_IN_HOST, room)
    assert made == [(1, LEAST_IN_HOST, 1, 2)] * 2
    assert short.k.shape[1] == 100
    before = long.k.data_ptr()
    longer = more(long, 5, first=70.0)
    assert longer.k.data_ptr() == before
    assert rows(longer) == rows(more(short, 5, first=70.0))
    assert rows(long) == rows(grown(9))


def test_a_fork_of_keys_elsewhere_makes_its_own_where_the_new_ones_are() -> None:
    # A tensor without data stands for another device: what is new must not join it.
    away = torch.empty(50, 1, 2, device="meta")
    memory = AttentionMemory(
        fresh(away[None, :0], away[None, :0], (0,)).buffer,
        (50,),
        (SharedKeys(k=away, v=away, length=50),),
    )
    forked = more(memory.fork(1), 3)
    assert forked.k.device.type == "cpu"
    assert forked.lengths == (53,)
    assert [front.k is away for front in forked.shared if front] == [True]
    assert not forked.lies_on(torch.device("cpu"))
    assert grown(3).lies_on(torch.device("cpu"))
    # Copied into each row, they stay where the long part is.
    assert memory.fork(1).whole().k.device.type == "meta"
