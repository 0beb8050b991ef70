"""Count bad samples by reason, log them, and stop a run that meets too many."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any, final

from timeviper.core.log import get_logger
from timeviper.training.data.samples import DataError, SampleError

# Bad samples before a share means anything.
GRACE = 50
# So many of a kind are logged whole; later ones only when their number doubles.
_LOGGED_WHOLE = 8
_LOG = get_logger("training.data")


@final
class Tally:
    """How many samples were taken and which were bad; safe to use from several threads.

    Args:
        most_share: share of bad samples above which `bad` raises.
        grace: bad samples that are forgiven at any share.
        counts: what `counts` of an earlier tally said.
    """

    def __init__(
        self,
        *,
        most_share: float,
        grace: int = GRACE,
        counts: Mapping[str, Any] | None = None,
    ) -> None:
        self._most_share, self._grace = most_share, grace
        self._taken = int(counts["taken"]) if counts else 0
        self._bad: Counter[str] = Counter(counts["bad"] if counts else {})
        self._lock = threading.Lock()

    @property
    def counts(self) -> dict[str, Any]:
        """Samples taken, and bad ones by reason, as JSON values."""
        with self._lock:
            return {"taken": self._taken, "bad": dict(self._bad)}

    @property
    def count(self) -> int:
        """Bad samples of all reasons."""
        with self._lock:
            return self._bad.total()

    def took(self) -> None:
        """Count a sample, good or bad."""
        with self._lock:
            self._taken += 1

    def bad(self, error: SampleError) -> None:
        """Count and log a bad sample that was taken.

        Raises:
            DataError: bad samples are more than their share.
        """
        with self._lock:
            self._bad[error.reason.value] += 1
            count, bad, taken = self._bad[error.reason.value], self._bad.total(), self._taken
        if count <= _LOGGED_WHOLE or count & (count - 1) == 0:
            _LOG.warning("bad sample %d of this kind: %s", count, error)
        if bad > self._grace and bad > self._most_share * taken:
            kinds = ", ".join(f"{n:,} {reason}" for reason, n in self._bad.most_common())
            raise DataError(
                want=f"at most {self._most_share:.1%} bad samples",
                got=f"{bad:,} of {taken:,} ({kinds}; the last one: {error})",
                do="run `timeviper data check` on the files and mend them, or raise the share",
            )
