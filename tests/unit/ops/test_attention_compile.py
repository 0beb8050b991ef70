"""The attention kernels are compiled for an H100 that need not be here, and fit on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.ops.compiled import compiled

pytest.importorskip("triton", reason="no Triton for this platform")

_COMPILE = """
import json, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from timeviper.ops import attention_triton as room

LOW, HIGH = "*bf16", "*fp32"
TYPES = dict(q=LOW, k=LOW, v=LOW, lengths="*i64", out=HIGH, lse=HIGH, parts=HIGH, sums=HIGH,
             places="*i64", members="*i32", a=HIGH, b=LOW, a_sums=HIGH, b_sums=HIGH,
             factor="fp32", k_row="i64", v_row="i64")

def check(name, kernel, constants, warps=4, stages=3, types=TYPES):
    taken = {n: v for n, v in constants.items() if n in kernel.arg_names}
    names = kernel.arg_names
    signature = {n: "constexpr" if n in taken else types.get(n, "i32") for n in names}
    # As at run time: addresses and strides of whole heads.
    whole = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names)
             if n not in taken
             and (signature[n][0] == "*" or n.endswith(("_step", "_head", "_row")))}
    built = triton.compile(ASTSource(kernel, signature, taken, whole),
                           target=GPUTarget("cuda", 90, 32),
                           options=dict(num_warps=warps, num_stages=stages))
    print(json.dumps({"name": name, "stages": list(built.asm), "shared": built.metadata.shared,
                      "copies": built.asm["ptx"].count("cp.async.cg.shared.global"),
                      "wgmma": built.asm["ptx"].count("wgmma.mma_async"),
                      "mma": built.asm["ptx"].count("mma.sync")}))

WIDTH = dict(HEAD_DIM=128, BLOCK_D=128, WHILE=False)
for rows in (5, 40, 500):
    tile = room.tile_of(rows)
    own = rows == 5
    check(f"split {rows}", room._split_kernel, WIDTH | dict(
        RATIO=5, HEADS=40, EXACT=False, ROWS=tile.rows, KEYS=tile.keys, OWN=own,
        TOKENS=1 if own else tile.rows // 5, **({} if own else {"lengths": None})),
        tile.warps, tile.stages)
for name, tile in (("step", room.step_rows(5)), ("question", room.question_rows(5))):
    check(f"front {name}", room._front_kernel, WIDTH | dict(
        RATIO=5, HEADS=40, EXACT=False, ROWS=tile.rows, KEYS=tile.keys, TOKENS=tile.rows // 5,
        FEWEST=512, SPLITS=16), tile.warps, tile.stages)
wide = room.tile_of(500, itemsize=4)
check("split float32", room._split_kernel, WIDTH | dict(
    RATIO=5, HEADS=40, EXACT=True, ROWS=wide.rows, KEYS=wide.keys, OWN=False, lengths=None,
    TOKENS=wide.rows // 5), wide.warps, wide.stages, TYPES | {"q": HIGH, "k": HIGH, "v": HIGH})
check("merge", room._merge_kernel, WIDTH | {"PADDED": 64}, types=TYPES | {"out": LOW})
check("merge two", room._merge_two_kernel, WIDTH | {"ROWS": room._MERGED_ROWS})
"""
# What a multiprocessor of an H100 gives one program.
_SHARED_BYTES = 227 * 1024


def test_every_attention_kernel_compiles_for_an_h100(tmp_path: Path) -> None:
    built = {kernel["name"]: kernel for kernel in compiled(_COMPILE, tmp_path)}
    assert len(built) == 8
    assert all("cubin" in kernel["stages"] for kernel in built.values())
    assert all(kernel["shared"] <= _SHARED_BYTES for kernel in built.values())
    # Keys are fetched ahead, 16 bytes a thread, and multiplied by the matrix units; those whose
    # addresses a table holds too.
    wide = ("split 40", "split 500", "front step", "front question")
    assert all(built[name]["copies"] for name in ("split 5", *wide))
    assert built["split 5"]["mma"]
    assert all(built[name]["wgmma"] for name in wide)
