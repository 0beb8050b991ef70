"""TimeViper: ask questions about hours of video on one machine; heavy parts load on first use."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timeviper.inference.engine import Answer, AskOptions, Engine, Watch
    from timeviper.weights.loader import load_decoder

try:
    __version__ = version("timeviper")
except PackageNotFoundError:
    # A source tree on the path without an installation has no metadata.
    __version__ = "0+unknown"

__all__ = ["Answer", "AskOptions", "Engine", "Watch", "__version__", "load_decoder"]

_HOMES = {
    "Answer": "timeviper.inference.engine",
    "AskOptions": "timeviper.inference.engine",
    "Engine": "timeviper.inference.engine",
    "Watch": "timeviper.inference.engine",
    "load_decoder": "timeviper.weights.loader",
}


def __getattr__(name: str) -> object:
    """Import a public name from its room when it is first asked for.

    Args:
        name: one of `__all__`.

    Returns:
        The class or function.

    Raises:
        AttributeError: the package has no such name.
    """
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'timeviper' has no attribute {name!r}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    """Public names, loaded or not."""
    return sorted(__all__)
