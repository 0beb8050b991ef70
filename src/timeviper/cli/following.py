"""Follow an engine's work on stderr: a bar for the frames that were read, gone when it is done."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from timeviper.cli.terminal import counting, print_note

if TYPE_CHECKING:
    from timeviper.inference.watch import Progress as Report
    from timeviper.inference.watch import Watch


@contextmanager
def following(words: str) -> Generator[Watch, None, None]:
    """A watch that draws a progress bar while the `with` block runs.

    Args:
        words: what is being done.

    Yields:
        What an engine's calls take as `watch`; without a bar where stderr is not a terminal.
    """
    from timeviper.inference.watch import Stage, Watch

    with counting() as bars:
        bar = bars.add_task(words, total=None)

        def show(report: Report) -> None:
            if report.stage is Stage.VIDEO:
                bars.update(bar, completed=report.done, total=report.total)

        yield Watch(progress=show, note=lambda words: print_note(words, bars.console))
