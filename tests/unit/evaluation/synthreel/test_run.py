"""Runs: everything asked once, kept at once, resumed, sharded, shown as the control says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy_engine import noise, write_video
from tests.unit.evaluation.synthreel.bench import (
    Scripted,
    plan_of,
    silent,
    small_grid,
    truthful,
)
from timeviper.core.errors import RequestError
from timeviper.evaluation.synthreel.answerers import ORACLE_MARGIN, Control
from timeviper.evaluation.synthreel.report import measures
from timeviper.evaluation.synthreel.rows import Form, Row, read_rows
from timeviper.evaluation.synthreel.run import (
    Shard,
    Step,
    answer_files,
    render_films,
    run,
)
from timeviper.synth.tasks import Task


def rows_of(out: Path) -> list[Row]:
    return sorted(read_rows(answer_files(out)), key=lambda row: row.key)


def test_who_knows_everything_is_right_everywhere(tmp_path: Path) -> None:
    grid = small_grid(*Task, frames=(96,), depths=(0.5,))
    run(plan_of(tmp_path, grid), truthful(grid), silent)
    found = rows_of(tmp_path)
    assert {row.task for row in found} == {task.value for task in Task}
    assert [row.question for row in found if not row.right] == []
    assert {row.value for row in found} == {1.0}
    caption = next(row for row in found if row.task == "dense_caption")
    assert (caption.precision, caption.recall, caption.order) == (1.0, 1.0, 1.0)


def test_who_says_nothing_is_right_nowhere(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL, Task.COUNT, Task.WHEN)
    run(plan_of(tmp_path, grid), Scripted(lambda prompt: "I cannot tell."), silent)
    assert not any(row.right for row in rows_of(tmp_path))


def test_a_place_that_is_always_chosen_is_circular_nowhere(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL, depths=(0.0, 0.3, 0.7, 1.0))
    run(plan_of(tmp_path, grid), Scripted(lambda prompt: "(A)"), silent)
    found = measures(row for row in rows_of(tmp_path) if row.form is Form.CHOICE)
    # Each of four rotations is right once, so a place gets a quarter and never a circle.
    assert found["choice"]["value"] == found["chance"] == 0.25
    assert found["circular"]["right"] == 0


def test_a_film_is_read_once_and_asked_in_every_form(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL, Task.WHAT)
    answerer = truthful(grid)
    run(plan_of(tmp_path, grid), answerer, silent)
    assert len(answerer.views) == 4
    assert len({view.path for view in answerer.views}) == 4
    keys = [row.key for row in rows_of(tmp_path)]
    assert len(keys) == len(answerer.prompts) == 2 * (1 + 4) + 2
    # Lists may be long, other answers may not.
    assert set(answerer.limits) == {64, 128}


def test_every_film_is_told_with_the_share_so_far(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL)
    told: list[Step] = []
    run(plan_of(tmp_path, grid), truthful(grid), told.append)
    assert [(step.done, step.total, step.answers, step.right) for step in told] == [
        (1, 2, 5, 5),
        (2, 2, 10, 10),
    ]


def test_what_was_asked_is_not_asked_again(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL, Task.COUNT)
    run(plan_of(tmp_path, grid), truthful(grid), silent)
    before = (tmp_path / Shard().answers).read_bytes()
    again = truthful(grid)
    run(plan_of(tmp_path, grid), again, silent)
    assert again.prompts == []
    assert (tmp_path / Shard().answers).read_bytes() == before


def test_a_run_cut_anywhere_goes_on_to_the_same_answers(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL, Task.ABSENT)
    whole = tmp_path / "whole"
    films = tmp_path / "films"
    run(plan_of(whole, grid, films=films), truthful(grid), silent)
    data = (whole / Shard().answers).read_bytes()
    for share in (0.0, 0.1, 0.35, 0.5, 0.99):
        out = tmp_path / f"cut{share}"
        out.mkdir()
        (out / Shard().answers).write_bytes(data[: int(len(data) * share)])
        run(plan_of(out, grid, films=films), truthful(grid), silent)
        assert rows_of(out) == rows_of(whole)


def test_what_breaks_in_the_middle_keeps_what_was_answered(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL, depths=(0.0, 0.5, 1.0))

    def stop(step: Step) -> None:
        if step.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(plan_of(tmp_path, grid), truthful(grid), stop)
    assert len(rows_of(tmp_path)) == 10
    rest = truthful(grid)
    run(plan_of(tmp_path, grid), rest, silent)
    assert len(rest.prompts) == 5
    assert len(rows_of(tmp_path)) == 15


def test_shards_are_disjoint_and_together_the_whole(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL, Task.COUNT, depths=(0.0, 0.5, 1.0))
    films = tmp_path / "films"
    run(plan_of(tmp_path / "whole", grid, films=films), truthful(grid), silent)
    asked: list[str] = []
    for number in (1, 2, 3, 4):
        answerer = truthful(grid)
        shard = Shard(number=number, of=4)
        run(plan_of(tmp_path / "parts", grid, films=films, shard=shard), answerer, silent)
        asked += answerer.prompts
    assert len(answer_files(tmp_path / "parts")) == 4
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    assert len(asked) == len(rows_of(tmp_path / "whole"))


def test_a_run_that_began_in_shards_ends_whole(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL)
    run(plan_of(tmp_path, grid, shard=Shard(number=1, of=2)), truthful(grid), silent)
    rest = truthful(grid)
    run(plan_of(tmp_path, grid), rest, silent)
    assert len(rest.prompts) == 5
    assert len(rows_of(tmp_path)) == 10


def test_the_blind_are_shown_nothing_and_nothing_is_rendered(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL)
    answerer = truthful(grid)
    run(plan_of(tmp_path, grid, control=Control.BLIND), answerer, silent)
    assert {view.path for view in answerer.views} == {None}
    assert not (tmp_path / "films").exists()
    assert len(rows_of(tmp_path)) == 10


def test_the_oracle_is_shown_the_moment_and_asked_only_where_there_is_one(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL, Task.ORDERING, Task.CHANGE, frames=(256,), depths=(0.5,))
    answerer = truthful(grid)
    run(plan_of(tmp_path, grid, control=Control.ORACLE), answerer, silent)
    assert {row.task for row in rows_of(tmp_path)} == {"retrieval", "change"}
    view = answerer.views[0]
    question = grid.item(grid.cells()[0]).asked[0].question
    assert view.start == question.start_seconds - ORACLE_MARGIN
    assert view.end == question.end_seconds + ORACLE_MARGIN
    # A change stays to the end; its first seconds tell it.
    assert answerer.views[1].end - answerer.views[1].start <= 24 + 2 * ORACLE_MARGIN


def test_films_are_shared_and_removed_when_they_are_not_kept(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL)
    seen: list[int] = []
    films = tmp_path / "films"

    def count(step: Step) -> None:
        seen.append(len(list(films.glob("*.mp4"))))

    plan = plan_of(tmp_path / "kept", grid)
    run(plan, truthful(grid), silent)
    assert len(list(plan.films.glob("*.mp4"))) == 2
    out = tmp_path / "dropped"
    run(plan_of(out, grid, keep_films=False), truthful(grid), silent)
    assert list((out / "films").iterdir()) == []


def test_films_can_be_rendered_before(tmp_path: Path) -> None:
    grid = small_grid(Task.RETRIEVAL)
    plan = plan_of(tmp_path, grid)
    told: list[Step] = []
    assert render_films(plan, told.append) == 2 * 32
    assert [step.done for step in told] == [1, 2]
    films = {path: path.stat().st_mtime_ns for path in plan.films.iterdir()}
    assert render_films(plan, silent) == 0
    assert not answer_files(tmp_path)
    run(plan, truthful(grid), silent)
    assert {path: path.stat().st_mtime_ns for path in plan.films.iterdir()} == films


def test_footage_is_shown_and_other_footage_is_another_benchmark(tmp_path: Path) -> None:
    clip = tmp_path / "clips" / "a.mp4"
    clip.parent.mkdir()
    write_video(clip, noise(6, side=32))
    grid = small_grid(Task.RETRIEVAL, haystack=f"footage:{clip.parent}")
    plan = plan_of(tmp_path / "real", grid)
    run(plan, truthful(grid), silent)
    drawn = plan_of(tmp_path / "drawn", small_grid(Task.RETRIEVAL))
    run(drawn, truthful(drawn.grid), silent)
    real, plain = (sum(f.stat().st_size for f in p.films.iterdir()) for p in (plan, drawn))
    # Noise behind the drawings costs far more bits than a smooth background.
    assert real > 1.5 * plain
    write_video(clip, noise(7, side=32))
    with pytest.raises(RequestError, match="the same benchmark"):
        run(plan, truthful(grid), silent)


def test_another_grid_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    run(plan_of(tmp_path, small_grid(Task.ABSENT)), truthful(small_grid(Task.ABSENT)), silent)
    other = small_grid(Task.COUNT)
    with pytest.raises(RequestError, match="the same benchmark"):
        run(plan_of(tmp_path, other), truthful(other), silent)


def test_shards_are_read_and_checked() -> None:
    assert Shard.parse("2/4") == Shard(number=2, of=4)
    assert Shard.parse("2/4").answers == "answers-2-of-4.jsonl"
    for wrong in ("0/4", "5/4", "1", "a/b", "1/0", "-1/4", ""):
        with pytest.raises(RequestError, match="shard"):
            Shard.parse(wrong)
