"""A decoder's state, whatever waits in it, comes apart into tensors and together again."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tolerances import TOL, close
from tests.toy_engine import SITES, noise, toy_engine
from timeviper.inference.files.compress import Compress
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.state_parts import StateReader, entries_of, layers_of, sites_of
from timeviper.inference.steps import next_logits
from timeviper.model.state import AttentionMemory, DecoderState, PendingTransfer, stack
from timeviper.processing.messages import VideoPart


@pytest.fixture(scope="module", params=SITES)
def read(request) -> tuple[VideoEncoder, EncodedVideo]:
    engine = toy_engine(request.param)
    return engine.encoder, engine.encode(noise(7))


def _back(state: DecoderState, compress=Compress.NONE, dtype=torch.float64) -> DecoderState:
    tensors = {
        entry.name: torch.cat([part.cpu() for part in entry.make()])
        for entry in entries_of(state, compress)
    }
    for entry in entries_of(state, compress):
        assert tensors[entry.name].shape == entry.shape, entry.name
        assert tensors[entry.name].dtype == entry.dtype, entry.name
    reader = StateReader(tensors=tensors, dtype=dtype, device=torch.device("cpu"))
    return reader.state(layers_of(state), sites_of(state))


def _opened(read: tuple[VideoEncoder, EncodedVideo], question: str) -> DecoderState:
    encoder, encoded = read
    plan = encoder.processor.plan_question(question, video=VideoPart(source="video"))
    suffix = encoder.suffix(plan, duration_seconds=7.0, num_frames=7)
    return encoder.open_answer(encoded, suffix).state


def test_several_sequences_of_other_lengths_come_back(read):
    encoder, _ = read
    state = stack([_opened(read, "What is that?"), _opened(read, "Who?")])
    back = _back(state)
    assert back.sequences == 2
    assert len(set(_keys(back)[0].lengths)) == 2
    assert [p and p.seen for p in back.pending] == [p and p.seen for p in state.pending]
    want, _ = next_logits(encoder.model, [70, 71], state)
    got, _ = next_logits(encoder.model, [70, 71], back)
    # Shared keys and own ones are attended to in two parts, stored ones in one.
    close("scores", got=got, want=want, tol=TOL.cuts.f64)


def test_forks_that_share_keys_are_stored_whole(read):
    encoder, _ = read
    _, state = next_logits(encoder.model, [70, 71], _opened(read, "What?").fork(2))
    want, _ = next_logits(encoder.model, [80, 81], state)
    got, _ = next_logits(encoder.model, [80, 81], _back(state))
    close("scores", got=got, want=want, tol=TOL.cuts.f64)
    assert [m.lengths for m in _keys(_back(state))] == [m.lengths for m in _keys(state)]


def test_a_single_sequence_is_mapped_and_not_copied(read):
    _, encoded = read
    entries = {entry.name: entry.make()[0] for entry in entries_of(encoded.state, Compress.NONE)}
    reader = StateReader(tensors=entries, dtype=torch.float64, device=torch.device("cpu"))
    state = reader.state(layers_of(encoded.state), sites_of(encoded.state))
    for number, memory in enumerate(state.memories):
        if isinstance(memory, AttentionMemory):
            assert memory.k.data_ptr() == entries[f"layers.{number}.k"].data_ptr()


def test_spare_room_is_not_stored(read):
    _, encoded = read
    assert any(m.k.shape[1] > max(m.lengths) for m in _keys(encoded.state))
    stored = sum(entry.nbytes for entry in entries_of(encoded.state, Compress.NONE))
    kinds = sum(len(part.kinds) for site in _sites(encoded.state) for part in site.parked)
    assert stored == encoded.nbytes + kinds


def test_nothing_has_begun():
    state = DecoderState((None, None), (None,))
    assert entries_of(state, Compress.NONE) == []
    assert _back(state) == state


@pytest.mark.parametrize("compress", [Compress.BF16, Compress.FP8])
def test_compressed_is_smaller_and_close_and_leaves_the_scan_alone(read, compress):
    _, encoded = read
    exact = {e.name: torch.cat(list(e.make())) for e in entries_of(encoded.state, Compress.NONE)}
    back = _back(encoded.state, compress)
    small = sum(entry.nbytes for entry in entries_of(encoded.state, compress))
    assert small < sum(tensor.nbytes for tensor in exact.values())
    for number, memory in enumerate(back.memories):
        if isinstance(memory, AttentionMemory):
            want = exact[f"layers.{number}.k"]
            tol = 4e-3 if compress is Compress.BF16 else 4e-2
            close("keys", got=memory.k.flatten(0, 1), want=want, tol=tol)
            assert not torch.equal(memory.k.flatten(0, 1), want)
        elif memory is not None:
            assert torch.equal(memory.ssm, exact[f"layers.{number}.ssm"])
            assert torch.equal(memory.tail, exact[f"layers.{number}.tail"])


def test_another_number_format_keeps_the_scan_in_float32(read):
    _, encoded = read
    back = _back(encoded.state, dtype=torch.bfloat16)
    for memory in back.memories:
        if isinstance(memory, AttentionMemory):
            assert memory.k.dtype == torch.bfloat16
        elif memory is not None:
            assert (memory.tail.dtype, memory.ssm.dtype) == (torch.bfloat16, torch.float32)
    for site in _sites(back):
        assert all(part.hidden.dtype == torch.bfloat16 for part in site.parked)


def test_what_waits_is_told_in_numbers(read):
    _, encoded = read
    for site, told in zip(encoded.state.pending, sites_of(encoded.state), strict=True):
        if site is None or told is None:
            assert site is told is None
            continue
        assert told.seen == site.seen
        assert (told.parked is None) == (not site.parked)
        if told.parked is not None:
            assert sum(told.parked) == sum(len(part.kinds) for part in site.parked)
    kinds = [layer.kind for layer in layers_of(encoded.state)]
    assert kinds == ["mamba", "none", "attention", "mamba", "attention", "none"]


def test_kinds_of_parked_tokens_stay(read):
    _, encoded = read
    for before, after in zip(_sites(encoded.state), _sites(_back(encoded.state)), strict=True):
        if before.parked:
            want = np.concatenate([part.kinds for part in before.parked])
            assert np.array_equal(after.parked[0].kinds, want)


def _keys(state: DecoderState) -> list[AttentionMemory]:
    return [m for m in state.memories if isinstance(m, AttentionMemory)]


def _sites(state: DecoderState) -> list[PendingTransfer]:
    return [site for site in state.pending if site is not None]
