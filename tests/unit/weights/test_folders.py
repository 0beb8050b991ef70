"""A folder appears whole or not at all; names and paths of models resolve without guessing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from timeviper.core.errors import CheckpointError
from timeviper.weights import folders
from timeviper.weights.folders import bundled, resolve, whole_folder

# Written before the process kills itself in the middle of a renewal.
_KILLED = """
import os, pathlib, signal, sys
from timeviper.weights.folders import whole_folder
with whole_folder(pathlib.Path(sys.argv[1])) as draft:
    (draft / "new").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_halfway(folder: Path, error: Exception) -> None:
    with whole_folder(folder) as draft:
        (draft / "a").write_text("1")
        raise error


def test_a_new_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "model"
    with whole_folder(target) as draft:
        (draft / "a").write_text("1")
        assert not target.exists()
        assert draft.parent == target.parent
    assert names(target) == ["a"]
    assert names(target.parent) == ["model"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        fail_halfway(tmp_path / "model", ZeroDivisionError())
    assert names(tmp_path) == []


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("1")
    with pytest.raises(ZeroDivisionError):
        fail_halfway(target, ZeroDivisionError())
    assert names(tmp_path) == ["model"]
    assert names(target) == ["old"]


def test_other_files_stay_and_replaced_ones_go(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (target / "sub").mkdir(parents=True)
    for name in ("keep", "go", "sub/deep"):
        (target / name).write_text(name)
    with whole_folder(target, replaced=lambda name: name == "go") as draft:
        (draft / "new").write_text("2")
    assert names(target) == ["keep", "new", "sub"]
    assert (target / "sub" / "deep").read_text() == "sub/deep"
    assert names(tmp_path) == ["model"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    with whole_folder(tmp_path / "link") as draft:
        (draft / "a").write_text("1")
    assert (tmp_path / "link").is_symlink()
    assert names(real) == ["a"]


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.write_text("mine")
    with pytest.raises(CheckpointError, match="the file"), whole_folder(target):
        pass
    assert target.read_text() == "mine"


def test_a_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No space left"):
        fail_halfway(tmp_path / "model", OSError(28, "No space left on device"))
    assert names(tmp_path) == []


def test_a_failed_swap_puts_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("1")
    rename = os.rename

    def failing(source: Path, to: Path) -> None:
        if Path(to) == target and ".old." not in str(source):
            raise OSError(5, "Input/output error")
        rename(source, to)

    monkeypatch.setattr(folders.os, "rename", failing)
    with pytest.raises(CheckpointError, match="Input/output"), whole_folder(target) as draft:
        (draft / "a").write_text("1")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["model"]


def test_a_killed_process_leaves_the_old_folder(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old").write_text("1")
    command = [sys.executable, "-c", _KILLED, str(target)]
    source = str(Path(folders.__file__).parents[2])
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": source}, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert names(target) == ["old"]


def test_a_folder_resolves_to_itself(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert resolve(tmp_path) == tmp_path
    assert resolve(str(tmp_path)) == tmp_path


def test_the_home_folder_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~") == tmp_path


@pytest.mark.parametrize("name", ["no-such-model", "", "../tiny", "~nobody/x", "x" * 300])
def test_an_unknown_name_lists_what_is_known(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(folders, "bundled", lambda: {"large": tmp_path, "small": tmp_path})
    with pytest.raises(CheckpointError, match=r"models? that ships? \(large, small\)") as caught:
        resolve(name)
    assert "folder" in caught.value.do


def test_a_folder_without_config_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json in"):
        resolve(tmp_path)


def test_a_bundled_name_wins_over_a_folder_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = tmp_path / "shipped"
    monkeypatch.setattr(folders, "bundled", lambda: {"small": shipped})
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text("{}")
    assert resolve("small") == shipped
    assert resolve("./small") == Path("small")


def test_bundled_models_are_folders_with_a_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b", "a"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "config.json").write_text("{}")
    (tmp_path / "models" / "unfinished").mkdir()
    monkeypatch.setattr(folders, "files", lambda package: tmp_path)
    assert list(bundled()) == ["a", "b"]
    assert resolve("a") == tmp_path / "models" / "a"
    monkeypatch.setattr(folders, "files", lambda package: tmp_path / "nothing")
    assert bundled() == {}
