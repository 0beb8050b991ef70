"""TimeViper: ask questions about hours of video on one machine; heavy parts load on first use."""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from timeviper.inference.engine import Answer, AskOptions, Degrade, Engine, Limits, Watch
    from timeviper.inference.session import Session
    from timeviper.inference.state_file import load_state, save_state
    from timeviper.inference.store import Store
    from timeviper.weights.loader import load_decoder

try:
    __version__ = version("timeviper")
except PackageNotFoundError:
    # A source tree on the path without an installation has no metadata.
    __version__ = "0+unknown"

__all__ = [
    "Answer",
    "AskOptions",
    "Degrade",
    "Engine",
    "Limits",
    "Session",
    "Store",
    "Watch",
    "__version__",
    "load_decoder",
    "load_state",
    "save_state",
]

_HOMES = {
    "Answer": "timeviper.inference.engine",
    "AskOptions": "timeviper.inference.engine",
    "Degrade": "timeviper.inference.engine",
    "Engine": "timeviper.inference.engine",
    "Limits": "timeviper.inference.engine",
    "Session": "timeviper.inference.session",
    "Store": "timeviper.inference.store",
    "Watch": "timeviper.inference.engine",
    "load_decoder": "timeviper.weights.loader",
    "load_state": "timeviper.inference.state_file",
    "save_state": "timeviper.inference.state_file",
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
