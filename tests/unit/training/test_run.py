"""A run of two stages leaves a model that answers; who learns is who should."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.training.crew import launch, succeed
from tests.unit.training.journey import STEPS, write_run
from timeviper.cli.train import apply, read_json
from timeviper.core.config import from_dict, to_dict
from timeviper.core.errors import CheckpointError, ConfigError, LayoutError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.inference.engine import Engine
from timeviper.model.vlm import TimeViper
from timeviper.training.distributed import Group
from timeviper.training.run import Lesson, TrainConfig, run, stage_folder
from timeviper.training.stages import part_of
from timeviper.weights.loader import load_model


def config_of(path: Path, *changes: str) -> TrainConfig:
    return from_dict(TrainConfig, apply(read_json(path), list(changes)), where="run.json")


def go(path: Path, *changes: str, **fields) -> tuple[bool, list[dict]]:
    lines: list[dict] = []
    done = run(config_of(path, *changes), home=path.parent, group=Group(),
               tell=lambda stage, samples: lines.append, **fields)  # fmt: skip
    return done, lines


def moved(before: TimeViper, after: TimeViper) -> set[str]:
    """Parts of which some weight changed."""
    pairs = zip(before.named_parameters(), after.parameters(), strict=True)
    return {part_of(name).value for (name, a), b in pairs if not torch.equal(a, b)}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    path = write_run(tmp_path_factory.mktemp("run"))
    done, lines = go(path)
    assert done
    return path, lines


def test_each_stage_moves_its_parts_alone(finished: tuple[Path, list[dict]]) -> None:
    home = finished[0].parent
    models = [
        load_model(folder, device="cpu")
        for folder in (home / "toy", home / "out/align/model", home / "out/instruct/model")
    ]
    assert moved(models[0], models[1]) == {"projector"}
    assert moved(models[1], models[2]) == {"projector", "language", "transfer"}
    assert models[2].config == models[0].config


def test_what_is_left_answers(finished: tuple[Path, list[dict]]) -> None:
    home = finished[0].parent
    engine = Engine.load(home / "out/instruct/model", device="cpu")
    assert engine.ask(home / "media/a.mp4", "What?").frames == 6


def test_lines_tell_loss_and_speed(finished: tuple[Path, list[dict]]) -> None:
    lines = finished[1]
    assert [line["step"] for line in lines] == [*range(1, STEPS + 1)] * 2
    assert {"loss", "rate", "tokens_per_second", "right", "samples", "frames"} <= set(lines[0])
    # The language model's rate; that of the transfer modules is five times as high.
    assert max(line["rate"] for line in lines) == pytest.approx(1e-3, rel=0.01)


def test_a_finished_run_is_not_repeated(finished: tuple[Path, list[dict]]) -> None:
    assert go(finished[0]) == (True, [])


def test_stopped_and_resumed_is_the_run_that_was_not(
    tmp_path: Path, finished: tuple[Path, list[dict]]
) -> None:
    path, lines = write_run(tmp_path), []
    done = False
    while not done:
        done, new = go(path, stopping=lambda: True)
        lines += new
    keys = ("step", "loss", "gradient_norm", "right")
    got, want = ([[line[key] for key in keys] for line in run] for run in (lines, finished[1]))
    assert got == want
    models = [
        load_model(p.parent / "out/instruct/model", device="cpu") for p in (path, finished[0])
    ]
    assert not moved(*models)


def test_another_config_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    assert not go(path, stopping=lambda: True)[0]
    with pytest.raises(CheckpointError, match=r"stage.learning_rate 0.001 there, 0.01 now"):
        go(path, "stages.0.learning_rate=0.01")
    # The share of a process may change, as its number may.
    assert not go(path, "stages.0.accumulate=2", stopping=lambda: True)[0]


def test_adapters_learn_in_place_of_the_model_and_are_gone_afterwards(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    path = write_run(tmp_path)
    stage = ["stages.1.adapter_rank=2", "stages.1.average=0.5", "recompute=true"]
    done, _ = go(path, *stage)
    assert done
    align, instruct = (load_model(tmp_path / f"out/{n}/model", device="cpu")
                       for n in ("align", "instruct"))  # fmt: skip
    changed = {
        name
        for (name, a), b in zip(align.named_parameters(), instruct.parameters(), strict=True)
        if not torch.equal(a, b)
    }
    assert "decoder.layers.0.mixer.in_proj.weight" in changed
    # What has no adapter stays: embeddings, head, norms, the decay.
    assert not {n for n in changed if "embed" in n or "norm" in n or "A_log" in n}


def test_the_model_is_asked_while_it_learns(tmp_path: Path) -> None:
    path = write_run(tmp_path, questions=[{"video": "media/a.mp4", "question": "What?"}])
    answers: list[list[tuple[str, str]]] = []

    def tell(stage, samples):
        return lambda line: answers.append(list(samples()))

    config = config_of(path, "stages.0.steps=1")
    run(config, home=tmp_path, group=Group(), tell=tell, stopping=lambda: True)
    assert [question for question, _ in answers[0]] == ["What?"]


@pytest.mark.slow
def test_two_processes_that_share_a_model_leave_the_same_as_one(
    tmp_path: Path, finished: tuple[Path, list[dict]]
) -> None:
    path = write_run(tmp_path)
    changes = [f"--set={c}" for c in ("sharded=true", "stages.1.accumulate=1", "recompute=true")]
    # One process takes as many packs an update as two together.
    alone = write_run(tmp_path / "alone")
    go(alone, "stages.0.accumulate=2")
    succeed(launch("timeviper", "train", path, *changes, "--device", "cpu", ranks=2), seconds=120)
    found = [load_model(p.parent / "out/instruct/model", device="cpu") for p in (path, alone)]
    for (name, a), b in zip(found[0].named_parameters(), found[1].parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-4), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("stages=[]", "different names"),
        ("stages.1.name=align", "different names"),
        ("stages.0.train=[]", "to name parts that train"),
        ("stages.0.steps=0", "above zero"),
        ("stages.0.learning_rate=0", "rates above zero"),
        ("stages.0.learning=1", "unknown key 'learning'"),
    ],
)
def test_configs_that_make_no_sense_are_refused(change: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        config_of(write_run(tmp_path), change)


@pytest.mark.parametrize(
    "change", ["stages.0.muon=true", 'questions=[{"video":"a","question":"b"}]']
)
def test_what_sharding_cannot_do_is_refused(change: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        config_of(write_run(tmp_path), "sharded=true", change)


def test_configs_are_json_both_ways(tmp_path: Path) -> None:
    config = config_of(write_run(tmp_path))
    assert from_dict(TrainConfig, to_dict(config)) == config
    assert stage_folder(config, tmp_path, config.stages[1]) == tmp_path / "out" / "instruct"


def test_a_frame_behind_a_question_is_refused_where_parameters_are_split() -> None:
    kinds = [SpanKind.VISION, SpanKind.INSTRUCTION, SpanKind.ANSWER, SpanKind.VISION]
    layout = TokenLayout.of(*[(kind, 2) for kind in kinds])

    class Inputs:
        pass

    inputs = Inputs()
    inputs.layout = layout
    lesson = Lesson(torch.nn.Identity(), sharded=True)
    with pytest.raises(LayoutError, match="behind the question of sample 0"):
        lesson(inputs)
