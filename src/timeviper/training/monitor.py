"""A run as one sees it: a line of numbers, TensorBoard, Weights & Biases, answers now and then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, final

from timeviper.core.errors import ConfigError

# What a question was and what the model says to it now.
Samples = Callable[[], Sequence[tuple[str, str]]]
_SHOWN = ("tokens_per_second", "mfu_percent", "data_wait_percent", "gpu_memory_bytes")


@final
class Monitor:
    """Takes the numbers of `loop.train` and shows them where they are looked at.

    Args:
        say: receives each line of text.
        folder: where TensorBoard's files go, when it is installed; None for nowhere.
        project: of Weights & Biases; None for not there.
        samples: answers of the model as it is now.
        sample_every: steps between them; 0 for never.

    Raises:
        ConfigError: a project is named and wandb is not installed.
    """

    def __init__(
        self,
        say: Callable[[str], None],
        *,
        folder: Path | None = None,
        project: str | None = None,
        samples: Samples | None = None,
        sample_every: int = 0,
    ) -> None:
        self._say = say
        self._samples = samples
        self._sample_every = sample_every
        self._sampled = 0
        self._board = None if folder is None else _board(folder)
        self._wandb = None if project is None else _wandb(project)
        if folder is not None and self._board is None:
            say("TensorBoard is not installed: pip install 'timeviper[train]' to have its curves")

    def __call__(self, line: dict[str, float]) -> None:
        """Show a line of numbers."""
        step = int(line["step"])
        self._say(progress_line(line))
        if self._board is not None:
            for name, value in line.items():
                if name not in ("step", "steps"):
                    self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(line, step=step)
        if self._samples and self._sample_every and step - self._sampled >= self._sample_every:
            self._sampled = step
            self._answer(self._samples(), step)

    def close(self) -> None:
        """Finish what is open."""
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _answer(self, answers: Sequence[tuple[str, str]], step: int) -> None:
        for number, (question, answer) in enumerate(answers):
            self._say(f"  {question}  ->  {answer}")
            if self._board is not None:
                self._board.add_text(f"answers/{number}", f"{question} -> {answer}", step)


def progress_line(line: dict[str, float]) -> str:
    """The numbers of a step in words.

    Args:
        line: as `loop.train` tells it; numbers that are not there are left out.
    """
    words = [
        f"step {line['step']:.0f}/{line['steps']:.0f}",
        f"loss {line['loss']:.4f}",
        f"rate {line['rate']:.2e}",
        f"norm {line['gradient_norm']:.3f}",
    ]
    forms: dict[str, Callable[[float], str]] = {
        "tokens_per_second": lambda n: f"{_short(n)} tok/s",
        "mfu_percent": lambda n: f"mfu {n:.1f} %",
        "data_wait_percent": lambda n: f"wait {n:.1f} %",
        "gpu_memory_bytes": lambda n: f"mem {n / 1e9:.1f} GB",
    }
    words += [forms[name](line[name]) for name in _SHOWN if name in line]
    left = (line["steps"] - line["step"]) / max(line["steps_per_second"], 1e-9)
    words.append(f"left {_clock(left)}")
    known = {"step", "steps", "loss", "rate", "gradient_norm", "steps_per_second", *_SHOWN}
    words += [f"{name} {value:.4g}" for name, value in line.items() if name not in known]
    return "  ".join(words)


def _short(number: float) -> str:
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _board(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def _wandb(project: str) -> Any:
    try:
        import wandb  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ConfigError(
            want="the package wandb for a project there",
            got="not installed",
            do="pip install wandb, or leave `project` out",
        ) from None
    return wandb.init(project=project)
