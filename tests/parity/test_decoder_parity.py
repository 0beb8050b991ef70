"""Decoders give transformers' logits from the same weights, however tokens are cut or packed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.parity.toys import (
    MODELS,
    Pair,
    draw_ids,
    make_pair,
    oracle_logits,
    packed_logits,
    padded_logits,
    text,
    unclamped,
)
from tests.tolerances import TOL, close
from timeviper.core.precision import Precision
from timeviper.weights.export import export_decoder
from timeviper.weights.loader import load_decoder
from timeviper.weights.shards import read_json, write_json


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return make_pair(request.param, tmp_path_factory.mktemp("pair"))


def test_the_full_pass(pair: Pair) -> None:
    for ids in draw_ids(1, 2, 15, 16, 17, 67):
        got = packed_logits(pair.ours, [ids])[0]
        want = oracle_logits(pair.oracle, ids)
        close(f"{len(ids)} tokens", got=got, want=want, tol=TOL.parity.f32)


@pytest.mark.parametrize("size", [1, 3, 16, 17, 33])
def test_chunks_of_any_size(pair: Pair, size: int) -> None:
    ids = draw_ids(41)[0]
    parts, state = [], None
    with torch.no_grad():
        for chunk in ids.split(size):
            hidden, state = pair.ours(pair.ours.embed(chunk), state, layout=text(len(chunk)))
            parts.append(pair.ours.logits(hidden))
    want = oracle_logits(pair.oracle, ids)
    close(f"chunks of {size}", got=torch.cat(parts), want=want, tol=TOL.parity.f32)


def test_uneven_chunks_of_several_sequences(pair: Pair) -> None:
    ids = draw_ids(40, 23, 31)
    cuts = [(0, 0, 0), (7, 0, 30), (8, 20, 31), (40, 23, 31)]
    got: list[list[torch.Tensor]] = [[], [], []]
    state = None
    for start, end in pairwise(cuts):
        parts = [row[a:b] for row, a, b in zip(ids, start, end, strict=True)]
        lengths = [len(part) for part in parts]
        with torch.no_grad():
            x = pair.ours.embed(torch.cat(parts))
            hidden, state = pair.ours(x, state, layout=text(*lengths))
            for rows, logits in zip(got, pair.ours.logits(hidden).split(lengths), strict=True):
                rows.append(logits)
    for row, logits in zip(ids, got, strict=True):
        want = oracle_logits(pair.oracle, row)
        close(f"{len(row)} tokens", got=torch.cat(logits), want=want, tol=TOL.parity.f32)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padded_batch(pair: Pair, side: str) -> None:
    ids = draw_ids(33, 5, 20, 1)
    want = padded_logits(pair.oracle, ids, side=side)
    for g, w in zip(packed_logits(pair.ours, ids), want, strict=True):
        close(f"{len(w)} of 33 tokens, {side} padding", got=g, want=w, tol=TOL.parity.f32)


def test_a_batch_of_equal_lengths(pair: Pair) -> None:
    ids = draw_ids(19, 19, 19)
    with torch.no_grad():
        want = pair.oracle(input_ids=torch.stack(ids), use_cache=False).logits
    got = torch.stack(packed_logits(pair.ours, ids))
    close("three of 19 tokens", got=got, want=want, tol=TOL.parity.f32)


def test_gradients(pair: Pair) -> None:
    ids = draw_ids(37)[0]
    pair.oracle(input_ids=ids[None], use_cache=False).logits.square().mean().backward()
    want = pair.oracle.get_input_embeddings().weight.grad
    pair.ours.zero_grad()
    hidden, _ = pair.ours(pair.ours.embed(ids), layout=text(len(ids)))
    pair.ours.logits(hidden).square().mean().backward()
    got = pair.ours.embed_tokens.weight.grad
    assert got is not None
    close("gradient of the embedding", got=got, want=want, tol=TOL.training.f32)
    pair.oracle.zero_grad()


def test_transformers_reads_what_we_export(pair: Pair, tmp_path: Path) -> None:
    export_decoder(pair.ours, tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    want, got = pair.oracle.state_dict(), again.state_dict()
    assert got.keys() == want.keys()
    assert all(torch.equal(got[key], want[key]) for key in want)
    ids = draw_ids(20)[0]
    logits = oracle_logits(unclamped(again), ids)
    close("logits", got=logits, want=oracle_logits(pair.oracle, ids), tol=TOL.parity.f32)


def test_a_limit_of_time_steps(tmp_path: Path) -> None:
    pair = make_pair("M-M*-M-", tmp_path)
    config = read_json(tmp_path / "config.json")
    write_json(tmp_path / "config.json", config | {"time_step_limit": [0.01, 0.3]})
    ours = load_decoder(tmp_path, device="cpu", precision=Precision.FLOAT32)
    ids = draw_ids(30)[0]
    want = oracle_logits(unclamped(pair.oracle, limit=(0.01, 0.3)), ids)
    close("limited", got=packed_logits(ours, [ids])[0], want=want, tol=TOL.parity.f32)
    free = packed_logits(pair.ours, [ids])[0]
    assert (free - want).norm() > 100 * TOL.parity.f32 * want.norm()


def test_the_oracle_itself_reads_the_folder(pair: Pair) -> None:
    """What ours read is what transformers reads: guards against a folder that both misread."""
    again = AutoModelForCausalLM.from_pretrained(pair.folder)
    want = pair.oracle.state_dict()
    assert all(torch.equal(value, want[key]) for key, value in again.state_dict().items())
