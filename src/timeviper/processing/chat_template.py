"""Chat templates as data: what stands around a turn, and which tokens end an answer."""

from __future__ import annotations

from dataclasses import dataclass

from timeviper.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Special:
    """A special token, named as in the tokenizer; never parsed out of text."""

    name: str


Piece = tuple[str | Special, ...]


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """Everything a conversation needs besides its own words.

    Args:
        name: how checkpoints refer to it.
        opening: before the first turn.
        system_header: before the system text.
        system_footer: after the system text.
        default_system: system text when the conversation brings none; None means no system turn.
        user_header: before a user's words.
        assistant_header: before an answer; the prompt of an open answer ends here.
        turn_footer: after a user's words and after an answer.
        text_end: added to the words of a turn that has any.
        stop: tokens that end an answer.
        image_token: placeholder whose place a vision token takes.
    """

    name: str
    opening: Piece = ()
    system_header: Piece
    system_footer: Piece
    default_system: str | None
    user_header: Piece
    assistant_header: Piece
    turn_footer: Piece
    text_end: str = ""
    stop: tuple[str, ...]
    image_token: str


def _tiny() -> ChatTemplate:
    end = Special("<|end|>")
    return ChatTemplate(
        name="tiny",
        opening=(Special("<s>"),),
        system_header=(Special("<|system|>"),),
        system_footer=(end,),
        default_system=None,
        user_header=(Special("<|user|>"),),
        assistant_header=(Special("<|assistant|>"),),
        turn_footer=(end,),
        stop=("<|end|>", "</s>"),
        image_token="<image>",
    )


def _nano_base() -> ChatTemplate:
    """Template of the paper's model: Nemotron Nano v2 Base with an empty system turn."""
    end = Special("<SPECIAL_12>")
    return ChatTemplate(
        name="nano_base",
        system_header=(Special("<SPECIAL_10>"), "System\n"),
        system_footer=(end, "\n"),
        default_system="",
        user_header=(Special("<SPECIAL_11>"), "User\n"),
        assistant_header=(Special("<SPECIAL_11>"), "Assistant\n"),
        turn_footer=(end,),
        text_end="\n",
        stop=("<SPECIAL_12>", "</s>"),
        # The base vocabulary has no image token; this reserved id is never embedded.
        image_token="<SPECIAL_18>",
    )


def _qwen2() -> ChatTemplate:
    """ChatML as Qwen2 and Qwen2.5 use it."""
    start, end = Special("<|im_start|>"), Special("<|im_end|>")
    return ChatTemplate(
        name="qwen2",
        system_header=(start, "system\n"),
        system_footer=(end, "\n"),
        default_system="You are a helpful assistant.",
        user_header=(start, "user\n"),
        assistant_header=(start, "assistant\n"),
        turn_footer=(end, "\n"),
        stop=("<|im_end|>", "<|endoftext|>"),
        image_token="<|video_pad|>",
    )


_TEMPLATES = {template.name: template for template in (_tiny(), _nano_base(), _qwen2())}


def chat_template(name: str) -> ChatTemplate:
    """The template called `name`.

    Raises:
        ConfigError: there is no such template.
    """
    if name not in _TEMPLATES:
        raise ConfigError(
            want=f"a chat template of {', '.join(_TEMPLATES)}",
            got=repr(name),
            do="correct the name in processor_config.json",
        )
    return _TEMPLATES[name]


def to_jinja(template: ChatTemplate) -> str:
    """The template as the `chat_template.jinja` that Hugging Face tools read.

    A video or image shows as one placeholder; time marks and repeated placeholders are the
    processor's work.
    """
    words = "{{ part }}"
    media = "{{ " + _quote(template.image_token) + " }}"
    turn = (
        "{% if m.content is string %}{{ m.content }}{% else %}{% for part in m.content %}"
        "{% if part.type == 'text' %}" + words.replace("part", "part.text") + "{% else %}"
        + media + "{% endif %}{% endfor %}{% endif %}" + _emit((template.text_end,))
    )  # fmt: skip
    system = _emit(template.system_header), _emit(template.system_footer)
    default = ""
    if template.default_system is not None:
        told = template.default_system and template.default_system + template.text_end
        default = (
            "{% if messages[0].role != 'system' %}"
            + system[0] + _emit((told,)) + system[1]
            + "{% endif %}"
        )  # fmt: skip
    return (
        _emit(template.opening) + default
        + "{% for m in messages %}"
        + "{% if m.role == 'system' %}" + system[0] + turn + system[1]
        + "{% else %}{% if m.role == 'user' %}" + _emit(template.user_header)
        + "{% else %}" + _emit(template.assistant_header) + "{% endif %}"
        + turn + _emit(template.turn_footer) + "{% endif %}{% endfor %}"
        + "{% if add_generation_prompt %}" + _emit(template.assistant_header) + "{% endif %}\n"
    )  # fmt: skip


def _emit(piece: Piece) -> str:
    text = "".join(part.name if isinstance(part, Special) else part for part in piece)
    return "{{ " + _quote(text) + " }}" if text else ""


def _quote(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
