"""The MLP mixers: two products with squared ReLU, or SwiGLU."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from timeviper.model.config import DecoderConfig
from timeviper.model.linear import Product, all_take_fp8, apply, project, project_parts
from timeviper.ops.activation import squared_relu
from timeviper.ops.fp8 import Operand
from timeviper.ops.linear import quantize


class MlpMixer(nn.Module):
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` when gated; no biases."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.activation = config.activation
        self.gate_proj = nn.Linear(hidden, inner, bias=False) if config.gated_mlp else None
        self.up_proj = nn.Linear(hidden, inner, bias=False)
        self.down_proj = nn.Linear(inner, hidden, bias=False)

    @property
    def entries(self) -> tuple[nn.Module, ...]:
        """The layers that read what comes in."""
        return (self.up_proj,) if self.gate_proj is None else (self.gate_proj, self.up_proj)

    def forward(
        self, hidden: Operand, *, product: Product = apply
    ) -> Float[Tensor, "token hidden"]:
        """Transform each token alone; `product` is how a projection is applied."""
        up = product(self.up_proj, hidden)
        if self.gate_proj is not None:
            return product(self.down_proj, self._act(product(self.gate_proj, hidden)) * up)
        if self._rounds:
            return product(self.down_proj, quantize(up, activation="relu2"))
        return product(self.down_proj, self._act(up))

    def step(self, hidden: Operand) -> Float[Tensor, "part sequence hidden"]:
        """As `forward` with one token a sequence; parts to be added up."""
        if self.gate_proj is not None:
            gate = self._act(project(self.gate_proj, hidden))
            return project_parts(self.down_proj, gate * project(self.up_proj, hidden))
        if self._rounds:
            inner = quantize(project(self.up_proj, hidden), activation="relu2")
        elif self.activation == "relu2":
            inner = project(self.up_proj, hidden, relu2=True)
        else:
            inner = self._act(project(self.up_proj, hidden))
        return project_parts(self.down_proj, inner)

    @property
    def _rounds(self) -> bool:
        """Whether the activation is computed in the pass that rounds to FP8."""
        return self.activation == "relu2" and all_take_fp8([self.down_proj])

    def _act(self, x: Tensor) -> Tensor:
        return squared_relu(x) if self.activation == "relu2" else F.silu(x)
