"""The fingerprint of weights speaks of their values, not of where or how they lie."""

from __future__ import annotations

import torch
from torch import nn

from timeviper.weights.fingerprint import fingerprint


def _model(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 5), nn.LayerNorm(5))
    # Numbers that bfloat16 holds, as in a checkpoint that is stored so.
    return model.bfloat16().to(dtype)


def test_wider_formats_of_the_same_numbers_are_the_same_weights():
    known = fingerprint(_model())
    assert len(known) == 64
    assert known == fingerprint(_model(torch.float32)) == fingerprint(_model(torch.float64))


def test_the_last_bit_of_one_weight_counts():
    model = _model(torch.float32)
    known = fingerprint(model)
    weight = model[0].weight
    with torch.no_grad():
        weight[2, 3] = torch.nextafter(weight[2, 3], torch.tensor(9.0))
    assert fingerprint(model) != known


def test_names_and_shapes_count():
    known = fingerprint(nn.Sequential(nn.Linear(2, 3, bias=False)))
    flat, named = nn.Sequential(nn.Linear(3, 2, bias=False)), nn.Module()
    with torch.no_grad():
        flat[0].weight.copy_(torch.zeros(2, 3))
    same = nn.Sequential(nn.Linear(2, 3, bias=False))
    with torch.no_grad():
        same[0].weight.copy_(torch.zeros(3, 2))
    named.other = same[0]
    assert len({known, fingerprint(flat), fingerprint(same), fingerprint(named)}) == 4


def test_swapped_tensors_are_others():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    swapped = nn.ModuleDict({"a": model["b"], "b": model["a"]})
    assert fingerprint(model) != fingerprint(swapped)


def test_scalars_integers_small_floats_and_nan_have_a_fingerprint():
    model = nn.Module()
    model.alpha = nn.Parameter(torch.tensor(0.5))
    model.register_buffer("count", torch.tensor([3], dtype=torch.int64))
    model.register_buffer("small", torch.ones(4).to(torch.float8_e4m3fn))
    model.register_buffer("empty", torch.zeros(0, 3))
    model.register_buffer("odd", torch.tensor([float("nan"), 1.0]))
    known = fingerprint(model)
    assert known == fingerprint(model)
    model.count += 1
    assert fingerprint(model) != known
