"""Answers found by watching a world second by second: slow, and by none of the package's ways."""

from __future__ import annotations

import re
from collections.abc import Callable

from timeviper.synth.asking import Question
from timeviper.synth.catalogue import things
from timeviper.synth.objects import article
from timeviper.synth.tasks import Task
from timeviper.synth.world import Change, Motion, World

Runs = list[tuple[int, int]]
MOVES = {
    Motion.STILL: "it stays still.",
    Motion.LEFT: "to the left.",
    Motion.RIGHT: "to the right.",
    Motion.UP: "up.",
    Motion.DOWN: "down.",
    Motion.CLOSER: "closer.",
    Motion.AWAY: "away.",
    Motion.TURNING: "it turns.",
}
LOOKS = {
    Change.GREY: "it turns grey",
    Change.DARK: "it turns dark",
    Change.FRAME: "a frame appears",
    Change.BARS: "black bars appear",
}
OFTEN = ("", "once", "twice", *(f"{n} times" for n in range(3, 17)))


class Watched:
    """What somebody wrote down who watched the world: names on screen at each second."""

    def __init__(self, world: World, offset: int = 0) -> None:
        self.world = world
        self.offset = offset
        self.seconds: list[tuple[str, ...]] = [()] * world.num_frames
        for event in world.events:
            ids = [i for i in (event.thing, event.partner) if i is not None]
            for second in range(event.start, event.end):
                assert not self.seconds[second], "two appearances at once"
                self.seconds[second] = tuple(things()[i].name for i in ids)

    @property
    def names(self) -> list[str]:
        """Names in the order in which they were first seen."""
        return list(dict.fromkeys(name for second in self.seconds for name in second))

    def runs(self, name: str) -> Runs:
        """Stretches of seconds in which a name is seen."""
        on = [name in second for second in self.seconds]
        starts = [s for s in range(len(on)) if on[s] and (s == 0 or not on[s - 1])]
        ends = [s + 1 for s in range(len(on)) if on[s] and (s + 1 == len(on) or not on[s + 1])]
        return list(zip(starts, ends, strict=True))

    def with_(self, name: str) -> list[str]:
        """Other names that are seen together with a name, in order."""
        both = [second for second in self.seconds if name in second]
        return list(dict.fromkeys(other for second in both for other in second if other != name))

    def clock(self, second: int) -> str:
        minutes, rest = divmod(second + self.offset, 60)
        return f"{minutes:02d}:{rest:02d}"

    def second(self, clock: str) -> int:
        minutes, rest = clock.split(":")
        return 60 * int(minutes) + int(rest) - self.offset


def one(name: str) -> str:
    if name.startswith(("word ", "number ")):
        return f"the {name}"
    return f"{article(name)} {name}"


def told(names: tuple[str, ...]) -> str:
    """One appearance in words."""
    if len(names) == 1:
        return one(names[0])
    link = "with" if names[1].startswith(("word ", "number ")) else "pointing to"
    return f"{one(names[0])} {link} {one(names[1])}"


def listed(parts: list[str]) -> str:
    if len(parts) < 2:
        return f"{''.join(parts) or 'nothing'}."
    return f"{', '.join(parts[:-1])} and {parts[-1]}."


def expected(watched: Watched, question: Question) -> str:
    """The right answer to a question in its plainest words."""
    return _WAYS[question.task](watched, question.question)


def _group(pattern: str, words: str) -> str:
    found = re.fullmatch(pattern, words)
    assert found, words
    return found[1]


def _what(w: Watched, words: str) -> str:
    return listed([one(name) for name in w.names])


def _when(w: Watched, words: str) -> str:
    name = _group(r"When does the (.*) appear\?", words)
    runs = w.runs(name)
    if not runs:
        return f"the {name} does not appear."
    return f"from {w.clock(runs[0][0])} to {w.clock(runs[0][1])}."


def _at_time(w: Watched, words: str) -> str:
    seen = w.seconds[w.second(_group(r"What is on screen at (\d+:\d\d)\?", words))]
    return f"{told(seen)}." if seen else "nothing."


