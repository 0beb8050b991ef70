"""Products of a few rows with a large weight, as a decode step needs them; no gradients."""

from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.ops import backend as backends


def few_rows(
    x: Float[Tensor, "row in"],
    weight: Float[Tensor, "out in"],
    *,
    relu2: bool = False,
    backend: str | None = None,
) -> Float[Tensor, "row out"]:
    """Multiply rows by a weight.

    Args:
        x: one row a sequence; any number is right, a few are fast.
        weight: of a linear layer without bias.
        relu2: square what is positive of the rounded product, and zero what is not.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        `x @ weight.T` in the dtype of `x`.

    Raises:
        LayoutError: widths that differ.

    Law: on a GPU, a row's result does not depend on how many others there are, to the bit.
    """
    _check(x, weight)
    return backends.choose("few_rows", backend, device_type=x.device.type).run(
        x, weight, relu2=relu2
    )


def some_rows(
    x: Float[Tensor, "row in"],
    weight: Float[Tensor, "out in"],
    *,
    relu2: bool = False,
    backend: str | None = None,
) -> Float[Tensor, "row out"]:
    """As `few_rows`, fast for some hundred rows: the tokens of questions.

    Args:
        x: rows of all sequences.
        weight: of a linear layer without bias.
        relu2: square what is positive of the rounded product, and zero what is not.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        `x @ weight.T` in the dtype of `x`.

    Raises:
        LayoutError: widths that differ.

    Law: that of `few_rows`; a row that goes through both may come out rounded otherwise.
    """
    _check(x, weight)
    return backends.choose("some_rows", backend, device_type=x.device.type).run(
        x, weight, relu2=relu2
    )


def few_rows_parts(
    x: Float[Tensor, "row in"], weight: Float[Tensor, "out in"], *, backend: str | None = None
) -> Float[Tensor, "part row out"]:
    """As `few_rows`, for a weight with fewer outputs: parts that `settle` adds up.

    Args:
        x: one row a sequence.
        weight: of a linear layer without bias.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        Parts whose sum is the product: sums over parts of the width in float32, or one in the
        dtype of `x`.
    """
    _check(x, weight)
    return backends.choose("few_rows_parts", backend, device_type=x.device.type).run(x, weight)


def settle(
    x: Float[Tensor, "row width"],
    parts: Float[Tensor, "part row width"],
    weight: Float[Tensor, "width"],
    eps: float,
    *,
    backend: str | None = None,
) -> tuple[Float[Tensor, "row width"], Float[Tensor, "row width"]]:
    """Add a product that comes in parts to the residual stream, and norm the sum.

    Args:
        x: the stream.
        parts: as `few_rows_parts` returns them.
        weight: one factor a channel.
        eps: added to the mean square.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        The stream after the addition, and its norm, in the dtype of `x`; roundings as where the
        product is stored and `add_rms_norm` follows.
    """
    chosen = backends.choose("settle", backend, device_type=x.device.type)
    return chosen.run(x, parts, weight, eps)


def _check(x: Tensor, weight: Tensor) -> None:
    if x.shape[1] != weight.shape[1]:
        raise LayoutError(
            want=f"rows of width {weight.shape[1]}, as the weight reads",
            got=tuple(x.shape),
            do="pass the rows of this layer",
        )
