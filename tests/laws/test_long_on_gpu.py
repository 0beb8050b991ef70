"""Laws on a GPU at the lengths where 32-bit offsets end: one call, or many, at true dimensions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from timeviper.model.block import Block, Stream
from timeviper.model.decoder import Decoder
from timeviper.model.init import init_decoder
from timeviper.model.presets import nano_9b
from timeviper.model.state import MambaMemory, Memory

pytestmark = pytest.mark.gpu

# 2^31 over the widths 22,656, 12,288 and 10,240 of the 9B model: in_proj, convolution, scan.
EDGES = (94_786, 174_762, 209_715)
CHUNK = 8_192
# Tokens on each side of an edge that are compared.
NEAR = 300


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    """The first Mamba, MLP and attention layers of the 9B model, random weights in bfloat16."""
    config = replace(nano_9b().decoder, pattern="M-*", vocab_size=256)
    built = Decoder(config).to("cuda", torch.bfloat16).requires_grad_(requires_grad=False)
    init_decoder(built, torch.Generator("cuda").manual_seed(0))
    return built


def _by_chunks(block: Block, x: Tensor) -> tuple[Tensor, Memory]:
    memory, parts = None, []
    for part in x.split(CHUNK):
        y, memory = block(Stream(part), memory, lengths=(len(part),))
        parts.append(y.sum())
    return torch.cat(parts), memory


@pytest.mark.parametrize("layer", [0, 1, 2], ids=["mamba", "mlp", "attention"])
@torch.inference_mode()
def test_one_call_beyond_every_edge(decoder: Decoder, layer: int) -> None:
    """Outputs around each edge and the state at the end, in one call as in chunks."""
    block = decoder.layers[layer]
    if not isinstance(block, Block):
        raise TypeError("decoder layers are Blocks")
    generator = torch.Generator("cuda").manual_seed(1)
    tokens, hidden = EDGES[-1] + NEAR + 5, decoder.config.hidden_size
    x = torch.randn(tokens, hidden, generator=generator, device="cuda", dtype=torch.bfloat16)
    stream, after = block(Stream(x), None, lengths=(tokens,))
    whole = stream.sum()
    pieces, carried = _by_chunks(block, x)
    for edge in EDGES:
        near = slice(edge - NEAR, edge + NEAR)
        close(f"around {edge}", got=whole[near], want=pieces[near], tol=TOL.ssd.bf16)
    if isinstance(after, MambaMemory) and isinstance(carried, MambaMemory):
        close("state", got=after.ssm, want=carried.ssm, tol=TOL.ssd.bf16)
        close("tail", got=after.tail, want=carried.tail, tol=TOL.ssd.bf16)
