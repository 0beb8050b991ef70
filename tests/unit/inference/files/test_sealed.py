"""The outer form of a state file: what is not whole, not ours or not as written is refused."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import load_file

from timeviper.core.errors import StateFileError
from timeviper.inference.files.sealed import (
    Piece,
    check_hashes,
    is_state_file,
    read_header,
    read_piece,
    write_header,
)
from timeviper.inference.files.tensor_file import entry_of, map_file, write_file

INFO = {"version": 1, "words": "Grüße", "numbers": [1, 2.5]}


@pytest.fixture
def path(tmp_path):
    target = tmp_path / "a.tvstate"
    entries = [
        entry_of("small", torch.arange(5, dtype=torch.uint8)),
        entry_of("wide", torch.randn(3, 2, dtype=torch.float64)),
        entry_of("nothing", torch.zeros(0, 4)),
    ]
    with target.open("wb") as file:
        write_file(file, INFO, entries)
    return target


def test_a_written_header_comes_back(path):
    sealed = read_header(path, version=1)
    assert sealed.info == INFO
    assert [piece.name for piece in sealed.pieces] == ["wide", "nothing", "small"]
    assert sealed.file_bytes == path.stat().st_size
    assert sealed.data % 64 == 0
    assert is_state_file(path)
    check_hashes(sealed)
    assert read_piece(sealed, "small") == bytes(range(5))


def test_it_is_a_safetensors_file_for_everybody_else(path):
    tensors = load_file(path)
    assert set(tensors) == {"small", "wide", "nothing"}
    assert tensors["small"].tolist() == [0, 1, 2, 3, 4]


def test_every_length_but_the_right_one_is_refused(path):
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    for length in {0, 1, 7, 8, 9, 40, 60, header - 1, header, header + 1, len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(StateFileError, match=r"whole state file|another kind"):
            read_header(path, version=1)
    path.write_bytes(whole + b"x")
    with pytest.raises(StateFileError, match="whole state file"):
        read_header(path, version=1)


def test_every_flipped_bit_is_found(path):
    """In the header at once, behind it by the hashes."""
    whole = path.read_bytes()
    for place in range(len(whole)):
        broken = bytearray(whole)
        broken[place] ^= 1 << place % 8
        path.write_bytes(broken)
        with pytest.raises(StateFileError):
            check_hashes(read_header(path, version=1))


def test_another_version_says_so(path):
    with pytest.raises(StateFileError, match="version 2; got version 1"):
        read_header(path, version=2)


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 100, b"\0" * 100, struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 2**63) + b"{"],
)
def test_other_files_are_not_state_files(tmp_path, content):
    path = tmp_path / "other"
    path.write_bytes(content)
    assert not is_state_file(path)
    with pytest.raises(StateFileError):
        read_header(path, version=1)


def test_what_is_not_there_is_no_state_file(tmp_path):
    for path in (tmp_path / "none", tmp_path, tmp_path / "a\0b", tmp_path / ("n" * 5000)):
        assert not is_state_file(path)
        with pytest.raises(StateFileError, match="a state file at"):
            read_header(path, version=1)


def _resealed(info: str, pieces: list[Piece]) -> bytes:
    """A header whose seal is right and whose words are not."""
    made = write_header({"version": 1}, pieces)
    text = made[8:].replace(json.dumps('{"version":1}').encode(), json.dumps(info).encode())
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize("info", ["[1]", '{"version":NaN}', "{", '"version"'])
def test_strange_json_is_refused(tmp_path, info):
    path = tmp_path / "a.tvstate"
    path.write_bytes(_resealed(info, []))
    with pytest.raises(StateFileError, match=r"JSON|version"):
        read_header(path, version=1)


@pytest.mark.parametrize(
    ("start", "end", "says"), [(8, 16, "place"), (0, -8, "place"), (None, 8, "strange")]
)
def test_tensors_at_strange_places_are_refused(tmp_path, start, end, says):
    """A seal that is right does not make a header right."""
    piece = Piece(name="x", format="F32", shape=(2,), start=start, end=end)
    (tmp_path / "a").write_bytes(write_header({"version": 1}, [piece]))
    with pytest.raises(StateFileError, match=says):
        read_header(tmp_path / "a", version=1)


def test_deep_json_is_refused(tmp_path):
    made = write_header({"version": 1}, [])
    text = made[8:].replace(b'"seal"', b'"deep":' + b"[" * 100_000 + b',"seal"', 1)
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(StateFileError, match="no JSON"):
        read_header(tmp_path / "a", version=1)


def test_a_piece_that_is_not_there_is_told(path):
    with pytest.raises(StateFileError, match="no thumbnails"):
        read_piece(read_header(path, version=1), "thumbnails")


def test_a_file_that_vanishes_while_it_is_read_is_told(path):
    sealed = read_header(path, version=1)
    path.unlink()
    with pytest.raises(StateFileError, match="as it was written"):
        check_hashes(sealed)
    with pytest.raises(StateFileError, match="a state file at"):
        map_file(sealed)
