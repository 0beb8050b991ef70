"""The scan's walk by tiles, interpreted on a CPU: the oracle, and what it is not made for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.ops.compiled import compiled
from tests.unit.ops.draws import gradients, scan_operands
from tests.unit.ops.scratch import fill_scratch
from timeviper.ops import ssd_reference
from timeviper.ops.triton_probe import is_interpreted

pytest.importorskip("triton.runtime.interpreter")
ssd_triton = pytest.importorskip("timeviper.ops.ssd_triton")
tiles_room = pytest.importorskip("timeviper.ops.ssd_tiles_triton")

ORDER = ("x", "dt", "A", "B", "C", "D", "dt_bias", "state")
SIZES = {"heads": 2, "head_dim": 80, "groups": 1, "size": 128}
CUT = ssd_triton.Tuning(programs=1000, shortest=1)

interpreted = pytest.mark.skipif(not is_interpreted(), reason="kernels are compiled here")


@pytest.fixture(autouse=True)
def _short_sequences_too(loops_count: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let short sequences take this walk."""
    monkeypatch.setattr(ssd_triton, "_QUESTION", 0)


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Parts of heads that were walked by tiles, as they are."""
    found, plain = [], tiles_room.Tiles.walk

    def walk(self: Any, *args: Any, part: tuple[int, int], **options: Any) -> None:
        found.append(part)
        plain(self, *args, part=part, **options)

    monkeypatch.setattr(tiles_room.Tiles, "walk", walk)
    return found


def _packed(tokens: int, room: int = 0, **sizes: int) -> dict[str, Tensor]:
    """Operands in bfloat16; x, B and C are parts of one tensor, NaN behind their last token."""
    drawn = scan_operands([tokens], **{**SIZES, **sizes})
    drawn = {name: value.detach() for name, value in drawn.items()}
    widths = [drawn[name].flatten(1).shape[1] for name in ("x", "B", "C")]
    rows = torch.full((tokens + room, sum(widths)), torch.nan, dtype=torch.bfloat16)
    rows[:tokens] = torch.cat([drawn[name].flatten(1) for name in ("x", "B", "C")], 1)
    for name, part in zip(("x", "B", "C"), rows[:tokens].split(widths, 1), strict=True):
        drawn[name] = part.unflatten(1, drawn[name].shape[1:])
    high = {n: v if n in ("x", "B", "C") else v.float() for n, v in drawn.items()}
    return {**high, "dt": high["dt"].bfloat16()}


def _scan(
    operands: dict[str, Tensor], lengths: tuple[int, ...], **options: Any
) -> tuple[Tensor, Tensor]:
    named = tuple(operands.get(name) for name in ORDER)
    return ssd_triton.scan(
        named, ssd_triton.Options(lengths=lengths, softplus=True, **{"chunk": 64, **options})
    )


def _oracle(operands: dict[str, Tensor], lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    high = {name: value.detach().double() for name, value in operands.items()}
    return ssd_reference.ssd(**high, lengths=lengths, dt_softplus=True)


def _same(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> None:
    close("y", got=got[0], want=want[0], tol=TOL.ssd.bf16)
    close("state", got=got[1], want=want[1], tol=TOL.ssd.bf16)


@interpreted
@pytest.mark.parametrize("tokens", [3, 64, 150])
def test_outputs_and_states_are_the_oracles(
    tokens: int, walks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    operands = _packed(tokens)
    want = _oracle(operands, (tokens,))
    made = fill_scratch(monkeypatch)
    got = _scan(operands, (tokens,))
    assert made, "nothing asked for memory through torch.empty"
    assert walks == [(0, 64), (64, 16)]
    assert (got[0].dtype, got[1].dtype) == (torch.bfloat16, torch.float32)
    _same(got, want)


@interpreted
def test_a_sequence_cut_into_segments(walks: list[Any]) -> None:
    operands = _packed(200)
    got = _scan(operands, (200,), tuning=CUT)
    assert walks
    _same(got, _oracle(operands, (200,)))


@interpreted
def test_a_cut_inside_a_chunk_carries_the_state(walks: list[Any]) -> None:
    operands = _packed(140)
    state, found = operands["state"], []
    for piece in (slice(0, 75), slice(75, None)):
        own = {n: operands[n][piece] for n in ("x", "dt", "B", "C")}
        y, state = _scan({**operands, **own, "state": state}, (len(own["x"]),))
        found.append(y)
    assert len(walks) == 4
    _same((torch.cat(found), state), _oracle(operands, (140,)))


@interpreted
def test_what_lies_behind_the_last_token_is_not_read(walks: list[Any]) -> None:
    """Rows behind the sequence hold NaN, as a cache that is not full may."""
    operands = _packed(70, room=64)
    got = _scan(operands, (70,))
    assert walks
    _same(got, _oracle(operands, (70,)))


@interpreted
def test_without_direct_path_and_state(walks: list[Any]) -> None:
    operands = {n: v for n, v in _packed(66).items() if n not in ("D", "state")}
    got = _scan(operands, (0, 66))
    assert walks
    want = _oracle(operands, (66,))
    close("y", got=got[0], want=want[0], tol=TOL.ssd.bf16)
    close("state", got=got[1][1:], want=want[1], tol=TOL.ssd.bf16)
    assert not got[1][0].any()


@interpreted
def test_gradients_behind_it_are_the_oracles(walks: list[Any]) -> None:
    operands = {n: v.requires_grad_() for n, v in _packed(70, heads=1).items()}
    got = _scan(operands, (70,))
    assert walks
    high = {n: v.detach().double().requires_grad_() for n, v in operands.items()}
    want = ssd_reference.ssd(**high, lengths=(70,), dt_softplus=True)
    found = gradients(got, list(operands.values()))
    for name, a, b in zip(high, found, gradients(want, list(high.values())), strict=True):
        close(f"gradient of {name}", got=a, want=b, tol=TOL.ssd_grad.bf16)


def _taken(operands: dict[str, Tensor], chunk: int = 64) -> bool:
    views = (operands[name] for name in ("x", "B", "C"))
    return tiles_room.Tiles.of(*views, chunk=chunk, operand=torch.float32) is not None


def test_sizes_and_strides_that_it_is_not_made_for() -> None:
    operands = _packed(8, room=8)
    assert _taken(operands)
    assert not _taken(operands, chunk=32)
    assert not _taken({n: v.float() for n, v in operands.items()})
    assert not _taken(_packed(8, size=64))
    assert not _taken(_packed(8, head_dim=48))
    odd = operands["x"].flatten(1)
    shifted = torch.empty(8, odd.shape[1] + 1, dtype=odd.dtype)[:, 1:].unflatten(1, (2, 80))
    assert not _taken({**operands, "x": shifted})
    assert not _taken({**operands, "x": odd.t().contiguous().t().unflatten(1, (2, 80))})
    assert not _taken({n: v[:0] for n, v in operands.items()})


@interpreted
@pytest.mark.parametrize("lengths", [(40, 30), (70,)], ids=str)
def test_several_sequences_and_questions_take_the_other_walk(
    lengths: tuple[int, ...], walks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssd_triton, "_QUESTION", 70)
    operands = {n: v for n, v in _packed(70).items() if n != "state"}
    _same(_scan(operands, lengths), _oracle(operands, lengths))
    assert walks == []


_COMPILE = """
import json, re, triton, triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from timeviper.ops import ssd_tiles_triton as room

