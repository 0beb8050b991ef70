"""Questions about cards: what stands with a number, which word, where the arrows lead."""

from __future__ import annotations

import numpy as np

from timeviper.synth.asking import Asking, Draft, listed, often, others, subject, the
from timeviper.synth.casting import MAX_HOPS
from timeviper.synth.catalogue import ThingKind, kind_of, things
from timeviper.synth.world import Event, World


def retrieval(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """What stands with the only number that is shown on a card."""
    cards = _tagged(world)
    return _behind(world, cards, cards[0], rng) if len(cards) == 1 else None


def multi_key(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """What stands with one of several numbers."""
    cards = _tagged(world)
    tags = [c.partner for c in cards]
    clear = [c for c in cards if tags.count(c.partner) == 1]
    if len(cards) < 2 or not clear:
        return None
    chosen = subject([c.thing for c in clear], rng, how)
    card = next(c for c in clear if c.thing == chosen)
    return _behind(world, cards, card, rng)


def multi_value(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """All that stands with a number that is shown more than once."""
    cards = _tagged(world)
    tags = [c.partner for c in cards if c.partner is not None]
    shared = sorted({t for t in tags if tags.count(t) > 1})
    if not shared:
        return None
    own = [c for c in cards if how.about is not None and c.shows(how.about)]
    number = own[0].partner if own and own[0].partner in shared else int(rng.choice(shared))
    if number is None:
        return None
    found = [c.thing for c in cards if c.partner == number]
    return Draft(
        answer=listed([things()[i].the for i in found]), words={"the": things()[number].the}
    )


def reading(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """Which word or number is shown with a thing."""
    cards = [e for e in world.events if _text(e) and len(world.times_of(e.thing)) == 1]
    thing = subject([c.thing for c in cards], rng, how)
    if thing is None:
        return None
    card = next(c for c in cards if c.thing == thing)
    if card.partner is None:
        return None
    kind = kind_of(card.partner)
    near = [i for i in world.things if kind_of(i) is kind]
    return Draft(
        answer=the(card.partner),
        wrong=[the(i) for i in others(world, rng, card.partner, near)],
        words={"kind": kind.value, "the": things()[thing].the},
        span=(card.start, card.end),
    )


def chain(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """Where one ends who follows the arrows."""
    links = {e.thing: e.partner for e in world.events if e.points and e.partner is not None}
    paths = [p for i in links for p in _paths(i, links) if len(p) > (2 if how.clear else 1)]
    if not paths:
        return None
    # Every number of hops as often as another, though short paths are more.
    hops = sorted({len(p) for p in paths})
    wanted = hops[int(rng.integers(len(hops)))]
    fitting = [p for p in paths if len(p) == wanted]
    path = fitting[int(rng.integers(len(fitting)))]
    near = [i for i in {*links, *links.values()} if i not in (path[0], path[-1])]
    return Draft(
        answer=f"{', '.join(things()[i].the for i in path[1:])}.",
        wrong=[the(i) for i in others(world, rng, path[-1], sorted(near))],
        words={"the": things()[path[0]].the, "hops": often(len(path) - 1)},
        choice=the(path[-1]),
    )


def _paths(first: int, links: dict[int, int]) -> list[tuple[int, ...]]:
    """The path from a thing, cut after each of its hops."""
    path = [first]
    while path[-1] in links and len(path) <= MAX_HOPS:
        path.append(links[path[-1]])
    return [tuple(path[:n]) for n in range(2, len(path) + 1)]


def _tagged(world: World) -> list[Event]:
    return [
        e for e in world.events if e.partner is not None and kind_of(e.partner) is ThingKind.NUMBER
    ]


def _text(event: Event) -> bool:
    return event.partner is not None and kind_of(event.partner) in (
        ThingKind.NUMBER,
        ThingKind.WORD,
    )


def _behind(
    world: World, cards: list[Event], card: Event, rng: np.random.Generator
) -> Draft | None:
    if card.partner is None:
        return None
    figures = (ThingKind.OBJECT, ThingKind.SHAPE)
    near = [c.thing for c in cards] if len(cards) > 3 else list(world.things)
    near = [i for i in near if kind_of(i) in figures]
    return Draft(
        answer=the(card.thing),
        wrong=[the(i) for i in others(world, rng, card.thing, near)],
        words={"the": things()[card.partner].the},
        span=(card.start, card.end),
    )
