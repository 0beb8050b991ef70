"""The tokenizer: plain text stays plain, clocks are two tokens, files come back the same."""

from __future__ import annotations

import json
import re

import pytest
import tokenizers

from recipes.train_tokenizer import ROLES, SPECIALS, VOCAB_SIZE, build, single_share
from tests.unit.processing.conftest import NAMES, SMALL_VOCAB, sentences
from timeviper.core.errors import CheckpointError, ConfigError, RequestError
from timeviper.processing.tokenizer import SpecialRoles, Tokenizer
from timeviper.synth import catalogue, questions

THINGS = [thing.name for thing in catalogue.things()]


def pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.decode([number]) for number in tokenizer.encode(text)]


def test_every_clock_of_the_models_world_is_two_tokens(tokenizer):
    minutes = [f"{minute:02d}" for minute in range(256)]
    seconds = [f":{second:02d}" for second in range(60)]
    minute_ids = {m: tokenizer.encode(f"{m}:00")[0] for m in minutes}
    second_ids = {s: tokenizer.encode(f"00{s}")[1] for s in seconds}
    assert len({*minute_ids.values(), *second_ids.values()}) == 316
    for minute in minutes:
        for second in seconds:
            got = tokenizer.encode(minute + second)
            assert got == [minute_ids[minute], second_ids[second]]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("at 12:34?", ["at", " ", "12", ":34", "?"]),
        ("from 12:34 to 02:05.", ["from", " ", "12", ":34", " to", " ", "02", ":05", "."]),
        ("100:05, 255:59", ["100", ":05", ",", " ", "255", ":59"]),
        ("1:02:03", ["1", ":02", ":03"]),
        ("(07:08)", ["(", "07", ":08", ")"]),
    ],
)
def test_clocks_inside_sentences_are_the_same_two_tokens(tokenizer, text, want):
    assert pieces(tokenizer, text) == want


@pytest.mark.parametrize("text", ["12:345", "12:7", "00:75", "3:5:7", "2412", "0:0"])
def test_what_is_no_clock_is_still_read_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_each_word_of_a_name_is_one_token_after_a_space(tokenizer):
    assert single_share(tokenizer, NAMES, before="the ") >= 0.85  # "t-shirt" is three
    assert pieces(tokenizer, "the fire engine and") == ["the", " fire", " engine", " and"]
    cat = tokenizer.encode("the cat")[-1]
    for sentence in ("a cat.", "Does the cat appear?", "a pizza and a cat?"):
        assert tokenizer.encode(sentence).count(cat) == 1


def test_a_word_is_the_same_tokens_wherever_a_sentence_starts(tokenizer):
    alone = tokenizer.encode("cat")
    for before in ("", "(", "\n", "12:34"):
        assert tokenizer.encode(before + "cat")[-len(alone) :] == alone


def test_special_names_typed_by_a_user_are_spelled_out(tokenizer):
    special = {tokenizer.special_id(name) for name in SPECIALS}
    for name in SPECIALS:
        for text in (name, f"a {name} b", name * 3, f"<{name}>"):
            assert special.isdisjoint(tokenizer.encode(text))
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_specials_have_the_lowest_ids_and_decode_to_nothing(tokenizer):
    assert [tokenizer.special_id(name) for name in SPECIALS] == list(range(len(SPECIALS)))
    assert tokenizer.special_names == SPECIALS
    ids = [tokenizer.special_id("<s>"), *tokenizer.encode("yes."), tokenizer.special_id("<|end|>")]
    assert tokenizer.decode(ids) == "yes."
    assert tokenizer.decode(ids, keep_specials=True) == "<s>yes.<|end|>"


def test_an_unknown_special_name_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="<video>"):
        tokenizer.special_id("<video>")
    with pytest.raises(ConfigError, match="eos"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()), roles=SpecialRoles(eos="</s>"))


def test_a_lone_surrogate_is_refused_with_its_place(tokenizer):
    with pytest.raises(RequestError, match="character 2"):
        tokenizer.encode("ab\ud800")


def test_a_vocabulary_that_spells_out_a_special_token_is_refused_at_use():
    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"<": 0, ">": 1, "<>": 2}, [("<", ">")]))
    backend.add_special_tokens(["<>"])
    with pytest.raises(RequestError, match="plain text"):
        Tokenizer(backend).encode("<>")


