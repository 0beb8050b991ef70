"""The kernels are compiled for a GPU that need not be here: the interpreter is more forgiving."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.ops.compiled import compiled

pytest.importorskip("triton", reason="no Triton for this platform")

_COMPILE = """
import json, sys
import torch, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from timeviper.ops import activation_triton, conv1d_triton, norm_triton
from timeviper.ops import linear_triton, norm_row_triton

LOW, HIGH = "*bf16", "*fp32"
CONV = dict(x=LOW, tail=LOW, weight=HIGH, bias=HIGH, y=LOW, new_tail=LOW, plan="*i64", dy=LOW,
            dnew=LOW, dx=LOW, dtail=LOW, partial=HIGH, even="i32", per_sequence="i32",
            channels="i32", x_step="i32", dy_step="i32")
NORM = dict(x=LOW, gate=LOW, weight=HIGH, y=LOW, dy=LOW, dx=LOW, dgate=LOW, partial=HIGH,
            count="i32", x_step="i32", gate_step="i32", dy_step="i32")
WALK = dict(ALIGN=4, ALIGN_DY=16, SILU=True, WORK=tl.float32, ROWS=8, UNROLL=2, BLOCK_C=128)
TILE = dict(SIZE=96, GROUPS=2, EPS=1e-5, ALIGN=4, ALIGN_GATE=4, ALIGN_DY=16, WORK=tl.float32,
            ROWS=2, TILES=4, BLOCK=128, OVERLAP=True)
BARE = dict(tail=None, bias=None, dnew=None, dtail=None)
# One token a sequence: Triton takes integers that are 1 for constants.
STEP = dict(plan=None, even=1, per_sequence=1, ROWS=1, UNROLL=1)

def check(name, kernel, types, constants):
    taken = {n: v for n, v in constants.items() if n in kernel.arg_names}
    signature = {n: "constexpr" if n in taken else types[n] for n in kernel.arg_names}
    target = GPUTarget("cuda", 90, 32)
    built = triton.compile(ASTSource(kernel, signature, taken), target=target)
    print(json.dumps({"name": name, "stages": list(built.asm)}))

for part in ("_forward_kernel", "_backward_kernel"):
    walk, tile = getattr(conv1d_triton, part), getattr(norm_triton, part)
    check("conv" + part, walk, CONV, WALK | {"WIDTH": 4})
    check("conv of a step" + part, walk, CONV, WALK | STEP | {"WIDTH": 4})
    check("conv of width 1" + part, walk, CONV, WALK | BARE | {"WIDTH": 1, "SILU": False})
    check("gated norm" + part, tile, NORM, TILE)
    check("norm" + part, tile, NORM, TILE | {"gate": None, "dgate": None})
FLAT = dict(x=LOW, dy=LOW, out=LOW, count="i32")
for dy in ({}, {"dy": None}):
    check("squared ReLU", activation_triton._kernel, FLAT, dict(WORK=tl.float32, BLOCK=4096) | dy)

E4M3 = "*fp8e4nv"
WHOLE = dict(x=LOW, addition=LOW, gate=LOW, weight=LOW, total=LOW, y=E4M3, scales=HIGH,
             count="i32", x_step="i32", addition_step="i32", gate_step="i32")
ROW = dict(GROUPS=2, SIZE=96, EPS=1e-5, ALIGN=16, ALIGN_ADDITION=16, ALIGN_GATE=4,
           WORK=tl.float32, TILES=4, ROOT=9.8, BLOCK=128)
ALONE = dict(addition=None, total=None, addition_step=0)
UNGATED = dict(gate=None, gate_step=0)
row = norm_row_triton._row_kernel
check("add, norm", row, WHOLE | {"y": LOW}, ROW | UNGATED | {"scales": None})
check("add, norm, round", row, WHOLE, ROW | UNGATED)
check("norm, round", row, WHOLE, ROW | UNGATED | ALONE)
check("gate, norm, round", row, WHOLE, ROW | ALONE)
ROUND = dict(SIZE=96, ALIGN=16, ROWS=4, BLOCK=128)
for activation in ("none", "relu2"):
    check("round", linear_triton._quantize_kernel, WHOLE | {"values": E4M3},
          ROUND | {"ACTIVATION": activation})
"""


def test_every_kernel_compiles_for_an_h100(tmp_path: Path) -> None:
    built = compiled(_COMPILE, tmp_path)
    assert len(built) == 18
    assert all("cubin" in kernel["stages"] for kernel in built)
