"""Scores and how sure they are; pure arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Share:
    """A share of right answers with its Wilson 95 % interval.

    Args:
        right: right answers.
        total: answers.
    """

    right: int
    total: int

    @property
    def value(self) -> float:
        """Right over total; NaN when nothing was asked."""
        return self.right / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson score interval at 95 %."""
        return wilson(self.right, self.total)

    def __add__(self, other: Share) -> Share:
        """Both together."""
        return Share(right=self.right + other.right, total=self.total + other.total)

    def to_dict(self) -> dict[str, float | int | list[float]]:
        """JSON values."""
        low, high = self.interval
        return {
            "right": self.right,
            "total": self.total,
            "value": round(self.value, 4),
            "interval": [round(low, 4), round(high, 4)],
        }


def wilson(right: int, total: int, *, z: float = 1.959964) -> tuple[float, float]:
    """Wilson score interval of a share.

    Args:
        right: successes.
        total: trials.
        z: normal quantile; 1.96 gives 95 %.

    Returns:
        Lower and upper bound, within 0 and 1; (0, 1) without trials.

    Source: Wilson 1927.
    """
    if total == 0:
        return 0.0, 1.0
    share, spread = right / total, z * z / total
    centre = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / (4 * total)) / (1 + spread)
    return max(0.0, centre - half), min(1.0, centre + half)
