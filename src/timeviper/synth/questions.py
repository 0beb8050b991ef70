"""Questions about a world with their exact answers, asked in many ways."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from timeviper.synth.objects import article, load_names
from timeviper.synth.phrases import FILLERS, PHRASES
from timeviper.synth.world import World

# Most objects that an answer to "what" lists.
MAX_LISTED = 4


class Task(StrEnum):
    """What is asked."""

    WHAT = "what"
    WHEN = "when"
    AT_TIME = "at_time"
    FIRST = "first"
    COUNT = "count"
    ABSENT = "absent"


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question with its answer.

    Args:
        task: kind of question.
        question: the words.
        answer: the exact answer.
        options: possible answers, the right one among them, for multiple choice.
        start_seconds: when the moment asked about begins; None where no moment answers.
        end_seconds: when it ends.
    """

    task: Task
    question: str
    answer: str
    options: tuple[str, ...]
    start_seconds: float | None = None
    end_seconds: float | None = None


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How to ask.

    Args:
        paraphrase: use all phrasings; otherwise the first form of each task.
        offset: seconds that the clock shows at the world's second 0.
        missing: share of `when` and `count` questions about an object that never appears.
        clear: only questions that leave no doubt, for evaluation: `when` of objects that appear
            once, moments at least a second from any change.
    """

    paraphrase: bool = True
    offset: int = 0
    missing: float = 0.15
    clear: bool = False


def ask(
    world: World, task: Task, rng: np.random.Generator, how: Asking | None = None
) -> Question | None:
    """One question of a task about a world.

    Args:
        world: what happened.
        task: what to ask.
        rng: source of chance.
        how: phrasing and clock.

    Returns:
        The question, or None where this world cannot carry it.
    """
    return _ASK[task](world, rng, how or Asking())


def chance(task: Task) -> float:
    """Share of right answers without seeing anything, picking among the options."""
    return {Task.FIRST: 0.5, Task.ABSENT: 0.5}.get(task, 0.25)


def clock(seconds: int) -> str:
    """Seconds as the model reads and writes them: MM:SS, minutes past 59 too."""
    return f"{seconds // 60:02d}:{seconds % 60:02d}"


def texts() -> Iterator[str]:
    """Everything that questions and answers are made of, to train a tokenizer on."""
    names = load_names()
    for index, name in enumerate(names):
        for task in Task:
            for phrase in PHRASES[task]:
                other = names[(index * 7 + 3) % len(names)]
                yield phrase.format(name=name, other=other, time=clock(index * 17 % 3600))
        yield f"{article(name)} {name}."
        yield f"the {name} does not appear."
        yield f"{article(name)} {name}, the {name} and {article(name)} {name}."
    for second in range(0, 12000, 7):
        yield f"from {clock(second)} to {clock(second + 11)}."
    yield from ("once.", "twice.", "3 times.", "4 times.", "5 times.", "yes.", "no.", "nothing.")
    yield from FILLERS


def _what(world: World, rng: np.random.Generator, how: Asking) -> Question | None:
    ids = world.object_ids
    if len(ids) > MAX_LISTED:
        return None
    names = [load_names()[i] for i in ids]
    others = [_listed([_absent(world, rng) for _ in range(max(1, len(ids)))]) for _ in range(3)]
    span = (world.events[0].start, world.events[0].end) if len(world.events) == 1 else None
    return _question(Task.WHAT, rng, how, _listed(names), others, span=span)


def _when(world: World, rng: np.random.Generator, how: Asking) -> Question | None:
    ids = [i for i in world.object_ids if not how.clear or len(world.times_of(i)) == 1]
    wrong = [_span_text(*_random_span(world, rng), how) for _ in range(3)]
    if rng.random() < how.missing:
        name = _absent(world, rng)
        return _question(Task.WHEN, rng, how, _never(name), wrong, name=name)
    if not ids:
        return None
    chosen = int(rng.choice(ids))
    event = world.times_of(chosen)[0]
    answer = _span_text(event.start, event.end, how)
    span = (event.start, event.end)
    return _question(Task.WHEN, rng, how, answer, wrong, name=event.name, span=span)


def _at_time(world: World, rng: np.random.Generator, how: Asking) -> Question | None:
    margin = 1 if how.clear else 0
    if world.events and rng.random() < 0.75:
        event = world.events[int(rng.integers(len(world.events)))]
        second = int(rng.integers(event.start + margin, event.end - margin))
        answer, span = _a(event.name), (event.start, event.end)
    else:
        free = [
            s
            for s in range(world.num_frames)
            if all(world.at(s + d) is None for d in range(-margin, margin + 1))
        ]
        if not free:
            return None
        second = free[int(rng.integers(len(free)))]
        answer, span = "nothing.", None
    wrong = [_a(_absent(world, rng)) for _ in range(3)]
    return _question(Task.AT_TIME, rng, how, answer, wrong, second=second, span=span)


def _first(world: World, rng: np.random.Generator, how: Asking) -> Question | None:
    if len(world.object_ids) < 2:
        return None
    early, late = sorted(rng.choice(len(world.object_ids), size=2, replace=False))
    pair = [load_names()[world.object_ids[int(i)]] for i in (early, late)]
    swap = rng.random() < 0.5
    name, other = pair[::-1] if swap else pair
    event = world.times_of(world.object_ids[int(early)])[0]
    wrong = [f"the {pair[1]}."]
    return _question(
        Task.FIRST, rng, how, f"the {pair[0]}.", wrong, name=name, other=other,
        span=(event.start, event.end),
    )  # fmt: skip


def _count(world: World, rng: np.random.Generator, how: Asking) -> Question | None:
    if rng.random() < how.missing:
        name, times = _absent(world, rng), 0
    else:
        by_count: dict[int, list[int]] = {}
        for i in world.object_ids:
            by_count.setdefault(len(world.times_of(i)), []).append(i)
        if not by_count:
            return None
        times = int(rng.choice(sorted(by_count)))
        name = load_names()[int(rng.choice(by_count[times]))]
    right = _never(name) if times == 0 else _times(times)
    wrong = [_times(n) for n in (1, 2, 3, 4, 5) if n != times]
    wrong = [wrong[int(i)] for i in rng.permutation(len(wrong))[:3]]
    return _question(Task.COUNT, rng, how, right, wrong, name=name)


def _exists(world: World, rng: np.random.Generator, how: Asking) -> Question | None:
    present = rng.random() < 0.5
    if present and not world.events:
        return None
    if present:
        event = world.times_of(int(rng.choice(world.object_ids)))[0]
        span = (event.start, event.end)
        return _question(Task.ABSENT, rng, how, "yes.", ["no."], name=event.name, span=span)
    return _question(Task.ABSENT, rng, how, "no.", ["yes."], name=_absent(world, rng))


_ASK = {
    Task.WHAT: _what,
    Task.WHEN: _when,
    Task.AT_TIME: _at_time,
    Task.FIRST: _first,
    Task.COUNT: _count,
    Task.ABSENT: _exists,
}


def _question(  # noqa: PLR0913
    task: Task,
    rng: np.random.Generator,
    how: Asking,
    answer: str,
    wrong: list[str],
    *,
    name: str = "",
    other: str = "",
    second: int = 0,
    span: tuple[int, int] | None = None,
) -> Question:
    phrases = PHRASES[task]
    # The first form of each task is what most people type: more than a third use it.
    plain = not how.paraphrase or rng.random() < 0.3
    phrase = phrases[0] if plain else phrases[int(rng.integers(len(phrases)))]
    words = phrase.format(name=name, other=other, time=clock(second + how.offset))
    if how.paraphrase:
        words = _vary(words, rng)
    options = [answer, *(w for w in dict.fromkeys(wrong) if w != answer)]
    order = rng.permutation(len(options))
    return Question(
        task=task,
        question=words,
        answer=answer,
        options=tuple(options[int(i)] for i in order),
        start_seconds=None if span is None else float(span[0] + how.offset),
        end_seconds=None if span is None else float(span[1] + how.offset),
    )


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


def _absent(world: World, rng: np.random.Generator) -> str:
    while True:
        number = int(rng.integers(len(load_names())))
        if number not in world.object_ids:
            return load_names()[number]


def _random_span(world: World, rng: np.random.Generator) -> tuple[int, int]:
    start = int(rng.integers(0, max(1, world.num_frames - 4)))
    return start, start + int(rng.integers(3, 25))


def _span_text(start: int, end: int, how: Asking) -> str:
    return f"from {clock(start + how.offset)} to {clock(end + how.offset)}."


def _a(name: str) -> str:
    return f"{article(name)} {name}."


def _listed(names: list[str]) -> str:
    if not names:
        return "nothing."
    words = [f"{article(name)} {name}" for name in names]
    if len(words) == 1:
        return f"{words[0]}."
    return f"{', '.join(words[:-1])} and {words[-1]}."


def _times(number: int) -> str:
    return {1: "once.", 2: "twice."}.get(number, f"{number} times.")


def _never(name: str) -> str:
    return f"the {name} does not appear."
