"""Which questions a benchmark asks: tasks, lengths, depths and seeds, and what the films are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from timeviper.core.errors import ConfigError, RequestError
from timeviper.core.seeding import stream
from timeviper.synth.asking import Asking, Question
from timeviper.synth.footage import installed_footage
from timeviper.synth.questions import ask
from timeviper.synth.reel import LONGEST, PLACED, SHORTEST, Reel, sample_reel
from timeviper.synth.render import Film
from timeviper.synth.tasks import Task

# Worlds of the benchmark: no recipe trains on this seed.
SEED = 20_260_001
DRAWN, FOOTAGE = "drawn", "footage"
# Answers that are lists or texts, and how many times as long they may be.
_LENGTHS: MappingProxyType[Task, int] = MappingProxyType(
    {Task.DENSE_CAPTION: 6, Task.SUMMARY: 2, Task.WHAT: 2, Task.MULTI_VALUE: 2}
)
# Places of depth that a number of a cell is multiplied by, so that a reel stays the same reel
# whatever else the grid holds.
_PLACES = 101


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One film of a grid.

    Args:
        task: what is asked first about it.
        frames: its length in seconds, of which a model sees one frame each.
        depth: where the appearance lies that is asked about, 0 for the start, 1 for the end.
        number: counts the films of one task, length and depth.
    """

    task: Task
    frames: int
    depth: float
    number: int

    @property
    def index(self) -> int:
        """Which reel of the seed: another one at each depth, for tasks without a moment too."""
        return self.number * _PLACES + round(self.depth * 100)

    @property
    def name(self) -> str:
        """Short and unique in a grid: `retrieval-1024-d050-3`."""
        return f"{self.task.value}-{self.frames}-d{round(self.depth * 100):03d}-{self.number}"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One question about a film.

    Args:
        name: unique in a grid.
        question: with its exact answer.
        depth: where its moment lies, 0 to 1; None where it has none.
    """

    name: str
    question: Question
    depth: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class Item:
    """A film and everything that is asked about it, the reel's own question first."""

    cell: Cell
    reel: Reel
    asked: tuple[Asked, ...]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A benchmark as a value: the same grid is the same films and questions everywhere.

    Args:
        tasks: what is asked.
        frames: lengths in seconds, which are frames at one a second.
        depths: where the appearance asked about lies, 0 to 1.
        seeds: films of each task, length and depth.
        seed: of the worlds; another seed is another benchmark of the same kind.
        also: further questions about each film, of the grid's other tasks; they cost no film.
        film: frame rate, size and quality.
        haystack: `drawn`, or `footage` for real clips behind the drawings: those installed, or
            those of a folder with `footage:FOLDER`.
        paraphrase: ask in any wording; otherwise in the plainest of each task.
        max_tokens: most tokens of an answer; lists may be twice, captions six times as long.

    Raises:
        ConfigError: a grid without cells, or with a length or depth that cannot be.
    """

    tasks: tuple[Task, ...]
    frames: tuple[int, ...] = (64, 256)
    depths: tuple[float, ...] = (0.0, 0.5, 1.0)
    seeds: int = 1
    seed: int = SEED
    also: int = 0
    film: Film = field(default_factory=lambda: Film(fps=1))
    haystack: str = DRAWN
    paraphrase: bool = False
    max_tokens: int = 64

    def __post_init__(self) -> None:
        """Refuse what no film can be."""
        checks = (
            (bool(self.tasks and self.frames and self.depths), "at least one of each", "none"),
            (self.seeds >= 1, "seeds of at least 1", self.seeds),
            (self.also >= 0, "0 or more further questions", self.also),
            (self.max_tokens >= 1, "max_tokens of at least 1", self.max_tokens),
            (
                all(SHORTEST <= n <= LONGEST for n in self.frames),
                f"frames from {SHORTEST} to {LONGEST}",
                _listed(self.frames),
            ),
            (
                all(0 <= d <= 1 for d in self.depths),
                "depths from 0 (start) to 1 (end)",
                _listed(self.depths),
            ),
            (
                all(_once(each) for each in (self.tasks, self.frames, self.depths)),
                "each task, length and depth once",
                "one of them twice",
            ),
            (
                self.haystack == DRAWN or self.haystack.partition(":")[0] == FOOTAGE,
                "a haystack `drawn`, `footage` or `footage:FOLDER`",
                repr(self.haystack),
            ),
        )
        for good, want, got in checks:
            if not good:
                raise ConfigError(want=want, got=got, do="correct the grid")

    def cells(self) -> list[Cell]:
        """Every film, short ones first, tasks in turns."""
        return [
            Cell(task=task, frames=frames, depth=depth, number=number)
            for frames in sorted(self.frames)
            for number in range(self.seeds)
            for depth in self.depths
            for task in self.tasks
        ]

    def longest(self, task: Task) -> int:
        """Most tokens of an answer to a task."""
        return self.max_tokens * _LENGTHS.get(task, 1)

    def clips(self) -> tuple[Path, ...]:
        """Files of the footage in the order of their names; none for a drawn haystack.

        Raises:
            RequestError: a folder without clips, or none installed.
        """
        if self.haystack == DRAWN:
            return ()
        _, _, folder = self.haystack.partition(":")
        return installed_footage(Path(folder).expanduser() if folder else None)

    def item(self, cell: Cell, *, clips: int = 0) -> Item:
        """Film and questions of a cell.

        Args:
            cell: of this grid.
            clips: footage clips that haystacks are taken from; 0 draws them.

        Raises:
            RequestError: a length that cannot carry the task.
        """
        reel = sample_reel(
            cell.task,
            frames=cell.frames,
            seed=self.seed,
            index=cell.index,
            depth=cell.depth,
            haystack=cell.index % clips if clips else -1,
            paraphrase=self.paraphrase,
        )
        own = Asked(name=cell.name, question=reel.question, depth=reel.depth)
        return Item(cell=cell, reel=reel, asked=(own, *self._further(cell, reel)))

    def _further(self, cell: Cell, reel: Reel) -> Iterator[Asked]:
        at = self.tasks.index(cell.task)
        others = self.tasks[at + 1 :] + self.tasks[:at]
        # Another start at each film, so that all tasks get their share.
        turn = cell.index % max(1, len(others))
        # Without doubt, as the reel's own question is put.
        how = Asking(paraphrase=self.paraphrase, missing=0.0, clear=True)
        found = 0
        for task in (*others[turn:], *others[:turn]):
            if found == self.also:
                return
            rng = stream(self.seed, "further", cell.name, task.value)
            question = ask(reel.worlds.world(0), task, rng, how)
            if question is not None:
                found += 1
                name = f"{cell.name}+{task.value}"
                yield Asked(name=name, question=question, depth=_depth(question, cell.frames))


def parse_tasks(words: Sequence[str]) -> tuple[Task, ...]:
    """Tasks by name; `all` for every one.

    Raises:
        RequestError: a word that names none.
    """
    known = {task.value: task for task in Task}
    unknown = [word for word in words if word not in known and word != "all"]
    if unknown or not words:
        raise RequestError(
            want=f"tasks among {', '.join(known)}, or all",
            got=", ".join(unknown) or "none",
            do="name tasks of these, separated by commas",
        )
    return tuple(Task) if "all" in words else tuple(known[word] for word in words)


def _depth(question: Question, frames: int) -> float | None:
    """Where a question's moment begins, as a share of the places where it could."""
    if question.task not in PLACED:
        return None
    if question.start_seconds is None or question.end_seconds is None:
        return None
    room = frames - (question.end_seconds - question.start_seconds)
    return min(1.0, question.start_seconds / room) if room > 0 else 0.0


def _once(values: Sequence[object]) -> bool:
    return len(set(values)) == len(values)


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
