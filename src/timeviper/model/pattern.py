"""Read a layer pattern: one letter a layer, `M` Mamba-2, `*` attention, `-` MLP."""

from __future__ import annotations

from enum import StrEnum

from timeviper.core.errors import ConfigError


class LayerKind(StrEnum):
    """The mixer of a layer."""

    MAMBA = "M"
    ATTENTION = "*"
    MLP = "-"


def parse_pattern(pattern: str) -> tuple[LayerKind, ...]:
    """Layer kinds of a pattern such as `M-M*-`.

    Raises:
        ConfigError: an empty pattern, or a letter that is none of the three, with its position.
    """
    if not pattern:
        raise ConfigError(want="a layer pattern", got="an empty one", do="write one letter a layer")
    for position, letter in enumerate(pattern):
        if letter not in tuple(LayerKind):
            raise ConfigError(
                want="layers M (Mamba-2), * (attention) or - (MLP)",
                got=f"{letter!r} at position {position} of {pattern!r}",
                do="correct that letter",
            )
    return tuple(LayerKind(letter) for letter in pattern)
