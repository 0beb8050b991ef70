"""`timeviper synth make`: draw a video whose answers are known, with its questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from timeviper.cli.terminal import print_json, results


def make(
    out: Annotated[Path, typer.Option(help="Folder to write; created when missing.")],
    task: Annotated[
        str, typer.Option(help="what, when, at, first, count, absent or mixed.")
    ] = "mixed",
    frames: Annotated[int, typer.Option(help="Length in frames, one a second.")] = 64,
    seed: Annotated[int, typer.Option(help="Same seed, same video.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write `video.mp4` and `questions.jsonl` into a folder."""
    from timeviper.synth.make import make_example

    written = make_example(task, frames=frames, seed=seed, out=out)
    if as_json:
        print_json({"video": str(written.video), "questions": str(written.questions)})
    else:
        results().print(f"wrote {written.video} and {written.questions}", soft_wrap=True)
