"""The processor as one value: its files, and the faults they can have."""

from __future__ import annotations

import json

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from timeviper.core.errors import CheckpointError, ConfigError, RequestError
from timeviper.processing.image import ImageConfig
from timeviper.processing.messages import VideoPart
from timeviper.processing.processor import Processor, ProcessorConfig
from timeviper.processing.prompt import TimePrompt
from timeviper.processing.tokenizer import Tokenizer

CONFIG = ProcessorConfig(
    template="tiny",
    tokens_per_frame=4,
    time_prompt=TimePrompt.INTERLEAVED,
    mark_every=2,
    fps=2.0,
    max_frames=100,
)


@pytest.fixture
def folder(tokenizer: Tokenizer, tmp_path):
    Processor(tokenizer, image=ImageConfig(size=12), config=CONFIG).save(tmp_path)
    return tmp_path


def edit(path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_saved_and_loaded_is_the_same(folder, tmp_path):
    made = Processor.load(folder)
    assert made.config == CONFIG
    assert made.image == ImageConfig(size=12)
    made.save(tmp_path / "again")
    for path in (tmp_path / "again").iterdir():
        assert path.read_bytes() == (folder / path.name).read_bytes()
    assert {path.name for path in (tmp_path / "again").iterdir()} == {
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "processor_config.json",
        "preprocessor_config.json",
        "chat_template.jinja",
    }


def test_marks_follow_the_config(folder):
    plan = Processor.load(folder).plan_question("When?", video=VideoPart(source="a.mp4"))
    clip = plan.clip_tokens(np.arange(4.0))
    assert len(clip) == 4 * 4 + 2 * 2


def test_pixels_are_prepared_with_the_image_config(folder):
    frames = np.zeros((2, 6, 8, 3), dtype=np.uint8)
    pixels = Processor.load(folder).pixels(frames)
    assert pixels.shape == (2, 3, 12, 12)
    assert (pixels == -1).all()


def test_hugging_face_reads_tokenizer_and_template(folder):
    theirs = PreTrainedTokenizerFast.from_pretrained(folder)
    made = Processor.load(folder)
    talk = [{"role": "user", "content": "When does the cat appear at 12:34?"}]
    plan = made.plan(talk)
    ids = theirs.apply_chat_template(talk, add_generation_prompt=True, return_dict=False)
    assert ids == [*plan.prefix.ids.tolist(), *plan.suffix().ids.tolist()]
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token) == ("<s>", "</s>", "<pad>")


@pytest.mark.parametrize(
    "name", ["processor_config.json", "preprocessor_config.json", "tokenizer.json"]
)
@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_a_missing_or_broken_file_is_named(folder, name, content):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        Processor.load(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": 3}, "unknown key 'frames'"),
        ({"template": "llama"}, "chat template"),
        # The tokenizer of `tiny` has no ChatML tokens.
        ({"template": "qwen2"}, r"<\|video_pad\|>"),
        ({"time_prompt": "never"}, "sentence, interleaved"),
        ({"mark_every": 0}, "above zero"),
        ({"tokens_per_frame": 0}, "above zero"),
        ({"max_frames": True}, "an integer"),
        ({"fps": 0}, "above zero"),
        ({"fps": "inf"}, "above zero"),
    ],
)
def test_a_wrong_setting_is_refused(folder, change, message):
    edit(folder / "processor_config.json", **change)
    with pytest.raises(ConfigError, match=message):
        Processor.load(folder)


def test_an_empty_question_is_refused(folder):
    made = Processor.load(folder)
    for question in ("", "  \n"):
        with pytest.raises(RequestError, match="a question"):
            made.plan_question(question, video=None)
