"""Laws of the inference room: clips, encoded videos and batches change nothing about an answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.tolerances import TOL, close
from tests.toy_engine import SITES, noise, toy_config, toy_engine, toy_model, toy_processor
from timeviper.core.inputs import ModelInputs
from timeviper.core.layout import SpanKind
from timeviper.inference.engine import Engine
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.request import Answer, AskOptions
from timeviper.inference.steps import next_logits
from timeviper.model.state import stack
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.messages import VideoPart
from timeviper.processing.prompt import PromptPlan, TimePrompt
from timeviper.video.sampling import Sampling
from timeviper.video.source import open_video

QUESTION = "When does the cat appear?"
SHORT = AskOptions(max_new_tokens=6)
MODELS = {name: toy_model(toy_config(name)) for name in SITES}


def _plan(question: str = QUESTION, prompt: TimePrompt = TimePrompt.INTERLEAVED) -> PromptPlan:
    return toy_processor(prompt).plan_question(question, video=VideoPart(source="video"))


def _encode(
    name: str, frames: np.ndarray, clip_frames: int, prompt: TimePrompt = TimePrompt.INTERLEAVED
) -> tuple[VideoEncoder, EncodedVideo]:
    encoder = VideoEncoder(MODELS[name], toy_processor(prompt), clip_frames=clip_frames, workers=1)
    source = open_video(frames)
    return encoder, encoder.encode(source, _plan(prompt=prompt), Sampling(source.frame_times))


@torch.inference_mode()
def _one_run(name: str, frames: np.ndarray, plan: PromptPlan, answer: PromptTokens) -> torch.Tensor:
    """Scores after the question and after each token of the answer, from one call of the model."""
    times = np.arange(len(frames), dtype=np.float64)
    whole = plan.whole(times, duration_seconds=float(len(frames)))
    tokens = PromptTokens.join([whole, answer])
    inputs = ModelInputs(
        token_ids=torch.from_numpy(tokens.ids),
        layout=tokens.layout,
        pixels=toy_processor().pixels(frames).double(),
        times=times,
    )
    out, _ = MODELS[name](inputs)
    return MODELS[name].decoder.logits(out.hidden[-1 - len(answer) :])


def _opened(encoder: VideoEncoder, encoded: EncodedVideo, plan: PromptPlan):
    suffix = encoder.suffix(
        plan, duration_seconds=encoded.duration_seconds, num_frames=encoded.frames
    )
    return encoder.open_answer(encoded, suffix)


@pytest.mark.parametrize("prompt", TimePrompt)
@pytest.mark.parametrize("name", SITES)
@settings(max_examples=5)
@given(frames=st.integers(1, 14), clip_frames=st.integers(1, 15), seed=st.integers(0, 3))
def test_law_a_question_on_an_encoded_video_is_one_full_run(
    name, prompt, frames, clip_frames, seed
):
    video = noise(frames, seed=seed)
    answer = PromptTokens.of(SpanKind.ANSWER, [70, 71, 200])
    want = _one_run(name, video, _plan(prompt=prompt), answer)
    encoder, encoded = _encode(name, video, clip_frames, prompt)
    opened = _opened(encoder, encoded, _plan(prompt=prompt))
    rows, state = [opened.logits], opened.state
    for token in answer.ids.tolist():
        logits, state = next_logits(MODELS[name], [token], state)
        rows.append(logits)
    close("scores", got=torch.cat(rows), want=want, tol=TOL.cuts.f64)


@pytest.mark.parametrize("name", SITES)
def test_law_the_encoded_state_does_not_depend_on_the_clips(name):
    video = noise(13)
    states = [_encode(name, video, clip)[1] for clip in (1, 4, 13)]
    assert len({encoded.nbytes for encoded in states}) == 1
    assert len({encoded.tokens for encoded in states}) == 1
    for got, want in zip(states[0].state.memories, states[2].state.memories, strict=True):
        assert (got is None) == (want is None)
        if got is not None:
            assert got.nbytes == want.nbytes


@pytest.mark.parametrize("name", SITES)
def test_law_questions_do_not_disturb_each_other(name):
    engine = toy_engine(name)
    video = noise(12, seed=2)
    encoded = engine.encode(video)
    questions = [QUESTION, "Does the wolf appear?", QUESTION, "What is on screen at 00:05?"]
    again = [engine.ask(encoded, question, SHORT).text for question in questions]
    fresh = [engine.ask(video, question, SHORT).text for question in questions]
    assert again == fresh
    assert again[0] == again[2]
    assert len(set(again)) >= 2, "the toy model should tell some questions apart"


def _talk(question: str, video: object | None = None) -> list[dict[str, object]]:
    text = {"type": "text", "text": question}
    shown = [] if video is None else [{"type": "video", "video": video}]
    return [{"role": "user", "content": [*shown, text]}]


@pytest.mark.parametrize("name", ["plain", "transv"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_law_a_batch_answers_each_as_alone(name, temperature, picture_folders):
    engine = toy_engine(name)
    talks = [
        _talk(QUESTION, picture_folders[9]),
        _talk("Which?", picture_folders[3]),
        _talk("Hello?"),
        _talk("Which appears first, the cat or the wolf?", picture_folders[9]),
        [*_talk("Yes?", picture_folders[3]), {"role": "assistant", "content": "no."}, *_talk("?")],
    ]
    # A stop text lets rows end at different steps.
    options = AskOptions(max_new_tokens=12, temperature=temperature, seed=5, stop=("\u0006",))
    together = engine.generate(talks, options)
    alone = [engine.generate([talk], options)[0] for talk in talks]
    assert [answer.text for answer in together] == [answer.text for answer in alone]
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    assert [answer.frames for answer in together] == [9, 3, 0, 9, 3]
    asked = engine.ask(picture_folders[9], QUESTION, options)
    assert asked.text == together[0].text


@pytest.mark.parametrize("name", ["plain", "transv"])
def test_law_scores_of_a_batch_are_those_of_each_row(name):
    model = MODELS[name]
    opened = []
    for frames in (2, 11, 5):
        encoder, encoded = _encode(name, noise(frames, seed=frames), 4)
        opened.append(_opened(encoder, encoded, _plan()))
    with torch.inference_mode():
        from_one = [next_logits(model, [80 + n], o.state)[0] for n, o in enumerate(opened)]
        state = stack([o.state for o in opened])
    got, _ = next_logits(model, [80, 81, 82], state)
    close("scores", got=got, want=torch.cat(from_one), tol=TOL.cuts.f64)


@settings(max_examples=6)
@given(
    seed=st.integers(0, 50),
    stop=st.lists(st.sampled_from(["a", "\u0006", "@J", "]", "; "]), max_size=2),
)
def test_law_streamed_pieces_are_the_answer(engine, encoded, seed, stop):
    options = AskOptions(max_new_tokens=16, temperature=1.0, seed=seed, stop=tuple(stop))
    *pieces, answer = engine.stream(encoded, QUESTION, options)
    assert isinstance(answer, Answer)
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == answer.text
    assert not any(text in answer.text for text in stop)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return toy_engine("transv")


@pytest.fixture(scope="module")
def encoded(engine) -> EncodedVideo:
    return engine.encode(noise(6))


@pytest.fixture(scope="module")
def picture_folders(tmp_path_factory) -> dict[int, str]:
    """Folders of 3 and of 9 pictures."""
    folders = {}
    for count in (3, 9):
        folder = tmp_path_factory.mktemp(f"pictures{count}")
        for number, frame in enumerate(noise(count, seed=count)):
            Image.fromarray(frame).save(folder / f"{number}.png")
        folders[count] = str(folder)
    return folders
