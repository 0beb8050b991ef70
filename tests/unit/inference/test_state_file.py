"""Saving and loading encoded videos: sizes told, disks that fill, other models, number formats."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from tests.tolerances import TOL
from tests.toy_engine import noise, toy_config, toy_engine, toy_model, toy_processor
from timeviper.core.errors import CapacityError, LayoutError, StateFileError
from timeviper.inference import state_parts
from timeviper.inference.engine import AskOptions, Engine
from timeviper.inference.files.compress import Compress
from timeviper.inference.files.tensor_file import map_file
from timeviper.inference.files.whole_file import whole_file
from timeviper.inference.planning.live_bytes import LiveBytes
from timeviper.inference.state_file import (
    SaveOptions,
    load_state,
    save_state,
    state_bytes,
    write_state,
)
from timeviper.inference.state_info import (
    Thumbnail,
    read_info,
    read_thumbnails,
    verify_file,
)
from timeviper.inference.state_parts import StateReader
from timeviper.model.keys import in_host
from timeviper.model.state import AttentionMemory
from timeviper.processing.prompt import TimePrompt

SHORT = AskOptions(max_new_tokens=6)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return toy_engine("transv")


@pytest.fixture(scope="module")
def encoded(engine):
    return engine.encode(noise(20))


@pytest.fixture
def path(engine, encoded, tmp_path):
    target = tmp_path / "video.tvstate"
    save_state(encoded, target, engine.encoder)
    return target


def test_the_header_tells_what_is_in_it(engine, encoded, tmp_path):
    target = tmp_path / "a.tvstate"
    options = SaveOptions(source="film.mp4")
    assert save_state(encoded, target, engine.encoder, options) == target.stat().st_size
    assert state_bytes(encoded, engine.encoder, options) == target.stat().st_size
    info = verify_file(target).info
    assert info == read_info(target).info
    assert (info.frames, info.duration_seconds) == (20, 20.0)
    assert info.identity == engine.encoder.identity
    assert info.identity.model == "toy-transv"
    assert (info.source, info.pixels, info.dtype) == ("film.mp4", encoded.pixels, "float64")
    assert info.state_bytes == encoded.nbytes
    assert info.tokens == encoded.tokens
    assert info.compress == "none"
    assert len(info.layers) == 6
    assert len(info.sites) == 2


def test_thumbnails_come_back(engine, encoded, path, tmp_path):
    assert read_thumbnails(read_info(path)) == ()
    pictures = (Thumbnail(seconds=0.5, jpeg=b"one"), Thumbnail(seconds=9.0, jpeg=b"three"))
    target = tmp_path / "a.tvstate"
    save_state(encoded, target, engine.encoder, SaveOptions(thumbnails=pictures))
    assert read_thumbnails(read_info(target)) == pictures
    assert engine.ask(load_state(target, engine.encoder), "What?", SHORT).text


def test_a_loaded_state_is_the_mapped_file_on_a_cpu(engine, path):
    loaded = load_state(path, engine.encoder)
    for memory in loaded.state.memories:
        if isinstance(memory, AttentionMemory):
            # One storage behind all of them: that of the file.
            assert memory.k.untyped_storage().nbytes() == path.stat().st_size


@pytest.mark.parametrize("compress", [Compress.BF16, Compress.FP8])
def test_compressed_says_so_and_answers_nearly_the_same(engine, encoded, path, compress):
    small = path.with_name("small.tvstate")
    save_state(encoded, small, engine.encoder, SaveOptions(compress=compress))
    assert small.stat().st_size < 0.7 * path.stat().st_size
    loaded = load_state(small, engine.encoder)
    assert any(compress.value in note for note in loaded.notes)
    error = _distance(_scores(engine, loaded), _scores(engine, encoded))
    assert 1e-6 < error < (2e-2 if compress is Compress.BF16 else 2e-1)


def _distance(got: torch.Tensor, want: torch.Tensor) -> float:
    return float((got.double() - want.double()).norm() / want.double().norm())


def _scores(engine, encoded):
    plan = engine.processor.plan_question("What?", video=None)
    return engine.encoder.open_answer(encoded, plan.suffix()).logits


def test_another_number_format_of_the_same_weights_is_allowed_and_told(engine, path):
    # Drawn in float32: float32 and float64 hold the same numbers.
    narrow = Engine(toy_model(toy_config("transv"), dtype=torch.float32), toy_processor())
    loaded = load_state(path, narrow.encoder)
    assert any("float32" in note and "float64" in note for note in loaded.notes)
    error = _distance(_scores(narrow, loaded), _scores(engine, load_state(path, engine.encoder)))
    assert 0 < error < TOL.model.f32


def test_weights_that_were_rounded_are_others(engine, path):
    rounded = Engine(toy_model(toy_config("transv"), dtype=torch.bfloat16), toy_processor())
    with pytest.raises(StateFileError, match="other weights"):
        load_state(path, rounded.encoder)


OTHERS = {
    "config": lambda: toy_engine("drop-only"),
    "processor": lambda: Engine(
        toy_model(toy_config("transv")), toy_processor(TimePrompt.SENTENCE), threads=1
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_another_model_is_refused_with_its_difference(what, path):
    with pytest.raises(StateFileError, match=f"toy-transv; got .*{what}.*encode the video again"):
        load_state(path, OTHERS[what]().encoder)


def test_a_changed_byte_in_any_tensor_is_found_unless_nobody_looks(engine, path):
    sealed = read_info(path).sealed
    whole = path.read_bytes()
    for piece in sealed.pieces:
        broken = bytearray(whole)
        broken[sealed.data + piece.start] ^= 1
        path.write_bytes(broken)
        for look in (lambda: load_state(path, engine.encoder), lambda: verify_file(path)):
            with pytest.raises(StateFileError, match=piece.name):
                look()
        load_state(path, engine.encoder, verify=False)


def test_a_full_disk_is_told_and_nothing_lost(engine, encoded, path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr("timeviper.inference.files.whole_file.free_bytes", lambda folder: 1000)
    with pytest.raises(StateFileError, match="1,000 bytes free") as told:
        save_state(encoded, path, engine.encoder)
    assert f"{len(before):,}" in str(told.value)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    # The video itself is still there to be asked and to be saved elsewhere.
    assert engine.ask(encoded, "What?", SHORT).text


_LIMITED = """
import resource, sys
from pathlib import Path
from tests.tolerances import TOL
from tests.toy_engine import noise, toy_engine
from timeviper.core.errors import StateFileError
from timeviper.inference.state_file import save_state, write_state
from timeviper.inference.files.whole_file import whole_file
engine, path = toy_engine(), Path(sys.argv[1])
encoded = engine.encode(noise(20))
size = save_state(encoded, path, engine.encoder)
resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, size - 1))
for way in ("at once", "while it is written"):
    try:
        if way == "at once":
            save_state(encoded, path, engine.encoder)
        else:
            with whole_file(path) as file:
                write_state(file, encoded, engine.encoder)
    except StateFileError as error:
        print(way, error.got)
