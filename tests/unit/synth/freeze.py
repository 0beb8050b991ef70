"""Reels as one line of JSON each, to notice any change of the generator.

command:  python -m tests.unit.synth.freeze    rewrites frozen.jsonl
Published figures belong to exactly these worlds and questions: rewrite it knowingly, with new
figures and an entry in the log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from tests.unit.synth.toys import sample_world
from timeviper.synth.reel import sample_reel
from timeviper.synth.tasks import Task
from timeviper.synth.world import Worlds

FILE = Path(__file__).with_name("frozen.jsonl")


def cells() -> list[tuple[Task, int, int]]:
    """Task, frames and seed of each frozen reel."""
    several = [(task, (64, 256, 1024)[n % 3], n) for n, task in enumerate(Task)]
    return [*several, (Task.RETRIEVAL, 12_288, 18), (Task.WHEN, 16, 19)]


def fingerprint(worlds: Worlds) -> str:
    """Of all arrays to a thousandth: what a picture shows, not the last bit of a machine's sine."""
    whole = hashlib.sha256()
    for field in fields(worlds):
        if field.name != "num_frames":
            array = np.nan_to_num(getattr(worlds, field.name).astype(np.float64), posinf=1e9)
            whole.update(np.rint(array * 1000).astype(np.int64).tobytes())
    return whole.hexdigest()[:16]


def frozen(task: Task, frames: int, seed: int) -> dict[str, Any]:
    """A reel as JSON holds it."""
    reel = sample_reel(task, frames=frames, seed=seed, depth=0.5)
    question = json.loads(json.dumps(asdict(reel.question)))
    return {"frames": frames, "seed": seed, "arrays": fingerprint(reel.worlds), **question}


def world() -> dict[str, Any]:
    """A world of the training distribution as JSON holds it."""
    worlds = sample_world(7, 3, 256)
    events = [[e.thing, e.partner, e.motion.value, e.start, e.end] for e in worlds.world(0).events]
    return {"world": [7, 3, 256], "arrays": fingerprint(worlds), "events": events}


def rows() -> Iterator[dict[str, Any]]:
    """All lines of the file."""
    yield world()
    yield from (frozen(*cell) for cell in cells())


if __name__ == "__main__":
    FILE.write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
