"""The store: found by content, bounded, safe among processes, no worse for crashes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.toy_engine import noise, toy_engine, write_video
from timeviper.core.errors import CancelledError, RequestError, StateFileError
from timeviper.inference import store as module
from timeviper.inference.engine import AskOptions, Engine
from timeviper.inference.state_file import state_bytes
from timeviper.inference.store import Store
from timeviper.inference.watch import CancelToken, Watch

SHORT = AskOptions(max_new_tokens=6)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return toy_engine("transv")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    return [write_video(folder / f"{n}.mp4", noise(6, seed=n, side=32)) for n in range(4)]


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "cache")


def _names(store: Store) -> list[str]:
    return sorted(path.name for path in store.folder.iterdir())


def test_the_second_time_it_is_there_and_answers_the_same(engine, films, store):
    first, second = (store.encode(engine, films[0]) for _ in range(2))
    assert (first.found, second.found) == (False, True)
    want = engine.ask(films[0], "What?", SHORT).text
    assert [engine.ask(one.encoded, "What?", SHORT).text for one in (first, second)] == [want] * 2
    assert _names(store) == [f"{first.key}.tvstate"]
    assert store.nbytes == store.path_of(first.key).stat().st_size


def test_same_content_under_two_names_is_one_entry(engine, films, store, tmp_path):
    copy = shutil.copy(films[0], tmp_path / "another name.mp4")
    keys = {store.encode(engine, film).key for film in (films[0], copy)}
    assert len(keys) == len(_names(store)) == 1


def test_two_files_of_one_name_size_and_date_are_two(engine, store, tmp_path):
    """The collision that a key of name, size and date would have."""
    answers, stats = [], []
    for seed in (0, 1):
        path = write_video(tmp_path / "film.mp4", noise(6, seed=seed, side=32))
        with path.open("ab") as file:
            # Behind the last box of an MP4 nothing is read.
            file.write(bytes(40_000 - path.stat().st_size))
        os.utime(path, ns=(1, 1))
        stats.append((path.stat().st_size, path.stat().st_mtime_ns))
        fetched = store.encode(engine, path)
        assert not fetched.found
        answers.append(fetched.encoded.pixels)
    assert stats[0] == stats[1]
    assert answers[0] != answers[1]
    assert len(_names(store)) == 2


def test_who_was_asked_longest_ago_goes_first(engine, films, tmp_path):
    size = state_bytes(engine.encode(films[0]), engine.encoder)
    store = Store(tmp_path / "cache", limit_bytes=int(2.5 * size))
    keys = []
    for number, film in enumerate((films[0], films[1], films[0], films[2])):
        keys.append(store.encode(engine, film).key)
        for path in store.folder.glob("*.tvstate"):
            # A clock that runs fast enough for any file system.
            if path.stem == keys[-1]:
                os.utime(path, (number, number))
    assert sorted(_names(store)) == sorted(f"{key}.tvstate" for key in (keys[0], keys[3]))
    assert store.nbytes <= store.limit_bytes
    assert store.encode(engine, films[0]).found
    assert not store.encode(engine, films[1]).found


def test_what_was_evicted_goes_on_answering(engine, films, tmp_path):
    size = state_bytes(engine.encode(films[0]), engine.encoder)
    store = Store(tmp_path / "cache", limit_bytes=int(1.5 * size))
    store.encode(engine, films[0])
    mapped = store.encode(engine, films[0]).encoded
    gone = store.encode(engine, films[1])
    assert _names(store) == [f"{gone.key}.tvstate"]
    want = engine.ask(films[0], "What?", SHORT).text
    assert engine.ask(mapped, "What?", SHORT).text == want


def test_larger_than_the_limit_is_given_and_not_kept(engine, films, tmp_path):
    store = Store(tmp_path / "cache", limit_bytes=1000)
    fetched = store.encode(engine, films[0])
    assert any("not kept" in note for note in fetched.encoded.notes)
    assert _names(store) == []


def test_a_full_disk_is_a_note_and_the_video_is_given(engine, films, store, monkeypatch):
    monkeypatch.setattr("timeviper.inference.files.whole_file.free_bytes", lambda folder: 10)
    fetched = store.encode(engine, films[0])
    assert any("10 bytes free" in note for note in fetched.encoded.notes)
    assert engine.ask(fetched.encoded, "What?", SHORT).text
    assert _names(store) == []


@pytest.mark.parametrize("spoil", [b"", b"junk", None], ids=["empty", "junk", "one byte"])
def test_a_damaged_entry_is_made_anew(engine, films, store, spoil):
    key = store.encode(engine, films[0]).key
    path = store.path_of(key)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data if spoil is None else spoil)
    again = store.encode(engine, films[0])
    assert not again.found
    assert store.encode(engine, films[0]).found


def test_a_file_that_changes_while_it_is_read_is_not_kept(engine, films, store, monkeypatch):
    stamps = iter([((1, 2, 3),), ((1, 9, 3),)])
    monkeypatch.setattr(module, "media_stamp", lambda source: next(stamps))
    assert store.encode(engine, films[0]).encoded.frames == 6
    assert _names(store) == []


def test_cancelled_reading_leaves_nothing(engine, films, store):
    with pytest.raises(CancelledError):
        store.encode(engine, films[0], watch=Watch(cancel=lambda: True))
    assert _names(store) == []


def test_strangers_in_the_folder_are_left_alone(engine, films, tmp_path):
    size = state_bytes(engine.encode(films[0]), engine.encoder)
    store = Store(tmp_path / "cache", limit_bytes=size)
    (store.folder / "mine.tvstate").write_bytes(b"x" * 10 * size)
    store.encode(engine, films[0])
    store.encode(engine, films[1])
    assert len(_names(store)) == 2
    assert "mine.tvstate" in _names(store)


def test_bad_limits_and_folders_are_refused(tmp_path):
    with pytest.raises(RequestError, match="at least a byte"):
        Store(tmp_path, limit_bytes=0)
    (tmp_path / "file").touch()
    with pytest.raises(StateFileError, match="a folder for encoded videos"):
        Store(tmp_path / "file")


_READER = """
import json, sys, time
from tests.toy_engine import toy_engine
from timeviper.inference.engine import Engine
from timeviper.inference.store import Store
real = Engine.encode
def slowly(*args, **options):
    print("reading", flush=True)
    time.sleep(float(sys.argv[3]))
    return real(*args, **options)
