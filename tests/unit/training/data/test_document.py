"""What `docs/data.md` shows is read as it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.contracts.source import ROOT
from timeviper.core.config import from_dict
from timeviper.training.data.config import DataConfig
from timeviper.training.data.records import Record, read_record
from timeviper.training.data.samples import Origin, Reason

TEXT = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = [
    json.loads(block) for block in re.findall(r"^```json\n(.*?)^```", TEXT, flags=re.M | re.S)
]


def test_records_are_read_and_the_mixture_is_a_config():
    *records, mixture = BLOCKS
    assert len(records) == 5
    for data in records:
        sample = read_record(Record(data=data, origin=Origin("data.md", 1), root=Path("/data")))
        assert len(sample.media) in (1, 2)
    config = from_dict(DataConfig, mixture)
    assert [one.name for one in config.datasets] == ["pictures", "films", "synthreel"]


def test_every_reason_is_explained():
    rows = re.findall(r"^\| ([a-z ]+) \| .+ \|$", TEXT, flags=re.M)
    assert rows[-len(Reason) :] == [reason.value for reason in Reason]
