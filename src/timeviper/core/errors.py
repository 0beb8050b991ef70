"""Every error a user can meet: what was expected, what was got, and what to do about it."""

from __future__ import annotations


class TimeviperError(Exception):
    """Base of all errors meant for users.

    Args:
        want: what was expected, in the user's words.
        got: what was found instead.
        do: the next step that mends it.
    """

    def __init__(self, *, want: str, got: object, do: str) -> None:
        self.want = want
        self.got = str(got)
        self.do = do
        super().__init__(f"expected {want}; got {self.got}; {do}")


class ConfigError(TimeviperError):
    """A configuration, pattern or preset that does not describe a valid thing."""


class LayoutError(TimeviperError):
    """Tokens, frames and spans that do not line up."""


class MediaError(TimeviperError):
    """A video or image that cannot be read as one."""


class CheckpointError(TimeviperError):
    """A checkpoint folder with a missing, extra, misshaped or unreadable part."""


class StateFileError(TimeviperError):
    """A state file that is broken, belongs to another model, or cannot be written."""


class RequestError(TimeviperError):
    """A question, message or option that cannot be served as asked."""


class CapacityError(TimeviperError):
    """Work that does not fit the context or the memory it was given."""


class CancelledError(TimeviperError):
    """Work that stopped because its caller asked it to."""
