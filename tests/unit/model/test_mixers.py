"""Attention, Mamba-2 and MLP mixers and the block against their definitions, token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from tests.tolerances import TOL, close
from tests.unit.model.toys import DENSE, HIDDEN, HYBRID, toy
from timeviper.core.errors import ConfigError
from timeviper.model.attention import AttentionMixer
from timeviper.model.block import Block, Stream
from timeviper.model.config import MambaConfig
from timeviper.model.mamba2 import Mamba2Mixer
from timeviper.model.mlp import MlpMixer
from timeviper.model.pattern import LayerKind
from timeviper.model.state import AttentionMemory, MambaMemory
from timeviper.ops.rotary import rotary


def tokens(count: int) -> torch.Tensor:
    return torch.randn(count, HIDDEN, dtype=torch.float64)


def rms(x: torch.Tensor, weight: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def attention_by_definition(mixer: AttentionMixer, x: torch.Tensor) -> torch.Tensor:
    """One sequence from its beginning, every query by itself."""
    q, k, v = (p(x).view(len(x), -1, 4) for p in (mixer.q_proj, mixer.k_proj, mixer.v_proj))
    if mixer.q_norm is not None and mixer.k_norm is not None:
        q, k = rms(q, mixer.q_norm.weight), rms(k, mixer.k_norm.weight)
    if mixer.rope_theta is not None:
        q, k = (rotary(t, torch.arange(len(x)), base=mixer.rope_theta) for t in (q, k))
    k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
    rows = []
    for t in range(len(x)):
        weights = (torch.einsum("hd,khd->hk", q[t], k[: t + 1]) / 2).softmax(-1)
        rows.append(torch.einsum("hk,khd->hd", weights, v[: t + 1]).flatten())
    return mixer.o_proj(torch.stack(rows))


@pytest.mark.parametrize("stack", ["hybrid", "dense"])
@torch.no_grad()
def test_attention_is_its_definition_over_calls_and_sequences(stack: str) -> None:
    mixer = toy(stack).layers[4].get_submodule("mixer")
    assert isinstance(mixer, AttentionMixer)
    rows = [tokens(7), tokens(4)]
    want = [attention_by_definition(mixer, x) for x in rows]
    calls, memory = [(3, 4), (0, 0), (4, 0)], None
    got: list[list[torch.Tensor]] = [[], []]
    done = [0, 0]
    for lengths in calls:
        x = torch.cat([r[d : d + n] for r, d, n in zip(rows, done, lengths, strict=True)])
        y, memory = mixer(x, memory, lengths=lengths)
        done = [d + n for d, n in zip(done, lengths, strict=True)]
        for own, part in zip(got, y.split(list(lengths)), strict=True):
            own.append(part)
    for number in range(2):
        close("attention", got=torch.cat(got[number]), want=want[number], tol=TOL.model.f64)
    assert isinstance(memory, AttentionMemory)
    assert memory.lengths == (7, 4)


def test_positions_exist_only_with_rotary() -> None:
    x = tokens(5)
    memory = AttentionMixer(DENSE).double()(x, None, lengths=(2, 3))[1]
    dense, hybrid = AttentionMixer(DENSE), AttentionMixer(HYBRID)
    places = dense.places(memory, (1, 2), x)
    assert places is not None
    assert places.tolist() == [2, 3, 4]
    assert hybrid.places(memory, (1, 2), x) is None


def mamba_by_definition(mixer: Mamba2Mixer, x: torch.Tensor) -> torch.Tensor:
    """One sequence from its beginning: convolution, recurrence, gate before the group norm."""
    s = mixer.sizes
    z, xbc, dt = mixer.in_proj(x).split([s.inner_size, s.conv_size, s.num_heads], -1)
    padded = torch.cat([torch.zeros(s.conv_kernel - 1, s.conv_size, dtype=x.dtype), xbc])
    mixed = []
    for t in range(len(x)):
        window = padded[t : t + s.conv_kernel]
        y = (window * mixer.conv1d.weight.T).sum(0)
        mixed.append(F.silu(y if mixer.conv1d.bias is None else y + mixer.conv1d.bias))
    group = s.n_groups * s.state_size
    u, B, C = torch.stack(mixed).split([s.inner_size, group, group], -1)
    heads = s.num_heads // s.n_groups
    state = torch.zeros(s.num_heads, s.head_dim, s.state_size, dtype=x.dtype)
    outputs = []
    for t in range(len(x)):
        b, c = (m[t].view(s.n_groups, -1).repeat_interleave(heads, 0) for m in (B, C))
        step = F.softplus(dt[t] + mixer.dt_bias).clamp(*s.time_step_limit)
        own = u[t].view(s.num_heads, s.head_dim)
        decay = (-step * mixer.A_log.exp()).exp()
        state = decay[:, None, None] * state + (step[:, None] * own)[..., None] * b[:, None]
        y = torch.einsum("hpn,hn->hp", state, c) + mixer.D[:, None] * own
        gated = (y.flatten() * F.silu(z[t])).view(s.n_groups, -1)
        outputs.append(rms(gated, torch.ones(1, dtype=x.dtype)).flatten() * mixer.norm.weight)
    return mixer.out_proj(torch.stack(outputs))


@pytest.mark.parametrize("limit", [(0.0, float("inf")), (0.01, 0.05)])
@pytest.mark.parametrize("conv_bias", [True, False])
@torch.no_grad()
def test_mamba_is_its_definition_over_calls_and_sequences(
    limit: tuple[float, float], conv_bias: bool
) -> None:
    sizes = MambaConfig(
        num_heads=4,
        head_dim=4,
        state_size=3,
        n_groups=2,
        conv_kernel=3,
        chunk_size=4,
        conv_bias=conv_bias,
        time_step_limit=limit,
    )
    mixer = Mamba2Mixer(HYBRID, sizes).double()
    for parameter in mixer.parameters():
        parameter.copy_(torch.randn(parameter.shape) * 0.5)
    rows = [tokens(9), tokens(2)]
    got: list[list[torch.Tensor]] = [[], []]
    memory, done = None, [0, 0]
    for lengths in [(6, 1), (0, 1), (1, 0), (2, 0)]:
        x = torch.cat([r[d : d + n] for r, d, n in zip(rows, done, lengths, strict=True)])
        y, memory = mixer(x, memory, lengths=lengths)
        done = [d + n for d, n in zip(done, lengths, strict=True)]
        for own, part in zip(got, y.split(list(lengths)), strict=True):
            own.append(part)
    for number in range(2):
        want = mamba_by_definition(mixer, rows[number])
        close("mamba", got=torch.cat(got[number]), want=want, tol=TOL.model.f64)
    assert isinstance(memory, MambaMemory)
    assert memory.tail.shape == (2, 2, sizes.conv_size)
    assert memory.ssm.shape == (2, 4, 4, 3)


def test_decay_rates_are_float32_or_better() -> None:
    mixer = toy("hybrid").layers[0].get_submodule("mixer")
    assert isinstance(mixer, Mamba2Mixer)
    for stored, wanted in ((torch.bfloat16, torch.float32), (torch.float64, torch.float64)):
        rates = mixer.to(stored).decay_rates()
        assert rates.dtype == wanted
        assert (rates < 0).all()


@pytest.mark.parametrize(("activation", "gated"), [("relu2", False), ("silu", True)])
def test_mlp_is_its_formula(activation: str, gated: bool) -> None:
    mixer = MlpMixer(replace(DENSE, activation=activation, gated_mlp=gated)).double()
    x = tokens(5)

    def act(y: torch.Tensor) -> torch.Tensor:
        return y.clamp(min=0) ** 2 if activation == "relu2" else y / (1 + (-y).exp())

    up = mixer.up_proj(x)
    inner = act(up) if mixer.gate_proj is None else act(mixer.gate_proj(x)) * up
    assert (mixer.gate_proj is not None) == gated
    close("mlp", got=mixer(x), want=mixer.down_proj(inner), tol=TOL.model.f64)
    assert all(
        layer.bias is None for layer in mixer.children() if isinstance(layer, torch.nn.Linear)
    )


@pytest.mark.parametrize("layer", range(4))
@torch.no_grad()
def test_a_block_adds_its_mixer_of_the_normed_input(layer: int) -> None:
    decoder = toy("hybrid")
    block = decoder.layers[layer]
    assert isinstance(block, Block)
    x = tokens(5)
    normed = rms(x, block.norm.weight)
    close("normed", got=block.normed(x), want=normed, tol=TOL.norm.f64)
    stream, memory = block(Stream(x), None, lengths=(2, 3))
    kind = decoder.config.layers[layer]
    if kind is LayerKind.MLP:
        assert memory is None
        want = block.mixer(normed)
    else:
        want = block.mixer(normed, None, lengths=(2, 3))[0]
        assert isinstance(memory, MambaMemory if kind is LayerKind.MAMBA else AttentionMemory)
    assert torch.equal(stream.hidden, x)
    close("block", got=stream.sum(), want=x + want, tol=TOL.model.f64)
    again, _ = block(Stream(x - 1, torch.ones_like(x)), None, lengths=(2, 3))
    close("what waited is added first", got=again.sum(), want=x + want, tol=TOL.model.f64)


def test_a_scan_without_sizes_is_refused() -> None:
    with pytest.raises(ConfigError, match="`mamba` section"):
        Block(DENSE, LayerKind.MAMBA)
