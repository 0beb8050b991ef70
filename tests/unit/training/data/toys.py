"""Small data sets of every format, around two videos and two pictures."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.toy_engine import noise, toy_processor, write_video
from timeviper.training.data.dataset import FileDataset
from timeviper.training.data.mixture import Mixture
from timeviper.training.data.reading import ReadingConfig, SampleReader
from timeviper.training.data.samples import Origin, Reason, Sample, SampleError

BUDGET = 160


def write_media(folder: Path) -> Path:
    """`a.mp4` of 6 s, `b.mp4` of 9 s, `c.png` and `d.jpg`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_video(folder / "a.mp4", noise(6, side=32, seed=1))
    write_video(folder / "b.mp4", noise(9, side=32, seed=2))
    Image.fromarray(noise(1, side=24, seed=3)[0]).save(folder / "c.png")
    Image.fromarray(noise(1, side=40, seed=4)[0]).save(folder / "d.jpg")
    return folder


def llava(*talk: str, **fields: Any) -> dict[str, Any]:
    """A record with questions and answers in turns."""
    who = ("human", "gpt")
    turns = [{"from": who[n % 2], "value": words} for n, words in enumerate(talk)]
    return {"conversations": turns, **fields}


def chat(*talk: Any, **fields: Any) -> dict[str, Any]:
    """A record with messages in turns."""
    who = ("user", "assistant")
    turns = [{"role": who[n % 2], "content": words} for n, words in enumerate(talk)]
    return {"messages": turns, **fields}


def varied(count: int = 12) -> list[dict[str, Any]]:
    """Good records of every kind: text, picture, several pictures, video, video and picture."""
    kinds = (
        lambda n: llava(f"What is {n}?", f"a number, {n}.", id=n),
        lambda n: llava("<image>\nWhat?", f"a picture {n}.", image="c.png"),
        lambda n: llava("<image><image>Same?", f"no {n}.", image=["c.png", "d.jpg"]),
        lambda n: chat("<video>\nWhen?", f"at 00:0{n % 6}.", "And?", "gone.", videos=["a.mp4"]),
        lambda n: chat("<image> in <video>?", "yes.", images=["d.jpg"], videos=["b.mp4"]),
    )
    return [kinds[n % len(kinds)](n) for n in range(count)]


def write_lines(path: Path, records: Sequence[Any]) -> Path:
    """JSON lines; a text stands as it is."""
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_array(path: Path, records: Sequence[Any]) -> Path:
    """A JSON array over several lines."""
    path.write_text(json.dumps(list(records), indent=1), encoding="utf-8")
    return path


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """An uncompressed tar."""
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def reader(budget: int = BUDGET, **config: Any) -> SampleReader:
    return SampleReader(toy_processor(), ReadingConfig(budget=budget, **config))


def mixture(media: Path, *sizes: int, seed: int = 0) -> Mixture:
    """Data sets of good records of those sizes."""
    sets: list[FileDataset] = []
    for number, size in enumerate(sizes):
        path = media / f"set{number}_{size}.jsonl"
        if not path.exists():
            write_lines(path, varied(size))
        sets.append(FileDataset([path]))
    return Mixture(sets, weights=[1.0 + n for n in range(len(sizes))], seed=seed)


def everything(dataset: FileDataset) -> list[Sample | SampleError]:
    """Each sample, or what is wrong with it."""
    found: list[Sample | SampleError] = []
    for part in range(dataset.parts):
        for item in range(dataset.length(part)):
            try:
                found.append(dataset.read(part, item))
            except SampleError as error:
                found.append(error)
    return found


class Numbers:
    """A data set without files: sample n of a part says its place."""

    def __init__(self, name: str, lengths: Sequence[int]) -> None:
        self.name, self.lengths = name, tuple(lengths)

    @property
    def parts(self) -> int:
        return len(self.lengths)

    @property
    def identity(self) -> str:
        return str(self.lengths)

    def length(self, part: int) -> int:
        return self.lengths[part]

    def read(self, part: int, item: int) -> Sample:
        origin = Origin(f"{self.name}/{part}", item)
        raise SampleError(Reason.MALFORMED, origin, want="a file", got="none", do="nothing")


def times(count: int) -> np.ndarray:
    return np.arange(float(count))
