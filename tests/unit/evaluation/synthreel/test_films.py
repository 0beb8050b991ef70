"""Films: named by their content, rendered once and in order, by several processes."""

from __future__ import annotations

import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.evaluation.synthreel.bench import SMALL, small_grid
from timeviper.core.errors import RequestError
from timeviper.evaluation.synthreel.films import (
    FilmJob,
    film_key,
    make_folder,
    render,
    rendered,
    sweep,
)
from timeviper.synth.tasks import Task
from timeviper.video.source import open_video


def jobs(folder: Path, count: int = 3) -> list[FilmJob]:
    grid = small_grid(Task.RETRIEVAL, depths=tuple(n / 10 for n in range(count)))
    worlds = [grid.item(cell).reel.worlds for cell in grid.cells()]
    return [
        FilmJob(worlds=each, path=folder / f"{film_key(each, SMALL)}.mp4", film=SMALL)
        for each in worlds
    ]


def test_a_key_says_what_is_in_a_film(tmp_path: Path) -> None:
    one, two, _ = (job.worlds for job in jobs(tmp_path))
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"a clip")
    keys = {
        film_key(one, SMALL),
        film_key(two, SMALL),
        film_key(one, replace(SMALL, fps=2)),
        film_key(one, SMALL, [clip]),
        film_key(replace(one, grain=one.grain + 0.01), SMALL),
    }
    assert len(keys) == 5
    assert film_key(jobs(tmp_path)[0].worlds, SMALL) == film_key(one, SMALL)
    # The bytes of footage count, not its name.
    other = tmp_path / "other.mp4"
    other.write_bytes(b"a clip")
    assert film_key(one, SMALL, [clip]) == film_key(one, SMALL, [other])


def test_films_are_real_videos_made_once(tmp_path: Path) -> None:
    wanted = jobs(tmp_path / "films")
    assert list(rendered(wanted)) == [job.path for job in wanted]
    info = open_video(str(wanted[0].path)).info
    assert (info.width, info.height, info.duration_seconds) == (32, 32, 32.0)
    before = [job.path.stat().st_mtime_ns for job in wanted]
    assert list(rendered(wanted)) == [job.path for job in wanted]
    assert [job.path.stat().st_mtime_ns for job in wanted] == before
    # Nothing half-written beside them.
    assert sorted(tmp_path.rglob("*.*")) == sorted(job.path for job in wanted)


def test_films_are_taken_only_as_they_are_needed(tmp_path: Path) -> None:
    taken: list[Path] = []

    def count():
        for job in jobs(tmp_path):
            taken.append(job.path)
            yield job

    films = rendered(count())
    assert next(films) == taken[0]
    assert len(taken) == 1
    films.close()


def test_processes_render_the_same_films_in_the_same_order(tmp_path: Path) -> None:
    here, there = jobs(tmp_path / "here"), jobs(tmp_path / "there")
    list(rendered(here))
    assert list(rendered(there, workers=2)) == [job.path for job in there]
    for one, two in zip(here, there, strict=True):
        assert one.path.read_bytes() == two.path.read_bytes()


def test_films_that_are_there_need_no_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = jobs(tmp_path)
    list(rendered(wanted))

    def never(*args: object) -> None:
        raise AssertionError("a process was asked")

    monkeypatch.setattr(ProcessPoolExecutor, "submit", never)
    assert list(rendered(wanted, workers=4)) == [job.path for job in wanted]


def test_what_fails_in_a_process_is_told(tmp_path: Path) -> None:
    (tmp_path / "films").write_text("a file where a folder should be")
    with pytest.raises(RequestError, match="folder to write to"):
        list(rendered(jobs(tmp_path / "films"), workers=1))


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(RequestError, match="choose a folder that is yours"):
            make_folder(folder)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_old_leftovers_are_swept_and_fresh_ones_are_not(tmp_path: Path) -> None:
    old, fresh, film = tmp_path / ".a.mp4.part", tmp_path / ".b.mp4.part", tmp_path / "c.mp4"
    for path in (old, fresh, film):
        path.touch()
    past = time.time() - 7200
    for path in (old, film):
        os.utime(path, (past, past))
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.mp4.part", "c.mp4"]


def test_a_film_that_two_processes_render_is_whole(tmp_path: Path) -> None:
    job = jobs(tmp_path)[0]
    render(job)
    size = job.path.stat().st_size
    render(job)
    assert job.path.stat().st_size == size
