"""ToMe against a slow merge with lists, its schedule, its order and its conserved mass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.ops.draws import gradients
from timeviper.core.errors import ConfigError
from timeviper.ops.merge import merge_schedule, tome


def slow_tome(frame: Tensor, keep: int, heads: int) -> tuple[Tensor, list[int]]:
    """Merge the patches of one frame with lists of members; no batch, no weights carried."""
    features = frame.double()
    members = [[i] for i in range(len(features))]
    while len(members) > keep:
        remove = min(len(members) // 2, len(members) - keep)
        tokens = torch.stack([features[m].mean(0) for m in members])
        metric = tokens.reshape(len(members), heads, -1).mean(1)
        metric = metric / metric.norm(dim=-1, keepdim=True)
        sources, targets = range(0, len(members), 2), range(1, len(members), 2)
        likeness = {s: {t: float(metric[s] @ metric[t]) for t in targets} for s in sources}
        best = {s: max(row, key=row.__getitem__) for s, row in likeness.items()}
        order = sorted(sources, key=lambda s: -likeness[s][best[s]])
        joined = {t: list(members[t]) for t in targets}
        for s in order[:remove]:
            joined[best[s]] += members[s]
        members = [members[s] for s in order[remove:]] + [joined[t] for t in targets]
    return torch.stack([features[m].mean(0) for m in members]), [len(m) for m in members]


@pytest.mark.parametrize(
    ("patches", "keep", "rounds"),
    [
        (729, 16, [364, 182, 91, 46, 23, 7]),
        (256, 16, [128, 64, 32, 16]),
        (576, 16, [288, 144, 72, 36, 18, 2]),
        (64, 4, [32, 16, 8, 4]),
        (16, 15, [1]),
        (16, 16, []),
        (2, 1, [1]),
        (3, 1, [1, 1]),
    ],
)
def test_schedule(patches: int, keep: int, rounds: list[int]) -> None:
    assert merge_schedule(patches, keep) == rounds
    assert patches - sum(rounds) == keep


@pytest.mark.parametrize(
    ("patches", "keep", "channels", "heads"),
    [(27, 4, 32, 16), (64, 16, 24, 4), (9, 1, 8, 1), (10, 9, 6, 2), (33, 32, 16, 8)],
)
def test_tome_is_the_slow_merge(patches: int, keep: int, channels: int, heads: int) -> None:
    x = torch.randn(3, patches, channels, dtype=torch.float64)
    tokens, sizes = tome(x, keep, metric_heads=heads)
    for frame, got, got_sizes in zip(x, tokens, sizes, strict=True):
        want, want_sizes = slow_tome(frame, keep, heads)
        close("tokens", got=got, want=want, tol=TOL.merge.f64)
        assert got_sizes.tolist() == want_sizes


def test_a_real_tower_merges_729_patches_to_16() -> None:
    x = torch.randn(2, 729, 64, dtype=torch.float64)
    tokens, sizes = tome(x, 16)
    want, want_sizes = slow_tome(x[1], 16, 16)
    close("tokens", got=tokens[1], want=want, tol=TOL.merge.f64)
    assert sizes[1].tolist() == want_sizes
    assert sizes.dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float32, TOL.merge.f32), (torch.bfloat16, TOL.merge.bf16)]
)
def test_mass_is_conserved_in_working_precisions(dtype: torch.dtype, tol: float) -> None:
    x = torch.randn(4, 81, 32).to(dtype)
    tokens, sizes = tome(x, 8)
    assert tokens.dtype == dtype
    assert sizes.sum(1).tolist() == [81.0] * 4
    mass = (tokens.double() * sizes.double()[..., None]).sum(1)
    scale = x.double().abs().sum(1)
    close("mass", got=mass + scale, want=x.double().sum(1) + scale, tol=tol)


def test_frames_do_not_touch_each_other() -> None:
    x = torch.randn(5, 30, 16)
    tokens, sizes = tome(x, 6, metric_heads=4)
    alone, alone_sizes = tome(x[3:4], 6, metric_heads=4)
    close("tokens", got=tokens[3], want=alone[0], tol=TOL.merge.f32)
    close("sizes", got=sizes[3], want=alone_sizes[0], tol=0.0)


def test_the_most_alike_patches_merge_first() -> None:
    x = torch.eye(8, dtype=torch.float64)[None]
    x[0, 4] = x[0, 7] * 2  # source 4 is the image of destination 7
    tokens, sizes = tome(x, 7, metric_heads=1)
    assert sizes[0].tolist() == [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0]
    close("merged", got=tokens[0, -1], want=x[0, 7] * 1.5, tol=TOL.merge.f64)


def test_keeping_all_changes_nothing() -> None:
    x = torch.randn(2, 9, 16)
    tokens, sizes = tome(x, 9)
    close("tokens", got=tokens, want=x, tol=0.0)
    close("sizes", got=sizes, want=torch.ones(2, 9), tol=0.0)


def test_a_mean_of_patches_gives_each_patch_its_share_of_the_gradient() -> None:
    x = torch.randn(2, 21, 8, dtype=torch.float64, requires_grad=True)
    tokens, sizes = tome(x, 5, metric_heads=2)
    (grad,) = gradients([(tokens * sizes[..., None]).sum(1)], [x])
    close("equal shares", got=grad, want=grad[:, :1].expand(-1, 21, -1), tol=TOL.merge.f64)
    assert grad.abs().min() > 0


def test_gradients_at_a_tiny_size() -> None:
    x = torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: tome(a, 2, metric_heads=2)[0], (x,))


def test_no_frames_and_black_frames_are_fine() -> None:
    assert tome(torch.zeros(0, 12, 16), 3)[0].shape == (0, 3, 16)
    tokens, sizes = tome(torch.zeros(1, 12, 16), 3)
    close("black", got=tokens, want=torch.zeros(1, 3, 16), tol=0.0)
    assert sizes.sum() == 12


@pytest.mark.parametrize("keep", [0, -2, 10])
def test_an_impossible_number_of_tokens_is_refused(keep: int) -> None:
    with pytest.raises(ConfigError, match="between 1 and 9 tokens"):
        tome(torch.zeros(1, 9, 16), keep)


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ConfigError, match="divide 20 channels"):
        tome(torch.zeros(1, 9, 20), 3)
