"""What is saved is Hugging Face shaped and comes back bit for bit; a wrong config is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.unit.weights.toys import edit_config, same, saved, toy_config, toy_model
from timeviper.core.errors import CheckpointError, ConfigError
from timeviper.core.precision import Precision
from timeviper.model.presets import PRESETS, preset
from timeviper.weights import native
from timeviper.weights.loader import load_model
from timeviper.weights.native import read_config, save_model, wanted_dtype, write_config
from timeviper.weights.shards import Shards


def test_the_folder_is_hugging_face_shaped(tmp_path: Path) -> None:
    saved(tmp_path / "toy")
    assert {p.name for p in (tmp_path / "toy").iterdir()} == {"config.json", "model.safetensors"}
    data = json.loads((tmp_path / "toy" / "config.json").read_text())
    assert data["model_type"] == "timeviper"
    assert data["architectures"] == ["TimeViperForConditionalGeneration"]
    assert data["dtype"] == "float32"
    assert data["decoder"]["pattern"] == "M-*M"


def test_the_config_comes_back(tmp_path: Path) -> None:
    assert read_config(saved(tmp_path)) == toy_config()


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_comes_back(name: str, tmp_path: Path) -> None:
    write_config(preset(name), tmp_path, dtype=Precision.BFLOAT16)
    assert read_config(tmp_path) == preset(name)


@pytest.mark.parametrize("most", [10**9, 4000, 1])
@pytest.mark.parametrize("tied", [False, True])
def test_the_weights_come_back_bit_for_bit(most: int, tied: bool, tmp_path: Path) -> None:
    model = toy_model(tied=tied)
    save_model(model, tmp_path, max_shard_bytes=most)
    assert same(load_model(tmp_path, device="cpu"), model)


def test_a_tied_head_is_not_stored(tmp_path: Path) -> None:
    save_model(toy_model(tied=True), tmp_path / "tied")
    save_model(toy_model(), tmp_path / "own")
    assert "decoder.lm_head.weight" in Shards(tmp_path / "own").shapes
    assert "decoder.lm_head.weight" not in Shards(tmp_path / "tied").shapes


@pytest.mark.parametrize("dtype", [Precision.BFLOAT16, Precision.FLOAT16])
def test_stored_formats(dtype: Precision, tmp_path: Path) -> None:
    model = toy_model()
    save_model(model, tmp_path, dtype=dtype)
    formats = Shards(tmp_path).formats
    coarse = {k for k, v in formats.items() if v != "F32"}
    fine = {k.rpartition(".")[2] for k in formats.keys() - coarse}
    assert fine == {"A_log", "dt_bias", "D", "alpha"}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == dtype.value
    back = load_model(tmp_path, device="cpu", precision=Precision.FLOAT32).state_dict()
    for key, value in model.state_dict().items():
        stored = value.to(dtype.dtype).float() if key in coarse else value
        assert torch.equal(back[key], stored), key


def test_saving_again_renews_weights_and_keeps_the_rest(tmp_path: Path) -> None:
    save_model(toy_model(), tmp_path, max_shard_bytes=4000)
    (tmp_path / "tokenizer.json").write_text("{}")
    newer = toy_model(seed=5)
    save_model(newer, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert same(load_model(tmp_path, device="cpu"), newer)


def test_a_failure_halfway_leaves_the_old_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = toy_model()
    save_model(old, tmp_path / "toy")

    def failing(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(native, "write_config", failing)
    with pytest.raises(CheckpointError, match="No space left"):
        save_model(toy_model(seed=5), tmp_path / "toy")
    assert same(load_model(tmp_path / "toy", device="cpu"), old)
    assert [p.name for p in tmp_path.iterdir()] == ["toy"]


@pytest.mark.parametrize("key", ["hidden", "Decoder", "rope_scaling"])
def test_an_unknown_key_is_refused(key: str, tmp_path: Path) -> None:
    edit_config(saved(tmp_path), **{key: 1})
    with pytest.raises(ConfigError, match=f"unknown key '{key}'"):
        read_config(tmp_path)


def test_an_unknown_key_deep_inside_is_refused(tmp_path: Path) -> None:
    decoder = json.loads((saved(tmp_path) / "config.json").read_text())["decoder"]
    decoder["mamba"]["head_dimm"] = 4
    edit_config(tmp_path, decoder=decoder)
    with pytest.raises(ConfigError, match=r"decoder\.mamba.*unknown key 'head_dimm'"):
        read_config(tmp_path)


def test_a_wrong_pattern_letter_is_pointed_at(tmp_path: Path) -> None:
    decoder = json.loads((saved(tmp_path) / "config.json").read_text())["decoder"]
    edit_config(tmp_path, decoder=decoder | {"pattern": "M-Q*"})
    with pytest.raises(ConfigError, match=r"'Q' at position 2 of 'M-Q\*'"):
        load_model(tmp_path, device="cpu")


def test_keys_that_hugging_face_adds_are_passed_over(tmp_path: Path) -> None:
    edit_config(saved(tmp_path), transformers_version="5.23.0")
    assert read_config(tmp_path) == toy_config()


@pytest.mark.parametrize("kind", ["llama", None, 3])
def test_another_model_type_is_refused(kind: object, tmp_path: Path) -> None:
    edit_config(saved(tmp_path), model_type=kind)
    with pytest.raises(ConfigError, match="load_decoder"):
        read_config(tmp_path)


def test_a_missing_section_is_named(tmp_path: Path) -> None:
    path = saved(tmp_path) / "config.json"
    data = json.loads(path.read_text())
    del data["vision"]
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="to have vision"):
        read_config(tmp_path)


@pytest.mark.parametrize("name", ["A_log", "layers.3.mixer.D", "x.dt_bias", "transfers.7.alpha"])
def test_masters_stay_fine(name: str) -> None:
    assert wanted_dtype(name, torch.bfloat16) == torch.float32
    assert wanted_dtype(name, torch.float64) == torch.float64
    assert wanted_dtype(f"{name}.weight", torch.bfloat16) == torch.bfloat16