Engine.encode = slowly
fetched = Store(sys.argv[1]).encode(toy_engine("transv"), sys.argv[2])
print(json.dumps([fetched.found, fetched.encoded.pixels]), flush=True)
"""


def _reader(store: Store, film, seconds: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", _READER, str(store.folder), str(film), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_two_processes_at_once_read_it_once(films, store):
    readers = [_reader(store, films[0], 0.7) for _ in range(2)]
    said = [reader.communicate(timeout=60)[0].splitlines() for reader in readers]
    assert sum(lines.count("reading") for lines in said) == 1
    found, pixels = zip(*(json.loads(lines[-1]) for lines in said), strict=True)
    assert sorted(found) == [False, True]
    assert len(set(pixels)) == len(_names(store)) == 1


def test_a_killed_reader_does_no_harm_and_who_waits_may_stop(engine, films, store):
    reader = _reader(store, films[0], 60)
    assert reader.stdout is not None
    assert reader.stdout.readline() == "reading\n"
    stop = CancelToken()
    stop.cancel()
    with pytest.raises(CancelledError, match="another process"):
        store.encode(engine, films[0], watch=Watch(cancel=stop))
    reader.send_signal(signal.SIGKILL)
    reader.communicate()
    # A half-written file of a writer that is gone, as a kill amid the writing leaves it.
    (store.folder / f".{'0' * 64}.tvstate.abc.part").write_bytes(b"half")
    began = time.monotonic()
    fetched = store.encode(engine, films[0])
    assert time.monotonic() - began < 30
    assert not fetched.found
    assert _names(store) == [f"{fetched.key}.tvstate"]
