"""Law of the kernels of questions and answers, interpreted: a row does not feel its batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="no Triton for this platform")

from triton.runtime import interpreter

from timeviper.ops import attention_triton, few_rows_triton
from timeviper.ops.attention import attention_step
from timeviper.ops.attention_parts import SharedKeys
from timeviper.ops.conv1d import causal_conv1d
from timeviper.ops.few_rows import few_rows, few_rows_parts, settle, some_rows
from timeviper.ops.fronts import Fronts
from timeviper.ops.norm import add_rms_norm, gated_rms_norm
from timeviper.ops.ssd import ssd
from timeviper.ops.step import StepWeights, mamba_step
from timeviper.ops.triton_probe import is_interpreted

pytestmark = pytest.mark.skipif(not is_interpreted(), reason="what a GPU does, a GPU shows")

BATCHES = (1, 2, 5, 8, 33)
HERE = torch.device("cpu")


@pytest.fixture(autouse=True)
def _instructions(loops_count: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products as the matrix unit adds them up: sixteen inputs an instruction, one after another.

    NumPy's own depend on the shape of the tile, which the matrix unit's do not.
    """

    def create_dot(
        self: object, a: Any, b: Any, d: Any, precision: object, imprecise: object
    ) -> object:
        total = d.data
        for first in range(0, a.data.shape[1], 16):
            here = slice(first, first + 16)
            wide = a.data[:, here].astype(np.float64)[:, :, None] * b.data[None, here]
            total = (total + wide.sum(1)).astype(d.data.dtype)
        return interpreter.TensorHandle(total, d.dtype.scalar)

    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", create_dot)


def same_in_batches(run: Callable[[slice], Tensor], rows: int) -> None:
    """`run` gives the results of some rows, the rows first; each as among all of them."""
    whole = run(slice(0, rows))
    for size in BATCHES:
        here = slice(rows - size - 1, rows - 1)
        assert torch.equal(run(here), whole[here]), f"{size} rows"


@pytest.mark.parametrize("outputs", [20, 40, 200])
@pytest.mark.parametrize("op", [few_rows, some_rows, few_rows_parts])
def test_products(op: Callable[..., Tensor], outputs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_rows_triton, "_FEW_OUTPUTS", 30)
    monkeypatch.setattr(few_rows_triton, "_MANY_OUTPUTS", 150)
    monkeypatch.setattr(few_rows_triton, "_PROGRAMS", 3)
    x, weight = torch.randn(70, 300), torch.randn(outputs, 300)

    def run(here: slice) -> Tensor:
        y = op(x[here], weight, backend="triton")
        return y.transpose(0, 1) if y.dim() == 3 else y

    same_in_batches(run, 70)


def fronts(shared: list[SharedKeys | None], ratio: int) -> Fronts:
    return Fronts.of_step(shared, ratio=ratio, device=HERE)


def video(length: int) -> SharedKeys:
    k, v = torch.randn(2, length, 1, 8)
    return SharedKeys(k=k, v=v, length=length)


@pytest.mark.parametrize("videos", [1, 3])
@pytest.mark.usefixtures("spoiled_scratch")
def test_attention_steps(videos: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_triton, "_FEWEST_KEYS", 64)
    films = [video(260 - 60 * n) for n in range(videos)]
    shared = [films[n % videos] for n in range(34)]
    shared[5] = None if videos > 1 else shared[5]
    q, (k, v) = torch.randn(34, 3, 8), torch.randn(2, 34, 200, 1, 8)
    lengths = torch.arange(34) * 4

    def run(here: slice) -> Tensor:
        filled = lengths[here]
        # As little room as the batch needs, or more.
        room = int(filled.max()) if len(filled) < 8 else 200
        keys, values = k[here, : max(1, room)], v[here, : max(1, room)]
        call = {"k_lengths": filled, "shared": fronts(shared[here], 3), "backend": "triton"}
        return attention_step(q[here], keys, values, **call)

    same_in_batches(run, 34)


