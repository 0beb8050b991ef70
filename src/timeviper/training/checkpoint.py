"""Everything a run needs to go on, written behind its back, whole or not at all."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer

from timeviper.core.errors import CheckpointError
from timeviper.training.average import Average
from timeviper.training.distributed import Group
from timeviper.training.storage import (
    SafetensorsReader,
    SafetensorsWriter,
    check_file,
    files_of,
    sync,
    write_json,
)

_INDEX = "checkpoint.json"
_STEP = re.compile(r"step-(\d{8})")
_FORMAT = 1


@dataclass(frozen=True, eq=False, kw_only=True)
class Learner:
    """What changes while a run learns.

    Args:
        model: its trainable parameters and its buffers are kept; frozen weights are those that
            the run started from, which is where they come from again.
        optimizers: whose moments are kept, by the names of the parameters.
        average: running mean of the weights, if there is one.
    """

    model: nn.Module
    optimizers: Sequence[Optimizer] = ()
    average: Average | None = None

    def weights(self) -> dict[str, Tensor]:
        """Trainable parameters and persistent buffers by name."""
        frozen = {n for n, p in self.model.named_parameters() if not p.requires_grad}
        state = self.model.state_dict()
        return {f"model.{n}": t.detach() for n, t in state.items() if n not in frozen}

    def moments(self) -> dict[str, Tensor]:
        """State of the optimisers, as far as they have any."""
        names = {id(p): n for n, p in self.model.named_parameters()}
        return {
            f"moment.{key}.{names[id(parameter)]}": value
            for optimizer in self.optimizers
            for parameter, state in optimizer.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }

    def means(self) -> dict[str, Tensor]:
        """The running mean by name."""
        return {f"mean.{n}": t for n, t in self.average.tensors.items()} if self.average else {}

    def allocate(self, names: Mapping[str, Any]) -> None:
        """Make room for the moments that a checkpoint holds."""
        parameters = dict(self.model.named_parameters())
        owners = {id(p): o for o in self.optimizers for g in o.param_groups for p in g["params"]}
        for name, entry in names.items():
            if not name.startswith("moment."):
                continue
            _, key, parameter_name = name.split(".", 2)
            parameter = parameters[parameter_name]
            like = parameter if entry["shape"] else _counter(owners[id(parameter)], parameter)
            owners[id(parameter)].state[parameter][key] = torch.zeros_like(like.detach())


class Checkpoints:
    """The checkpoints of one run: `folder/step-00000120`, of which the last few are kept.

    Laws: a kill at any moment, also while writing, leaves the last whole checkpoint; what is
    loaded is what was saved, also by another number of processes.

    Args:
        folder: seen by all processes.
        group: of the run.
        keep: how many stay.
        identity: JSON values that a run must share with the one that it goes on from.
    """

    def __init__(
        self,
        folder: Path,
        group: Group,
        *,
        keep: int = 2,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.group = group
        self.keep = keep
        # As JSON reads it back: tuples are lists there.
        self.identity: dict[str, Any] = json.loads(json.dumps(identity or {}))
        self._pending: tuple[SafetensorsWriter, dict[str, Any]] | None = None

    def start(self, learner: Learner, progress: Mapping[str, Any]) -> None:
        """Copy the state and begin to write it; `settle` finishes when all ranks have written.

        Args:
            learner: its tensors may change after this returns.
            progress: JSON values, at least `step`.

        Raises:
            CheckpointError: an earlier checkpoint could not be written.
        """
        self.settle(wait=True)
        draft = self.folder / (_name(progress["step"]) + ".writing")
        if self.group.main:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
        self.group.barrier()
        writer = SafetensorsWriter(draft, self.group.rank)
        state = learner.weights() | learner.moments() | learner.means()
        with warnings.catch_warnings(), self.group.watching():
            # Told for each run of one process; it is what we want.
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            save(
                state | _chances(self.group),
                storage_writer=writer,
                planner=DefaultSavePlanner(flatten_state_dict=False),
                process_group=self.group.host,
                no_dist=self.group.ranks == 1,
            )
        self._pending = (writer, dict(progress))

    def settle(self, *, wait: bool = False) -> None:
        """Give the checkpoint that is being written its name, once every rank has written.

        All ranks call this at the same steps.

        Args:
            wait: until it is so.

        Raises:
            CheckpointError: a rank could not write; the last whole checkpoint stays.
        """
        if self._pending is None:
            return
        writer, progress = self._pending
        error = writer.written.exception() if wait or writer.written.done() else None
        busy, failed = self.group.total([not writer.written.done(), error is not None])
        if failed:
            self._pending = None
            if self.group.main:
                shutil.rmtree(writer.folder, ignore_errors=True)
            raise error or CheckpointError(
                want="every process to write its part of the checkpoint",
                got=f"{failed:.0f} that could not",
                do="read the message of that process",
            )
        if not busy:
            self._pending = None
            if self.group.main:
                self._commit(writer, progress)
            if wait:
                self.group.barrier()

    def load(self, learner: Learner) -> dict[str, Any] | None:
        """Go on from the newest whole checkpoint.

        Args:
            learner: of the same parameters; overwritten.

        Returns:
            The saved progress, or None where there is no checkpoint.

        Raises:
            CheckpointError: the checkpoint is of another model or run, or it is damaged.
        """
        newest = 0
        if self.group.main:
            newest = max(whole_steps(self.folder), default=0)
            self._sweep()
        step = int(self.group.total([newest])[0])
        if step == 0:
            return None
        home = self.folder / _name(step)
        saved = read_index(home)
        _same_run(saved["identity"], self.identity, home)
        self._check_files(home, files_of(saved["tensors"]))
        _same_model(saved["tensors"], learner, home)
        learner.allocate(saved["tensors"])
        state = learner.weights() | learner.moments() | learner.means()
        chances = {k: t for k, t in _chances(self.group).items() if k in saved["tensors"]}
        read_tensors(home, saved["tensors"], state | chances, self.group)
        _restore_chance(chances, self.group)
        return saved["progress"]

    def _sweep(self) -> None:
        """Remove what a killed run had begun to write or to remove."""
        for folder in self.folder.glob("step-*"):
            if not (folder / _INDEX).exists() or not _STEP.fullmatch(folder.name):
                shutil.rmtree(folder, ignore_errors=True)

    def _check_files(self, home: Path, names: Sequence[str]) -> None:
        """Each rank looks at some files; all refuse when one does."""
        error = None
        try:
            for name in names[self.group.rank :: self.group.ranks]:
                check_file(home, name)
        except CheckpointError as found:
            error = found
        if self.group.total([error is not None])[0]:
            raise error or CheckpointError(
                want=f"a whole checkpoint in {home}",
                got="a damaged file that another process found",
                do="read the message of that process",
            )

    def _commit(self, writer: SafetensorsWriter, progress: Mapping[str, Any]) -> None:
        draft = writer.folder
        whole = draft.with_name(_name(progress["step"]))
        try:
            index = {"format": _FORMAT, "progress": progress, "identity": self.identity}
            write_json(draft / _INDEX, index | {"tensors": writer.index})
            sync(draft)
            shutil.rmtree(whole, ignore_errors=True)
            draft.rename(whole)
            sync(self.folder)
        except OSError as error:
            shutil.rmtree(draft, ignore_errors=True)
            raise CheckpointError(
                want=f"room and permission to write {draft}",
                got=error,
                do="free some space, then start the same command again",
            ) from error
        for step in whole_steps(self.folder)[: -self.keep]:
            # The index first: a folder without it is no checkpoint, however much of it is left.
            (self.folder / _name(step) / _INDEX).unlink()
            shutil.rmtree(self.folder / _name(step), ignore_errors=True)


def whole_steps(folder: Path) -> list[int]:
    """Steps of the whole checkpoints in `folder`, ascending."""
    found = [_STEP.fullmatch(p.parent.name) for p in folder.glob(f"step-*/{_INDEX}")]
    return sorted(int(match[1]) for match in found if match)


def load_weights(folder: Path, model: nn.Module, *, mean: bool = False) -> int:
    """Give a model the weights of a run's newest checkpoint, to export or to evaluate them.

    Args:
        folder: of the run.
        model: whose parameters of the same names are overwritten.
        mean: take the running mean of the weights.

    Returns:
        The step they are of.

    Raises:
        CheckpointError: no checkpoint, no such weights, or other shapes.
    """
    steps = whole_steps(folder)
    if not steps:
        raise CheckpointError(want=f"a checkpoint in {folder}", got="none", do="train first")
    home = folder / _name(steps[-1])
    index = read_index(home)["tensors"]
    kind = "mean." if mean else "model."
    state = {kind + n: t.detach() for n, t in model.state_dict().items() if kind + n in index}
    if not state:
        raise CheckpointError(
            want=f"weights of this model in {home}",
            got=f"none under {kind!r}",
            do="train with an average" if mean else "name the folder of this model's run",
        )
    for name in files_of(index):
        check_file(home, name)
    read_tensors(home, index, state, Group())
    return steps[-1]


def read_index(home: Path) -> dict[str, Any]:
    """The JSON of a checkpoint.

    Raises:
        CheckpointError: it cannot be read, or is of another format.
    """
    try:
        index = json.loads((home / _INDEX).read_text())
    except (OSError, ValueError) as error:
        index, got = {}, str(error)
    else:
        got = f"format {index.get('format')}" if isinstance(index, dict) else "no object"
    if not isinstance(index, dict) or index.get("format") != _FORMAT:
        raise CheckpointError(
            want=f"a training checkpoint of format {_FORMAT} in {home}",
            got=got,
            do="remove that folder: the run then goes on from the checkpoint before it",
        )
    return index


def read_tensors(home: Path, index: dict[str, Any], state: dict[str, Any], group: Group) -> None:
    """Fill the tensors of `state` in place from a checkpoint, each rank its own part."""
    with warnings.catch_warnings(), group.watching():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        load(
            state,
            storage_reader=SafetensorsReader(home, index),
            planner=DefaultLoadPlanner(flatten_state_dict=False),
            process_group=group.host,
            no_dist=group.ranks == 1,
        )


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _counter(optimizer: Optimizer, parameter: Tensor) -> Tensor:
    """A scalar where this optimiser counts steps: beside the weights only when it is fused."""
    fused = any(g.get("fused") for g in optimizer.param_groups)
    return torch.zeros((), device=parameter.device if fused else "cpu")


def _chances(group: Group) -> dict[str, Tensor]:
    """State of torch's own generators on this rank."""
    found = {f"chance.{group.rank}.cpu": torch.get_rng_state()}
    if group.device.type == "cuda":
        found[f"chance.{group.rank}.cuda"] = torch.cuda.get_rng_state(group.device)
    return found


