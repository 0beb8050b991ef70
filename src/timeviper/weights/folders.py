"""Folders that appear whole or not at all, and where the bundled models lie."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

from safetensors import SafetensorError

from timeviper.core.errors import CheckpointError
from timeviper.weights.shards import sync

CONFIG = "config.json"


@contextmanager
def whole_folder(
    folder: Path, *, replaced: Callable[[str], bool] = lambda name: True
) -> Generator[Path]:
    """Fill a temporary folder beside `folder`, which takes its place when the block ends well.

    Args:
        folder: the folder to make or to renew; its parent is made when missing.
        replaced: names in an existing folder that the new one does not take over.

    Yields:
        The temporary folder. When the block raises it vanishes and `folder` is as it was.

    Raises:
        CheckpointError: `folder` is a file, or the disk does not take what is written.

    Law: a process that is killed leaves `folder` as it was, or complete, or (between two renames,
    when it existed before) the old one complete under a hidden name beside it.
    """
    folder = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(want="a folder to write", got=f"the file {folder}", do="name another")
    draft: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        draft.chmod(0o755)
        _take_over(folder, draft, replaced)
        yield draft
        sync(draft)
        _swap(draft, folder)
        sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            want=f"room and permission to write {folder}",
            got=error,
            do="free some space or name another folder",
        ) from error
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def resolve(name_or_folder: str | Path) -> Path:
    """Folder of a model given by name or by path.

    Args:
        name_or_folder: name of a model that ships with the package, or a folder; a folder with
            such a name is meant by `./NAME`.

    Returns:
        The folder; it holds a config.json.

    Raises:
        CheckpointError: neither a known name nor a checkpoint folder, with the known names.
    """
    known = bundled()
    if str(name_or_folder) in known:
        return known[str(name_or_folder)]
    # os.path answers "no" where pathlib raises: names too long, users that do not exist.
    folder = Path(os.path.expanduser(name_or_folder))
    if os.path.isfile(folder / CONFIG):
        return folder
    there = os.path.isdir(folder)
    got = f"no {CONFIG} in {str(folder)!r}" if there else repr(str(name_or_folder))
    raise CheckpointError(
        want=f"a checkpoint folder or a model that ships ({', '.join(known) or 'none'})",
        got=got,
        do="name one of these or give the path of a folder with config.json and safetensors",
    )


def bundled() -> dict[str, Path]:
    """Folders of the models that ship with the package, by name, in alphabetical order."""
    home = Path(str(files("timeviper").joinpath("models")))
    if not home.is_dir():
        return {}
    return {p.name: p for p in sorted(home.iterdir()) if (p / CONFIG).is_file()}


def _take_over(old: Path, draft: Path, replaced: Callable[[str], bool]) -> None:
    if not old.is_dir():
        return
    for item in old.iterdir():
        if replaced(item.name):
            continue
        if item.is_dir():
            shutil.copytree(item, draft / item.name)
        else:
            shutil.copy2(item, draft / item.name)


def _swap(draft: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(draft, folder)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.old.", dir=folder.parent))
    os.rename(folder, aside / folder.name)
    try:
        os.rename(draft, folder)
    except OSError:
        os.rename(aside / folder.name, folder)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
