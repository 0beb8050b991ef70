"""The ends of a step as Triton kernels: new keys into their slots, the best token of each row."""
# The checker does not know how kernels are launched.
# pyright: reportCallIssue=false

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from timeviper.ops import step_torch
from timeviper.ops.triton_probe import overlaps

# Scores that a program looks through, and its warps.
_BLOCK, _WARPS = 2048, 4


def write_slots(buffers: tuple[Tensor, Tensor], k: Tensor, v: Tensor, *, slots: Tensor) -> None:
    """Write keys and values in one launch; see `timeviper.ops.step.write_slots`.

    Args:
        buffers: of keys and of values.
        k: new keys.
        v: new values.
        slots: one above the slot of each sequence.
    """
    keys, values = buffers
    alike = keys.stride() == values.stride() and keys.stride()[2:] == (keys.shape[3], 1)
    if not (alike and k.numel()):
        step_torch.write_slots(buffers, k, v, slots=slots)
        return
    k, v = k.contiguous(), v.contiguous()
    size, overlap = k[0].numel(), overlaps(k.device)
    with torch.cuda.device_of(k):
        _write_kernel[(len(k),)](
            keys,
            values,
            k,
            v,
            slots,
            keys.stride(0),
            keys.stride(1),
            SIZE=size,
            BLOCK=triton.next_power_of_2(size),
            OVERLAP=overlap,
            launch_pdl=overlap,
        )


def best_token(logits: Tensor) -> Tensor:
    """Choose in two launches; see `timeviper.ops.step.best_token`.

    Args:
        logits: scores of each sequence.
    """
    if logits.dtype == torch.float64 or not logits.numel():
        return step_torch.best_token(logits)
    logits = logits.contiguous()
    rows, vocab = logits.shape
    blocks = -(-vocab // _BLOCK)
    best = torch.empty(rows, blocks, dtype=torch.float32, device=logits.device)
    places = torch.empty(rows, blocks, dtype=torch.int32, device=logits.device)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    overlap = overlaps(logits.device)
    with torch.cuda.device_of(logits):
        _best_of_block_kernel[(rows, blocks)](
            logits,
            best,
            places,
            vocab,
            blocks,
            BLOCK=_BLOCK,
            OVERLAP=overlap,
            num_warps=_WARPS,
            launch_pdl=overlap,
        )
        _best_of_all_kernel[(rows,)](
            best,
            places,
            tokens,
            blocks,
            BLOCKS=triton.next_power_of_2(blocks),
            OVERLAP=overlap,
            num_warps=1,
            launch_pdl=overlap,
        )
    return tokens


@no_type_check
@triton.jit
def _write_kernel(
    keys,
    values,
    k,
    v,
    slots,
    row_step,
    slot_step,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """The keys and values of one sequence."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    inside = place < SIZE
    to = row * row_step + (tl.load(slots + row) - 1) * slot_step + place
    key = tl.load(k + row * SIZE + place, mask=inside, other=0.0)
    value = tl.load(v + row * SIZE + place, mask=inside, other=0.0)
    tl.store(keys + to, key.to(keys.dtype.element_ty), mask=inside)
    tl.store(values + to, value.to(values.dtype.element_ty), mask=inside)


@no_type_check
@triton.jit
def _best_of_block_kernel(
    logits, best, places, vocab, blocks, BLOCK: tl.constexpr, OVERLAP: tl.constexpr
):
    """The best of some scores of one row and its place, or place -1 where one is not finite."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    row, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = block * BLOCK + tl.arange(0, BLOCK)
    score = tl.load(logits + row * vocab + token, mask=token < vocab, other=0.0).to(tl.float32)
    # NaN is below nothing, infinities are not below themselves.
    broken = tl.max(tl.where(tl.abs(score) < float("inf"), 0, 1), axis=0)
    score = tl.where(token < vocab, score, -float("inf"))
    top = tl.max(score, axis=0)
    first = tl.min(tl.where(score == top, token, vocab), axis=0)
    tl.store(best + row * blocks + block, top)
    tl.store(places + row * blocks + block, tl.where(broken > 0, -1, first))


@no_type_check
@triton.jit
def _best_of_all_kernel(best, places, tokens, blocks, BLOCKS: tl.constexpr, OVERLAP: tl.constexpr):
    """The best of all blocks of one row."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    block = tl.arange(0, BLOCKS)
    inside = block < blocks
    score = tl.load(best + row * blocks + block, mask=inside, other=-float("inf"))
    place = tl.load(places + row * blocks + block, mask=inside, other=2147483647)
    broken = tl.min(place, axis=0) < 0
    first = tl.min(tl.where(score == tl.max(score, axis=0), place, 2147483647), axis=0)
    tl.store(tokens + row, tl.where(broken, -1, first).to(tl.int64))
