"""What an engine may change by itself so that a video fits. A word only; loads no torch."""

from __future__ import annotations

from enum import StrEnum


class Degrade(StrEnum):
    """What may be changed when a video does not fit; each change is told."""

    # Nothing: such a video is refused.
    NO = "no"
    # What costs time only: smaller chunks, keys and values in host memory.
    SAME_ANSWERS = "same-answers"
    # Dropping of tokens as well, which the model was trained with and somebody switched off.
    ANY = "any"
