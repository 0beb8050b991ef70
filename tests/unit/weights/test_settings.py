"""Foreign settings are read by type, and what is not supported is refused by name."""

from __future__ import annotations

import pytest

from timeviper.core.errors import ConfigError
from timeviper.weights.settings import must_be, names_in, read, read_or, section


def test_absent_and_supported_settings_pass() -> None:
    # `must_be` speaks by raising; the next test shows that it does.
    assert must_be({"a": 1, "other": 5}, {"a": (1, None), "b": (False,)}) is None


def test_every_unsupported_setting_is_listed() -> None:
    with pytest.raises(ConfigError) as caught:
        must_be({"a": 2, "b": True, "c": 1}, {"a": (1, None), "b": (False,), "c": (1,)})
    assert caught.value.want == "a = 1 or None, b = False"
    assert caught.value.got == "a = 2, b = True"


def test_the_first_present_spelling_counts() -> None:
    assert read({"new": 3, "old": 4}, int, "new", "old") == 3
    assert read({"new": None, "old": 4}, int, "new", "old") == 4
    with pytest.raises(ConfigError, match="new or old"):
        read({}, int, "new", "old")


def test_defaults_stand_for_absent_and_null() -> None:
    assert read_or({}, 7, "a") == 7
    assert read_or({"a": None}, 7, "a") == 7
    assert read_or({"a": 0}, 7, "a") == 0


@pytest.mark.parametrize(
    ("value", "kind"), [("3", int), (True, int), (3.5, int), ("x", float), (1, bool), (1, str)]
)
def test_a_wrong_type_is_refused(value: object, kind: type) -> None:
    with pytest.raises(ConfigError, match=f"a to be {kind.__name__}"):
        read({"a": value}, kind, "a")


def test_whole_numbers_are_taken_for_float() -> None:
    got = read({"a": 10000}, float, "a")
    assert isinstance(got, float)
    assert got == 10000.0


def test_sections_and_lists() -> None:
    assert section({"a": None}, "a") == {}
    assert section({"a": {"b": 1}}, "a") == {"b": 1}
    assert names_in({"a": ["x", "y"]}, "a") == ["x", "y"]
    assert names_in({}, "a") == []
    for wrong in ([1], "x", {"x": 1}):
        with pytest.raises(ConfigError):
            names_in({"a": wrong}, "a")
    with pytest.raises(ConfigError):
        section({"a": [1]}, "a")
