"""Compile kernels for a GPU that need not be here, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def compiled(script: str, cache: Path) -> list[dict[str, Any]]:
    """What a script that compiles kernels prints of each, one JSON object a line.

    In this process Triton interprets, and that is settled at its first import.
    """
    surroundings = {n: v for n, v in os.environ.items() if n != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={**surroundings, "TRITON_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines()]
