"""The header's JSON is strict: what it does not know it refuses."""

from __future__ import annotations

import json

import pytest

from timeviper.core.config import from_dict
from timeviper.core.errors import StateFileError
from timeviper.inference.files.tensor_file import write_file
from timeviper.inference.state_info import (
    VERSION,
    Identity,
    LayerInfo,
    SiteInfo,
    Spent,
    StateInfo,
    ThumbnailInfo,
    read_info,
    read_thumbnails,
)

INFO = StateInfo(
    version=VERSION,
    made_by="1.2.3",
    identity=Identity(model="toy", weights="a", config="b", processor="c"),
    source="Grüße [1].mp4",
    pixels="d",
    frames=3,
    duration_seconds=3.5,
    tokens=12,
    dtype="float32",
    compress="none",
    state_bytes=100,
    layers=(LayerInfo(kind="attention", lengths=(4, 5)), LayerInfo(kind="none")),
    sites=(None, SiteInfo(seen=(3,), dropped=(1,), parked=None)),
    notes=("one",),
    timing=Spent(decode=0.5),
)


def _file(path, values):
    with path.open("wb") as file:
        write_file(file, values, [])
    return path


def test_every_field_comes_back(tmp_path):
    assert read_info(_file(tmp_path / "a", INFO.to_json())).info == INFO
    assert from_dict(StateInfo, json.loads(json.dumps(INFO.to_json()))) == INFO


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"colour": "blue"}, "colour"),
        ({"frames": "three"}, "frames"),
        ({"identity": {"model": "toy"}}, "identity"),
        ({"layers": [{"kind": 3}]}, "kind"),
        ({"sites": 3}, "sites"),
    ],
)
def test_unknown_and_wrong_values_are_refused(tmp_path, change, says):
    with pytest.raises(StateFileError, match=says):
        read_info(_file(tmp_path / "a", INFO.to_json() | change))


def test_missing_values_are_refused(tmp_path):
    values = INFO.to_json()
    del values["pixels"]
    with pytest.raises(StateFileError, match="pixels"):
        read_info(_file(tmp_path / "a", values))


def test_pictures_that_are_told_of_and_missing_are_refused(tmp_path):
    values = INFO.to_json() | {"thumbnails": [{"seconds": 1.0, "bytes": 5}]}
    header = read_info(_file(tmp_path / "a", values))
    assert header.info.thumbnails == (ThumbnailInfo(seconds=1.0, bytes=5),)
    with pytest.raises(StateFileError, match="no thumbnails"):
        read_thumbnails(header)
