"""Functions of the exported lmms-eval task; this file is copied there and needs Python alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
LETTERS = "ABCD"
_CLOCK = re.compile(r"(?<![\d:])(?:(\d+):)?(\d{1,3}):(\d{2})(?![\d:])")
_SECONDS = re.compile(
    r"(?:(\d+)\s*(?:minutes?|mins?|m)(?:\s+and)?\s*)?(\d+(?:\.\d+)?)\s*(?:seconds?|secs?|s)\b"
    r"|(\d+(?:\.\d+)?)(?=\s*(?:to|and|until|-|\u2013)\s*\d+(?:\.\d+)?\s*(?:seconds?|secs?|s)\b)"
)
# A letter in brackets, at the start, or after words that choose; an A before a word is an article.
_LETTER = r"(?:([B-D])\b|(A)\b(?!\s+\w))"
_CHOSEN = (
    re.compile(r"[(\[]([A-D])[)\]]()"),
    re.compile(rf"^\W*{_LETTER}(?![-'\u2019])"),
    re.compile(
        rf"\b(?i:answer|option|choice|letter|is|choose|chose|pick|select|say|think)\b\W*{_LETTER}"
    ),
)
Doc = Mapping[str, Any]


def doc_to_visual(doc: Doc, lmms_eval_specific_kwargs: Doc | None = None) -> list[str]:
    """Path of the film."""
    return [str(FOLDER / doc["video"])]


def doc_to_text(doc: Doc, lmms_eval_specific_kwargs: Doc | None = None) -> str:
    """The question, with its options where it has some."""
    kwargs = lmms_eval_specific_kwargs or {}
    return f"{kwargs.get('pre_prompt', '')}{doc['prompt']}{kwargs.get('post_prompt', '')}"


def doc_to_target(doc: Doc) -> str:
    """The right option with its letter, or the right interval."""
    if doc["form"] == "choice":
        return f"({LETTERS[doc['options'].index(doc['answer'])]}) {doc['answer']}"
    return doc["answer"]


def process_results(doc: Doc, results: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What one answer contributes to which metric.

    Args:
        doc: a line of questions.jsonl.
        results: the model's answer, alone in its list.

    Returns:
        Entries by metric.
    """
    text = results[0]
    name = {"name": doc["name"], "task": doc["task"], "frames": doc["frames"]}
    if doc["form"] == "choice":
        right = chosen(text, doc["options"]) == doc["options"].index(doc["answer"])
        entry = {**name, "rotation": doc["rotation"], "right": right}
        return {"synthreel_choice": entry, "synthreel_circular": entry}
    overlap = overlap_of(text, doc["start_seconds"], doc["end_seconds"])
    entry = {**name, "value": overlap}
    return {"synthreel_miou": entry, "synthreel_r1_at_05": entry}


def aggregate_choice(entries: Sequence[Doc]) -> float:
    """Share of right answers, each rotation for itself."""
    return _mean([float(entry["right"]) for entry in entries])


def aggregate_circular(entries: Sequence[Doc]) -> float:
    """Share of questions that were answered rightly under every rotation."""
    questions: dict[str, bool] = {}
    for entry in entries:
        questions[entry["name"]] = questions.get(entry["name"], True) and entry["right"]
    return _mean([float(right) for right in questions.values()])


def aggregate_miou(entries: Sequence[Doc]) -> float:
    """Mean overlap over union of intervals."""
    return _mean([entry["value"] for entry in entries])


def aggregate_r1(entries: Sequence[Doc]) -> float:
    """Share of intervals that overlap by at least half."""
    return _mean([float(entry["value"] >= 0.5) for entry in entries])


def chosen(text: str, options: Sequence[str]) -> int | None:
    """Which option an answer chose: by its letter if one is told, else by its words."""
    for pattern in _CHOSEN:
        found = ["".join(letters) for letters in pattern.findall(text)]
        place = LETTERS.index(found[-1]) if found else len(options)
        if place < len(options):
            return place
    plain = f" {_normal(text)} "
    ends: list[tuple[int, int, int]] = []
    for number, option in enumerate(options):
        words = f" {_normal(option)} "
        begin = plain.rfind(words)
        # Of two options that end together the longer one is meant.
        ends += [(begin + len(words), len(words), number)] if begin >= 0 else []
    return max(ends)[2] if ends else None


def overlap_of(text: str, start: float, end: float) -> float:
    """Overlap over union of the first two times of an answer and an interval, in seconds."""
    clocks = [
        3600.0 * int(hours or 0) + 60.0 * int(minutes) + int(seconds)
        for hours, minutes, seconds in _CLOCK.findall(text)
    ]
    told = [] if clocks else _SECONDS.findall(text.lower())
    times = clocks or [60.0 * int(m or 0) + float(s or first) for m, s, first in told]
    if len(times) < 2:
        return 0.0
    shared = min(times[1], end) - max(times[0], start)
    if shared <= 0:
        return 0.0
    return shared / (max(times[1], end) - min(times[0], start))


def _normal(text: str) -> str:
    words = re.sub(r"[^a-z0-9:]|(?<!\d):|:(?!\d)", " ", text.lower()).split()
    return " ".join(word for word in words if word not in ("a", "an", "the", "some"))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
