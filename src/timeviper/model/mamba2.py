"""The Mamba-2 mixer of Nemotron-H: projection, short convolution, scan, gated norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from timeviper.model.config import DecoderConfig, MambaConfig
from timeviper.model.linear import (
    Product,
    all_take_fp8,
    apply,
    product_of,
    project,
    project_parts,
)
from timeviper.model.slots import ScanSlots
from timeviper.model.state import MambaMemory
from timeviper.ops.conv1d import causal_conv1d
from timeviper.ops.fp8 import Operand, Quantized
from timeviper.ops.norm import gated_rms_norm, gated_rms_norm_fp8
from timeviper.ops.ssd import ssd
from timeviper.ops.step import StepWeights, mamba_step


class ScanInputs(NamedTuple):
    """What the scan of one layer reads: x, dt, B, C as in `ops.ssd`, and the gate z."""

    x: Float[Tensor, "token head head_dim"]
    dt: Float[Tensor, "token head"]
    B: Float[Tensor, "token group state"]
    C: Float[Tensor, "token group state"]
    z: Float[Tensor, "token inner"]


class DepthwiseConv(nn.Module):
    """Weights of the causal depthwise convolution, weight shape (channel, width)."""

    def __init__(self, channels: int, width: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, width))
        self.bias = nn.Parameter(torch.empty(channels)) if bias else None


class ScaleNorm(nn.Module):
    """Weight of an RMSNorm, shape (width,); the formula lives in `ops.norm`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))


class Mamba2Mixer(nn.Module):
    """Mamba-2 (arXiv 2405.21060) as Nemotron-H arranges it; one call for every length."""

    def __init__(self, config: DecoderConfig, sizes: MambaConfig) -> None:
        super().__init__()
        self.sizes = sizes
        self.norm_eps = config.norm_eps
        self.in_proj = nn.Linear(config.hidden_size, sizes.projection_size, bias=False)
        self.conv1d = DepthwiseConv(sizes.conv_size, sizes.conv_kernel, bias=sizes.conv_bias)
        self.dt_bias = nn.Parameter(torch.empty(sizes.num_heads))
        self.A_log = nn.Parameter(torch.empty(sizes.num_heads))
        self.D = nn.Parameter(torch.empty(sizes.num_heads))
        self.norm = ScaleNorm(sizes.inner_size)
        self.out_proj = nn.Linear(sizes.inner_size, config.hidden_size, bias=False)

    def forward(
        self,
        hidden: Float[Tensor, "token hidden"] | Quantized,
        memory: MambaMemory | None,
        *,
        lengths: Sequence[int],
    ) -> tuple[Float[Tensor, "token hidden"], MambaMemory]:
        """Mix tokens of each sequence with all that came before them.

        Args:
            hidden: normalised hidden states, packed.
            memory: convolution tail and state, or None at the start of time.
            lengths: tokens of each sequence.

        Returns:
            The mixed hidden states and the memory after them.
        """
        y, z, memory = self.scan(hidden, memory, lengths=lengths)
        return self.finish(y, z, product=product_of(lengths)), memory

    def scan(
        self,
        hidden: Float[Tensor, "token hidden"] | Quantized,
        memory: MambaMemory | None,
        *,
        lengths: Sequence[int],
    ) -> tuple[Float[Tensor, "token head head_dim"], Float[Tensor, "token inner"], MambaMemory]:
        """All that tokens need of each other: the scan's output, its gate, the new memory."""
        scan, tail = self.project(hidden, memory, lengths=lengths)
        y, ssm = ssd(
            scan.x,
            scan.dt,
            self.decay_rates(),
            scan.B,
            scan.C,
            self.D,
            None if memory is None else memory.ssm,
            lengths=lengths,
            dt_bias=self.dt_bias,
            dt_softplus=True,
            dt_limit=self.sizes.time_step_limit,
            chunk_size=self.sizes.chunk_size,
        )
        return y, scan.z, MambaMemory(tail, ssm)

    def step(
        self, hidden: Float[Tensor, "sequence hidden"] | Quantized, slots: ScanSlots
    ) -> Float[Tensor, "part sequence hidden"]:
        """As `forward` with one token a sequence, the memory changed in place; parts to add up."""
        s = self.sizes
        mixed = project(self.in_proj, hidden)
        z, conv_in, dt = mixed.split([s.inner_size, s.conv_size, s.num_heads], -1)
        y = mamba_step(
            conv_in,
            dt,
            slots.weights,
            ring=slots.ring,
            ssm=slots.ssm,
            place=slots.place,
            dt_limit=s.time_step_limit,
        )
        return project_parts(self.out_proj, self.gated(y, z))

    def slots(self, place: Int[Tensor, " sequence"]) -> ScanSlots:
        """Buffers for `step`, still to be loaded; `place` is shared by all layers."""
        s, conv = self.sizes, self.conv1d
        sequences, kept = len(place), torch.promote_types(self.D.dtype, torch.float32)
        return ScanSlots(
            ring=self.D.new_empty(sequences, s.conv_kernel, s.conv_size),
            ssm=self.D.new_empty(sequences, s.num_heads, s.head_dim, s.state_size, dtype=kept),
            place=place,
            # Decay rates are worked out once, not once a token.
            weights=StepWeights(conv.weight, conv.bias, self.decay_rates(), self.D, self.dt_bias),
        )

    def finish(
        self,
        y: Float[Tensor, "token head head_dim"],
        z: Float[Tensor, "token inner"],
        *,
        product: Product = apply,
    ) -> Float[Tensor, "token hidden"]:
        """Gate, norm and project the scan's outputs; `product` is how the projection is applied."""
        return product(self.out_proj, self.gated(y, z))

    def gated(
        self, y: Float[Tensor, "token head head_dim"], z: Float[Tensor, "token inner"]
    ) -> Operand:
        """The scan's outputs, gated and normed, in the format that the last product reads."""
        norm = gated_rms_norm_fp8 if all_take_fp8([self.out_proj]) else gated_rms_norm
        return norm(
            y.flatten(1),
            z,
            self.norm.weight,
            eps=self.norm_eps,
            group_size=self.sizes.inner_size // self.sizes.n_groups,
        )

    @property
    def entries(self) -> tuple[nn.Module, ...]:
        """The layers that read what comes in."""
        return (self.in_proj,)

    def decay_rates(self) -> Float[Tensor, " head"]:
        """A of each head, negative, in float32 or better whatever the weights are stored in."""
        return -self.A_log.to(torch.promote_types(self.A_log.dtype, torch.float32)).exp()

    def project(
        self,
        hidden: Float[Tensor, "token hidden"] | Quantized,
        memory: MambaMemory | None,
        *,
        lengths: Sequence[int],
    ) -> tuple[ScanInputs, Float[Tensor, "sequence width_less_one channel"]]:
        """The scan's inputs and the convolution's new tail."""
        s = self.sizes
        mixed = product_of(lengths)(self.in_proj, hidden)
        z, conv_in, dt = mixed.split([s.inner_size, s.conv_size, s.num_heads], -1)
        mixed, tail = causal_conv1d(
            conv_in,
            self.conv1d.weight,
            self.conv1d.bias,
            None if memory is None else memory.tail,
            lengths=lengths,
            activation="silu",
        )
        group = s.n_groups * s.state_size
        x, B, C = mixed.split([s.inner_size, group, group], -1)
        heads = x.unflatten(-1, (s.num_heads, s.head_dim))
        B, C = (t.unflatten(-1, (s.n_groups, s.state_size)) for t in (B, C))
        return ScanInputs(heads, dt, B, C, z), tail
