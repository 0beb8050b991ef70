"""Stages of the paper's recipe: which parts learn, at which rates, on what (spec of section 9)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

import torch
from torch import Tensor, nn

from timeviper.core.errors import ConfigError
from timeviper.model.config import TransferPlan
from timeviper.model.decoder import with_plan
from timeviper.model.vlm import TimeViper
from timeviper.training.data.config import DataConfig
from timeviper.training.optimizer import OptimizerConfig, Schedule, build_optimizers


class Part(StrEnum):
    """Parts of a model that learn or stay as they are."""

    VISION = "vision"
    PROJECTOR = "projector"
    LANGUAGE = "language"
    TRANSFER = "transfer"


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a run; the defaults are the paper's, batch and length are not stated there.

    Args:
        name: of its folder.
        train: parts that learn; all others stay as they are.
        steps: updates.
        data: what is learned from; every process takes one pack a batch.
        accumulate: packs of each process that make one update.
        learning_rate: highest rate.
        transfer_rate: highest rate of the transfer modules.
        weight_decay: of matrices; never of norms, biases, gates, A_log, D, dt_bias, embeddings.
        warmup_ratio: share of the steps in which the rate rises.
        schedule: how it falls after that.
        final_rate: share of the highest rate at the end.
        clip: largest norm of the gradient.
        muon: orthogonalised momentum for matrices; not with sharding.
        merge: whether a frame's tokens are merged to the model's number.
        drop: whether the model's transfer sites are active.
        average: decay of a running mean of the weights, which is then what the stage ends with.
        adapter_rank: width of LoRA adapters in the language model, which then learn in its place;
            0 for none.
    """

    name: str
    train: tuple[Part, ...]
    steps: int
    data: DataConfig
    accumulate: int = 1
    learning_rate: float = 1e-5
    transfer_rate: float = 5e-5
    weight_decay: float = 0.01
    warmup_ratio: float = 0.03
    schedule: Schedule = Schedule.COSINE
    final_rate: float = 0.0
    clip: float = 1.0
    muon: bool = False
    merge: bool = True
    drop: bool = True
    average: float | None = None
    adapter_rank: int = 0

    def __post_init__(self) -> None:
        """Check counts and rates."""
        if not self.train:
            raise ConfigError(
                want=f"stage {self.name!r} to name parts that train",
                got="none",
                do=f"choose parts among {', '.join(Part)}",
            )
        if min(self.steps, self.accumulate) < 1 or self.adapter_rank < 0:
            raise ConfigError(
                want=f"steps and accumulate of stage {self.name!r} above zero",
                got=f"{self.steps}, {self.accumulate}",
                do="correct the counts",
            )
        if min(self.learning_rate, self.transfer_rate) <= 0 or not 0 <= self.warmup_ratio < 1:
            raise ConfigError(
                want="rates above zero and a warmup_ratio from 0 to below 1",
                got=f"{self.learning_rate}, {self.transfer_rate}, {self.warmup_ratio}",
                do="correct the rates",
            )

    @property
    def optimizer(self) -> OptimizerConfig:
        """Rates and schedule of this stage."""
        return OptimizerConfig(
            learning_rate=self.learning_rate,
            transfer_factor=self.transfer_rate / self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=round(self.warmup_ratio * self.steps),
            schedule=self.schedule,
            steps=self.steps,
            hold=0.0,
            final=self.final_rate,
            clip=self.clip,
            muon=self.muon,
        )


def align(*, steps: int, data: DataConfig) -> Stage:
    """The paper's stage 1: the projector learns to be read, from all tokens of images."""
    parts = (Part.PROJECTOR,)
    return Stage(name="align", train=parts, steps=steps, data=data, merge=False, drop=False)


def instruct(*, steps: int, data: DataConfig) -> Stage:
    """The paper's stage 2: projector, language model and transfer modules learn to answer."""
    parts = (Part.PROJECTOR, Part.LANGUAGE, Part.TRANSFER)
    return Stage(name="instruct", train=parts, steps=steps, data=data)


def transfer_only(*, steps: int, data: DataConfig) -> Stage:
    """An optional stage: the transfer modules alone, for a model that was trained without."""
    return Stage(name="transfer", train=(Part.TRANSFER,), steps=steps, data=data)


