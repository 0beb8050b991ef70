"""Shards come back as written; broken, pickled and misplaced files are refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from timeviper.core.errors import CheckpointError, ConfigError
from timeviper.weights.shards import (
    INDEX,
    WHOLE,
    Shards,
    is_weights,
    read_json,
    write_json,
    write_shards,
)

TENSORS = {f"part.{n}": torch.full((n + 1, 4), float(n)) for n in range(7)}
FLOAT32 = dict.fromkeys(TENSORS, torch.float32)


def write(folder: Path, most: int) -> None:
    write_shards(TENSORS, folder, formats=FLOAT32, max_shard_bytes=most)


def read(folder: Path) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in Shards(folder).stream()}


@pytest.mark.parametrize(("most", "files"), [(10_000, 1), (112, 5), (200, 3), (1, 7)])
def test_what_is_written_comes_back(most: int, files: int, tmp_path: Path) -> None:
    write(tmp_path, most)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    assert (tmp_path / INDEX).exists() == (files > 1)
    got = read(tmp_path)
    assert got.keys() == TENSORS.keys()
    assert all(torch.equal(got[key], TENSORS[key]) for key in TENSORS)


def test_no_file_is_larger_than_asked_except_for_one_tensor(tmp_path: Path) -> None:
    write(tmp_path, 120)
    for path in tmp_path.glob("*.safetensors"):
        sizes = [tensor.nbytes for key, tensor in TENSORS.items() if key in _keys(path)]
        assert sum(sizes) <= 120 or len(sizes) == 1


def _keys(path: Path) -> set[str]:
    header = path.read_bytes()
    size = int.from_bytes(header[:8], "little")
    return set(json.loads(header[8 : 8 + size])) - {"__metadata__"}


def test_the_index_is_the_one_of_hugging_face(tmp_path: Path) -> None:
    write(tmp_path, 200)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in TENSORS.values())
    assert index["weight_map"]["part.0"] == "model-00001-of-00003.safetensors"
    assert index["weight_map"].keys() == TENSORS.keys()


def test_shapes_and_formats_are_known_without_reading(tmp_path: Path) -> None:
    write_shards(
        TENSORS,
        tmp_path,
        formats=dict.fromkeys(TENSORS, torch.bfloat16),
        max_shard_bytes=100,
    )
    shards = Shards(tmp_path)
    assert shards.shapes == {key: tuple(t.shape) for key, t in TENSORS.items()}
    assert set(shards.formats.values()) == {"BF16"}


def test_a_limit_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        write(tmp_path, 0)


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_a_truncated_file_is_refused(kept: int, tmp_path: Path) -> None:
    write(tmp_path, 10_000)
    path = tmp_path / WHOLE
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"whole safetensors file .*model\.safetensors"):
        Shards(tmp_path)


def test_a_header_that_lies_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 10_000)
    path = tmp_path / WHOLE
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    with pytest.raises(CheckpointError, match="whole safetensors file"):
        Shards(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt"])
def test_pickled_weights_are_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x80\x04.")
    with pytest.raises(CheckpointError, match=f"(?s){name}.*pickled") as caught:
        Shards(tmp_path)
    assert "safetensors" in caught.value.do


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="neither"):
        Shards(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write(tmp_path, 200)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no 'model-00002-of-00003"):
        Shards(tmp_path)


@pytest.mark.parametrize("place", ["../secret.safetensors", "/etc/x.safetensors", "a/b"])
def test_an_index_cannot_point_outside(place: str, tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "secret.safetensors")
    inside = tmp_path / "inside"
    inside.mkdir()
    write_json(inside / INDEX, {"weight_map": dict.fromkeys(TENSORS, place)})
    with pytest.raises(CheckpointError, match="beside it"):
        Shards(inside)


def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path: Path) -> None:
    write(tmp_path, 200)
    index = read_json(tmp_path / INDEX)
    homes = index["weight_map"]
    homes["part.0"], homes["part.9"] = homes["part.6"], homes["part.6"]
    write_json(tmp_path / INDEX, index)
    with pytest.raises(CheckpointError, match=r"another place for part\.0, part\.9"):
        Shards(tmp_path)


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a.safetensors", "b.safetensors"):
        save_file({"x": torch.ones(1), name[0]: torch.ones(1)}, tmp_path / name)
    homes = {"x": "a.safetensors", "a": "a.safetensors", "b": "b.safetensors"}
    write_json(tmp_path / INDEX, {"weight_map": homes})
    with pytest.raises(CheckpointError, match=r"x in one file; got a\.safetensors and b"):
        Shards(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]", "\x00", '{"weight_map": [1]}'])
def test_a_broken_index_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match="whole JSON object file"):
        Shards(tmp_path)


def test_json_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_json(tmp_path / "config.json")


def test_names_of_weight_files() -> None:
    ours = [WHOLE, INDEX, "model-00001-of-00002.safetensors"]
    others = ["tokenizer.json", "config.json", "README.md", "adapter.safetensors"]
    assert all(map(is_weights, ours))
    assert not any(map(is_weights, others))
