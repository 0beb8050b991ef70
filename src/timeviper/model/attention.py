"""The attention mixer: grouped queries, optional rotary positions, biases and head norms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from timeviper.model.config import DecoderConfig
from timeviper.model.linear import Product, apply, product_of, project, project_parts
from timeviper.model.mamba2 import ScaleNorm
from timeviper.model.slots import KeySlots
from timeviper.model.state import AttentionMemory, extend
from timeviper.ops.attention import attention, attention_step
from timeviper.ops.fp8 import Operand, Quantized
from timeviper.ops.norm import rms_norm
from timeviper.ops.rotary import rotary


class AttentionMixer(nn.Module):
    """Causal grouped-query attention over each sequence's memory and new tokens."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.norm_eps = config.norm_eps
        self.rope_theta = config.rope_theta
        hidden, width = config.hidden_size, config.num_heads * config.head_dim
        kv_width = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(hidden, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(hidden, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(hidden, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, hidden, bias=False)
        self.q_norm = ScaleNorm(config.head_dim) if config.qk_norm else None
        self.k_norm = ScaleNorm(config.head_dim) if config.qk_norm else None

    def forward(
        self,
        hidden: Float[Tensor, "token hidden"] | Quantized,
        memory: AttentionMemory | None,
        *,
        lengths: Sequence[int],
    ) -> tuple[Float[Tensor, "token hidden"], AttentionMemory]:
        """Mix tokens of each sequence with all that came before them.

        Args:
            hidden: normalised hidden states, packed.
            memory: keys and values so far, or None at the start of time.
            lengths: new tokens of each sequence.

        Returns:
            The mixed hidden states and the longer memory.
        """
        places = self.places(memory, lengths, hidden)
        memory = self.remember(hidden, places, memory, lengths=lengths)
        return self.attend(hidden, places, memory, lengths=lengths, own=memory.own), memory

    def remember(
        self,
        hidden: Float[Tensor, "token hidden"] | Quantized,
        places: Int[Tensor, " token"] | None,
        memory: AttentionMemory | None,
        *,
        lengths: Sequence[int],
    ) -> AttentionMemory:
        """The memory with the keys and values of new tokens."""
        k, v = self.keys_values(hidden, places, product=product_of(lengths))
        return extend(memory, k, v, lengths=lengths)

    def attend(
        self,
        hidden: Float[Tensor, "token hidden"] | Quantized,
        places: Int[Tensor, " token"] | None,
        memory: AttentionMemory,
        *,
        lengths: Sequence[int],
        own: Sequence[int],
    ) -> Float[Tensor, "token hidden"]:
        """Mixed hidden states of tokens that a memory holds already.

        Args:
            hidden: normalised hidden states, packed.
            places: their positions within the layer, where it has positions.
            memory: keys and values up to and including these tokens; later ones are not seen.
            lengths: tokens of each sequence.
            own: keys of each sequence's own row up to its last token here.

        Returns:
            What the layer adds to each token.
        """
        product = product_of(lengths)
        q = self.queries(hidden, places, product=product)
        y = attention(q, memory.k, memory.v, q_lengths=lengths, k_lengths=own, shared=memory.shared)
        return product(self.o_proj, y.flatten(1))

    def step(
        self, hidden: Float[Tensor, "sequence hidden"] | Quantized, slots: KeySlots
    ) -> Float[Tensor, "part sequence hidden"]:
        """As `forward` with one token a sequence, the memory changed in place; parts to add up."""
        places = None if self.rope_theta is None else slots.places
        q = self.queries(hidden, places, product=project)
        slots.write(*self.keys_values(hidden, places, product=project))
        y = attention_step(q, slots.k, slots.v, k_lengths=slots.lengths, shared=slots.fronts)
        return project_parts(self.o_proj, y.flatten(1))

    @property
    def entries(self) -> tuple[nn.Module, ...]:
        """The layers that read what comes in."""
        return self.q_proj, self.k_proj, self.v_proj

    def queries(
        self,
        hidden: Float[Tensor, "token hidden"] | Quantized,
        places: Int[Tensor, " token"] | None,
        *,
        product: Product = apply,
    ) -> Float[Tensor, "token head head_dim"]:
        """Queries as this layer computes them.

        Args:
            hidden: normalised hidden states.
            places: positions within the layer, where it has positions.
            product: how a projection is applied.
        """
        return self._finish(product(self.q_proj, hidden), self.q_norm, places)

    def keys(
        self,
        hidden: Float[Tensor, "token hidden"] | Quantized,
        places: Int[Tensor, " token"] | None,
        *,
        product: Product = apply,
    ) -> Float[Tensor, "token kv_head head_dim"]:
        """Keys as this layer computes them; arguments as for `queries`."""
        return self._finish(product(self.k_proj, hidden), self.k_norm, places)

    def keys_values(
        self,
        hidden: Float[Tensor, "token hidden"] | Quantized,
        places: Int[Tensor, " token"] | None,
        *,
        product: Product = apply,
    ) -> tuple[Float[Tensor, "token kv_head head_dim"], Float[Tensor, "token kv_head head_dim"]]:
        """Keys and values as this layer computes them; arguments as for `queries`."""
        k = self.keys(hidden, places, product=product)
        return k, product(self.v_proj, hidden).unflatten(-1, (-1, self.head_dim))

    def places(
        self, memory: AttentionMemory | None, lengths: Sequence[int], like: Operand
    ) -> Int[Tensor, " token"] | None:
        """Positions of new tokens after this layer's memory; None where positions do not exist."""
        if self.rope_theta is None:
            return None
        before = (0,) * len(lengths) if memory is None else memory.lengths
        places = [np.arange(a, a + n) for a, n in zip(before, lengths, strict=True)]
        return torch.from_numpy(np.concatenate(places)).to(like.device)

    def _finish(
        self, flat: Tensor, norm: ScaleNorm | None, places: Int[Tensor, " token"] | None
    ) -> Tensor:
        heads = flat.unflatten(-1, (-1, self.head_dim))
        if norm is not None:
            heads = rms_norm(heads, norm.weight, self.norm_eps)
        if places is None or self.rope_theta is None:
            return heads
        return rotary(heads, places, base=self.rope_theta)
