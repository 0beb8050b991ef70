"""A data config: strict JSON, patterns of files, and the same batches as built by hand."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from tests.toy_engine import toy_processor
from tests.unit.training.data.toys import llava, reader, varied, write_lines, write_media
from timeviper.core.config import from_dict, to_dict
from timeviper.core.errors import ConfigError
from timeviper.training.data.config import DataConfig, open_source, read_data_config
from timeviper.training.data.samples import DataError


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Shards of one data set, a second one with its media elsewhere."""
    (tmp_path / "parts").mkdir()
    for number in range(3):
        write_lines(tmp_path / "parts" / f"p{number}.jsonl", [llava(f"{number}?", "yes.")] * 4)
    write_media(tmp_path / "media")
    write_lines(tmp_path / "films [1].jsonl", varied(6))
    return tmp_path


def written(home: Path, **changes: Any) -> Path:
    data = {
        "datasets": [
            {"name": "words", "files": ["parts/*.jsonl"], "weight": 3},
            {"name": "films", "files": ["films [1].jsonl"], "media_root": "media"},
            {"name": "drawn", "reels": {"frames": [16], "tasks": ["what", "when"]}},
        ],
        "reading": {"budget": 600, "too_long": "cut"},
        "packing": {"most_open": 3, "workers": 0},
        "seed": 4,
    }
    path = home / "data.json"
    path.write_text(json.dumps(data | changes))
    return path


def test_a_file_becomes_batches(home: Path):
    config = read_data_config(written(home))
    source = open_source(config, toy_processor(), folder=home)
    assert [d.name for d in source.mixture.datasets] == ["words", "films", "drawn"]
    assert [d.parts for d in source.mixture.datasets] == [3, 1, 1024]
    found = [batch for batch, _ in islice(source.batches(None, rank=0, ranks=1), 4)]
    origins = " ".join(origin for batch in found for origin in batch.origins)
    for name in ("p0.jsonl", "films [1].jsonl", "synthreel" if "synthreel" in origins else "drawn"):
        assert name in origins
    assert source.unbuilt.counts["bad"] == {}
    assert from_dict(DataConfig, to_dict(config)) == config


def test_durations_are_read_where_they_are_named(home: Path):
    reader().durations.save(home / "known.json")
    config = read_data_config(written(home, durations="known.json"))
    open_source(config, toy_processor(), folder=home)
    (home / "known.json").unlink()
    with pytest.raises(DataError, match=r"known\.json"):
        open_source(config, toy_processor(), folder=home)


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ([{"name": "a"}], "either files or reels in the data set a; got neither"),
        ([{"name": "a", "files": ["x"], "reels": {}}], "got both"),
        ([{"name": "a", "file": ["x"]}], "unknown key 'file'"),
        ([{"name": "a", "reels": {"tasks": ["juggle"]}}], "one of what, when"),
    ],
)
def test_a_wrong_setting_is_told_with_its_place(home: Path, datasets, message):
    with pytest.raises(ConfigError, match=message):
        read_data_config(written(home, datasets=datasets))


def test_files_that_are_not_there_are_told(home: Path):
    for files, message in (
        (["none/*.jsonl"], "files that match none"),
        (["x.jsonl"], "No such file"),
    ):
        config = read_data_config(written(home, datasets=[{"name": "a", "files": files}]))
        with pytest.raises(DataError, match=message):
            open_source(config, toy_processor(), folder=home)


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_what_is_no_config_is_refused(home: Path, text: str | None):
    path = home / "none.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=r"none\.json"):
        read_data_config(path)
