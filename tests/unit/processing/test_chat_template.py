"""Chat templates: the exact text around turns, and the same from the jinja file."""

from __future__ import annotations

import pytest
import tokenizers
from jinja2.sandbox import ImmutableSandboxedEnvironment

from timeviper.core.errors import ConfigError
from timeviper.processing.chat_template import ChatTemplate, Special, chat_template, to_jinja
from timeviper.processing.image import ImageConfig
from timeviper.processing.processor import Processor, ProcessorConfig
from timeviper.processing.tokenizer import Tokenizer

NAMES = ("tiny", "nano_base", "qwen2")
SYSTEM = {"role": "system", "content": "Be brief."}
TALK = [
    {"role": "user", "content": "What's 'up'?"},
    {"role": "assistant", "content": "a \\cat."},
    {"role": "user", "content": "When?\nTell {{ me }}."},
]


def specials(template: ChatTemplate) -> list[str]:
    pieces = (
        template.opening,
        template.system_header,
        template.system_footer,
        template.user_header,
        template.assistant_header,
        template.turn_footer,
    )
    named = [part.name for piece in pieces for part in piece if isinstance(part, Special)]
    return sorted({*named, *template.stop, template.image_token})


def processor_of(template: ChatTemplate) -> Processor:
    """A processor whose vocabulary is bytes and the template's special tokens."""
    letters = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    backend = tokenizers.Tokenizer(
        tokenizers.models.BPE({letter: i for i, letter in enumerate(letters)}, [])
    )
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.add_special_tokens(specials(template))
    config = ProcessorConfig(template=template.name, tokens_per_frame=2)
    return Processor(Tokenizer(backend), image=ImageConfig(size=8), config=config)


def rendered(name: str, messages: list[dict[str, str]], *, answer_prefix: str = "") -> str:
    made = processor_of(chat_template(name))
    plan = made.plan(messages, answer_prefix=answer_prefix)
    ids = [*plan.prefix.ids.tolist(), *plan.suffix().ids.tolist()]
    return made.tokenizer.decode(ids, keep_specials=True)


def test_tiny_has_no_system_turn_unless_asked():
    assert rendered("tiny", TALK[:1]) == "<s><|user|>What's 'up'?<|end|><|assistant|>"
    assert rendered("tiny", [SYSTEM, *TALK]) == (
        "<s><|system|>Be brief.<|end|><|user|>What's 'up'?<|end|><|assistant|>a \\cat.<|end|>"
        "<|user|>When?\nTell {{ me }}.<|end|><|assistant|>"
    )


def test_nano_base_is_the_papers_template():
    assert rendered("nano_base", TALK) == (
        "<SPECIAL_10>System\n<SPECIAL_12>\n"
        "<SPECIAL_11>User\nWhat's 'up'?\n<SPECIAL_12>"
        "<SPECIAL_11>Assistant\na \\cat.\n<SPECIAL_12>"
        "<SPECIAL_11>User\nWhen?\nTell {{ me }}.\n<SPECIAL_12>"
        "<SPECIAL_11>Assistant\n"
    )


def test_qwen2_is_chatml_with_its_default_system_text():
    assert rendered("qwen2", TALK[:1]) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat's 'up'?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert "system\nBe brief.<|im_end|>" in rendered("qwen2", [SYSTEM, *TALK])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("messages", [TALK[:1], TALK, [SYSTEM, *TALK]])
def test_the_jinja_file_says_the_same(name, messages):
    # As Hugging Face tools render it.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    jinja = environment.from_string(to_jinja(chat_template(name)))
    parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
    for form in (messages, parts):
        got = jinja.render(messages=form, add_generation_prompt=True)
        assert got == rendered(name, messages)


@pytest.mark.parametrize("name", NAMES)
def test_the_jinja_file_shows_a_video_as_one_placeholder(name):
    template = chat_template(name)
    jinja = ImmutableSandboxedEnvironment().from_string(to_jinja(template))
    content = [{"type": "video", "video": "a.mp4"}, {"type": "text", "text": "When?"}]
    got = jinja.render(messages=[{"role": "user", "content": content}])
    assert f"{template.image_token}When?" in got
    assert got.count(template.image_token) == 1


@pytest.mark.parametrize("name", NAMES)
def test_answers_end_with_a_stop_token(name):
    made = processor_of(chat_template(name))
    ids = made.answer_tokens("yes.").ids.tolist()
    assert ids[-1] in made.stop_ids
    assert made.tokenizer.decode(ids).strip() == "yes."


def test_the_answer_can_be_made_to_start_with_words():
    assert rendered("nano_base", TALK[:1], answer_prefix="Best answer: (").endswith(
        "<SPECIAL_11>Assistant\nBest answer: ("
    )


def test_an_unknown_template_is_refused_with_the_names():
    with pytest.raises(ConfigError, match="tiny, nano_base, qwen2"):
        chat_template("llama")
