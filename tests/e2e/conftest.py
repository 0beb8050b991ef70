"""A checkpoint folder of toy size and a small real video, written once a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy_engine import noise, toy_engine, write_video
from timeviper.weights.native import save_model


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint with random weights; copy it before spoiling it."""
    folder = tmp_path_factory.mktemp("toy") / "model"
    engine = toy_engine(context=512)
    save_model(engine.model.float(), folder)
    engine.processor.save(folder)
    return folder


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds of noise at one frame a second."""
    return write_video(tmp_path_factory.mktemp("video") / "noise [1].mp4", noise(12, side=32))
