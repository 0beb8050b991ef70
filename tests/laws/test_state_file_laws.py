"""Laws of state files: what is loaded answers, grows and forks as what was saved."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerances import TOL, close
from tests.toy_engine import SITES, noise, toy_config, toy_engine, toy_model, toy_processor
from timeviper.core.inputs import ModelInputs
from timeviper.core.layout import SpanKind
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.request import AskOptions
from timeviper.inference.session import Session
from timeviper.inference.state_file import load_state, save_state
from timeviper.inference.steps import next_logits
from timeviper.model.state import DecoderState
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.messages import parse_messages
from timeviper.processing.prompt import PromptPlan
from timeviper.video.sampling import Sampling
from timeviper.video.source import open_video

ENCODERS = {
    name: VideoEncoder(toy_model(toy_config(name)), toy_processor(), clip_frames=4, workers=1)
    for name in SITES
}
GROWING = [name for name in SITES if name != "whole"]
SHORT = AskOptions(max_new_tokens=4)
ANSWER = [70, 200]
ONE_TURN = [("user", "When does the cat appear?")]
THREE_TURNS = [
    ("user", "Does the wolf appear?"),
    ("assistant", "no."),
    ("user", "And the cat?"),
    ("assistant", "yes."),
    ("user", "When?"),
]


def _plan(turns: list[tuple[str, str]]) -> PromptPlan:
    talk = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
    talk[0]["content"].insert(0, {"type": "video", "video": "video"})
    return toy_processor().plan_turns(parse_messages(talk))


def _encode(encoder: VideoEncoder, frames: np.ndarray) -> EncodedVideo:
    source = open_video(frames)
    return encoder.encode(source, _plan(ONE_TURN), Sampling(source.frame_times))


def _through_a_file(encoded: EncodedVideo, encoder: VideoEncoder, verify: bool = True):
    with TemporaryDirectory() as folder:
        path = Path(folder) / "video.tvstate"
        save_state(encoded, path, encoder)
        # The file is gone when the questions come: what is mapped stays.
        return load_state(path, encoder, verify=verify)


def _scores(encoder: VideoEncoder, encoded: EncodedVideo, plan: PromptPlan) -> torch.Tensor:
    """After the question and after each token of a fixed answer."""
    suffix = encoder.suffix(
        plan, duration_seconds=encoded.duration_seconds, num_frames=encoded.frames
    )
    opened = encoder.open_answer(encoded, suffix)
    rows, state = [opened.logits], opened.state
    for token in ANSWER:
        logits, state = next_logits(encoder.model, [token], state)
        rows.append(logits)
    return torch.cat(rows)


@torch.inference_mode()
def _one_run(encoder: VideoEncoder, frames: np.ndarray, plan: PromptPlan) -> torch.Tensor:
    """The same scores from one call of the model over everything."""
    times = np.arange(len(frames), dtype=np.float64)
    whole = plan.whole(times, duration_seconds=float(len(frames)))
    tokens = PromptTokens.join([whole, PromptTokens.of(SpanKind.ANSWER, ANSWER)])
    inputs = ModelInputs(
        token_ids=torch.from_numpy(tokens.ids),
        layout=tokens.layout,
        pixels=encoder.processor.pixels(frames).double(),
        times=times,
    )
    out, _ = encoder.model(inputs)
    return encoder.model.decoder.logits(out.hidden[-1 - len(ANSWER) :])


@pytest.mark.parametrize("turns", [ONE_TURN, THREE_TURNS], ids=["one turn", "three turns"])
@pytest.mark.parametrize("name", SITES)
@settings(max_examples=2)
@given(frames=st.integers(1, 14), seed=st.integers(0, 3), verify=st.booleans())
def test_law_a_question_on_a_loaded_state_is_one_full_run(name, turns, frames, seed, verify):
    video, plan, encoder = noise(frames, seed=seed), _plan(turns), ENCODERS[name]
    encoded = _encode(encoder, video)
    loaded = _through_a_file(encoded, encoder, verify)
    got = _scores(encoder, loaded, plan)
    assert torch.equal(got, _scores(encoder, encoded, plan)), "not the same to the last bit"
    close("scores", got=got, want=_one_run(encoder, video, plan), tol=TOL.cuts.f64)


@pytest.mark.parametrize("name", SITES)
def test_law_everything_else_comes_back_as_well(name):
    encoder = ENCODERS[name]
    encoded = _encode(encoder, noise(11))
    loaded = _through_a_file(encoded, encoder)
    assert np.array_equal(loaded.times, encoded.times)
    assert np.array_equal(loaded.prefix.ids, encoded.prefix.ids)
    assert np.array_equal(loaded.prefix.kinds, encoded.prefix.kinds)
    assert loaded.nbytes == encoded.nbytes
    for field in ("duration_seconds", "tokens", "notes", "timing", "pixels"):
        assert getattr(loaded, field) == getattr(encoded, field), field
    assert len(encoded.pixels) == 64


@pytest.mark.parametrize("name", SITES)
def test_law_questions_at_once_are_each_alone(name):
    engine = toy_engine(name)
    video = noise(12, seed=2)
    loaded = _through_a_file(engine.encode(video), engine.encoder)
    questions = ["When does the cat appear?", "Does the wolf appear?", "What?"]
    together = [answer.text for answer in engine.ask_many(loaded, questions, SHORT)]
    assert together == [engine.ask(video, question, SHORT).text for question in questions]
    assert len(set(together)) > 1, "the toy model should tell some questions apart"


@pytest.mark.parametrize("name", GROWING)
@settings(max_examples=2)
@given(cut=st.integers(1, 13))
def test_law_appended_to_a_loaded_state_is_encoded_at_once(name, cut):
    engine = toy_engine(name)
    video, plan = noise(14, seed=5), _plan(ONE_TURN)
    loaded = _through_a_file(engine.encode(video[:cut]), engine.encoder)
    with Session.of(engine, loaded) as session:
        session.append(video[cut:])
        grown = session.encoded
    want = engine.encode(video)
    assert grown.pixels == want.pixels
    assert np.array_equal(grown.times, want.times)
    got = _scores(engine.encoder, grown, plan)
    close("scores", got=got, want=_scores(engine.encoder, want, plan), tol=TOL.cuts.f64)
    again = _scores(engine.encoder, _through_a_file(grown, engine.encoder), plan)
    assert torch.equal(again, got), "saved once more it says something else"


@pytest.mark.parametrize("name", SITES)
def test_law_saved_loaded_forked_continued_is_continued(name):
    """Cut within a question, where tokens of every kind wait at the sites."""
    encoder = ENCODERS[name]
    encoded = _encode(encoder, noise(9))
    suffix = encoder.suffix(_plan(ONE_TURN), duration_seconds=9.0, num_frames=9)
    head, tail = (PromptTokens(suffix.ids[part], suffix.kinds[part]) for part in _HALVES)
    half = _with(encoded, encoder.read(head, None, encoded.state))
    loaded = _through_a_file(half, encoder)
    want = encoder.open_answer(half, tail).logits
    forks = [encoder.open_answer(loaded, tail).logits for _ in range(3)]
    assert all(torch.equal(fork, want) for fork in forks)
    # Answered differently in between, the next fork does not feel it.
    next_logits(encoder.model, [70], encoder.open_answer(loaded, head).state)
    assert torch.equal(encoder.open_answer(loaded, tail).logits, want)


_HALVES = (slice(0, 10), slice(10, None))


def _with(encoded: EncodedVideo, state: DecoderState) -> EncodedVideo:
    return EncodedVideo(
        state=state,
        prefix=encoded.prefix,
        times=encoded.times,
        duration_seconds=encoded.duration_seconds,
        tokens=encoded.tokens,
    )


@pytest.mark.parametrize("name", ["plain", "transv"])
def test_law_questions_leave_the_file_and_each_other_alone(name, tmp_path):
    engine = toy_engine(name)
    path = tmp_path / "video.tvstate"
    save_state(engine.encode(noise(10)), path, engine.encoder)
    before = path.read_bytes()
    first, second = (load_state(path, engine.encoder) for _ in range(2))
    want = [engine.ask(first, question, SHORT).text for question in ("What?", "Who is it?")]
    again = [engine.ask(second, question, SHORT).text for question in ("Who is it?", "What?")]
    assert want == again[::-1]
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", SITES)
def test_law_saved_again_it_is_the_same_file(name, tmp_path):
    encoder = ENCODERS[name]
    first, second = tmp_path / "1.tvstate", tmp_path / "2.tvstate"
    size = save_state(_encode(encoder, noise(8)), first, encoder)
    save_state(load_state(first, encoder), second, encoder)
    assert first.read_bytes() == second.read_bytes()
    assert first.stat().st_size == size
