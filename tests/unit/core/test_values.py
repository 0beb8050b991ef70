"""Errors, inputs, precision, devices, chance and the log: the small values of `core`."""

from __future__ import annotations

import logging
import subprocess
import sys

import numpy as np
import pytest
import torch

from timeviper.core import errors
from timeviper.core.device import explain_device, peak_bytes, pick_device
from timeviper.core.errors import ConfigError, LayoutError, TimeviperError
from timeviper.core.inputs import ModelInputs
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.core.log import get_logger
from timeviper.core.precision import Precision, default_precision
from timeviper.core.seeding import seed_of, stream, torch_stream

LAYOUT = TokenLayout.of((SpanKind.TEXT, 2), (SpanKind.VISION, 6), (SpanKind.INSTRUCTION, 1))
IDS = torch.arange(9)


def test_an_error_says_expected_got_and_do() -> None:
    error = ConfigError(want="one", got=2, do="write 1")
    assert str(error) == "expected one; got 2; write 1"
    assert (error.want, error.got, error.do) == ("one", "2", "write 1")


def test_all_errors_are_caught_as_one() -> None:
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and k.__name__ != "object"]
    assert len(kinds) >= 7
    assert all(issubclass(kind, TimeviperError) for kind in kinds)


def frames(count: int) -> torch.Tensor:
    return torch.zeros(count, 3, 4, 4)


def test_inputs_that_agree_are_taken() -> None:
    inputs = ModelInputs(
        token_ids=IDS, layout=LAYOUT, pixels=frames(3), times=np.arange(3.0), labels=IDS
    )
    assert inputs.layout.total == 9
    assert ModelInputs(IDS[:2], TokenLayout.of((SpanKind.TEXT, 2))).pixels is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"token_ids": IDS[:8]}, "9 token ids for the layout; got 8"),
        ({"labels": IDS[:1]}, "9 labels for the token ids; got 1"),
        ({"times": np.arange(2.0)}, "3 times for the frames; got 2"),
        ({"times": None}, "3 times for the frames; got 0"),
        ({"pixels": frames(4), "times": np.arange(4.0)}, "each of 4 frames; got 6 places"),
        ({"pixels": None}, "0 times for the frames; got 3"),
        ({"pixels": None, "times": None}, "each of 0 frames; got 6 places"),
        (
            {"layout": TokenLayout.of((SpanKind.TEXT, 9))},
            "each of 3 frames; got 0 places",
        ),
    ],
)
def test_inputs_that_disagree_are_refused_with_the_numbers(change: dict, message: str) -> None:
    good = {"token_ids": IDS, "layout": LAYOUT, "pixels": frames(3), "times": np.arange(3.0)}
    with pytest.raises(LayoutError, match=message):
        ModelInputs(**(good | change))


@pytest.mark.parametrize(
    ("name", "dtype", "size"),
    [("float32", torch.float32, 4), ("bfloat16", torch.bfloat16, 2), ("float64", torch.float64, 8)],
)
def test_precisions(name: str, dtype: torch.dtype, size: int) -> None:
    assert Precision(name).dtype == dtype
    assert Precision(name).bytes == size


def test_every_precision_has_a_dtype_and_each_device_a_default() -> None:
    assert {p.dtype for p in Precision} >= {torch.float16}
    assert default_precision(torch.device("cpu")) is Precision.FLOAT32
    assert default_precision(torch.device("cuda")) is Precision.BFLOAT16


def test_devices_are_picked_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ConfigError, match="got 'fridge'"):
        pick_device("fridge")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    assert explain_device(torch.device("cpu")) == "no CUDA device found"
    with pytest.raises(ConfigError, match="none on this machine; use cpu"):
        pick_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device() == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    assert explain_device(torch.device("cpu")) == "asked for"
    with pytest.raises(ConfigError, match="from 0 to 1; got 'cuda:2'"):
        pick_device("cuda:2")


def test_peak_bytes_of_this_process_are_plausible() -> None:
    before = peak_bytes(torch.device("cpu"))
    assert 2**26 < before < 2**38
    block = np.ones(2**25)
    assert peak_bytes(torch.device("cpu")) >= before
    assert block.sum() == 2**25


def test_streams_are_the_same_everywhere_and_differ_by_name() -> None:
    # Fixed numbers: worlds and checkpoints must not change with a machine or a release.
    assert seed_of(0, "video", 3) == 400078865969486348
    assert stream(0, "a").integers(1000, size=3).tolist() == [587, 701, 968]
    assert stream(0, "a").random() == stream(0, "a").random()
    assert len({seed_of(s, *n) for s in (0, 1) for n in ((), ("a",), ("b",), ("a", "b"))}) == 8
    assert 0 <= seed_of(5) < 2**63
    draws = [torch.rand(3, generator=torch_stream(1, name)) for name in ("a", "a", "b")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_log_is_silent_by_itself_and_named() -> None:
    assert get_logger("room").name == "timeviper.room"
    get_logger("other")
    handlers = logging.getLogger("timeviper").handlers
    assert sum(isinstance(h, logging.NullHandler) for h in handlers) == 1
    code = "from timeviper.core.log import get_logger; get_logger('x').warning('hello')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