"""


def test_a_disk_that_fills_while_it_is_written_leaves_the_file_of_before(tmp_path):
    path = tmp_path / "a.tvstate"
    command = [sys.executable, "-c", _LIMITED, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ran.stdout.count("File too large") == 2, ran.stderr[-2000:]
    verify_file(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_written_into_room_taken_before_it_is_the_same_file(engine, encoded, path):
    other = path.with_name("b.tvstate")
    with whole_file(other, room=10_000_000) as file:
        write_state(file, encoded, engine.encoder)
    assert other.read_bytes() == path.read_bytes()


def test_a_question_of_another_system_text_or_look_is_refused(engine, path):
    loaded = load_state(path, engine.encoder)
    for options, says in (
        (AskOptions(system="Be brief."), "words before"),
        (AskOptions(fps=2), "fps"),
    ):
        with pytest.raises(Exception, match=says):
            engine.ask(loaded, "What?", options)


def test_conversations_without_a_video_and_empty_notes_are_saved_as_well(engine, tmp_path):
    plan = engine.processor.plan_question("What?", video=None)
    nothing = engine.encoder.encode_nothing(plan)
    save_state(nothing, tmp_path / "a.tvstate", engine.encoder)
    loaded = load_state(tmp_path / "a.tvstate", engine.encoder)
    assert loaded.frames == 0
    assert torch.equal(_scores(engine, loaded), _scores(engine, nothing))


class _Full:
    """An allocator that refuses its n-th request, or from then on every one."""

    def __init__(self, number: int, *, ever: bool = False) -> None:
        self.left, self.ever = number, ever

    def __call__(self, size: int) -> None:
        self.left -= 1
        if self.left == 0 or (self.ever and self.left < 0):
            raise torch.OutOfMemoryError


def test_a_state_that_does_not_fit_keeps_its_long_keys_in_host_memory(
    engine, encoded, tmp_path, monkeypatch
) -> None:
    target = tmp_path / "a.tvstate"
    # Numbers that are widened take memory when they are loaded.
    save_state(encoded, target, engine.encoder, SaveOptions(compress=Compress.BF16))
    want = load_state(target, engine.encoder)
    assert not any("host memory" in note for note in want.notes)
    made: list[tuple[int, ...]] = []

    def room(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        made.append(shape)
        return in_host(shape, like)

    monkeypatch.setattr(state_parts, "LEAST_IN_HOST", 24)
    monkeypatch.setattr(state_parts, "in_host", room)
    with LiveBytes(refuse=_Full(3)):
        got = load_state(target, engine.encoder)
    assert made
    assert all(shape[1] >= 24 for shape in made)
    assert any("lie in host memory" in note for note in got.notes)
    assert engine.ask(got, "When?", SHORT).text == engine.ask(want, "When?", SHORT).text
    # Running out of memory is not a damaged file.
    with (
        LiveBytes(refuse=_Full(3, ever=True)),
        pytest.raises(CapacityError, match="the state of 20 frames"),
    ):
        load_state(target, engine.encoder)


def test_a_row_of_another_length_than_told_is_damage(path, engine, monkeypatch) -> None:
    monkeypatch.setattr(state_parts, "LEAST_IN_HOST", 1)
    header = read_info(path)
    layers = tuple(
        replace(one, lengths=(one.lengths[0] + 1,)) if one.kind == "attention" else one
        for one in header.info.layers
    )
    reader = StateReader(
        tensors=map_file(header.sealed),
        dtype=torch.float64,
        device=torch.device("cpu"),
        keys_in_host=True,
    )
    with pytest.raises(LayoutError, match="keys"):
        reader.state(layers, header.info.sites)
