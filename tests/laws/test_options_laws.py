"""Law: no habit of picking options beats chance, whatever was learned from other questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import pytest

from timeviper.core.seeding import stream
from timeviper.evaluation.metrics import wilson
from timeviper.synth.asking import Asking, Question
from timeviper.synth.choices import normal
from timeviper.synth.questions import ask
from timeviper.synth.sample import sample_worlds
from timeviper.synth.tasks import OPEN, Task, chance

# Neither trained on nor measured with.
SEED, WORLDS = 771, 1500
# 99.9 %: each law holds for many tasks and readers, and one in a hundred would often fail.
WIDE = 3.29
TASKS = tuple(task for task in Task if task not in OPEN)


@cache
def questions() -> dict[Task, list[Question]]:
    """As an evaluation asks them, of worlds of the training distribution, which has its habits."""
    rng = stream(SEED, "blind")
    worlds = sample_worlds(rng, WORLDS, 256)
    found: dict[Task, list[Question]] = {task: [] for task in TASKS}
    for number in range(WORLDS):
        world = worlds.world(number)
        for task in TASKS:
            question = ask(world, task, rng, Asking(missing=0.0, clear=True))
            found[task] += [question] if question is not None else []
    return found


Reader = Callable[[Sequence[Question]], list[float]]


def parts(option: str) -> set[str]:
    """What an option can be known by: its words, their number, all of it."""
    words = normal(option).split()
    return {*words, str(len(words)), normal(option)}


def picked(options: Sequence[str], worth: Callable[[str], float], right: str) -> float:
    """Share of being right by picking the option of most worth, draws broken by lot."""
    worths = [worth(option) for option in options]
    best = [o for o, w in zip(options, worths, strict=True) if w == max(worths)]
    return (right in best) / len(best)


def alike(asked: Sequence[Question], sign: int = 1) -> list[float]:
    """Picks what has most in common with the other options: wrong ones are made from the right."""
    return [
        picked(
            q.options,
            lambda o, q=q: sign * sum(len(parts(o) & parts(p)) for p in q.options if p != o),
            q.choice,
        )
        for q in asked
    ]


def unlike(asked: Sequence[Question]) -> list[float]:
    """Picks what has least in common with the others."""
    return alike(asked, sign=-1)


def habit(asked: Sequence[Question]) -> list[float]:
    """Picks by what was right in the first half of the questions."""
    half = len(asked) // 2
    seen: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for question in asked[:half]:
        for option in question.options:
            seen.update(parts(option))
            right.update(parts(option) if option == question.choice else ())

    def worth(option: str) -> float:
        return max((right[part] + 2) / (seen[part] + 8) for part in parts(option))

    return [picked(q.options, worth, q.choice) for q in asked[half:]]


def place(asked: Sequence[Question]) -> list[float]:
    """Picks the first option."""
    return [float(q.options[0] == q.choice) for q in asked]


@pytest.mark.parametrize("reader", [alike, unlike, habit, place])
@pytest.mark.parametrize("task", TASKS)
def test_no_habit_of_picking_options_beats_chance(task: Task, reader: Reader) -> None:
    right = reader(questions()[task])
    assert len(right) > 80
    low, high = wilson(round(sum(right)), len(right), z=WIDE)
    assert low <= chance(task) <= high


def test_the_law_can_see_a_leak() -> None:
    given_away = [
        Question(task=q.task, question=q.question, answer=q.answer, choice=q.choice,
                 options=(q.choice, *("never mind that one." for _ in q.options[1:])))
        for q in questions()[Task.ORDERING]
    ]  # fmt: skip
    right = habit(given_away)
    assert wilson(round(sum(right)), len(right), z=WIDE)[0] > chance(Task.ORDERING)
    assert sum(place(given_away)) == len(given_away)
