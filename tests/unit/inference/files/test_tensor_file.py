"""Tensors of every format are written part by part and mapped back where they lie."""

from __future__ import annotations

import io

import pytest
import torch

from timeviper.inference.files.sealed import check_hashes, read_header
from timeviper.inference.files.tensor_file import (
    Entry,
    entry_of,
    file_bytes,
    map_file,
    write_file,
)

DTYPES = [
    torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn,
    torch.int64, torch.int8, torch.uint8,
]  # fmt: skip
INFO = {"version": 1}


def _written(path, entries):
    with path.open("wb") as file:
        write_file(file, INFO, entries)
    return read_header(path, version=1)


def test_every_format_and_shape_comes_back_in_its_place(tmp_path):
    want = {
        f"{dtype}-{n}": (torch.randn(*shape) * 9).to(dtype)
        for dtype in DTYPES
        for n, shape in enumerate([(3,), (2, 3, 1), (1, 0, 2), (0,), (7, 5)])
    }
    entries = [entry_of(name, tensor) for name, tensor in want.items()]
    sealed = _written(tmp_path / "a", entries)
    assert sealed.file_bytes == file_bytes(INFO, entries) == (tmp_path / "a").stat().st_size
    got = map_file(sealed)
    check_hashes(sealed)
    assert got.keys() == want.keys()
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype
        assert got[name].shape == tensor.shape
        assert torch.equal(got[name].double(), tensor.double()), name


def test_parts_are_written_one_behind_the_other_and_only_when_their_turn_comes(tmp_path):
    made = []

    def make(name):
        made.append(name)
        return [torch.full((2, 3), 1.0), torch.full((1, 3), 2.0).t().contiguous().t()]

    entries = [
        Entry(name=n, dtype=torch.float32, shape=(3, 3), make=lambda n=n: make(n)) for n in "ab"
    ]
    assert made == []
    got = map_file(_written(tmp_path / "a", entries))
    assert made == ["a", "b"]
    assert got["b"].tolist() == [[1.0] * 3, [1.0] * 3, [2.0] * 3]
    assert entry_of("c", torch.zeros(2, 3), torch.zeros(4, 3)).shape == (6, 3)


def test_mapped_tensors_share_the_file_and_never_change_it(tmp_path):
    tensor = torch.arange(100_000, dtype=torch.float32)
    sealed = _written(tmp_path / "a", [entry_of("x", tensor)])
    before = (tmp_path / "a").read_bytes()
    one, other = map_file(sealed)["x"], map_file(sealed)["x"]
    one[0] = 7
    assert other[0] == 0
    assert (tmp_path / "a").read_bytes() == before
    (tmp_path / "a").unlink()
    assert torch.equal(other, tensor)


@pytest.mark.parametrize("entries", [[], [entry_of("x", torch.zeros(0, 2))]])
def test_a_file_without_numbers(tmp_path, entries):
    sealed = _written(tmp_path / "a", entries)
    assert {name: t.shape for name, t in map_file(sealed).items()} == {
        e.name: e.shape for e in entries
    }


def test_the_end_is_where_the_file_ends():
    file = io.BytesIO()
    entries = [entry_of("x", torch.zeros(5))]
    write_file(file, INFO, entries)
    assert file.tell() == len(file.getvalue()) == file_bytes(INFO, entries)
