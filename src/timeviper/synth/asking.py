"""What a question is, how it is put into words, and the words that answers are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from timeviper.synth.catalogue import ThingKind, ids_of, kind_of, things
from timeviper.synth.phrases import PHRASES
from timeviper.synth.tasks import Task
from timeviper.synth.world import Event, World

# Options of a question with choices, where the task has that many.
OPTIONS = 4


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with its answer.

    Args:
        task: kind of question.
        question: the words.
        answer: the exact answer.
        options: possible answers, `choice` among them; empty where none stand for the task.
        choice: the right option.
        start_seconds: when the moment asked about begins; None where no moment answers.
        end_seconds: when it ends.
    """

    task: Task
    question: str
    answer: str
    options: tuple[str, ...] = ()
    choice: str = ""
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How to ask.

    Args:
        paraphrase: use all phrasings; otherwise the first form of each task.
        offset: seconds that the clock shows at the world's second 0.
        missing: share of `when` and `count` questions about a thing that never appears.
        clear: only questions that leave no doubt, for evaluation: `when` of things that appear
            once, moments at least a second from any change, chains of two hops or more.
        about: thing that is asked about, where the task is about one and the world allows it.
    """

    paraphrase: bool = True
    offset: int = 0
    missing: float = 0.15
    clear: bool = False
    about: int | None = None


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A question before it has words.

    Args:
        answer: the exact answer.
        wrong: other answers, the most tempting first; those equal to the right one are left out.
        words: what the phrase's places are filled with.
        choice: the right option where it is shorter than the answer.
        span: seconds of the moment asked about, on the world's own clock.
    """

    answer: str
    wrong: Sequence[str] = ()
    words: dict[str, str] = field(default_factory=dict[str, str])
    choice: str = ""
    span: tuple[int, int] | None = None


def worded(task: Task, draft: Draft, rng: np.random.Generator, how: Asking) -> Question:
    """Put a draft into words."""
    phrases = PHRASES[task.value]
    # The first form of each task is what most people type: more than a third use it.
    plain = not how.paraphrase or rng.random() < 0.3
    phrase = phrases[0] if plain else phrases[int(rng.integers(len(phrases)))]
    words = phrase.format(**draft.words)
    if how.paraphrase:
        words = _vary(words, rng)
    right = draft.choice or draft.answer
    options = [right, *(w for w in dict.fromkeys(draft.wrong) if w != right)][:OPTIONS]
    order = rng.permutation(len(options))
    span = draft.span
    return Question(
        task=task,
        question=words,
        answer=draft.answer,
        options=tuple(options[int(i)] for i in order) if len(options) > 1 else (),
        choice=right if len(options) > 1 else "",
        start_seconds=None if span is None else float(span[0] + how.offset),
        end_seconds=None if span is None else float(span[1] + how.offset),
    )


def subject(candidates: Sequence[int], rng: np.random.Generator, how: Asking) -> int | None:
    """The thing to ask about: the one wished for, or any; None where there is none."""
    if how.about is not None and how.about in candidates:
        return how.about
    return int(candidates[int(rng.integers(len(candidates)))]) if candidates else None


def once(world: World) -> list[int]:
    """Things that are shown exactly once."""
    return [i for i in world.things if len(world.times_of(i)) == 1]


def absent(world: World, rng: np.random.Generator, like: int | None = None) -> int:
    """A thing that never appears, of the kind of `like` where that is given."""
    shown = set(world.things)
    if like is None:
        kinds = (ThingKind.OBJECT, ThingKind.SHAPE, ThingKind.WORD, ThingKind.NUMBER)
        kind = kinds[int(rng.choice(4, p=(0.7, 0.1, 0.1, 0.1)))]
    else:
        kind = kind_of(like)
    ids = ids_of(kind)
    while True:
        number = int(rng.integers(ids.start, ids.stop))
        if number not in shown:
            return number


def others(world: World, rng: np.random.Generator, right: int, among: Sequence[int]) -> list[int]:
    """Three wrong things: shuffled ones of `among` first, then some that never appear."""
    near = [int(i) for i in rng.permutation(np.asarray(among, dtype=np.int64)) if i != right]
    found = near[: OPTIONS - 1]
    while len(found) < OPTIONS - 1:
        stranger = absent(world, rng, like=right)
        if stranger not in found:
            found.append(stranger)
    return found


def decoy(rng: np.random.Generator, how: Asking) -> bool:
    """Whether "does not appear" stands among the wrong options of a thing that does.

    As often as makes it right one time in `OPTIONS`, so that its presence tells nothing.
    """
    if how.missing >= 1:
        return False
    return bool(rng.random() < (OPTIONS - 1) * how.missing / (1 - how.missing))


def named(thing: int) -> dict[str, str]:
    """What a phrase about one thing is filled with."""
    entry = things()[thing]
    return {"the": entry.the, "one": entry.one, "name": entry.name}


def the(thing: int) -> str:
    """An answer that names one thing: "the cat."."""
    return f"{things()[thing].the}."


def said(event: Event) -> str:
    """An answer that tells an appearance: "a cat with the number 7."."""
    return f"{event.said}."


def listed(parts: Sequence[str]) -> str:
    """An answer that lists: "a cat, a dog and a pizza."."""
    if not parts:
        return "nothing."
    if len(parts) == 1:
        return f"{parts[0]}."
    return f"{', '.join(parts[:-1])} and {parts[-1]}."


def often(number: int) -> str:
    """How often: "once", "twice", "3 times"."""
    return {1: "once", 2: "twice"}.get(number, f"{number} times")


def never(thing: int) -> str:
    """The answer about a thing that is not shown."""
    return f"{things()[thing].the} does not appear."


def clock(seconds: int) -> str:
    """Seconds as the model reads and writes them: MM:SS, minutes past 59 too."""
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def span_text(start: int, end: int, how: Asking) -> str:
    """An answer that tells an interval."""
    return f"from {clock(start + how.offset)} to {clock(end + how.offset)}."


def _vary(words: str, rng: np.random.Generator) -> str:
    """Small things that people do to a question."""
    chance = rng.random()
    if chance < 0.08:
        return words.rstrip("?.")
    if chance < 0.16:
        return words.lower()
    if chance < 0.2:
        return words[0].lower() + words[1:].rstrip("?.")
    return words
