"""Several real processes learn as one, stop as one, and notice when one of them is gone."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.tolerances import TOL, close
from tests.unit.training import sailor
from tests.unit.training.crew import finish, launch, succeed
from timeviper.core.errors import ConfigError
from timeviper.training.checkpoint import read_index
from timeviper.training.distributed import Group, join

CREW = "tests.unit.training.sailor"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[sailor.Toy, list[dict]]:
    """The run of one process."""
    return sailor.sail(Group(), tmp_path_factory.mktemp("one") / "run")


def test_two_processes_learn_as_one_does(
    tmp_path: Path, whole: tuple[sailor.Toy, list[dict]]
) -> None:
    outputs = succeed(launch(CREW, "run", tmp_path / "two", ranks=2))
    model, lines = whole
    # Only rank 0 speaks.
    assert json.loads(outputs[1]) == []
    told = json.loads(outputs[0])
    assert [line["step"] for line in told] == list(range(1, sailor.STEPS + 1))
    losses = [[line["loss"] for line in run] for run in (told, lines)]
    close("losses", got=losses[0], want=losses[1], tol=TOL.training.f32)
    found = [load_file(tmp_path / f"two.rank{rank}") for rank in (0, 1)]
    for name, want in model.state_dict().items():
        assert torch.equal(found[0][name], found[1][name]), name
        close(name, got=found[0][name], want=want, tol=TOL.training.f32)
    # Untouched in one process, so untouched in two: no decay, no moments.
    assert torch.equal(found[0]["never.weight"], sailor.toy().never.weight)


@pytest.mark.slow
def test_all_stop_when_rank_0_does(tmp_path: Path) -> None:
    outputs = succeed(launch(CREW, "stop", tmp_path / "run", ranks=2))
    assert [json.loads(out)["rank"] for out in outputs] == [0, 1]
    progress = read_index(tmp_path / "run" / "step-00000001")["progress"]
    assert progress == {"step": 1, "cursor": {"number": sailor.BATCHES}}


def test_a_killed_peer_is_one_clear_error_and_the_run_goes_on(
    tmp_path: Path, whole: tuple[sailor.Toy, list[dict]]
) -> None:
    began = time.monotonic()
    # Rank 1 dies while it builds its last batch of the fourth step.
    crew = launch(CREW, "run", tmp_path / "run", ranks=2, extra={"DIE_AT": "15"})
    (code, _, words), (killed, _, _) = finish(crew)
    assert killed < 0
    assert code == 3, words
    assert "expected all 2 processes of the run to answer rank 0" in words
    assert "goes on from its last checkpoint" in words
    assert time.monotonic() - began < 45
    outputs = succeed(launch(CREW, "run", tmp_path / "run", ranks=2))
    again = json.loads(outputs[0])
    # The step that was cut off, and at most the two whose checkpoints were not whole.
    assert 2 <= again[0]["step"] <= 4
    want = {line["step"]: line["loss"] for line in whole[1]}
    for line in again:
        close("loss", got=line["loss"], want=want[line["step"]], tol=TOL.training.f32)
    found = load_file(tmp_path / "run.rank1")
    for name, value in whole[0].state_dict().items():
        close(name, got=found[name], want=value, tol=TOL.training.f32)


def test_without_torchrun_a_process_is_alone() -> None:
    group = join("cpu", environment={})
    assert (group.rank, group.ranks, group.main) == (0, 1, True)
    assert group.total([2.0, 3.0]) == [2.0, 3.0]
    group.barrier()
    group.leave()


def test_one_process_of_torchrun_needs_no_others() -> None:
    names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    assert join("cpu", environment=names).main


def test_half_of_torchruns_variables_are_refused() -> None:
    with pytest.raises(ConfigError, match="got RANK; start with torchrun"):
        join("cpu", environment={"RANK": "0"})


def test_errors_of_the_work_itself_pass_unchanged() -> None:
    with pytest.raises(RuntimeError, match="gloo") as caught, Group().watching():
        raise RuntimeError("gloo has nothing to do with it: one process")
    assert type(caught.value) is RuntimeError


def test_a_step_without_weight_leaves_no_gradient() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.zeros(2)
    assert Group().sum_gradients([weight], weight=0.0) == 0
    assert weight.grad is None


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_killed_peer_is_noticed_beside_a_gpu(tmp_path: Path) -> None:
    crew = launch(
        CREW, "run", tmp_path / "run", ranks=2, extra={"CREW_DEVICE": "cuda", "DIE_AT": "15"}
    )
    (code, _, words), (killed, _, _) = finish(crew, seconds=120)
    assert killed < 0
    assert code == 3, words
