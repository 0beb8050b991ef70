"""One logger for the package; silent unless the application asks."""

from __future__ import annotations

import logging


def get_logger(name: str) -> logging.Logger:
    """Logger `timeviper.NAME`; handlers belong to the application."""
    logger = logging.getLogger("timeviper")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    return logger.getChild(name)
