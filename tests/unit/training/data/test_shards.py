"""Webdataset shards: read where they lie, nothing left behind, a break told as what it is."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from tests.unit.training.data.toys import chat, everything, llava, reader, write_tar
from timeviper.core.errors import MediaError
from timeviper.processing.messages import ImagePart, VideoPart
from timeviper.training.data import shards
from timeviper.training.data.dataset import FileDataset
from timeviper.training.data.samples import DataError, Reason, Sample, SampleError


def members(media: Path) -> dict[str, bytes]:
    video, picture = (media / "a.mp4").read_bytes(), (media / "c.png").read_bytes()
    return {
        "./x/0001.json": json.dumps(llava("<video>\nWhen?", "now.")).encode(),
        "./x/0001.mp4": video,
        # Several media, named by the record in another order than they lie.
        "./x/0002.right.png": picture,
        "./x/0002.left.png": picture,
        "./x/0002.json": json.dumps(
            chat("<image><image>Same?", "yes.", images=["left.png", "0002.right.png"])
        ).encode(),
        "./x/0003.png": picture,
        "./x/0003.txt": b" a red car\n",
        # Metadata beside a caption.
        "./x/0004.jpg": (media / "d.jpg").read_bytes(),
        "./x/0004.json": b'{"url": "none", "width": 3}',
        "./x/0004.txt": b"a blue car",
        "./x/0005.json": json.dumps(llava("a?", "b")).encode(),
        # A file beside the shard.
        "./x/0006.json": json.dumps(llava("<image>a?", "b", image="c.png")).encode(),
    }


@pytest.fixture
def shard(media: Path, tmp_path: Path) -> Path:
    return write_tar(tmp_path / "s.tar", members(media))


def names(sample: Sample | SampleError) -> list[str]:
    assert isinstance(sample, Sample), sample
    return [part.source for part in sample.media]


def test_groups_become_samples(shard: Path, media: Path):
    found = everything(FileDataset([shard], media_root=media))
    assert [names(sample) for sample in found] == [
        ["./x/0001.mp4"],
        ["left.png", "0002.right.png"],
        ["./x/0003.png"],
        ["./x/0004.jpg"],
        [],
        [str(media / "c.png")],
    ]
    assert [sample.turns[-1].text for sample in found[2:4]] == ["a red car", "a blue car"]
    assert isinstance(found[0].media[0], VideoPart)
    assert isinstance(found[3].media[0], ImagePart)
    assert str(found[0].origin) == f"{shard}:x/0001"


def test_members_show_what_the_file_showed_and_leave_nothing_behind(
    shard: Path, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    room = tmp_path / "room"
    room.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(room))
    sample = everything(FileDataset([shard], media_root=media))[0]
    with sample.openers["./x/0001.mp4"].open() as source:
        assert len(list(room.rglob("*.mp4"))) == 1
        assert source.info.num_frames == 6
    assert list(room.iterdir()) == []
    example = reader().load(sample)
    assert example.pixels.shape[0] == 6
    np.testing.assert_array_equal(example.times, np.arange(6.0))
    assert list(room.iterdir()) == []


def test_a_member_beyond_the_limit_is_refused(shard: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shards, "MOST_MEMBER_BYTES", 100)
    sample = everything(FileDataset([shard]))[0]
    with pytest.raises(SampleError, match="at most 100 bytes") as caught:
        reader().measure(sample)
    assert caught.value.reason is Reason.UNREADABLE


@pytest.mark.parametrize("cut", ["in a member", "between members", "in a header"])
def test_a_truncated_shard_gives_what_is_whole_and_tells_the_break(
    media: Path, tmp_path: Path, cut: str
):
    path = write_tar(tmp_path / "s.tar", members(media))
    places = [m.offset for item in FileDataset([path])._part(0)._groups for m in item[1].values()]
    text = path.read_bytes()
    ends = {
        "in a member": places[4] + 7,
        "between members": places[5] - 512,
        "in a header": places[5] - 100,
    }
    path.write_bytes(text[: ends[cut]])
    found = everything(FileDataset([path]))
    assert names(found[0]) == ["./x/0001.mp4"]
    assert isinstance(found[-1], SampleError)
    assert found[-1].reason is Reason.TRUNCATED
    assert str(found[-1]).startswith(f"{path}:end: truncated file")


def test_a_truncated_member_found_late_is_refused(shard: Path, tmp_path: Path):
    sample = everything(FileDataset([shard]))[0]
    shard.write_bytes(shard.read_bytes()[:2000])
    with (
        pytest.raises(MediaError, match=r"bytes of \./x/0001\.mp4"),
        sample.openers["./x/0001.mp4"].open(),
    ):
        pass


def test_a_full_disk_stops_the_run_and_blames_no_sample(
    shard: Path, monkeypatch: pytest.MonkeyPatch
):
    sample = everything(FileDataset([shard]))[0]

    def full(self, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shards.Member, "_copy", full)
    with pytest.raises(DataError, match="No space left on device; free some space"):
        reader().measure(sample)


def test_compressed_shards_and_strangers_are_refused(tmp_path: Path):
    path = tmp_path / "s.tar.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00rest")
    with pytest.raises(DataError, match="uncompressed"):
        FileDataset([path])
    path = path.rename(tmp_path / "s.tar")
    found = everything(FileDataset([path]))
    assert [error.reason for error in found] == [Reason.TRUNCATED]


def test_a_group_without_words_is_told(media: Path, tmp_path: Path):
    path = write_tar(tmp_path / "s.tar", {"1.png": (media / "c.png").read_bytes()})
    (error,) = everything(FileDataset([path]))
    assert error.reason is Reason.MALFORMED
    assert "conversations, messages, caption" in str(error)
