"""Memory that runs out, at any operation: freed, halved, tried once more, told; nothing is lost."""

from __future__ import annotations

import gc
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.toy_engine import noise, toy_engine
from timeviper.core.errors import CapacityError
from timeviper.inference.engine import AskOptions, Engine
from timeviper.inference.planning.live_bytes import LiveBytes
from timeviper.inference.prefill import EncodedVideo
from timeviper.inference.survival import in_batches, ran_out, twice
from timeviper.model.state import AttentionMemory
from timeviper.model.tokens import Tokens
from timeviper.processing.messages import VideoPart
from timeviper.video.sampling import Sampling
from timeviper.video.source import open_video

CPU = torch.device("cpu")
SHORT = AskOptions(max_new_tokens=3)
FRAMES = noise(24)


def _extended(engine: Engine, refuse: Callable[[int], None]) -> list[EncodedVideo]:
    """All states on the way, read while an allocator may refuse."""
    plan = engine.processor.plan_question("?", video=VideoPart(source="video"))
    source = open_video(FRAMES)
    encoder = engine.encoder
    start = encoder.encode_nothing(plan)
    clips = encoder.clips(source, Sampling(source.frame_times))
    found: list[EncodedVideo] = []
    with LiveBytes(refuse=refuse):
        found.extend(encoder.extend(start, plan, clips, total=len(FRAMES)))
    return found


class FailsOnce:
    """An allocator that fails at its n-th request."""

    def __init__(self, number: int) -> None:
        self.left, self.failed = number, False

    def __call__(self, size: int) -> None:
        self.left -= 1
        if self.left == 0:
            self.failed = True
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes.")


def _scores(engine: Engine, encoded: EncodedVideo) -> np.ndarray:
    plan = engine.processor.plan_question("When?", video=VideoPart(source="video"))
    suffix = engine.encoder.suffix(plan, duration_seconds=24.0, num_frames=24)
    return engine.encoder.open_answer(encoded, suffix).logits.numpy()


@pytest.mark.parametrize("sites", ["plain", "transv", "whole"])
def test_a_failure_at_any_operation_changes_nothing(sites: str) -> None:
    engine = toy_engine(sites, clip_frames=8)
    count = FailsOnce(-1)
    want = _scores(engine, _extended(engine, count)[-1])
    requests = -1 - count.left
    survived = 0
    for number in np.linspace(2, requests - 1, 5).astype(int):
        refuse = FailsOnce(int(number))
        got = _extended(engine, refuse)
        assert refuse.failed
        told = [note for note in got[-1].notes if "memory ran out" in note]
        # Making room for the whole video is tried again as it is, with nothing to tell.
        survived += len(told)
        assert len(told) <= 1
        np.testing.assert_allclose(_scores(engine, got[-1]), want, rtol=1e-9, atol=1e-12)
    assert survived


def test_the_room_that_failed_is_used_again_and_not_copied() -> None:
    engine = toy_engine("plain", clip_frames=8)
    requests = FailsOnce(-1)
    _extended(engine, requests)
    # In the last third of all requests the room for the whole video is long there.
    got = _extended(engine, FailsOnce(int((-1 - requests.left) * 0.9)))
    assert any("memory ran out" in note for note in got[-1].notes)
    first, last = (
        [m.k.data_ptr() for m in one.state.memories if isinstance(m, AttentionMemory)]
        for one in (got[0], got[-1])
    )
    assert first == last


def test_what_never_fits_is_refused_in_numbers_and_the_rest_is_kept() -> None:
    engine = toy_engine("transv", clip_frames=8)
    plan = engine.processor.plan_question("?", video=VideoPart(source="video"))
    source = open_video(FRAMES)
    clips = engine.encoder.clips(source, Sampling(source.frame_times))
    good, stop = engine.encoder.encode_nothing(plan), False

    def refuse(size: int) -> None:
        if stop:
            raise torch.OutOfMemoryError

    with LiveBytes(refuse=refuse):
        grown = engine.encoder.extend(good, plan, clips, total=len(FRAMES))
        good = next(grown)
        stop = True
        with pytest.raises(CapacityError, match=r"frames 8 to 16 in 2 parts.* GiB are free"):
            next(grown)
    # Eight frames are there, as if nothing had happened.
    alone = engine.encode(FRAMES[:8])
    assert good.frames == 8
    np.testing.assert_allclose(_scores(engine, good), _scores(engine, alone), rtol=1e-9)


def test_a_batch_that_does_not_fit_is_looked_at_by_halves() -> None:
    sizes: list[int] = []

    def see(frames: torch.Tensor) -> torch.Tensor:
        sizes.append(len(frames))
        if len(frames) > 4:
            raise torch.OutOfMemoryError
        return frames * 2

    frames = torch.arange(10.0)[:, None]
    assert torch.equal(in_batches(see, frames, 8, device=CPU), frames * 2)
    assert sizes == [8, 4, 4, 2]
    with pytest.raises(CapacityError, match="vision tower on 10 frames"):
        in_batches(see, frames, 16, device=CPU)


def test_what_failed_is_let_go_before_the_second_attempt() -> None:
    alive: list[int] = []

    def work() -> str:
        held = torch.zeros(1000)
        alive.append(tracker.live)
        if len(alive) == 1:
            raise torch.OutOfMemoryError(str(held.shape))
        return "done"

    with LiveBytes() as tracker:
        assert twice(work, device=CPU, doing="it", do="less") == "done"
        gc.collect()
    assert alive == [4000, 4000]


