"""The recipe of the model that ships: what it embeds, and a run of a few steps to the end."""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recipes import tiny
from tests.tolerances import TOL, close
from tests.unit.training.toys import maker, mix
from timeviper.core.layout import TokenLayout
from timeviper.inference.engine import Engine
from timeviper.synth.draw import atlas_tensor
from timeviper.training.courses import COURSES
from timeviper.training.distributed import Group
from timeviper.weights.loader import resolve

REPOSITORY = Path(__file__).parents[3]


def test_videos_are_embedded_as_the_engine_embeds_them(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Engine.load("tiny", device="cpu").model
    batch = maker(mix(8, 3, 1))(0)
    generator = torch.Generator().manual_seed(1)
    pixels = torch.rand(3 * 8, 3, 96, 96, generator=generator) * 2 - 1

    calls: list[int] = []

    def drawn(painter, number, seconds, *, size, generator, spoil):
        calls.append(len(number))
        assert size == 96
        assert number.tolist() == [video for video in range(3) for _ in range(8)]
        assert seconds.tolist() == [float(second) for _ in range(3) for second in range(8)]
        # In parts, as a large step is drawn.
        yield from pixels.split(10)

    monkeypatch.setattr(tiny, "seen_frames", drawn)
    run = tiny.Run(
        args=argparse.Namespace(), group=Group(), atlas=atlas_tensor(48), footage=None, stop_at=0.0
    )
    looker = tiny.Looker(model, run)
    with torch.no_grad():
        got = tiny.embed_videos(model, batch, looker(batch))
        # The same worlds again are not drawn again.
        looker(replace(batch, step=7))
        assert calls == [24]
        looker(replace(batch, film=7))
        assert calls == [24, 24]
        layout = TokenLayout.from_kinds(batch.video.kinds, list(batch.video_lengths))
        want = model.embed(torch.from_numpy(batch.video.ids), model.encode_frames(pixels), layout)
    close("embedded", got=got.hidden, want=want, tol=TOL.training.f32)
    np.testing.assert_array_equal(got.kinds, layout.kinds)
    assert got.lengths == batch.video_lengths


def run_recipe(*options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "recipes/tiny.py", *map(str, options)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_tells_both_courses() -> None:
    ran = run_recipe("--help")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.count("recipes/tiny.py") >= 2
    for name in COURSES:
        assert f"--course {name}" in ran.stdout


@pytest.mark.slow
def test_both_stages_end_in_a_folder_that_answers(tmp_path: Path) -> None:
    sizes = ["--tower-steps", "2", "--steps", "2", "--frames", "64", "--workers", "0"]
    ran = run_recipe("--out", tmp_path, "--tokenizer", resolve("tiny"), *sizes, "--device", "cpu")
    assert ran.returncode == 0, ran.stderr
    assert '"complete": true' in ran.stdout
    assert {"tower.jsonl", "model"} <= {path.name for path in tmp_path.iterdir()}
    engine = Engine.load(tmp_path / "model", device="cpu")
    frames = np.zeros((3, 96, 96, 3), dtype=np.uint8)
    answer = engine.ask(frames, "What appears in the video?")
    assert answer.frames == 3
    assert answer.tokens > 0
