"""How much a run may spend: generations and tokens in its folder, minutes of this command; how much is left, and what is spent.

In: the limits, a clock, and every answer as it is stored. Out: `room` for the next asks, and the limit that was hit, by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gate.records import NoResponse, Response

Clock = Callable[[], float]
"""Seconds, from any origin; never runs backwards."""


def stopped_clock() -> float:
    """The clock of a run that no time limit ends."""
    return 0.0


@dataclass
class Allowance:
    """The limits of one command; null: none. Time runs from its making. No part of a run's identity: verdicts rest on answers."""

    max_generations: int | None = None
    """Answers in the folder, both sides, failures and answers shared by two cells included."""
    max_minutes: float | None = None
    """Of this command, loading included."""
    max_tokens: int | None = None
    """Of the prompts and answers in the folder, both sides. What is in flight when it is spent is not counted before."""
    clock: Clock = stopped_clock
    generations: int = 0
    tokens: int = 0
    _begun: float = field(init=False)

    def __post_init__(self) -> None:
        self._begun = self.clock()

    def count(self, answers: Iterable[Response | NoResponse]) -> None:
        """Take in what was stored."""
        for answer in answers:
            self.generations += 1
            if isinstance(answer, Response):
                self.tokens += answer.prompt_tokens + answer.completion_tokens

    def count_stored(self, number: int, answers: Callable[[], Iterable[Response | NoResponse]]) -> None:
        """Take in what a log holds already; its answers are read only where their tokens matter."""
        if self.max_tokens is None:
            self.generations += number
        else:
            self.count(answers())

    def room(self, in_flight: int) -> float:
        """Asks that may still be made beside those in flight; infinite without a limit."""
        return math.inf if self.max_generations is None else max(0, self.max_generations - self.generations - in_flight)

    def spent(self) -> str:
        """The limit that is hit, as the option that set it; empty while there is none."""
        if self.max_generations is not None and self.generations >= self.max_generations:
            return f"--max-generations {self.max_generations}"
        if self.max_tokens is not None and self.tokens >= self.max_tokens:
            return f"--max-tokens {self.max_tokens}"
        if self.max_minutes is not None and self.clock() - self._begun >= 60 * self.max_minutes:
            return f"--max-minutes {self.max_minutes:g}"
        return ""
