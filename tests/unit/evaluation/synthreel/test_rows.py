"""Answers on disk: written once, read after any end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.evaluation.synthreel.bench import row
from timeviper.core.errors import RequestError
from timeviper.evaluation.synthreel.rows import Form, append_rows, mend, read_rows

ROWS = [row("when-64-d050-0", value=0.25, right=False), row(form=Form.CHOICE, rotation=2)]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_rows(path, ROWS[:1])
    append_rows(path, ROWS[1:])
    assert read_rows([path]) == ROWS
    assert len(path.read_text().splitlines()) == 2


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_half_a_last_line_is_left_out_and_cut_off(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl"
    append_rows(path, ROWS)
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: min(first + cut, len(whole) - 1)])
    assert read_rows([path]) == ROWS[:1]
    mend(path)
    assert path.read_bytes() == whole[:first]
    append_rows(path, ROWS[1:])
    assert path.read_bytes() == whole


def test_mending_what_is_whole_or_missing_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    mend(path)
    assert not path.exists()
    append_rows(path, ROWS)
    before = path.read_bytes()
    mend(path)
    assert path.read_bytes() == before


def test_the_last_of_two_answers_counts(tmp_path: Path) -> None:
    one, two = tmp_path / "1.jsonl", tmp_path / "2.jsonl"
    append_rows(one, [row(right=False)])
    append_rows(two, [row(right=True), row(form=Form.CHOICE, rotation=1)])
    found = read_rows([one, two])
    assert [(r.form, r.right) for r in found] == [(Form.FREE, True), (Form.CHOICE, True)]


@pytest.mark.parametrize("line", ["{broken", '{"name": "x"}', "[]", '"text"'])
def test_a_line_that_is_no_answer_is_told_with_its_place(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    append_rows(path, ROWS)
    with path.open("a") as handle:
        handle.write(line + "\n")
    with pytest.raises(RequestError, match=r"a\.jsonl:3"):
        read_rows([path])


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="answers so far are kept"):
        append_rows(tmp_path / "none" / "a.jsonl", ROWS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(RequestError, match="folder"):
        mend(tmp_path / "folder")
