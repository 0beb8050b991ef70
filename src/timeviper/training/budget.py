"""What a run will take before it starts: parameters, tokens and memory, from shapes alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from timeviper.model.config import DecoderConfig, TimeViperConfig
from timeviper.model.vlm import TimeViper
from timeviper.training.run import TrainConfig, prepare
from timeviper.training.stages import FreezeRow, Stage, freeze_table
from timeviper.weights.fill import on_meta

# Scores of the loss that exist at once, forward and backward, in float32 (`ops.cross_entropy`).
_LOSS_BYTES = 3 * 2**28


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What one stage takes.

    Args:
        stage: its name.
        rows: what learns and how.
        parameters: of the model.
        trained: how many of them learn.
        tokens_per_step: most tokens of an update, over all processes.
        tokens: most tokens of the stage.
        weight_bytes: of one process, weights in their formats.
        gradient_bytes: of one process.
        moment_bytes: of one process, with the running mean.
        activation_bytes: of one process, roughly.
    """

    stage: str
    rows: tuple[FreezeRow, ...]
    parameters: int
    trained: int
    tokens_per_step: int
    tokens: int
    weight_bytes: int
    gradient_bytes: int
    moment_bytes: int
    activation_bytes: int

    @property
    def total_bytes(self) -> int:
        """Memory of one process, roughly."""
        state = self.weight_bytes + self.gradient_bytes + self.moment_bytes
        return state + self.activation_bytes


def forecast(
    model_config: TimeViperConfig, stage: Stage, config: TrainConfig, *, ranks: int
) -> Forecast:
    """Reckon a stage; no weight is read and no memory taken.

    Weights, gradients and moments are exact but for the allocator's rounding; with sharding,
    what is gathered for a step comes on top of them and is counted. Activations are an estimate:
    what each block keeps, or its input alone where blocks run again.

    Args:
        model_config: of the whole model.
        stage: of the run.
        config: of the run.
        ranks: number of processes.
    """
    model = prepare(on_meta(lambda: TimeViper(model_config)), stage, config)
    learns = [p for p in model.parameters() if p.requires_grad]
    trained = sum(p.numel() for p in learns)
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    moments = 0 if stage.average is None else 4 * trained
    rows = freeze_table(model, stage.optimizer)
    for row in rows:
        moments += row.parameters * (4 if row.optimizer == "Muon" else 8) * row.trained
    share = ranks if config.sharded else 1
    tokens = stage.data.reading.budget
    return Forecast(
        stage=stage.name,
        rows=tuple(rows),
        parameters=sum(p.numel() for p in model.parameters()),
        trained=trained,
        tokens_per_step=tokens * stage.accumulate * ranks,
        tokens=tokens * stage.accumulate * ranks * stage.steps,
        weight_bytes=weights // share + (_gathered(model, config) if config.sharded else 0),
        gradient_bytes=4 * trained // share,
        moment_bytes=moments // share,
        activation_bytes=_activations(model_config.decoder, config, tokens),
    )


def _gathered(model: TimeViper, config: TrainConfig) -> int:
    """Copies in the computing format: everything but the blocks, and two blocks at a time."""
    size = config.compute.bytes
    blocks = [_count(layer) for layer in model.decoder.layers]
    return size * (_count(model) - sum(blocks) + 2 * max(blocks))


def _activations(decoder: DecoderConfig, config: TrainConfig, tokens: int) -> int:
    size = config.compute.bytes
    # Per token, what a block holds between its products: in and out of each of them.
    widest = max(_widths(decoder))
    each = tokens * (decoder.hidden_size + widest) * size
    held = len(decoder.layers) * tokens * decoder.hidden_size * size
    inner = (
        each * 3
        if config.recompute
        else sum(tokens * (2 * decoder.hidden_size + width) * size for width in _widths(decoder))
    )
    return held + inner + _LOSS_BYTES


def _widths(decoder: DecoderConfig) -> list[int]:
    attention = (decoder.num_heads + decoder.num_kv_heads) * 2 * decoder.head_dim
    mlp = (3 if decoder.gated_mlp else 2) * decoder.intermediate_size
    mamba = 0
    if decoder.mamba is not None:
        mamba = 2 * decoder.mamba.projection_size + 2 * decoder.mamba.inner_size
    return [{"M": mamba, "*": attention, "-": mlp}[kind.value] for kind in decoder.layers]


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
