"""Laws of bad data: whatever lies in a file, it is a sample, or one told fault with its place."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from tests.unit.training.data.test_shards import members
from tests.unit.training.data.toys import (
    everything,
    mixture,
    reader,
    varied,
    write_array,
    write_lines,
    write_media,
    write_tar,
)
from timeviper.core.errors import TimeviperError
from timeviper.processing.conversation import Lesson, check_lesson
from timeviper.training.data.check import check
from timeviper.training.data.dataset import FileDataset
from timeviper.training.data.mixture import Mixture
from timeviper.training.data.packed import PackedSource, PackingConfig
from timeviper.training.data.records import Record, read_record
from timeviper.training.data.reels import ReelConfig, ReelDataset
from timeviper.training.data.samples import DataError, Origin, Reason, Sample, SampleError

T = TypeVar("T")
HERE = Origin("a.jsonl", 4)
SHARED = {"suppress_health_check": [HealthCheck.function_scoped_fixture]}

_word = st.sampled_from(["<image>", "<video>", "\n", "what?", "", "a cat.", "<|end|>", "\ud800"])
_text = st.lists(_word, max_size=4).map("".join)
_junk = st.none() | st.booleans() | st.floats() | st.integers() | st.just([]) | st.just({})


def mostly(good: st.SearchStrategy, bad: st.SearchStrategy = _junk) -> st.SearchStrategy:
    """Good values with a bad one now and then, so that what follows is reached as well."""
    return st.integers(0, 19).flatmap(lambda n: bad if n == 0 else good)


_name = mostly(st.sampled_from(["c.png", "a.mp4"]), st.sampled_from(["none", "", "\0", "\ud800"]))
_names = mostly(_name | st.lists(mostly(_name), max_size=2))
_part = st.fixed_dictionaries(
    {"type": mostly(st.sampled_from(["text", "image", "video"])), "text": _text},
    optional={"image": _name, "video": _names, "fps": _junk},
)
_roles = st.sampled_from(["user", "assistant", "system"])
_turn = st.fixed_dictionaries(
    {
        "role": mostly(_roles),
        "content": mostly(_text | st.lists(mostly(_part), max_size=3)),
    }
)
_turns = mostly(st.lists(mostly(_turn), max_size=4))
_asked = st.fixed_dictionaries({"from": st.just("human"), "value": _text.map("what? {}".format)})
_said = st.fixed_dictionaries({"from": st.just("gpt"), "value": _text.map("{} a cat.".format)})
_talk = st.tuples(_asked, _said).map(list)
_media = st.fixed_dictionaries(
    {}, optional={"image": _names, "images": _names, "video": _names, "videos": _names}
)
_times = st.fixed_dictionaries(
    {},
    optional={
        name: mostly(st.integers(0, 9))
        for name in ("video_start", "video_end", "start_seconds", "end_seconds")
    },
)
_words = st.one_of(
    st.fixed_dictionaries({"conversations": mostly(_talk)}),
    st.fixed_dictionaries({"messages": _turns}),
    st.fixed_dictionaries({"caption": mostly(_text)}),
)
_record = st.builds(
    lambda words, media, times: words | media | times,
    _words,
    _media | st.just({}),
    st.just({}) | _times,
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("bad"))


def outcome(call: Callable[[], T], *faults: type[TimeviperError]) -> T | TimeviperError:
    """What a call gives, or the fault it tells; any other exception is a defect."""
    try:
        return call()
    except faults as error:
        return error


@settings(max_examples=200, **SHARED)
@given(_record)
def test_any_record_is_a_sample_or_a_told_fault(home: Path, data: dict[str, Any]) -> None:
    record = Record(data=data, origin=HERE, root=home)
    sample = outcome(lambda: read_record(record), SampleError)
    if isinstance(sample, SampleError):
        event(sample.reason.value)
        assert sample.origin == HERE
        # A terminal and a log can take it.
        assert len(str(sample).encode()) < 600
        return
    check_lesson(sample.turns)
    lesson = outcome(lambda: reader(budget=10_000).measure(sample), SampleError)
    event(f"measured: {type(lesson).__name__}")
    if isinstance(lesson, Lesson):
        assert lesson.taught.any()
    else:
        told = (Reason.MISSING, Reason.UNREADABLE, Reason.CONVERSATION, Reason.RANGE)
        assert lesson.reason in told
        assert str(lesson).encode()


@settings(max_examples=60, **SHARED)
@given(st.data())
def test_a_shard_cut_anywhere_gives_what_is_whole(home: Path, data: st.DataObject) -> None:
    path = write_tar(home / "cut.tar", members(home))
    whole = everything(FileDataset([path]))
    text = path.read_bytes()
    # Behind the last member stand the closing blocks and the padding of the format.
    end = max(m.offset + m.size for _, g in _groups(path) for m in g.values())
    path.write_bytes(text[: data.draw(st.integers(1, end))])
    *found, last = everything(FileDataset([path]))
    assert isinstance(last, SampleError)
    assert last.reason is Reason.TRUNCATED
    # The last whole group may miss its later members.
    for got, want in zip(found[:-1], whole, strict=False):
        assert isinstance(got, Sample)
        assert isinstance(want, Sample)
        assert got.turns == want.turns


def _groups(path: Path) -> list[tuple[str, dict]]:
    return FileDataset([path])._part(0)._groups


@settings(max_examples=80, **SHARED)
@given(st.booleans(), st.integers(0, 10**6), st.binary(min_size=1, max_size=4))
def test_bytes_that_were_overwritten_spoil_no_more_than_they_must(
    home: Path, lines: bool, place: int, junk: bytes
) -> None:
    write, name = (write_lines, "b.jsonl") if lines else (write_array, "b.json")
    path = write(home / name, varied(6))
    text = bytearray(path.read_bytes())
    at = place % (len(text) - len(junk))
    text[at : at + len(junk)] = junk
    path.write_bytes(text)
    found = outcome(lambda: everything(FileDataset([path])), DataError)
    if isinstance(found, DataError):
        # Only the brackets of an array hold everything together.
        assert not lines or at < 4
        assert name in str(found)
        return
    if lines:
        # A line break among the bytes makes two bad records of one, a lost one of two.
        faults = sum(isinstance(one, SampleError) for one in found)
        assert faults <= 2 + junk.count(b"\n")
        assert len(found) - faults >= 6 - 2 * len(junk) - 1


def test_the_check_counts_whatever_it_meets(home: Path) -> None:
    path = write_lines(home / "mixed.jsonl", [*varied(4), "null", "{}", '{"caption": ""}', "\x00"])
    report = check([FileDataset([path])], reader(), workers=2)
    assert (report.good, report.bad.total()) == (4, 4)


def every_format(home: Path) -> PackedSource:
    """A mixture of all formats, words and pictures and videos and drawings in one pack."""
    sets = [
        FileDataset([write_lines(home / "e.jsonl", varied(7))]),
        FileDataset([write_array(home / "e.json", varied(5))]),
        FileDataset([write_tar(home / "e.tar", members(home))]),
        ReelDataset(ReelConfig(frames=(16,))),
    ]
    config = PackingConfig(workers=2, most_open=4)
    return PackedSource(Mixture(sets, weights=[3, 2, 2, 1]), reader(budget=700), config)


def test_all_formats_share_packs_and_resume(home: Path) -> None:
    whole = list(islice(every_format(home).batches(None, rank=0, ranks=1), 6))
    origins = [{o.rpartition(":")[0] for o in batch.origins} for batch, _ in whole]
    assert len(set.union(*origins)) == 4
    assert any(len(some) > 2 for some in origins)
    cursor = json.loads(json.dumps(whole[2][1]))
    rest = list(islice(every_format(home).batches(cursor, rank=0, ranks=1), 3))
    for (got, after), (want, end) in zip(rest, whole[3:], strict=True):
        assert (got.origins, after) == (want.origins, end)
        np.testing.assert_array_equal(got.inputs.token_ids, want.inputs.token_ids)


def test_a_source_that_is_left_leaves_no_thread(home: Path) -> None:
    before = threading.active_count()
    batches = every_format(home).batches(None, rank=0, ranks=1)
    next(batches)
    assert threading.active_count() > before
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("ranks", [2, 3])
def test_threads_and_ranks_together_are_one_order(home: Path, ranks: int) -> None:
    config = PackingConfig(workers=2, most_open=3)

    def source() -> PackedSource:
        return PackedSource(mixture(home, 12), reader(), config)

    whole = islice(source().batches(None, rank=0, ranks=1), 2 * ranks)
    want = [batch.origins for batch, _ in whole]
    sides = [
        list(islice(source().batches(None, rank=rank, ranks=ranks), 2)) for rank in range(ranks)
    ]
    got = [sides[n % ranks][n // ranks][0].origins for n in range(2 * ranks)]
    assert got == want
