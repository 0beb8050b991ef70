"""`timeviper inspect` describes models that would never fit here."""

from __future__ import annotations

import json
from pathlib import Path

from tests.e2e.program import assert_refused, called, timeviper


def test_a_preset_as_json() -> None:
    record = timeviper("inspect", "nano-9b-v2-transv", "--frames", 10000, "--json").json
    assert record["decoder_parameters"] == 8_888_227_328
    assert [site["layer"] for site in record["sites"]] == [7, 39]
    assert record["video"]["vision_tokens"] == 160_000
    assert len(record["layers"]) == 56


def test_a_preset_as_a_table() -> None:
    ran = called("inspect", "tiny-transv")
    assert ran.code == 0
    assert "M-M" in ran.out
    assert "transfer modules" in ran.out
    assert ran.err == ""


def test_an_unknown_model_lists_the_known_ones() -> None:
    assert_refused(called("inspect", "nano-900b"), says="nano-12b-v2")


def test_an_unknown_precision_lists_the_known_ones() -> None:
    assert_refused(called("inspect", "tiny", "--precision", "int3"), says="bfloat16")


def test_a_folder_without_a_config(tmp_path: Path) -> None:
    assert_refused(called("inspect", tmp_path), says="config.json")


def test_a_config_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert_refused(called("inspect", tmp_path), says="json")


def test_a_config_of_another_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert_refused(called("inspect", tmp_path), says="timeviper")
