"""The kernels of a decode step are compiled for an H100, with and without overlap."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.ops.compiled import compiled

pytest.importorskip("triton", reason="no Triton for this platform")

_COMPILE = """
import json
import re
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from timeviper.ops import few_rows_triton, pick_triton, step_triton

LOW, HIGH, WHOLE = "*bf16", "*fp32", "i32"
TYPES = dict(x=LOW, weight=LOW, y=LOW, rows=WHOLE, channels=WHOLE, x_step=WHOLE, parts=HIGH,
             total=LOW, xbc=LOW, dt=LOW, filters=LOW, bias=LOW, decay_rates=HIGH, direct=LOW,
             logits=LOW, best=HIGH, places="*i32", tokens="*i64", vocab=WHOLE, blocks=WHOLE,
             keys=LOW, values=LOW, k=LOW, v=LOW, slots="*i64", row_step="i64", slot_step=WHOLE,
             width=WHOLE,
             dt_bias=LOW, ring=LOW, ssm=HIGH, place="*i64", xbc_step=WHOLE, dt_step=WHOLE)
ALIGNED = {"x", "weight", "x_step", "ssm", "width"}
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
    ptx = built.asm["ptx"]
    kinds = re.findall(r"wgmma.mma_async[.a-z]*m64n[0-9]+k16|mma.sync[.a-z]*m16n8k16", ptx)
    print(json.dumps({"stages": list(built.asm), "waits": waits, "shared": built.metadata.shared,
                      "name": kernel.__name__, "outputs": constants.get("BLOCK_C"),
                      "kinds": sorted(set(kinds)),
                      "copies": ptx.count("cp.async.cg.shared.global")}))

for overlap in (True, False):
    check(step_triton._step_kernel, STEP | dict(OVERLAP=overlap), launch_pdl=overlap)
    for outputs, width, parts, rows in (
        (22656, 4480, False, 1), (5120, 4480, False, 1), (1024, 4480, False, 1),
        (4480, 15680, True, 1), (22656, 4480, False, 64), (4480, 15680, True, 64),
    ):
        cut = few_rows_triton.cut_of(outputs, width, parts=parts, rows=rows)
        constants = dict(WIDTH=width, STEPS=-(-width // (cut.width * cut.parts)), PARTS=cut.parts,
                         ROWS=cut.rows, BLOCK_C=cut.channels, BLOCK_W=cut.width, RELU2=not parts,
                         OVERLAP=overlap)
        check(few_rows_triton._few_rows_kernel, constants, {"y": HIGH if parts else LOW},
              launch_pdl=overlap, num_warps=cut.warps, num_stages=cut.stages)
    check(few_rows_triton._settle_kernel,
          dict(PARTS=7, WIDTH=4480, EPS=1e-5, BLOCK=8192, OVERLAP=overlap),
          launch_pdl=overlap, num_warps=16)
    for kernel, constants in (
        (pick_triton._write_kernel, dict(SIZE=1024, BLOCK=1024)),
        (pick_triton._best_of_block_kernel, dict(BLOCK=2048)),
        (pick_triton._best_of_all_kernel, dict(BLOCKS=64)),
    ):
        check(kernel, constants | dict(OVERLAP=overlap), launch_pdl=overlap)
for rows in (32, 64, 128, 300, 600):
    cut = few_rows_triton.many_cut_of(22656, rows)
    check(few_rows_triton._some_rows_kernel,
          dict(EVEN=True, ROWS=cut.rows, BLOCK_C=cut.channels, BLOCK_W=cut.width, RELU2=False,
               WHILE=False), num_warps=cut.warps, num_stages=cut.stages)
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return compiled(_COMPILE, tmp_path_factory.mktemp("compiled"))


def test_every_kernel_of_a_step_compiles_and_waits_once_where_it_overlaps(
    built: list[dict[str, Any]],
) -> None:
    assert len(built) == 27
    assert all("cubin" in kernel["stages"] for kernel in built)
    assert [kernel["waits"] for kernel in built] == [1] * 11 + [0] * 16
    # Two programs of each share a multiprocessor's 228 KiB, but of the widest tiles.
    assert max(kernel["shared"] for kernel in built[:-2]) < 123 * 2**10
    assert max(kernel["shared"] for kernel in built) < 227 * 2**10


def test_products_add_up_sixteen_inputs_an_instruction_however_many_rows(
    built: list[dict[str, Any]],
) -> None:
    """What a row's bits depend on: the kind of instruction, the same for each kind of weight."""
    products = [kernel for kernel in built if "rows" in kernel["name"]]
    assert len(products) == 17
    for kernel in products:
        assert len(kernel["kinds"]) == 1
        assert kernel["copies"]
        wide = kernel["outputs"] >= 64
        assert kernel["kinds"][0].startswith("wgmma" if wide else "mma.sync")
