"""Variants of the study: small language models of equal size, and what each step gives them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes.study_bank import NAMES, Rows, load_features
from timeviper.core.layout import SpanKind
from timeviper.core.seeding import stream, torch_stream
from timeviper.model.config import (
    DecoderConfig,
    DropPolicy,
    MambaConfig,
    ProjectorConfig,
    TransferPlan,
    TransferSite,
)
from timeviper.model.decoder import Decoder
from timeviper.model.init import init_decoder, init_linear
from timeviper.model.projector import Projector
from timeviper.model.tokens import Tokens, on_device
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.messages import VideoPart
from timeviper.processing.processor import Processor, ProcessorConfig
from timeviper.processing.prompt import TimePrompt
from timeviper.training.objective import QuestionRows

HIDDEN = 256
# Pattern, width of its MLPs, base of rotary positions: chosen so that all have as many parameters.
# The hybrid's attention has no positions, as the paper's; attention alone needs some, or shows what
# it can do without.
STACKS: dict[str, tuple[str, int, float | None]] = {
    "hybrid": ("M-M*-M-*", 768, None),
    "attention": ("*-*-*-*-", 1008, 1e4),
    "attention-nope": ("*-*-*-*-", 1008, None),
    "mamba": ("M-M-M-M-", 560, None),
}
# Layers of the hybrid at which tokens are dropped: before its first attention layer, at it, late.
EARLY, SITE, LATE = 1, 3, 7
# Steps that see short videos only; then lengths that are trained alternate by chance.
WARM_STEPS, WARM_FRAMES, TRAINED = 120, 32, (64, 256)
TESTED = (64, 256, 1024)
# Questions about each world of a step, by its length.
QUESTIONS = {32: 6, 64: 8, 256: 14}
NO_DROP = TransferPlan()
_DRAWN = VideoPart(source="drawn")
UNIFORM, WHOLE, RANKED = (
    DropPolicy.UNIFORM_STREAM,
    DropPolicy.UNIFORM_WHOLE,
    DropPolicy.ATTENTION,
)


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One model of the study.

    Args:
        name: of its results.
        stack: which of `STACKS`.
        plan: what it drops, in training and evaluation.
        tokens: vision tokens a frame.
        time_prompt: how it is told about time.
        mark_every: frames between marks.
        cost: seconds of a step against those of the hybrid's, a guess to plan with.
        extra_plans: dropping, without training, that it is evaluated under besides its own.
    """

    name: str
    stack: str = "hybrid"
    plan: TransferPlan = NO_DROP
    tokens: int = 4
    time_prompt: TimePrompt = TimePrompt.INTERLEAVED
    mark_every: int = 1
    cost: float = 1.0
    extra_plans: dict[str, TransferPlan] = field(default_factory=dict[str, TransferPlan])


def site(
    policy: DropPolicy, rate: float, layer: int = SITE, *, transfer: bool = False
) -> TransferPlan:
    """A plan of one site."""
    chosen = TransferSite(layer=layer, policy=policy, drop_rate=rate, transfer=transfer)
    return TransferPlan(sites=(chosen,))


def free_plans() -> dict[str, TransferPlan]:
    """Dropping that a model trained without any is evaluated under."""
    plans = {f"uniform {rate} at {SITE}": site(UNIFORM, rate) for rate in (0.5, 0.9, 0.95)}
    plans |= {f"uniform 0.9 at {layer}": site(UNIFORM, 0.9, layer) for layer in (EARLY, 5, LATE)}
    plans |= {f"attention 0.9 at {layer}": site(RANKED, 0.9, layer) for layer in (SITE, LATE)}
    return plans | {f"whole 0.9 at {SITE}": site(WHOLE, 0.9)}


