"""Same pixels, same chain; same bytes, same digest; names, dates and cuts do not count."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.toy_engine import noise, write_video
from timeviper.core.errors import MediaError
from timeviper.video.fingerprint import PixelChain, media_digest, media_stamp
from timeviper.video.source import open_video


def _chain(*clips: np.ndarray) -> str:
    chain = PixelChain()
    for clip in clips:
        chain.add(clip)
    return chain.digest


@given(cut=st.integers(0, 7))
def test_cuts_and_pauses_do_not_count(cut):
    frames = noise(7)
    whole = _chain(frames)
    assert whole == _chain(frames[:cut], frames[cut:])
    later = PixelChain(_chain(frames[:cut]))
    later.add(frames[cut:])
    assert later.digest == whole


def test_every_pixel_order_and_shape_counts():
    frames = noise(3)
    other = frames.copy()
    other[1, 4, 5, 2] ^= 1
    turned = frames.reshape(3, 8, 32, 3)
    seen = {_chain(frames), _chain(other), _chain(frames[::-1]), _chain(frames[:2]), _chain(turned)}
    assert len(seen) == 5
    assert _chain() == ""


def test_a_view_is_hashed_as_its_copy():
    frames = noise(4)[:, ::2, ::2]
    assert _chain(frames) == _chain(frames.copy())


def test_a_file_is_known_by_its_bytes_alone(tmp_path):
    first = write_video(tmp_path / "a.mp4", noise(6, side=32))
    shutil.copy(first, tmp_path / "b.mp4")
    other = write_video(tmp_path / "c.mp4", noise(6, seed=1, side=32))
    digests = [media_digest(open_video(tmp_path / f"{name}.mp4")) for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
    assert other.exists()


def test_one_changed_byte_of_a_file_of_same_size_and_date_counts(tmp_path):
    path = write_video(tmp_path / "a.mp4", noise(6, side=32))
    source = open_video(path)
    before, stat = media_digest(source), path.stat()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert media_digest(source) != before


def test_pictures_count_in_their_order_whatever_their_names(tmp_path):
    digests = []
    for names in (("1", "2"), ("x1", "x2"), ("2", "1")):
        folder = tmp_path / "-".join(names)
        folder.mkdir()
        for name, frame in zip(names, noise(2), strict=True):
            Image.fromarray(frame).save(folder / f"{name}.png")
        digests.append(media_digest(open_video(folder)))
    assert digests[0] == digests[1] != digests[2]


def test_frames_in_memory_count_with_their_times():
    frames = noise(5)
    known = media_digest(open_video(frames))
    assert known == media_digest(open_video(frames.copy()))
    assert known != media_digest(open_video(frames, fps=2))
    assert known != media_digest(open_video(noise(5, seed=1)))


def test_a_stamp_tells_that_a_file_was_written_to(tmp_path):
    path = write_video(tmp_path / "a.mp4", noise(4, side=32))
    source = open_video(path)
    stamp = media_stamp(source)
    assert media_stamp(source) == stamp
    path.write_bytes(path.read_bytes() + b"more")
    assert media_stamp(source) != stamp
    assert media_stamp(open_video(noise(2))) == ()


def test_a_file_that_is_gone_is_told(tmp_path):
    source = open_video(write_video(tmp_path / "a.mp4", noise(4, side=32)))
    (tmp_path / "a.mp4").unlink()
    for ask in (media_digest, media_stamp):
        with pytest.raises(MediaError, match="put it back"):
            ask(source)
