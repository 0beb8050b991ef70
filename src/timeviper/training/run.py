"""A whole run: its config, and each stage from its first weights to the folder it leaves."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from timeviper.core.config import to_dict
from timeviper.core.errors import ConfigError, LayoutError
from timeviper.core.inputs import ModelInputs
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.core.precision import Precision
from timeviper.inference.engine import Engine
from timeviper.model.vlm import TimeViper
from timeviper.processing.processor import Processor
from timeviper.training.adapters import add_adapters, merge_adapters
from timeviper.training.checkpoint import load_weights
from timeviper.training.data.collate import Batch
from timeviper.training.data.config import open_source
from timeviper.training.distributed import Group
from timeviper.training.flops import StepCost
from timeviper.training.loop import LoopConfig, Outcome, Report, train
from timeviper.training.monitor import Samples
from timeviper.training.objective import PackedLoss, packed_loss, to_device
from timeviper.training.sharding import recompute, shard, tie
from timeviper.training.stages import Stage, freeze, model_of_stage
from timeviper.training.start import StartConfig, processor_of, start_model, start_processor
from timeviper.weights.fill import on_meta
from timeviper.weights.folders import CONFIG
from timeviper.weights.loader import load_model
from timeviper.weights.native import save_model, wanted_dtype

# From a stage, and what asks its model, to what receives its log lines.
Teller = Callable[[Stage, Samples], Callable[[Report], None]]


@dataclass(frozen=True, kw_only=True)
class SampleQuestion:
    """Something to ask the model while it learns.

    Args:
        video: a file; relative to the config's folder.
        question: about it.
    """

    video: str
    question: str


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A run, as JSON.

    Args:
        folder: everything that the run writes; relative to the config's own folder.
        start: first weights and processor.
        stages: in order; each starts from what the one before left.
        seed: of drawn weights.
        compute: number format of products; weights that learn are float32 always.
        sharded: split the parameters over all processes; for models that one GPU does not hold.
        recompute: keep only the blocks' inputs for the backward pass.
        log_every: steps between log lines.
        check_every: steps between looks at loss and gradient; None for with each log line.
        save_every_seconds: time between checkpoints.
        keep: checkpoints that stay.
        questions: that the model is asked while it learns; not with sharding.
        sample_every: steps between that; 0 for never.
    """

    folder: str
    start: StartConfig
    stages: tuple[Stage, ...]
    seed: int = 0
    compute: Precision = Precision.BFLOAT16
    sharded: bool = False
    recompute: bool = False
    log_every: int = 10
    check_every: int | None = 1
    save_every_seconds: float = 900.0
    keep: int = 2
    questions: tuple[SampleQuestion, ...] = ()
    sample_every: int = 0

    def __post_init__(self) -> None:
        """Check what goes together."""
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                want="stages with different names", got=names or "none", do="name them apart"
            )
        if self.sharded and self.questions:
            raise ConfigError(
                want="questions only where one process holds the whole model",
                got="sharded",
                do="leave `questions` out",
            )
        if self.sharded and any(stage.muon for stage in self.stages):
            raise ConfigError(
                want="muon only without sharding: it needs whole matrices",
                got="both",
                do="set `muon` or `sharded` to false",
            )


class Lesson(nn.Module):
    """A model with its loss: one call is a whole step, whatever is in the pack.

    Args:
        model: as the stage wants it.
        sharded: its parameters are split over processes.
    """

    def __init__(self, model: TimeViper, *, sharded: bool) -> None:
        super().__init__()
        self.model = model
        self.sharded = sharded

    def forward(self, inputs: ModelInputs) -> PackedLoss:
        """The loss of a pack; see `packed_loss`."""
        if not self.sharded:
            return packed_loss(self.model, inputs)
        _one_round(inputs.layout)
        found = packed_loss(self.model, inputs)
        return PackedLoss(tie(found.loss, self), found.taught, found.right)


def run(
    config: TrainConfig,
    *,
    home: Path,
    group: Group,
    tell: Teller,
    stopping: Callable[[], bool] | None = None,
) -> bool:
    """Train all stages, going on where an earlier run stopped.

    Args:
        config: of the run; equal on all processes.
        home: folder that relative paths of the config start from.
        group: the processes.
        tell: gives for each stage what receives its log lines on rank 0; with the stage it gets
            what asks the model as it is then.
        stopping: asked at each step on each process; one that says yes makes all save and stop.

    Returns:
        Whether the last stage is complete; its model lies in `folder/NAME/model`.
    """
    for number, stage in enumerate(config.stages):
        target = stage_folder(config, home, stage) / "model"
        done = group.total([(target / CONFIG).exists() and group.main])[0] > 0
        if not done and not _run_stage(config, number, home, group, tell, stopping):
            return False
    return True


def stage_folder(config: TrainConfig, home: Path, stage: Stage) -> Path:
    """Where a stage keeps its checkpoints, its log and what it leaves."""
    return home / config.folder / stage.name


