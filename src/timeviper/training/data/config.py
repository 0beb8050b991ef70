"""A run's data as one JSON file: which data sets at what weight, how looked at, how packed."""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from timeviper.core.config import from_dict
from timeviper.core.errors import ConfigError
from timeviper.processing.processor import Processor
from timeviper.training.data.dataset import FileDataset, Samples
from timeviper.training.data.durations import Durations
from timeviper.training.data.mixture import Mixture
from timeviper.training.data.packed import PackedSource, PackingConfig
from timeviper.training.data.reading import ReadingConfig, SampleReader
from timeviper.training.data.reels import ReelConfig, ReelDataset
from timeviper.training.data.samples import DataError


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """One data set of a mixture: files, or reels drawn on the fly.

    Args:
        name: in cursors and reports.
        weight: how often it is drawn, relative to the others.
        files: paths, with `*` and `**` as in a shell; relative ones start from the config's folder.
        media_root: folder that paths of media start from; each file's own folder when not given.
        reels: instead of files.
    """

    name: str
    weight: float = 1.0
    files: tuple[str, ...] = ()
    media_root: str | None = None
    reels: ReelConfig | None = None

    def __post_init__(self) -> None:
        """Refuse files beside reels, and neither."""
        if bool(self.files) == (self.reels is not None):
            raise ConfigError(
                want=f"either files or reels in the data set {self.name}",
                got="both" if self.files else "neither",
                do="keep one of them",
            )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Everything that decides which batches a run sees, in which order.

    Args:
        datasets: that are mixed.
        reading: how samples are looked at.
        packing: how packs are filled and built.
        durations: file that `timeviper data check --durations` wrote, or None.
        seed: of all choices.
    """

    datasets: tuple[DatasetConfig, ...]
    reading: ReadingConfig
    packing: PackingConfig = field(default_factory=PackingConfig)
    durations: str | None = None
    seed: int = 0


def read_data_config(path: Path | str) -> DataConfig:
    """Read a data config.

    Raises:
        ConfigError: it is missing, not JSON, or has an unknown key or a wrong value.
    """
    try:
        data: object = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            want=f"{path} to be a JSON file", got=error, do="correct the path or the file"
        ) from None
    return from_dict(DataConfig, cast("dict[str, Any]", data), where=str(path))


def open_source(
    config: DataConfig, processor: Processor, *, folder: Path | str = "."
) -> PackedSource:
    """The batches of a run; samples are read when batches are asked for.

    Args:
        config: of the data.
        processor: of the model that learns.
        folder: that relative paths of the config start from.

    Raises:
        DataError: a file that is missing or of no known format, or a pattern without a file.
        ConfigError: two data sets of one name, or a weight that is not above zero.
    """
    home = Path(folder)
    known = None if config.durations is None else Durations.load(home / config.durations)
    mixture = Mixture(
        open_datasets(config, folder=home),
        weights=[one.weight for one in config.datasets],
        seed=config.seed,
    )
    reader = SampleReader(processor, config.reading, known)
    return PackedSource(mixture, reader, config.packing)


def open_datasets(config: DataConfig, *, folder: Path | str = ".") -> list[Samples]:
    """The data sets of a config, in its order; raises as `open_source`."""
    return [_open(one, Path(folder)) for one in config.datasets]


def _open(config: DatasetConfig, home: Path) -> Samples:
    if config.reels is not None:
        clips = tuple(str(home / path) for path in config.reels.footage)
        return ReelDataset(replace(config.reels, footage=clips), name=config.name)
    root = None if config.media_root is None else home / config.media_root
    files = [path for pattern in config.files for path in _matches(pattern, home)]
    return FileDataset(files, media_root=root, name=config.name)


def _matches(pattern: str, home: Path) -> list[str]:
    """Files of a pattern in the order of their names; a name without a star is taken as it is."""
    whole = str(home / pattern)
    if not any(sign in pattern for sign in "*?["):
        return [whole]
    # A file whose own name holds brackets is meant rather than a pattern.
    found = [whole] if Path(whole).exists() else sorted(glob.glob(whole, recursive=True))
    if not found:
        raise DataError(want=f"files that match {pattern}", got="none", do="correct the pattern")
    return found
