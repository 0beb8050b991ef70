"""Models have their exact sizes without memory, and every wrong tensor is reported at once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from tests.unit.weights.toys import edit_tensors, same, saved, toy_config, toy_model
from timeviper.core.errors import CheckpointError
from timeviper.core.precision import Precision
from timeviper.model.decoder import Decoder
from timeviper.model.presets import preset
from timeviper.model.projector import Projector
from timeviper.model.vlm import TimeViper
from timeviper.weights import fill as room
from timeviper.weights.fill import fill, on_meta
from timeviper.weights.keymap import DEPTHWISE, Renamed
from timeviper.weights.loader import load_model
from timeviper.weights.native import save_model
from timeviper.weights.shards import Shards

CPU = torch.device("cpu")


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"), [("nano-9b-v2", 8_888_227_328), ("nano-12b-v2", 12_310_001_152)]
)
def test_exact_sizes_of_the_decoders(name: str, parameters: int) -> None:
    decoder = on_meta(lambda: Decoder(preset(name).decoder))
    assert count(decoder) == parameters
    assert all(weight.is_meta for weight in decoder.parameters())


def test_exact_size_of_the_projector() -> None:
    config = preset("nano-9b-v2").projector
    assert count(on_meta(lambda: Projector(config, 1152, 4480))) == 25_240_320


def test_exact_size_of_the_transfer_modules() -> None:
    decoder = on_meta(lambda: Decoder(preset("nano-9b-v2-transv").decoder))
    gates = [w for name, w in decoder.transfers.named_parameters() if name.endswith("alpha")]
    assert [gate.numel() for gate in gates] == [1, 1]
    assert count(decoder.transfers) == 110_100_480 + 2
    assert count(decoder) == 8_888_227_328 + 110_100_480 + 2


def test_a_model_has_nothing_that_no_checkpoint_holds() -> None:
    model = on_meta(lambda: TimeViper(toy_config()))
    assert dict(model.named_buffers()) == {}


def test_a_buffer_that_nobody_fills_is_our_own_error() -> None:
    class Forgotten(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(2), persistent=False)

    with pytest.raises(TypeError, match="scale"):
        on_meta(Forgotten)


def test_missing_extra_and_misshaped_tensors_in_one_error(tmp_path: Path) -> None:
    edit_tensors(
        saved(tmp_path),
        without=("decoder.norm.weight", "projector.linear_1.bias"),
        decoder__extra=torch.ones(2),
        other=torch.ones(2),
        decoder__embed_tokens__weight=torch.ones(41, 16),
        decoder__layers__0__mixer__D=torch.ones(1, 4),
    )
    with pytest.raises(CheckpointError) as caught:
        load_model(tmp_path, device="cpu")
    missing, extra, misshaped = caught.value.got.split("; ")
    assert missing == "missing: projector.linear_1.bias, decoder.norm.weight"
    assert extra == "not known: decoder.extra, other"
    assert misshaped == (
        "misshaped: decoder.embed_tokens.weight [41, 16], want [40, 16], "
        "decoder.layers.0.mixer.D [1, 4], want [4]"
    )
    assert "config.json" in caught.value.do


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.float8_e4m3fn, torch.bool])
def test_weights_that_are_no_floats_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    edit_tensors(saved(tmp_path), decoder__norm__weight=torch.ones(16).to(dtype))
    with pytest.raises(CheckpointError, match=r"decoder\.norm\.weight of format \w+, want one of"):
        load_model(tmp_path, device="cpu")


def test_a_misshape_is_told_in_the_stored_layout(tmp_path: Path) -> None:
    save_file({"conv": torch.ones(6, 4)}, tmp_path / "model.safetensors")
    module = nn.Module()
    module.register_parameter("kernel", nn.Parameter(torch.empty(6, 4, device="meta")))
    names = {"conv": Renamed("kernel", DEPTHWISE)}
    with pytest.raises(CheckpointError, match=r"conv \[6, 4\], want \[6, 1, 4\]"):
        fill(module, Shards(tmp_path), names, device=CPU, dtype=torch.float32)


@pytest.mark.parametrize("stored", [None, Precision.BFLOAT16, Precision.FLOAT16])
@pytest.mark.parametrize("precision", [p for p in Precision if p != Precision.FP8])
def test_any_stored_format_is_cast_to_the_wanted_one(
    stored: Precision | None, precision: Precision, tmp_path: Path
) -> None:
    save_model(toy_model(), tmp_path, dtype=stored)
    got = load_model(tmp_path, device="cpu", precision=precision)
    fine = ("A_log", "dt_bias", "D", "alpha")
    for key, value in got.state_dict().items():
        master = key.rpartition(".")[2] in fine and precision != Precision.FLOAT64
        assert value.dtype == (torch.float32 if master else precision.dtype), key


def test_loaded_weights_do_not_hang_on_their_file(tmp_path: Path) -> None:
    model = toy_model()
    save_model(model, tmp_path)
    got = load_model(tmp_path, device="cpu")
    path = tmp_path / "model.safetensors"
    with path.open("r+b") as file:
        file.write(b"\x00" * path.stat().st_size)
    assert same(got, model)


def test_loaded_weights_can_be_trained(tmp_path: Path) -> None:
    got = load_model(saved(tmp_path), device="cpu")
    assert all(weight.requires_grad and weight.is_leaf for weight in got.parameters())
    assert not got.training


def test_one_tensor_at_a_time_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path)
    alive: list[int] = []
    put = room._put

    def counting(module: nn.Module, key: str, value: torch.Tensor) -> None:
        alive.append(sum(not weight.is_meta for weight in module.parameters()))
        put(module, key, value)

    monkeypatch.setattr(room, "_put", counting)
    load_model(tmp_path, device="cpu")
    weights = len(Shards(tmp_path).shapes)
    assert alive[:weights] == list(range(weights))
