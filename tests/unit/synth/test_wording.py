"""Names, times, counts, motions and changes are read out of anybody's words."""

from __future__ import annotations

import pytest

from tests.unit.synth.stories import thing
from timeviper.synth.ask_moments import CHANGES, MOTIONS
from timeviper.synth.catalogue import ThingKind, things
from timeviper.synth.wording import (
    changes_in,
    count_in,
    denies,
    motions_in,
    names_in,
    names_words,
    seconds_in,
)
from timeviper.synth.world import Change, Motion


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("from 00:10 to 00:15.", [10, 15]),
        ("1:02:03", [3723]),
        ("at 01:02:03.500 --> 01:02:09", [3723, 3729]),
        ("255:59", [15_359]),
        ("00:10-00:15", [10, 15]),
        ("[00:10]", [10]),
        ("75 seconds", [75]),
        ("at 75s", [75]),
        ("12.5 sec", [12.5]),
        ("1 minute and 15 seconds", [75]),
        ("2m05s", [125]),
        ("from 10 to 15 seconds", [10, 15]),
        ("between 10 and 15 s", [10, 15]),
        ("10s to 15s", [10, 15]),
        ("10-15 seconds", [10, 15]),
        ("at 00:10, 3 seconds long", [10]),
        ("3 times", []),
        ("5 sheep", []),
        ("12:3", []),
        ("2024:10:10:10", []),
        ("", []),
    ],
)
def test_times_in_many_forms(text: str, want: list[float]) -> None:
    assert seconds_in(text) == want


def test_every_name_is_found_alone_and_in_a_sentence() -> None:
    for number, entry in enumerate(things()):
        for text in (entry.the, entry.one, f"Then {entry.the} appears, twice.", entry.name.upper()):
            assert names_in(text) == [number], text


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a cat, a dog and a cat", ["cat", "dog", "cat"]),
        ("two cats", ["cat"]),
        ("Fire engine!", ["fire engine"]),
        ("a fire-engine", ["fire engine"]),
        ("a T shirt", ["t-shirt"]),
        ("the striped red circle", ["striped red circle"]),
        ("the red circle and the striped one", ["red circle"]),
        ("catalogue of dogmas", []),
        ("the number 42, not 7", ["number 42"]),
        ("word ember", ["word ember"]),
        ("There was an arrow early on.", []),
        ("", []),
    ],
)
def test_names_in_sentences(text: str, want: list[str]) -> None:
    assert [things()[i].name for i in names_in(text)] == want


def test_bare_words_are_names_only_where_wished() -> None:
    assert names_in("It says EMBER.") == []
    assert names_in("It says EMBER.", bare=True) == [thing("word ember")]
    assert names_in("the word ember", bare=True) == [thing("word ember")]
    assert names_words("the word ember.")
    assert not names_words("the cat.")
    assert not names_words("the number 3.")


def test_no_plural_takes_the_name_of_another_thing() -> None:
    for number, entry in enumerate(things()):
        if entry.kind is ThingKind.OBJECT:
            assert names_in(entry.name, bare=True) == [number]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("once.", 1),
        ("Twice", 2),
        ("3 times.", 3),
        ("three times", 3),
        ("The cat appears four times in all.", 4),
        ("It is shown 1 time", 1),
        ("5", 5),
        ("five", 5),
        ("The number 42 appears twice", 2),
        ("the cat does not appear.", 0),
        ("It never appears", 0),
        ("There is no cat", 0),
        ("zero times", 0),
        ("0", 0),
        ("many times", None),
        ("3 or 4", None),
        ("", None),
        ("often", None),
    ],
)
def test_counts_in_words_and_figures(text: str, want: int | None) -> None:
    assert count_in(text) == want


@pytest.mark.parametrize("motion", list(MOTIONS))
def test_the_exact_words_of_a_motion_are_its_own(motion: Motion) -> None:
    assert motions_in(MOTIONS[motion]) == {motion}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The cat moves left.", {Motion.LEFT}),
        ("leftwards", {Motion.LEFT}),
        ("It moves from the bottom upwards", {Motion.UP}),
        ("It does not move.", {Motion.STILL}),
        ("It stays stationary", {Motion.STILL}),
        ("It rotates", {Motion.TURNING}),
        ("spinning around", {Motion.TURNING}),
        ("It grows larger", {Motion.CLOSER}),
        ("towards the camera", {Motion.CLOSER}),
        ("It gets smaller", {Motion.AWAY}),
        ("It falls", {Motion.DOWN}),
        ("towards the right", {Motion.RIGHT}),
        ("up and to the left", {Motion.UP, Motion.LEFT}),
        ("a puppy", set()),
    ],
)
def test_motions_in_other_words(text: str, want: set[Motion]) -> None:
    assert motions_in(text) == want


@pytest.mark.parametrize("change", list(CHANGES))
def test_the_exact_words_of_a_change_are_its_own(change: Change) -> None:
    assert changes_in(f"{CHANGES[change]} at 00:30.") == {change}


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("It becomes gray", {Change.GREY}),
        ("The video turns black-and-white", {Change.GREY}),
        ("It gets darker", {Change.DARK}),
        ("A border appears", {Change.FRAME}),
        ("black bars", {Change.BARS}),
        ("It turns dark and a frame appears", {Change.DARK, Change.FRAME}),
        ("nothing changes.", set()),
    ],
)
def test_changes_in_other_words(text: str, want: set[Change]) -> None:
    assert changes_in(text) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("nothing.", True), ("No.", True), ("It never appears", True), ("It doesn't", True),
        ("the cat does not appear.", True), ("yes.", False), ("a knot", False), ("", False),
    ],
)  # fmt: skip
def test_denials(text: str, want: bool) -> None:
    assert denies(text) is want