LOW, HIGH = "*bf16", "*fp32"
kernel = room.tiles_kernel
names = kernel.arg_names

def check(begin, width):
    io = room.Walked(HIGH, LOW, HIGH, HIGH, HIGH, HIGH, "*i64")
    sizes = dict(HEADS=128, RATIO=16, P=80, N=128, Q=64, FROM=begin, BP=width,
                 OPERAND=tl.bfloat16)
    tile = "tensordesc<bf16[64,{}]>"
    types = dict(x=tile.format(width), B=tile.format(128), C=tile.format(128), io=io,
                 num_chunks="i32")
    whole = {(names.index("io"), k): [["tt.divisibility", 16]] for k in range(len(io))}
    signature = {n: "constexpr" if n in sizes else types[n] for n in names}
    built = triton.compile(ASTSource(kernel, signature, sizes, whole),
                           target=GPUTarget("cuda", 90, 32),
                           options=dict(num_warps=4, num_stages=room._STAGES))
    print(json.dumps({"shared": built.metadata.shared, "ttgir": built.asm["ttgir"]}))

check(0, 64)
check(64, 16)
"""


def test_both_parts_compile_for_an_h100(tmp_path: Any) -> None:
    found = compiled(_COMPILE, tmp_path)
    assert len(found) == 2
    for kernel in found:
        assert kernel["shared"] <= 227 * 1024
        # Fetched by the copy engine, multiplied by warp groups that have rows of their own.
        assert "async_tma_copy_global_to_local" in kernel["ttgir"]
        assert "warp_group_dot" in kernel["ttgir"]
        assert "versionMajor = 3, versionMinor = 0, warpsPerCTA = [4, 1]" in kernel["ttgir"]
        assert "warpsPerCTA = [8, 1]" not in kernel["ttgir"]
