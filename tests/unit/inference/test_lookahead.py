"""Working ahead: order, bounds, failures, and torch's threads left as they were."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from timeviper.inference.lookahead import Lookahead, one_thread_an_op, side_by_side


def test_results_come_in_order_however_long_they_take():
    def slow_at_first(n: int) -> int:
        time.sleep(0.02 if n == 0 else 0)
        return n * n

    found = []
    with Lookahead(iter(range(6)), slow_at_first, threads=3) as ahead:
        for _ in range(6):
            ahead.fill()
            found.append(ahead.take())
    assert found == [(n, n * n) for n in range(6)]


def test_only_a_bounded_number_of_items_is_taken_ahead():
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    with Lookahead(items(), lambda n: n, threads=2) as ahead:
        ahead.fill()
        ahead.fill()
        assert taken == [0, 1, 2]
        ahead.take()
        ahead.fill()
        assert taken == [0, 1, 2, 3]


def test_items_are_taken_in_the_callers_thread_and_worked_on_in_others():
    me, places = threading.get_ident(), []

    def items():
        places.append(threading.get_ident())
        yield 1

    with Lookahead(items(), lambda _: threading.get_ident(), threads=1) as ahead:
        ahead.fill()
        worker = ahead.take()[1]
    assert places == [me]
    assert worker != me


def test_a_failure_of_the_work_reaches_the_caller():
    def fail(n: int) -> int:
        raise ValueError(f"item {n}")

    with Lookahead(iter([7]), fail, threads=1) as ahead:
        ahead.fill()
        with pytest.raises(ValueError, match="item 7"):
            ahead.take()


def test_leaving_early_forgets_what_waits():
    started = []

    def work(n: int) -> None:
        started.append(n)
        time.sleep(0.05)

    with Lookahead(iter(range(9)), work, threads=1) as ahead:
        ahead.fill()
    assert len(started) < 3


def test_nothing_left_is_an_error_of_the_caller():
    with Lookahead(iter(()), lambda n: n, threads=1) as ahead:
        ahead.fill()
        with pytest.raises(IndexError):
            ahead.take()


def test_torchs_threads_come_back():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with one_thread_an_op(True):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        with one_thread_an_op(False):
            assert torch.get_num_threads() == 2
        with pytest.raises(KeyError), one_thread_an_op(True):
            raise KeyError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_pieces_side_by_side_keep_their_order_and_the_callers_mode():
    def piece(number: int) -> torch.Tensor:
        time.sleep(0.01 * (number % 2))
        made = torch.full((), float(number))
        assert made.is_inference() == torch.is_inference_mode_enabled()
        return made

    for threads in (1, 3):
        with side_by_side(threads) as spread, torch.inference_mode():
            found = spread(piece, 7)
        assert [float(n) for n in found] == list(range(7))
        assert all(n.is_inference() for n in found)
        with side_by_side(threads) as spread:
            assert not any(n.is_inference() for n in spread(piece, 2))


def test_pieces_run_in_as_many_threads_as_were_asked_for():
    seen, together = set(), threading.Barrier(2, timeout=10)

    def piece(number: int) -> torch.Tensor:
        seen.add(threading.get_ident())
        together.wait()
        return torch.zeros(())

    with side_by_side(2) as spread:
        spread(piece, 4)
    assert len(seen) == 2
    assert threading.get_ident() not in seen


def test_a_piece_that_fails_reaches_the_caller():
    def piece(number: int) -> torch.Tensor:
        raise ValueError(f"piece {number}")

    with pytest.raises(ValueError, match="piece"), side_by_side(2) as spread:
        spread(piece, 2)
