"""Data sets: the table of formats, and files that cannot be used at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.training.data.toys import everything, llava, varied, write_array, write_lines
from timeviper.training.data import dataset as room
from timeviper.training.data.dataset import FORMATS, FileDataset, recognise_format
from timeviper.training.data.samples import DataError, Sample


def test_the_same_records_in_any_file_are_the_same_samples(tmp_path: Path):
    records = varied(7)
    sets = [
        FileDataset([write_lines(tmp_path / "a.jsonl", records)]),
        FileDataset([write_array(tmp_path / "a.json", records)]),
    ]
    lines, array = (everything(one) for one in sets)
    assert [one.turns for one in lines] == [one.turns for one in array]
    assert [one.kind(0) for one in sets] == ["json lines", "json array"]


def test_each_file_is_a_part_with_its_own_folder(tmp_path: Path):
    records = [llava("<image>a?", "b", image="c.png")]
    files = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        files.append(write_lines(tmp_path / name / "a.jsonl", records))
    dataset = FileDataset(files, name="both")
    assert (dataset.name, dataset.parts, dataset.length(1)) == ("both", 2, 1)
    found = [dataset.read(part, 0).media[0].source for part in range(2)]
    assert found == [str(tmp_path / name / "c.png") for name in ("one", "two")]
    rooted = FileDataset(files, media_root=tmp_path)
    assert rooted.read(1, 0).media[0].source == str(tmp_path / "c.png")


def test_the_identity_follows_the_files(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", varied(3))
    before = FileDataset([path]).identity
    assert FileDataset([path]).identity == before
    write_lines(path, varied(4))
    assert FileDataset([path]).identity != before


def test_few_indices_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(room, "_MOST_OPEN", 2)
    files = [write_lines(tmp_path / f"{n}.jsonl", varied(n + 1)) for n in range(4)]
    dataset = FileDataset(files)
    assert [dataset.length(part) for part in (0, 1, 2, 3, 0)] == [1, 2, 3, 4, 1]
    assert len(dataset._open) == 2
    assert isinstance(dataset.read(3, 0), Sample)


def test_every_format_has_a_line_and_a_name():
    assert [f.name for f in FORMATS] == ["webdataset", "json array", "json lines"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.jsonl", None, "No such file"),
        ("empty.json", b"", "an empty file"),
        ("blank.jsonl", b" \n ", "starts with"),
        ("a.csv", b"id,text\n", "starts with b'id,text"),
        ("a.json", b'"words"', "starts with"),
    ],
)
def test_a_file_that_is_no_data_is_refused(tmp_path: Path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        FileDataset([path])
    with pytest.raises(DataError, match=message):
        recognise_format(path)


def test_a_byte_order_mark_is_no_text(tmp_path: Path):
    records = [llava("a?", "b")] * 2
    for name, write in (("a.json", write_array), ("b.txt", write_lines)):
        path = write(tmp_path / name, records)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        assert all(isinstance(sample, Sample) for sample in everything(FileDataset([path])))


def test_no_files_are_refused():
    with pytest.raises(DataError, match="at least one file"):
        FileDataset([])
