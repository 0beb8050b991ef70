"""Everything that can appear in a drawn world, by number: objects, shapes, words, numbers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import resources

from timeviper.synth.objects import article, load_names

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "black", "white")
FORMS = ("circle", "square", "triangle", "ring", "cross", "hexagon")
# How a shape is filled; the first needs no word.
TEXTURES = ("", "striped")
NUMBERS = 100


class ThingKind(StrEnum):
    """What sort of thing it is."""

    OBJECT = "object"
    SHAPE = "shape"
    WORD = "word"
    NUMBER = "number"


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One thing that can be seen and named.

    Args:
        kind: its sort.
        label: what a drawing of it needs: name of an object, "red striped circle", "ember", "42".
        name: how a sentence calls it after "the": "cat", "striped red circle", "word ember".
    """

    kind: ThingKind
    label: str
    name: str

    @property
    def the(self) -> str:
        """With the definite article."""
        return f"the {self.name}"

    @property
    def one(self) -> str:
        """With the indefinite article; of a word or a number there is only one."""
        if self.kind in (ThingKind.WORD, ThingKind.NUMBER):
            return self.the
        return f"{article(self.name)} {self.name}"


@cache
def things() -> tuple[Thing, ...]:
    """All things in the order of their ids: objects, shapes, words, numbers.

    The drawing of the arrow that links two things follows them in the atlas (`arrow_id`).
    """
    made = [Thing(kind=ThingKind.OBJECT, label=n, name=n) for n in load_names()]
    for texture in TEXTURES:
        for colour in COLOURS:
            for form in FORMS:
                name = f"{texture} {colour} {form}".strip()
                made.append(Thing(kind=ThingKind.SHAPE, label=name, name=name))
    made += [Thing(kind=ThingKind.WORD, label=w, name=f"word {w}") for w in words()]
    made += [Thing(kind=ThingKind.NUMBER, label=str(n), name=f"number {n}") for n in range(NUMBERS)]
    return tuple(made)


@cache
def words() -> tuple[str, ...]:
    """Shown in capitals, written small in answers; none is part of another thing's name.

    At most six letters, so that they can be read where a frame is 96 pixels wide.
    """
    data = resources.files("timeviper.synth") / "data" / "words.txt"
    return tuple(data.read_text(encoding="utf-8").split())


@cache
def ids_of(kind: ThingKind) -> range:
    """Ids of the things of a kind, which are consecutive."""
    numbers = [i for i, thing in enumerate(things()) if thing.kind is kind]
    return range(numbers[0], numbers[-1] + 1)


def arrow_id() -> int:
    """Number of the arrow's drawing, which is no thing that is asked about."""
    return len(things())


def kind_of(thing: int) -> ThingKind:
    """Kind of a thing by its id."""
    return things()[thing].kind
