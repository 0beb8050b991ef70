"""Durations: written whole, read strictly, and enough to plan a run without opening a medium."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

from tests.toy_engine import toy_processor
from tests.unit.training.data.toys import BUDGET, llava, mixture, reader, write_lines, write_tar
from timeviper.training.data.check import check
from timeviper.training.data.dataset import FileDataset
from timeviper.training.data.durations import Durations
from timeviper.training.data.packed import PackedSource, PackingConfig
from timeviper.training.data.reading import ReadingConfig, SampleReader
from timeviper.training.data.samples import DataError


def knowing(path: Path) -> SampleReader:
    return SampleReader(toy_processor(), ReadingConfig(budget=BUDGET), Durations.load(path))


def test_a_checked_run_is_planned_without_opening_a_medium(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    want = list(islice(PackedSource(mixture(media, 12), reader()).plan(), 5))
    made = reader()
    for dataset in mixture(media, 12).datasets:
        assert isinstance(dataset, FileDataset)
        check([dataset], made)
    made.durations.save(tmp_path / "known.json")
    later = knowing(tmp_path / "known.json")
    monkeypatch.setattr(SampleReader, "_opened", None)
    planned = PackedSource(mixture(media, 12), later, PackingConfig())
    assert list(islice(planned.plan(), 5)) == want


def test_members_of_shards_are_known_too(media: Path, tmp_path: Path, monkeypatch):
    record = b'{"messages": [{"role": "user", "content": "<video>a?"}, '
    record += b'{"role": "assistant", "content": "b"}]}'
    shard = write_tar(
        tmp_path / "s.tar", {"1.json": record, "1.mp4": (media / "a.mp4").read_bytes()}
    )
    made = reader()
    assert check([FileDataset([shard])], made).good == 1
    made.durations.save(tmp_path / "known.json")
    later = knowing(tmp_path / "known.json")
    monkeypatch.setattr(SampleReader, "_opened", None)
    sample = FileDataset([shard]).read(0, 0)
    assert len(later.measure(sample).tokens) == len(made.measure(sample).tokens)


def test_a_file_that_changed_is_measured_anew(media: Path, tmp_path: Path):
    (tmp_path / "v.mp4").write_bytes((media / "a.mp4").read_bytes())
    dataset = FileDataset(
        [write_lines(tmp_path / "a.jsonl", [llava("<video>a?", "b", video="v.mp4")])]
    )
    made = reader()
    short = made.measure(dataset.read(0, 0))
    (tmp_path / "v.mp4").write_bytes((media / "b.mp4").read_bytes())
    assert len(made.measure(dataset.read(0, 0)).tokens) > len(short.tokens)
    assert len(made.durations) == 2


def test_saved_is_loaded_and_nothing_else_is_left(tmp_path: Path):
    known = Durations({"a [1].mp4": 2.5})
    known.put("b\u00e4r.mp4", 3.0)
    known.save(tmp_path / "known.json")
    again = Durations.load(tmp_path / "known.json")
    assert (again.get("a [1].mp4"), again.get("b\u00e4r.mp4"), again.get("c")) == (2.5, 3.0, None)
    assert [path.name for path in tmp_path.iterdir()] == ["known.json"]


@pytest.mark.parametrize("text", ["{", "[1]", '{"a": "b"}', '{"a": -1}', '{"a": NaN}', None])
def test_what_is_no_file_of_durations_is_refused(tmp_path: Path, text: str | None):
    path = tmp_path / "known.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match="timeviper data check --durations"):
        Durations.load(path)


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path):
    with pytest.raises(DataError, match="room and permission"):
        Durations().save(tmp_path / "none" / "known.json")
