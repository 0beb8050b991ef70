"""One call loads what a folder or a name means; what is wrong with it ends in one clear error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import timeviper
from tests.unit.weights.toys import edit_config, same, saved, toy_model
from timeviper.core.errors import CheckpointError, ConfigError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.core.precision import Precision
from timeviper.weights import folders
from timeviper.weights.loader import load_decoder, load_model, load_tower
from timeviper.weights.native import save_model


def test_the_loaded_model_computes_the_same(tmp_path: Path) -> None:
    model = toy_model().eval()
    save_model(model, tmp_path)
    again = load_model(tmp_path, device="cpu", precision=Precision.FLOAT32)
    layout = TokenLayout.of((SpanKind.TEXT, 1), (SpanKind.VISION, 4), (SpanKind.INSTRUCTION, 2))
    with torch.no_grad():
        pixels = torch.randn(2, 3, 8, 8)
        assert torch.equal(again.encode_frames(pixels), model.encode_frames(pixels))
        x = torch.randn(layout.total, 16)
        assert torch.equal(again.decoder(x, layout=layout)[0], model.decoder(x, layout=layout)[0])


def test_a_bundled_name_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path / "toy")
    monkeypatch.setattr(folders, "bundled", lambda: {"small": tmp_path / "toy"})
    assert same(load_model("small", device="cpu"), toy_model())
    with pytest.raises(CheckpointError, match="small"):
        load_model("smal")


def test_the_decoder_and_the_tower_alone(tmp_path: Path) -> None:
    model = toy_model()
    save_model(model, tmp_path, max_shard_bytes=4000)
    assert same(load_decoder(tmp_path, device="cpu"), model.decoder)
    assert same(load_tower(tmp_path, device="cpu"), model.vision)


def test_the_public_name() -> None:
    assert timeviper.load_decoder is load_decoder


def test_precision_and_device_are_chosen_where_not_given(tmp_path: Path) -> None:
    weight = load_model(saved(tmp_path)).decoder.embed_tokens.weight
    on_gpu = torch.cuda.is_available()
    assert weight.device.type == ("cuda" if on_gpu else "cpu")
    assert weight.dtype == (torch.bfloat16 if on_gpu else torch.float32)


@pytest.mark.parametrize("load", [load_model, load_decoder, load_tower])
def test_a_device_that_does_not_exist(load: object, tmp_path: Path) -> None:
    assert callable(load)
    with pytest.raises(ConfigError, match="device"):
        load(saved(tmp_path), device="abacus")


@pytest.mark.parametrize("load", [load_model, load_decoder, load_tower])
@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "\ufeff"])
def test_a_broken_config_is_one_clear_error(load: object, text: str, tmp_path: Path) -> None:
    assert callable(load)
    (saved(tmp_path) / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"whole JSON object file .*config\.json"):
        load(tmp_path)


@pytest.mark.parametrize("load", [load_model, load_decoder, load_tower])
def test_another_kind_of_model_is_refused(load: object, tmp_path: Path) -> None:
    assert callable(load)
    edit_config(saved(tmp_path), model_type="mamba")
    with pytest.raises(ConfigError, match=r"model_type.*got '?mamba'?"):
        load(tmp_path)


def test_pickled_weights_beside_a_good_config_are_refused(tmp_path: Path) -> None:
    (saved(tmp_path) / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load_model(tmp_path)


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    for load in (load_model, load_decoder, load_tower):
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            load(tmp_path)


def test_the_weights_path_itself_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="a checkpoint folder"):
        load_model(saved(tmp_path) / "model.safetensors")


def test_a_config_of_other_sizes_is_noticed(tmp_path: Path) -> None:
    decoder = json.loads((saved(tmp_path) / "config.json").read_text())["decoder"]
    edit_config(tmp_path, decoder=decoder | {"intermediate_size": 25})
    with pytest.raises(CheckpointError, match=r"up_proj\.weight \[24, 16\], want \[25, 16\]"):
        load_decoder(tmp_path)
