"""Several questions about one encoded video, their answers written together."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy_engine import noise, toy_engine, write_video
from timeviper.core.errors import RequestError
from timeviper.inference.engine import AskOptions, EncodedVideo, Engine

QUESTIONS = ("What?", "When does the cat appear?", "What?", "How many times?")
SHORT = AskOptions(max_new_tokens=12)


@pytest.fixture(scope="module", params=["transv", "plain"])
def encoded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Engine, EncodedVideo]:
    engine = toy_engine(request.param)
    film = write_video(tmp_path_factory.mktemp("film") / "noise.mp4", noise(9))
    return engine, engine.encode(film)


def test_each_answer_equals_that_of_its_question_alone(
    encoded: tuple[Engine, EncodedVideo],
) -> None:
    engine, video = encoded
    together = engine.ask_many(video, QUESTIONS, SHORT)
    alone = [engine.ask(video, question, SHORT) for question in QUESTIONS]
    assert [a.text for a in together] == [a.text for a in alone]
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    assert {a.frames for a in together} == {9}
    # Other questions, other answers: the equality above compares something.
    assert len({a.text for a in together}) > 1


def test_each_question_may_have_a_video_of_its_own(
    encoded: tuple[Engine, EncodedVideo], tmp_path: Path
) -> None:
    engine, video = encoded
    other = engine.encode(write_video(tmp_path / "other.mp4", noise(6, seed=7)))
    videos = [video, other, other, video]
    together = engine.ask_many(videos, QUESTIONS, SHORT)
    alone = [engine.ask(v, q, SHORT) for v, q in zip(videos, QUESTIONS, strict=True)]
    assert [a.text for a in together] == [a.text for a in alone]
    assert [a.frames for a in together] == [9, 6, 6, 9]


def test_videos_without_questions_are_refused(encoded: tuple[Engine, EncodedVideo]) -> None:
    engine, video = encoded
    with pytest.raises(RequestError, match="2 videos"):
        engine.ask_many([video, video], ["What?"])
    assert engine.ask_many([], []) == []


def test_no_questions_no_answers(encoded: tuple[Engine, EncodedVideo]) -> None:
    engine, video = encoded
    assert engine.ask_many(video, []) == []


def test_an_encoded_video_can_no_longer_be_looked_at_otherwise(
    encoded: tuple[Engine, EncodedVideo],
) -> None:
    engine, video = encoded
    with pytest.raises(RequestError, match="encoded video"):
        engine.ask_many(video, ["What?"], AskOptions(fps=2.0))
