"""What a benchmark was: grid, model, versions, machine, commands; every run checks it first."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from timeviper.core.config import from_dict, to_dict
from timeviper.core.errors import ConfigError, RequestError
from timeviper.evaluation.synthreel.films import DRAWING
from timeviper.evaluation.synthreel.grid import Grid
from timeviper.evaluation.synthreel.rows import Row

MANIFEST, SESSIONS = "manifest.json", "sessions.jsonl"
_PACKAGES = ("timeviper", "torch", "transformers", "numpy", "av")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What one folder measures: answers of two subjects never mix.

    Args:
        grid: the benchmark.
        answerer: who answers, as `Answerer.identity` tells it.
        control: what is shown.
        clips: digests of the footage.
    """

    grid: Grid
    answerer: Mapping[str, Any]
    control: str
    clips: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "grid": to_dict(self.grid),
            "answerer": dict(self.answerer),
            "control": self.control,
            "clips": list(self.clips),
            "drawing": DRAWING,
        }


def claim(out: Path, subject: Subject) -> None:
    """Take a folder for a subject, or see that it is the same one's already.

    Args:
        out: folder, which is there.
        subject: what is to be measured.

    Raises:
        RequestError: the folder holds another benchmark, or cannot be written.
    """
    path, wanted = out / MANIFEST, subject.to_dict()
    text = json.dumps({"subject": wanted}, indent=2) + "\n"
    draft = out / f".{MANIFEST}.{uuid4().hex}"
    try:
        draft.write_text(text, encoding="utf-8")
        # A link fails where the name is taken: of several shards that begin together one wins.
        os.link(draft, path)
    except FileExistsError:
        found = read_manifest(out)["subject"]
        if found != wanted:
            raise _other(out, found, wanted) from None
    except OSError as error:
        raise RequestError(
            want=f"a folder to write to at {out}",
            got=error.strerror or error,
            do="choose a folder with room that is yours",
        ) from None
    finally:
        draft.unlink(missing_ok=True)


def read_manifest(out: Path) -> dict[str, Any]:
    """The manifest of a folder.

    Raises:
        RequestError: there is none, or it cannot be read.
    """
    try:
        found = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(found, dict) or "subject" not in found:
            raise ValueError("no subject in it")
    except (OSError, ValueError) as error:
        raise RequestError(
            want=f"the manifest of a benchmark at {out / MANIFEST}",
            got=error,
            do="give the --out folder of a benchmark, or another folder to begin anew",
        ) from None
    return found


def read_grid(out: Path) -> Grid:
    """The grid of a folder.

    Raises:
        RequestError: no manifest, or one of another version.
    """
    try:
        return from_dict(Grid, read_manifest(out)["subject"]["grid"])
    except (ConfigError, KeyError, TypeError) as error:
        raise RequestError(
            want=f"a grid of this version in {out / MANIFEST}",
            got=error,
            do="run the benchmark anew into another folder",
        ) from None


def note_session(out: Path, event: str, facts: Mapping[str, Any]) -> None:
    """Add a line about the begin or the end of a run.

    Args:
        out: folder of the benchmark.
        event: `begin`, `end` or `interrupted`.
        facts: anything else, as JSON values.
    """
    line = {"event": event, "time": _now(), "pid": os.getpid(), **facts}
    with (out / SESSIONS).open("a", encoding="utf-8") as handle:
        handle.write(json.dumps(line, ensure_ascii=False) + "\n")


def machine(device: str) -> dict[str, Any]:
    """Command, versions and hardware of this process.

    Args:
        device: in words.
    """
    return {
        "command": " ".join(["timeviper", *sys.argv[1:]]),
        "versions": {name: metadata.version(name) for name in _PACKAGES}
        | {"python": platform.python_version()},
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": device,
        },
    }


def complete(out: Path, rows: list[Row]) -> None:
    """Write into the manifest what happened: sessions, and frames that were really shown.

    Args:
        out: folder of the benchmark.
        rows: all answers.
    """
    sessions: list[Any] = []
    if (out / SESSIONS).exists():
        for line in (out / SESSIONS).read_text(encoding="utf-8").splitlines():
            try:
                sessions.append(json.loads(line))
            except json.JSONDecodeError:
                # Half a line of a process that was killed.
                continue
    looked: dict[str, int] = {row.name: row.looked for row in rows}
    whole = read_manifest(out) | {
        "began": sessions[0]["time"] if sessions else None,
        "ended": sessions[-1]["time"] if sessions else None,
        "sessions": sessions,
        "answers": len(rows),
        "frames_shown": dict(sorted(looked.items())),
    }
    draft = out / f".{MANIFEST}.{uuid4().hex}"
    draft.write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(draft, out / MANIFEST)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _other(out: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> RequestError:
    flat_found, flat_wanted = _flat(found), _flat(wanted)
    differing = [
        f"{key} {flat_found.get(key)!r} instead of {value!r}"
        for key, value in flat_wanted.items()
        if flat_found.get(key) != value
    ]
    return RequestError(
        want=f"{out} to hold the same benchmark, or nothing",
        got="; ".join(differing[:3]) or "another one",
        do="repeat the earlier command to go on with it, or give another --out folder",
    )


def _flat(record: Mapping[str, Any], stem: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping):
            out |= _flat(value, f"{stem}{key}.")
        else:
            out[f"{stem}{key}"] = value
    return out
