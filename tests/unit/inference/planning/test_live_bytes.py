"""Counting bytes that are alive: views, frees, blocks, parts of operations, shapes without data."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from timeviper.inference.planning.live_bytes import LiveBytes


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_storages_count_once_and_until_they_are_freed(device: str) -> None:
    with LiveBytes() as tracker:
        x = torch.empty(100, 10, device=device)
        view = x.view(-1)[3:]
        assert tracker.live == 4000
        y = x + 1
        assert (tracker.live, tracker.peak) == (8000, 8000)
        del x
        # The view keeps it alive.
        assert tracker.live == 8000
        del view, y
        assert (tracker.live, tracker.peak) == (0, 8000)
        tracker.restart()
        assert tracker.peak == 0


def test_writing_in_place_takes_nothing() -> None:
    x = torch.zeros(1000)
    with LiveBytes(ignore=[x]) as tracker:
        x.add_(1)
        x[:10] = 5
        assert tracker.peak < 100


@pytest.mark.parametrize("inference", [True, False])
def test_operations_count_with_what_they_are_made_of(inference: bool) -> None:
    """A product with a transposed weight: in inference mode torch hands it over whole."""
    x, weight = torch.randn(64, 32), torch.randn(16, 32)
    with torch.inference_mode(inference), LiveBytes(ignore=[x, weight]) as tracker:
        y = F.linear(x, weight)
        assert tracker.live == y.nbytes == 4096


def test_scores_of_attention_are_never_whole_without_data() -> None:
    q = torch.empty(1, 4, 4096, 16, device="meta")
    with torch.inference_mode(), LiveBytes(ignore=[q]) as tracker:
        F.scaled_dot_product_attention(q, q, q, is_causal=True)
    assert q.nbytes <= tracker.peak < 2 * q.nbytes


def test_blocks_are_whole() -> None:
    with LiveBytes(block=512) as tracker:
        x = torch.empty(3, device="meta")
        assert tracker.live == 512
        del x


def test_the_host_may_be_left_out() -> None:
    with LiveBytes(host=False) as tracker:
        kept = torch.empty(10), torch.empty(10, device="meta")
        assert tracker.live == 40
        del kept


def test_a_refusal_reaches_the_caller_and_nothing_is_counted() -> None:
    def refuse(size: int) -> None:
        if size > 100:
            raise torch.OutOfMemoryError

    with LiveBytes(refuse=refuse) as tracker:
        torch.empty(10)
        with pytest.raises(torch.OutOfMemoryError):
            torch.empty(100)
        assert tracker.live == 0


def test_a_ranking_without_data_is_a_ranking() -> None:
    scores = torch.empty(2, 5, device="meta")
    with LiveBytes():
        rank = scores.argsort(dim=1).argsort(dim=1).cpu().numpy()
    assert rank.tolist() == [[0, 1, 2, 3, 4]] * 2
