"""The oracle itself against sums written out by hand: everything else is measured by it."""

from __future__ import annotations

import pytest
import torch

from tests.tolerances import TOL, close
from tests.unit.ops.draws import scan_operands
from timeviper.ops import ssd_reference


def test_one_head_and_one_state_follow_the_recurrence() -> None:
    x, dt = [2.0, -1.0, 3.0], [0.5, 0.25, 1.0]
    b, c, a, d, h = [1.0, 2.0, -1.0], [3.0, 1.0, 2.0], -0.7, 0.1, 4.0
    want = []
    for t in range(3):
        h = float(torch.tensor(dt[t] * a).double().exp()) * h + dt[t] * x[t] * b[t]
        want.append(c[t] * h + d * x[t])
    column = [torch.tensor(v, dtype=torch.float64).reshape(3, 1, 1) for v in (x, b, c)]
    y, state = ssd_reference.ssd(
        column[0],
        torch.tensor(dt, dtype=torch.float64)[:, None],
        torch.tensor([a], dtype=torch.float64),
        column[1],
        column[2],
        torch.tensor([d], dtype=torch.float64),
        torch.full((1, 1, 1, 1), 4.0, dtype=torch.float64),
        lengths=[3],
    )
    close("y", got=y.flatten(), want=want, tol=1e-7)
    close("state", got=state.flatten(), want=[h], tol=1e-7)


def test_outputs_are_a_masked_product_of_the_inputs() -> None:
    """y_t = sum over s <= t of C_t . B_s exp(A sum of dt after s) dt_s x_s + D x_t."""
    o = {name: value.detach() for name, value in scan_operands([6]).items()}
    steps = o["dt"].exp()
    y, _ = ssd_reference.ssd(
        o["x"], steps, o["A"], o["B"], o["C"], o["D"], None, lengths=[6], chunk_size=2
    )
    for head in range(4):
        group = head // 2
        for t in range(6):
            want = o["D"][head] * o["x"][t, head]
            for s in range(t + 1):
                reach = (o["A"][head] * steps[s + 1 : t + 1, head].sum()).exp()
                weight = (o["C"][t, group] * o["B"][s, group]).sum() * reach * steps[s, head]
                want = want + weight * o["x"][s, head]
            close(f"y[{t}, {head}]", got=y[t, head], want=want, tol=TOL.ssd.f64)


def test_sequences_start_from_their_own_state() -> None:
    o = {name: value.detach() for name, value in scan_operands([2, 0, 3]).items()}
    y, state = ssd_reference.ssd(**o, lengths=[2, 0, 3], dt_softplus=True)
    keys = ("x", "dt", "B", "C")
    last = {name: o[name][2:] if name in keys else o[name] for name in o}
    last["state"] = o["state"][2:]
    alone, final = ssd_reference.ssd(**last, lengths=[3], dt_softplus=True)
    close("y", got=y[2:], want=alone, tol=TOL.ssd.f64)
    close("state", got=state[2:], want=final, tol=TOL.ssd.f64)
    close("untouched", got=state[1], want=o["state"][1], tol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_results_keep_the_dtypes_of_the_public_op(dtype: torch.dtype) -> None:
    o = {name: value.detach().to(dtype) for name, value in scan_operands([3]).items()}
    y, state = ssd_reference.ssd(**o, lengths=[3])
    assert (y.dtype, state.dtype) == (dtype, torch.float32)


def test_no_tokens_and_no_sequences() -> None:
    o = {name: value.detach() for name, value in scan_operands([0, 0]).items()}
    y, state = ssd_reference.ssd(**o, lengths=[0, 0])
    assert y.shape == (0, 4, 3)
    close("state", got=state, want=o["state"], tol=0.0)
    o = {name: value.detach() for name, value in scan_operands([]).items()}
    assert ssd_reference.ssd(**o, lengths=[])[1].shape == (0, 4, 3, 5)
