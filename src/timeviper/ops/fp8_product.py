"""FP8 products at the device's full rate: one scale for the rows, or theirs applied later.

The device multiplies fastest when a weight has one scale and the rows have one or none. What a norm
gives has a scale that is known beforehand. Where each row has its own, a product leaves its rows in
units of them, and the next norm, which is bound by memory, multiplies them and adds the bias while
it has each row in registers.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from timeviper.ops import backend as backends
from timeviper.ops.fp8 import Quantized, refuse_gradients
from timeviper.ops.product import Fp8Norm, Fp8Rows, Fp8Weight, Product


def fp8_product(
    x: Quantized, weight: Fp8Weight, bias: Float[Tensor, "out"], *, backend: str | None = None
) -> Product:
    """Multiply FP8 rows by an FP8 weight, with sums in float32 that are left in bfloat16.

    Args:
        x: `(..., in)` with one scale a row.
        weight: `(out, in)` with one scale.
        bias: one number an output channel; waits.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        The product; its values have to be finished by who reads them.

    Raises:
        ConfigError: an unknown backend, or a device without FP8.
    """
    chosen = backends.choose("fp8_product", backend, device_type=x.values.device.type)
    sums: Tensor = chosen.run(x.values.flatten(0, -2), weight, None, None)
    return Product(sums.unflatten(0, x.values.shape[:-1]), x.scales, bias)


def fp8_rows_product(
    x: Fp8Rows, weight: Fp8Weight, bias: Float[Tensor, "out"], *, backend: str | None = None
) -> Float[Tensor, "... out"]:
    """Multiply FP8 rows that have one scale by an FP8 weight, and add a bias, at once.

    Args:
        x: `(..., in)`.
        weight: `(out, in)` with one scale.
        bias: one number an output channel.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        The product in bfloat16.

    Raises:
        ConfigError: an unknown backend, or a device without FP8.
    """
    chosen = backends.choose("fp8_product", backend, device_type=x.values.device.type)
    sums: Tensor = chosen.run(x.values.flatten(0, -2), weight, x.scale, bias)
    return sums.unflatten(0, x.values.shape[:-1])


def add_product(
    stream: Float[Tensor, "... width"], product: Product, *, backend: str | None = None
) -> Float[Tensor, "... width"]:
    """Finish a product and add it to the residual stream.

    Args:
        stream: vectors along the last axis.
        product: what is added.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        The sum in the stream's dtype.

    Raises:
        ConfigError: a gradient is wanted, or an unknown backend.
    """
    refuse_gradients(stream, *product)
    chosen = backends.choose("add_product", backend, device_type=stream.device.type)
    return chosen.run(stream, product)


def add_product_norm(
    stream: Float[Tensor, "... width"],
    update: Product | Float[Tensor, "... width"] | None,
    norm: Fp8Norm,
    *,
    backend: str | None = None,
) -> tuple[Float[Tensor, "... width"], Fp8Rows]:
    """Add an update to the stream, norm the sum and round the norm to e4m3.

    Args:
        stream: vectors along the last axis.
        update: what is added: a product to be finished, plain numbers, or None where nothing was
            added yet.
        norm: with the scale of its results.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        The sum in the stream's dtype, and its norm in FP8.

    Raises:
        ConfigError: a gradient is wanted, or an unknown backend.
    """
    refuse_gradients(stream, *(update if isinstance(update, Product) else (update,)))
    chosen = backends.choose("add_product_norm", backend, device_type=stream.device.type)
    total, values = chosen.run(stream, update, norm)
    return total, Fp8Rows(values, norm.scale)
