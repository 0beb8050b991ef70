"""Exact sizes of the paper's models, and what they hold of a video."""

from __future__ import annotations

import pytest

from timeviper.cli.sizes import size
from timeviper.cli.survey import survey
from timeviper.core.precision import Precision
from timeviper.inference.planning.footprint import parameters_by_part
from timeviper.model.presets import preset


@pytest.mark.parametrize(
    ("name", "decoder", "transfer"),
    [
        ("nano-9b-v2", 8_888_227_328, 0),
        ("nano-9b-v2-transv", 8_888_227_328, 110_100_480 + 2),
        ("nano-12b-v2", 12_310_001_152, 0),
        ("qwen2.5-7b", 7_615_616_512, 0),
    ],
)
def test_exact_sizes(name: str, decoder: int, transfer: int) -> None:
    record = survey(preset(name), frames=0, precision=Precision.BFLOAT16)
    assert record["decoder_parameters"] == decoder
    assert record["parameters"]["transfer modules"] == transfer
    assert record["weight_bytes"] == 2 * record["parameters"]["total"]


def test_the_projector_of_the_paper() -> None:
    assert parameters_by_part(preset("nano-9b-v2"))["projector"] == 25_240_320


def test_ten_thousand_frames_of_the_9b_model() -> None:
    bare, ours = (
        survey(preset(name), frames=10_000, precision=Precision.BFLOAT16)["video"]
        for name in ("nano-9b-v2", "nano-9b-v2-transv")
    )
    assert bare["keys_values_bytes"] == pytest.approx(2.64e9, rel=0.01)
    assert bare["waiting_bytes"] == bare["parked_bytes"] == 0
    # Layer 39 is reached when a question comes.
    assert ours["keys_values_bytes"] == pytest.approx(1.00e9, rel=0.02)
    assert ours["waiting_bytes"] == pytest.approx(0.33e9, rel=0.02)
    assert ours["parked_bytes"] == pytest.approx(0.72e9, rel=0.01)
    assert ours["mamba_state_bytes"] == bare["mamba_state_bytes"] == pytest.approx(143e6, rel=0.01)
    assert ours["total_bytes"] < bare["total_bytes"]


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (143_500_000, "143.5 MB"), (5e12, "5000.0 GB")],
)
def test_sizes_in_words(count: int, words: str) -> None:
    assert size(count) == words
