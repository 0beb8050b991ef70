"""What to change when a video does not fit, each change with the bytes that it saves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from timeviper.core.precision import Precision
from timeviper.inference.planning.planner import Forecast, Setting, forecast, largest
from timeviper.model.config import TimeViperConfig, TransferPlan

# Tokens of a call below which a GPU waits for launches more than for memory.
LEAST_CHUNK = 512


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is asked of a model: everything that a forecast depends on.

    Args:
        config: the model, with its transfer sites.
        frames: sampled frames of a video.
        chunk: tokens of one call of the decoder.
        precision: number format of weights, keys, values and hidden states.
        batch: videos that are held and asked together.
        setting: how the model is run.
    """

    config: TimeViperConfig
    frames: int
    chunk: int
    precision: Precision
    batch: int = 1
    setting: Setting = field(default_factory=Setting)

    @property
    def forecast(self) -> Forecast:
        """What it takes."""
        return forecast(
            self.config,
            frames=self.frames,
            chunk=self.chunk,
            precision=self.precision,
            batch=self.batch,
            setting=self.setting,
        )

    def by(self, *, batch_frames: int) -> Load:
        """The same load with other batches for the tower."""
        return replace(self, setting=replace(self.setting, batch_frames=batch_frames))

    def largest(self, limit: int) -> int:
        """Frames of the largest video that fits otherwise alike.

        Args:
            limit: bytes of the device.
        """
        return largest(lambda n: replace(self, frames=n).forecast.device_bytes, limit)


@dataclass(frozen=True, kw_only=True)
class Advice:
    """One change.

    Args:
        change: what to do, in the user's words.
        saves: bytes that the device needs less.
        fits: whether this change alone is enough.
    """

    change: str
    saves: int
    fits: bool


def advise(load: Load, limit: int, *, bare: TransferPlan | None = None) -> tuple[Advice, ...]:
    """Changes that save memory, those that suffice alone first.

    Args:
        load: what does not fit.
        limit: bytes of the device.
        bare: sites that the model has and that are switched off, or None.

    Returns:
        Changes that save at least one part in a thousand.
    """
    now = load.forecast.device_bytes
    found: list[Advice] = []
    for words, other in _changes(load, bare):
        needs = other.forecast.device_bytes
        if now - needs > now // 1000:
            found.append(Advice(change=words, saves=now - needs, fits=needs <= limit))
    if now > limit:
        frames = load.largest(limit)
        if frames:
            needs = replace(load, frames=frames).forecast.device_bytes
            words = f"at most {frames:,} frames: a lower fps, or max_frames={frames}"
            found.append(Advice(change=words, saves=now - needs, fits=True))
    return tuple(sorted(found, key=lambda one: (not one.fits, -one.saves)))


def with_plan(load: Load, plan: TransferPlan) -> Load:
    """The same load under other transfer sites.

    Args:
        load: what is asked.
        plan: which vision tokens are dropped where.
    """
    decoder = replace(load.config.decoder, transfer=plan)
    return replace(load, config=replace(load.config, decoder=decoder))


def _changes(load: Load, bare: TransferPlan | None) -> list[tuple[str, Load]]:
    changes: list[tuple[str, Load]] = []
    chunk = load.chunk
    while chunk // 2 >= LEAST_CHUNK:
        chunk //= 2
    if chunk < load.chunk:
        words = f"smaller chunks: {chunk} tokens instead of {load.chunk}"
        frames = max(1, chunk // load.config.tokens_per_frame)
        changes.append((words, replace(load, chunk=chunk).by(batch_frames=frames)))
    if bare is not None and bare.sites:
        changes.append(
            ("TransV, which this model has: leave out --no-transv", with_plan(load, bare))
        )
    if load.batch > 1:
        changes.append(("one video at a time instead of a batch", replace(load, batch=1)))
    if load.setting.device_type == "cuda" and not load.setting.fp8:
        fp8 = replace(load.setting, fp8=True)
        changes.append(("weights in FP8: --precision fp8", replace(load, setting=fp8)))
    if load.precision is Precision.FLOAT32:
        words = "numbers of half the size: --precision bfloat16"
        changes.append((words, replace(load, precision=Precision.BFLOAT16)))
    return changes
