"""What is loaded is what was saved, by any number of processes; what is damaged is refused."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from timeviper.core.errors import CheckpointError
from timeviper.training.average import Average
from timeviper.training.checkpoint import Checkpoints, Learner, load_weights, whole_steps
from timeviper.training.distributed import Group
from timeviper.training.optimizer import OptimizerConfig, build_optimizers

CONFIG = OptimizerConfig(steps=10, warmup=1)


class Toy(nn.Module):
    """Matrices for Muon, others for AdamW, a scalar, a buffer, and a frozen part."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(6, width), nn.Linear(width, 4)
        self.alpha = nn.Parameter(torch.zeros(()))
        self.count = nn.Buffer(torch.zeros(3))
        self.frozen = nn.Linear(3, 3).requires_grad_(requires_grad=False)


def learner(seed: int = 0, *, steps: int = 0, **fields) -> Learner:
    """A toy after some updates by gradients of chance."""
    torch.manual_seed(seed)
    model = Toy(**fields)
    found = Learner(
        model=model, optimizers=build_optimizers(model, CONFIG), average=Average(model, 0.9)
    )
    for step in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter) if parameter.requires_grad else None
        for optimizer in found.optimizers:
            optimizer.step()
        model.count += 1
        found.average.update([p for p in model.parameters() if p.requires_grad], step=step + 1)
    return found


def checkpoints(folder: Path, **fields) -> Checkpoints:
    return Checkpoints(folder, Group(), **fields)


def save(folder: Path, what: Learner, step: int, **fields) -> None:
    one = checkpoints(folder, **fields)
    one.start(what, {"step": step, "cursor": {"number": 7 * step}})
    one.settle(wait=True)


def everything(what: Learner) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in (what.weights() | what.moments() | what.means()).items()}


def assert_same(got: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert got.keys() == want.keys()
    for name in want:
        assert torch.equal(got[name], want[name]), name


def test_all_that_learns_comes_back(tmp_path: Path) -> None:
    old = learner(steps=3)
    want = everything(old)
    assert len([n for n in want if n.startswith("moment.")]) > 10
    save(tmp_path, old, 3)
    after = torch.rand(4)
    new = learner(1)
    assert checkpoints(tmp_path).load(new) == {"step": 3, "cursor": {"number": 21}}
    assert_same(everything(new), want)
    # Chance goes on where it was, too.
    assert torch.equal(torch.rand(4), after)
    # Frozen weights are not kept, so they are not touched.
    assert not torch.equal(new.model.frozen.weight, old.model.frozen.weight)


def test_steps_after_the_start_of_a_save_are_not_in_it(tmp_path: Path) -> None:
    old = learner(steps=2)
    want = everything(old)
    one = checkpoints(tmp_path)
    one.start(old, {"step": 2})
    for tensor in everything(old) and (old.weights() | old.moments() | old.means()).values():
        tensor.zero_()
    one.settle(wait=True)
    new = learner(1)
    checkpoints(tmp_path).load(new)
    assert_same(everything(new), want)


def test_only_the_last_few_stay(tmp_path: Path) -> None:
    what = learner(steps=1)
    for step in range(1, 6):
        save(tmp_path, what, step, keep=3)
    assert whole_steps(tmp_path) == [3, 4, 5]
    assert len(list(tmp_path.iterdir())) == 3


def test_pieces_of_a_killed_run_are_never_read_and_swept_away(tmp_path: Path) -> None:
    save(tmp_path, learner(steps=1), 3)
    draft, gone = tmp_path / "step-00000009.writing", tmp_path / "step-00000002"
    for piece in (draft, gone):
        shutil.copytree(tmp_path / "step-00000003", piece)
    # What is being removed loses its index first.
    (gone / "checkpoint.json").unlink()
    assert whole_steps(tmp_path) == [3]
    assert checkpoints(tmp_path).load(learner())["step"] == 3
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000003"]


def test_an_empty_folder_has_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert checkpoints(tmp_path / "new").load(learner()) is None


def test_another_model_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    save(tmp_path, learner(steps=1), 1)
    other = learner(width=5)
    before = everything(other)
    with pytest.raises(CheckpointError, match=r"other shapes \['mean\.head\.weight \[4, 6\]'"):
        checkpoints(tmp_path).load(other)
    assert_same(everything(other), before)


def test_another_run_is_refused_by_what_differs(tmp_path: Path) -> None:
    save(tmp_path, learner(), 1, identity={"model": {"layers": 3, "at": (1, 2)}, "seed": 5})
    same = checkpoints(tmp_path, identity={"model": {"layers": 3, "at": (1, 2)}, "seed": 5})
    assert same.load(learner())
    other = checkpoints(tmp_path, identity={"model": {"layers": 4, "at": (1, 2)}, "seed": 5})
    with pytest.raises(CheckpointError, match=r"got model.layers 3 there, 4 now; set them back"):
        other.load(learner())


@pytest.mark.parametrize("name", ["rank-00000.safetensors", "rank-00000.json"])
@pytest.mark.parametrize("how", ["cut", "changed", "missing"])
def test_a_damaged_file_is_refused_with_the_way_out(name: str, how: str, tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, learner(steps=step), step)
    path = tmp_path / "step-00000002" / name
    data = bytearray(path.read_bytes())
    path.unlink()
    if how != "missing":
        data[-9] ^= 1
        path.write_bytes(data if how == "changed" else data[:-9])
    with pytest.raises(CheckpointError, match="remove that folder"):
        checkpoints(tmp_path).load(learner())
    shutil.rmtree(tmp_path / "step-00000002")
    assert checkpoints(tmp_path).load(learner())["step"] == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}'])
