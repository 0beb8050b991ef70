"""The timeline of a file, from what its packets say and from what they fail to say."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from tests.unit.video.files import RECIPES
from timeviper.core.errors import MediaError
from timeviper.video.formats import open_container, recognise, video_stream
from timeviper.video.packets import MISSING, Columns, PacketTable, lay_out, scan_packets

Videos = Callable[[str], Path]


def table_of(path: Path) -> PacketTable:
    with open_container(path, recognise(path)) as container:
        return lay_out(scan_packets(container, video_stream(container, path.name)), path.name)


def columns(pts: list[int], **changes: object) -> Columns:
    made = Columns(base=Fraction(1, 10), rate=Fraction(5), entries=[0])
    made.pts.extend(pts)
    made.dts.extend([MISSING] * len(pts))
    made.durations.extend([0] * len(pts))
    made.shown.extend([1] * len(pts))
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def test_frames_are_ordered_by_presentation() -> None:
    table = lay_out(columns([0, 40, 20, 60, 50], entries=[0, 3]), "film")
    assert table.times.tolist() == [0, 2, 4, 5, 6]
    assert table.packets.tolist() == [0, 2, 1, 4, 3]
    # Frame 3 leads the keyframe at 6 s and belongs to the entry before.
    assert (table.entry_frames.tolist(), table.entry_packets.tolist()) == ([0, 4], [0, 3])
    assert not table.counted


def test_the_first_frame_is_at_zero_wherever_the_file_starts() -> None:
    for first in (-30, 70):
        table = lay_out(columns([first, first + 5]), "film")
        assert table.times.tolist() == [0.0, 0.5]
        assert table.origin == first / 10


def test_a_frame_lasts_as_long_as_its_packet_says() -> None:
    table = lay_out(columns([0, 10, 20], durations=array("q", [10, 10, 40])), "film")
    assert table.duration == 6.0


def test_without_durations_the_last_frame_lasts_as_long_as_the_others() -> None:
    assert lay_out(columns([0, 10, 20]), "film").duration == 3.0
    assert lay_out(columns([0]), "film").duration == 0.2
    assert lay_out(columns([0], rate=None), "film").duration == 1.0


def test_hidden_frames_have_no_time() -> None:
    table = lay_out(columns([0, 9, 10], shown=array("b", [1, 0, 1])), "film")
    assert table.times.tolist() == [0.0, 1.0]
    assert table.packets.tolist() == [0, 2]


def test_missing_times_come_from_the_order_of_decoding() -> None:
    table = lay_out(columns([MISSING] * 3, dts=array("q", [5, 15, 35])), "film")
    assert table.times.tolist() == [0.0, 1.0, 3.0]
    assert table.counted


def test_without_any_times_frame_k_is_shown_at_k_by_rate() -> None:
    table = lay_out(columns([MISSING] * 4, durations=array("q", [7] * 4)), "film")
    assert table.times.tolist() == [0.0, 0.2, 0.4, 0.6]
    assert table.counted
    assert table.duration == pytest.approx(0.6 + 0.7)


def test_a_few_missing_times_make_all_of_them_unreliable() -> None:
    table = lay_out(columns([0, MISSING, 50]), "film")
    assert table.times.tolist() == [0.0, 0.2, 0.4]


def test_a_rate_of_zero_without_times_is_refused() -> None:
    with pytest.raises(MediaError, match="0 frames per second in film"):
        lay_out(columns([MISSING] * 4, rate=None), "film")


def test_times_that_stand_still_are_refused() -> None:
    with pytest.raises(MediaError, match="5 frames with 1 different times"):
        lay_out(columns([7] * 5), "film")
    with pytest.raises(MediaError, match=r"3 frames within 0.000020 s"):
        lay_out(columns([0, 1, 2], base=Fraction(1, 100_000)), "film")


def test_repeated_times_are_counted() -> None:
    table = lay_out(columns([0, 10, 10, 20]), "film")
    assert table.times.tolist() == [0, 1, 1, 2]
    assert table.counted


def test_no_frame_is_refused() -> None:
    with pytest.raises(MediaError, match="no complete frame in film"):
        lay_out(columns([], entries=[]), "film")
    with pytest.raises(MediaError, match="no complete frame in film"):
        lay_out(columns([0], shown=array("b", [0])), "film")


def test_entries_that_run_backwards_are_dropped() -> None:
    table = lay_out(columns([0, 50, 30, 60, 10], entries=[0, 1, 2, 3]), "film")
    assert table.entry_frames.tolist() == [0, 3, 4]
    assert (np.diff(table.entry_packets) > 0).all()


def test_entries_without_the_first_packet_start_there_all_the_same() -> None:
    table = lay_out(columns([0, 10, 20], entries=[2]), "film")
    assert table.entry_frames.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("name", "entries", "counted"),
    [
        ("h264.mp4", [0, 12, 24, 36], False),
        ("open_gop.mp4", [0, 12, 24, 36], False),
        ("h264.avi", [0, 12, 24, 36], True),
        ("refresh.mkv", [0], False),
        ("frames.gif", [0], False),
        ("vp9.webm", [0, 12, 24, 36], False),
        ("mjpeg.avi", list(range(48)), False),
    ],
)
def test_timelines_of_real_files(
    video: Videos, name: str, entries: list[int], counted: bool
) -> None:
    table = table_of(video(name))
    assert table.entry_frames.tolist() == entries
    assert table.counted is counted
    rate = RECIPES[name].rate
    # WebM and MKV round to milliseconds.
    np.testing.assert_allclose(table.times, np.arange(48) / rate, atol=6e-4)
    assert table.duration == pytest.approx(48 / rate, abs=2e-3)
    assert not table.ended_early


def test_variable_frame_rates_are_exact(video: Videos) -> None:
    recipe = RECIPES["uneven.mp4"]
    assert recipe.pts is not None
    want = (np.array(recipe.pts) - recipe.pts[0]) / 1000
    np.testing.assert_allclose(table_of(video("uneven.mp4")).times, want, atol=1e-4)


def test_a_file_that_breaks_off_says_so(video: Videos, tmp_path: Path) -> None:
    path = tmp_path / "cut.mkv"
    whole = video("h264.mkv").read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    table = table_of(path)
    assert 5 < len(table.times) < 40
