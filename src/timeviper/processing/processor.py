"""Everything between a user's messages and the model's inputs, as one value with its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, final

import torch
from jaxtyping import Float, UInt8
from numpy import ndarray, require
from torch import Tensor

from timeviper.core.config import from_dict, to_dict
from timeviper.core.errors import CheckpointError, ConfigError
from timeviper.processing.chat_template import ChatTemplate, chat_template, to_jinja
from timeviper.processing.clip_tokens import ClipWriter, PromptTokens
from timeviper.processing.conversation import Lesson, Shown, Writers, lay_out
from timeviper.processing.image import ImageConfig, prepare, prepare_frames, square_frames
from timeviper.processing.messages import (
    ImagePart,
    Message,
    TextPart,
    VideoPart,
    check_conversation,
    parse_messages,
)
from timeviper.processing.prompt import PromptPlan, TimePrompt, answer_tokens, plan_prompt
from timeviper.processing.tokenizer import Tokenizer

PROCESSOR_FILE = "processor_config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True, kw_only=True)
class ProcessorConfig:
    """How a model wants to be shown a video.

    Args:
        template: name of its chat template.
        tokens_per_frame: vision tokens of a frame.
        time_prompt: how it is told about time.
        mark_every: a mark before every so many frames, for `interleaved`.
        fps: frames a second unless the request says otherwise.
        max_frames: most frames unless the request says otherwise.
    """

    template: str
    tokens_per_frame: int
    time_prompt: TimePrompt = TimePrompt.SENTENCE
    mark_every: int = 1
    fps: float = 1.0
    max_frames: int = 10240

    def __post_init__(self) -> None:
        """Refuse counts and rates that mean nothing."""
        counts = (self.tokens_per_frame, self.mark_every, self.max_frames)
        if min(counts) < 1 or not 0 < self.fps < float("inf"):
            raise ConfigError(
                want="tokens_per_frame, mark_every, max_frames and fps above zero",
                got=f"{counts} and {self.fps}",
                do=f"correct {PROCESSOR_FILE}",
            )


@final
class Processor:
    """Tokenizer, chat template, image preparation and time prompt of one model.

    Args:
        tokenizer: of the model; it must hold the template's special tokens.
        image: of its vision tower.
        config: the rest.

    Raises:
        ConfigError: an unknown template, or one whose tokens the tokenizer lacks.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, image: ImageConfig, config: ProcessorConfig
    ) -> None:
        self.tokenizer = tokenizer
        self.image = image
        self.config = config
        self.template: ChatTemplate = chat_template(config.template)
        self.image_token_id = tokenizer.special_id(self.template.image_token)
        self.stop_ids = tuple(tokenizer.special_id(name) for name in self.template.stop)
        marks = config.mark_every if config.time_prompt is TimePrompt.INTERLEAVED else 0
        self._video_writer = self._writer(mark_every=marks)
        self._image_writer = self._writer(mark_every=0)

    @classmethod
    def load(cls, folder: Path | str) -> Processor:
        """Read a checkpoint folder's processor files.

        Raises:
            CheckpointError: a file is missing or not JSON.
            ConfigError: a file with an unknown key or a wrong value.
        """
        path = Path(folder)
        return cls(
            Tokenizer.load(path),
            image=ImageConfig.from_preprocessor(_read(path / PREPROCESSOR_FILE)),
            config=from_dict(ProcessorConfig, _read(path / PROCESSOR_FILE), where=PROCESSOR_FILE),
        )

    def save(self, folder: Path | str) -> None:
        """Write the files that `load` reads, and the chat template for other tools."""
        path = Path(folder)
        self.tokenizer.save(path)
        _write(path / PROCESSOR_FILE, to_dict(self.config))
        _write(path / PREPROCESSOR_FILE, self.image.to_preprocessor())
        (path / TEMPLATE_FILE).write_text(to_jinja(self.template), encoding="utf-8")

    def plan(self, messages: object, *, answer_prefix: str = "") -> PromptPlan:
        """Lay out messages; see `parse_messages` for their form.

        Raises:
            RequestError: messages that are not a conversation that can be answered.
        """
        return self.plan_turns(parse_messages(messages), answer_prefix=answer_prefix)

    def plan_question(
        self, question: str, *, video: VideoPart | None, system: str = "", answer_prefix: str = ""
    ) -> PromptPlan:
        """Lay out the usual order: system, video, question.

        Args:
            question: the user's words.
            video: the video asked about; None asks without one.
            system: replaces the template's own system text.
            answer_prefix: words the answer is made to start with.

        Raises:
            RequestError: an empty question.
        """
        shown = () if video is None else (video,)
        turns = [Message(role="user", parts=(*shown, TextPart(question)))]
        if system:
            turns.insert(0, Message(role="system", parts=(TextPart(system),)))
        return self.plan_turns(turns, answer_prefix=answer_prefix)

    def plan_turns(self, turns: Sequence[Message], *, answer_prefix: str = "") -> PromptPlan:
        """Lay out turns that are already typed.

        Raises:
            RequestError: turns that are not a conversation that can be answered.
        """
        check_conversation(turns)
        still = any(isinstance(part, ImagePart) for turn in turns for part in turn.parts)
        return plan_prompt(
            turns,
            tokenizer=self.tokenizer,
            template=self.template,
            writer=self._image_writer if still else self._video_writer,
            time_prompt=self.config.time_prompt,
            answer_prefix=answer_prefix,
        )

    def answer_tokens(self, answer: str) -> PromptTokens:
        """A known answer with the token that ends it, to train or to score on."""
        return answer_tokens(self.tokenizer, self.template, answer)

    def lesson(self, turns: Sequence[Message], shown: Sequence[Shown]) -> Lesson:
        """A conversation with its answers, to train on; see `lay_out`.

        Raises:
            RequestError: turns that teach nothing, or other media than were shown.
        """
        writers = Writers(
            tokenizer=self.tokenizer,
            video=self._video_writer,
            image=self._image_writer,
            tells_time=self.config.time_prompt is TimePrompt.SENTENCE,
        )
        return lay_out(turns, shown, template=self.template, writers=writers)

    def pixels(
        self, frames: UInt8[ndarray, "frame height width 3"]
    ) -> Float[Tensor, "frame 3 size size"]:
        """Decoded frames as the vision tower reads them."""
        return prepare_frames(frames, self.image)

    def squares(
        self, frames: UInt8[ndarray, "frame height width 3"]
    ) -> UInt8[Tensor, "frame size size 3"]:
        """Decoded frames at the tower's size, to be carried to it; see `pixels_there`."""
        return square_frames(torch.from_numpy(require(frames, requirements=["C", "W"])), self.image)

    def pixels_there(
        self, frames: UInt8[Tensor, "frame height width 3"]
    ) -> Float[Tensor, "frame 3 size size"]:
        """As `pixels`, for frames that were moved to the tower's device."""
        return prepare(frames, self.image)

    def _writer(self, *, mark_every: int) -> ClipWriter:
        return ClipWriter(
            self.tokenizer,
            image_id=self.image_token_id,
            tokens_per_frame=self.config.tokens_per_frame,
            mark_every=mark_every,
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        data: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            want=f"{path.name} in the checkpoint folder", got="no such file", do="restore it"
        ) from None
    except ValueError as error:
        raise CheckpointError(want=f"{path.name} to be JSON", got=error, do="restore it") from None
    if not isinstance(data, dict):
        raise CheckpointError(want=f"{path.name} to hold an object", got=data, do="restore it")
    return cast("dict[str, Any]", data)


def _write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n", encoding="utf-8")
