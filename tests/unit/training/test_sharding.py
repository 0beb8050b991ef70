"""A sharded model learns what a whole one does, in less memory, and its checkpoints are one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.tolerances import TOL, close
from tests.unit.model.toys import PLANS, one
from tests.unit.training import convoy
from tests.unit.training.crew import launch, succeed
from tests.unit.training.toys import packed_inputs, toy_model
from timeviper.core.errors import ConfigError
from timeviper.training.checkpoint import load_weights
from timeviper.training.distributed import Group
from timeviper.training.objective import packed_loss
from timeviper.training.sharding import Recomputed, own_part, recompute, shard

CONVOY = "tests.unit.training.convoy"


def losses(lines: list[dict]) -> list[float]:
    return [line["loss"] for line in lines]


def weights(folder: Path, *, mean: bool = False) -> dict[str, torch.Tensor]:
    lesson = convoy.Lesson()
    assert load_weights(folder, lesson, mean=mean) == convoy.STEPS
    return lesson.state_dict()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """The run of one process with a whole model."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    return folder, convoy.run("whole", folder, Group())


def assert_equal_runs(folder: Path, lines: list[dict], alone: tuple[Path, list[dict]]) -> None:
    for key in ("loss", "gradient_norm"):
        want = [line[key] for line in alone[1]]
        close(key, got=[line[key] for line in lines], want=want, tol=TOL.sharded.f32)
    for mean in (False, True):
        got, want = weights(folder, mean=mean), weights(alone[0], mean=mean)
        for name in want:
            tol = TOL.unlearned if name.endswith("k_proj.bias") else TOL.sharded
            close(name, got=got[name], want=want[name], tol=tol.f32)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["sharded", "sharded-recomputed"])
def test_two_shards_learn_as_one_whole_model(
    what: str, tmp_path: Path, alone: tuple[Path, list[dict]]
) -> None:
    outputs = succeed(launch(CONVOY, what, tmp_path / "run", convoy.STEPS, ranks=2))
    assert_equal_runs(tmp_path / "run", json.loads(outputs[0]), alone)


def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, alone: tuple[Path, list[dict]]
) -> None:
    folder = tmp_path / "run"
    outputs = succeed(launch(CONVOY, "sharded-recomputed", folder, 2, ranks=2))
    first = json.loads(outputs[0])
    # From two shards to one whole model, and every moment of AdamW with them.
    assert_equal_runs(folder, first + convoy.run("whole", folder, Group()), alone)


@pytest.mark.slow
def test_a_run_of_one_process_goes_on_in_shards(
    tmp_path: Path, alone: tuple[Path, list[dict]]
) -> None:
    folder = tmp_path / "run"
    first = convoy.run("whole", folder, Group(), steps=2)
    outputs = succeed(launch(CONVOY, "sharded", folder, convoy.STEPS, ranks=2))
    assert_equal_runs(folder, first + json.loads(outputs[0]), alone)


def test_recomputed_blocks_give_the_same_bits_for_less_memory() -> None:
    inputs = packed_inputs([one(2, [(1, 4)] * 5, 3, 4), one(1, [], 2, 2)])
    found = []
    for again in (False, True):
        model = toy_model(PLANS["paper"])
        if again:
            recompute(model.decoder)
            recompute(model.decoder)
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t
        ):
            loss = packed_loss(model, inputs).loss
        loss.backward()
        names = [name for name, _ in model.named_parameters()]
        found.append((loss, names, [p.grad for p in model.parameters()], sum(kept)))
    (loss, names, grads, kept), (other, others, slopes, fewer) = found
    assert torch.equal(loss, other)
    assert names == others
    for name, a, b in zip(names, grads, slopes, strict=True):
        assert a is None if b is None else torch.equal(a, b), name
    assert fewer < 0.7 * kept


def test_recomputed_blocks_are_plain_where_nothing_is_learned() -> None:
    model = toy_model(PLANS["paper"])
    inputs = packed_inputs([one(2, [(1, 4)] * 3, 3, 4)])
    with torch.no_grad():
        want = packed_loss(model, inputs).loss
        recompute(model.decoder)
        assert all(isinstance(block, Recomputed) for block in model.decoder.layers)
        assert torch.equal(packed_loss(model, inputs).loss, want)


def test_coarse_weights_are_refused() -> None:
    model = toy_model().to(torch.bfloat16)
    with pytest.raises(ConfigError, match=r"got torch\.bfloat16"):
        shard(model, model.decoder, device=torch.device("cpu"), ranks=1)


def test_a_plain_tensor_is_all_ones_own() -> None:
    tensor = torch.ones(3)
    assert own_part(tensor) is tensor
    close("same", got=own_part(tensor), want=tensor, tol=TOL.training.f64)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_learn_as_one_processor(tmp_path: Path, alone: tuple[Path, list[dict]]) -> None:
    for what in ("whole", "sharded-recomputed"):
        folder = tmp_path / what
        crew = launch(CONVOY, what, folder, convoy.STEPS, ranks=2, extra={"CREW_DEVICE": "cuda"})
        lines = json.loads(succeed(crew, seconds=120)[0])
        close(what, got=losses(lines), want=losses(alone[1]), tol=TOL.training.bf16)
