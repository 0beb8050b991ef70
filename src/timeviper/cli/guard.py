"""One place where errors become a message and an exit code; commands only raise."""

from __future__ import annotations

import sys
from typing import Any, final

import typer
from rich.text import Text
from typer.core import TyperGroup

from timeviper.cli.terminal import messages, print_error
from timeviper.core.errors import TimeviperError

EXIT_UNEXPECTED = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130

# Named one by one: usage errors of typer are exceptions as well, and it tells those itself.
_UNEXPECTED = (
    OSError,
    MemoryError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
)


@final
class GuardedGroup(TyperGroup):
    """A group of commands whose errors are told in one clear message, without a traceback."""

    def invoke(self, ctx: typer.Context) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Run a command; turn what it raises into words on stderr and an exit code.

        Args:
            ctx: the call as typer parsed it.

        Returns:
            What the command returned.

        Raises:
            Exit: 2 for bad input, 130 after Ctrl-C, 1 for a defect of ours.
        """
        try:
            return super().invoke(ctx)
        except TimeviperError as error:
            if ctx.params.get("debug"):
                raise
            print_error(error)
            raise typer.Exit(EXIT_BAD_INPUT) from None
        except KeyboardInterrupt:
            messages().print(Text("interrupted", style="yellow"))
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except _UNEXPECTED as error:
            # typer's own exits are RuntimeErrors too and already mean what they say.
            if ctx.params.get("debug") or isinstance(error, (typer.Exit, typer.Abort)):
                raise
            _tell_unexpected(error)
            raise typer.Exit(EXIT_UNEXPECTED) from None


def _tell_unexpected(error: Exception) -> None:
    kind = type(error).__name__
    words = " ".join(str(error).split()) or "no further words"
    text = Text("unexpected error", style="bold red")
    text.append(f"\n  {kind}: {words}", style="not bold default")
    command = "timeviper --debug " + " ".join(sys.argv[1:2]) + " …"
    text.append(
        f"\n  do        run `{command}` for the traceback and report it", "not bold default"
    )
    messages().print(text, soft_wrap=True)
