"""A file is there whole or not at all, and the rubbish of killed writers goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from timeviper.core.errors import StateFileError
from timeviper.inference.files import whole_file as module
from timeviper.inference.files.whole_file import free_bytes, sweep_drafts, whole_file


def _names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_it_appears_at_the_end_and_not_before(tmp_path):
    path = tmp_path / "new" / "a.bin"
    with whole_file(path) as file:
        file.write(b"hello")
        assert not path.exists()
    assert path.read_bytes() == b"hello"
    assert _names(path.parent) == ["a.bin"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_room_is_taken_at_once_and_what_is_left_over_given_back(tmp_path):
    path = tmp_path / "a.bin"
    with whole_file(path, room=1_000_000) as file:
        if sys.platform == "linux":
            assert os.fstat(file.fileno()).st_size == 1_000_000
        file.write(b"hello")
    assert path.read_bytes() == b"hello"


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there_before(tmp_path, error):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def work():
        with whole_file(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        work()
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["a.bin"]


def test_more_room_than_there_is_is_refused_before_anything_is_done(tmp_path):
    entered = False
    with (
        pytest.raises(StateFileError, match="free of"),
        whole_file(tmp_path / "a.bin", room=free_bytes(tmp_path) + 10**12),
    ):
        entered = True
    assert not entered
    assert _names(tmp_path) == []


def test_a_folder_and_a_place_that_takes_no_file_are_refused(tmp_path):
    with pytest.raises(StateFileError, match="the folder"), whole_file(tmp_path):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(StateFileError, match="permission"), whole_file(tmp_path / "file" / "a"):
        pass
    with pytest.raises(StateFileError, match="permission"), whole_file(tmp_path / ("n" * 300)):
        pass


def test_errors_of_the_work_in_between_stay_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError), whole_file(tmp_path / "a.bin"):
        (tmp_path / "none").open()
    assert _names(tmp_path) == []


_LIMITED = """
import resource, sys
from pathlib import Path
from timeviper.core.errors import StateFileError
from timeviper.inference.files.whole_file import whole_file
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with whole_file(Path(sys.argv[1]), room=int(sys.argv[2])) as file:
        for _ in range(200):
            file.write(b"x" * 1000)
except StateFileError as error:
    print(error)
"""


@pytest.mark.parametrize("room", [0, 150_000])
def test_a_disk_that_fills_leaves_nothing_half(tmp_path, room):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    command = [sys.executable, "-c", _LIMITED, str(path), str(room)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "File too large" in ran.stdout, ran.stderr
    assert "free some space" in ran.stdout
    assert path.read_bytes() == b"old"
    assert _names(tmp_path) == ["a.bin"]


_KILLED = """
import os, signal, sys
from pathlib import Path
from timeviper.inference.files.whole_file import whole_file
with whole_file(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_swept_and_a_living_one_is_not(tmp_path):
    path = tmp_path / "a.bin"
    ran = subprocess.run([sys.executable, "-c", _KILLED, str(path)], timeout=60)
    assert ran.returncode == -signal.SIGKILL
    assert [name for name in _names(tmp_path) if name.endswith(".part")], "nothing to sweep"
    with whole_file(path) as outer:
        assert len(_names(tmp_path)) == 1
        outer.write(b"outer")
        with whole_file(path) as inner:
            inner.write(b"inner")
            sweep_drafts(tmp_path)
            assert len(_names(tmp_path)) == 2
        assert path.read_bytes() == b"inner"
    assert path.read_bytes() == b"outer"
    assert _names(tmp_path) == ["a.bin"]


def test_other_files_are_never_swept(tmp_path):
    for name in ("film.part", ".hidden", ".b.bin.x.part", "a.bin"):
        (tmp_path / name).touch()
    sweep_drafts(tmp_path, "a.bin")
    assert len(_names(tmp_path)) == 4
    sweep_drafts(tmp_path)
    assert _names(tmp_path) == [".hidden", "a.bin", "film.part"]
    sweep_drafts(tmp_path / "none")


def test_free_bytes_of_a_folder_that_is_to_be_made(tmp_path):
    assert free_bytes(tmp_path / "a" / "b") == pytest.approx(free_bytes(tmp_path), rel=0.5)


def test_file_systems_that_set_no_room_aside_do_without(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(module.errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with whole_file(tmp_path / "a.bin", room=1000) as file:
        file.write(b"x")
    assert (tmp_path / "a.bin").read_bytes() == b"x"


def test_where_nobody_can_lock_files_are_written_all_the_same(tmp_path, monkeypatch):
    def refuse(handle):
        raise OSError(module.errno.ENOLCK, "no locks available")

    monkeypatch.setattr(module, "try_lock", refuse)
    (tmp_path / ".a.bin.x.part").touch()
    with whole_file(tmp_path / "a.bin") as file:
        file.write(b"x")
    # Whether its writer lives cannot be told.
    assert _names(tmp_path) == [".a.bin.x.part", "a.bin"]
