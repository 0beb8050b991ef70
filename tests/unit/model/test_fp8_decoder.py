"""A decoder whose layers multiply in FP8: near the one it was, whatever the cuts, no gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.tolerances import TOL, close
from tests.unit.model.toys import DENSE, HYBRID, one
from timeviper.core.errors import ConfigError
from timeviper.core.layout import TokenLayout
from timeviper.model.block import Block, Stream
from timeviper.model.config import DecoderConfig, MambaConfig
from timeviper.model.decoder import Decoder
from timeviper.model.init import init_decoder
from timeviper.model.linear import Fp8Linear, quantize_
from timeviper.model.tokens import Tokens
from timeviper.ops.backend import override

# Widths that FP8 products can have.
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_kv_heads": 2, "head_dim": 8}
MAMBA = MambaConfig(num_heads=16, head_dim=4, state_size=8, n_groups=2, chunk_size=4)
CONFIGS = {
    "hybrid": replace(HYBRID, mamba=MAMBA, **SIZES),
    "dense": replace(DENSE, **SIZES),
}


@pytest.fixture(autouse=True)
def _emulated() -> Iterator[None]:
    with override("fp8_linear", "emulated"):
        yield


def _inputs(layout: TokenLayout, seed: int = 0) -> torch.Tensor:
    return torch.randn(layout.total, 32, generator=torch.Generator().manual_seed(seed))


def _decoder(config: DecoderConfig) -> Decoder:
    decoder = Decoder(config)
    init_decoder(decoder, torch.Generator().manual_seed(0))
    return decoder.eval().requires_grad_(requires_grad=False)


@pytest.mark.parametrize("stack", CONFIGS)
@torch.no_grad()
def test_its_hidden_states_are_near_those_before(stack: str) -> None:
    config = CONFIGS[stack]
    layout = one(2, [(1, 4)] * 4, 3, 2)
    x = _inputs(layout)
    decoder, rounded = _decoder(config), _decoder(config)
    replaced = quantize_(rounded.layers)
    assert len(replaced) == sum(isinstance(m, torch.nn.Linear) for m in decoder.layers.modules())
    assert rounded.lm_head is None or isinstance(rounded.lm_head, torch.nn.Linear)
    got, want = (d.run(Tokens.of(x, layout))[0].hidden for d in (rounded, decoder))
    assert not torch.equal(got, want)
    # Seven layers of two or three rounded products each.
    close("hidden states", got=got, want=want, tol=4 * TOL.fp8.f32)


@pytest.mark.parametrize("stack", CONFIGS)
@torch.no_grad()
def test_rows_are_rounded_alone_so_that_cuts_do_not_matter(stack: str) -> None:
    decoder = _decoder(CONFIGS[stack])
    quantize_(decoder.layers)
    head, tail = one(2, [(1, 4)] * 2, 0, 0), one(0, [(1, 4)] * 2, 3, 2)
    x, y = _inputs(head), _inputs(tail, seed=1)
    both = one(2, [(1, 4)] * 4, 3, 2)
    want, _ = decoder.run(Tokens.of(torch.cat([x, y]), both))
    first, state = decoder.run(Tokens.of(x, head), more=True)
    second, _ = decoder.run(Tokens.of(y, tail), state)
    got = torch.cat([first.hidden, second.hidden])
    # A last bit may push a value over the middle between two FP8 numbers.
    close("cut", got=got, want=want.hidden, tol=TOL.fp8.f32)


@pytest.mark.parametrize("layer", range(4))
@torch.no_grad()
def test_a_block_reads_what_its_norm_rounded(layer: int) -> None:
    decoder = _decoder(CONFIGS["hybrid"])
    quantize_(decoder.layers)
    block = decoder.layers[layer]
    assert isinstance(block, Block)
    hidden, addition = torch.randn(5, 32), torch.randn(5, 32)
    total, operand = block.enter(Stream(hidden, addition))
    assert torch.equal(total, hidden + addition)
    assert operand.device == hidden.device
    entry = block.mixer.entries[0]
    assert isinstance(entry, Fp8Linear)
    # Rounded from float32 at once; from the norm it is the same where the norm is float32.
    close("product", got=entry(operand), want=entry(block.normed(total)), tol=TOL.fp8.f32)


def test_training_through_it_is_refused() -> None:
    decoder = _decoder(CONFIGS["hybrid"])
    quantize_(decoder.layers)
    layout = one(2, [(1, 4)], 3, 2)
    x = _inputs(layout).requires_grad_()
    with pytest.raises(ConfigError, match="no gradients through FP8"):
        decoder(x, layout=layout)


@torch.no_grad()
def test_a_part_that_does_not_fit_stays_and_the_rest_is_rounded() -> None:
    decoder = _decoder(replace(CONFIGS["hybrid"], num_kv_heads=1))
    names = quantize_(decoder.layers)
    assert "2.mixer.q_proj" in names
    assert "2.mixer.k_proj" not in names
    layout = one(2, [(1, 4)], 3, 2)
    out, _ = decoder(_inputs(layout), layout=layout)
    assert out.isfinite().all()
