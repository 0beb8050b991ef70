"""Read foreign config.json values strictly: what this package cannot do is refused by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

from timeviper.core.errors import ConfigError

T = TypeVar("T")


def must_be(data: Mapping[str, Any], settings: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse settings that would change the mathematics.

    Args:
        data: a foreign config.
        settings: for each key the values that are supported; an absent key is.

    Raises:
        ConfigError: every setting with another value.
    """
    wrong = {k: data[k] for k, allowed in settings.items() if k in data and data[k] not in allowed}
    if wrong:
        want = ", ".join(f"{k} = {' or '.join(map(repr, settings[k]))}" for k in wrong)
        raise ConfigError(
            want=want,
            got=", ".join(f"{k} = {v!r}" for k, v in wrong.items()),
            do="this kind of model is not supported; use one without that setting",
        )


def read(data: Mapping[str, Any], kind: type[T], *names: str) -> T:
    """A value that must be there.

    Args:
        data: a foreign config.
        kind: its type; whole numbers are taken for float.
        names: its spellings, the first present one counts.

    Returns:
        The value.

    Raises:
        ConfigError: no such key, or a value of another type.
    """
    present = [name for name in names if data.get(name) is not None]
    if not present:
        raise ConfigError(
            want=f"{' or '.join(names)} in config.json", got="neither", do="add the value"
        )
    return _typed(data[present[0]], kind, present[0])


def read_or(data: Mapping[str, Any], default: T, *names: str) -> T:
    """A value that may be absent or null, of the type of `default`; see `read`."""
    present = [name for name in names if data.get(name) is not None]
    return _typed(data[present[0]], type(default), present[0]) if present else default


def section(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A nested object that may be absent or null, which means an empty one; see `read`."""
    return _typed(data.get(name) or {}, dict, name)


def names_in(data: Mapping[str, Any], *names: str) -> list[str]:
    """A list of words that may be absent or null, which means an empty one; see `read`."""
    words = read_or(data, cast("list[Any]", []), *names)
    return [_typed(word, str, names[0]) for word in words]


def _typed(value: Any, kind: type[T], name: str) -> T:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ConfigError(
            want=f"{name} to be {kind.__name__}", got=repr(value), do="correct config.json"
        )
    return value
