"""The numbers of a run in words, as curves, and beside answers."""

from __future__ import annotations

import builtins
import sys
import types
from pathlib import Path

import pytest

from timeviper.core.errors import ConfigError
from timeviper.training.monitor import Monitor, progress_line

LINE = {
    "step": 20, "steps": 120, "loss": 1.23456, "rate": 1e-5, "gradient_norm": 0.5,
    "steps_per_second": 0.02, "data_wait_percent": 1.25, "tokens_per_second": 12345.0,
    "mfu_percent": 41.27, "gpu_memory_bytes": 61.2e9, "right": 0.875,
}  # fmt: skip


def test_a_line_has_everything_that_one_looks_for() -> None:
    assert progress_line(LINE) == (
        "step 20/120  loss 1.2346  rate 1.00e-05  norm 0.500  12.3k tok/s  mfu 41.3 %  "
        "wait 1.2 %  mem 61.2 GB  left 1:23:20  right 0.875"
    )


def test_what_is_not_known_is_left_out() -> None:
    known = ("step", "steps", "loss", "rate", "gradient_norm", "steps_per_second")
    line = progress_line({name: LINE[name] for name in known})
    assert line.endswith("norm 0.500  left 1:23:20")


@pytest.mark.parametrize(("rate", "words"), [(950.0, "950 tok/s"), (2.5e6, "2.5M tok/s")])
def test_speeds_are_short(rate: float, words: str) -> None:
    assert words in progress_line(LINE | {"tokens_per_second": rate})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_curves_and_answers_go_to_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    said: list[str] = []
    asked: list[int] = []

    def samples() -> list[tuple[str, str]]:
        asked.append(1)
        return [("Where?", "here.")]

    monitor = Monitor(said.append, folder=tmp_path, samples=samples, sample_every=25)
    for step in (20, 40, 60, 80):
        monitor(LINE | {"step": step, "loss": step / 10})
    monitor.close()
    board = EventAccumulator(str(tmp_path))
    board.Reload()
    assert [(e.step, e.value) for e in board.Scalars("loss")] == [
        (20, 2),
        (40, 4),
        (60, 6),
        (80, 8),
    ]
    assert {"mfu_percent", "gradient_norm", "right"} <= set(board.Tags()["scalars"])
    # At most once in 25 steps: after steps 40 and 80.
    assert len(asked) == 2
    assert [words for words in said if "Where?" in words] == ["  Where?  ->  here."] * 2


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make imports of these packages fail, as where they are not installed."""
    real = builtins.__import__

    def without(name, *rest, **named):
        if any(name == hidden or name.startswith(f"{hidden}.") for hidden in names):
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest, **named)

    for name in list(sys.modules):
        if any(name == hidden or name.startswith(f"{hidden}.") for hidden in names):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)


def test_without_tensorboard_it_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, "tensorboard", "torch.utils.tensorboard")
    said: list[str] = []
    monitor = Monitor(said.append, folder=tmp_path)
    monitor(LINE)
    monitor.close()
    assert [words for words in said if "timeviper[train]" in words] == said[:1]
    assert len(said) == 2


def test_a_project_without_wandb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "wandb")
    with pytest.raises(ConfigError, match="pip install wandb"):
        Monitor(print, project="films")


def test_a_project_receives_every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    # A service on the network: it cannot exist here.
    got: list[tuple] = []
    run = types.SimpleNamespace(
        log=lambda line, step: got.append((step, line["loss"])), finish=lambda: got.append(("end",))
    )
    wandb = types.ModuleType("wandb")
    wandb.init = lambda project: got.append((project,)) or run
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monitor = Monitor(lambda words: None, project="films")
    monitor(LINE)
    monitor.close()
    assert got == [("films",), (20, 1.23456), ("end",)]
