"""Files of records: every place is known, and one bad record spoils no other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.training.data.toys import llava, write_array, write_lines
from timeviper.training.data.files import RecordFile, open_array, open_lines
from timeviper.training.data.samples import DataError, SampleError

RECORDS = [{"n": n, "words": 'a "quoted" [text], {braces} \\'} for n in range(4)]

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def data(file: RecordFile) -> list[dict]:
    return [dict(file.read(n).data) for n in range(len(file))]


@pytest.mark.parametrize("indent", [None, 0, 3])
def test_an_array_is_read_record_by_record_with_lines(tmp_path: Path, indent):
    path = tmp_path / "a.json"
    text = json.dumps(RECORDS, indent=indent)
    path.write_text("\n " + text + "\n")
    file = open_array(path, tmp_path)
    assert data(file) == RECORDS
    lines = path.read_text().splitlines()
    for number in range(len(RECORDS)):
        assert "{" in lines[file.read(number).origin.place - 1]


@given(st.lists(st.dictionaries(st.text(), _values, max_size=3), max_size=4), st.booleans())
def test_any_json_comes_back(tmp_path_factory, records, ascii_only):
    path = tmp_path_factory.mktemp("json") / "a.json"
    path.write_text(json.dumps(records, ensure_ascii=ascii_only, indent=1), encoding="utf-8")
    assert data(open_array(path, path.parent)) == records


def test_lines_are_read_one_by_one_and_empty_ones_left_out(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"n": 0}\n\n  \n{"n": 1}\r\n{"n": 2}')
    file = open_lines(path, tmp_path)
    assert data(file) == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert [file.read(n).origin.place for n in range(3)] == [1, 4, 5]
    assert str(file.read(1).origin) == f"{path}:4"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"n": 1', "delimiter at character 8, near"),
        ("[1, 2]", "a JSON object; got '\\[1, 2\\]'"),
        ('{"n": \udcff}', "utf-8"),
        ("[" * 100_000 + "]" * 100_000, "a JSON object"),
    ],
)
def test_a_malformed_line_is_told_with_its_number(tmp_path: Path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 0}\n' + line.encode("utf-8", "surrogateescape") + b'\n{"n": 2}\n')
    file = open_lines(path, tmp_path)
    assert len(file) == 3
    assert file.read(2).data == {"n": 2}
    with pytest.raises(SampleError, match=message) as caught:
        file.read(1)
    assert str(caught.value).startswith(f"{path}:2: malformed record: expected a JSON object")
    assert len(str(caught.value)) < 400


def test_a_malformed_record_of_an_array_spoils_no_other(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text('[{"n": 0},\n{"n" 1},\n{"n": 2}]')
    file = open_array(path, tmp_path)
    assert file.read(2).data == {"n": 2}
    with pytest.raises(SampleError, match=r"a\.json:2: malformed"):
        file.read(1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"n": 0}, {"n": 1', "its end within 2 open brackets"),
        ('[{"n": 0},', "its end within 1 open brackets"),
        ('[{"n": 0}] [1]', "nothing after the JSON array"),
    ],
)
def test_an_array_that_was_not_written_to_its_end_is_refused(tmp_path: Path, text, message):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        open_array(path, tmp_path)


def test_paths_start_from_the_root(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", [llava("a?", "b")])
    assert open_lines(path, tmp_path / "media").read(0).root == tmp_path / "media"
    assert data(open_array(write_array(tmp_path / "a.json", []), tmp_path)) == []
