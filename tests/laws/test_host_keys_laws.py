"""Keys in host memory give the scores that keys on the device give: sites, chunks, turns, answers.

A CPU has no other memory: here the ops are told which keys to treat as if they lay elsewhere, and
the streamed attention reads those in blocks of a few keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.toy_engine import noise, toy_engine
from timeviper.inference import survival
from timeviper.inference.chunks import Chunks
from timeviper.inference.engine import AskOptions, Engine
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.steps import UsualSteps
from timeviper.model import attention as attention_module
from timeviper.model import keys as keys_module
from timeviper.model import transv as transv_module
from timeviper.model.keys import fresh
from timeviper.model.state import AttentionMemory
from timeviper.ops import attention as ops_attention
from timeviper.ops.attention_parts import further
from timeviper.ops.attention_streamed import attention as streamed
from timeviper.processing.messages import VideoPart
from timeviper.video.sampling import Sampling
from timeviper.video.source import open_video

FRAMES = noise(30)
BLOCK = 7


class Elsewhere:
    """Rows that are thought to lie in host memory, and attention that has them copied."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._rows: list[Tensor] = []
        self.reads = 0
        for module in (keys_module, survival):
            monkeypatch.setattr(module, "LEAST_IN_HOST", 8)
        monkeypatch.setattr(survival, "in_host", self.room)
        for module in (attention_module, transv_module):
            monkeypatch.setattr(module, "attention", self.attention)
        monkeypatch.setattr(AttentionMemory, "lies_on", lambda memory, device: not self.has(memory))

    def room(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        self._rows.append(keys_module.in_host(shape, like))
        return self._rows[-1]

    def holds(self, keys: Tensor) -> bool:
        place = keys.untyped_storage().data_ptr()
        return any(rows.untyped_storage().data_ptr() == place for rows in self._rows)

    def has(self, memory: AttentionMemory) -> bool:
        return any(self.holds(keys) for keys in (memory.k, *_fronts(memory.shared)))

    def attention(self, q: Tensor, k: Tensor, v: Tensor, **how) -> Tensor:
        if not any(self.holds(keys) for keys in (k, *_fronts(how.get("shared")))):
            return ops_attention.attention(q, k, v, **how)
        self.reads += 1
        return streamed(q, k, v, **how, further=further, block_keys=BLOCK)


def _fronts(shared) -> list[Tensor]:
    if shared is None:
        return []
    known = shared if isinstance(shared, Sequence) else [shared]
    return [one.k for one in known if one is not None]


def _read(engine: Engine, *, host: bool, chunk: int = 8) -> EncodedVideo:
    sizes = Chunks(clip_frames=4, batch_frames=4, chunk_frames=chunk)
    encoder = VideoEncoder(
        engine.model, engine.processor, chunks=sizes, workers=1, keys_in_host=host
    )
    plan = engine.processor.plan_question("?", video=VideoPart(source="video"))
    source = open_video(FRAMES)
    return encoder.encode(source, plan, Sampling(source.frame_times))


def _scores(engine: Engine, encoded: EncodedVideo, *questions: str) -> np.ndarray:
    plans = [engine.processor.plan_question(q, video=VideoPart(source="video")) for q in questions]
    suffixes = [engine.encoder.suffix(p, duration_seconds=30.0, num_frames=30) for p in plans]
    return engine.encoder.open_answer(encoded, *suffixes).logits.numpy()


@pytest.mark.parametrize("sites", ["plain", "transv", "whole", "drop-only"])
@pytest.mark.parametrize("chunk", [4, 30])
def test_law_the_same_scores(sites: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = toy_engine(sites)
    want = _scores(engine, _read(engine, host=False), "When?", "What is it?")
    elsewhere = Elsewhere(monkeypatch)
    encoded = _read(engine, host=True, chunk=chunk)
    held = [m for m in encoded.state.memories if isinstance(m, AttentionMemory)]
    # Nothing was parked before the first attention layer: it holds keys of the video.
    assert elsewhere.has(held[0])
    got = _scores(engine, encoded, "When?", "What is it?")
    assert elsewhere.reads > 0
    close("scores", got=got, want=want, tol=TOL.cuts.f64)


def test_law_the_same_answers_and_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = toy_engine("transv")
    options = AskOptions(max_new_tokens=12)
    here = _read(engine, host=False)
    want = engine.ask_many(here, ["When?", "What is it?"], options)
    elsewhere = Elsewhere(monkeypatch)
    there = _read(engine, host=True)
    got = engine.ask_many(there, ["When?", "What is it?"], options)
    assert [a.text for a in got] == [a.text for a in want]
    assert [a.tokens for a in got] == [a.tokens for a in want]
    # Asked once more, as if nothing had been asked.
    before = elsewhere.reads
    assert engine.ask(there, "When?", options).text == want[0].text
    assert elsewhere.reads > before


def test_law_two_videos_in_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their keys differ: what is joined stays in host memory, and answers stay the same."""
    engine = toy_engine("plain")
    other = VideoEncoder(
        engine.model, engine.processor, clip_frames=4, workers=1, keys_in_host=True
    )
    plan = engine.processor.plan_question("When?", video=VideoPart(source="video"))
    suffix = engine.encoder.suffix(plan, duration_seconds=30.0, num_frames=30)

    def alone(encoder: VideoEncoder, frames: np.ndarray) -> EncodedVideo:
        source = open_video(frames)
        return encoder.encode(source, plan, Sampling(source.frame_times))

    def first_three(encoder: VideoEncoder) -> list[list[int]]:
        films = [FRAMES, noise(12, seed=3)]
        opened = [encoder.open_answer(alone(encoder, film), suffix) for film in films]
        steps = UsualSteps(engine.model, opened)
        found: list[list[int]] = []
        for _ in range(3):
            tokens = steps.logits.argmax(-1).tolist()
            found.append(tokens)
            steps.advance(tokens)
        return found

    want = first_three(engine.encoder)
    Elsewhere(monkeypatch)
    assert first_three(other) == want


def test_a_camera_moves_its_keys_when_they_have_become_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = toy_engine("plain", clip_frames=1)
    elsewhere = Elsewhere(monkeypatch)
    encoder = VideoEncoder(
        engine.model, engine.processor, clip_frames=1, workers=1, keys_in_host=True
    )
    plan = engine.processor.plan_question("?", video=VideoPart(source="video"))
    encoded = encoder.encode_nothing(plan)
    places: list[int] = []
    for number in range(4):
        source = open_video(FRAMES[number : number + 1])
        clips = encoder.clips(source, Sampling(source.frame_times))
        for grown in encoder.extend(encoded, plan, clips, total=1):
            encoded = grown
        memory = next(m for m in encoded.state.memories if isinstance(m, AttentionMemory))
        assert elsewhere.has(memory)
        places.append(memory.k.data_ptr())
    # Once there, they are not moved again for every frame.
    assert len(set(places[1:])) == 1


def test_steps_read_page_locked_keys_where_they_lie_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = toy_engine("plain")
    Elsewhere(monkeypatch)
    plan = engine.processor.plan_question("When?", video=VideoPart(source="video"))
    suffix = engine.encoder.suffix(plan, duration_seconds=30.0, num_frames=30)
    opened = engine.encoder.open_answer(_read(engine, host=True), suffix)
    memory = next(m for m in opened.state.memories if isinstance(m, AttentionMemory))
    (front,) = memory.shared
    assert front is not None
    # A tensor without data stands for the GPU, whose own keys these would be.
    gpu = torch.device("meta")
    there = replace(memory, buffer=fresh(*(t.to(gpu) for t in (memory.k, memory.v)), (5,)).buffer)
    assert not there.within_reach(gpu)
    monkeypatch.setattr(Tensor, "is_pinned", lambda keys: keys.data_ptr() == front.k.data_ptr())
    assert there.within_reach(gpu)
    # Keys of an answer's own that lie elsewhere cannot be written by a kernel.
    assert not memory.within_reach(gpu)


@pytest.mark.gpu
def test_on_a_gpu_the_keys_lie_in_page_locked_memory() -> None:
    engine = toy_engine("transv")
    engine.model.to("cuda", torch.float32)
    engine = Engine(engine.model, engine.processor, clip_frames=8)
    with pytest.MonkeyPatch.context() as patch:
        for module in (keys_module, survival):
            patch.setattr(module, "LEAST_IN_HOST", 8)
        there = _read(engine, host=True)
        held = [m for m in there.state.memories if isinstance(m, AttentionMemory)]
        assert held[0].k.is_pinned()
        assert not held[0].lies_on(engine.device)
        got = engine.encoder.open_answer(there, *_suffixes(engine)).logits
        answer = engine.ask(there, "When?", AskOptions(max_new_tokens=12))
    here = _read(engine, host=False)
    want = engine.encoder.open_answer(here, *_suffixes(engine)).logits
    close("scores", got=got, want=want, tol=TOL.cuts.f32)
    assert answer.text == engine.ask(here, "When?", AskOptions(max_new_tokens=12)).text


def _suffixes(engine: Engine) -> list:
    plan = engine.processor.plan_question("When?", video=VideoPart(source="video"))
    return [engine.encoder.suffix(plan, duration_seconds=30.0, num_frames=30)]
