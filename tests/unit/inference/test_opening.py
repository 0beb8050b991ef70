"""Questions opened together: in as few passes as memory allows, each as it would be alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tolerances import TOL, close
from tests.toy_engine import noise, toy_engine
from timeviper.inference import opening
from timeviper.inference.engine import Engine
from timeviper.inference.opening import open_answers, open_plans
from timeviper.inference.prefill import EncodedVideo
from timeviper.inference.request import AskOptions
from timeviper.model.keys import AttentionMemory
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.messages import VideoPart

QUESTIONS = ("What?", "When does the cat appear?", "How many times?", "Who?", "Which one?")


@pytest.fixture(scope="module", params=["plain", "transv", "whole", "drop-only"])
def asked(request: pytest.FixtureRequest) -> tuple[Engine, EncodedVideo, list[PromptTokens]]:
    engine = toy_engine(request.param)
    encoded = engine.encode(noise(9))
    return engine, encoded, [_suffix(engine, encoded, question) for question in QUESTIONS]


def _suffix(engine: Engine, encoded: EncodedVideo, question: str) -> PromptTokens:
    plan = engine.processor.plan_question(question, video=VideoPart(source="video"))
    return engine.encoder.suffix(
        plan, duration_seconds=encoded.duration_seconds, num_frames=encoded.frames
    )


def test_questions_in_one_pass_are_each_alone(
    asked: tuple[Engine, EncodedVideo, list[PromptTokens]],
) -> None:
    engine, encoded, suffixes = asked
    together = open_answers(engine.encoder, [(encoded, s) for s in suffixes])
    assert [prompt.state.sequences for prompt in together] == [5]
    alone = [engine.encoder.open_answer(encoded, suffix) for suffix in suffixes]
    want = torch.cat([prompt.logits for prompt in alone])
    close("scores", got=together[0].logits, want=want, tol=TOL.cuts.f64)


def test_no_pass_holds_more_parked_tokens_than_allowed(
    asked: tuple[Engine, EncodedVideo, list[PromptTokens]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, encoded, suffixes = asked
    parked = [part for site in encoded.state.pending if site for part in site.parked]
    size = sum(part.hidden.nbytes for part in parked)
    monkeypatch.setattr(opening, "PARKED_AT_ONCE", 2 * size + 1)
    groups = open_answers(engine.encoder, [(encoded, s) for s in suffixes])
    assert [prompt.state.sequences for prompt in groups] == ([2, 2, 1] if parked else [5])
    monkeypatch.setattr(opening, "PARKED_AT_ONCE", 1)
    single = open_answers(engine.encoder, [(encoded, s) for s in suffixes])
    assert len(single) == (5 if parked else 1)
    got, want = (torch.cat([prompt.logits for prompt in run]) for run in (groups, single))
    close("scores", got=got, want=want, tol=TOL.cuts.f64)


@pytest.mark.parametrize("sites", ["plain", "transv"])
def test_questions_about_several_videos_are_read_in_one_pass(
    sites: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = toy_engine(sites)
    films = [engine.encode(noise(frames, seed=frames)) for frames in (5, 3)]
    plans = [engine.processor.plan_question(q, video=VideoPart(source="v")) for q in QUESTIONS[:3]]
    suffixes = [engine.encoder.suffix(p, duration_seconds=5.0, num_frames=5) for p in plans]
    asked = list(zip([films[0], films[0], films[1]], suffixes, strict=True))
    (together,) = open_answers(engine.encoder, asked)
    for before, after in zip(films[1].state.memories, together.state.memories, strict=True):
        if isinstance(before, AttentionMemory):
            assert isinstance(after, AttentionMemory)
            assert after.shared[2] is not None
            assert after.shared[2].k.data_ptr() == before.k.data_ptr()
    alone = [engine.encoder.open_answer(film, suffix) for film, suffix in asked]
    want = torch.cat([prompt.logits for prompt in alone])
    close("scores", got=together.logits, want=want, tol=TOL.cuts.f64)
    monkeypatch.setattr(opening, "PARKED_AT_ONCE", 1)
    assert len(open_answers(engine.encoder, asked)) == (3 if sites == "transv" else 1)


def test_what_has_not_begun_is_read_apart() -> None:
    engine = toy_engine("plain")
    film = engine.encode(noise(3))
    empty = replace(film, state=engine.model.decoder.start())
    plan = engine.processor.plan_question("What?", video=VideoPart(source="v"))
    suffix = engine.encoder.suffix(plan, duration_seconds=3.0, num_frames=3)
    opened = open_answers(engine.encoder, [(n, suffix) for n in (film, empty, empty, film)])
    assert [prompt.state.sequences for prompt in opened] == [1, 2, 1]
    want = engine.encoder.open_answer(empty, suffix).logits
    close("scores", got=opened[1].logits[1:], want=want, tol=TOL.cuts.f64)
    assert open_plans(lambda _: engine.encoder, [], AskOptions()) == ([], [])


def test_a_question_copies_no_key_of_the_video(
    asked: tuple[Engine, EncodedVideo, list[PromptTokens]],
) -> None:
    engine, encoded, suffixes = asked
    for _ in range(2):
        state = engine.encoder.open_answer(encoded, *suffixes[:2]).state
        for before, after in zip(encoded.state.memories, state.memories, strict=True):
            if isinstance(before, AttentionMemory):
                assert isinstance(after, AttentionMemory)
                fronts = [front for front in after.shared if front is not None]
                assert [f.k.data_ptr() for f in fronts] == [before.k.data_ptr()] * 2
        for site, later in zip(encoded.state.pending, state.pending, strict=True):
            if site is not None and site.dropped is not None:
                assert later is not None
                assert later.dropped is not None
                fronts = [front for front in later.dropped.shared if front is not None]
                assert [f.k.data_ptr() for f in fronts] == [site.dropped.k.data_ptr()] * 2


def test_each_question_has_a_writer_and_the_time_of_its_pass() -> None:
    engine = toy_engine("plain")
    encoded = engine.encode(noise(4))
    shown = VideoPart(source="video")
    plans = [engine.processor.plan_question(q, video=shown) for q in QUESTIONS[:2]]
    options = AskOptions(max_new_tokens=7)
    pairs = [(encoded, plan) for plan in plans]
    questions, opened = open_plans(lambda _: engine.encoder, pairs, options)
    assert [one.encoded for one in questions] == [encoded] * 2
    assert [one.writer.most for one in questions] == [7, 7]
    assert questions[0].writer is not questions[1].writer
    assert questions[0].timing == questions[1].timing
    assert questions[0].timing.answer > 0
    assert sum(len(prompt.logits) for prompt in opened) == 2
