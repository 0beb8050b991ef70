"""One door for everything that holds frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from timeviper.core.errors import MediaError
from timeviper.video.file_source import FileSource
from timeviper.video.source import open_video
from timeviper.video.still_sources import ArraySource, FolderSource


def test_what_is_given_decides(video: Callable[[str], Path]) -> None:
    path = video("h264.mp4")
    assert isinstance(open_video(path), FileSource)
    assert isinstance(open_video(str(path)), FileSource)
    assert isinstance(open_video(np.zeros((1, 2, 2, 3), np.uint8)), ArraySource)
    source = open_video(path)
    assert open_video(source) is source


def test_a_folder_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="without a picture"):
        open_video(tmp_path)
    assert not isinstance(FolderSource, FileSource)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "nul\0byte.mp4",
        "nowhere.mp4",
        "https://example.org/film.mp4",
        "concat:a.mp4|b.mp4",
        "data:video/mp4;base64,AAAA",
        "x" * 5000,
    ],
)
def test_names_without_a_file_behind_are_refused(name: str) -> None:
    with pytest.raises(MediaError) as caught:
        open_video(name)
    assert caught.value.do
