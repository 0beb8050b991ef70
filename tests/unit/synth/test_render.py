"""Films are real H.264 files that show the world, and never half of one."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.unit.synth.toys import appear, busy_worlds, toy_footage, toy_worlds
from timeviper.core.errors import RequestError
from timeviper.synth import render
from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.synth.render import Film, render_video
from timeviper.synth.world import Worlds

LENGTH = 32


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    return busy_worlds(2)


@pytest.fixture(scope="module")
def filmed(worlds: Worlds, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("films") / "film.mp4"
    render_video(worlds, path, number=1)
    return path


def frames_of(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Seconds and frames (frame, height, width, 3) of a file, 0 to 1."""
    with av.open(str(path)) as container:
        every = [(f.time, f.to_ndarray(format="rgb24")) for f in container.decode(video=0)]
    return np.array([t for t, _ in every]), np.stack([f for _, f in every]) / 255


def drawn(worlds: Worlds, number: int, seconds: NDArray[np.float64]) -> NDArray[np.float32]:
    painter = Painter.of(worlds, atlas_tensor(96))
    which = torch.full((len(seconds),), number)
    frames = painter.draw(which, torch.from_numpy(seconds).float(), height=180, width=320)
    return frames.permute(0, 2, 3, 1).numpy()


def test_the_file_is_h264_of_the_right_size_and_rate(filmed: Path) -> None:
    with av.open(str(filmed)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height) == (320, 180)
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 4
        assert stream.codec_context.has_b_frames


def test_every_frame_is_there_at_its_time(filmed: Path) -> None:
    seconds, _ = frames_of(filmed)
    np.testing.assert_allclose(seconds, np.arange(LENGTH * 4) / 4, atol=1e-6)


def test_decoded_frames_are_the_drawn_ones(filmed: Path, worlds: Worlds) -> None:
    seconds, frames = frames_of(filmed)
    want = drawn(worlds, 1, seconds)
    assert np.abs(frames - want).mean() < 0.03
    other = drawn(worlds, 0, seconds[::8])
    assert np.abs(frames[::8] - other).mean() > 0.1, "the other world would pass as well"


def test_objects_show_in_the_middle_and_at_the_edges_of_their_time(
    filmed: Path, worlds: Worlds
) -> None:
    seconds, frames = frames_of(filmed)
    bare = drawn_without_objects(worlds, seconds)
    shown = (np.abs(frames - bare).max(-1) > 0.25).mean((1, 2)) > 0.01
    world = worlds.world(1)
    wanted = np.array([world.at(second) is not None for second in seconds])
    assert wanted.any()
    assert not wanted.all()
    # An object that is nearly as its background may hide for a frame; more would be an error.
    assert (shown == wanted).mean() > 0.97
    for event in world.events:
        assert shown[(event.start + event.end) * 2]


def drawn_without_objects(worlds: Worlds, seconds: NDArray[np.float64]) -> NDArray[np.float32]:
    painter = Painter.of(worlds.select([0, 1]), atlas_tensor(24))
    painter.worlds["thing"].fill_(-1)
    which = torch.ones(len(seconds), dtype=torch.long)
    frames = painter.draw(which, torch.from_numpy(seconds).float(), height=180, width=320)
    return frames.permute(0, 2, 3, 1).numpy()


def test_same_world_same_bytes(worlds: Worlds, filmed: Path, tmp_path: Path) -> None:
    render_video(worlds, tmp_path / "again.mp4", number=1)
    assert (tmp_path / "again.mp4").read_bytes() == filmed.read_bytes()


def test_rate_size_and_quality_are_followed(worlds: Worlds, tmp_path: Path) -> None:
    small = Film(fps=1, height=90, width=128, crf=40)
    render_video(worlds, tmp_path / "small.mp4", film=small)
    seconds, frames = frames_of(tmp_path / "small.mp4")
    assert frames.shape == (LENGTH, 90, 128, 3)
    np.testing.assert_allclose(seconds, np.arange(LENGTH), atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"fps": 0}, "at least 1 frame a second"),
        ({"height": 181}, "320x181"),
        ({"width": 8}, "8x180"),
    ],
)
def test_films_that_cannot_be_made_are_refused(fields: dict[str, int], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Film(**fields)


def test_a_missing_folder_is_one_clear_error(worlds: Worlds, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="a place to write"):
        render_video(worlds, tmp_path / "nowhere" / "film.mp4")


def test_nothing_half_written_stays_when_drawing_fails(
    worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted = Painter.draw
    calls: list[int] = []

    def fails_later(self: Painter, *args: object, **named: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError
        return painted(self, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(render, "_AT_ONCE", 16)
    monkeypatch.setattr(Painter, "draw", fails_later)
    with pytest.raises(MemoryError):
        render_video(worlds, tmp_path / "film.mp4")
    assert list(tmp_path.iterdir()) == []


def test_an_older_film_is_kept_until_the_new_one_is_complete(
    worlds: Worlds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(b"older")
    monkeypatch.setattr(Painter, "draw", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        render_video(worlds, path)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]


def test_drawing_in_other_portions_gives_the_same_film(
    worlds: Worlds, filmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "_AT_ONCE", 7)
    render_video(worlds, tmp_path / "film.mp4", number=1)
    assert (tmp_path / "film.mp4").read_bytes() == filmed.read_bytes()


def test_progress_is_told_from_nothing_to_all(worlds: Worlds, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    small = Film(fps=2, height=32, width=48)
    render_video(
        worlds, tmp_path / "film.mp4", film=small, tell=lambda done, all_: told.append((done, all_))
    )
    assert told[0] == (0, LENGTH * 2)
    assert told[-1] == (LENGTH * 2, LENGTH * 2)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert len(told) > 3


def test_a_world_is_filmed_before_real_clips(tmp_path: Path) -> None:
    worlds = appear(toy_worlds(1, 8), [5], span=(2, 5))
    worlds.footage[0] = 0, 0, 1, 1, 1
    small = Film(fps=1, height=32, width=48)
    render_video(worlds, tmp_path / "film.mp4", film=small, footage=toy_footage())
    _, frames = frames_of(tmp_path / "film.mp4")
    means = frames[:, :, 30:].mean((1, 2, 3)) * 255
    np.testing.assert_allclose(means[[0, 1, 5, 6, 7]], [0, 10, 30, 20, 10], atol=4)
    with pytest.raises(RequestError, match="footage with clip 0"):
        render_video(worlds, tmp_path / "other.mp4", film=small)
    assert [p.name for p in tmp_path.iterdir()] == ["film.mp4"]


def test_memory_does_not_grow_with_the_length(tmp_path: Path) -> None:
    """Hours are filmed in the portions that seconds are: never more frames at once."""
    drawn: list[int] = []
    painted = Painter.draw

    def counted(self: Painter, number: torch.Tensor, *args: object, **named: object) -> object:
        drawn.append(len(number))
        return painted(self, number, *args, **named)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Painter, "draw", counted)
        render_video(toy_worlds(1, 600), tmp_path / "f.mp4", film=Film(fps=1, height=16, width=16))
    assert max(drawn) == render._AT_ONCE
    assert sum(drawn) == 600