def _first(w: Watched, words: str) -> str:
    names = _group(r"Which appears first, the (.*)\?", words).split(" or the ")
    return f"the {min(names, key=lambda name: w.runs(name)[0])}."


def _last(w: Watched, words: str) -> str:
    names = _group(r"Which appears last, the (.*)\?", words).split(" or the ")
    return f"the {max(names, key=lambda name: w.runs(name)[-1])}."


def _ordering(w: Watched, words: str) -> str:
    names = re.split(", | and ", _group(r"In which order do (.*) appear\?", words))
    plain = [name.removeprefix("the ") for name in names]
    return listed([f"the {n}" for n in sorted(plain, key=lambda name: w.runs(name)[0])])


def _count(w: Watched, words: str) -> str:
    name = _group(r"How many times does the (.*) appear\?", words)
    times = len(w.runs(name))
    return f"{OFTEN[times]}." if times else f"the {name} does not appear."


def _most(w: Watched, words: str) -> str:
    counts = sorted(w.names, key=lambda name: len(w.runs(name)))
    assert len(counts) == 1 or len(w.runs(counts[-1])) > len(w.runs(counts[-2]))
    return f"the {counts[-1]}."


def _absent(w: Watched, words: str) -> str:
    return "yes." if w.runs(_group(r"Does the (.*) appear\?", words)) else "no."


def _single(w: Watched, words: str) -> str:
    (name,) = w.with_(_group(r"What is shown with the (.*)\?", words))
    return f"the {name}."


def _all_with(w: Watched, words: str) -> str:
    names = w.with_(_group(r"What are all the things shown with the (.*)\?", words))
    return listed([f"the {name}" for name in names])


def _reading(w: Watched, words: str) -> str:
    found = re.fullmatch(r"Which (word|number) is shown with the (.*)\?", words)
    assert found
    (name,) = w.with_(found[2])
    assert name.startswith(found[1])
    return f"the {name}."


def _chain(w: Watched, words: str) -> str:
    found = re.fullmatch(r"Start at the (.*) and follow the arrow (.*)\. Where do you end\?", words)
    assert found
    arrows = {
        second[0]: second[1]
        for second in w.seconds
        if len(second) == 2 and not second[1].startswith(("word ", "number "))
    }
    at, path = found[1], []
    for _ in range(OFTEN.index(found[2])):
        at = arrows[at]
        path.append(f"the {at}")
    return f"{', '.join(path)}."


def _motion(w: Watched, words: str) -> str:
    name = _group(r"How does the (.*) move\?", words)
    (start, _), *more = w.runs(name)
    assert not more
    (motion,) = [e.motion for e in w.world.events if e.start == start]
    return MOVES[motion]


def _change(w: Watched, words: str) -> str:
    second = w.world.change_second
    if second is None:
        return "nothing changes."
    return f"{LOOKS[w.world.change]} at {w.clock(second)}."


def _caption(w: Watched, words: str) -> str:
    edges = [s for s in range(len(w.seconds)) if w.seconds[s] and (s == 0 or not w.seconds[s - 1])]
    parts: list[str] = []
    for start in edges:
        end = start
        while end < len(w.seconds) and w.seconds[end]:
            end += 1
        parts.append(f"{w.clock(start)} to {w.clock(end)} {told(w.seconds[start])}")
    return f"{'; '.join(parts)}."


def _summary(w: Watched, words: str) -> str:
    return listed([f"the {name} {OFTEN[len(w.runs(name))]}" for name in w.names])


_WAYS: dict[Task, Callable[[Watched, str], str]] = {
    Task.WHAT: _what,
    Task.WHEN: _when,
    Task.AT_TIME: _at_time,
    Task.FIRST: _first,
    Task.LAST: _last,
    Task.ORDERING: _ordering,
    Task.COUNT: _count,
    Task.MOST_FREQUENT: _most,
    Task.ABSENT: _absent,
    Task.RETRIEVAL: _single,
    Task.MULTI_KEY: _single,
    Task.MULTI_VALUE: _all_with,
    Task.READING: _reading,
    Task.CHAIN: _chain,
    Task.MOTION: _motion,
    Task.CHANGE: _change,
    Task.DENSE_CAPTION: _caption,
    Task.SUMMARY: _summary,
}
