"""Grids as values: cells, items, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.evaluation.synthreel.bench import small_grid
from timeviper.core.config import from_dict, to_dict
from timeviper.core.errors import ConfigError, RequestError
from timeviper.evaluation.synthreel.grid import FOOTAGE, Cell, Grid, parse_tasks
from timeviper.synth.asking import Question
from timeviper.synth.tasks import Task

TASKS = (Task.RETRIEVAL, Task.COUNT, Task.WHEN)


def test_every_cell_once_and_short_ones_first() -> None:
    grid = Grid(tasks=TASKS, frames=(256, 64), depths=(0.0, 1.0), seeds=3)
    cells = grid.cells()
    assert len({cell.name for cell in cells}) == len(cells) == 3 * 2 * 2 * 3
    assert [cell.frames for cell in cells] == [64] * 18 + [256] * 18
    # Tasks in turns, so that parts of a grid are like the whole.
    assert [cell.task for cell in cells[:3]] == list(TASKS)


def test_a_cell_is_the_same_film_in_any_grid() -> None:
    one = small_grid(Task.WHEN)
    other = Grid(tasks=TASKS, frames=(16, 32), depths=(0.0, 0.25, 1.0), seeds=4, film=one.film)
    cell = one.cells()[1]
    assert cell in other.cells()
    assert one.item(cell).reel.question == other.item(cell).reel.question
    assert one.item(cell).reel.worlds.world(0) == other.item(cell).reel.worlds.world(0)
    elsewhere = replace(one, seed=one.seed + 1)
    assert one.item(cell).reel.question != elsewhere.item(cell).reel.question


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_the_moment_lies_where_the_depth_says(depth: float) -> None:
    grid = small_grid(Task.RETRIEVAL, frames=(512,), depths=(depth,))
    asked = grid.item(grid.cells()[0]).asked[0]
    start, end = asked.question.start_seconds, asked.question.end_seconds
    assert asked.depth == depth
    assert start == pytest.approx(depth * (512 - (end - start)), abs=1)


def test_tasks_without_a_moment_get_another_film_at_each_depth() -> None:
    grid = small_grid(Task.COUNT, frames=(64,), depths=(0.0, 0.5, 1.0))
    items = [grid.item(cell) for cell in grid.cells()]
    assert {item.asked[0].depth for item in items} == {None}
    assert len({item.reel.worlds.world(0) for item in items}) == 3


def test_further_questions_are_of_other_tasks_about_the_same_world() -> None:
    grid = small_grid(*TASKS, Task.ABSENT, frames=(128,), also=2)
    items = [(cell, grid.item(cell)) for cell in grid.cells()]
    # A world carries what it carries: never more than asked for, and not always that many.
    assert max(len(item.asked) for _, item in items) == 3
    for cell, item in items:
        tasks = [asked.question.task for asked in item.asked]
        assert tasks[0] is cell.task
        assert len(set(tasks)) == len(tasks) >= 2
        for asked in item.asked[1:]:
            assert asked.name == f"{cell.name}+{asked.question.task.value}"
            _is_true(asked.question, item.reel.worlds.world(0))
    # None asked for, none made; and the reel's own question does not depend on the others.
    plain = replace(grid, also=0)
    assert plain.item(grid.cells()[0]).asked == grid.item(grid.cells()[0]).asked[:1]


def _is_true(question: Question, world: object) -> None:
    """Names and times of an answer are found in the world it was asked about."""
    shown = {event.name for event in world.events}
    if question.task is Task.WHEN:
        spans = {(event.start, event.end) for event in world.events}
        assert (question.start_seconds, question.end_seconds) in spans
    if question.task is Task.ABSENT and question.answer == "yes.":
        assert any(name in question.question for name in shown)


def test_a_grid_survives_json_and_knows_its_keys() -> None:
    grid = Grid(tasks=TASKS, frames=(64,), depths=(0.5,), seeds=2, haystack="footage:clips")
    assert from_dict(Grid, to_dict(grid)) == grid
    with pytest.raises(ConfigError, match="lengths"):
        from_dict(Grid, to_dict(grid) | {"lengths": [3]})


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"frames": (8,)}, "frames from 16 to 14400"),
        ({"frames": (20_000,)}, "20000"),
        ({"depths": (1.5,)}, "depths from 0"),
        ({"depths": ()}, "at least one"),
        ({"seeds": 0}, "seeds of at least 1"),
        ({"also": -1}, "0 or more"),
        ({"frames": (64, 64)}, "once"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"haystack": "flooded"}, "footage:FOLDER"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        small_grid(**changes)


def test_tasks_by_name() -> None:
    assert parse_tasks(["when", "count"]) == (Task.WHEN, Task.COUNT)
    assert parse_tasks(["all"]) == tuple(Task)
    with pytest.raises(RequestError, match=r"retrieval.*got wen"):
        parse_tasks(["when", "wen"])
    with pytest.raises(RequestError, match="got none"):
        parse_tasks([])


def test_footage_is_the_videos_of_a_folder_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b.mp4", "a.MKV", "notes.txt"):
        (tmp_path / name).touch()
    grid = small_grid(haystack=f"{FOOTAGE}:{tmp_path}")
    assert [clip.name for clip in grid.clips()] == ["a.MKV", "b.mp4"]
    assert small_grid().clips() == ()
    with pytest.raises(RequestError, match="folder with clips"):
        small_grid(haystack=f"{FOOTAGE}:{tmp_path}/none").clips()
    # Without a folder: what is installed, or what the variable names.
    monkeypatch.setenv("TIMEVIPER_FOOTAGE", str(tmp_path))
    assert small_grid(haystack=FOOTAGE).clips() == grid.clips()


def test_films_take_their_haystacks_in_turn() -> None:
    grid = small_grid(depths=(0.0, 0.5, 1.0), seeds=2)
    clips = [int(grid.item(cell, clips=3).reel.worlds.footage[0, 0]) for cell in grid.cells()]
    assert set(clips) <= {0, 1, 2}
    assert len(set(clips)) > 1
    assert int(grid.item(grid.cells()[0]).reel.worlds.footage[0, 0]) == -1


def test_a_depth_in_hundredths_is_its_own_reel() -> None:
    cells = [
        Cell(task=Task.WHEN, frames=64, depth=d, number=n) for n in (0, 1) for d in (0, 0.01, 1)
    ]
    assert len({cell.index for cell in cells}) == len({cell.name for cell in cells}) == 6
