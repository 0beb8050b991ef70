"""The program itself: help, version, exit codes, one place for errors."""

from __future__ import annotations

import pytest

import timeviper as package
from tests.e2e.program import assert_refused, timeviper


def test_version_and_help() -> None:
    assert timeviper("--version").out.strip() == f"timeviper {package.__version__}"
    for flag in ("--help", "-h"):
        ran = timeviper(flag)
        assert ran.code == 0
        assert "doctor" in ran.out


@pytest.mark.parametrize("words", [["nope"], ["doctor", "--nope"], ["inspect"], ["synth", "nope"]])
def test_wrong_usage_is_told_on_stderr(words: list[str]) -> None:
    ran = timeviper(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert ran.err.strip()


def test_a_refusal_has_three_parts_and_no_traceback() -> None:
    assert_refused(timeviper("doctor", "--device", "abacus"), says="abacus")


def test_debug_shows_the_traceback() -> None:
    ran = timeviper("--debug", "doctor", "--device", "abacus")
    assert ran.code != 0
    assert "Traceback" in ran.err
    assert "ConfigError" in ran.err


def test_markup_in_a_name_is_shown_as_written() -> None:
    assert_refused(timeviper("doctor", "--device", "[bold]x[/nope]"), says="[bold]x[/nope]")
