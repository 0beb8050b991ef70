"""Grouped-query attention over packed queries and cached keys; never an L x L matrix."""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.ops import attention_pieces, attention_streamed
from timeviper.ops import backend as backends
from timeviper.ops.attention_parts import Shared
from timeviper.ops.fronts import Fronts
from timeviper.ops.packing import check_lengths


def attention(  # noqa: PLR0913
    q: Float[Tensor, "token head head_dim"],
    k: Float[Tensor, "sequence capacity kv_head head_dim"],
    v: Float[Tensor, "sequence capacity kv_head head_dim"],
    *,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
    causal: bool = True,
    scale: float | None = None,
    shared: Shared | None = None,
    backend: str | None = None,
) -> Float[Tensor, "token head head_dim"]:
    """Attend from the last tokens of each sequence to its keys.

    Query i of sequence s sits at position `k_lengths[s] - q_lengths[s] + i` of its own keys.

    Args:
        q: packed queries; head h reads key head h // (heads / kv_heads).
        k: keys of each sequence, the new tokens' own included; slots from `k_lengths[s]` on
            are ignored whatever they hold. Keys in a host's memory are streamed to the queries.
        v: values, laid out like the keys.
        q_lengths: queries of each sequence; zero is allowed.
        k_lengths: filled slots of each sequence.
        causal: whether a query sees no later position than its own.
        scale: factor of the scores; None means 1 / sqrt(head_dim).
        shared: what lies in front of each sequence's own keys, seen by all its queries; the same
            for several is read once. `k_lengths` do not count it.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        Weighted values, packed like the queries; 0 where a sequence has no keys.

    Raises:
        LayoutError: lengths, heads or capacity do not fit.

    Source: Ainslie et al. 2023 (grouped queries); blocks over queries ours.
    Law: cut the queries anywhere, and the outputs are those of one call; shared keys give what
        a copy of them in front of each sequence's own keys would. On a GPU in a half precision a
        sequence's outputs do not depend on the others, to the bit.
    """
    _check(q, k, v, q_lengths, k_lengths)
    if causal:
        _check_places(q_lengths, k_lengths)
    _check_shared(shared, k)
    if any(keys.device != q.device for keys in (k, *_keys(shared))):
        part = backends.choose("attention_part", device_type=q.device.type)
        run = partial(attention_streamed.attention, further=part.run)
    else:
        run = backends.choose("attention", backend, device_type=q.device.type).run
    return run(
        q,
        k,
        v,
        q_lengths=q_lengths,
        k_lengths=k_lengths,
        causal=causal,
        scale=scale,
        shared=shared,
    )


def attention_step(  # noqa: PLR0913
    q: Float[Tensor, "sequence head head_dim"],
    k: Float[Tensor, "sequence capacity kv_head head_dim"],
    v: Float[Tensor, "sequence capacity kv_head head_dim"],
    *,
    k_lengths: Int[Tensor, " sequence"],
    shared: Fronts | None = None,
    scale: float | None = None,
    backend: str | None = None,
) -> Float[Tensor, "sequence head head_dim"]:
    """Attend from one new token of each sequence to its keys, the token's own included.

    On a GPU with Triton nothing waits for the device and the launch depends on shapes alone, so
    that a CUDA graph of it stays right while the lengths grow. Not differentiable there.

    Args:
        q: the query of each sequence; head h reads key head h // (heads / kv_heads).
        k: keys of each sequence; slots from `k_lengths[s]` on are ignored whatever they hold.
        v: values, laid out like the keys.
        k_lengths: filled slots of each sequence, where the keys are; at most the capacity, which
            is not checked: that would wait for the device. With keys in a host's memory, which
            are streamed, it does wait.
        shared: what lies in front of each sequence's own keys, where it lies; several sequences
            behind the same keys read them once. `k_lengths` do not count it.
        scale: factor of the scores; None means 1 / sqrt(head_dim).
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        Weighted values of each sequence; 0 where it has no keys.

    Raises:
        LayoutError: heads, sequences or shapes do not fit.

    Source: Dao et al. 2023 (Flash-Decoding); Juravsky et al. 2024 (Hydragen, shared prefixes).
    Law: what `attention` gives for one query a sequence. With Triton a sequence's output depends
        neither on the others nor on the capacity, to the bit.
    """
    _check_rows(k, v, len(q), len(k_lengths))
    _ratio(q.shape[1], k.shape[2])
    fronts = None if shared is None else shared.shared
    _check_shared(fronts, k)
    if k.device != q.device:
        filled: list[int] = k_lengths.tolist()
        ones = [1] * len(filled)
        return attention(
            q, k, v, q_lengths=ones, k_lengths=filled, causal=False, scale=scale, shared=fronts
        )
    chosen = backends.choose("attention_step", backend, device_type=q.device.type)
    return chosen.run(q, k, v, k_lengths=k_lengths, shared=shared, scale=scale)


