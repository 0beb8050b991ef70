"""Record real runs of the program as the picture of the README.

Command: python recipes/record_terminal.py · any CPU · about a minute · writes docs/images/demo.svg
and docs/images/storyboard.png from what `timeviper demo` and `timeviper ask` really printed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.text import Text

COLUMNS = 84
IMAGES = Path(__file__).resolve().parents[1] / "docs" / "images"


def run(words: list[str], folder: Path) -> str:
    """What the program prints on a coloured terminal, without its progress bars."""
    done = subprocess.run(
        [sys.executable, "-m", "timeviper", *words],
        cwd=folder,
        env=os.environ | {"FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)},
        stdout=subprocess.PIPE,
        # Progress bars move; a picture does not.
        stderr=subprocess.DEVNULL,
        text=True,
        check=True,
    )
    return done.stdout


def record(seed: int, model: str) -> None:
    """Run the demo and one more question, and draw both as one terminal."""
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: SIM115
    chosen = [] if model == "tiny" else ["--model", model]
    lines = [
        ["demo", *([] if seed == 2 else ["--seed", str(seed)]), *chosen],
        ["ask", "demo/video.mp4", "When does the striped black cross appear?", *chosen],
    ]
    with tempfile.TemporaryDirectory() as folder:
        for words in lines:
            spoken = " ".join(f'"{word}"' if " " in word else word for word in words)
            console.print(Text.assemble(("$ ", "bold green"), (f"timeviper {spoken}", "bold")))
            console.print(Text.from_ansi(run(words, Path(folder))))
        IMAGES.mkdir(parents=True, exist_ok=True)
        shutil.copy(Path(folder) / "demo" / "storyboard.png", IMAGES / "storyboard.png")
    with Image.open(IMAGES / "storyboard.png") as picture:
        picture.save(IMAGES / "storyboard.png", optimize=True)
    console.save_svg(str(IMAGES / "demo.svg"), title="timeviper")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--model", default="tiny")
    chosen = parser.parse_args()
    record(chosen.seed, chosen.model)
