"""`timeviper demo`: draw a long video, read it once, ask three questions, show the moments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from timeviper.cli.ask import moment_of, printable
from timeviper.cli.following import following
from timeviper.cli.terminal import messages, print_json, results
from timeviper.cli.timeline import Moment, timeline
from timeviper.core.errors import MediaError
from timeviper.processing.timestamps import format_time

if TYPE_CHECKING:
    from timeviper.cli.storyboard import Card
    from timeviper.inference.engine import Answer, EncodedVideo, Engine
    from timeviper.synth.asking import Question
    from timeviper.video.base import VideoSource

STRIP_FRAMES, STRIP_SIZE = 12, (90, 160)


@dataclass(frozen=True, kw_only=True)
class Told:
    """A question of the demo, what the model said, and what is true."""

    asked: Question
    answer: Answer
    moment: Moment | None
    right: bool


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the video and the picture.")] = Path("demo"),
    frames: Annotated[int, typer.Option(help="Length of the video in seconds.")] = 900,
    seed: Annotated[int, typer.Option(help="Same seed, same video.")] = 2,
    model: Annotated[
        str, typer.Option(help="A model that ships, or a checkpoint folder.")
    ] = "tiny",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Draw a video, read it once, ask three questions and show where the answers lie."""
    from timeviper.inference.engine import Engine
    from timeviper.video.source import open_video

    engine = Engine.load(model, device=device)
    questions = draw(out, frames=frames, seed=seed)
    source = open_video(out / "video.mp4")
    with following(f"reading {format_time(frames)} of video") as watch:
        encoded = engine.encode(source, watch=watch)
    told = [tell(engine, encoded, question) for question in questions]
    picture(out / "storyboard.png", source, told)
    record = _record(out, encoded, told)
    if as_json:
        print_json(record)
    else:
        _show(record, told)


def draw(out: Path, *, frames: int, seed: int) -> Sequence[Question]:
    """Write `video.mp4` of a world with known answers.

    Args:
        out: folder, made when missing.
        frames: length in seconds.
        seed: of the world.

    Returns:
        At most three questions with their true answers; a short video may carry fewer.

    Raises:
        RequestError: a length that no world has, or a folder that cannot be written.
    """
    from timeviper.synth.make import sample_example
    from timeviper.synth.render import render_video
    from timeviper.synth.tasks import Task

    tasks = (Task.WHEN, Task.AT_TIME, Task.RETRIEVAL)
    example = sample_example(tasks, frames=frames, seed=seed)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MediaError(
            want=f"a folder to write to at {out}", got=error, do="choose another --out"
        ) from None
    with messages().status(f"drawing {format_time(frames)} of video"):
        render_video(example.worlds, out / "video.mp4")
    return example.questions


def tell(engine: Engine, encoded: EncodedVideo, asked: Question) -> Told:
    """Ask one question of an encoded video, and where its answer lies.

    Args:
        engine: that encoded the video.
        encoded: the video.
        asked: a question with its true answer.

    Returns:
        The answer beside the truth; the moment is the model's, never the truth's.
    """
    from timeviper.synth.score import score

    answer = engine.ask(encoded, asked.question)
    moment = moment_of(asked.question, answer)
    if moment is None and answer.text.startswith("the "):
        # An answer that only names a thing: the same memory of the video says when that was.
        following_up = f"When does {answer.text.rstrip('.')} appear?"
        moment = moment_of(following_up, engine.ask(encoded, following_up))
    is_right = score(asked, answer.text).right
    return Told(asked=asked, answer=answer, moment=moment, right=is_right)


def picture(path: Path, source: VideoSource, told: Sequence[Told]) -> None:
    """Write the storyboard of a video and its answers.

    Args:
        path: PNG file to write.
        source: the video.
        told: questions, answers and their moments.

    Raises:
        MediaError: a frame cannot be decoded, or the file cannot be written.
    """
    from timeviper.cli.storyboard import write_storyboard
    from timeviper.video.clips import iterate_clips

    duration = source.info.duration_seconds
    times = [duration * (n + 0.5) / STRIP_FRAMES for n in range(STRIP_FRAMES)]
    strip = next(iterate_clips(source, times, size=STRIP_SIZE, clip_frames=STRIP_FRAMES)).frames
    title = f"{path.parent.name}/video.mp4 · {format_time(duration)} · TimeViper"
    cards = [_card(source, one) for one in told]
    write_storyboard(path, title=title, duration_seconds=duration, strip=strip, cards=cards)


def _card(source: VideoSource, told: Told) -> Card:
    from timeviper.cli.storyboard import Card
    from timeviper.video.clips import iterate_clips

    moment = told.moment
    middle = 0.0 if moment is None else (moment.start_seconds + moment.end_seconds) / 2
    frame = next(iterate_clips(source, [middle], clip_frames=1)).frames[0]
    return Card(told.asked.question, printable(told.answer.text), moment, frame)


def _record(out: Path, encoded: EncodedVideo, told: Sequence[Told]) -> dict[str, Any]:
    return {
        "video": str(out / "video.mp4"),
        "storyboard": str(out / "storyboard.png"),
        "frames": encoded.frames,
        "duration_seconds": encoded.duration_seconds,
        "encoded_bytes": encoded.nbytes,
        "timing": encoded.timing.to_dict(),
        "questions": [
            one.answer.to_dict()
            | {"question": one.asked.question, "expected": one.asked.answer, "right": one.right}
            for one in told
        ],
        "notes": list(encoded.notes),
    }


def _show(record: dict[str, Any], told: Sequence[Told]) -> None:
    console = results()
    spent = sum(record["timing"].values())
    length = format_time(record["duration_seconds"])
    console.print(
        Text(f"Read {record['frames']:,} frames of {length} in {spent:.1f} s, once. Then asked:\n")
    )
    for one in told:
        seconds = sum(one.answer.timing.to_dict().values())
        words = Text(f"  {printable(one.answer.text)}", "bold")
        words.append(f"  {seconds:.2f} s  ", "not bold dim")
        truth = f"the truth is: {one.asked.answer}"
        words.append("right", "green") if one.right else words.append(truth, "red")
        console.print(Text(one.asked.question), words, "", sep="\n")
    moments = [one.moment for one in told if one.moment is not None]
    console.print(timeline(record["duration_seconds"], moments))
    console.print()
    console.print(Text(f"video       {record['video']}\nstoryboard  {record['storyboard']}"))
