"""How long media are, remembered over processes: planning a run then opens none of them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Self, cast, final

from timeviper.training.data.samples import DataError


@final
class Durations:
    """Seconds of media by what they hold; safe to use from several threads.

    Args:
        seconds: what is known from before.
    """

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self._seconds = dict(seconds or {})

    def __len__(self) -> int:
        """Media that are known."""
        return len(self._seconds)

    def get(self, identity: str) -> float | None:
        """Seconds of a medium, None when nobody looked yet."""
        return self._seconds.get(identity)

    def put(self, identity: str, seconds: float) -> None:
        """Remember a medium."""
        self._seconds[identity] = seconds

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a file that `save` wrote.

        Raises:
            DataError: it cannot be read as one.
        """
        try:
            data: object = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise _no_durations(path, error) from None
        if not isinstance(data, dict):
            raise _no_durations(path, f"a {type(data).__name__}")
        known = cast("dict[str, object]", data)
        for name, value in known.items():
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise _no_durations(path, f"{value!r} for {name}")
        return cls(cast("dict[str, float]", known))

    def save(self, path: Path | str) -> None:
        """Write all that is known; the file appears whole or stays as it was.

        Raises:
            DataError: no room or no permission.
        """
        target = Path(path)
        part = target.with_name(f".{target.name}.part")
        try:
            part.write_text(json.dumps(dict(sorted(self._seconds.items())), indent=0))
            os.replace(part, target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise DataError(
                want=f"room and permission to write {target}",
                got=error.strerror or error,
                do="free some space or name another file",
            ) from None


def _no_durations(path: Path | str, got: object) -> DataError:
    return DataError(
        want=f"{path} as a file that `timeviper data check --durations` wrote",
        got=got,
        do="name another file, or delete it and check the data again",
    )
