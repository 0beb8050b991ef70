"""Stage 1 and its frames: drawn moments as the tower reads them, and a tower that learns."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tolerances import TOL, close
from tests.toy_engine import toy_config
from tests.unit.synth.toys import sample_world
from timeviper.model.vision.towers import build_tower
from timeviper.ops.merge import tome
from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.training import pixels
from timeviper.training.naming import GEOMETRY, Namer, Seen
from timeviper.training.pixels import seen_frames

SIDE = 16


def painter() -> Painter:
    return Painter.of(sample_world(3, 0, 16), atlas_tensor(48))


def frames(count: int, *, size: int = 24, seed: int = 1) -> list[torch.Tensor]:
    number, seconds = torch.zeros(count, dtype=torch.int64), torch.arange(float(count))
    generator = torch.Generator().manual_seed(seed)
    return list(seen_frames(painter(), number, seconds, size=size, generator=generator))


def namer(names: int = 5) -> Namer:
    torch.manual_seed(0)
    tower = build_tower(toy_config().vision)
    return Namer(tower, tokens_per_frame=3, merge_heads=2, names=names, changes=3)


def seen(count: int, *, seed: int = 0) -> Seen:
    generator = torch.Generator().manual_seed(seed)
    return Seen(
        thing=torch.arange(count) % 5,
        partner=(torch.arange(count) + 2) % 5,
        geometry=torch.rand(count, GEOMETRY, generator=generator),
        moving=torch.arange(count) % 2 == 0,
        change=torch.arange(count) % 3,
    )


def test_frames_are_square_and_normalised() -> None:
    (found,) = frames(7)
    assert found.shape == (7, 3, 24, 24)
    assert found.min() >= -1
    assert found.max() <= 1
    assert found.min() < -0.05 or found.max() > 0.05


def test_frames_are_drawn_a_bounded_number_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixels, "_AT_ONCE", 3)
    assert [len(part) for part in frames(7)] == [3, 3, 1]


def test_frames_are_a_function_of_the_generator() -> None:
    a, b, other = frames(4)[0], frames(4)[0], frames(4, seed=2)[0]
    close("frames", got=a, want=b, tol=0.0)
    assert not torch.equal(a, other)


def test_frames_show_the_world_at_their_moments() -> None:
    # What degrading adds is small beside the drawing itself.
    (found,) = frames(16, size=32)
    plain = painter().draw(
        torch.zeros(16, dtype=torch.int64), torch.arange(16.0), height=32, width=32
    )
    gap = (found / 2 + 0.5 - plain).abs().mean(dim=(1, 2, 3))
    assert gap.max() < 0.15
    wrong = (found / 2 + 0.5 - plain.roll(8, 0)).abs().mean()
    assert gap.mean() < wrong


def test_a_toy_tower_learns_what_is_seen_in_a_few_steps() -> None:
    model = namer()
    drawn = torch.randn(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    truth = seen(5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses: list[float] = []
    measures = torch.zeros(4)
    for _ in range(60):
        loss, measures = model(drawn, truth)
        losses.append(loss.item())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
    thing, partner, place, change = measures.tolist()
    assert (thing, partner, change) == (1.0, 1.0, 1.0)
    assert place < 0.15


def test_every_merged_token_must_carry_everything() -> None:
    model, truth = namer(), seen(2)
    drawn = torch.randn(2, 3, SIDE, SIDE)
    cross = torch.nn.functional.cross_entropy
    with torch.no_grad():
        tokens, _ = tome(model.tower(drawn), 3, metric_heads=2)
        parts: list[torch.Tensor] = []
        for frame in range(2):
            for token in range(3):
                thing, partner, place, change = model.heads(tokens[frame, token]).split(model.sizes)
                loss = cross(thing, truth.thing[frame]) + cross(partner, truth.partner[frame])
                loss = loss + 0.5 * cross(change, truth.change[frame])
                # Only the first of the two frames moves.
                error = (place - truth.geometry[frame]).abs().mean() * (frame == 0)
                parts.append(loss + 2 * error * 2)
        got = model(drawn, truth)[0]
    close("loss", got=got, want=torch.stack(parts).mean(), tol=TOL.training.f32)


def test_measures_count_only_frames_that_show_something() -> None:
    model = namer()
    truth = seen(4)
    nothing = torch.full((4,), 4)
    with torch.no_grad():
        measures = model(torch.randn(4, 3, SIDE, SIDE), replace(truth, thing=nothing))[1]
    # Nothing is the last class; no frame shows a thing, so none is counted.
    assert measures[0] == 0.0
