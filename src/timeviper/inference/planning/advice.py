"""What to change when a video does not fit, each change with the bytes that it saves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from timeviper.core.precision import Precision
from timeviper.inference.planning.footprint import parameters_by_part
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
        host_bytes: what the host has to offer for it.
    """

    change: str
    saves: int
    fits: bool
    host_bytes: int = 0


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
    for name, other in _changes(load, bare):
        told = other.forecast
        needs, host = told.device_bytes, told.host_bytes
        words = f"{name}, {host / 2**30:.1f} GiB: slower, and done by itself" if host else name
        if now - needs > now // 1000:
            fits = needs <= limit
            found.append(Advice(change=words, saves=now - needs, fits=fits, host_bytes=host))
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
        plan: which vision tokens are dropped where. Modules of sites that are no longer there
            stay loaded, and count.
    """
    decoder = replace(load.config.decoder, transfer=plan)
    config = replace(load.config, decoder=decoder)
    before, after = (
        parameters_by_part(c)["transfer modules"] * load.precision.bytes
        for c in (load.config, config)
    )
    idle = max(0, load.setting.idle + before - after)
    return replace(load, config=config, setting=replace(load.setting, idle=idle))


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
    if load.setting.device_type == "cuda" and not load.setting.keys_in_host:
        away = replace(load.setting, keys_in_host=True)
        changes.append(("keys and values in host memory", replace(load, setting=away)))
    if load.batch > 1:
        changes.append(("one video at a time instead of a batch", replace(load, batch=1)))
    if load.setting.device_type == "cuda" and not load.setting.fp8:
        fp8 = replace(load.setting, fp8=True)
        changes.append(("weights in FP8: --precision fp8", replace(load, setting=fp8)))
    if load.precision is Precision.FLOAT32:
        words = "numbers of half the size: --precision bfloat16"
        changes.append((words, replace(load, precision=Precision.BFLOAT16)))
    return changes