def variants() -> dict[str, Variant]:
    """All variants, the most important first."""
    found = [
        Variant(name="hybrid", extra_plans=free_plans()),
        Variant(name="attention", stack="attention", cost=1.1),
        Variant(name="mamba", stack="mamba"),
        Variant(name="uniform-0.9", plan=site(UNIFORM, 0.9), cost=0.9),
        Variant(name="transv-0.9", plan=site(UNIFORM, 0.9, transfer=True)),
        Variant(name="attention-0.9", plan=site(RANKED, 0.9), cost=1.4),
        Variant(name="sentence", time_prompt=TimePrompt.SENTENCE, cost=0.9),
        Variant(name="marks-16", mark_every=16, cost=0.8),
        Variant(name="tokens-16", tokens=16, cost=2.2),
        Variant(name="tokens-8", tokens=8, cost=1.4),
        Variant(name="whole-0.9", plan=site(WHOLE, 0.9), cost=1.4),
        Variant(name="transv-attention-0.9", plan=site(RANKED, 0.9, transfer=True), cost=1.6),
        Variant(name="uniform-0.5", plan=site(UNIFORM, 0.5)),
        Variant(name="transv-0.5", plan=site(UNIFORM, 0.5, transfer=True), cost=1.1),
        Variant(name="uniform-0.95", plan=site(UNIFORM, 0.95), cost=0.9),
        Variant(name="transv-0.95", plan=site(UNIFORM, 0.95, transfer=True)),
        Variant(name="transv-early-0.9", plan=site(UNIFORM, 0.9, EARLY, transfer=True)),
        Variant(name="transv-late-0.9", plan=site(UNIFORM, 0.9, LATE, transfer=True)),
        Variant(name="uniform-early-0.9", plan=site(UNIFORM, 0.9, EARLY), cost=0.9),
        Variant(name="uniform-late-0.9", plan=site(UNIFORM, 0.9, LATE)),
        Variant(name="marks-4", mark_every=4, cost=0.9),
        Variant(name="attention-nope", stack="attention-nope", cost=1.1),
    ]
    return {variant.name: variant for variant in found}


def decoder_config(variant: Variant, vocab_size: int) -> DecoderConfig:
    """The language model of a variant."""
    pattern, intermediate, rope = STACKS[variant.stack]
    return DecoderConfig(
        vocab_size=vocab_size,
        hidden_size=HIDDEN,
        pattern=pattern,
        intermediate_size=intermediate,
        num_heads=4,
        num_kv_heads=2,
        head_dim=64,
        mamba=MambaConfig(num_heads=8, head_dim=64, state_size=64, n_groups=1, chunk_size=64),
        rope_theta=rope,
        transfer=variant.plan,
    )


