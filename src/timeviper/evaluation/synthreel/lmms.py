"""Write a benchmark as a local lmms-eval task: films, questions, yaml and its functions."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from timeviper.core.errors import RequestError
from timeviper.evaluation.synthreel import lmms_task
from timeviper.evaluation.synthreel.films import FilmJob, make_folder, rendered
from timeviper.evaluation.synthreel.grid import Asked, Grid, Item
from timeviper.evaluation.synthreel.run import Step, Tell
from timeviper.synth.choices import as_choices, rotated
from timeviper.synth.tasks import OPEN, Task

NAME, VIDEOS = "synthreel", "videos"
HOW_TO_CHOOSE = "\nAnswer with the letter in brackets of the right option."
HOW_TO_TIME = "\nAnswer with the start and the end as from MM:SS to MM:SS."
# Paths in it are absolute: lmms-eval reads data files relative to where it is started.
_YAML = """\
# SynthReel: drawn films with exact answers, made by `timeviper bench export`.
# Run: lmms_eval --include_path {folder} --tasks {name} --model NAME --model_args ...
# After moving this folder, correct the path of `test` below.
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {questions}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.doc_to_visual
doc_to_text: !function utils.doc_to_text
doc_to_target: !function utils.doc_to_target
process_results: !function utils.process_results
generation_kwargs:
  max_new_tokens: 64
  temperature: 0
  do_sample: false
lmms_eval_specific_kwargs:
  default:
    pre_prompt: ""
    post_prompt: ""
metric_list:
  - metric: synthreel_choice
    aggregation: !function utils.aggregate_choice
    higher_is_better: true
  - metric: synthreel_circular
    aggregation: !function utils.aggregate_circular
    higher_is_better: true
  - metric: synthreel_miou
    aggregation: !function utils.aggregate_miou
    higher_is_better: true
  - metric: synthreel_r1_at_05
    aggregation: !function utils.aggregate_r1
    higher_is_better: true
metadata:
  - version: 1.0
"""


def exportable(task: Task) -> bool:
    """Whether a task has options, which is what the exported metrics score."""
    return task not in OPEN


def export(grid: Grid, out: Path, tell: Tell, *, workers: int = 0) -> Path:
    """Write `synthreel.yaml`, `utils.py`, `questions.jsonl` and `videos/` into a folder.

    Args:
        grid: what is asked; tasks without options are refused.
        out: folder, made when missing; films that it holds are kept.
        tell: hears of every film.
        workers: processes that render.

    Returns:
        The yaml file.

    Raises:
        RequestError: a task without options, or a folder that cannot be written.
    """
    without = [task.value for task in grid.tasks if not exportable(task)]
    if without:
        raise RequestError(
            want="tasks with options for lmms-eval",
            got=", ".join(without),
            do="leave these out; `timeviper bench synthreel` scores them",
        )
    make_folder(out / VIDEOS)
    cells, clips = grid.cells(), grid.clips()
    items = [grid.item(cell, clips=len(clips)) for cell in cells]
    jobs = (
        FilmJob(worlds=item.reel.worlds, path=out / _video(item), film=grid.film, clips=clips)
        for item in items
    )
    with closing(rendered(jobs, workers=workers)) as films:
        for done, (item, _) in enumerate(zip(items, films, strict=True), 1):
            tell(Step(done=done, total=len(items), name=item.cell.name, answers=0, right=0))
    lines = [json.dumps(doc, ensure_ascii=False) for item in items for doc in docs(item)]
    questions = out / "questions.jsonl"
    task = out / f"{NAME}.yaml"
    whole = _YAML.format(
        name=NAME, folder=out.resolve(), questions=json.dumps(str(questions.resolve()))
    )
    _write(questions, "\n".join(lines) + "\n")
    _write(out / "utils.py", Path(lmms_task.__file__).read_text(encoding="utf-8"))
    _write(task, whole)
    return task


def docs(item: Item) -> Iterator[dict[str, Any]]:
    """Lines of questions.jsonl about one film: every rotation of the options, and intervals free.

    Args:
        item: film and questions.
    """
    for asked in item.asked:
        question = asked.question
        if not question.options:
            continue
        for turn in range(len(question.options)):
            prompt = as_choices(question, turn) + HOW_TO_CHOOSE
            yield _doc(item, asked, "choice", prompt) | {
                "rotation": turn,
                "options": list(rotated(question, turn)),
                "answer": question.choice,
            }
        if question.task is Task.WHEN and question.start_seconds is not None:
            yield _doc(item, asked, "interval", question.question + HOW_TO_TIME)


def _doc(item: Item, asked: Asked, form: str, prompt: str) -> dict[str, Any]:
    # Every line has every key: the reader of data sets takes the columns of the first one.
    return {
        "name": asked.name,
        "task": asked.question.task.value,
        "frames": item.cell.frames,
        "depth": -1.0 if asked.depth is None else asked.depth,
        "video": _video(item),
        "form": form,
        "rotation": 0,
        "prompt": prompt,
        "options": [],
        "answer": asked.question.answer,
        "start_seconds": _or_minus_one(asked.question.start_seconds),
        "end_seconds": _or_minus_one(asked.question.end_seconds),
    }


def _or_minus_one(seconds: float | None) -> float:
    return -1.0 if seconds is None else seconds


def _video(item: Item) -> str:
    return f"{VIDEOS}/{item.cell.name}.mp4"


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as error:
        raise RequestError(
            want=f"room and permission to write {path}",
            got=error.strerror or error,
            do="free some space or choose another --out",
        ) from None
