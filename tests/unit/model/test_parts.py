"""Long sequences in parts, side by side, and only what a question needs of the last layers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.model.toys import PLANS, STACKS, chain, inputs_for, one, same_state, toy, whole
from timeviper.core.layout import TokenLayout
from timeviper.model import parts
from timeviper.model.config import DecoderConfig
from timeviper.model.decoder import Decoder, last_of_each
from timeviper.model.init import init_decoder
from timeviper.model.state import DecoderState
from timeviper.model.tokens import Tokens

VIDEO, QUESTION = one(1, [(2, 4)] * 6, 0, 0), one(0, [], 3, 1)


def backwards(work: Callable[[int], Tensor], count: int) -> list[Tensor]:
    """The last part first: whoever leans on the order shows."""
    return [work(number) for number in reversed(range(count))][::-1]


def in_threads(work: Callable[[int], Tensor], count: int) -> list[Tensor]:
    def quietly(number: int) -> Tensor:
        with torch.inference_mode():
            return work(number)

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(quietly, range(count)))


@torch.inference_mode()
def asked(decoder: Decoder, **options: object) -> tuple[Tensor, DecoderState]:
    """A question on a video read before."""
    x, y = inputs_for(VIDEO), inputs_for(QUESTION, seed=1)
    _, state = decoder.run(Tokens.of(x, VIDEO), more=True, **options)
    out, state = decoder.run(Tokens.of(y, QUESTION), state, **options)
    return last_of_each(out), state


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("plan", ["none", "paper", "whole"])
@pytest.mark.parametrize("spread", [parts.in_turn, backwards, in_threads])
@pytest.mark.parametrize("only_last", [False, True])
def test_the_answer_depends_neither_on_the_spread_nor_on_what_is_left_out(
    stack: str, plan: str, spread: parts.Spread, only_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = toy(stack, PLANS[plan])
    x = torch.cat([inputs_for(VIDEO), inputs_for(QUESTION, seed=1)])
    out, want_state = whole(decoder, x, chain(VIDEO, QUESTION))
    monkeypatch.setitem(parts._AT_ONCE, "cpu", 5)
    got, state = asked(decoder, only_last=only_last, spread=spread)
    close("last token", got=got, want=last_of_each(out), tol=TOL.cuts.f64)
    same_state("state", state, want_state, TOL.cuts.f64)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("pattern", ["M-*M*-", "M-*-*-", "M-*M*-M", "M-*M*"])
def test_only_the_last_token_passes_the_end_of_every_pattern(stack: str, pattern: str) -> None:
    base = toy(stack, PLANS["none"]).config
    if stack == "dense":
        pattern = pattern.replace("M", "*")
    decoder = toy_like(replace(base, pattern=pattern))
    layout = TokenLayout.pack([one(2, [(1, 3)] * 2, 2, 1), one(1, [], 4, 0)])
    x = inputs_for(layout)
    want, want_state = decoder.run(Tokens.of(x, layout))
    got, state = decoder.run(Tokens.of(x, layout), only_last=True)
    assert got.lengths == (1, 1)
    close("last tokens", got=got.hidden, want=last_of_each(want), tol=TOL.cuts.f64)
    same_state("state", state, want_state, TOL.cuts.f64)


def toy_like(config: DecoderConfig) -> Decoder:
    decoder = Decoder(config)
    init_decoder(decoder, torch.Generator().manual_seed(3))
    return decoder.to(torch.float64).eval()


def test_a_sequence_without_tokens_has_no_last_one() -> None:
    tokens = Tokens(torch.arange(5.0)[:, None], TokenLayout.pack([VIDEO]).kinds[:5], (2, 0, 3))
    last = parts.last_ones(tokens)
    assert last.lengths == (1, 0, 1)
    assert last.hidden[:, 0].tolist() == [1.0, 4.0]


def test_layers_behind_the_last_that_remembers_see_one_token() -> None:
    decoder, seen = toy("dense", PLANS["none"]), []
    decoder.layers[-1].register_forward_pre_hook(lambda _, args: seen.append(len(args[0].hidden)))
    asked(decoder)
    asked(decoder, only_last=True)
    assert seen == [VIDEO.total, QUESTION.total, 1, 1]


@pytest.mark.parametrize(
    ("tokens", "sizes"),
    [(33, [33]), (34, [34]), (35, [32, 3]), (64, [32, 32]), (66, [32, 34]), (67, [32, 32, 3])],
)
def test_a_small_rest_joins_the_last_part(
    tokens: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(parts._AT_ONCE, "cpu", 32)
    decoder, seen = toy("dense", PLANS["none"]), list[int]()
    decoder.layers[1].register_forward_pre_hook(lambda _, args: seen.append(len(args[0].hidden)))
    layout = one(tokens, [], 0, 0)
    with torch.no_grad():
        decoder.run(Tokens.of(inputs_for(layout), layout))
    assert seen == sizes


def test_parts_run_in_the_threads_of_the_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, me, places = toy("hybrid", PLANS["none"]), threading.get_ident(), set()
    monkeypatch.setitem(parts._AT_ONCE, "cpu", 5)
    decoder.layers[1].register_forward_pre_hook(lambda *_: places.add(threading.get_ident()))
    asked(decoder, spread=in_threads)
    assert places - {me}
