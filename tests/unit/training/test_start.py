"""First weights: a model of ours, or a language model and a tower put together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from tests.parity.toys import make_pair
from tests.toy_engine import SIDE, byte_tokenizer
from tests.unit.training.journey import write_toy
from timeviper.core.errors import ConfigError
from timeviper.core.precision import Precision
from timeviper.model.config import (
    DropPolicy,
    ProjectorConfig,
    TimeViperConfig,
    TransferPlan,
    TransferSite,
)
from timeviper.model.presets import PRESETS
from timeviper.training.start import (
    StartConfig,
    processor_of,
    start_config,
    start_model,
    start_processor,
)
from timeviper.weights.loader import load_decoder, load_tower

CPU = torch.device("cpu")
SITES = (
    TransferSite(layer=2, policy=DropPolicy.UNIFORM_STREAM, drop_rate=0.5),
    TransferSite(layer=3, policy=DropPolicy.ATTENTION, drop_rate=0.5),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A Nemotron-H and a SigLIP, as transformers save them, with a tokenizer beside the first."""
    home = tmp_path_factory.mktemp("parts")
    make_pair("M-M*-M-", home / "language")
    byte_tokenizer().save(home / "language")
    sizes = SiglipVisionConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=4, num_attention_heads=3,
        patch_size=4, image_size=SIDE,
    )  # fmt: skip
    SiglipVisionModel(sizes).eval().save_pretrained(home / "tower")
    return home / "language", home / "tower"


@pytest.fixture
def start(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> StartConfig:
    """A preset of those sizes, with two sites."""
    decoder = load_decoder(folders[0], device="cpu").config
    vision = load_tower(folders[1], device="cpu").config
    config = TimeViperConfig(
        name="pair",
        vision=vision,
        projector=ProjectorConfig(tokens_per_frame=4, merge_heads=3),
        decoder=replace(decoder, transfer=TransferPlan(sites=SITES)),
    )
    monkeypatch.setitem(PRESETS, "pair", lambda: config)
    return StartConfig(
        model="pair", language=str(folders[0]), tower=str(folders[1]), template="tiny"
    )


def test_two_models_become_one(start: StartConfig, folders: tuple[Path, Path]) -> None:
    model = start_model(start, device=CPU, seed=1)
    language = load_decoder(folders[0], device="cpu", precision=Precision.FLOAT32)
    tower = load_tower(folders[1], device="cpu", precision=Precision.FLOAT32)
    own = model.decoder.state_dict()
    for name, value in language.state_dict().items():
        assert torch.equal(own[name], value), name
    for name, value in tower.state_dict().items():
        assert torch.equal(model.vision.state_dict()[name], value), name
    # Both sites copy the attention at or after them; their gates are closed.
    for transfer in model.decoder.transfers.values():
        assert torch.equal(transfer.q_proj.weight, own["layers.3.mixer.q_proj.weight"])
        assert transfer.alpha.item() == 0
    assert not any(p.is_meta for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_drawn_weights_depend_on_the_seed_alone(start: StartConfig) -> None:
    bare = replace(start, language=None, tower=None)
    torch.manual_seed(1)
    one = start_model(bare, device=CPU, seed=1).state_dict()
    torch.manual_seed(2)
    again, other = (start_model(bare, device=CPU, seed=s).state_dict() for s in (1, 2))
    assert all(torch.equal(one[name], again[name]) for name in one)
    for name in ("projector.linear_1.weight", "decoder.embed_tokens.weight"):
        assert not torch.equal(one[name], other[name])
    assert all(value.isfinite().all() for value in one.values())


def test_a_model_of_ours_is_all_that_is_needed(tmp_path: Path) -> None:
    start = StartConfig(model=str(write_toy(tmp_path / "toy")))
    model = start_model(start, device=CPU, seed=0)
    assert model.config == start_config(start)
    assert start_processor(start).config.tokens_per_frame == model.config.tokens_per_frame


def test_the_processor_of_a_preset_reads_its_tokenizer(start: StartConfig) -> None:
    processor = start_processor(start)
    assert processor.config.tokens_per_frame == 4
    assert processor.image.size == SIDE
    all_of_them = replace(start_config(start), projector=ProjectorConfig(tokens_per_frame=None))
    assert processor_of(processor, all_of_them).config.tokens_per_frame == (SIDE // 4) ** 2


def test_a_preset_without_a_tokenizer_is_refused(start: StartConfig) -> None:
    with pytest.raises(ConfigError, match=r"set `start\.tokenizer`"):
        start_processor(replace(start, language=None))


@pytest.mark.parametrize("what", ["language", "tower"])
def test_parts_of_other_sizes_are_refused_by_what_differs(
    what: str, start: StartConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = start_config(start)
    other = (
        replace(config, decoder=replace(config.decoder, vocab_size=65))
        if what == "language"
        else replace(config, vision=replace(config.vision, intermediate_size=41))
    )
    monkeypatch.setitem(PRESETS, "pair", lambda: other)
    with pytest.raises(ConfigError, match=r"vocab_size 64 \(want 65\)|size 40 \(want 41\)"):
        start_model(start, device=CPU, seed=0)
