"""Configs to JSON and back; every wrong key and value is named with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import pytest

from timeviper.core.config import from_dict, to_dict
from timeviper.core.errors import ConfigError


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, kw_only=True)
class Inner:
    size: int
    limit: tuple[float, float] = (0.0, float("inf"))

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ConfigError(want="a size of 1 or more", got=self.size, do="correct it")


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner
    several: tuple[Inner, ...] = ()
    colour: Colour = Colour.RED
    mode: Literal["fast", "slow"] = "fast"
    rate: float | None = None
    on: bool = False
    extra: Any = None
    total: int = field(default=0, init=False)


FULL = Outer(
    name="x",
    inner=Inner(size=1, limit=(0.5, 2.0)),
    several=(Inner(size=2), Inner(size=3)),
    colour=Colour.BLUE,
    mode="slow",
    rate=0.25,
    on=True,
    extra=[1, "a"],
)


@pytest.mark.parametrize("config", [FULL, Outer(name="y", inner=Inner(size=1))])
def test_json_and_back(config: Outer) -> None:
    # allow_nan=False: an infinite limit must survive strict JSON.
    text = json.dumps(to_dict(config), allow_nan=False)
    assert from_dict(Outer, json.loads(text)) == config


def test_defaults_fill_in_and_integers_are_floats_where_asked() -> None:
    config = from_dict(Outer, {"name": "x", "inner": {"size": 1}, "rate": 2})
    assert config.several == ()
    assert config.rate == 2.0
    assert isinstance(config.rate, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nam": 1}, "unknown key 'nam'"),
        ({"total": 1}, "unknown key 'total'"),
        ({"inner": {"size": 1, "sise": 2}}, "keys of Outer.inner: size, limit; got unknown key"),
        ({"inner": {}}, "Outer.inner to have size"),
        ({"inner": 3}, "Outer.inner to be an object; got 3"),
        ({"inner": {"size": "1"}}, "Outer.inner.size to be a value of type int; got '1'"),
        ({"inner": {"size": True}}, "Outer.inner.size to be an integer; got True"),
        ({"inner": {"size": 1.0}}, "Outer.inner.size to be a value of type int"),
        ({"inner": {"size": 0}}, "a size of 1 or more; got 0"),
        ({"inner": {"size": 1, "limit": [0.0]}}, "Outer.inner.limit to be 2 values"),
        ({"inner": {"size": 1, "limit": [0, "big"]}}, r"Outer.inner.limit\[1\]"),
        ({"several": {"size": 1}}, "Outer.several to be a list"),
        ({"several": [{"size": 1}, {"size": None}]}, r"Outer.several\[1\].size"),
        ({"colour": "green"}, "Outer.colour to be one of red, blue; got 'green'"),
        ({"colour": ["red"]}, "one of red, blue"),
        ({"mode": "medium"}, "one of fast, slow"),
        ({"rate": "0.5"}, "Outer.rate to be a value of type float"),
        ({"rate": True}, "Outer.rate to be a value of type float"),
        ({"on": 1}, "Outer.on to be a value of type bool; got 1"),
        ({"name": None}, "Outer.name to be a value of type str; got None"),
    ],
)
def test_each_mistake_is_named_with_its_place(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"name": "x", "inner": {"size": 1}}
    assert from_dict(Outer, good)
    with pytest.raises(ConfigError, match=message):
        from_dict(Outer, good | change)


def test_missing_keys_are_listed() -> None:
    with pytest.raises(ConfigError, match="Outer to have inner, name; got keys none"):
        from_dict(Outer, {})
    with pytest.raises(ConfigError, match=r"config\.json to have inner"):
        from_dict(Outer, {"name": "x"}, where="config.json")


@pytest.mark.parametrize("data", [[], 3, None, "text"])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(ConfigError, match="Outer to be an object"):
        from_dict(Outer, data)
