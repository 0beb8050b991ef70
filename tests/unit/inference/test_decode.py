"""The token loop: how answers end, what is given out when, and scores that are no numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.toy_engine import byte_tokenizer, toy_config, toy_model
from timeviper.core.errors import CancelledError, TimeviperError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.inference.decode import AnswerWriter, Ending, EndRule, decode
from timeviper.inference.opened import OpenAnswer
from timeviper.inference.sampling import TokenPolicy
from timeviper.inference.steps import check_finite
from timeviper.inference.watch import CancelToken, Progress, Stage, Watch
from timeviper.model.decoder import last_of_each
from timeviper.model.state import AttentionMemory, MambaMemory
from timeviper.model.tokens import Tokens

TOKENIZER = byte_tokenizer()
END = TOKENIZER.special_id("<|end|>")


def _writer(*stop: str, most: int = 100) -> AnswerWriter:
    rule = EndRule(stop_ids=(END,), stop=stop, max_new_tokens=most)
    return AnswerWriter(TOKENIZER, rule, TokenPolicy())


def _push(writer: AnswerWriter, text: str) -> list[str]:
    pieces = []
    for token in TOKENIZER.encode(text):
        pieces.append(writer.push(token))
        if writer.ending is not None:
            break
    return pieces


def test_a_stop_token_ends_an_answer_and_is_not_part_of_it():
    writer = _writer()
    assert _push(writer, "a cat.") == list("a cat.")
    assert writer.push(END) == ""
    assert (writer.text, writer.ending, len(writer.token_ids)) == ("a cat.", Ending.STOP, 7)


def test_a_character_of_several_bytes_comes_whole():
    assert _push(_writer(), "é→🚀") == ["", "é", "", "", "→", "", "", "", "🚀"]


def test_bytes_that_never_become_a_character_are_shown_as_such_at_the_end():
    writer = _writer()
    writer.push(TOKENIZER.encode("→")[0])
    assert writer.push(END) == "\ufffd"
    assert writer.text == "\ufffd"


def test_a_stop_text_is_held_back_until_it_is_certain():
    writer = _writer("end.", "xyz")
    assert _push(writer, "an e") == ["a", "n", " ", ""]
    assert _push(writer, "nx") == ["", "en"]
    assert _push(writer, " the end. and more") == ["x ", "t", "h", "", "e ", *[""] * 4]
    assert (writer.text, writer.ending) == ("an enx the ", Ending.STOP)


def test_text_that_only_began_like_a_stop_text_is_given_at_the_end():
    writer = _writer("end.")
    _push(writer, "the en")
    assert writer.push(END) == "en"
    assert (writer.text, writer.ending) == ("the en", Ending.STOP)


def test_the_first_of_several_stop_texts_cuts():
    writer = _writer("cd", "bcd")
    _push(writer, "abcd")
    assert writer.text == "a"


def test_the_most_tokens_end_an_answer():
    writer = _writer(most=3)
    assert "".join(_push(writer, "abcdef")) == "abc"
    assert (writer.text, writer.ending) == ("abc", Ending.LENGTH)
    writer = _writer("cd", most=3)
    assert "".join(_push(writer, "abcdef")) == "abc"
    assert writer.ending is Ending.LENGTH


MODEL = toy_model(toy_config("transv"))


@torch.inference_mode()
def _opened(seed: int = 0) -> OpenAnswer:
    layout = TokenLayout.of((SpanKind.VISION, 6), (SpanKind.INSTRUCTION, 3))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(layout.total, 24, generator=generator, dtype=torch.float64)
    out, state = MODEL.decoder.run(Tokens.of(x, layout))
    return OpenAnswer(logits=MODEL.decoder.logits(last_of_each(out)), state=state)


def test_each_token_is_reported_and_the_longest_row_sets_the_total():
    heard: list[Progress] = []
    writers = [_writer(most=2), _writer(most=5)]
    pieces = list(
        decode(MODEL, [_opened(1), _opened(2)], writers, watch=Watch(progress=heard.append))
    )
    assert [p.done for p in heard] == list(range(1, len(heard) + 1))
    assert {(p.stage, p.total) for p in heard} == {(Stage.ANSWER, 5)}
    assert len(writers[0].token_ids) <= 2
    for row, writer in enumerate(writers):
        assert "".join(piece for number, piece in pieces if number == row) == writer.text


def test_cancelling_stops_before_the_next_token():
    cancel, writer = CancelToken(), _writer()
    asked = 0

    def stop_at_three() -> bool:
        nonlocal asked
        asked += 1
        if asked == 3:
            cancel.cancel()
        return cancel()

    with pytest.raises(CancelledError, match="a request to stop"):
        list(decode(MODEL, [_opened()], [writer], watch=Watch(cancel=stop_at_three)))
    assert len(writer.token_ids) <= 2


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_scores_that_are_no_numbers_are_an_error_and_never_text(value):
    opened = _opened()
    logits = opened.logits.clone()
    logits[0, 5] = value
    writer = _writer()
    with pytest.raises(TimeviperError, match="no layer's memory"):
        list(decode(MODEL, [replace(opened, logits=logits)], [writer]))
    assert writer.token_ids == []


def test_the_error_names_the_first_layer_that_went_wrong():
    opened = _opened()
    memories = list(opened.state.memories)
    attention = memories[4]
    assert isinstance(attention, AttentionMemory)
    with torch.inference_mode():
        attention.k[0, 0, 0, 0] = float("nan")
    bad = torch.full_like(opened.logits, float("nan"))
    with pytest.raises(TimeviperError, match="layer 4"):
        check_finite(bad, opened.state)
    mamba = memories[3]
    assert isinstance(mamba, MambaMemory)
    with torch.inference_mode():
        mamba.ssm[0, 0, 0, 0] = float("inf")
    with pytest.raises(TimeviperError, match="layer 3"):
        check_finite(bad, opened.state)


def test_what_lies_beyond_a_rows_length_is_no_alarm():
    opened = _opened()
    attention = opened.state.memories[2]
    assert isinstance(attention, AttentionMemory)
    check_finite(opened.logits, opened.state)
    with torch.inference_mode():
        attention.k[:, attention.lengths[0] :] = float("nan")
    bad = torch.full_like(opened.logits, float("nan"))
    with pytest.raises(TimeviperError, match="no layer's memory"):
        check_finite(bad, opened.state)
