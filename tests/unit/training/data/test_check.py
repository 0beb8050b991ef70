"""The check: every sample counted once, as training would count it."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest

from tests.unit.training.data.toys import llava, mixture, reader, varied, write_lines, write_tar
from timeviper.training.data.check import EXAMPLES, check, spread
from timeviper.training.data.dataset import FileDataset
from timeviper.training.data.packed import PackedSource, PackingConfig
from timeviper.training.data.samples import DataError


def test_good_data_is_measured_as_training_measures_it(media: Path):
    made = reader()
    dataset = FileDataset([write_lines(media / "set0_12.jsonl", varied(12))])
    told: list[tuple[int, int]] = []
    report = check([dataset], made, workers=3, tell=lambda *found: told.append(found))
    record = report.to_dict()
    assert told == [(n, 12) for n in range(13)]
    assert (record["samples"], record["good"], record["bad"]) == (12, 12, 0)
    assert record["formats"] == {"json lines": 12}
    assert record["forms"] == {"conversations": 8, "messages": 4}
    assert record["shows"] == {
        "words only": 3,
        "picture": 3,
        "pictures": 2,
        "video": 2,
        "picture and video": 2,
    }
    lengths = [len(made.measure(dataset.read(0, n)).tokens) for n in range(12)]
    assert list(report.tokens) == lengths
    assert list(report.frames) == [0, 1, 2, 6, 10, 0, 1, 2, 6, 10, 0, 1]
    assert record["packs"]["count"] == len(report.packs)
    assert record["packs"]["fill"] == pytest.approx(
        sum(lengths) / (160 * len(report.packs)), abs=1e-4
    )
    # One epoch of a run packs the same tokens.
    source = PackedSource(mixture(media, 12), made, PackingConfig(workers=0))
    planned = next(source.plan())[0]
    assert {item.tokens for item in planned.items} <= set(lengths)


def test_every_reason_is_counted_with_its_first_places(media: Path, tmp_path: Path):
    (media / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    bad = [
        *['{"n"'] * (EXAMPLES + 2),
        llava("<video>a?", "b", video="none.mp4"),
        llava("<image>a?", "b", image="broken.png"),
        llava("a?", "b" * 999),
        llava("a?", "b", image="c.png"),
        llava("a?", ""),
    ]
    lines = write_lines(media / "bad.jsonl", [*varied(5), *bad])
    tar = write_tar(tmp_path / "s.tar", {"1.json": b"{}"})
    tar.write_bytes(tar.read_bytes()[:1024])
    report = check([FileDataset([lines, tar], media_root=media)], reader(), workers=2)
    assert report.good == 5
    assert dict(report.bad) == {
        "malformed record": EXAMPLES + 3,
        "missing media": 1,
        "unreadable media": 1,
        "longer than the budget": 1,
        "marks and media differ": 1,
        "no conversation to learn from": 1,
        "truncated file": 1,
    }
    found = report.to_dict()["reasons"]["malformed record"]
    assert found["count"] == EXAMPLES + 3
    assert [e["where"] for e in found["examples"]] == [f"{lines}:{n}" for n in (6, 7, 8)]
    assert found["examples"][0].keys() == {"where", "expected", "got", "do"}


def test_a_file_that_cannot_be_used_stops_the_check(tmp_path: Path):
    path = tmp_path / "a.json"
    path.write_text('[{"n": 0}, {"n"')
    with pytest.raises(DataError, match="one complete JSON array"):
        check([FileDataset([path])], reader())


def test_spread_of_known_numbers():
    assert spread(array("q")) is None
    assert spread(array("q", range(1, 102))) == {
        "total": 5151,
        "mean": 51.0,
        "least": 1,
        "p5": 6,
        "median": 51,
        "p95": 96,
        "most": 101,
    }
