"""Run a benchmark: films, questions, one JSON line an answer; goes on wherever it was ended."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from timeviper.core.errors import RequestError
from timeviper.evaluation.synthreel.answerers import Answerer, Control, Reply, View, view_of
from timeviper.evaluation.synthreel.films import (
    FilmJob,
    file_digest,
    film_key,
    make_folder,
    rendered,
    sweep,
)
from timeviper.evaluation.synthreel.grid import Asked, Cell, Grid, Item
from timeviper.evaluation.synthreel.manifest import Subject, claim
from timeviper.evaluation.synthreel.rows import Form, Row, append_rows, mend, read_rows
from timeviper.synth.choices import as_choices, chosen, rotated
from timeviper.synth.score import Score, score


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several disjoint parts of a grid.

    Args:
        number: from 1.
        of: how many parts there are.

    Raises:
        RequestError: a number that is none of them.
    """

    number: int = 1
    of: int = 1

    def __post_init__(self) -> None:
        """Refuse parts that are not there."""
        if not 1 <= self.number <= self.of:
            raise RequestError(
                want="a shard from 1/N to N/N",
                got=f"{self.number}/{self.of}",
                do="number the parts from 1",
            )

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/4`.

        Raises:
            RequestError: anything else.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal()):
            raise RequestError(
                want="a shard as I/N, such as 2/4", got=repr(text), do="correct --shard"
            )
        return cls(number=int(number), of=int(of))

    @property
    def answers(self) -> str:
        """Name of the file of its answers."""
        return f"answers-{self.number}-of-{self.of}.jsonl"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to run and where.

    Args:
        grid: the benchmark.
        out: folder of answers, manifest and report.
        films: folder of films; several benchmarks may share one.
        control: what is shown.
        shard: the part that this process asks.
        workers: processes that render ahead; 0 renders when a film is wanted.
        keep_films: whether a film stays when its questions are answered.
    """

    grid: Grid
    out: Path
    films: Path
    control: Control = Control.NONE
    shard: Shard = Shard()
    workers: int = 0
    keep_films: bool = True

    def cells(self) -> list[Cell]:
        """Films of this shard."""
        return self.grid.cells()[self.shard.number - 1 :: self.shard.of]


@dataclass(frozen=True, kw_only=True)
class Step:
    """A film that is done: how many of how many, its name, answers and right ones so far."""

    done: int
    total: int
    name: str
    answers: int
    right: int


Tell = Callable[[Step], None]


@dataclass(frozen=True, kw_only=True)
class _Prompt:
    asked: Asked
    form: Form
    rotation: int
    words: str
    view: View

    @property
    def key(self) -> tuple[str, str, int]:
        return (self.asked.name, self.form.value, self.rotation)


def run(plan: Plan, answerer: Answerer, tell: Tell) -> None:
    """Ask everything of a shard that was not asked before; each film's answers are kept at once.

    Args:
        plan: what to run.
        answerer: who answers.
        tell: hears of every film.

    Raises:
        RequestError: a folder of another benchmark or one that cannot be written, or a length that
            cannot carry a task.

    Law: ended at any moment and run again, the answers are those of one whole run.
    """
    make_folder(plan.out)
    subject = Subject(
        grid=plan.grid,
        answerer=answerer.identity(),
        control=plan.control.value,
        clips=tuple(file_digest(clip) for clip in plan.grid.clips()),
    )
    claim(plan.out, subject)
    answers = plan.out / plan.shard.answers
    mend(answers)
    before = {row.key: row.right for row in read_rows(answer_files(plan.out))}
    cells = plan.cells()
    counted, right, done = 0, 0, 0
    with closing(_shown(plan, cells, set(before))) as shown:
        for item, prompts in shown:
            rows = _asked(plan.grid, item, prompts, answerer)
            append_rows(answers, rows)
            done += 1
            counted, right = counted + len(rows), right + sum(row.right for row in rows)
            tell(
                Step(done=done, total=len(cells), name=item.cell.name, answers=counted, right=right)
            )


def render_films(plan: Plan, tell: Tell) -> int:
    """Render the films of a shard and ask nothing.

    Args:
        plan: what to render, by how many workers.
        tell: hears of every film.

    Returns:
        Frames of all films that were not there before.
    """
    make_folder(plan.films)
    sweep(plan.films)
    clips = plan.grid.clips()
    cells = plan.cells()
    new = 0

    def jobs() -> Iterator[FilmJob]:
        nonlocal new
        for cell in cells:
            job = _job(plan, plan.grid.item(cell, clips=len(clips)), clips)
            new += 0 if job.path.exists() else job.worlds.num_frames * job.film.fps
            yield job

    with closing(rendered(jobs(), workers=plan.workers)) as paths:
        for done, (cell, _) in enumerate(zip(cells, paths, strict=True), 1):
            tell(Step(done=done, total=len(cells), name=cell.name, answers=0, right=0))
    return new


def answer_files(out: Path) -> list[Path]:
    """Files of answers in a folder, of all its shards."""
    return sorted(out.glob("answers-*.jsonl"))


def _shown(
    plan: Plan, cells: Sequence[Cell], answered: set[tuple[str, str, int]]
) -> Generator[tuple[Item, list[_Prompt]], None, None]:
    """Films with the prompts that are not answered yet, each when its film is there."""
    clips = plan.grid.clips()
    waiting: deque[tuple[Item, list[_Prompt], Path]] = deque()

    def jobs() -> Iterator[FilmJob]:
        for cell in cells:
            item = plan.grid.item(cell, clips=len(clips))
            job = _job(plan, item, clips)
            prompts = [p for p in _prompts(item, plan.control, job.path) if p.key not in answered]
            waiting.append((item, prompts, job.path))
            if prompts and plan.control is not Control.BLIND:
                yield job

    if plan.control is Control.BLIND:
        # Nothing is shown, so nothing is rendered.
        deque(jobs(), maxlen=0)
        yield from ((item, prompts) for item, prompts, _ in waiting)
        return
    make_folder(plan.films)
    sweep(plan.films)
    with closing(rendered(jobs(), workers=plan.workers)) as films:
        for path in films:
            while waiting:
                item, prompts, own = waiting.popleft()
                yield item, prompts
                if own == path and prompts:
                    break
            if not plan.keep_films:
                path.unlink(missing_ok=True)
    yield from ((item, prompts) for item, prompts, _ in waiting)


def _job(plan: Plan, item: Item, clips: tuple[Path, ...]) -> FilmJob:
    worlds, film = item.reel.worlds, plan.grid.film
    path = plan.films / f"{film_key(worlds, film, clips)}.mp4"
    return FilmJob(worlds=worlds, path=path, film=film, clips=clips)


def _prompts(item: Item, control: Control, film: Path) -> Iterator[_Prompt]:
    for asked in item.asked:
        question = asked.question
        view = view_of(control, film, question)
        if view is None:
            continue
        yield _Prompt(asked=asked, form=Form.FREE, rotation=0, words=question.question, view=view)
        for turn in range(len(question.options)):
            words = as_choices(question, turn)
            yield _Prompt(asked=asked, form=Form.CHOICE, rotation=turn, words=words, view=view)


def _asked(grid: Grid, item: Item, prompts: Sequence[_Prompt], answerer: Answerer) -> list[Row]:
    rows: list[Row] = []
    # One view of a film is read once, whatever is asked about it.
    for view, group in groupby(prompts, key=lambda prompt: prompt.view):
        together = list(group)
        most = max(grid.longest(p.asked.question.task) for p in together)
        replies = answerer.answers(view, [p.words for p in together], max_tokens=most)
        rows += [_row(item, p, r) for p, r in zip(together, replies, strict=True)]
    return rows


def _row(item: Item, prompt: _Prompt, reply: Reply) -> Row:
    question = prompt.asked.question
    if prompt.form is Form.CHOICE:
        options = rotated(question, prompt.rotation)
        want = question.choice
        right = chosen(reply.text, options) == options.index(want)
        found = Score(right, float(right), {})
    else:
        want, found = question.answer, score(question, reply.text)
    return Row(
        name=prompt.asked.name,
        task=question.task.value,
        frames=item.cell.frames,
        depth=prompt.asked.depth,
        form=prompt.form,
        rotation=prompt.rotation,
        options=len(question.options),
        question=prompt.words,
        want=want,
        got=reply.text,
        right=found.right,
        value=round(found.value, 4),
        looked=reply.looked,
        seconds=round(reply.seconds, 4),
        precision=found.detail.get("precision"),
        recall=found.detail.get("recall"),
        order=found.detail.get("order"),
    )
