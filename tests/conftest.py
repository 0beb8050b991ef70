"""What every test starts from: fixed chance, one thread, no network, checked axes."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

if not torch.cuda.is_available():
    # Read when a kernel is defined, Triton's own among them: before anything imports Triton.
    os.environ.setdefault("TRITON_INTERPRET", "1")

import jaxtyping

# Axis strings of the public edges are checked while testing; before every import of ours.
_CHECKED_ROOMS = ["timeviper.ops", "timeviper.video", "timeviper.model", "timeviper.processing"]
_hook = jaxtyping.install_import_hook(_CHECKED_ROOMS, "beartype.beartype")

import random  # noqa: E402

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

settings.register_profile(
    "home", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=30
)
settings.register_profile("ci", settings.get_profile("home"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "home")

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _same_chance_for_every_test() -> None:
    """Each test draws the same numbers, alone or among others, in any order."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where no CUDA device is present."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)
