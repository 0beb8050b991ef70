"""Options that commands share: number formats by name."""

from __future__ import annotations

import pytest

from timeviper.cli.looking import parse_precision, precision_called
from timeviper.core.errors import ConfigError
from timeviper.core.precision import Precision


def test_a_precision_by_name_and_none_for_the_device_to_decide() -> None:
    assert parse_precision(None) is None
    assert parse_precision("fp8") is Precision.FP8
    assert precision_called("bfloat16") is Precision.BFLOAT16


@pytest.mark.parametrize("name", ["", "FP8", "int4"])
def test_an_unknown_one_is_refused_with_the_known(name: str) -> None:
    with pytest.raises(ConfigError, match=r"float32, bfloat16.*fp8"):
        precision_called(name)
