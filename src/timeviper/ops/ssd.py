"""The selective scan of Mamba-2: one call for any length, packed, with carried state."""

import math
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import ConfigError, LayoutError
from timeviper.ops import backend as backends
from timeviper.ops.packing import check_lengths


def ssd(  # noqa: PLR0913
    x: Float[Tensor, "token head head_dim"],
    dt: Float[Tensor, "token head"],
    A: Float[Tensor, "head"],
    B: Float[Tensor, "token group state_size"],
    C: Float[Tensor, "token group state_size"],
    D: Float[Tensor, "head"] | None = None,
    state: Float[Tensor, "sequence head head_dim state_size"] | None = None,
    *,
    lengths: Sequence[int],
    dt_bias: Float[Tensor, "head"] | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    chunk_size: int = 64,
    backend: str | None = None,
) -> tuple[
    Float[Tensor, "token head head_dim"],
    Float[Tensor, "sequence head head_dim state_size"],
]:
    """Scan: h_t = exp(dt A) h_{t-1} + dt x_t B_t^T and y_t = C_t . h_t + D x_t.

    Args:
        x: inputs of all sequences, one after another.
        dt: step sizes before bias, softplus and limits.
        A: negative decay rate a head.
        B: input projections; head h reads group h // (heads / groups).
        C: output projections, grouped like B.
        D: weight of the direct path a head, or None.
        state: what each sequence starts from; None means zeros.
        lengths: tokens of each sequence; one without tokens keeps its state.
        dt_bias: added to `dt` first.
        dt_softplus: whether softplus follows the bias.
        dt_limit: lowest and highest step size allowed after softplus.
        chunk_size: tokens a chunk at most; changes speed and memory, not the result.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        Outputs in the dtype of `x`, and each sequence's final state in float32 (float64 for
        float64 inputs).

    Raises:
        LayoutError: lengths, state, heads or groups do not fit together.
        ConfigError: unknown backend, chunk size or limits without sense.

    Source: Mamba-2 (Dao and Gu 2024).
    Law: cut anywhere and carry the state, and outputs and final state are those of one call.
    """
    _check_sizes(x, B, C, state, lengths)
    _check_options(chunk_size, dt_limit)
    chosen = backends.choose("ssd", backend, device_type=x.device.type)
    return chosen.run(
        x,
        dt,
        A,
        B,
        C,
        D,
        state,
        lengths=lengths,
        dt_bias=dt_bias,
        dt_softplus=dt_softplus,
        dt_limit=dt_limit,
        chunk_size=chunk_size,
    )


def _check_sizes(
    x: Tensor, b: Tensor, c: Tensor, state: Tensor | None, lengths: Sequence[int]
) -> None:
    """Refuse tensors that do not describe the same tokens, heads and groups."""
    tokens, heads, head_dim = x.shape
    check_lengths(lengths, tokens)
    if b.shape != c.shape or b.shape[0] != tokens:
        raise LayoutError(
            want=f"B and C of one shape with {tokens} tokens",
            got=f"{tuple(b.shape)} and {tuple(c.shape)}",
            do="project B and C from the same tokens as x",
        )
    groups, size = b.shape[1:]
    if groups == 0 or heads % groups:
        raise LayoutError(
            want=f"a number of groups that divides {heads} heads",
            got=groups,
            do="set n_groups to a divisor of the heads",
        )
    wanted = (len(lengths), heads, head_dim, size)
    if state is not None and tuple(state.shape) != wanted:
        raise LayoutError(
            want=f"a state of shape {wanted} (sequence, head, head_dim, state_size)",
            got=tuple(state.shape),
            do="carry the state that the previous call returned",
        )


def _check_options(chunk_size: int, dt_limit: tuple[float, float]) -> None:
    """Refuse options that no scan can follow."""
    if chunk_size < 1:
        raise ConfigError(want="a chunk_size of 1 or more", got=chunk_size, do="use 64 or 128")
    if not 0.0 <= dt_limit[0] <= dt_limit[1]:
        raise ConfigError(
            want="dt_limit as (lowest, highest) with 0 <= lowest <= highest",
            got=dt_limit,
            do="use (0, inf) unless the checkpoint says otherwise",
        )
