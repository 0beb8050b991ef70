"""The exported task, loaded as lmms-eval loads tasks: yaml with functions, lines, films."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.unit.evaluation.synthreel.bench import silent, small_grid
from timeviper.core.errors import RequestError
from timeviper.evaluation.synthreel import lmms_task
from timeviper.evaluation.synthreel.lmms import export, exportable
from timeviper.synth.choices import chosen
from timeviper.synth.score import iou
from timeviper.synth.tasks import OPEN, Task
from timeviper.synth.wording import seconds_in
from timeviper.video.source import open_video

GRID = small_grid(Task.RETRIEVAL, Task.WHEN, Task.ABSENT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "a task"
    export(GRID, out, silent)
    return out


def utils_of(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("utils", folder / "utils.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_task(folder: Path) -> dict[str, Any]:
    """The yaml with `!function file.name` resolved beside it, as lmms-eval does."""
    module = utils_of(folder)

    class Loader(yaml.SafeLoader):
        """With functions."""

    def function(loader: Loader, node: yaml.Node) -> Any:
        file, name = loader.construct_scalar(node).split(".")
        assert file == "utils"
        return getattr(module, name)

    Loader.add_constructor("!function", function)
    return yaml.load((folder / "synthreel.yaml").read_text(), Loader)


def docs_of(folder: Path) -> list[dict[str, Any]]:
    path = load_task(folder)["dataset_kwargs"]["data_files"]["test"]
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def scored(folder: Path, answers: dict[str, str] | None, said: str = "") -> dict[str, float]:
    """Metrics of a model that says the target, or always the same."""
    task = load_task(folder)
    entries: dict[str, list[Any]] = {}
    for doc in docs_of(folder):
        text = said if answers is None else answers[doc["prompt"]]
        for metric, entry in task["process_results"](doc, [text]).items():
            entries.setdefault(metric, []).append(entry)
    return {m["metric"]: m["aggregation"](entries[m["metric"]]) for m in task["metric_list"]}


def test_the_yaml_names_what_lmms_eval_needs(folder: Path) -> None:
    task = load_task(folder)
    assert task["task"] == "synthreel"
    assert (task["dataset_path"], task["test_split"]) == ("json", "test")
    assert task["output_type"] == "generate_until"
    for key in ("doc_to_visual", "doc_to_text", "doc_to_target", "process_results"):
        assert callable(task[key]), key
    assert {metric["metric"] for metric in task["metric_list"]} == {
        "synthreel_choice", "synthreel_circular", "synthreel_miou", "synthreel_r1_at_05",
    }  # fmt: skip


def test_lines_have_the_same_columns_and_films_that_are_there(folder: Path) -> None:
    task, docs = load_task(folder), docs_of(folder)
    # Two films of each task: four rotations, four and an interval, two.
    assert len(docs) == 2 * (4 + 5 + 2)
    assert len({tuple((k, type(v)) for k, v in doc.items()) for doc in docs}) == 1
    for doc in docs:
        (path,) = task["doc_to_visual"](doc)
        assert open_video(path).info.duration_seconds == doc["frames"] == 32
        assert doc["prompt"] in task["doc_to_text"](doc, {"pre_prompt": "<", "post_prompt": ">"})


def test_targets_are_right_and_others_are_not(folder: Path) -> None:
    task = load_task(folder)
    truth = {doc["prompt"]: task["doc_to_target"](doc) for doc in docs_of(folder)}
    assert set(scored(folder, truth).values()) == {1.0}
    nothing = scored(folder, None, "I do not know.")
    assert set(nothing.values()) == {0.0}
    always = scored(folder, None, "(A)")
    # 4 of 4 + 4 and 2 options: right in one rotation each, hence circular nowhere.
    assert always["synthreel_choice"] == pytest.approx(6 / 20)
    assert always["synthreel_circular"] == 0.0


def test_the_functions_need_python_alone(folder: Path) -> None:
    heavy = "any(name.startswith(('timeviper', 'numpy')) for name in sys.modules)"
    code = f"import utils, sys; sys.exit({heavy})"
    run = subprocess.run([sys.executable, "-S", "-c", code], cwd=folder, timeout=60)
    assert run.returncode == 0


ANSWERS = (
    "(B)", "b", "B.", "B) the dog.", "The answer is C", "the dog", "A dog, I think.", "(A) or (D)?",
    "the cat and the hot dog", "Option D.", "hot dog", "", "E", "nothing.",
)  # fmt: skip


@pytest.mark.parametrize("text", ANSWERS)
def test_it_reads_choices_as_the_benchmark_does(text: str) -> None:
    options = ("the cat.", "the dog.", "a hot dog.", "the word cat.")
    assert lmms_task.chosen(text, options) == chosen(text, options)


@pytest.mark.parametrize(
    "text",
    [
        "from 00:10 to 00:20.",
        "1:02:03 - 1:02:09",
        "12 s to 15.5 seconds",
        "10 to 15 s",
        "1 min 2 s to 3 m 4 s",
        "at 00:10",
        "",
    ],
)
def test_it_reads_times_as_the_benchmark_does(text: str) -> None:
    times = seconds_in(text)
    for span in ((12.0, 18.0), (3720.0, 3726.0)):
        want = iou((times[0], times[1]), span) if len(times) > 1 else 0.0
        assert lmms_task.overlap_of(text, *span) == want


def test_tasks_without_options_are_refused(tmp_path: Path) -> None:
    assert [task for task in Task if not exportable(task)] == [t for t in Task if t in OPEN]
    with pytest.raises(RequestError, match="dense_caption"):
        export(small_grid(Task.WHEN, Task.DENSE_CAPTION), tmp_path, silent)
    assert list(tmp_path.iterdir()) == []