def _run_stage(
    config: TrainConfig,
    number: int,
    home: Path,
    group: Group,
    tell: Teller,
    stopping: Callable[[], bool] | None,
) -> bool:
    stage = config.stages[number]
    folder = stage_folder(config, home, stage)
    # The first weights of adapters come from torch's own generator.
    torch.manual_seed(config.seed)
    base, processor = _first(config, number, home, group)
    model = prepare(base, stage, config)
    lesson = Lesson(model, sharded=config.sharded)
    if config.sharded:
        # Before they are split: afterwards nobody holds them whole.
        group.share(lesson)
        compute = config.compute.dtype
        shard(lesson, model.decoder, device=group.device, ranks=group.ranks, compute=compute)
    loop = LoopConfig(
        folder=folder / "run",
        optimizer=stage.optimizer,
        accumulate=stage.accumulate,
        log_every=config.log_every,
        check_every=config.check_every,
        save_every_seconds=config.save_every_seconds,
        keep=config.keep,
        average=stage.average,
        identity=_identity(config, base, stage),
        stopping=stopping,
    )
    own = processor_of(processor, model.config)
    source = open_source(stage.data, own, folder=home)
    step = _step(lesson, config, group.device)
    line = tell(stage, _asker(model, own, config, home))
    if train(lesson, source, step, loop, tell=line, group=group) < stage.steps:
        return False
    _leave(lesson, base, stage, folder, processor, group)
    return True


def prepare(base: TimeViper, stage: Stage, config: TrainConfig) -> TimeViper:
    """A model with everything of a stage but its data: what learns, in which formats.

    Args:
        base: changed in place: frozen weights go to the computing format.
        stage: to prepare for.
        config: of the run.

    Returns:
        The stage's view of the same weights.
    """
    model = model_of_stage(base, stage)
    if stage.adapter_rank:
        add_adapters(model.decoder, rank=stage.adapter_rank)
    freeze(model, stage)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(wanted_dtype(name, config.compute.dtype))
    if config.recompute:
        recompute(model.decoder)
    return model.train()


def _first(
    config: TrainConfig, number: int, home: Path, group: Group
) -> tuple[TimeViper, Processor]:
    start = located(config.start, home)
    processor = start_processor(start)
    if number == 0:
        return start_model(start, device=group.device, seed=config.seed), processor
    before = stage_folder(config, home, config.stages[number - 1]) / "model"
    return load_model(before, device=group.device, precision=Precision.FLOAT32), processor


def located(start: StartConfig, home: Path) -> StartConfig:
    """The same start with its folders found from `home`."""
    changes: dict[str, str] = {}
    for name, value in (("language", start.language), ("tower", start.tower),
                        ("tokenizer", start.tokenizer), ("model", start.model)):  # fmt: skip
        if value is not None and (home / value).is_dir():
            changes[name] = str(home / value)
    return replace(start, **changes)


def _autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    if config.compute is Precision.FLOAT32:
        return nullcontext()
    return torch.autocast(device.type, dtype=config.compute.dtype)


def _asker(model: TimeViper, processor: Processor, config: TrainConfig, home: Path) -> Samples:
    def ask() -> list[tuple[str, str]]:
        engine = Engine(model.eval(), processor)
        device = model.decoder.embed_tokens.weight.device
        with torch.no_grad(), _autocast(config, device):
            found = [
                (one.question, engine.ask(home / one.video, one.question).text)
                for one in config.questions
            ]
        model.train()
        return found

    return ask


def _step(lesson: Lesson, config: TrainConfig, device: torch.device) -> Callable[[Batch], Outcome]:
    cost = StepCost(lesson.model)

    def step(batch: Batch) -> Outcome:
        with _autocast(config, device):
            found = lesson(to_device(batch.inputs, device))
        layout, frames = batch.inputs.layout, batch.inputs.pixels
        return Outcome(
            loss=found.loss,
            weight=float(found.taught),
            tokens=layout.total,
            flops=cost.of(layout, taught=found.taught),
            report=lambda: {
                "right": round(found.right.item(), 4),
                "samples": float(len(layout.lengths)),
                "frames": float(0 if frames is None else len(frames)),
            },
        )

    return step


def _identity(config: TrainConfig, base: TimeViper, stage: Stage) -> dict[str, Any]:
    # The share of each process may change with their number.
    kept = {k: v for k, v in to_dict(stage).items() if k != "accumulate"}
    return {
        "model": to_dict(base.config),
        "stage": kept,
        "start": to_dict(config.start),
        "seed": config.seed,
        "compute": config.compute.value,
    }


def _one_round(layout: TokenLayout) -> None:
    """Refuse a frame behind a question: it would run the blocks once more on this process alone."""
    for number, spans in enumerate(layout.sequences):
        kinds = [span.kind for span in spans if span.length]
        asked = kinds.index(SpanKind.INSTRUCTION) if SpanKind.INSTRUCTION in kinds else len(kinds)
        if SpanKind.VISION in kinds[asked:]:
            raise LayoutError(
                want="all frames before the first question, where parameters are split",
                got=f"a frame behind the question of sample {number} of the pack",
                do="leave such samples out, or set `sharded` to false",
            )


def _leave(
    lesson: Lesson,
    base: TimeViper,
    stage: Stage,
    folder: Path,
    processor: Processor,
    group: Group,
) -> None:
    """Write the model that a stage ends with: whole, without adapters, in its usual names."""
    whole = {name: _whole(t, group) for name, t in lesson.model.state_dict().items()}
    if group.main:
        fresh = on_meta(lambda: TimeViper(base.config))
        if stage.adapter_rank:
            add_adapters(fresh.decoder, rank=stage.adapter_rank)
        fresh.load_state_dict(whole, assign=True)
        if stage.average is not None:
            load_weights(folder / "run", nn.ModuleDict({"model": fresh}), mean=True)
        if stage.adapter_rank:
            merge_adapters(fresh.decoder)
        # The processor first: the model's config is the sign that the folder is whole.
        processor.save(folder / "model")
        save_model(fresh, folder / "model")
    group.barrier()


def _whole(tensor: Tensor, group: Group) -> Tensor:
    """A tensor on the host of rank 0; all ranks ask for it at the same time."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu() if group.main else full.new_empty(0)
