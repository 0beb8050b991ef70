"""The kernels of a decode step are compiled for an H100, with and without overlap."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.ops.compiled import compiled

pytest.importorskip("triton", reason="no Triton for this platform")

_COMPILE = """
import json
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from timeviper.ops import few_rows_triton, pick_triton, step_triton

LOW, HIGH, WHOLE = "*bf16", "*fp32", "i32"
TYPES = dict(x=LOW, weight=LOW, y=LOW, rows=WHOLE, channels=WHOLE, x_step=WHOLE, parts=HIGH,
             total=LOW, xbc=LOW, dt=LOW, filters=LOW, bias=LOW, decay_rates=HIGH, direct=LOW,
             logits=LOW, best=HIGH, places="*i32", tokens="*i64", vocab=WHOLE, blocks=WHOLE,
             keys=LOW, values=LOW, k=LOW, v=LOW, slots="*i64", row_step="i64", slot_step=WHOLE,
             dt_bias=LOW, ring=LOW, ssm=HIGH, place="*i64", xbc_step=WHOLE, dt_step=WHOLE)
ALIGNED = {"x", "weight", "x_step", "ssm"}
STEP = dict(HEADS=8, HEAD_DIM=80, SIZE=128, GROUPS=2, WIDTH=4, LOWEST=0.0,
            HIGHEST=float("inf"), BLOCK_ROWS=16, BLOCK_SIZE=128)

def check(kernel, constants, types={}, **options):
    kinds = TYPES | types
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else kinds[n] for n in names}
    hints = {(names.index(n),): [["tt.divisibility", 16]] for n in ALIGNED & set(names)}
    built = triton.compile(
        ASTSource(kernel, signature, constants, hints), target=GPUTarget("cuda", 90, 32),
        options=options)
    waits = built.asm["ptx"].count("griddepcontrol.wait")
    print(json.dumps({"stages": list(built.asm), "waits": waits, "shared": built.metadata.shared}))

for overlap in (True, False):
    check(step_triton._step_kernel, STEP | dict(OVERLAP=overlap), launch_pdl=overlap)
    for outputs, width, parts in ((22656, 4480, False), (5120, 4480, False), (1024, 4480, False),
                                   (4480, 15680, True)):
        cut = few_rows_triton.cut_of(outputs, width, parts=parts)
        constants = dict(WIDTH=width, STEPS=-(-width // (cut.width * cut.parts)), PARTS=cut.parts,
                         ROWS=16, BLOCK_C=cut.channels, BLOCK_W=cut.width, RELU2=not parts,
                         OVERLAP=overlap)
        check(few_rows_triton._few_rows_kernel, constants, {"y": HIGH if parts else LOW},
              launch_pdl=overlap, num_stages=cut.stages)
    check(few_rows_triton._settle_kernel,
          dict(PARTS=7, WIDTH=4480, EPS=1e-5, BLOCK=8192, OVERLAP=overlap),
          launch_pdl=overlap, num_warps=16)
    for kernel, constants in (
        (pick_triton._write_kernel, dict(SIZE=1024, BLOCK=1024)),
        (pick_triton._best_of_block_kernel, dict(BLOCK=2048)),
        (pick_triton._best_of_all_kernel, dict(BLOCKS=64)),
    ):
        check(kernel, constants | dict(OVERLAP=overlap), launch_pdl=overlap)
"""


def test_every_kernel_of_a_step_compiles_and_waits_once_where_it_overlaps(tmp_path: Path) -> None:
    built = compiled(_COMPILE, tmp_path)
    assert len(built) == 18
    assert all("cubin" in kernel["stages"] for kernel in built)
    assert [kernel["waits"] for kernel in built] == [1] * 9 + [0] * 9
    # Two programs of each share a multiprocessor's 228 KiB.
    assert max(kernel["shared"] for kernel in built) < 114 * 2**10
