"""Worlds as values: what is on screen when, how it moves, before which haystack. Draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from timeviper.synth.catalogue import ThingKind, kind_of, things

# Appearances that a world holds at most.
MAX_EVENTS = 16
# Drawings of an appearance: the thing, its partner on the same card, the arrow between them.
SLOTS = 3
# Rows and columns of the colour blobs of a background.
BLOBS = (4, 6)


class Motion(StrEnum):
    """How a thing moves while it is on screen."""

    STILL = "still"
    LEFT = "left"
    RIGHT = "right"
    UP = "up"
    DOWN = "down"
    CLOSER = "closer"
    AWAY = "away"
    TURNING = "turning"


class Change(StrEnum):
    """What happens to the whole picture at one moment, and stays."""

    NONE = "none"
    GREY = "grey"
    DARK = "dark"
    FRAME = "frame"
    BARS = "bars"


@dataclass(frozen=True, kw_only=True)
class Event:
    """One appearance: a thing, or a card of two, from `start` until before `end`, seconds.

    Args:
        thing: id in the catalogue.
        start: first second.
        end: second when it is gone.
        partner: the second thing of a card: a number or a word below, or what an arrow points to;
            None for a thing alone.
        motion: how it moves; cards are still.
    """

    thing: int
    start: int
    end: int
    partner: int | None = None
    motion: Motion = Motion.STILL

    @property
    def name(self) -> str:
        """What a sentence calls the thing after "the"."""
        return things()[self.thing].name

    @property
    def points(self) -> bool:
        """Whether the thing points to its partner by an arrow."""
        return self.partner is not None and kind_of(self.partner) in (
            ThingKind.OBJECT,
            ThingKind.SHAPE,
        )

    def shows(self, thing: int) -> bool:
        """Whether the thing is part of this appearance."""
        return thing in (self.thing, self.partner)

    @property
    def said(self) -> str:
        """In words: "a cat", "a cat with the number 7", "a cat pointing to a dog"."""
        first = things()[self.thing].one
        if self.partner is None:
            return first
        link = "pointing to" if self.points else "with"
        return f"{first} {link} {things()[self.partner].one}"


@dataclass(frozen=True, kw_only=True)
class World:
    """What can be asked about: a length in seconds and the appearances in order of time.

    Law: appearances never overlap; at least `sample.MIN_GAP` seconds lie between two.

    Args:
        num_frames: seconds.
        events: in order of time.
        change: what happens to the whole picture, if anything does.
        change_second: when.
    """

    num_frames: int
    events: tuple[Event, ...]
    change: Change = Change.NONE
    change_second: int | None = None

    def at(self, second: float) -> Event | None:
        """The appearance on screen at a moment."""
        return next((e for e in self.events if e.start <= second < e.end), None)

    def times_of(self, thing: int) -> tuple[Event, ...]:
        """All appearances that show a thing, alone or on a card."""
        return tuple(e for e in self.events if e.shows(thing))

    @property
    def things(self) -> tuple[int, ...]:
        """Distinct things in order of their first appearance, cards first thing first."""
        both = (i for e in self.events for i in (e.thing, e.partner) if i is not None)
        return tuple(dict.fromkeys(both))


@dataclass(frozen=True, kw_only=True, eq=False)
class Worlds:
    """Several worlds of one length as arrays, ready to draw.

    Args:
        num_frames: seconds of each, at one frame a second.
        thing: catalogue id of each drawing (thing, partner, arrow), shape (world, event, SLOTS),
            -1 where there is none.
        start: first second, shape (world, event); past the end where there is no event.
        end: second when it is gone, shape (world, event).
        motion: place of the motion in `Motion`, shape (world, event).
        place: centre x, y and half width, half height of each drawing in shares of the frame's
            width and height, shape (world, event, SLOTS, 4).
        move: what slot 0 does over the whole appearance: dx, dy in shares, growth (factor of size
            reached at the end), turn in radians; shape (world, event, 4).
        look: of slot 0: tilt in radians, mirrored as -1 or 1; shape (world, event, 2).
        cover: a bar that hides part of the picture: centre x at the start and at the end of the
            appearance, half width (0 for none), red, green, blue; shape (world, event, 6).
        scene_start: second when a background begins, shape (world, scene); inf where none is.
        colours: the two ends of the gradient, shape (world, scene, 2, 3), 0 to 1.
        blobs: colour blobs, shape (world, scene, 3, *BLOBS), about -0.2 to 0.2.
        texture: gradient angle, stripe amplitude, frequency, angle, pan x, pan y a second, shape
            (world, scene, 6).
        footage: clip (-1: drawn background), first frame, clip frames a second, mirrored as -1
            or 1, zoom (1 or more); shape (world, 5).
        change: place of the change in `Change` and its second (inf for none), shape (world, 2).
        grain: amplitude of the film's noise, 0 to 0.06, shape (world,).
    """

    num_frames: int
    thing: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    motion: NDArray[np.int64]
    place: NDArray[np.float32]
    move: NDArray[np.float32]
    look: NDArray[np.float32]
    cover: NDArray[np.float32]
    scene_start: NDArray[np.float32]
    colours: NDArray[np.float32]
    blobs: NDArray[np.float32]
    texture: NDArray[np.float32]
    footage: NDArray[np.float32]
    change: NDArray[np.float32]
    grain: NDArray[np.float32]

    def __len__(self) -> int:
        """Number of worlds."""
        return len(self.thing)

    def world(self, number: int) -> World:
        """What can be asked about one world."""
        ids, starts, ends = self.thing[number], self.start[number], self.end[number]
        kinds = list(Motion)
        events = [
            Event(
                thing=int(ids[e, 0]),
                start=int(starts[e]),
                end=int(ends[e]),
                partner=None if ids[e, 1] < 0 else int(ids[e, 1]),
                motion=kinds[int(self.motion[number, e])],
            )
            for e in range(len(ids))
            if ids[e, 0] >= 0
        ]
        kind, second = self.change[number]
        return World(
            num_frames=self.num_frames,
            events=tuple(events),
            change=list(Change)[int(kind)],
            change_second=int(second) if np.isfinite(second) else None,
        )

    def select(self, numbers: Sequence[int]) -> Self:
        """Some of the worlds, in that order."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "num_frames"}
        chosen = {name: array[list(numbers)] for name, array in arrays.items()}
        return type(self)(num_frames=self.num_frames, **chosen)
