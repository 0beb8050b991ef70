"""Runs of several real processes, as torchrun starts them, over gloo on one machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(
    module: str, *words: object, ranks: int, extra: Mapping[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """Start `python -m module words` once a rank."""
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(ranks),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", module, *map(str, words)],
            cwd=REPOSITORY,
            env=os.environ | common | {"RANK": str(r), "LOCAL_RANK": str(r)} | dict(extra or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(ranks)
    ]


def finish(
    crew: Sequence[subprocess.Popen[str]], *, seconds: float = 60.0
) -> list[tuple[int, str, str]]:
    """Exit code, stdout and stderr of each; a process that hangs is ended and fails the test."""
    end, found = time.monotonic() + seconds, []
    try:
        for one in crew:
            out, err = one.communicate(timeout=max(0.1, end - time.monotonic()))
            found.append((one.returncode, out, err))
    finally:
        for one in crew:
            if one.poll() is None:
                one.kill()
                one.wait()
    return found


def succeed(crew: Sequence[subprocess.Popen[str]], *, seconds: float = 60.0) -> list[str]:
    """What each process printed; all must end well."""
    found = finish(crew, seconds=seconds)
    for code, _, err in found:
        assert code == 0, err
    return [out for _, out, _ in found]
