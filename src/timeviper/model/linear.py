"""Linear layers in FP8, made from trained ones; products that do not depend on the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from timeviper.ops.activation import squared_relu
from timeviper.ops.few_rows import few_rows, few_rows_parts, some_rows
from timeviper.ops.fp8 import MULTIPLE, Operand, Quantized
from timeviper.ops.linear import fp8_linear, quantize


@final
class Fp8Linear(nn.Module):
    """A linear layer for inference: e4m3 weights with one scale an output channel.

    Args:
        weight: quantised, `(out, in)`.
        bias: one number an output channel, or None.
        dtype: number format of the results.
    """

    def __init__(self, weight: Quantized, bias: Tensor | None, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.values.shape
        self.dtype = dtype
        self.values = nn.Buffer(weight.values)
        self.scales = nn.Buffer(weight.scales)
        self.bias = None if bias is None else nn.Buffer(bias.detach())

    @classmethod
    @torch.no_grad()
    def of(cls, linear: nn.Linear, *, dtype: torch.dtype | None = None) -> Fp8Linear:
        """A layer that does in FP8 what another does; that one is not changed.

        Args:
            linear: where its weights are; both widths multiples of 16.
            dtype: number format of the results, that of the weights where not given.
        """
        return cls(quantize(linear.weight), linear.bias, dtype=dtype or linear.weight.dtype)

    def forward(self, x: Operand) -> Float[Tensor, "... out"]:
        """Multiply; rows that are not FP8 yet are rounded first, in a pass of their own."""
        rows = x if isinstance(x, Quantized) else quantize(x)
        return fp8_linear(rows, Quantized(self.values, self.scales), self.bias, dtype=self.dtype)

    def extra_repr(self) -> str:
        """Its sizes, for printing."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


Projection = nn.Linear | Fp8Linear


# How a linear layer is applied to what it reads.
Product = Callable[[nn.Module, Operand], Tensor]


def apply(layer: nn.Module, x: Operand) -> Float[Tensor, "... out"]:
    """The layer as it is called everywhere but in steps."""
    return layer(x)


# Tokens of a sequence up to which its rows are multiplied beside those of others by a product
# that does not depend on them; rows of longer ones keep the device busy alone, at full speed.
FEW_TOKENS = 512


def product_of(lengths: Sequence[int]) -> Product:
    """How layers multiply the tokens of some sequences.

    Args:
        lengths: tokens of each sequence; longer ones are multiplied each alone.

    Returns:
        A product. Without gradients, and in layers without bias and not in FP8, what a sequence
        gets from it does not depend on the others, to the bit.
    """
    if torch.is_grad_enabled() or (len(lengths) == 1 and lengths[0] > FEW_TOKENS):
        return apply
    if max(lengths, default=0) <= FEW_TOKENS:
        return gather
    return partial(_each, sizes=_runs(lengths))


def gather(layer: nn.Module, x: Operand) -> Float[Tensor, "row out"]:
    """A layer's product for the rows of short sequences; each row's does not depend on others."""
    if isinstance(layer, nn.Linear) and layer.bias is None and isinstance(x, Tensor):
        return some_rows(x, layer.weight)
    return layer(x)


def _each(layer: nn.Module, x: Operand, *, sizes: Sequence[int]) -> Float[Tensor, "row out"]:
    """Runs of rows one after another, as each would be alone."""
    if not isinstance(x, Tensor):
        return layer(x)
    rows = x.split([abs(size) for size in sizes])
    # A library may choose a kernel by how rows are aligned: copied, they begin as they do alone.
    return torch.cat(
        [
            gather(layer, some) if size <= 0 else layer(some.clone())
            for size, some in zip(sizes, rows, strict=True)
        ]
    )


def _runs(lengths: Sequence[int]) -> list[int]:
    """Rows of each long sequence, and of each run of short ones, the latter below zero."""
    found: list[int] = []
    for length in lengths:
        if length > FEW_TOKENS:
            found.append(length)
        elif found and found[-1] <= 0:
            found[-1] -= length
        else:
            found.append(-length)
    return found


def project(layer: nn.Module, x: Operand, *, relu2: bool = False) -> Float[Tensor, "row out"]:
    """A layer's product for one row a sequence; each weight is read once, at full speed.

    Args:
        layer: linear.
        x: what it reads.
        relu2: square what is positive of the product, and zero what is not.
    """
    if isinstance(layer, nn.Linear) and layer.bias is None and isinstance(x, Tensor):
        return few_rows(x, layer.weight, relu2=relu2)
    y: Tensor = layer(x)
    return squared_relu(y) if relu2 else y


def project_parts(layer: nn.Module, x: Operand) -> Float[Tensor, "part row out"]:
    """As `project`, for the last layer of a mixer: the next norm adds up the parts."""
    if isinstance(layer, nn.Linear) and layer.bias is None and isinstance(x, Tensor):
        return few_rows_parts(x, layer.weight)
    return layer(x)[None]


def quantize_(root: nn.Module) -> tuple[str, ...]:
    """Put an `Fp8Linear` in the place of every linear layer below a module.

    One weight at a time is quantised where it is, and freed. Layers with a width that is no
    multiple of 16 stay as they are.

    Args:
        root: changed in place.

    Returns:
        Names of the layers that were replaced.
    """
    found = [(name, part) for name, part in root.named_modules() if _fits(part)]
    for name, part in found:
        path, _, leaf = name.rpartition(".")
        owner = root.get_submodule(path)
        if isinstance(part, nn.Linear):
            owner.register_module(leaf, Fp8Linear.of(part))
    return tuple(name for name, _ in found)


def all_take_fp8(projections: Iterable[nn.Module]) -> bool:
    """Whether layers that read the same rows want them in FP8: the pass before can round them."""
    return all(isinstance(projection, Fp8Linear) for projection in projections)


def _fits(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) and not (
        part.in_features % MULTIPLE or part.out_features % MULTIPLE
    )
