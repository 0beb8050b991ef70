"""The registry: what is chosen, why, how it is overridden, and what is refused."""

from __future__ import annotations

import threading

import pytest

from timeviper.core.errors import ConfigError
from timeviper.ops import backend, ssd_chunked, ssd_reference
from timeviper.ops.backend import choose, explain, override


def test_the_best_available_is_chosen_with_a_reason() -> None:
    choice = choose("ssd")
    assert (choice.op, choice.name, choice.run) == ("ssd", "chunked", ssd_chunked.ssd)
    assert "matrix products" in choice.why


def test_names_come_best_first() -> None:
    assert backend.names("ssd") == ("triton", "chunked", "reference")


def test_a_call_beats_an_override() -> None:
    with override("ssd", "reference"):
        assert choose("ssd", "chunked").why.startswith("asked for by the call")


def test_overrides_nest_and_end() -> None:
    with override("ssd", "reference"):
        assert choose("ssd").run is ssd_reference.ssd
        assert choose("ssd").why.startswith("overridden")
        with override("ssd", "chunked"):
            assert choose("ssd").name == "chunked"
        assert choose("ssd").name == "reference"
    assert choose("ssd").name == "chunked"


def test_an_override_ends_with_an_error_too() -> None:
    with pytest.raises(RuntimeError), override("ssd", "reference"):
        raise RuntimeError
    assert choose("ssd").name == "chunked"


def test_an_override_stays_in_its_thread() -> None:
    seen: list[str] = []
    with override("ssd", "reference"):
        other = threading.Thread(target=lambda: seen.append(choose("ssd").name))
        other.start()
        other.join()
    assert seen == ["chunked"]


def test_doctor_hears_of_every_op_once_with_a_reason() -> None:
    choices = explain("cpu")
    ops = [choice.op for choice in choices]
    assert len(set(ops)) == len(ops)
    assert {"ssd", "attention", "causal_conv1d", "rms_norm", "tome"} <= set(ops)
    assert all(choice.why.endswith("on cpu") for choice in choices)


def test_what_cannot_run_is_passed_over_and_refused_by_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def probe(device_type: str) -> backend.Probe:
        return backend.Probe(available=device_type == "cuda", why=f"no kernel for {device_type}")

    fast = backend.Implementation(name="fast", run=ssd_reference.ssd, probe=probe, priority=99)
    table = {"ssd": (*backend._TABLE["ssd"], fast)}
    monkeypatch.setattr(backend, "_TABLE", table)
    assert choose("ssd", device_type="cuda").name == "fast"
    assert choose("ssd", device_type="cpu").name == "chunked"
    with pytest.raises(ConfigError, match="run on cpu; got no kernel for cpu"):
        choose("ssd", "fast", device_type="cpu")
    monkeypatch.setattr(backend, "_TABLE", {"ssd": (fast,)})
    with pytest.raises(ConfigError, match="an implementation of ssd for cpu"):
        choose("ssd", device_type="cpu")


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"one of the ops ssd, .*; got sdd"):
        choose("sdd")
    with pytest.raises(ConfigError, match="triton, chunked, reference; got fast"):
        choose("ssd", "fast")
    with pytest.raises(ConfigError, match="flash, sdpa; got fast"), override("attention", "fast"):
        pass
