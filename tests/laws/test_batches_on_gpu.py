"""Law on a GPU in bfloat16: a question is answered in a batch as alone, to the bit."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.toy_engine import toy_config, toy_model
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.inference.graphs import StepRunner
from timeviper.inference.opened import OpenAnswer
from timeviper.inference.sampling import Chooser, TokenPolicy
from timeviper.inference.steps import GraphSteps
from timeviper.model.config import MambaConfig
from timeviper.model.decoder import Decoder, last_of_each
from timeviper.model.linear import FEW_TOKENS
from timeviper.model.state import DecoderState, fork_each
from timeviper.model.tokens import Tokens

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
# Lengths of questions: of one tile and of more, and one that is multiplied alone.
QUESTIONS = (5, 40, 2, 130, 40, 200, 9, FEW_TOKENS + 90, 64)
VIDEOS = (2_500, 700, 90)
TOKENS = 24


@pytest.fixture(scope="module", params=["plain", "transv"])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    """Six layers, wide enough for every kernel's usual path."""
    config = toy_config(request.param)
    wide = replace(
        config.decoder,
        vocab_size=600,
        # Few widths: each is compiled for.
        hidden_size=192,
        intermediate_size=192,
        num_heads=6,
        num_kv_heads=2,
        head_dim=32,
        mamba=MambaConfig(num_heads=6, head_dim=32, state_size=64, n_groups=2, chunk_size=64),
        initializer_range=0.08,
    )
    model = toy_model(replace(config, decoder=wide), dtype=torch.bfloat16)
    return model.decoder.to(DEVICE).requires_grad_(requires_grad=False)


@torch.inference_mode()
def read(decoder: Decoder, tokens: int, seed: int) -> DecoderState:
    """A video of so many tokens behind two words."""
    layout = TokenLayout.of((SpanKind.TEXT, 2), (SpanKind.VISION, tokens))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens + 2, decoder.config.hidden_size, generator=generator)
    inputs = Tokens.of(x.to(DEVICE, decoder.embed_tokens.weight.dtype), layout)
    return decoder.run(inputs, more=True, only_last=True)[1]


@torch.inference_mode()
def ask(decoder: Decoder, states: list[DecoderState], numbers: list[int]) -> OpenAnswer:
    """Questions of those numbers, each behind the state at its place, in one pass."""
    parts = [
        torch.randint(600, (QUESTIONS[n],), generator=torch.Generator().manual_seed(n))
        for n in numbers
    ]
    layout = TokenLayout.pack([TokenLayout.of((SpanKind.INSTRUCTION, len(p))) for p in parts])
    tokens = Tokens.of(decoder.embed(torch.cat(parts).to(DEVICE)), layout)
    out, after = decoder.run(tokens, fork_each(states), only_last=True)
    answering = DecoderState(after.memories, (None,) * len(after.pending))
    return OpenAnswer(logits=decoder.logits(last_of_each(out)), state=answering)


def write(decoder: Decoder, prompts: list[OpenAnswer]) -> tuple[list[list[int]], Tensor]:
    """Greedy answers of a captured runner, and the scores after their last token."""
    runner = StepRunner.of(decoder, [prompt.state for prompt in prompts], steps=TOKENS)
    steps = GraphSteps(runner, prompts)
    count = runner.sequences
    answers: list[list[int]] = [[] for _ in range(count)]
    for number in range(TOKENS):
        found = steps.choose([Chooser(TokenPolicy())] * count, last=number + 1 == TOKENS)
        for answer, token in zip(answers, found, strict=True):
            answer.append(token)
        if number + 1 < TOKENS:
            steps.advance(found)
    return answers, runner.logits.clone()


@pytest.mark.parametrize(
    "behind",
    [[0] * 9, [0, 0, 0, 1, 1, 2, 2, 1, 0], [0, 1, 2, 0, 1, 2, 0, 1, 2]],
    ids=["one video", "videos in turn", "videos mixed"],
)
def test_in_a_batch_as_alone_to_the_bit(decoder: Decoder, behind: list[int]) -> None:
    videos = [read(decoder, tokens, seed) for seed, tokens in enumerate(VIDEOS)]
    numbers = list(range(len(QUESTIONS)))
    together = ask(decoder, [videos[b] for b in behind], numbers)
    answers, scores = write(decoder, [together])
    assert len({tuple(answer) for answer in answers}) > 1
    for n, b in zip(numbers, behind, strict=True):
        alone = ask(decoder, [videos[b]], [n])
        assert torch.equal(alone.logits[0], together.logits[n]), f"first scores of {n}"
        wanted, last = write(decoder, [alone])
        assert answers[n] == wanted[0], f"answer {n}"
        assert torch.equal(scores[n], last[0]), f"last scores of {n}"


def test_a_batch_put_together_from_prompts_read_apart(decoder: Decoder) -> None:
    videos = [read(decoder, tokens, seed) for seed, tokens in enumerate(VIDEOS)]
    prompts = [ask(decoder, [video], [n]) for n, video in enumerate(videos)]
    answers, scores = write(decoder, prompts)
    for n, prompt in enumerate(prompts):
        wanted, last = write(decoder, [prompt])
        assert answers[n] == wanted[0]
        assert torch.equal(scores[n], last[0])
