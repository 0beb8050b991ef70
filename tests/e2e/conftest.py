"""A checkpoint folder of toy size and a small real video, written once a worker."""

from __future__ import annotations

import signal
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


@pytest.fixture(scope="session", autouse=True)
def _programs_can_be_interrupted() -> None:
    """A shell's background job ignores Ctrl-C, and so would every program that tests start."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
