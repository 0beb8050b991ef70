"""The files that the tests of this room share; each is encoded once for a whole run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.video.files import RECIPES, encode


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the path of a file of `RECIPES`, by its name."""
    folder = tmp_path_factory.mktemp("videos")

    def path_of(name: str) -> Path:
        path = folder / name
        return path if path.exists() else encode(path, RECIPES[name])

    return path_of
