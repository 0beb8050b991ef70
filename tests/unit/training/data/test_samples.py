"""Errors of samples say where, what kind, and the three parts of every message."""

from __future__ import annotations

from timeviper.core.errors import MediaError, TimeviperError
from timeviper.processing.messages import ImagePart, Message, TextPart, VideoPart
from timeviper.training.data.samples import Origin, Reason, Sample, SampleError


def test_an_error_says_everything():
    error = SampleError(Reason.MARKS, Origin("a b.jsonl", 12), want="one", got="two", do="mend")
    assert isinstance(error, TimeviperError)
    assert str(error) == "a b.jsonl:12: marks and media differ: expected one; got two; mend"


def test_another_rooms_error_keeps_its_parts():
    found = SampleError.of(
        MediaError(want="w", got="g", do="d"), Reason.UNREADABLE, Origin("s.tar", "x/1")
    )
    assert (found.want, found.got, found.do) == ("w", "g", "d")
    assert str(found).startswith("s.tar:x/1: unreadable media: ")


def test_media_are_told_in_order():
    parts = (TextPart("a"), VideoPart(source="v"), TextPart("b"), ImagePart(source="i"))
    turns = (Message(role="user", parts=parts), Message(role="assistant", parts=(TextPart("c"),)))
    sample = Sample(turns=turns, origin=Origin("a", 1), form="messages")
    assert sample.media == (VideoPart(source="v"), ImagePart(source="i"))
    assert sample.error(Reason.RANGE, want="w", got="g", do="d").origin == Origin("a", 1)