def _restore_chance(chances: Mapping[str, Tensor], group: Group) -> None:
    for name, state in chances.items():
        if name.endswith(".cpu"):
            torch.set_rng_state(state)
        else:
            torch.cuda.set_rng_state(state, group.device)


def _same_run(saved: Mapping[str, Any], wanted: Mapping[str, Any], home: Path) -> None:
    old, new = _leaves(saved), _leaves(wanted)
    wrong = [k for k in sorted(old.keys() | new.keys()) if old.get(k) != new.get(k)]
    if wrong:
        listed = "; ".join(f"{k} {old.get(k)!r} there, {new.get(k)!r} now" for k in wrong[:6])
        raise CheckpointError(
            want=f"the settings of the run whose checkpoint is {home}",
            got=listed,
            do="set them back, or start in a new folder",
        )


def _leaves(value: Any, where: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {where: value}
    found: dict[str, Any] = {}
    for key, part in value.items():
        found |= _leaves(part, f"{where}.{key}" if where else str(key))
    return found


def _same_model(index: Mapping[str, Any], learner: Learner, home: Path) -> None:
    """Refuse a checkpoint of another model before anything of this one is changed."""
    want = {n: list(t.shape) for n, t in (learner.weights() | learner.means()).items()}
    found = {n: e["shape"] for n, e in index.items() if n.startswith(("model.", "mean."))}
    if found == want:
        return
    both = sorted(found.keys() & want.keys())
    shapes = [f"{name} {found[name]}" for name in both if found[name] != want[name]]
    missing, extra = sorted(want.keys() - found.keys()), sorted(found.keys() - want.keys())
    raise CheckpointError(
        want=f"a checkpoint of this model in {home}",
        got=f"missing {missing[:4]}, extra {extra[:4]}, other shapes {shapes[:4]}",
        do="start in a new folder",
    )
