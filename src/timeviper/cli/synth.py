"""`timeviper synth make`: draw a video whose answers are known, with its questions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from timeviper.cli.terminal import print_json, results


def make(
    out: Annotated[Path, typer.Option(help="Folder to write; created when missing.")],
    task: Annotated[
        str,
        typer.Option(
            help="what, when, at, first, last, ordering, count, most_frequent, absent, retrieval, "
            "multi_key, multi_value, reading, chain, motion, change, dense_caption, summary; or "
            "mixed: as many of them as one video can carry."
        ),
    ] = "mixed",
    frames: Annotated[int, typer.Option(help="Length in frames, one a second.")] = 64,
    seed: Annotated[int, typer.Option(help="Same seed, same video.")] = 0,
    depth: Annotated[
        float | None,
        typer.Option(help="Where the moment asked about begins: 0 for the start, 1 for the end."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write `video.mp4` and `questions.jsonl` into a folder."""
    from timeviper.synth.make import make_example

    written = make_example(task, frames=frames, seed=seed, out=out, depth=depth)
    if as_json:
        print_json({"video": str(written.video), "questions": str(written.questions)})
    else:
        results().print(f"wrote {written.video} and {written.questions}", soft_wrap=True)
