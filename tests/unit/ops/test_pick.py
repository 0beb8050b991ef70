"""The ends of a step: keys into their slots, the best token, by torch and by kernels."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from timeviper.ops.step import best_token, write_slots

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="no Triton for this platform"
)
BACKENDS = ["torch", pytest.param("triton", marks=needs_triton)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several programs a row."""
    if importlib.util.find_spec("triton") is not None:
        monkeypatch.setattr("timeviper.ops.pick_triton._BLOCK", 64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_each_sequence_has_its_slot(backend: str, dtype: torch.dtype) -> None:
    k, v = torch.randn(2, 3, 2, 5, dtype=dtype).unbind(0)
    buffers = tuple(torch.full((3, 7, 2, 5), torch.nan, dtype=dtype) for _ in range(2))
    write_slots((buffers[0], buffers[1]), k, v, slots=torch.tensor([1, 7, 4]), backend=backend)
    for buffer, new in zip(buffers, (k, v), strict=True):
        for row, slot in enumerate((0, 6, 3)):
            assert torch.equal(buffer[row, slot], new[row])
            buffer[row, slot] = torch.nan
        assert buffer.isnan().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_keys_out_of_a_wider_projection(backend: str) -> None:
    wide = torch.randn(2, 3, 14)
    k, v = (part.unflatten(-1, (2, 5)) for part in wide[..., 2:12].unbind(0))
    buffers = torch.zeros(2, 3, 4, 2, 5).unbind(0)
    write_slots((buffers[0], buffers[1]), k, v, slots=torch.tensor([2, 2, 2]), backend=backend)
    assert torch.equal(buffers[0][:, 1], k)
    assert torch.equal(buffers[1][:, 1], v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_best_token_and_of_equal_ones_the_lowest(
    backend: str, dtype: torch.dtype, spoiled_scratch: None
) -> None:
    logits = torch.randn(5, 200).to(dtype)
    logits[1, [3, 70, 199]] = 9.0
    logits[2] = -7.0
    logits[3, 199] = 11.0
    got = best_token(logits, backend=backend)
    assert got.dtype == torch.int64
    want = [int((row == row.max()).nonzero()[0]) for row in logits]
    assert got.tolist() == want
    assert got[1:4].tolist() == [3, 0, 199]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_row_without_finite_scores_has_none(backend: str, bad: float) -> None:
    logits = torch.randn(3, 150)
    want = logits.argmax(-1).tolist()
    logits[1, 140] = bad
    assert best_token(logits, backend=backend).tolist() == [want[0], -1, want[2]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_sequences(backend: str) -> None:
    assert best_token(torch.zeros(0, 9), backend=backend).shape == (0,)
    empty = torch.zeros(0, 4, 1, 2)
    write_slots(
        (empty, empty), empty[:, 0], empty[:, 0], slots=torch.zeros(0).long(), backend=backend
    )
