"""`timeviper doctor` says which backend each operation has, and why."""

from __future__ import annotations

import platform

from tests.e2e.program import timeviper


def test_json_is_alone_on_stdout_and_complete() -> None:
    record = timeviper("doctor", "--json", "--device", "cpu").json
    assert record["versions"]["python"] == platform.python_version()
    assert {"torch", "transformers", "av", "ffmpeg"} <= set(record["versions"])
    assert record["device"]["name"] == "cpu"
    assert record["device"]["why"]
    assert record["system"]["cpu_threads"] >= 1
    assert {"ssd", "attention", "causal_conv1d"} <= set(record["operations"])
    assert all(found["backend"] and found["why"] for found in record["operations"].values())


def test_the_table_names_the_same_backends() -> None:
    ran = timeviper("doctor", "--device", "cpu")
    assert ran.code == 0
    assert "chunked" in ran.out
    assert "why" in ran.out
