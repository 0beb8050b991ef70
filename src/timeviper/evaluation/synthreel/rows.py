"""Answers of a benchmark as JSON lines: written once each, read back after any kind of end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from timeviper.core.config import from_dict, to_dict
from timeviper.core.errors import ConfigError, RequestError


class Form(StrEnum):
    """How a question is put."""

    # In its own words; the answer is free.
    FREE = "free"
    # With its options behind it, once in each rotation.
    CHOICE = "choice"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One answer.

    Args:
        name: of the question, unique in a grid.
        task: what was asked.
        frames: length of the film in seconds.
        depth: where the moment lies, 0 to 1; None where there is none.
        form: free or multiple choice.
        rotation: by how much the options were turned; 0 for free answers.
        options: how many options the question has; 0 for none.
        question: the words that were put.
        want: the exact answer.
        got: the words that came back.
        right: whether they are right.
        value: 0 to 1; overlap over union for `when`, F1 for captions and summaries.
        precision: of a caption's events; None for other tasks.
        recall: of a caption's events.
        order: share of pairs of a caption's events that are told in the right order.
        looked: frames that the model was shown.
        seconds: time of the answer, the reading of the video apart.
    """

    name: str
    task: str
    frames: int
    depth: float | None
    form: Form
    rotation: int
    options: int
    question: str
    want: str
    got: str
    right: bool
    value: float
    looked: int
    seconds: float
    precision: float | None = None
    recall: float | None = None
    order: float | None = None

    @property
    def key(self) -> tuple[str, str, int]:
        """What is asked once only."""
        return (self.name, self.form.value, self.rotation)


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    """Add answers to a file with one write.

    Raises:
        RequestError: the file cannot be written.
    """
    text = "".join(json.dumps(to_dict(row), ensure_ascii=False) + "\n" for row in rows)
    try:
        with path.open("a", encoding="utf-8") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        raise _unwritable(path, error) from None


def mend(path: Path) -> None:
    """Cut half a last line off, which a killed process may leave, before more is added.

    Raises:
        RequestError: the file cannot be written.
    """
    try:
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.truncate(path, whole)
    except OSError as error:
        raise _unwritable(path, error) from None


def read_rows(paths: Iterable[Path]) -> list[Row]:
    """Answers of some files; of one question answered twice the last one counts.

    Args:
        paths: files that are there; half a last line is left out.

    Raises:
        RequestError: a line that is no answer, with its place.
    """
    found: dict[tuple[str, str, int], Row] = {}
    for path in paths:
        text = path.read_bytes()
        whole = text[: text.rfind(b"\n") + 1].decode("utf-8", errors="replace")
        for number, line in enumerate(whole.splitlines(), 1):
            row = _row(line, f"{path}:{number}")
            found[row.key] = row
    return list(found.values())


def _row(line: str, where: str) -> Row:
    try:
        return from_dict(Row, json.loads(line))
    except (json.JSONDecodeError, ConfigError) as error:
        raise RequestError(
            want=f"an answer as a JSON line at {where}",
            got=error,
            do="remove that line, or give another --out folder",
        ) from None


def _unwritable(path: Path, error: OSError) -> RequestError:
    return RequestError(
        want=f"room and permission to write {path}",
        got=error.strerror or error,
        do="free some space or give another --out folder; answers so far are kept",
    )
