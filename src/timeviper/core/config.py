"""Strict frozen dataclasses to and from JSON values: an unknown key or a wrong type is an error."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, Union, cast

from timeviper.core.errors import ConfigError

T = TypeVar("T")


def from_dict(cls: type[T], data: Mapping[str, Any], *, where: str = "") -> T:
    """Build a config dataclass from plain JSON values.

    Args:
        cls: a dataclass type; nested dataclasses, tuples, enums, unions with None are followed.
        data: mapping of field names to JSON values.
        where: path of this mapping inside the file, for messages.

    Returns:
        An instance of `cls`; its own `__post_init__` checks the meaning.

    Raises:
        ConfigError: on an unknown key, a missing key or a value of a wrong type.
    """
    name = where or cls.__name__
    if not isinstance(data, Mapping):
        raise _wrong(name, "an object", data)
    fields = {f.name: f for f in dataclasses.fields(cast(Any, cls)) if f.init}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ConfigError(
            want=f"keys of {name}: {', '.join(fields)}",
            got=f"unknown key {', '.join(map(repr, unknown))}",
            do="remove the key or correct its spelling",
        )
    missing = sorted(k for k, f in fields.items() if _required(f) and k not in data)
    if missing:
        raise ConfigError(
            want=f"{name} to have {', '.join(missing)}",
            got=f"keys {', '.join(sorted(data)) or 'none'}",
            do="add the missing keys",
        )
    hints = typing.get_type_hints(cls)
    return cls(**{k: _value(hints[k], v, f"{name}.{k}") for k, v in data.items()})


def to_dict(config: Any) -> dict[str, Any]:
    """Turn a config dataclass into plain JSON values; `from_dict` reads them back unchanged."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init}


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_dict(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in cast("tuple[Any, ...]", value)]
    if isinstance(value, float) and value == float("inf"):
        return "inf"
    return value


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return _union(hint, value, where)
    if origin is tuple:
        return _tuple(hint, value, where)
    if origin is typing.Literal:
        return _literal(typing.get_args(hint), value, where)
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise _wrong(where, "an object", value)
        return from_dict(cast("type[Any]", hint), cast("Mapping[str, Any]", value), where=where)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint(_literal(tuple(m.value for m in hint), value, where))
    return _scalar(hint, value, where)


def _union(hint: Any, value: Any, where: str) -> Any:
    options = [a for a in typing.get_args(hint) if a is not type(None)]
    if value is None and len(options) < len(typing.get_args(hint)):
        return None
    return _value(options[0], value, where)


def _tuple(hint: Any, value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(where, "a list", value)
    items = list(cast("list[Any]", value))
    args = typing.get_args(hint)
    if len(args) == 2 and args[1] is Ellipsis:
        args = (args[0],) * len(items)
    if len(args) != len(items):
        raise _wrong(where, f"{len(args)} values", value)
    return tuple(
        _value(a, v, f"{where}[{i}]") for i, (a, v) in enumerate(zip(args, items, strict=True))
    )


def _literal(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value not in options:
        raise _wrong(where, "one of " + ", ".join(map(str, options)), value)
    return value


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and value == "inf":
        return float("inf")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any:
        return value
    if hint is int and isinstance(value, bool):
        raise _wrong(where, "an integer", value)
    if not isinstance(value, hint):
        raise _wrong(where, f"a value of type {getattr(hint, '__name__', hint)}", value)
    return value


def _wrong(where: str, want: str, value: Any) -> ConfigError:
    return ConfigError(want=f"{where} to be {want}", got=repr(value), do="correct the value")