def test_the_stream_never_shows_half_a_character(tokenizer):
    text = "héllo 日本 🦊!"
    stream = tokenizer.stream()
    shown = [stream.feed(number) for number in tokenizer.encode(text)]
    assert "".join(shown) == text
    assert "\ufffd" not in "".join(shown)
    assert stream.flush() == ""


def test_an_answer_cut_inside_a_character_is_flushed(tokenizer):
    ids = tokenizer.encode("a🦊")[:-1]
    stream = tokenizer.stream()
    shown = "".join(stream.feed(number) for number in ids)
    assert shown == "a"
    assert shown + stream.flush() == tokenizer.decode(ids)


def test_saved_and_loaded_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "folder")
    again = Tokenizer.load(tmp_path / "folder")
    assert again.roles == ROLES
    assert again.vocab_size == tokenizer.vocab_size == SMALL_VOCAB
    text = "When does the cat appear? 12:34 🦊"
    assert again.encode(text) == tokenizer.encode(text)
    again.save(tmp_path / "second")
    for file in (tmp_path / "folder").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()


def test_the_files_say_what_hugging_face_tools_look_for(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"], config["pad_token"]) == (
        "<s>",
        "</s>",
        "<pad>",
    )
    others = json.loads((tmp_path / "special_tokens_map.json").read_text())
    assert others["additional_special_tokens"] == list(SPECIALS[3:])


def test_old_files_with_token_objects_are_read(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"eos_token": {"content": "<|end|>"}, "bos_token": None}))
    assert Tokenizer.load(tmp_path).roles == SpecialRoles(eos="<|end|>")
    path.unlink()
    assert Tokenizer.load(tmp_path).roles == SpecialRoles()


@pytest.mark.parametrize("content", [None, "", "{}", '{"model": 3}', "no json"])
def test_a_missing_or_broken_file_is_a_checkpoint_error(tmp_path, content):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_a_broken_config_file_is_a_checkpoint_error(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        Tokenizer.load(tmp_path)


def test_training_twice_writes_the_same_bytes(tokenizer, tmp_path):
    build(sentences(), NAMES, vocab_size=SMALL_VOCAB).save(tmp_path / "a")
    tokenizer.save(tmp_path / "b")
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_too_few_texts_for_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="4096 wanted"):
        build(sentences(), NAMES, vocab_size=4096)


def test_more_words_than_the_vocabulary_holds_are_refused():
    with pytest.raises(ValueError, match="560 wanted"):
        build(sentences(), NAMES, vocab_size=560)


def test_every_word_of_the_texts_is_whole_also_in_lower_case(tokenizer):
    for text in sentences():
        for form in (text, text.lower()):
            for word in form.rstrip("?.").replace(",", "").split()[1:]:
                if word.isalpha():
                    assert len(tokenizer.encode(" " + word)) == 1
            assert len(tokenizer.encode(form.split()[0])) == 1


@pytest.fixture(scope="module")
def shipped() -> Tokenizer:
    """What the recipe makes of the drawn worlds' own texts."""
    return build(questions.texts(), THINGS)


def test_the_recipe_reaches_what_it_promises(shipped):
    assert shipped.vocab_size == VOCAB_SIZE
    # A number is a space and figures, so that it is the same figures in a time.
    names = [name for name in THINGS if not name.startswith("number ")]
    for before in ("the ", ""):
        assert single_share(shipped, names, before=before) >= 0.95
    for text in questions.texts():
        # One token: a word, a sign, the space before a number or a bracket. A time is two.
        words = len(re.findall(r"[A-Za-z]+", text))
        signs = len(re.findall(r"[^A-Za-z0-9\s]", re.sub(r"(?<=\d):(?=\d)", "", text)))
        times = len(re.findall(r"\d+:\d\d", text))
        numbers = len(re.findall(r"\d+", text)) - 2 * times
        most = words + signs + text.count(" (") + 2 * numbers + 3 * times
        assert len(shipped.encode(text)) <= most, text


def test_numbers_and_times_share_their_figures(shipped):
    (space, seven) = shipped.encode("the number 42")[-2:]
    assert shipped.encode(" 42:10")[:2] == [space, seven]
    for number in (0, 9, 10, 99):
        assert len(shipped.encode(f"the number {number}.")) == 5


def test_every_thing_can_be_read_back(shipped):
    for name in THINGS:
        for text in (f"the {name}.", name, f"({name})"):
            assert shipped.decode(shipped.encode(text)) == text
