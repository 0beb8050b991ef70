"""Bytes in words."""

from __future__ import annotations


def size(count: int) -> str:
    """Bytes in words: `142.3 MB`, powers of 1000.

    Args:
        count: a number of bytes.

    Returns:
        One decimal and the unit.
    """
    amount, units = float(count), ["B", "kB", "MB", "GB"]
    while amount >= 1000 and len(units) > 1:
        amount /= 1000
        units.pop(0)
    return f"{amount:.1f} {units[0]}" if units[0] != "B" else f"{count} B"
