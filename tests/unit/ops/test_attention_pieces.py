"""The plan of kernels: every query and key once, few shapes for cuDNN, and what it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeviper.ops import attention_pieces as room
from timeviper.ops.attention_pieces import Piece, stretches

SIZES = st.integers(1, 200_000)


@given(queries=SIZES, past=st.integers(0, 2_000_000), causal=st.booleans())
def test_each_query_meets_each_key_that_it_sees_once(queries: int, past: int, causal: bool) -> None:
    keys = past + queries
    after = 0
    for stretch in stretches(queries, keys, causal=causal):
        assert stretch.first == after
        after = stretch.end
        seen = past + stretch.end if causal else keys
        place = 0
        for piece in stretch.pieces:
            assert piece.first == place < piece.end
            place = piece.end
        assert place == seen
        hidden = [p for p in stretch.pieces if p.causal]
        # A mask ends at the last key, and the queries of a masked piece are its last keys' own.
        assert hidden == (list(stretch.pieces[-1:]) if causal else [])
        assert all(p.end - p.first >= stretch.end - stretch.first for p in hidden)
    assert after == queries


@given(queries=SIZES, past=st.integers(0, 2_000_000), causal=st.booleans())
def test_cudnn_meets_few_shapes(queries: int, past: int, causal: bool) -> None:
    for stretch in stretches(queries, past + queries, causal=causal):
        size = stretch.end - stretch.first
        for piece in stretch.pieces:
            if piece.kernel == "cudnn" and piece.causal:
                assert size == piece.end - piece.first == room.CUDNN_QUERIES[0]
            elif piece.kernel == "cudnn":
                assert size in room.CUDNN_QUERIES or size < room.CUDNN_QUERIES[-1]
                assert piece.end - piece.first in room.CUDNN_KEYS


@given(queries=SIZES, past=st.integers(0, 2_000_000))
def test_few_calls_a_query(queries: int, past: int) -> None:
    cut = stretches(queries, past + queries, causal=True)
    assert len(cut) <= queries // 8_192 + 3 + 6
    most = 2_200_000 // 32_768 + 3 + 2
    assert max(len(stretch.pieces) for stretch in cut) <= most


@pytest.mark.parametrize(
    ("queries", "keys", "kernels"),
    [
        (8_192, 8_192, ["cudnn"]),
        (8_192, 8_216, ["flash"]),
        (8_192, 16_384, ["cudnn", "cudnn"]),
        (8_192, 16_408, ["cudnn", "flash", "cudnn"]),
        (20, 20, ["flash"]),
        (20, 163_840, ["split", "flash"]),
        (200, 12_000, ["cudnn", "flash"]),
        (1_000, 9_000, ["flash"]),
    ],
)
def test_kernels_of_some_shapes(queries: int, keys: int, kernels: list[str]) -> None:
    (only,) = stretches(queries, keys, causal=True)
    assert [piece.kernel for piece in only.pieces] == kernels


def test_without_a_mask_few_queries_need_one_kernel() -> None:
    (only,) = stretches(20, 163_840, causal=False)
    assert only.pieces == (Piece(kernel="split", first=0, end=163_840),)


def test_work_on_slow_kernels_is_bounded() -> None:
    """Of a prefill in chunks that fit no block, less than a tenth misses cuDNN."""
    pairs = dict.fromkeys(("split", "cudnn", "flash"), 0)
    for end in np.arange(8_300, 166_000, 8_300):
        for stretch in stretches(8_300, int(end), causal=True):
            for piece in stretch.pieces:
                size = stretch.end - stretch.first
                masked = size / 2 if piece.causal else 0
                pairs[piece.kernel] += size * (piece.end - piece.first - masked)
    assert pairs["cudnn"] > 0.9 * sum(pairs.values())


def test_a_machine_without_the_kernels_says_why() -> None:
    probe = room.probe_pieces("cpu")
    assert not probe.available
    assert probe.why


def test_doctor_hears_the_thresholds() -> None:
    for number in ("161 queries", "8,192 keys", "2,048"):
        assert number in room.told()


@pytest.mark.parametrize(
    ("queries", "keys", "causal", "few"),
    [
        (5, 9, True, True),
        (160, 160 + 2_047, True, True),
        (160, 160 + 2_048, True, False),
        (161, 161, True, False),
        (20, 2_047, False, True),
        (20, 2_048, False, False),
        (20, 40_000, True, False),
    ],
)
def test_a_sequence_alone_decides_whether_it_goes_packed(
    queries: int, keys: int, causal: bool, few: bool
) -> None:
    assert room.is_few(queries, keys, causal=causal) is few