def test_an_index_of_another_kind_is_refused(text: str, tmp_path: Path) -> None:
    save(tmp_path, learner(), 1)
    (tmp_path / "step-00000001" / "checkpoint.json").write_text(text)
    with pytest.raises(CheckpointError, match="a training checkpoint of format 1"):
        checkpoints(tmp_path).load(learner())


def test_an_index_that_points_elsewhere_is_refused(tmp_path: Path) -> None:
    save(tmp_path, learner(), 1)
    path = tmp_path / "step-00000001" / "checkpoint.json"
    path.write_text(path.read_text().replace("rank-00000.safetensors", "../../other.safetensors"))
    with pytest.raises(CheckpointError, match="a file outside of it"):
        checkpoints(tmp_path).load(learner())


@contextmanager
def small_disk(size: int) -> Iterator[None]:
    """Files of this process cannot grow beyond `size` bytes: writing fails as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, old)


@pytest.mark.parametrize(("before", "after"), [(10, 10), (5000, 5000), (100_000, 100)])
def test_a_full_disk_is_told_and_the_last_checkpoint_stays(
    before: int, after: int, tmp_path: Path
) -> None:
    what = learner(steps=1)
    save(tmp_path, what, 1)
    one = checkpoints(tmp_path)
    # Room for nothing, for half of the tensors, and for all of them but not for the index.
    with small_disk(before):
        one.start(what, {"step": 2})
        one._pending[0].written.exception(timeout=20)
    with small_disk(after), pytest.raises(CheckpointError, match="room and permission to write"):
        one.settle(wait=True)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    # Once there is room again, saving works again.
    save(tmp_path, what, 2)
    assert whole_steps(tmp_path) == [1, 2]


def test_no_file_is_a_pickle(tmp_path: Path) -> None:
    save(tmp_path, learner(steps=1), 1)
    names = {p.name for p in (tmp_path / "step-00000001").iterdir()}
    assert names == {"checkpoint.json", "rank-00000.json", "rank-00000.safetensors"}
    index = json.loads((tmp_path / "step-00000001" / "checkpoint.json").read_text())
    assert index["tensors"]["model.alpha"]["shape"] == []


def test_weights_alone_are_read_for_export(tmp_path: Path) -> None:
    old = learner(steps=4)
    save(tmp_path, old, 4)
    model, mean = Toy(), Toy()
    assert load_weights(tmp_path, model) == load_weights(tmp_path, mean, mean=True) == 4
    assert torch.equal(model.head.weight, old.model.head.weight)
    assert torch.equal(mean.head.weight, old.average.tensors["head.weight"])
    assert not torch.equal(mean.head.weight, model.head.weight)


def test_weights_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="got none; train first"):
        load_weights(tmp_path, Toy())
    save(tmp_path, Learner(model=Toy()), 1)
    with pytest.raises(CheckpointError, match="train with an average"):
        load_weights(tmp_path, Toy(), mean=True)
