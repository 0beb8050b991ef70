"""The whole model: merging, projecting, fusing and running agree stage by stage."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.tolerances import TOL, close
from tests.unit.model.toys import HYBRID, PLANS, one
from timeviper.core.errors import ConfigError, LayoutError
from timeviper.core.inputs import ModelInputs
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.config import (
    ProjectorConfig,
    TimeViperConfig,
    TransferPlan,
    VisionConfig,
)
from timeviper.model.fusion import fuse
from timeviper.model.init import init_decoder, init_linear
from timeviper.model.projector import Projector
from timeviper.model.vlm import TimeViper, under_plan
from timeviper.ops.merge import tome

KEPT, SIDE = 4, 12
CONFIG = TimeViperConfig(
    vision=VisionConfig(
        tower="siglip",
        hidden_size=12,
        intermediate_size=16,
        num_layers=2,
        num_heads=2,
        image_size=SIDE,
        patch_size=4,
        feature_layer=-1,
    ),
    projector=ProjectorConfig(tokens_per_frame=KEPT, merge_heads=2),
    decoder=replace(HYBRID, transfer=TransferPlan(sites=PLANS["paper"])),
)


def model() -> TimeViper:
    torch.manual_seed(3)
    built = TimeViper(CONFIG)
    generator = torch.Generator().manual_seed(3)
    init_decoder(built.decoder, generator)
    init_linear(built.projector, 0.3, generator)
    return built.eval()


def inputs(*frames: int) -> ModelInputs:
    """One conversation for each number of frames, packed."""
    layout = TokenLayout.pack([one(2, [(1, KEPT)] * n, 3, 1) for n in frames])
    total = sum(frames)
    ids = torch.randint(0, 24, (layout.total,))
    # A placeholder past the table, as tokenizers add it.
    ids[torch.from_numpy(layout.positions(SpanKind.VISION))] = 24
    return ModelInputs(
        token_ids=ids,
        layout=layout,
        pixels=torch.randn(total, 3, SIDE, SIDE) if total else None,
        times=np.arange(float(total)) if total else None,
    )


# --- projector


def test_the_projector_merges_then_projects() -> None:
    projector = Projector(CONFIG.projector, 12, 16).double()
    features = torch.randn(3, 9, 12, dtype=torch.float64)
    merged = tome(features, KEPT, metric_heads=2)[0]
    assert torch.equal(projector.merge(features), merged)
    want = projector.linear_2(F.gelu(projector.linear_1(merged)))
    close("projector", got=projector(features), want=want, tol=TOL.model.f64)
    assert projector(features).shape == (3, KEPT, 16)


def test_each_frame_is_projected_alone() -> None:
    projector = Projector(CONFIG.projector, 12, 16).double()
    features = torch.randn(5, 9, 12, dtype=torch.float64)
    alone = torch.cat([projector(frame[None]) for frame in features])
    close("frames", got=projector(features), want=alone, tol=TOL.model.f64)


def test_without_merging_every_patch_stays_in_order() -> None:
    projector = Projector(ProjectorConfig(tokens_per_frame=None), 12, 16)
    features = torch.randn(2, 9, 12)
    assert projector.merge(features) is features
    assert projector(features).shape == (2, 9, 16)
    assert replace(CONFIG, projector=ProjectorConfig(tokens_per_frame=None)).tokens_per_frame == 9


def test_the_projector_refuses_what_it_cannot_merge() -> None:
    many = Projector(ProjectorConfig(tokens_per_frame=10, merge_heads=2), 12, 16)
    with pytest.raises(ConfigError, match="between 1 and 9 tokens to keep of 9 patches; got 10"):
        many(torch.randn(1, 9, 12))
    odd = Projector(ProjectorConfig(tokens_per_frame=4, merge_heads=5), 12, 16)
    with pytest.raises(ConfigError, match="divide 12 channels; got 5"):
        odd(torch.randn(1, 9, 12))


# --- fusion


def test_vision_tokens_take_their_places_in_order() -> None:
    layout = TokenLayout.pack([one(1, [(1, 2)] * 2, 1, 0), one(0, [(0, 2)], 0, 0)])
    text = torch.zeros(layout.total, 1)
    vision = torch.arange(1.0, 7.0).view(3, 2, 1)
    got = fuse(text, vision, layout)
    assert got.flatten().tolist() == [0, 0, 1, 2, 0, 3, 4, 0, 5, 6]
    assert not text.any()


def test_fusion_keeps_precision_and_gradients_of_both() -> None:
    layout = one(1, [(0, 2)], 1, 0)
    text = torch.zeros(4, 1, requires_grad=True)
    vision = torch.ones(1, 2, 1, dtype=torch.bfloat16, requires_grad=True)
    got = fuse(text, vision, layout)
    assert got.dtype == torch.float32
    (got * torch.tensor([[1.0], [2.0], [3.0], [4.0]])).sum().backward()
    assert text.grad is not None
    assert vision.grad is not None
    assert text.grad.flatten().tolist() == [1, 0, 0, 4]
    assert vision.grad.flatten().tolist() == [2, 3]


@pytest.mark.parametrize(
    ("frames", "kept", "message"),
    [
        (3, 2, "6 places for 3 frames of 2 tokens; got 4"),
        (2, 3, "6 places for 2 frames of 3 tokens; got 4"),
        (0, 0, "0 places for 0 frames of 0 tokens; got 4"),
    ],
)
def test_fusion_refuses_misalignment_with_the_numbers(frames: int, kept: int, message: str) -> None:
    layout = one(1, [(0, 2)] * 2, 1, 0)
    vision = torch.ones(frames, kept, 1) if frames else None
    with pytest.raises(LayoutError, match=message):
        fuse(torch.zeros(6, 1), vision, layout)


def test_fusion_refuses_text_of_another_length_and_frames_without_places() -> None:
    with pytest.raises(LayoutError, match="6 embedded tokens; got 5"):
        fuse(torch.zeros(5, 1), None, one(6, [], 0, 0))
    with pytest.raises(LayoutError, match="2 places for 1 frames of 2 tokens; got 0"):
        fuse(torch.zeros(6, 1), torch.ones(1, 2, 1), one(6, [], 0, 0))


# --- the whole


def test_a_pack_of_videos_equals_each_alone() -> None:
    whole, pack = model(), inputs(4, 0, 2)
    assert pack.pixels is not None
    with torch.no_grad():
        together, _ = whole(pack)
    rows = together.hidden.split(list(together.lengths))
    ids, frames = pack.token_ids.split(list(pack.layout.lengths)), pack.pixels.split([4, 0, 2])
    for number, count in enumerate((4, 0, 2)):
        single = ModelInputs(
            token_ids=ids[number],
            layout=TokenLayout((pack.layout.sequences[number],)),
            pixels=frames[number] if count else None,
            times=np.arange(float(count)) if count else None,
        )
        with torch.no_grad():
            alone, _ = whole(single)
        close(f"sequence {number}", got=rows[number], want=alone.hidden, tol=TOL.model.f32)


def test_stages_by_name_are_the_whole_call() -> None:
    whole, pack = model(), inputs(3)
    assert pack.pixels is not None
    with torch.no_grad():
        want, _ = whole(pack)
        features = whole.vision(pack.pixels)
        vision = whole.projector.project(whole.projector.merge(features))
        close("frames", got=whole.encode_frames(pack.pixels), want=vision, tol=0.0)
        x = whole.embed(pack.token_ids, vision, pack.layout)
        got, _ = whole.decoder(x, layout=pack.layout)
    assert torch.equal(got, want.hidden)
    text = torch.from_numpy(pack.layout.kinds != SpanKind.VISION.code)
    assert torch.equal(x[text], whole.decoder.embed(pack.token_ids[text]))


def test_a_placeholder_may_lie_past_the_table_but_text_may_not() -> None:
    whole, pack = model(), inputs(1)
    vision = torch.randn(1, KEPT, 16)
    beyond = pack.token_ids.clone()
    beyond[0] = 24
    with pytest.raises(IndexError):
        whole.embed(beyond, vision, pack.layout)
    with pytest.raises(LayoutError, match="11 token ids; got 10"):
        whole.embed(pack.token_ids[:10], vision, pack.layout)


def test_every_parameter_learns_when_the_gates_are_open() -> None:
    whole, pack = model().train(), inputs(4, 3)
    for transfer in whole.decoder.transfers.values():
        torch.nn.init.constant_(transfer.get_parameter("alpha"), 0.5)
    out, _ = whole(pack)
    (whole.decoder.logits(out.hidden) * torch.randn(24)).sum().backward()
    for name, parameter in whole.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # A bias that all keys share shifts every score alike and has no effect.
        assert parameter.grad.any() or name.endswith("k_proj.bias"), name


def test_bfloat16_weights_take_float32_frames() -> None:
    whole, pack = model().bfloat16(), inputs(2)
    with torch.no_grad():
        out, _ = whole(pack)
    assert out.hidden.dtype == torch.bfloat16
    assert torch.isfinite(out.hidden).all()


def test_another_plan_shares_every_weight_and_leaves_the_model_alone() -> None:
    built, plain = model(), TransferPlan()
    other = under_plan(built, plain)
    assert other.config.decoder.transfer == other.decoder.config.transfer == plain
    assert built.config == CONFIG
    assert built.decoder.config == CONFIG.decoder
    mine, theirs = dict(built.named_parameters()), dict(other.named_parameters())
    assert {n: id(p) for n, p in mine.items()} == {n: id(p) for n, p in theirs.items()}
    assert not other.training
    shown = inputs(3, 5)
    with torch.no_grad():
        on, off = built(shown)[0], other(shown)[0]
        again = under_plan(other, CONFIG.decoder.transfer)(shown)[0]
    # Nothing is dropped any more; under its own plan it is itself again.
    assert len(on.kinds) < len(off.kinds) == shown.layout.total
    assert torch.equal(again.hidden, on.hidden)


def test_a_plan_without_its_weights_is_refused() -> None:
    torch.manual_seed(3)
    bare = TimeViper(replace(CONFIG, decoder=HYBRID))
    with pytest.raises(ConfigError, match="sites that transfer at layers none"):
        under_plan(bare, CONFIG.decoder.transfer)
