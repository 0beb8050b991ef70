"""A toy run on disk: a model, data of every kind, and a config of two stages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tests.toy_engine import toy_config, toy_model, toy_processor
from tests.unit.training.data.toys import varied, write_lines, write_media
from timeviper.weights.native import save_model

STEPS = 3


def write_toy(folder: Path, sites: str = "transv") -> Path:
    """A checkpoint folder of the toy model."""
    save_model(toy_model(toy_config(sites), dtype=torch.float32), folder)
    toy_processor().save(folder)
    return folder


def write_run(home: Path, **changes: Any) -> Path:
    """`run.json` beside `toy`, `media` and `data.jsonl`."""
    write_toy(home / "toy")
    write_media(home / "media")
    write_lines(home / "data.jsonl", varied(12))
    data = {
        "datasets": [{"name": "varied", "files": ["data.jsonl"], "media_root": "media"}],
        "reading": {"budget": 260, "too_long": "cut"},
        "packing": {"workers": 0, "most_open": 2},
    }
    stages = [
        {"name": "align", "train": ["projector"], "steps": STEPS, "data": data, "drop": False,
         "merge": True, "learning_rate": 1e-3},
        {"name": "instruct", "train": ["projector", "language", "transfer"], "steps": STEPS,
         "data": data, "learning_rate": 1e-3, "transfer_rate": 5e-3, "accumulate": 2},
    ]  # fmt: skip
    config = {
        "folder": "out",
        "start": {"model": "toy"},
        "stages": stages,
        "compute": "float32",
        "log_every": 1,
    }
    path = home / "run.json"
    path.write_text(json.dumps(config | changes))
    return path
