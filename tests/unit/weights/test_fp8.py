"""Precision fp8: made when a model is loaded, refused where nothing multiplies so, never saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.tolerances import TOL, close
from tests.unit.weights.toys import saved, toy_model
from timeviper.core.errors import ConfigError
from timeviper.core.precision import Precision
from timeviper.model.linear import Fp8Linear
from timeviper.ops.backend import override
from timeviper.weights.loader import load_decoder, load_model, load_tower
from timeviper.weights.native import precision_of, save_model


@pytest.mark.parametrize("load", [load_model, load_decoder])
def test_layers_of_the_decoder_are_rounded_and_the_rest_is_bfloat16(
    load: object, tmp_path: Path
) -> None:
    assert callable(load)
    folder = saved(tmp_path)
    with override("fp8_linear", "emulated"):
        loaded = load(folder, device="cpu", precision=Precision.FP8)
    decoder = loaded.decoder if load is load_model else loaded
    rounded = {n for n, part in loaded.named_modules() if isinstance(part, Fp8Linear)}
    assert rounded
    assert all(".layers." in name or name.startswith("layers.") for name in rounded)
    assert isinstance(decoder.lm_head, nn.Linear)
    assert decoder.embed_tokens.weight.dtype == torch.bfloat16
    name = next(n for n, p in decoder.named_modules() if isinstance(p, Fp8Linear))
    layer, exact = decoder.get_submodule(name), toy_model().decoder.get_submodule(name)
    got = layer.values.float() * layer.scales
    close("weight", got=got, want=exact.get_parameter("weight"), tol=TOL.fp8.f32)


@pytest.mark.parametrize("load", [load_model, load_decoder, load_tower])
def test_a_device_without_fp8_is_refused_with_what_to_do(load: object, tmp_path: Path) -> None:
    assert callable(load)
    with pytest.raises(ConfigError, match=r"capability 8\.9.*no FP8 products on cpu.*bfloat16"):
        load(saved(tmp_path), device="cpu", precision=Precision.FP8)


def test_it_is_not_saved(tmp_path: Path) -> None:
    folder = saved(tmp_path / "one")
    with override("fp8_linear", "emulated"):
        model = load_model(folder, device="cpu", precision=Precision.FP8)
    with pytest.raises(ConfigError, match="FP8"):
        save_model(model, tmp_path / "two")
    with pytest.raises(ConfigError, match="FP8"):
        save_model(toy_model(), tmp_path / "two", dtype=Precision.FP8)
    assert not (tmp_path / "two").exists()


def test_the_name_of_a_format_is_never_fp8() -> None:
    assert precision_of(torch.empty(1, dtype=torch.bfloat16)) == Precision.BFLOAT16
    assert Precision.FP8.dtype == torch.bfloat16
    assert Precision("fp8").bytes == 2
