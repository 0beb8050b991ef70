"""The paper's recipe as a config: its stages, its rates, and a forecast for eight GPUs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from recipes.paper import paper, parse
from timeviper.core.config import from_dict
from timeviper.model.presets import nano_9b_transv
from timeviper.training.budget import forecast
from timeviper.training.run import TrainConfig
from timeviper.training.stages import Part

REPOSITORY = Path(__file__).parents[3]


def words(home: Path, *more: str) -> list[str]:
    data = {
        "datasets": [{"name": "images", "files": ["images.jsonl"]}],
        "reading": {"budget": 16384, "max_frames": 256},
    }
    path = home / "data.json"
    path.write_text(json.dumps(data))
    return ["--language", "nemotron", "--tower", "siglip", "--align", str(path),
            "--instruct", str(path), *more]  # fmt: skip


def test_it_is_what_section_9_of_the_specification_says(tmp_path: Path) -> None:
    config = paper(parse(words(tmp_path, "--transfer-steps", "5")))
    align, instruct, last = config.stages
    assert align.train == (Part.PROJECTOR,)
    assert (align.merge, align.drop) == (False, False)
    assert set(instruct.train) == {Part.PROJECTOR, Part.LANGUAGE, Part.TRANSFER}
    assert (instruct.merge, instruct.drop) == (True, True)
    assert last.train == (Part.TRANSFER,)
    for stage in config.stages:
        assert (stage.learning_rate, stage.transfer_rate) == (1e-5, 5e-5)
        assert (stage.weight_decay, stage.warmup_ratio, stage.schedule) == (0.01, 0.03, "cosine")


def test_eight_gpus_of_80_gb_are_forecast_to_hold_both_stages(tmp_path: Path) -> None:
    config = paper(parse(words(tmp_path)))
    for stage in config.stages:
        assert forecast(nano_9b_transv(), stage, config, ranks=8).total_bytes < 75e9
    whole = forecast(nano_9b_transv(), config.stages[1], config, ranks=1)
    assert whole.total_bytes > 80e9


def test_its_output_is_a_config(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "recipes.paper", *words(tmp_path)],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    config = from_dict(TrainConfig, json.loads(ran.stdout))
    assert config == paper(parse(words(tmp_path)))
