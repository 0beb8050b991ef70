"""What a step of one token a sequence needs: scan and convolution, key slots, the best token."""

import math

from jaxtyping import Float, Int
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.ops import backend as backends
from timeviper.ops.step_torch import StepWeights

__all__ = ["StepWeights", "best_token", "mamba_step", "write_slots"]


def mamba_step(  # noqa: PLR0913
    xbc: Float[Tensor, "sequence channel"],
    dt: Float[Tensor, "sequence head"],
    weights: StepWeights,
    *,
    ring: Float[Tensor, "sequence width channel"],
    ssm: Float[Tensor, "sequence head head_dim state_size"],
    place: Int[Tensor, "sequence"],
    dt_limit: tuple[float, float] = (0.0, math.inf),
    backend: str | None = None,
) -> Float[Tensor, "sequence head head_dim"]:
    """Convolve, SiLU, and take one step of the scan: each state is read and written once.

    Args:
        xbc: inputs of the convolution, x, B and C side by side; may be a slice of a projection.
        dt: step sizes before bias and softplus; may be a slice too.
        weights: of the layer, decay rates in float32 or better.
        ring: the last inputs of the convolution; slot `place[s] % width` takes this one, and the
            slots after it hold the older ones, oldest first. Written in place.
        ssm: states, float32 (float64 for float64 inputs). Written in place.
        place: on the device, the slot's count of each sequence; the caller adds 1 a step.
        dt_limit: lowest and highest step size allowed after softplus.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        Outputs of the scan, D's path included, in the dtype of `xbc`.

    Raises:
        LayoutError: channels, ring or state do not fit together.

    Source: Mamba-2 (Dao and Gu 2024), the recurrence at one token.
    Law: as `causal_conv1d` with "silu" and then `ssd`, each called with one token a sequence.
    """
    _check(xbc, dt, ring, ssm)
    chosen = backends.choose("mamba_step", backend, device_type=xbc.device.type)
    return chosen.run(xbc, dt, weights, ring=ring, ssm=ssm, place=place, dt_limit=dt_limit)


def _check(xbc: Tensor, dt: Tensor, ring: Tensor, ssm: Tensor) -> None:
    """Refuse what does not describe the same sequences, channels and heads."""
    sequences, heads, head_dim, size = ssm.shape
    both, left = divmod(xbc.shape[1] - heads * head_dim, 2)
    groups, uneven = divmod(both, size)
    if left or uneven or groups < 1 or heads % groups:
        raise LayoutError(
            want=f"{heads * head_dim} channels of x, and B and C of {size} a group",
            got=f"{xbc.shape[1]} channels",
            do="pass x, B and C as the projection gives them",
        )
    wanted = (sequences, ring.shape[1], xbc.shape[1])
    if tuple(ring.shape) != wanted or len(dt) != sequences or len(xbc) != sequences:
        raise LayoutError(
            want=f"one token, and a ring of shape {wanted}, for each state",
            got=f"{len(xbc)} tokens and a ring of {tuple(ring.shape)}",
            do="give every sequence its row",
        )


def write_slots(
    buffers: tuple[
        Float[Tensor, "sequence capacity kv_head head_dim"],
        Float[Tensor, "sequence capacity kv_head head_dim"],
    ],
    k: Float[Tensor, "sequence kv_head head_dim"],
    v: Float[Tensor, "sequence kv_head head_dim"],
    *,
    slots: Int[Tensor, "sequence"],
    backend: str | None = None,
) -> None:
    """Put the keys and values of one token a sequence into their buffers, in place.

    Args:
        buffers: of keys and of values.
        k: new keys.
        v: new values.
        slots: on the device, one above the slot of each sequence: its length with the token.
        backend: name of an implementation; None leaves the choice to the registry.
    """
    chosen = backends.choose("write_slots", backend, device_type=k.device.type)
    chosen.run(buffers, k, v, slots=slots)


def best_token(
    logits: Float[Tensor, "sequence vocab"], *, backend: str | None = None
) -> Int[Tensor, "sequence"]:
    """The token of the highest score; of equal ones the lowest.

    Args:
        logits: scores of each sequence.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        Tokens on the device, -1 for a sequence with a score that is not finite.
    """
    return backends.choose("best_token", backend, device_type=logits.device.type).run(logits)
