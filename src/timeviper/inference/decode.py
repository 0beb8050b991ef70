"""Write answers token by token, several at once, each as it would be written alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import final

from timeviper.inference.opened import OpenAnswer
from timeviper.inference.sampling import Chooser, TokenPolicy
from timeviper.inference.steps import Runners
from timeviper.inference.watch import SILENT, Stage, Watch
from timeviper.model.vlm import TimeViper
from timeviper.processing.tokenizer import Tokenizer


class Ending(StrEnum):
    """Why an answer ended."""

    # A token of the model that ends answers, or a text of the request.
    STOP = "stop"
    # The most tokens allowed.
    LENGTH = "length"


@dataclass(frozen=True, kw_only=True)
class EndRule:
    """When an answer ends.

    Args:
        stop_ids: tokens that end it; they are not part of its text.
        stop: texts that end it; they are not part of it either.
        max_new_tokens: most tokens.
    """

    stop_ids: tuple[int, ...]
    stop: tuple[str, ...] = ()
    max_new_tokens: int


@final
class AnswerWriter:
    """Collects the tokens of one answer and gives out its text as soon as it is certain.

    Args:
        tokenizer: of the model.
        rule: when the answer ends.
        policy: how its tokens are chosen.

    Law: the pieces given out, one after another, are `text`.
    """

    def __init__(self, tokenizer: Tokenizer, rule: EndRule, policy: TokenPolicy) -> None:
        self.chooser = Chooser(policy)
        self.token_ids: list[int] = []
        self.text = ""
        self.ending: Ending | None = None
        self._rule = rule
        self._stream = tokenizer.stream()
        # Text that might be the beginning of a stop text.
        self._held = ""

    @property
    def most(self) -> int:
        """Most tokens that this answer may have."""
        return self._rule.max_new_tokens

    def push(self, token_id: int) -> str:
        """Take the next token.

        Returns:
            Text that is now certain; often one word, sometimes nothing, never half a character.
        """
        self.token_ids.append(token_id)
        if token_id in self._rule.stop_ids:
            return self._finish(self._stream.flush(), Ending.STOP)
        piece = self._stream.feed(token_id)
        if len(self.token_ids) >= self._rule.max_new_tokens:
            return self._finish(piece + self._stream.flush(), Ending.LENGTH)
        return self._give(piece)

    def _finish(self, piece: str, ending: Ending) -> str:
        given = self._give(piece)
        if self.ending is None:
            self.ending = ending
            self.text += self._held
            given, self._held = given + self._held, ""
        return given

    def _give(self, piece: str) -> str:
        waiting = self._held + piece
        cuts = [at for at in (waiting.find(text) for text in self._rule.stop) if at >= 0]
        if cuts:
            self.ending = Ending.STOP
            given, self._held = waiting[: min(cuts)], ""
        else:
            held = _overlap(waiting, self._rule.stop)
            given, self._held = waiting[: len(waiting) - held], waiting[len(waiting) - held :]
        self.text += given
        return given


def decode(
    model: TimeViper,
    opened: Sequence[OpenAnswer],
    writers: Sequence[AnswerWriter],
    *,
    runners: Runners | None = None,
    watch: Watch = SILENT,
) -> Iterator[tuple[int, str]]:
    """Write answers together.

    Args:
        model: that read the prompts.
        opened: prompts read to their end, of one or several sequences each.
        writers: one a sequence; they hold the answers at the end.
        runners: keeps what the next answers can use again; None keeps nothing.
        watch: told and asked once a token.

    Yields:
        Number of the answer and the text that it gained.

    Raises:
        CancelledError: `watch` asked to stop.
        TimeviperError: the model's scores are not finite.

    Law: each answer equals itself written alone.
    """
    alive = list(range(len(writers)))
    total = max(writer.most for writer in writers)
    steps = (runners or Runners()).steps(model, opened, most=total)
    for step in range(total):
        watch.check("the answer")
        choosers = [writers[row].chooser for row in alive]
        tokens = steps.choose(choosers, last=step + 1 == total)
        for row, token in zip(alive, tokens, strict=True):
            piece = writers[row].push(token)
            if piece:
                yield row, piece
        watch.tell(Stage.ANSWER, step + 1, total)
        going = [place for place, row in enumerate(alive) if writers[row].ending is None]
        if not going:
            return
        if len(going) < len(alive):
            alive = [alive[place] for place in going]
            steps.keep(going)
        steps.advance([tokens[place] for place in going])


def _overlap(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that a stop text begins with."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for size in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0
