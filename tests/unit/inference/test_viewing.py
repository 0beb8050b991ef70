"""What a video will take is told beforehand, and its key depends on what it shows alone."""

from __future__ import annotations

import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.toy_engine import (
    SITES,
    noise,
    toy_config,
    toy_engine,
    toy_model,
    toy_processor,
    write_video,
)
from timeviper.inference.engine import AskOptions, Engine
from timeviper.inference.files.compress import Compress
from timeviper.inference.request import DEFAULTS
from timeviper.inference.state_file import SaveOptions, state_bytes
from timeviper.inference.viewing import forecast_bytes, key_of, view
from timeviper.processing.prompt import TimePrompt

ENGINES = {name: toy_engine(name) for name in SITES}
SPARE = 80_000


@pytest.mark.parametrize("compress", Compress)
@pytest.mark.parametrize("name", SITES)
@settings(max_examples=2)
@given(frames=st.integers(1, 40))
def test_the_forecast_is_never_below_and_little_above(name, compress, frames):
    engine = ENGINES[name]
    viewing = view(noise(frames), engine.encoder, AskOptions())
    assert viewing.frames == frames
    forecast = forecast_bytes(viewing, engine.encoder, compress)
    encoded = engine.encode(noise(frames))
    size = state_bytes(encoded, engine.encoder, SaveOptions(compress=compress))
    assert size <= forecast <= 1.1 * size + SPARE


def test_without_time_marks_as_well():
    engine = Engine(toy_model(toy_config("transv")), toy_processor(TimePrompt.SENTENCE), threads=1)
    viewing = view(noise(40), engine.encoder, AskOptions())
    size = state_bytes(engine.encode(noise(40)), engine.encoder)
    assert size <= forecast_bytes(viewing, engine.encoder) <= 1.1 * size + SPARE


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("film") / "a.mp4", noise(8, side=32))


def _key(video, options=DEFAULTS, engine=ENGINES["transv"]) -> str:
    return key_of(view(video, engine.encoder, options), engine.encoder)


def test_the_name_does_not_count_and_the_content_does(film, tmp_path):
    known = _key(film)
    copy = shutil.copy(film, tmp_path / "other name.mp4")
    assert _key(copy) == known
    data, stat = bytearray(film.read_bytes()), film.stat()
    data[-1] ^= 1
    (tmp_path / "a.mp4").write_bytes(data)
    os.utime(tmp_path / "a.mp4", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    # Same name, same size, same date.
    assert (tmp_path / "a.mp4").stat().st_size == stat.st_size
    assert _key(tmp_path / "a.mp4") != known


def test_how_it_is_looked_at_counts(film):
    looks = [
        AskOptions(),
        AskOptions(fps=0.5),
        AskOptions(num_frames=3),
        AskOptions(max_frames=3),
        AskOptions(start=1.0),
        AskOptions(end=7.0),
        AskOptions(system="Be brief."),
    ]
    keys = [_key(film, look) for look in looks]
    assert len(set(keys)) == len(looks)
    # How it is answered does not.
    assert _key(film, AskOptions(max_new_tokens=3, temperature=1.0, seed=5)) == keys[0]
    # Nor by which words the same moments were asked for.
    assert _key(film, AskOptions(fps=1.0)) == keys[0]


def test_the_model_its_format_and_its_processor_count(film):
    sentence = Engine(
        toy_model(toy_config("transv")), toy_processor(TimePrompt.SENTENCE), threads=1
    )
    narrow = Engine(toy_model(toy_config("transv")).float(), toy_processor(), threads=1)
    engines = [ENGINES["transv"], ENGINES["drop-only"], sentence, narrow]
    assert len({_key(film, engine=engine) for engine in engines}) == 4
    clips = Engine(toy_model(toy_config("transv")), toy_processor(), threads=2, clip_frames=5)
    assert _key(film, engine=clips) == _key(film)


def test_frames_in_memory_have_a_key_too():
    assert _key(noise(4)) == _key(noise(4).copy()) != _key(noise(4, seed=1))
