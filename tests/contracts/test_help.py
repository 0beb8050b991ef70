"""`--help`, of the program and of each command, answers without loading torch."""

from __future__ import annotations

import json
import subprocess
import sys

_HELP_OF_ALL = """
import contextlib, io, json, sys
import typer.main
from timeviper.cli.main import app

def walk(command, words):
    yield words
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from walk(child, [*words, name])

root, seen = typer.main.get_command(app), {}
for words in walk(root, []):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        root.main([*words, "--help"], prog_name="timeviper")
    seen[" ".join(words)] = out.getvalue()
heavy = [name for name in ("torch", "transformers", "av", "safetensors") if name in sys.modules]
print(json.dumps({"help": seen, "heavy": heavy}))
"""

COMMANDS = {
    "ask",
    "bench export",
    "bench report",
    "bench synthreel",
    "demo",
    "doctor",
    "encode",
    "info",
    "inspect",
    "plan",
    "synth",
    "synth make",
    "watch",
}


def test_help_is_there_for_every_command_and_loads_nothing_heavy() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _HELP_OF_ALL], capture_output=True, text=True, timeout=60
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = json.loads(run.stdout)
    assert found["heavy"] == []
    assert set(found["help"]) >= COMMANDS
    for words, text in found["help"].items():
        assert "Usage" in text, words
        assert "--help" in text, words
