"""The model that ships, asked about real H.264 files that it has never seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from timeviper.evaluation.heldout import Heldout, ask_all, read_answers, summary
from timeviper.inference.engine import Engine

SEED = 424242


@pytest.mark.slow
def test_the_model_that_ships_answers_about_unseen_films(tmp_path: Path) -> None:
    films = Heldout(seed=SEED, videos=200, folder=tmp_path / "films")
    short = [index for index in range(200) if films.frames(index) <= 96][:6]
    answers = tmp_path / "answers.jsonl"
    engines = {"on": Engine.load("tiny", device="cpu", threads=1)}
    ask_all(engines, films, short, answers=answers, tell=lambda line: None)
    overall = summary(read_answers([answers]))["on"]["overall"]
    assert overall.total == 36
    assert overall.value >= 0.75, [
        (row["question"], row["want"], row["got"])
        for row in read_answers([answers])
        if not row["right"]
    ]
