"""One holder at a time, and none after a crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from timeviper.core.errors import CancelledError
from timeviper.inference.files import locks as module
from timeviper.inference.files.locks import locked, still_there, try_lock


def test_one_holder_at_a_time(tmp_path):
    path, inside, most = tmp_path / "lock", 0, 0
    guard = threading.Lock()

    def work():
        nonlocal inside, most
        for _ in range(20):
            with locked(path):
                with guard:
                    inside += 1
                    most = max(most, inside)
                with guard:
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert not path.exists()


def test_who_waits_may_give_up(tmp_path):
    asked = []

    def waiting():
        asked.append(1)
        if len(asked) == 3:
            raise CancelledError(want="a", got="b", do="c")

    with (
        locked(tmp_path / "lock"),
        pytest.raises(CancelledError),
        locked(tmp_path / "lock", waiting=waiting),
    ):
        pass
    assert len(asked) == 3
    with locked(tmp_path / "lock"):
        pass


_HOLDER = """
import sys, time
from pathlib import Path
from timeviper.inference.files.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_holds_no_more(tmp_path):
    path = tmp_path / "lock"
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(path)], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    handle = os.open(path, os.O_RDWR)
    assert not try_lock(handle)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    with locked(path):
        assert not try_lock(handle)
    assert not still_there(handle, path)
    os.close(handle)


def test_a_file_system_without_locks_is_an_error_and_no_endless_wait(tmp_path, monkeypatch):
    if sys.platform == "win32":
        pytest.skip("another call locks there")

    def refuse(handle, how):
        raise OSError(module.errno.ENOLCK, "no locks available")

    monkeypatch.setattr(module.fcntl, "flock", refuse)
    with pytest.raises(OSError, match="no locks"), locked(tmp_path / "lock"):
        pass
