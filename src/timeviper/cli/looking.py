"""Options that say which frames of a video to look at, shared by commands that read videos."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer

from timeviper.core.errors import ConfigError, RequestError
from timeviper.inference.degrade import Degrade
from timeviper.processing.timestamps import parse_times

if TYPE_CHECKING:
    from timeviper.core.precision import Precision
    from timeviper.inference.engine import AskOptions, Engine
    from timeviper.inference.store import Store

Model = Annotated[str, typer.Option(help="A model that ships, or a checkpoint folder.")]
Fps = Annotated[float | None, typer.Option(help="Frames to look at each second.")]
NumFrames = Annotated[int | None, typer.Option(help="Frames in all instead, evenly spread.")]
MaxFrames = Annotated[int | None, typer.Option(help="Most frames to look at.")]
Start = Annotated[str | None, typer.Option(help="Look from here: seconds or MM:SS.")]
End = Annotated[str | None, typer.Option(help="Look up to here: seconds or MM:SS.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")]
PrecisionName = Annotated[
    str | None,
    typer.Option(
        "--precision",
        help="bfloat16, float32, float16, or fp8: faster on GPUs that multiply in it, "
        "a little less exact.",
    ),
]
Degrading = Annotated[
    Degrade,
    typer.Option(
        "--degrade",
        help="What may be changed, and is told, when a video does not fit into memory. "
        "same-answers: smaller chunks, then keys and values in host memory, which is slower. "
        "any: before that, tokens are dropped where --no-transv switched it off. "
        "no: such a video is refused.",
    ),
]
NoTransv = Annotated[
    bool,
    typer.Option("--no-transv", help="Read every token, also with a model that drops some."),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        help="Folder that keeps encoded videos: the same video read the same way by the same "
        "model is taken from there, whatever its name."
    ),
]
CacheGb = Annotated[
    float, typer.Option(help="Most gigabytes in --cache; what was asked longest ago goes first.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
CACHE_GB = 20.0


@dataclass(frozen=True, kw_only=True)
class Looking:
    """Which frames to look at; None leaves it to the model.

    Args:
        fps: frames a second.
        num_frames: frames in all.
        max_frames: most frames.
        start: first second.
        end: last second.
    """

    fps: float | None = None
    num_frames: int | None = None
    max_frames: int | None = None
    start: float | None = None
    end: float | None = None

    @classmethod
    def parse(
        cls,
        *,
        fps: float | None,
        num_frames: int | None,
        max_frames: int | None,
        start: str | None,
        end: str | None,
    ) -> Self:
        """Read the options of a command and refuse what makes no sense; loads no torch.

        Raises:
            RequestError: a time that is none.
            ConfigError: values that are not usable, or exclude each other.
        """
        from timeviper.video.sampling import SamplingPolicy

        found = cls(
            fps=fps,
            num_frames=num_frames,
            max_frames=max_frames,
            start=_seconds("start", start),
            end=_seconds("end", end),
        )
        SamplingPolicy(**asdict(found))
        return found

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the options that were given, as on the command line."""
        return tuple(
            f"--{name.replace('_', '-')}"
            for name, value in asdict(self).items()
            if value is not None
        )

    def options(self) -> AskOptions:
        """As an engine takes them."""
        from timeviper.inference.engine import AskOptions

        return AskOptions(**asdict(self))


def engine_loader(
    model: str, *, device: str | None, precision: str | None, degrade: Degrade, transv: bool
) -> Callable[[], Engine]:
    """Read the options about a model and refuse what makes no sense; loads no torch.

    Args:
        model: one that ships, or a folder.
        device: where it will run.
        precision: `--precision`.
        degrade: `--degrade`.
        transv: whether the model may drop tokens.

    Returns:
        Loads the engine.
    """
    numbers = parse_precision(precision)

    def load() -> Engine:
        from timeviper.inference.engine import Engine, Limits

        limits = Limits(degrade=degrade)
        return Engine.load(model, device=device, precision=numbers, limits=limits, transv=transv)

    return load


def parse_precision(name: str | None) -> Precision | None:
    """The number format behind `--precision`; None where the device shall decide."""
    return None if name is None else precision_called(name)


def precision_called(name: str) -> Precision:
    """The number format of that name.

    Raises:
        ConfigError: there is none.
    """
    from timeviper.core.precision import Precision

    try:
        return Precision(name)
    except ValueError:
        names = ", ".join(Precision)
        raise ConfigError(
            want=f"a precision among {names}", got=repr(name), do="name one"
        ) from None


def open_store(cache: Path | None, cache_gb: float) -> Store | None:
    """The store behind `--cache`.

    Args:
        cache: its folder, or None for no store.
        cache_gb: most gigabytes in it.

    Raises:
        RequestError: a limit that is not a positive number.
        StateFileError: the folder cannot be made.
    """
    if cache is None:
        return None
    from timeviper.inference.store import Store

    if not 0 < cache_gb < float("inf"):
        raise RequestError(want="--cache-gb above 0", got=cache_gb, do="allow some gigabytes")
    return Store(cache, limit_bytes=int(cache_gb * 10**9))


def _seconds(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    times = parse_times(text)
    if len(times) != 1:
        raise RequestError(
            want=f"one time for --{name}", got=repr(text), do="write seconds (90) or MM:SS (01:30)"
        )
    return times[0]
