"""Two-way rules between the tensor names of two layouts, as data, with a proof of coverage."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from timeviper.core.errors import CheckpointError

# {i}, {2i+1}: a layer number and its arithmetic; {i<3}, {i>=3}: only such numbers; {*}: any rest.
_HOLE = re.compile(r"\{(?:(\d*)i(?:\+(\d+))?(?:<(\d+)|>=(\d+))?|\*)\}")


@dataclass(frozen=True)
class Conversion:
    """How a tensor differs between the layouts.

    Law: each function undoes the other, and both work on tensors without memory.
    """

    to_native: Callable[[Tensor], Tensor]
    to_foreign: Callable[[Tensor], Tensor]


# A depthwise convolution's weight: (channel, 1, width) there, (channel, width) here.
DEPTHWISE = Conversion(lambda t: t.squeeze(1), lambda t: t.unsqueeze(1))


@dataclass(frozen=True)
class Rule:
    """One family of names in both layouts.

    Args:
        foreign: pattern with at most one number, such as `model.layers.{i}.mlp.up_proj.weight`.
        native: pattern of our name, such as `layers.{2i+1}.mixer.up_proj.weight`.
        conversion: what happens to the values; None when they are the same.
    """

    foreign: str
    native: str
    conversion: Conversion | None = None


@dataclass(frozen=True)
class LeftOut:
    """Foreign names that have no place here, and why."""

    foreign: str
    reason: str


@dataclass(frozen=True)
class Renamed:
    """The place of a tensor in the other layout, and how its values get there.

    Args:
        key: the new name.
        conversion: from one layout to the other, or None when the values are the same.
        inward: the new name is ours.
    """

    key: str
    conversion: Conversion | None = None
    inward: bool = True

    def convert(self, tensor: Tensor) -> Tensor:
        """Values as the new layout has them; a view where possible."""
        if self.conversion is None:
            return tensor
        return (self.conversion.to_native if self.inward else self.conversion.to_foreign)(tensor)

    def stored_shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Shape in the old layout of a tensor that has `shape` in the new one."""
        if self.conversion is None:
            return tuple(shape)
        back = self.conversion.to_foreign if self.inward else self.conversion.to_native
        return tuple(back(torch.empty(tuple(shape), device="meta")).shape)


@dataclass(frozen=True)
class KeyMap:
    """Two-way rules of one foreign layout.

    Args:
        layout: its name, for messages.
        rules: names that exist in both layouts.
        left_out: foreign names that are skipped on purpose.

    Laws: every key is claimed exactly once; foreign -> native -> foreign is the identity.
    """

    layout: str
    rules: tuple[Rule, ...]
    left_out: tuple[LeftOut, ...] = ()

    def to_native(self, keys: Iterable[str]) -> dict[str, Renamed]:
        """Our name of each foreign key that has one.

        Args:
            keys: all names of a foreign checkpoint.

        Returns:
            A place for each key that is not left out, in the order of `keys`.

        Raises:
            CheckpointError: every key that no rule or more than one rule claims.
        """
        return self._rename(keys, self._foreign, inward=True)

    def to_foreign(self, keys: Iterable[str]) -> dict[str, Renamed]:
        """The foreign name of each of our keys.

        Args:
            keys: names in one of our modules.

        Returns:
            A place for each key, in the order of `keys`.

        Raises:
            CheckpointError: every key that no rule or more than one rule claims.
        """
        return self._rename(keys, self._native, inward=False)

    def skipped(self, keys: Iterable[str]) -> dict[str, str]:
        """The reason for each foreign key that is left out."""
        listed = [(_Pattern(part.foreign), part.reason) for part in self.left_out]
        return {
            key: reason
            for key in keys
            for pattern, reason in listed
            if pattern.match(key) is not None
        }

    @cached_property
    def _foreign(self) -> list[_Line]:
        skipped = [(_Pattern(part.foreign), None, None) for part in self.left_out]
        return [*self._pairs, *skipped]

    @cached_property
    def _native(self) -> list[_Line]:
        return [(native, foreign, c) for foreign, native, c in self._pairs]

    @cached_property
    def _pairs(self) -> list[tuple[_Pattern, _Pattern, Conversion | None]]:
        return [(_Pattern(r.foreign), _Pattern(r.native), r.conversion) for r in self.rules]

    def _rename(
        self,
        keys: Iterable[str],
        table: list[_Line],
        *,
        inward: bool,
    ) -> dict[str, Renamed]:
        renamed: dict[str, Renamed] = {}
        wrong: list[str] = []
        owners: dict[str, str] = {}
        for key in keys:
            hits = [
                (number, target, conversion)
                for source, target, conversion in table
                if (number := source.match(key)) is not None
            ]
            if len(hits) != 1:
                wrong.append(f"{key} ({'several rules' if hits else 'no rule'})")
                continue
            number, target, conversion = hits[0]
            if target is None:
                continue
            place = target.write(number)
            if place in owners:
                wrong.append(f"{key} (same place as {owners[place]})")
            owners[place] = key
            renamed[key] = Renamed(place, conversion, inward)
        if wrong:
            raise self._uncovered(wrong, inward=inward)
        return renamed

    def _uncovered(self, wrong: list[str], *, inward: bool) -> CheckpointError:
        side = f"{self.layout} tensor" if inward else "tensor of ours"
        return CheckpointError(
            want=f"one rule of {self.layout} for every {side}",
            got=", ".join(wrong),
            do="use weights and config.json of the same model",
        )


class _Pattern:
    """A name with at most one hole: a layer number with its arithmetic, or any rest."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.before, self.after = text, None
        self.scale, self.offset, self.below, self.least = 1, 0, None, 0
        self.rest = False
        hole = _HOLE.search(text)
        if hole is None:
            return
        self.before, self.after = text[: hole.start()], text[hole.end() :]
        self.rest = hole.group() == "{*}"
        scale, offset, below, least = hole.groups()
        self.scale, self.offset, self.least = int(scale or 1), int(offset or 0), int(least or 0)
        self.below = None if below is None else int(below)

    def match(self, key: str) -> int | None:
        """The number in the hole (0 without one), or None when the key is another."""
        if self.after is None:
            return 0 if key == self.text else None
        if not (key.startswith(self.before) and key.endswith(self.after)):
            return None
        middle = key[len(self.before) : len(key) - len(self.after)]
        if self.rest:
            return 0
        if not (middle.isdecimal() and str(int(middle)) == middle):
            return None
        number, odd = divmod(int(middle) - self.offset, self.scale)
        inside = self.least <= number and (self.below is None or number < self.below)
        return number if inside and not odd else None

    def write(self, number: int) -> str:
        """The name with `number` in the hole."""
        if self.after is None:
            return self.text
        return f"{self.before}{self.scale * number + self.offset}{self.after}"


# A source name, its name on the other side (None when left out), and what happens to the values.
_Line = tuple[_Pattern, _Pattern | None, Conversion | None]
