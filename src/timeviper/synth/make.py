"""Make a video file whose answers are known, with its questions beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from timeviper.core.errors import RequestError
from timeviper.core.seeding import stream
from timeviper.synth.asking import Asking, Question
from timeviper.synth.questions import ask
from timeviper.synth.reel import PLACED, check_range, sample_reel
from timeviper.synth.render import render_video
from timeviper.synth.sample import sample_worlds
from timeviper.synth.tasks import Task
from timeviper.synth.world import World, Worlds

# As many tasks at once as a world can carry.
MIXED = "mixed"
# Worlds that the best one is chosen from.
_TRIES = 64
# What a file is asked: no doubtful moments, and only things that are there unless the task says
# not.
PLAIN = Asking(paraphrase=False, missing=0.0, clear=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One world, alone in its batch, and questions about it."""

    worlds: Worlds
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class Made:
    """Where the two files of an example are."""

    video: Path
    questions: Path


def sample_example(tasks: Sequence[Task], *, frames: int, seed: int) -> Example:
    """Choose among worlds one that carries many tasks, and ask one question of each.

    Args:
        tasks: what to ask.
        frames: length in seconds, one frame a second for the model.
        seed: decides everything, together with the length.

    Returns:
        Of 64 worlds the first that carries most of the tasks, at most different moments. Some
        tasks exclude each other: no world carries all.

    Raises:
        RequestError: a length out of range, or one that carries none of them.
    """
    check_range(frames)
    worlds = sample_worlds(stream(seed, "example", frames), _TRIES, frames)
    asked = [
        _asked(worlds.world(number), tasks, stream(seed, "example", frames, number))
        for number in range(_TRIES)
    ]
    best = max(range(_TRIES), key=lambda number: _worth(asked[number]))
    if not asked[best]:
        raise RequestError(
            want=f"a length that can carry {', '.join(tasks)}",
            got=f"{frames} frames",
            do="ask for 64 frames or more",
        )
    return Example(worlds=worlds.select([best]), questions=asked[best])


def make_example(
    task: str, *, frames: int, seed: int, out: Path, depth: float | None = None
) -> Made:
    """Write `video.mp4` and `questions.jsonl`.

    Args:
        task: a task's name ("at" stands for "at_time"), or "mixed" for as many as one world can
            carry.
        frames: length in seconds.
        seed: same arguments, same files.
        out: folder, made when missing.
        depth: where the appearance that is asked about begins, 0 to 1, for a task that is about
            one; None for anywhere.

    Returns:
        The two files; questions are one JSON object a line with their answer, options, right
        option and times.

    Raises:
        RequestError: an unknown task, a length or depth that it cannot have, or a folder that
            cannot be written.
    """
    example = _example(parse_task(task), frames, seed, depth)
    made = Made(video=out / "video.mp4", questions=out / "questions.jsonl")
    lines = [json.dumps(asdict(question), ensure_ascii=False) for question in example.questions]
    try:
        out.mkdir(parents=True, exist_ok=True)
        render_video(example.worlds, made.video)
        part = out / ".questions.jsonl.part"
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(part, made.questions)
    except OSError as error:
        raise RequestError(
            want=f"a folder to write to at {out}", got=error, do="choose a folder that is yours"
        ) from error
    return made


def parse_task(name: str) -> tuple[Task, ...]:
    """Tasks by a user's word.

    Raises:
        RequestError: a word that names none.
    """
    if name in (MIXED, "all"):
        return tuple(Task)
    known = {task.value: task for task in Task} | {"at": Task.AT_TIME}
    if name not in known:
        raise RequestError(
            want=f"one of {', '.join((*known, MIXED))}", got=repr(name), do="name a task of these"
        )
    return (known[name],)


def _example(tasks: Sequence[Task], frames: int, seed: int, depth: float | None) -> Example:
    if depth is not None and (len(tasks) > 1 or tasks[0] not in PLACED):
        raise RequestError(
            want=f"a task about one moment ({', '.join(sorted(PLACED))}) to put at a depth",
            got=tasks[0] if len(tasks) == 1 else MIXED,
            do="choose one of these tasks, or leave the depth out",
        )
    if len(tasks) > 1:
        return sample_example(tasks, frames=frames, seed=seed)
    reel = sample_reel(tasks[0], frames=frames, seed=seed, depth=depth)
    return Example(worlds=reel.worlds, questions=(reel.question,))


def _asked(world: World, tasks: Sequence[Task], rng: np.random.Generator) -> tuple[Question, ...]:
    found = (ask(world, task, rng, PLAIN) for task in tasks)
    return tuple(question for question in found if question is not None)


def _worth(questions: Sequence[Question]) -> tuple[int, int]:
    """Number of questions, then of different moments that they are about."""
    return len(questions), len({q.start_seconds for q in questions} - {None})
