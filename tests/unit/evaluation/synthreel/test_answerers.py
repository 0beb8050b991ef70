"""Our engine as an answerer: views, batches, and what it tells about itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.toy_engine import noise, toy_engine, write_video
from timeviper.evaluation.synthreel.answerers import (
    Control,
    EngineAnswerer,
    Transfer,
    View,
    fingerprint,
    view_of,
)
from timeviper.inference.engine import AskOptions, Engine
from timeviper.synth.asking import Question
from timeviper.synth.tasks import Task

PROMPTS = ("What?", "When does the cat appear?", "How many times?")


@pytest.fixture(scope="module")
def engine() -> Engine:
    return toy_engine()


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds at two frames a second, of which a model sees one each."""
    return write_video(tmp_path_factory.mktemp("film") / "noise.mp4", noise(24), fps=2)


def test_answers_are_those_of_the_engine_at_one_frame_a_second(
    engine: Engine, film: Path, tmp_path: Path
) -> None:
    answerer = EngineAnswerer(engine, tmp_path)
    replies = answerer.answers(View(path=film), PROMPTS, max_tokens=8)
    options = AskOptions(fps=1.0, max_new_tokens=8)
    assert [reply.text for reply in replies] == [
        engine.ask(film, prompt, options).text for prompt in PROMPTS
    ]
    assert {reply.looked for reply in replies} == {12}
    assert all(reply.seconds > 0 for reply in replies)


def test_the_size_of_a_batch_changes_no_answer(engine: Engine, film: Path, tmp_path: Path) -> None:
    view = View(path=film)
    texts = [
        [
            r.text
            for r in EngineAnswerer(engine, tmp_path, batch=n).answers(view, PROMPTS, max_tokens=8)
        ]
        for n in (1, 2, 16)
    ]
    assert texts[0] == texts[1] == texts[2]


def test_a_part_of_a_film_is_looked_at_alone(engine: Engine, film: Path, tmp_path: Path) -> None:
    answerer = EngineAnswerer(engine, tmp_path)
    part = answerer.answers(View(path=film, start=2.0, end=7.0), PROMPTS, max_tokens=8)
    assert {reply.looked for reply in part} == {5}
    # Beyond the end there is nothing to look at, and that is no error.
    late = answerer.answers(View(path=film, start=9.0, end=99.0), PROMPTS[:1], max_tokens=8)
    assert late[0].looked == 3


def test_the_blind_answer_without_a_film(engine: Engine, tmp_path: Path) -> None:
    replies = EngineAnswerer(engine, tmp_path).answers(View(path=None), PROMPTS, max_tokens=8)
    assert {reply.looked for reply in replies} == {0}
    talk = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    wanted = engine.generate(talk, AskOptions(max_new_tokens=8))
    assert [reply.text for reply in replies] == [answer.text for answer in wanted]


def test_identity_follows_the_weights(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"\0" * (3 << 20))
    (tmp_path / "README.md").write_text("words do not count")
    answerer = EngineAnswerer(engine, tmp_path)
    first = answerer.identity()
    assert first == {
        "kind": "engine",
        "model": tmp_path.name,
        "fingerprint": fingerprint(tmp_path),
        "transfer": "shipped",
    }
    (tmp_path / "README.md").write_text("other words")
    assert answerer.identity() == first
    prints = {first["fingerprint"]}
    for place in (0, (3 << 20) - 1):
        data = bytearray(3 << 20)
        data[place] = 1
        weights.write_bytes(data)
        prints.add(fingerprint(tmp_path))
    assert len(prints) == 3


def test_transfers_can_be_switched_off(engine: Engine, film: Path, tmp_path: Path) -> None:
    texts = {}
    for transfer in Transfer:
        answerer = EngineAnswerer(engine, tmp_path, transfer=transfer)
        replies = answerer.answers(View(path=film), PROMPTS, max_tokens=16)
        texts[transfer] = [reply.text for reply in replies]
        assert answerer.identity()["transfer"] == transfer.value
    assert texts[Transfer.SHIPPED] != texts[Transfer.OFF]
    assert texts[Transfer.SHIPPED] != texts[Transfer.DROP]
    plain = EngineAnswerer(toy_engine("drop-only"), tmp_path)
    replies = plain.answers(View(path=film), PROMPTS, max_tokens=16)
    assert texts[Transfer.DROP] == [reply.text for reply in replies]


def question(start: float | None, end: float | None) -> Question:
    return Question(task=Task.WHEN, question="?", answer=".", start_seconds=start, end_seconds=end)


def test_what_each_control_shows(tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    asked = question(10.0, 16.0)
    assert view_of(Control.NONE, film, asked) == View(path=film)
    assert view_of(Control.BLIND, film, asked) == View(path=None)
    assert view_of(Control.ORACLE, film, asked) == View(path=film, start=6.0, end=20.0)
    assert view_of(Control.ORACLE, film, question(1.0, 3.0)) == View(path=film, start=0.0, end=7.0)
    assert view_of(Control.ORACLE, film, question(None, None)) is None
