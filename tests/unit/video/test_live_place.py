"""What the name of a live video means, and what is refused before anything is opened."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from tests.live_server import camera, film, free_port
from tests.toy_engine import noise, write_video
from timeviper.core.errors import MediaError
from timeviper.video.live_place import PlaceKind, connect, find_place


def _never() -> bool:
    return False


@pytest.mark.parametrize(
    ("source", "kind", "name"),
    [
        ("-", PlaceKind.PIPE, "standard input"),
        ("rtsp://me:secret@door:554/1?token=x", PlaceKind.NETWORK, "rtsp://door:554/1"),
        ("HTTP://door/live.ts", PlaceKind.NETWORK, "http://door/live.ts"),
        ("/dev/null", PlaceKind.DEVICE, "null"),
    ],
)
def test_names_mean_places_and_hide_passwords(source: str, kind: PlaceKind, name: str) -> None:
    place = find_place(source)
    assert (place.kind, place.name, place.target) == (kind, name, source)


def test_files_and_pipes_are_told_apart(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    film_file = write_video(tmp_path / "film.mp4", noise(2, side=32))
    assert find_place(str(tmp_path / "pipe")).kind is PlaceKind.PIPE
    assert find_place(str(film_file)).kind is PlaceKind.FILE


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("/dev/video99", "plug the camera in"),
        ("no-such-film.mp4", "does not exist"),
        ("file:///etc/passwd", "a file:// address"),
        ("concat://a|b", "a concat:// address"),
        ("a\0b", "does not exist"),
    ],
)
def test_what_cannot_be_watched_is_refused(source: str, says: str) -> None:
    with pytest.raises(MediaError, match=says):
        find_place(source)


def test_a_folder_and_a_file_that_is_no_video_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="neither"):
        find_place(str(tmp_path))
    (tmp_path / "notes.mp4").write_text("no video at all")
    with pytest.raises(MediaError, match=r"notes\.mp4"):
        find_place(str(tmp_path / "notes.mp4"))


@pytest.mark.parametrize("scheme", ["http", "rtsp", "tcp"])
def test_nobody_there_is_told_without_the_password(scheme: str) -> None:
    place = find_place(f"{scheme}://me:secret@127.0.0.1:{free_port()}/x")
    with pytest.raises(MediaError, match="refused") as caught:
        connect(place, _never, silence=1.0)
    assert "secret" not in str(caught.value)


def test_a_device_that_is_no_camera_is_refused() -> None:
    with pytest.raises(MediaError, match="null"):
        connect(find_place("/dev/null"), _never, silence=1.0)


def test_a_stream_plays_in_real_time_and_a_recording_waits(tmp_path: Path) -> None:
    recorded = connect(
        find_place(str(write_video(tmp_path / "film.mp4", noise(3, side=32)))), _never, silence=1.0
    )
    recorded.close()
    assert not recorded.real_time
    with camera() as one:
        live = connect(find_place(one.address), _never, silence=5.0)
        live.close()
    assert live.real_time


def test_a_silent_pipe_is_left_when_nobody_wants_more(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    began = time.monotonic()
    with pytest.raises(MediaError, match="pipe"):
        connect(find_place(str(tmp_path / "pipe")), stop.is_set, silence=1.0)
    assert time.monotonic() - began < 3


def test_a_pipe_gives_what_is_written_into_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    data = b"".join(film(lambda n: n / 20, frames=10))
    threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(data,), daemon=True).start()
    link = connect(find_place(str(tmp_path / "pipe")), _never, silence=1.0)
    assert len(list(link.container.decode(video=0))) == 10
    link.close()
    link.close()
