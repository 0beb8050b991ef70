"""The tower's kernels are compiled for a GPU that need not be here, without spilling registers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.ops.compiled import compiled

pytest.importorskip("triton", reason="no Triton for this platform")

_COMPILE = """
import json
import triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from timeviper.ops import fp8_product_triton, layer_norm_triton, linear_triton

LOW, HIGH, E4M3 = "*bf16", "*fp32", "*fp8e4nv"
TYPES = dict(stream=LOW, update=LOW, weight=LOW, bias=LOW, total=LOW, normed=LOW, sums=LOW,
             row_scales=HIGH, factors=HIGH, offsets=HIGH, values=E4M3, scales=HIGH, x=LOW,
             count="i32", x_step="i32")

def check(name, kernel, warps, **constants):
    taken = {n: v for n, v in constants.items() if n in kernel.arg_names}
    signature = {n: "constexpr" if n in taken else TYPES[n] for n in kernel.arg_names}
    built = triton.compile(ASTSource(kernel, signature, taken), options={"num_warps": warps},
                           target=GPUTarget("cuda", 90, 32))
    print(json.dumps({"name": name, "stages": list(built.asm), "ptx": built.asm["ptx"]}))

WIDE, INNER = dict(SIZE=1152, HEAD=1024, TAIL=128), dict(SIZE=4304, HEAD=4096, TAIL=256)
norm, warps = fp8_product_triton._norm_kernel, fp8_product_triton._WARPS
SHAPE = dict(ROWS=fp8_product_triton._ROWS, EPS=1e-6)
check("add, norm", layer_norm_triton._kernel, 4, WORK=tl.float32, ROWS=4, EPS=1e-6, **WIDE)
check("finish, add, norm, round", norm, warps, **SHAPE, **WIDE)
check("norm, round", norm, warps, sums=None, row_scales=None, bias=None, total=None, **SHAPE,
      **WIDE)
check("add, norm, round", norm, warps, row_scales=None, bias=None, **SHAPE, **WIDE)
check("finish, add", norm, warps, factors=None, offsets=None, values=None, **SHAPE, **WIDE)
check("activate, round", linear_triton._gelu_kernel, linear_triton._GELU_WARPS, ALIGN=16,
      ROWS=linear_triton._GELU_ROWS, FAST=True, **INNER)
"""


def test_every_kernel_compiles_for_an_h100(tmp_path: Path) -> None:
    built = compiled(_COMPILE, tmp_path)
    assert len(built) == 6
    assert all("cubin" in kernel["stages"] for kernel in built)
    # One instruction, not a formula of five, ends the GELU of a row.
    assert "tanh.approx.f32" in built[-1]["ptx"]