def warm_attention(
    *, heads: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Run each shape of a long prefill once: the first call of a shape plans its kernel.

    cuDNN takes a second for its first call and a tenth for each further shape, once a thread.

    Args:
        heads: query heads.
        kv_heads: key heads.
        head_dim: numbers a head.
        dtype: of queries, keys and values.
        device: where the calls will be; nothing is done unless cuDNN is chosen there.
    """
    chosen = backends.choose("attention", device_type=device.type)
    if chosen.name != "cudnn":
        return
    most, past = attention_pieces.CUDNN_QUERIES[0], sum(attention_pieces.CUDNN_KEYS)
    q = torch.zeros(most, heads, head_dim, dtype=dtype, device=device)
    k = torch.zeros(1, past + most, kv_heads, head_dim, dtype=dtype, device=device)
    for count in attention_pieces.CUDNN_QUERIES:
        attention(q[:count], k, k, q_lengths=[count], k_lengths=[past + count])


def _ratio(heads: int, kv_heads: int) -> int:
    """Query heads a key head."""
    if kv_heads == 0 or heads % kv_heads:
        raise LayoutError(
            want=f"a number of key heads that divides {heads} query heads",
            got=kv_heads,
            do="set num_kv_heads to a divisor of num_heads",
        )
    return heads // kv_heads


def _check_rows(k: Tensor, v: Tensor, sequences: int, lengths: int) -> None:
    """Refuse keys and values that are not one row a sequence, alike."""
    if lengths != sequences or k.shape[0] != sequences:
        raise LayoutError(
            want=f"keys and lengths of {sequences} sequences",
            got=f"keys of {k.shape[0]}, {lengths} lengths",
            do="pass one row of keys and one length a sequence",
        )
    if k.shape != v.shape:
        raise LayoutError(
            want=f"values shaped like the keys {tuple(k.shape)}",
            got=tuple(v.shape),
            do="write keys and values together",
        )


def _keys(shared: Shared | None) -> list[Tensor]:
    """Keys that lie in front of some sequence."""
    return [front.k for front in shared or () if front is not None]


def _check_shared(shared: Shared | None, k: Tensor) -> None:
    """Refuse shared keys that could not stand in front of each sequence's own."""
    if shared is not None and len(shared) != len(k):
        raise LayoutError(
            want=f"what lies in front of each of {len(k)} sequences",
            got=f"{len(shared)} of them",
            do="say None where nothing does",
        )
    for front in {id(front): front for front in shared or () if front is not None}.values():
        if front.k.shape != front.v.shape or front.k.shape[1:] != k.shape[2:]:
            raise LayoutError(
                want=f"shared keys and values of {k.shape[2]} heads x {k.shape[3]}",
                got=f"{tuple(front.k.shape)} and {tuple(front.v.shape)}",
                do="share keys of the same layer",
            )
        if not 0 <= front.length <= len(front.k):
            raise LayoutError(
                want=f"a shared length within the capacity of {len(front.k)}",
                got=front.length,
                do="pass the number of filled slots",
            )


def _check_filled(k: Tensor, k_lengths: Sequence[int]) -> None:
    """Refuse lengths that do not fit their buffer."""
    if max(k_lengths, default=0) > k.shape[1] or min(k_lengths, default=0) < 0:
        raise LayoutError(
            want=f"filled lengths within the capacity of {k.shape[1]}",
            got=list(k_lengths),
            do="extend the key buffer before attending",
        )


def _check(
    q: Tensor, k: Tensor, v: Tensor, q_lengths: Sequence[int], k_lengths: Sequence[int]
) -> None:
    """Refuse queries, keys and values that do not fit together."""
    check_lengths(q_lengths, q.shape[0], name="q_lengths")
    _check_rows(k, v, len(q_lengths), len(k_lengths))
    _check_filled(k, k_lengths)
    _ratio(q.shape[1], k.shape[2])


def _check_places(q_lengths: Sequence[int], k_lengths: Sequence[int]) -> None:
    """Refuse causal queries whose own keys are missing; a cross-attention may have fewer keys."""
    short = [s for s, (a, b) in enumerate(zip(q_lengths, k_lengths, strict=True)) if a > b]
    if short:
        s = short[0]
        raise LayoutError(
            want=f"at least {q_lengths[s]} keys for the {q_lengths[s]} queries of sequence {s}",
            got=k_lengths[s],
            do="append the new tokens' keys before attending",
        )
