"""Choose the next token from scores: greedy, or drawn with temperature, top-p and a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from timeviper.core.errors import RequestError
from timeviper.core.seeding import torch_stream


@dataclass(frozen=True, kw_only=True)
class TokenPolicy:
    """How tokens are chosen.

    Args:
        temperature: divides the scores; 0 takes the best token always.
        top_p: draws only among the likeliest tokens that together hold this probability.
        seed: of the draws; the same seed gives the same answer.

    Raises:
        RequestError: a value without sense.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values without sense."""
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise RequestError(
                want="a temperature of 0 or more", got=self.temperature, do="use 0 for greedy"
            )
        if not 0 < self.top_p <= 1:
            raise RequestError(
                want="top_p above 0 and at most 1", got=self.top_p, do="use 1 to allow every token"
            )


def greedy(logits: Float[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
    """The best token of each row; of equal scores the lowest id."""
    return logits.argmax(dim=-1)


def probabilities(
    logits: Float[Tensor, " vocab"], *, temperature: float, top_p: float = 1.0
) -> Float[Tensor, " vocab"]:
    """Chances of each token.

    Args:
        logits: scores of one row.
        temperature: above 0.
        top_p: the smallest set of likeliest tokens that holds at least this probability stays;
            never empty.

    Returns:
        float64 probabilities that sum to 1.

    Source: Holtzman et al. 2020 (nucleus sampling).
    """
    chances = (logits.double() / temperature).softmax(dim=-1)
    if top_p >= 1:
        return chances
    ordered, places = chances.sort(descending=True, stable=True)
    # A token stays when those before it do not hold enough yet: the first one always stays.
    ordered = ordered.masked_fill(ordered.cumsum(0) - ordered >= top_p, 0.0)
    kept = torch.zeros_like(chances).index_copy(0, places, ordered)
    return kept / kept.sum()


def draw(chances: Float[Tensor, " vocab"], generator: torch.Generator) -> int:
    """One token with the given chances; tokens of chance 0 never come."""
    reached = chances.cumsum(0)
    point = torch.rand((), dtype=torch.float64, generator=generator) * reached[-1]
    index = int(torch.searchsorted(reached, point, right=True))
    last = int(chances.nonzero()[-1])
    return min(index, last)


@final
class Chooser:
    """Chooses the tokens of one answer with random numbers of its own.

    Law: an answer does not depend on which others are written beside it.
    """

    def __init__(self, policy: TokenPolicy) -> None:
        self._policy = policy
        self._generator = torch_stream(policy.seed, "answer")

    @property
    def is_greedy(self) -> bool:
        """Whether the best token is always taken."""
        return self._policy.temperature == 0

    def rewind(self, tokens: int) -> None:
        """Go back to where so many tokens had been chosen: a later choice did not come about."""
        self._generator = torch_stream(self._policy.seed, "answer")
        for _ in range(0 if self.is_greedy else tokens):
            torch.rand((), dtype=torch.float64, generator=self._generator)

    def draw(self, logits: Float[Tensor, " vocab"]) -> int:
        """Draw the next token; advances this chooser's random numbers."""
        chances = probabilities(
            logits.cpu(), temperature=self._policy.temperature, top_p=self._policy.top_p
        )
        return draw(chances, self._generator)


def choose(logits: Float[Tensor, "row vocab"], choosers: Sequence[Chooser]) -> list[int]:
    """The next token of each row, chosen by its own chooser."""
    best: list[int] = greedy(logits).tolist()
    return [
        token if chooser.is_greedy else chooser.draw(row)
        for token, row, chooser in zip(best, logits, choosers, strict=True)
    ]
