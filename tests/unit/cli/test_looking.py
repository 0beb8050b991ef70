"""Options of how to look: read once for all commands, told back by name."""

from __future__ import annotations

import pytest

from timeviper.cli.looking import Looking, engine_loader, open_store
from timeviper.core.errors import ConfigError, RequestError
from timeviper.inference.degrade import Degrade
from timeviper.inference.engine import Engine

NOTHING = {"fps": None, "num_frames": None, "max_frames": None, "start": None, "end": None}


def test_times_are_read_and_names_told_back():
    looking = Looking.parse(**NOTHING | {"start": "01:30", "end": "100", "max_frames": 5})
    assert (looking.start, looking.end) == (90.0, 100.0)
    assert looking.given == ("--max-frames", "--start", "--end")
    options = looking.options()
    assert (options.start, options.end, options.max_frames, options.fps) == (90.0, 100.0, 5, None)
    assert Looking.parse(**NOTHING).given == ()
    # Zero is something said.
    assert Looking.parse(**NOTHING | {"start": "0"}).given == ("--start",)


@pytest.mark.parametrize(
    ("wish", "error", "says"),
    [
        ({"start": "soon"}, RequestError, "--start"),
        ({"end": "1:00 to 2:00"}, RequestError, "--end"),
        ({"fps": 1.0, "num_frames": 2}, ConfigError, "either"),
        ({"start": "5", "end": "5"}, ConfigError, "after"),
    ],
)
def test_nonsense_is_refused(wish, error, says):
    with pytest.raises(error, match=says):
        Looking.parse(**NOTHING | wish)


def test_a_store_is_opened_where_one_is_wanted(tmp_path):
    assert open_store(None, 1.0) is None
    store = open_store(tmp_path / "cache", 0.5)
    assert store is not None
    assert store.limit_bytes == 500_000_000
    for limit in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(RequestError, match="--cache-gb"):
            open_store(tmp_path / "cache", limit)


def test_an_engine_gets_the_leave_that_the_user_gave(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[dict] = []

    def load(name: str, **wishes: object) -> None:
        heard.append({"name": name} | wishes)

    monkeypatch.setattr(Engine, "load", load)
    loader = engine_loader("m", device="cpu", precision=None, degrade=Degrade.ANY, transv=False)
    assert heard == []
    loader()
    assert heard[0]["limits"].degrade is Degrade.ANY
    assert (heard[0]["transv"], heard[0]["name"], heard[0]["device"]) == (False, "m", "cpu")
    with pytest.raises(ConfigError, match="fp3"):
        engine_loader("m", device=None, precision="fp3", degrade=Degrade.NO, transv=True)
