"""Exact sizes of the paper's models, and forecasts that equal what a decoder really holds."""

from __future__ import annotations

import pytest
import torch

from timeviper.cli.sizes import size
from timeviper.cli.survey import parameters_by_part, survey, video_cost
from timeviper.core.layout import Span, SpanKind, TokenLayout
from timeviper.core.precision import Precision
from timeviper.model.config import TimeViperConfig
from timeviper.model.decoder import Decoder
from timeviper.model.presets import preset
from timeviper.model.state import AttentionMemory


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
        video_cost(preset(name), frames=10_000, precision=Precision.BFLOAT16)
        for name in ("nano-9b-v2", "nano-9b-v2-transv")
    )
    assert bare.kv_bytes == pytest.approx(2.62e9, rel=0.01)
    assert bare.waiting_bytes == bare.parked_bytes == 0
    assert ours.kv_bytes == pytest.approx(1.02e9, rel=0.01)
    assert ours.waiting_bytes == pytest.approx(0.33e9, rel=0.01)
    assert ours.parked_bytes == pytest.approx(0.72e9, rel=0.01)
    assert ours.state_bytes == bare.state_bytes == pytest.approx(143e6, rel=0.01)
    assert ours.total_bytes < bare.total_bytes


def _held(config: TimeViperConfig, frames: int) -> tuple[int, int]:
    """Bytes that a decoder holds after the video alone, and keys and values after a question."""
    decoder = Decoder(config.decoder)
    video = TokenLayout(((Span(SpanKind.VISION, frames * config.tokens_per_frame),),))
    asked = TokenLayout(((Span(SpanKind.INSTRUCTION, 1),),))
    width = config.decoder.hidden_size
    with torch.no_grad():
        _, waiting = decoder(torch.randn(video.total, width), layout=video, more=True)
        _, after = decoder(torch.randn(1, width), waiting, layout=asked)
    keys = sum(m.nbytes for m in after.memories if isinstance(m, AttentionMemory))
    states = sum(m.nbytes for m in after.memories if m and not isinstance(m, AttentionMemory))
    pending = sum(p.nbytes for p in waiting.pending if p)
    return states + pending, keys


@pytest.mark.parametrize("name", ["tiny", "tiny-transv"])
def test_the_forecast_is_what_a_decoder_holds(name: str) -> None:
    config, frames = preset(name), 30
    cost = video_cost(config, frames=frames, precision=Precision.FLOAT32)
    held, keys = _held(config, frames)
    assert held == cost.state_bytes + cost.waiting_bytes + cost.parked_bytes
    one = survey(config, frames=0, precision=Precision.FLOAT32)["kv_bytes_per_token"]
    assert keys == cost.kv_bytes + one


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (143_500_000, "143.5 MB"), (5e12, "5000.0 GB")],
)
def test_sizes_in_words(count: int, words: str) -> None:
    assert size(count) == words
