"""Toy decoders with weights large enough that every part matters, and layouts to run them on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from tests.tolerances import close
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.config import (
    DecoderConfig,
    DropPolicy,
    MambaConfig,
    TransferPlan,
    TransferSite,
)
from timeviper.model.decoder import Decoder
from timeviper.model.init import init_decoder
from timeviper.model.state import AttentionMemory, DecoderState, MambaMemory, PendingTransfer
from timeviper.model.tokens import Tokens, join

HIDDEN = 16
# Attention layers of the toys: 2 and 4, and 0, 2, 4.
HYBRID = DecoderConfig(
    vocab_size=24,
    hidden_size=HIDDEN,
    pattern="M-*M*-M",
    intermediate_size=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    mamba=MambaConfig(num_heads=4, head_dim=4, state_size=4, n_groups=2, chunk_size=4),
    initializer_range=0.3,
)
DENSE = DecoderConfig(
    vocab_size=24,
    hidden_size=HIDDEN,
    pattern="*-*-*-",
    intermediate_size=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    activation="silu",
    gated_mlp=True,
    qkv_bias=True,
    qk_norm=True,
    rope_theta=10000.0,
    initializer_range=0.3,
    tie_word_embeddings=True,
)
STACKS = {"hybrid": HYBRID, "dense": DENSE}


def site(layer: int, policy: str, rate: float = 0.5, *, transfer: bool = True) -> TransferSite:
    return TransferSite(layer=layer, policy=DropPolicy(policy), drop_rate=rate, transfer=transfer)


# Plans that hold for both toys: layer 1 is an MLP and layer 4 attention in each.
PLANS = {
    "none": (),
    "stream": (site(1, "uniform_stream"),),
    "whole": (site(1, "uniform_whole", 0.6),),
    "attention": (site(4, "attention", 0.7),),
    "paper": (site(1, "uniform_stream"), site(4, "attention", 0.75)),
    "three": (
        site(1, "uniform_stream", 0.3),
        site(2, "attention", 0.4),
        site(4, "attention", 0.5, transfer=False),
    ),
    "drop-only": (
        site(1, "uniform_stream", transfer=False),
        site(4, "attention", 0.7, transfer=False),
    ),
}


def toy(
    stack: str = "hybrid",
    sites: Sequence[TransferSite] = (),
    *,
    dtype: torch.dtype = torch.float64,
    alpha: float = 0.8,
) -> Decoder:
    """A decoder whose gates are open and whose norms and biases are not trivial."""
    config = replace(STACKS[stack], transfer=TransferPlan(sites=tuple(sites)))
    generator = torch.Generator().manual_seed(7)
    decoder = Decoder(config)
    init_decoder(decoder, generator)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("alpha"):
                parameter.fill_(alpha)
            elif name.endswith("bias") or "norm" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return decoder.to(dtype)


def one(text: int, frames: Sequence[tuple[int, int]], question: int, answer: int) -> TokenLayout:
    """Layout of one conversation; a frame is its (marks, vision tokens)."""
    spans = [(SpanKind.TEXT, text)]
    for marks, vision in frames:
        spans += [(SpanKind.TIMESTAMP, marks), (SpanKind.VISION, vision)]
    spans += [(SpanKind.INSTRUCTION, question), (SpanKind.ANSWER, answer)]
    return TokenLayout.of(*[(kind, length) for kind, length in spans if length])


def chain(*layouts: TokenLayout) -> TokenLayout:
    """Layouts of one sequence each, as turns of one conversation."""
    return TokenLayout((tuple(span for layout in layouts for span in layout.sequences[0]),))


def inputs_for(layout: TokenLayout, *, seed: int = 0, dtype: torch.dtype = torch.float64):
    """Random decoder inputs of a layout."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(layout.total, HIDDEN, generator=generator, dtype=torch.float64).to(dtype)


def whole(decoder: Decoder, x: torch.Tensor, layout: TokenLayout) -> tuple[Tokens, DecoderState]:
    with torch.no_grad():
        return decoder.run(Tokens.of(x, layout))