@pytest.mark.usefixtures("spoiled_scratch")
def test_questions_behind_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_triton, "_FEWEST_KEYS", 64)
    films, counts = [video(300), video(200)], [3, 20, 7, 1, 12]
    shared = [films[0], films[1], films[0], None, films[0]]
    q = torch.randn(sum(counts), 3, 8)

    def run(numbers: list[int]) -> list[tuple[Tensor, Tensor]]:
        sizes = [counts[n] for n in numbers]
        rows = torch.cat([q.split(counts)[n] for n in numbers])
        tables = Fronts([shared[n] for n in numbers], at_once=10, device=HERE, counts=sizes)
        found = attention_triton.in_front(rows, tables, kv_heads=1, scale=None)
        return list(zip(found.out.split(sizes), found.lse.split(sizes), strict=True))

    whole = run([0, 1, 2, 3, 4])
    for numbers in ([0], [1], [2, 0], [4, 3, 1], [3]):
        for n, (out, lse) in zip(numbers, run(numbers), strict=True):
            assert torch.equal(out, whole[n][0])
            assert torch.equal(lse, whole[n][1])
    assert bool((whole[3][1] == -torch.inf).all())
    assert bool((whole[3][0] == 0).all())


def test_norms_and_settling() -> None:
    x, more, weight = torch.randn(40, 96), torch.randn(40, 96), torch.randn(96)
    parts = torch.randn(5, 40, 96)

    def gated(here: slice) -> Tensor:
        call = {"eps": 1e-5, "group_size": 32, "backend": "triton"}
        return gated_rms_norm(x[here], more[here], weight, **call)

    same_in_batches(
        lambda here: torch.cat(
            add_rms_norm(x[here], more[here], weight, 1e-5, backend="triton"), 1
        ),
        40,
    )
    same_in_batches(
        lambda here: torch.cat(settle(x[here], parts[:, here], weight, 1e-5, backend="triton"), 1),
        40,
    )
    same_in_batches(gated, 40)


LENGTHS = (40, 5, 1, 70, 32)


def packed(numbers: list[int], *tensors: Tensor) -> list[Tensor]:
    return [torch.cat([t.split(LENGTHS)[n] for n in numbers]) for t in tensors]


@pytest.mark.parametrize("numbers", [[0], [1, 3], [4, 2, 0]], ids=str)
def test_convolution_and_scan_of_packed_sequences(numbers: list[int]) -> None:
    tokens = sum(LENGTHS)
    x, dt = torch.randn(tokens, 2, 16), torch.rand(tokens, 2)
    b, c = torch.randn(2, tokens, 1, 16)
    a, state, tail = -torch.rand(2) - 0.1, torch.randn(5, 2, 16, 16), torch.randn(5, 3, 32)
    filters = torch.randn(32, 4)

    def run(chosen: list[int]) -> list[list[Tensor]]:
        sizes = [LENGTHS[n] for n in chosen]
        call = {"lengths": sizes, "backend": "triton"}
        rows, steps, bs, cs = packed(chosen, x, dt, b, c)
        mixed, after = causal_conv1d(rows.flatten(1), filters, None, tail[chosen], **call)
        y, final = ssd(rows, steps, a, bs, cs, None, state[chosen], **call)
        pieces = (mixed.split(sizes), after, y.split(sizes), final)
        return [list(of_one) for of_one in zip(*pieces, strict=True)]

    whole = run([0, 1, 2, 3, 4])
    for n, found in zip(numbers, run(numbers), strict=True):
        for got, want in zip(found, whole[n], strict=True):
            assert torch.equal(got, want)


def test_steps_of_the_scan() -> None:
    heads, width, size, channels = 2, 16, 16, 2 * 16 + 2 * 16
    xbc, dt = torch.randn(34, channels), torch.randn(34, heads)
    weights = StepWeights(
        torch.randn(channels, 4), None, -torch.rand(heads), torch.randn(heads), torch.randn(heads)
    )
    ring, ssm = torch.randn(34, 4, channels), torch.randn(34, heads, width, size)

    def run(here: slice) -> Tensor:
        memory = {"ring": ring[here].clone(), "ssm": ssm[here].clone()}
        place = torch.arange(34)[here]
        y = mamba_step(xbc[here], dt[here], weights, **memory, place=place, backend="triton")
        return torch.cat([y.flatten(1), memory["ssm"].flatten(1), memory["ring"].flatten(1)], 1)

    same_in_batches(run, 34)
