"""Make a video file whose answers are known, with its questions beside it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from timeviper.core.errors import RequestError
from timeviper.core.seeding import stream
from timeviper.synth.questions import Asking, Question, Task, ask
from timeviper.synth.render import render_video
from timeviper.synth.world import Worlds, sample_world

# Every task at once.
MIXED = "mixed"
# Minutes 00 to 199 are what the clock of the model's world can show.
MAX_FRAMES = 12_000
# Worlds looked at before saying that a length cannot carry a task.
_TRIES = 64
# What a file is asked: no doubtful moments, and an object that is there unless the task says not.
PLAIN = Asking(paraphrase=False, missing=0.0, clear=True)


@dataclass(frozen=True, kw_only=True, eq=False)
class Example:
    """One world, alone in its batch, and questions about it in the order of `Task`."""

    worlds: Worlds
    questions: tuple[Question, ...]


@dataclass(frozen=True, kw_only=True)
class Made:
    """Where the two files of an example are."""

    video: Path
    questions: Path


def sample_example(
    tasks: Sequence[Task], *, frames: int, seed: int, index: int = 0, how: Asking = PLAIN
) -> Example:
    """Find a world that can carry these tasks and ask one question of each.

    Args:
        tasks: what to ask.
        frames: length in seconds, one frame a second for the model.
        seed: of the worlds; together with `index` it decides everything.
        index: which example of the seed.
        how: phrasing.

    Returns:
        The first world that carries every task, or else the one that carries most.

    Raises:
        RequestError: a length that carries none of them.
    """
    found = max(_examples(tasks, frames, (seed, index), how), key=lambda e: len(e.questions))
    if not found.questions:
        raise RequestError(
            want=f"a length that can carry {', '.join(tasks)}",
            got=f"{frames} frames",
            do="ask for 32 frames or more",
        )
    return found


def make_example(task: str, *, frames: int, seed: int, out: Path) -> Made:
    """Write `video.mp4` and `questions.jsonl`.

    Args:
        task: a task's name ("at" stands for "at_time"), or "mixed" for one question of each.
        frames: length in seconds.
        seed: same seed, same files.
        out: folder, made when missing.

    Returns:
        The two files.

    Raises:
        RequestError: an unknown task, a length out of range, or a folder that cannot be written.
    """
    tasks = parse_task(task)
    if not 8 <= frames <= MAX_FRAMES:
        raise RequestError(
            want=f"8 to {MAX_FRAMES} frames", got=frames, do="choose a length in that range"
        )
    example = sample_example(tasks, frames=frames, seed=seed)
    made = Made(video=out / "video.mp4", questions=out / "questions.jsonl")
    lines = [json.dumps(_row(question), ensure_ascii=False) for question in example.questions]
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


def _examples(
    tasks: Sequence[Task], frames: int, origin: tuple[int, int], how: Asking
) -> Iterator[Example]:
    """Candidates until one carries all tasks."""
    seed, index = origin
    for attempt in range(_TRIES):
        worlds = sample_world(seed, index * _TRIES + attempt, frames)
        rng = stream(seed, "questions", index, attempt)
        asked = (ask(worlds.world(0), task, rng, how) for task in tasks)
        questions = tuple(question for question in asked if question is not None)
        yield Example(worlds=worlds, questions=questions)
        if len(questions) == len(tasks):
            return


def _row(question: Question) -> dict[str, object]:
    fields = asdict(question)
    keys = ("task", "question", "answer", "options", "start_seconds", "end_seconds")
    return {key: fields[key] for key in keys}