def model_of_stage(model: TimeViper, stage: Stage) -> TimeViper:
    """The same weights, merging and dropping as the stage does.

    Raises:
        ConfigError: the stage trains transfer modules that are not there or not used.
    """
    plan = model.config.decoder.transfer if stage.drop else TransferPlan()
    kept = model.config.projector.tokens_per_frame if stage.merge else None
    config = replace(
        model.config,
        projector=replace(model.config.projector, tokens_per_frame=kept),
        decoder=replace(model.config.decoder, transfer=plan),
    )
    if Part.TRANSFER in stage.train and not any(site.transfer for site in plan.sites):
        raise ConfigError(
            want=f"transfer modules for stage {stage.name!r} to train",
            got="none in use",
            do="choose a model with transfer sites and leave `drop` on, or do not train them",
        )
    # Empty parts, to be replaced at once by the real ones.
    with torch.device("meta"):
        other = TimeViper(config)
    other.vision, other.decoder = model.vision, with_plan(model.decoder, plan)
    other.projector.linear_1 = model.projector.linear_1
    other.projector.linear_2 = model.projector.linear_2
    return other


def parts_of(model: TimeViper) -> dict[Part, list[tuple[str, nn.Parameter]]]:
    """Every parameter with its name, by part."""
    found: dict[Part, list[tuple[str, nn.Parameter]]] = {part: [] for part in Part}
    for name, parameter in model.named_parameters():
        found[part_of(name)].append((name, parameter))
    return found


def part_of(name: str) -> Part:
    """The part that a parameter of that name belongs to."""
    if "transfers." in name:
        return Part.TRANSFER
    top = name.split(".")[0]
    return Part.LANGUAGE if top == "decoder" else Part(top)


def freeze(model: TimeViper, stage: Stage) -> None:
    """Let the parameters of the stage's parts learn, and no others.

    Where the stage has adapters, those learn in place of the language model's own weights.

    Raises:
        ConfigError: a part that the model does not have.
    """
    for part, named in parts_of(model).items():
        if part in stage.train and not named:
            raise ConfigError(
                want=f"a model with a {part} part",
                got=model.config.name,
                do=f"take {part} out of the stage's `train`",
            )
        adapted = part is Part.LANGUAGE and stage.adapter_rank > 0
        for name, parameter in named:
            learns = part in stage.train and (not adapted or "lora_" in name)
            parameter.requires_grad_(learns)


@dataclass(frozen=True, kw_only=True)
class FreezeRow:
    """Parameters of one part that are treated alike.

    Args:
        part: of the model.
        parameters: how many numbers.
        trained: whether they learn.
        optimizer: which one moves them; empty for frozen ones.
        rate: their highest rate, 0 for frozen ones.
        decay: their weight decay.
    """

    part: Part
    parameters: int
    trained: bool
    optimizer: str = ""
    rate: float = 0.0
    decay: float = 0.0


def freeze_table(model: TimeViper, config: OptimizerConfig) -> list[FreezeRow]:
    """What learns, by whom and how fast, read from the optimisers that would run.

    Args:
        model: after `freeze`.
        config: of the stage.
    """
    treated: dict[int, tuple[str, float, float]] = {
        id(parameter): (type(optimizer).__name__, group["lr"], group["weight_decay"])
        for optimizer in build_optimizers(model, config)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return [row for part, named in parts_of(model).items() for row in _rows(part, named, treated)]


def _rows(
    part: Part,
    named: list[tuple[str, nn.Parameter]],
    treated: dict[int, tuple[str, float, float]],
) -> Iterator[FreezeRow]:
    kinds: dict[tuple[str, float, float] | None, list[Tensor]] = {}
    for _, parameter in named:
        kinds.setdefault(treated.get(id(parameter)), []).append(parameter)
    for kind, parameters in kinds.items():
        count = sum(p.numel() for p in parameters)
        if kind is None:
            yield FreezeRow(part=part, parameters=count, trained=False)
        else:
            name, rate, decay = kind
            yield FreezeRow(
                part=part,
                parameters=count,
                trained=True,
                optimizer=name,
                rate=rate,
                decay=decay,
            )
