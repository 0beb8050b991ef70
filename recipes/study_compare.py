"""What guesses would get, and differences of variants with their intervals; plots nothing."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from recipes import study_bank
from timeviper.core.seeding import stream
from timeviper.evaluation.metrics import Share
from timeviper.synth.asking import Asking, Question
from timeviper.synth.questions import ask
from timeviper.synth.tasks import Task
from timeviper.synth.world import World

# Variant, and the one that it differs from in one thing.
PAIRS = (
    ("attention", "hybrid"),
    ("mamba", "hybrid"),
    ("uniform-0.5", "hybrid"),
    ("uniform-0.9", "hybrid"),
    ("uniform-0.95", "hybrid"),
    ("transv-0.5", "uniform-0.5"),
    ("transv-0.9", "uniform-0.9"),
    ("transv-0.95", "uniform-0.95"),
    ("attention-0.9", "uniform-0.9"),
    ("transv-attention-0.9", "attention-0.9"),
    ("tokens-8", "hybrid"),
    ("tokens-16", "hybrid"),
    ("whole-0.9", "uniform-0.9"),
    ("marks-16", "hybrid"),
    ("sentence", "hybrid"),
)
# Lengths that were trained, pooled, and the one that was not.
SPANS = ((64, 256), (1024,))


def difference(one: Share, other: Share) -> tuple[float, float, float]:
    """How much higher one share is than another, with the ends of its 95 % interval.

    Args:
        one: minuend.
        other: subtrahend; as if of other questions, though they are the same ones.

    Source: Newcombe 1998, method 10.
    """
    value = one.value - other.value
    (low, high), (least, most) = one.interval, other.interval
    below = math.hypot(one.value - low, most - other.value)
    above = math.hypot(high - one.value, other.value - least)
    return value, value - below, value + above


def differences(shares: Mapping[tuple[str, int, str], Share], tasks: Sequence[str]) -> str:
    """A markdown table of all pairs, in points; bold where the interval leaves out 0.

    Args:
        shares: by variant, frames, task; of variants that took all steps.
        tasks: columns.
    """
    lines = [
        f"| variant | against | frames | {' | '.join(tasks)} |",
        "|---" * (len(tasks) + 3) + "|",
    ]
    names = {name for name, _, _ in shares}
    for one, other in PAIRS:
        if not {one, other} <= names:
            continue
        for span in SPANS:
            parts = [
                _points(*(_pooled(shares, name, span, task) for name in (one, other)))
                for task in tasks
            ]
            length = " and ".join(f"{f:,}" for f in span)
            lines.append(f"| {one} | {other} | {length} | {' | '.join(parts)} |")
    return "\n".join(lines)


def _pooled(
    shares: Mapping[tuple[str, int, str], Share], name: str, span: Sequence[int], task: str
) -> Share:
    none = Share(right=0, total=0)
    return sum((shares.get((name, frames, task), none) for frames in span), none)


def _points(one: Share, other: Share) -> str:
    if not one.total or not other.total:
        return "-"
    value, low, high = (100 * part for part in difference(one, other))
    text = f"{round(value):+d} ({round(low):+d} to {round(high):+d})"
    return f"**{text}**" if low > 0 or high < 0 else text


def guesses(seed: int) -> list[dict[str, Any]]:
    """Shares that guesses get in the tests, by length and task, between 0 and 1.

    `constant` is the most frequent answer, given always, without a video. `among` is a guess
    among what the video shows by one who knows neither when nor which belongs to which.
    """
    found: list[dict[str, Any]] = []
    for part in study_bank.parts():
        if part.split != "test":
            continue
        answers: dict[str, Counter[str]] = defaultdict(Counter)
        among: dict[str, list[float]] = defaultdict(list)
        for world, question in asked(part, seed):
            task = question.task.value
            answers[task][question.answer] += 1
            among[task].append(_chance(world, question))
        found += [
            {
                "frames": part.frames,
                "task": task,
                "total": counts.total(),
                "constant": round(counts.most_common(1)[0][1] / counts.total(), 4),
                "among": round(sum(among[task]) / len(among[task]), 4),
            }
            for task, counts in sorted(answers.items())
        ]
    return found


def asked(part: study_bank.Part, seed: int) -> Iterator[tuple[World, Question]]:
    """The questions of a tested part as text: those that its bank holds as tokens."""
    how = Asking(paraphrase=False, offset=0, missing=0.0, clear=True)
    for chunk in study_bank.chunks(part):
        worlds = study_bank.draw_worlds(part, chunk, seed)
        for number in range(len(worlds)):
            world = worlds.world(number)
            rng = stream(seed, "ask", f"{part.name}-{chunk}", number)
            known: set[str] = set()
            for task, tries in study_bank.TASKS.items():
                for _ in range(tries):
                    question = ask(world, task, rng, how)
                    if question is not None and question.question not in known:
                        known.add(question.question)
                        yield world, question


def _chance(world: World, question: Question) -> float:
    """Of a guess among what is shown; 0 where answers are too many to guess."""
    match question.task:
        case Task.FIRST:
            return 1 / 2
        case Task.MULTI_KEY:
            return 1 / sum(event.partner is not None for event in world.events)
        case Task.AT_TIME:
            return 1 / (1 + len({event.thing for event in world.events}))
        case Task.ORDERING:
            return 1 / math.factorial(len(re.findall(r"\bthe ", question.answer)))
        case _:
            return 0.0