class Learner(nn.Module):
    """Projector and language model; the tower is frozen and stays outside.

    Args:
        variant: what to build.
        vocab_size: words of the tokenizer.
        vision: width of the features, and heads they were merged by.
    """

    def __init__(self, variant: Variant, vocab_size: int, vision: tuple[int, int]) -> None:
        super().__init__()
        width, heads = vision
        config = ProjectorConfig(tokens_per_frame=variant.tokens, merge_heads=heads)
        self.projector = Projector(config, width, HIDDEN)
        self.decoder = Decoder(decoder_config(variant, vocab_size))

    def start(self, seed: int) -> None:
        """First weights; equal parts of variants start equal."""
        device = next(self.parameters()).device
        init_decoder(self.decoder, torch_stream(seed, "decoder", device=device))
        init_linear(self.projector, 0.02, torch_stream(seed, "projector", device=device))

    def sizes(self) -> dict[str, int]:
        """Parameters: of the layers, of the transfer modules, of all."""
        layers = sum(p.numel() for p in self.decoder.layers.parameters())
        transfers = sum(p.numel() for p in self.decoder.transfers.parameters())
        total = sum(p.numel() for p in self.parameters())
        return {"layers": layers, "transfers": transfers, "total": total}

    def embed(self, batch: Batch, features: Tensor) -> Tokens:
        """Prefix, marks and frames of a batch's videos as the decoder reads them."""
        text = self.decoder.embed(torch.from_numpy(batch.video.ids).to(features.device))
        tokens = Tokens(text, batch.video.kinds, batch.lengths)
        vision = self.projector.project(features.flatten(0, 1).to(text.dtype)).flatten(0, 1)
        places = on_device(tokens.of_kind(SpanKind.VISION), text)
        return tokens.with_hidden(text.index_copy(0, places, vision.to(text.dtype)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """Some worlds of a part with questions about them.

    Args:
        part: name of the bank's part.
        worlds: their numbers in it.
        video: prefix, marks and vision places of all videos.
        lengths: tokens of each video.
        questions: rows about these videos.
    """

    part: str
    worlds: NDArray[np.int64]
    video: PromptTokens
    lengths: tuple[int, ...]
    questions: QuestionRows


class Bank:
    """What a variant reads of a bank: features of its size, questions of its prompt.

    Args:
        folder: of the bank.
        variant: that reads.
        processor: of the model whose tower saw.
        device: where the features shall lie.
    """

    def __init__(
        self, folder: Path, variant: Variant, processor: Processor, device: torch.device
    ) -> None:
        names = [f"train-{n}" for n in (WARM_FRAMES, *TRAINED)] + [f"test-{n}" for n in TESTED]
        self.features = {n: load_features(folder, n, variant.tokens, device) for n in names}
        prompt = variant.time_prompt
        self.rows = {n: Rows.load(folder / f"{n}-{prompt.value}.npz") for n in names}
        shown = Processor(
            processor.tokenizer,
            image=processor.image,
            config=ProcessorConfig(
                template=processor.config.template,
                tokens_per_frame=variant.tokens,
                time_prompt=prompt,
                mark_every=variant.mark_every,
            ),
        )
        plan = shown.plan_question("?", video=_DRAWN)
        self._prefix, self._writer = plan.prefix, plan.writer

    def train(self, step: int, frames_a_step: int, seed: int) -> Batch:
        """Material of a step: a function of its number, equal for all variants."""
        rng = stream(seed, "study", step)
        frames = WARM_FRAMES if step < WARM_STEPS else TRAINED[int(rng.integers(len(TRAINED)))]
        name = f"train-{frames}"
        present = len(self.rows[name].offsets)
        count = min(present, max(1, frames_a_step // frames))
        worlds = rng.choice(present, count, replace=False)
        chosen: list[NDArray[np.int64]] = []
        for world in worlds:
            own = _rows_of(self.rows[name], int(world))
            take = min(len(own), QUESTIONS[frames])
            chosen.append(rng.choice(own, take, replace=False))
        return self.batch(name, worlds, chosen)

    def test(self, frames: int, frames_at_once: int) -> Iterator[Batch]:
        """Every world of a tested length with all its questions."""
        name = f"test-{frames}"
        numbers = np.arange(len(self.rows[name].offsets))
        groups = max(1, min(len(numbers), len(numbers) * frames // frames_at_once))
        for worlds in np.array_split(numbers, groups):
            yield self.batch(name, worlds, [_rows_of(self.rows[name], int(w)) for w in worlds])

    def batch(self, name: str, worlds: NDArray[np.int64], chosen: list[NDArray[np.int64]]) -> Batch:
        """Lay out worlds and the chosen rows of each."""
        rows = self.rows[name]
        seconds = np.arange(self.features[name].shape[1], dtype=np.float64)
        videos = [
            PromptTokens.join([self._prefix, self._writer.write(seconds + offset)])
            for offset in rows.offsets[worlds]
        ]
        kinds: list[PromptTokens] = []
        for row in np.concatenate(chosen):
            ids = rows.ids[rows.bounds[row] : rows.bounds[row + 1]]
            kind = np.full(len(ids), SpanKind.INSTRUCTION.code, dtype=np.int8)
            kind[len(ids) - rows.answers[row] :] = SpanKind.ANSWER.code
            kinds.append(PromptTokens(ids, kind))
        tasks = tuple(NAMES[rows.tasks[row]] for row in np.concatenate(chosen))
        owners = np.repeat(np.arange(len(worlds)), [len(c) for c in chosen])
        return Batch(
            part=name,
            worlds=worlds,
            video=PromptTokens.join(videos),
            lengths=tuple(len(v) for v in videos),
            questions=QuestionRows(
                PromptTokens.join(kinds),
                tuple(len(k) for k in kinds),
                tuple(owners.tolist()),
                tasks,
            ),
        )

    def seen(self, batch: Batch) -> Tensor:
        """Features of a batch, shape (world, frame, token, width)."""
        features = self.features[batch.part]
        return features.index_select(0, torch.from_numpy(batch.worlds).to(features.device))


def _rows_of(rows: Rows, world: int) -> NDArray[np.int64]:
    first, last = np.searchsorted(rows.worlds, [world, world + 1])
    return np.arange(first, last)
