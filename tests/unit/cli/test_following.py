"""What is changed so that a video fits is said on stderr before it is read."""

from __future__ import annotations

import pytest

from timeviper.cli.following import following
from timeviper.inference.watch import SILENT, Stage


def test_changes_are_told_at_once_and_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with following("reading film.mp4") as watch:
        watch.say("read in chunks of 512 tokens", "keys lie in host memory")
        said = capsys.readouterr()
        watch.tell(Stage.VIDEO, 1, 3)
    assert said.out == ""
    assert said.err == "note: read in chunks of 512 tokens\nnote: keys lie in host memory\n"
    # No terminal, no bar.
    assert capsys.readouterr() == ("", "")


def test_who_does_not_listen_is_told_nothing() -> None:
    SILENT.say("anything")
    assert SILENT.note is None
