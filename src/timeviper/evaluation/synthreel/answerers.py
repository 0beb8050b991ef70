"""Who answers a benchmark's questions: our engine; and what it is shown: the film or less of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol, final

import torch

from timeviper.inference.engine import Answer, AskOptions, Engine
from timeviper.model.config import TransferPlan
from timeviper.model.vlm import under_plan
from timeviper.synth.asking import Question
from timeviper.video.sampling import MOST_TIMES

# What a model sees of a film a second.
FPS = 1.0
# Seconds of haystack on either side of the appearance that the oracle is shown.
ORACLE_MARGIN = 4.0
# No appearance lasts longer; a change of the picture stays, and its first seconds tell it.
_LONGEST_MOMENT = 24.0
# Answers that are written together: each holds a memory of the whole video.
BATCH = 16
_EDGE_BYTES = 1 << 20


class Control(StrEnum):
    """What of a film is shown."""

    # All of it.
    NONE = "none"
    # Nothing: whoever answers better than by chance has guessed from the words.
    BLIND = "blind"
    # Only the appearance asked about and a few seconds around it, at its true time: what remains
    # wrong is reading, not search.
    ORACLE = "oracle"


class Transfer(StrEnum):
    """What is done at the sites where a model drops vision tokens."""

    # As the checkpoint says.
    SHIPPED = "shipped"
    # Nothing is dropped.
    OFF = "off"
    # Tokens are dropped and what they held is not passed on.
    DROP = "drop"


@dataclass(frozen=True, kw_only=True)
class View:
    """What of a film is shown.

    Args:
        path: of the film; None shows nothing.
        start: first second; None is the start.
        end: second at which the view ends; None is the end.
    """

    path: Path | None
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, kw_only=True)
class Reply:
    """Words that came back, how many frames were shown, and the seconds that the answer took."""

    text: str
    looked: int
    seconds: float


class Answerer(Protocol):
    """Anything that answers questions about a film."""

    def answers(self, view: View, prompts: Sequence[str], *, max_tokens: int) -> list[Reply]:
        """Answer some questions about one view.

        Args:
            view: what is shown.
            prompts: the questions.
            max_tokens: most tokens of each answer.

        Returns:
            One reply a prompt, in order.
        """
        ...

    def identity(self) -> dict[str, Any]:
        """What is measured, as JSON values that stay the same from run to run."""
        ...


@final
class EngineAnswerer:
    """Our engine: a view is read once at one frame a second, answers are written together.

    Args:
        engine: with its model.
        folder: that the model was loaded from.
        transfer: what is done where it drops vision tokens.
        batch: answers that are written together.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        *,
        transfer: Transfer = Transfer.SHIPPED,
        batch: int = BATCH,
    ) -> None:
        self._engine = _under(engine, transfer)
        self._folder = folder
        self._transfer = transfer
        self._batch = batch

    def answers(self, view: View, prompts: Sequence[str], *, max_tokens: int) -> list[Reply]:
        """As `Answerer.answers`."""
        with torch.inference_mode():
            return [_reply(answer) for answer in self._answers(view, prompts, max_tokens)]

    def identity(self) -> dict[str, Any]:
        """Name of the model's folder and a fingerprint of its files."""
        return {
            "kind": "engine",
            "model": self._folder.name,
            "fingerprint": fingerprint(self._folder),
            "transfer": self._transfer.value,
        }

    def _answers(self, view: View, prompts: Sequence[str], max_tokens: int) -> list[Answer]:
        wording = AskOptions(max_new_tokens=max_tokens)
        pieces = [prompts[i : i + self._batch] for i in range(0, len(prompts), self._batch)]
        if view.path is None:
            talks = [[[{"role": "user", "content": p}] for p in piece] for piece in pieces]
            return [a for talk in talks for a in self._engine.generate(talk, wording)]
        look = AskOptions(fps=FPS, max_frames=MOST_TIMES, start=view.start, end=view.end)
        encoded = self._engine.encode(view.path, look)
        return [a for piece in pieces for a in self._engine.ask_many(encoded, piece, wording)]


def view_of(control: Control, film: Path, question: Question) -> View | None:
    """What is shown for a question.

    Args:
        control: which control.
        film: its file.
        question: with its moment.

    Returns:
        The view; None where the control cannot ask: the oracle needs one moment.
    """
    if control is Control.BLIND:
        return View(path=None)
    if control is Control.NONE:
        return View(path=film)
    if question.start_seconds is None or question.end_seconds is None:
        return None
    start = max(0.0, question.start_seconds - ORACLE_MARGIN)
    end = min(question.end_seconds, question.start_seconds + _LONGEST_MOMENT)
    return View(path=film, start=start, end=end + ORACLE_MARGIN)


def fingerprint(folder: Path) -> str:
    """Short digest of a checkpoint folder: small files whole, of large ones size and both ends.

    Args:
        folder: of the model.
    """
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in (".json", ".safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as handle:
            digest.update(handle.read(_EDGE_BYTES))
            if size > 2 * _EDGE_BYTES:
                handle.seek(size - _EDGE_BYTES)
            digest.update(handle.read())
    return digest.hexdigest()[:16]


def _under(engine: Engine, transfer: Transfer) -> Engine:
    """The engine with other transfers, sharing its weights."""
    if transfer is Transfer.SHIPPED:
        return engine
    sites = engine.model.decoder.config.transfer.sites
    kept = sites if transfer is Transfer.DROP else ()
    plan = TransferPlan(sites=tuple(replace(site, transfer=False) for site in kept))
    return Engine(under_plan(engine.model, plan), engine.processor)


def _reply(answer: Answer) -> Reply:
    return Reply(text=answer.text, looked=answer.frames, seconds=answer.timing.to_dict()["answer"])
