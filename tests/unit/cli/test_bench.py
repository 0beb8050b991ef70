"""How the words of `timeviper bench` become a grid, and how cores are shared."""

from __future__ import annotations

import os

import pytest

from timeviper.cli import bench_runs
from timeviper.cli.bench_options import TASKS, make_grid, one_of
from timeviper.cli.bench_runs import threads_for, workers_for
from timeviper.core.errors import ConfigError, RequestError
from timeviper.evaluation.synthreel.grid import SEED, Grid
from timeviper.synth.render import Film
from timeviper.synth.tasks import Task


def grid_of(**changes: object) -> Grid:
    words = {"tasks": TASKS, "frames": "64,256", "depths": "0,0.5,1", "seeds": 1}
    rest = {"seed": None, "also": 0, "film": "320x180@1", "haystack": "drawn"}
    chosen = words | rest | changes
    first = [chosen.pop(name) for name in ("tasks", "frames", "depths", "seeds")]
    return make_grid(*first, **chosen)


def test_words_become_a_grid() -> None:
    grid = grid_of(tasks="when, count", frames=" 64,1024", depths="0.25", film="160x90@2", seed=7)
    assert grid == Grid(
        tasks=(Task.WHEN, Task.COUNT),
        frames=(64, 1024),
        depths=(0.25,),
        film=Film(width=160, height=90, fps=2),
        seed=7,
    )
    assert grid_of().seed == SEED
    assert grid_of(film="64x64").film.fps == 1
    assert grid_of(tasks="all").tasks == tuple(Task)


@pytest.mark.parametrize(
    "changes",
    [
        {"frames": "64;128"}, {"frames": ""}, {"frames": "1e3"}, {"depths": "deep"},
        {"tasks": ""}, {"film": "320"}, {"film": "320x180@fast"}, {"film": "x@1"},
        {"film": "320x180@0"}, {"depths": "nan"}, {"seeds": 0},
    ],
)  # fmt: skip
def test_words_that_mean_nothing_are_told(changes: dict[str, object]) -> None:
    with pytest.raises((RequestError, ConfigError)):
        grid_of(**changes)


def test_a_word_of_several() -> None:
    assert one_of("--x", "b", {"a": 1, "b": 2}) == 2
    with pytest.raises(RequestError, match="--x to be one of a, b"):
        one_of("--x", "c", {"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("cores", "shards", "films_only", "workers", "threads"),
    [
        (2, 1, False, 0, None),
        (8, 1, False, 6, None),
        (32, 1, True, 32, None),
        (32, 8, False, 2, 4),
        (2, 4, False, 0, 1),
        (2, 4, True, 1, 1),
    ],
)
def test_cores_are_shared(
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    shards: int,
    films_only: bool,
    workers: int,
    threads: int | None,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(bench_runs.sys, "platform", "linux")
    assert workers_for(None, films_only, shards) == workers
    assert threads_for(None, shards) == threads
    # What the user says holds.
    assert workers_for(5, films_only, shards) == 5
    assert threads_for(3, shards) == 3
