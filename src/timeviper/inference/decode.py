"""Write answers token by token, several at once, each as it would be written alone."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import final

from timeviper.inference.opened import OpenAnswer
from timeviper.inference.sampling import Chooser, TokenPolicy
from timeviper.inference.steps import Runners, Steps, UsualSteps, alone
from timeviper.inference.survival import out_of_memory, ran_out, release
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
        # Sentences for the user about how it was written.
        self.notes: tuple[str, ...] = ()
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
    """Write answers together; when memory runs out, the rest of each alone.

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
        CapacityError: an answer does not fit alone either; what was asked stays as it was.
        TimeviperError: the model's scores are not finite.

    Law: each answer equals itself written alone, wherever memory ran out.
    """
    keeper = runners or Runners()
    total = max(writer.most for writer in writers)

    def together() -> Steps:
        return keeper.steps(model, opened, most=total)

    # Outside of `except`: there, the error would keep alive what the failed attempt held.
    if (yield from _survived(together, dict(enumerate(writers)), watch)):
        return
    keeper.clear()
    device = model.decoder.embed_tokens.weight.device
    left = {row: one for row, one in enumerate(writers) if one.ending is None}
    for row, writer in left.items():
        release(device)
        writer.notes += (_said(len(left), len(writer.token_ids)),)
        steps = partial(_alone, model, opened, row, writer)
        if not (yield from _survived(steps, {row: writer}, watch)):
            release(device)
            raise out_of_memory(
                device,
                f"the answer after {len(writer.token_ids)} tokens, written alone",
                "allow fewer tokens (max_new_tokens) or choose fewer frames; the video is kept",
            )


def _said(answers: int, tokens: int) -> str:
    how = "without buffers kept for speed" if answers == 1 else f"each of {answers} answers alone"
    return (
        f"memory ran out after {tokens} tokens of the answer: from there on it was written "
        f"{how}, which is slower and gives the same"
    )


def _alone(model: TimeViper, opened: Sequence[OpenAnswer], row: int, writer: AnswerWriter) -> Steps:
    """Steps of one answer from where it stopped, with nothing kept beside them."""
    return UsualSteps(model, [alone(opened, row)], taken=writer.token_ids)


def _survived(
    begin: Callable[[], Steps], writers: Mapping[int, AnswerWriter], watch: Watch
) -> Generator[tuple[int, str], None, bool]:
    """Write answers together to their ends; returns False when memory ran out."""
    try:
        yield from _written(begin(), writers, watch)
    except RuntimeError as error:
        if not ran_out(error):
            raise
        for writer in writers.values():
            writer.chooser.rewind(len(writer.token_ids))
        return False
    return True


def _written(
    steps: Steps, writers: Mapping[int, AnswerWriter], watch: Watch
) -> Iterator[tuple[int, str]]:
    alive = list(writers)
    total = max(writer.most for writer in writers.values())
    first = min(len(writer.token_ids) for writer in writers.values())
    for step in range(first, total):
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
