"""`timeviper plan`: whether a video fits, what takes memory, how long it takes, what to change."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timeviper.cli.terminal import counting, print_json, results
from timeviper.core.errors import RequestError

if TYPE_CHECKING:
    from timeviper.core.precision import Precision
    from timeviper.inference.planning.advice import Load
    from timeviper.model.config import TimeViperConfig, TransferPlan

_GIB = 2**30
_PRECISIONS = {"bf16": "bfloat16", "fp32": "float32", "fp16": "float16"}


def plan(  # noqa: PLR0913
    model: Annotated[
        str, typer.Option(help="A model that ships, a preset, or a checkpoint folder.")
    ] = "tiny",
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of the video.")] = None,
    hours: Annotated[float | None, typer.Option(help="Its length instead, with --fps.")] = None,
    fps: Annotated[float, typer.Option(help="Frames a second, for --hours.")] = 1.0,
    gpu_gib: Annotated[
        float | None, typer.Option(help="Plan for a GPU of so much memory; else this machine.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Videos held and asked together.")] = 1,
    precision: Annotated[
        str | None, typer.Option(help="bfloat16 (bf16), fp8, float32 or float16.")
    ] = None,
    chunk: Annotated[
        int | None, typer.Option(min=1, help="Tokens that the decoder takes at once.")
    ] = None,
    no_transv: Annotated[
        bool, typer.Option("--no-transv", help="Reckon without dropping tokens.")
    ] = False,
    keys_in_host: Annotated[
        bool, typer.Option("--keys-in-host", help="Reckon with keys and values in host memory.")
    ] = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First measure this machine, in seconds.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Tell beforehand whether a video fits, and how long it takes."""
    count = _frames(frames, hours, fps)
    from timeviper.cli.inspect import read_model

    config = read_model(model)
    from timeviper.inference.planning.advice import with_plan
    from timeviper.model.config import TransferPlan

    load, limit = _load(config, count, gpu_gib=gpu_gib, precision=precision, chunk=chunk)
    load = replace(load, batch=batch)
    if keys_in_host:
        load = _in_host(load)
    bare = config.decoder.transfer if no_transv else None
    if bare is not None:
        load = with_plan(load, TransferPlan())
    record = examine(load, limit, bare=bare)
    record["seconds"] = _seconds(load, load.setting.device_type, calibrate=calibrate)
    if hours is not None:
        record["hours"] = hours
    if as_json:
        print_json(record)
    else:
        from timeviper.cli.plan_picture import show

        show(record, results())


def examine(load: Load, limit: int, *, bare: TransferPlan | None = None) -> dict[str, Any]:
    """Reckon a load against a limit.

    Args:
        load: what is asked.
        limit: bytes that the device has for it.
        bare: sites of the model that are switched off, or None.

    Returns:
        Plain values; bytes throughout.
    """
    from timeviper.inference.planning.advice import advise

    told = load.forecast
    return {
        "model": load.config.name,
        "frames": load.frames,
        "vision_tokens": load.frames * load.config.tokens_per_frame,
        "batch": load.batch,
        "chunk": load.chunk,
        "precision": "fp8" if load.setting.fp8 else str(load.precision),
        "device": load.setting.device_type,
        "limit_bytes": limit,
        "fits": told.device_bytes <= limit,
        "prefill": told.prefill,
        "prefill_peak": told.prefill_peak,
        "question": told.question,
        "question_peak": told.question_peak,
        "allocated": told.peak,
        "reserved": told.reserved,
        "device_bytes": told.device_bytes,
        "host_bytes": told.host_bytes,
        "largest_frames": load.largest(limit),
        "advice": [asdict(one) for one in advise(load, limit, bare=bare)],
    }


def _in_host(load: Load) -> Load:
    from timeviper.inference.ladder import in_host

    if load.setting.device_type == "cpu":
        raise RequestError(
            want="a GPU for --keys-in-host",
            got="a plan for a CPU, whose memory is the host's",
            do="add --gpu-gib, or leave it out",
        )
    return in_host(load)


def _frames(frames: int | None, hours: float | None, fps: float) -> int:
    if (frames is None) == (hours is None):
        raise RequestError(
            want="either --frames or --hours",
            got="both" if frames is not None else "neither",
            do="say how long the video is, for example --hours 2",
        )
    if frames is not None:
        return frames
    count = (hours or 0.0) * 3600 * fps
    if not 0.5 < count < math.inf:
        raise RequestError(
            want="a video of at least one frame",
            got=f"{hours} hours at {fps} frames a second",
            do="give more hours or more frames a second",
        )
    return round(count)


def _bytes_of(gpu_gib: float) -> int:
    if not 0 < gpu_gib < math.inf:
        raise RequestError(
            want="memory of a GPU above 0 GiB",
            got=f"{gpu_gib} GiB",
            do="give what it has, for example --gpu-gib 80, or leave it out for this machine",
        )
    return int(gpu_gib * _GIB)


def _load(
    config: TimeViperConfig,
    frames: int,
    *,
    gpu_gib: float | None,
    precision: str | None,
    chunk: int | None,
) -> tuple[Load, int]:
    import torch

    from timeviper.core.device import pick_device, total_bytes
    from timeviper.inference.chunks import chunk_tokens
    from timeviper.inference.planning.advice import Load
    from timeviper.inference.planning.planner import Setting

    device = torch.device("cuda") if gpu_gib is not None else pick_device()
    limit = _bytes_of(gpu_gib) if gpu_gib is not None else total_bytes(device)
    fp8 = precision == "fp8"
    load = Load(
        config=config,
        frames=frames,
        chunk=chunk or chunk_tokens(config, device.type),
        precision=_precision("bfloat16" if fp8 else precision, device),
        setting=Setting(device_type=device.type, fp8=fp8),
    )
    return load, limit


def _precision(name: str | None, device: Any) -> Precision:
    from timeviper.core.errors import ConfigError
    from timeviper.core.precision import Precision, default_precision

    if name is None:
        return default_precision(device)
    try:
        return Precision(_PRECISIONS.get(name, name))
    except ValueError:
        names = ", ".join(Precision)
        raise ConfigError(
            want=f"a precision among {names}", got=repr(name), do="name one"
        ) from None


def _seconds(load: Load, device: str, *, calibrate: bool) -> dict[str, Any]:
    import torch

    from timeviper.inference.planning.calibration import keep_rates, known_rates, measure_rates
    from timeviper.inference.planning.seconds import told

    if calibrate:
        from timeviper.inference.planning.video_rate import video_rate

        with counting() as bar:
            bar.add_task("measuring this machine", total=None)
            rates = measure_rates(load.config, load.precision)
            rates = replace(rates, video=video_rate())
        keep_rates(load.config, rates)
        return told(load, rates)
    if device == "cuda" and not torch.cuda.is_available():
        return told(load, None)
    return told(load, known_rates(load.config, load.precision, torch.device(device)))
