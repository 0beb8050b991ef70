"""The generator is frozen: published figures belong to exactly these worlds and questions."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from tests.unit.synth.freeze import FILE, cells, fingerprint, frozen, world
from tests.unit.synth.toys import sample_world
from timeviper.synth.tasks import Task

ROWS = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def test_a_world_is_this_one_for_ever() -> None:
    assert world() == ROWS[0]


@pytest.mark.parametrize(("cell", "row"), list(zip(cells(), ROWS[1:], strict=True)))
def test_a_reel_is_this_one_for_ever(cell: tuple[Task, int, int], row: dict[str, object]) -> None:
    assert frozen(*cell) == row


def test_every_task_is_frozen() -> None:
    assert {row["task"] for row in ROWS[1:]} == set(Task)


def test_the_fingerprint_sees_every_array() -> None:
    worlds = sample_world(7, 3, 64)
    seen = {fingerprint(worlds)}
    for field in fields(worlds):
        if field.name == "num_frames":
            continue
        array = getattr(worlds, field.name)
        kept = array.copy()
        array.flat[0] += 1
        seen.add(fingerprint(worlds))
        array[...] = kept
    assert len(seen) == len(fields(worlds))
