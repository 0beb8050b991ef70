"""Sizes by device: a GPU is filled, a CPU's caches are kept, nothing is empty."""

from __future__ import annotations

import pytest

from tests.toy_engine import toy_config
from timeviper.core.errors import ConfigError
from timeviper.inference.chunks import Chunks, chunk_tokens
from timeviper.model.presets import preset


def test_a_gpu_is_given_whole_batches_of_frames_and_long_chunks_of_tokens() -> None:
    nano = preset("nano-9b-v2-transv")
    chunks = Chunks.of(nano, "cuda")
    assert (chunks.batch_frames, chunks.chunk_frames) == (64, 512)
    assert chunk_tokens(nano, "cuda") == 8192
    assert chunks.batch_frames % chunks.clip_frames == 0
    assert chunks.chunk_frames % chunks.batch_frames == 0


def test_a_cpu_looks_at_few_frames_at_a_time() -> None:
    tiny = preset("tiny-transv")
    chunks = Chunks.of(tiny, "cpu")
    assert chunks == Chunks(clip_frames=64, batch_frames=16, chunk_frames=64)
    assert chunk_tokens(tiny, "cpu") == 64 * tiny.tokens_per_frame


def test_one_number_for_all_keeps_the_tower_bounded() -> None:
    chunks = Chunks.of(toy_config(), "cpu")
    few, many = chunks.even(3), chunks.even(1000)
    assert (few.clip_frames, few.batch_frames, few.chunk_frames) == (3, 3, 3)
    assert (many.clip_frames, many.chunk_frames) == (1000, 1000)
    assert many.batch_frames == chunks.batch_frames


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, -2)])
def test_nothing_is_empty(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="at least one frame"):
        Chunks(clip_frames=sizes[0], batch_frames=sizes[1], chunk_frames=sizes[2])