def pieces(
    decoder: Decoder, x: torch.Tensor, layout: TokenLayout, cuts: Sequence[Sequence[int]]
) -> tuple[Tokens, DecoderState]:
    """Run in calls; each entry of `cuts` holds where each sequence is cut, rising."""
    state, outputs = None, []
    rest = Tokens.of(x, layout)
    before = [0] * len(layout.lengths)
    for number, cut in enumerate([*cuts, layout.lengths]):
        sizes = [b - a for a, b in zip(before, cut, strict=True)]
        now, rest = divide(rest, sizes)
        with torch.no_grad():
            out, state = decoder.run(now, state, more=number < len(cuts))
        outputs.append(out)
        before = list(cut)
    return join(outputs), state


def divide(tokens: Tokens, sizes: Sequence[int]) -> tuple[Tokens, Tokens]:
    """The first `sizes` tokens of each sequence, and the rest."""
    layout = TokenLayout.from_kinds(tokens.kinds, tokens.lengths)
    head, tail = layout.split(sizes)
    rows = tokens.hidden.split(list(tokens.lengths))
    first = torch.cat([row[:n] for row, n in zip(rows, sizes, strict=True)])
    last = torch.cat([row[n:] for row, n in zip(rows, sizes, strict=True)])
    return Tokens.of(first, head), Tokens.of(last, tail)


def sequence(tokens: Tokens, number: int) -> torch.Tensor:
    """Hidden states of one sequence."""
    return tokens.hidden.split(list(tokens.lengths))[number]


def same_tokens(name: str, got: Tokens, want: Tokens, tol: float) -> None:
    assert got.lengths == want.lengths, name
    assert got.kinds.tolist() == want.kinds.tolist(), name
    close(f"{name}: hidden", got=got.hidden, want=want.hidden, tol=tol)


def same_state(name: str, got: DecoderState, want: DecoderState, tol: float) -> None:
    """Equal memories and pending transfers, whatever lies in unused room.

    Nothing is the same as an empty memory: a sequence that has not reached a layer has None alone
    and an empty row among others.
    """
    for layer, (a, b) in enumerate(zip(got.memories, want.memories, strict=True)):
        where = f"{name}: layer {layer}"
        if isinstance(a, MambaMemory) or isinstance(b, MambaMemory):
            same_scan(where, a, b, tol)
        else:
            same_keys(where, a, b, tol)
    for number, (a, b) in enumerate(zip(got.pending, want.pending, strict=True)):
        where = f"{name}: site {number}"
        a, b = a or PendingTransfer((0,)), b or PendingTransfer((0,))
        assert (a.seen if any(a.seen) else ()) == (b.seen if any(b.seen) else ()), where
        same_keys(f"{where} dropped", a.dropped, b.dropped, tol)
        left, right = (join(p.parked) if p.parked else None for p in (a, b))
        assert (left is None or not len(left.kinds)) == (right is None or not len(right.kinds))
        if left is not None and right is not None:
            same_tokens(f"{where} parked", left, right, tol)


def same_scan(where: str, got: object, want: object, tol: float) -> None:
    some = got if isinstance(got, MambaMemory) else want
    assert isinstance(some, MambaMemory), where
    nothing = MambaMemory(torch.zeros_like(some.tail), torch.zeros_like(some.ssm))
    a, b = (m if isinstance(m, MambaMemory) else nothing for m in (got, want))
    close(f"{where} tail", got=a.tail, want=b.tail, tol=tol)
    close(f"{where} ssm", got=a.ssm, want=b.ssm, tol=tol)


def same_keys(where: str, got: object, want: object, tol: float) -> None:
    a, b = (m.whole() if isinstance(m, AttentionMemory) else None for m in (got, want))
    lengths = [m.lengths if m and any(m.lengths) else () for m in (a, b)]
    assert lengths[0] == lengths[1], where
    if a is None or b is None:
        return
    for row, length in enumerate(b.lengths):
        close(f"{where} k[{row}]", got=a.k[row, :length], want=b.k[row, :length], tol=tol)
        close(f"{where} v[{row}]", got=a.v[row, :length], want=b.v[row, :length], tol=tol)
