"""Media that all tests of training data share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.training.data.toys import write_media


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two videos and two pictures."""
    return write_media(tmp_path_factory.mktemp("media"))
