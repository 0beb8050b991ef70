"""The public scan: which implementation it takes, and what it refuses with which numbers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from tests.tolerances import TOL, close
from tests.unit.ops.draws import scan_operands, unchecked
from timeviper.core.errors import ConfigError, LayoutError
from timeviper.ops import backend, ssd_reference
from timeviper.ops.ssd import ssd

raw_ssd = unchecked(ssd)


def _operands(lengths: list[int]) -> dict[str, Any]:
    return {name: value.detach() for name, value in scan_operands(lengths).items()}


@pytest.mark.parametrize("name", ["chunked", "reference"])
@pytest.mark.parametrize("lengths", [[30], [4, 0, 9], [1, 1]], ids=str)
def test_every_backend_passes_every_argument_on(name: str, lengths: list[int]) -> None:
    call = {"lengths": lengths, "dt_softplus": True, "dt_limit": (0.05, 0.4), "chunk_size": 8}
    operands = _operands(lengths)
    got = ssd(**operands, **call, backend=name)
    want = ssd_reference.ssd(**operands, **call)
    close("y", got=got[0], want=want[0], tol=TOL.ssd.f64)
    close("state", got=got[1], want=want[1], tol=TOL.ssd.f64)
    for changed in ("D", "state", "dt_bias"):
        without = ssd(**{**operands, changed: None}, **call, backend=name)
        assert (without[0] - got[0]).abs().max() > 1e-6, changed


def test_head_h_reads_group_h_over_ratio() -> None:
    o = _operands([6])
    before, _ = ssd(**o, lengths=[6], dt_softplus=True)
    o["B"][:, 1] += 1.0
    after, _ = ssd(**o, lengths=[6], dt_softplus=True)
    moved = (after - before).abs().amax(dim=(0, 2)) > 1e-6
    assert moved.tolist() == [False, False, True, True]


def test_states_are_float32_and_outputs_keep_their_dtype() -> None:
    o = {name: value.bfloat16() for name, value in _operands([5]).items()}
    y, state = ssd(**o, lengths=[5])
    assert (y.dtype, state.dtype) == (torch.bfloat16, torch.float32)


def test_an_override_reaches_the_scan() -> None:
    o = {name: value.float() for name, value in _operands([40]).items()}
    with backend.override("ssd", "reference"):
        y, _ = ssd(**o, lengths=[40], dt_softplus=True)
    want, _ = ssd_reference.ssd(**o, lengths=[40], dt_softplus=True)
    close("y", got=y, want=want, tol=0.0)


def test_unknown_backend() -> None:
    with pytest.raises(ConfigError, match="triton, chunked, reference; got triton9"):
        ssd(**_operands([2]), lengths=[2], backend="triton9")


def test_lengths_that_do_not_sum() -> None:
    with pytest.raises(LayoutError, match="sum to the 5 packed tokens; got 4"):
        ssd(**_operands([5]), lengths=[4])


def test_a_state_of_another_batch() -> None:
    with pytest.raises(LayoutError, match=r"shape \(2, 4, 3, 5\).*got \(1, 4, 3, 5\)"):
        ssd(**_operands([5]), lengths=[3, 2])


def test_groups_that_do_not_divide_the_heads() -> None:
    o = _operands([5])
    o["B"] = o["C"] = torch.zeros(5, 3, 5, dtype=torch.float64)
    with pytest.raises(LayoutError, match="divides 4 heads; got 3"):
        ssd(**o, lengths=[5])


def test_projections_of_other_tokens() -> None:
    o = _operands([5])
    o["C"] = o["C"][:4]
    with pytest.raises(LayoutError, match="one shape with 5 tokens"):
        raw_ssd(**o, lengths=[5])


@pytest.mark.parametrize("chunk_size", [0, -64])
def test_a_chunk_without_tokens(chunk_size: int) -> None:
    with pytest.raises(ConfigError, match="chunk_size of 1 or more"):
        ssd(**_operands([2]), lengths=[2], chunk_size=chunk_size)


@pytest.mark.parametrize("limit", [(1.0, 0.5), (-0.1, 1.0), (math.nan, 1.0)])
def test_limits_without_sense(limit: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="lowest <= highest"):
        ssd(**_operands([2]), lengths=[2], dt_limit=limit)