def test_other_errors_are_not_for_trying_again() -> None:
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        raise RuntimeError

    with pytest.raises(RuntimeError):
        twice(work, device=CPU, doing="it", do="less")
    assert tries == [1]


def test_a_question_is_read_again_without_what_earlier_answers_left() -> None:
    engine = toy_engine("transv")
    encoded = engine.encode(FRAMES)
    want = engine.ask(encoded, "When?", SHORT).text
    refuse = FailsOnce(30)
    with LiveBytes(refuse=refuse):
        assert engine.ask(encoded, "When?", SHORT).text == want
    assert refuse.failed

    def never(size: int) -> None:
        raise torch.OutOfMemoryError

    with LiveBytes(refuse=never), pytest.raises(CapacityError, match="1 question"):
        engine.ask(encoded, "When?", SHORT)
    assert engine.ask(encoded, "When?", SHORT).text == want


def _requests(engine: Engine, encoded: EncodedVideo, questions: list[str]) -> int:
    """Allocations of writing answers, those of reading the questions not counted."""
    count = FailsOnce(-1)
    with LiveBytes(refuse=count):
        engine.ask_many(encoded, questions, LONG)
    return -1 - count.left


LONG = AskOptions(max_new_tokens=6)


@pytest.mark.parametrize(
    ("questions", "temperature"),
    [(["When?"], 0.8), (["When?", "What is it?"], 0.0), (["When?", "What is it?"], 0.8)],
)
def test_answers_survive_a_failure_at_any_operation(
    questions: list[str], temperature: float
) -> None:
    engine = toy_engine("transv")
    encoded = engine.encode(FRAMES)
    options = AskOptions(max_new_tokens=6, temperature=temperature, seed=3)
    want = [a.text for a in engine.ask_many(encoded, questions, options)]
    requests, told = _requests(engine, encoded, questions), 0
    for number in np.linspace(2, requests - 4, 5).astype(int):
        refuse = FailsOnce(int(number))
        with LiveBytes(refuse=refuse):
            got = engine.ask_many(encoded, questions, options)
        assert refuse.failed
        assert [a.text for a in got] == want
        notes = [note for a in got for note in a.notes if "memory ran out" in note]
        # One question that is read again has nothing to tell.
        told += bool(notes)
        assert len(notes) <= len(questions)
    assert told >= 3


def test_an_answer_that_fits_no_more_is_told_in_numbers_and_the_video_is_kept() -> None:
    engine = toy_engine("transv")
    encoded = engine.encode(FRAMES)
    want = engine.ask(encoded, "When?", LONG).text
    stop = False

    def refuse(size: int) -> None:
        if stop:
            raise torch.OutOfMemoryError

    heard: list[str] = []
    with LiveBytes(refuse=refuse):
        pieces = engine.stream(encoded, "When?", LONG)
        heard.append(str(next(pieces)))
        stop = True
        with pytest.raises(CapacityError, match=r"written alone.* GiB are free") as caught:
            heard.extend(str(piece) for piece in pieces)
    assert "max_new_tokens" in caught.value.do
    assert want.startswith("".join(heard))
    assert engine.ask(encoded, "When?", LONG).text == want


def test_questions_that_do_not_fit_together_are_read_alone() -> None:
    engine = toy_engine("plain")
    encoded = engine.encode(FRAMES)
    questions = ["When does it appear in the whole video?", "What is it?"]
    want = [a.text for a in engine.ask_many(encoded, questions, SHORT)]
    sizes: list[int] = []
    read = engine.encoder.model.decoder.run

    def counted(tokens: Tokens, *args, **kwargs):
        sizes.append(len(tokens.lengths))
        return read(tokens, *args, **kwargs)

    refuse = FailsOnce(30)
    with pytest.MonkeyPatch.context() as patch, LiveBytes(refuse=refuse):
        patch.setattr(engine.encoder.model.decoder, "run", counted)
        got = engine.ask_many(encoded, questions, SHORT)
    assert refuse.failed
    # Both at once, then each alone, then the answers together.
    assert sizes[:4] == [2, 1, 1, 2]
    assert [a.text for a in got] == want
    assert all(any("each was read alone" in note for note in a.notes) for a in got)


@pytest.mark.parametrize(
    ("words", "known"),
    [
        ("CUDA error: out of memory\nCUDA kernel errors might be reported later", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_what_libraries_say_when_memory_runs_out(words: str, known: bool) -> None:
    assert ran_out(RuntimeError(words)) is known
    assert ran_out(torch.OutOfMemoryError("of the allocator"))


@pytest.mark.gpu
def test_a_device_that_is_really_full() -> None:
    """A share of the device is allowed that holds the whole chunk's work only by halves."""
    device = torch.device("cuda")
    torch.cuda.empty_cache()
    total = torch.cuda.mem_get_info(device)[1]
    rows = 2**28
    allowed = torch.cuda.memory_reserved(device) + 3 * rows
    torch.cuda.set_per_process_memory_fraction(allowed / total, device)
    try:
        frames = torch.ones(4, rows // 16, device=device)

        def see(part: torch.Tensor) -> torch.Tensor:
            wide = torch.cat([part] * 6)
            return wide[: len(part)] * 2

        found = in_batches(see, frames, 4, device=device)
        assert bool((found == 2).all())
        with pytest.raises(CapacityError, match="GiB hold tensors"):
            in_batches(lambda part: torch.cat([part] * 60), frames, 4, device=device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
