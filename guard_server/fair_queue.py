"""The queue in front of a model: bounded in tokens, fair between requests. No threads, no clock: the engine locks and says now.

In: `Request`s, each with the segments of one call. Out: `Ticket`s, one segment each, from the waiting requests in turn, so that a
text of a thousand windows delays a short one by one window, not by a thousand.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from guard_server.records import Encoded, Scores, Timing

_SAME_CALL: Final = 0.001
"""Seconds: deadlines so near to each other are one, read on two clocks."""


@dataclass(slots=True, eq=False)
class Request:
    """The segments of one call, and how far they have come; changed under the engine's lock alone."""

    segments: Sequence[Encoded]
    enqueued_at: float
    deadline: float
    """Both on the engine's clock, seconds."""
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[tuple[list[Scores], Timing]]
    results: list[Scores | None] = field(init=False)
    begun: int = 0
    """Segments handed out: the first of those that wait."""
    first_turn: int = 0
    """The queue's turn in which its first segment comes; one segment a turn."""
    running: int = 0
    left: int = field(init=False)
    """Segments without a score."""
    settled: bool = False
    """Answered, failed or given up: its scores are awaited no more."""
    queued: float = 0.0
    inference: float = 0.0
    _since: float = field(init=False)

    def __post_init__(self) -> None:
        """No segment has begun."""
        self.results = [None] * len(self.segments)
        self.left = len(self.segments)
        self._since = self.enqueued_at

    def start(self, now: float) -> int:
        """Begin the next segment and give its place."""
        if self.running == 0:
            self.queued += now - self._since
            self._since = now
        self.running += 1
        self.begun += 1
        return self.begun - 1

    def stop(self, now: float) -> None:
        """One of the running segments has ended."""
        self.running -= 1
        if self.running == 0:
            self.inference += now - self._since
            self._since = now

    def timing(self) -> Timing:
        """Time in which none of its segments ran, and in which at least one did: together, all of it."""
        return Timing(self.queued, self.inference)

    def waiting_tokens(self) -> int:
        """Tokens of the segments that have not begun."""
        return sum(len(s) for s in self.segments[self.begun :])


@dataclass(frozen=True, slots=True)
class Ticket:
    """One segment to score."""

    request: Request
    place: int

    @property
    def segment(self) -> Encoded:
        """What is scored."""
        return self.request.segments[self.place]


class FairQueue:
    """Waiting segments, handed out request by request in turn."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.tokens = 0
        self.segments = 0
        self._turns: OrderedDict[Request, None] = OrderedDict()
        """Whose turn it is, in order; never more than one turn apart."""
        self._arrived: OrderedDict[Request, None] = OrderedDict()
        self._in_turn: Counter[int] = Counter()
        """Tokens that wait for each turn, so that nothing need be added up over the queue while its lock is held."""

    def fits(self, tokens: int) -> bool:
        """Whether so many more tokens may wait."""
        return self.tokens + tokens <= self.max_tokens

    def tokens_before(self, request: Request) -> int:
        """Tokens that come before the request's last segment if no more arrive: of each other one, as many segments as it has.

        At most one segment of each is counted too many, where turns are half through. Only what was promised sooner counts: what
        has the same deadline is of the same call. Takes time by the request's segments, whatever waits.
        """
        if not self._turns:
            return 0
        now, last = _turn(next(iter(self._turns))), _turn(next(reversed(self._turns))) + len(request.segments) - 1
        tokens = sum(self._in_turn[turn] for turn in range(now, last + 1))
        # Deadlines are nearly always in the order of arrival: the newest are those of the same call.
        for other in reversed(self._arrived):
            if other.deadline < request.deadline - _SAME_CALL:
                break
            tokens -= sum(len(s) for s in other.segments[other.begun : last + 1 - other.first_turn])
        return tokens

    def push(self, request: Request) -> None:
        """Queue a request that fits, behind the others' turns."""
        request.first_turn = _turn(next(reversed(self._turns))) if self._turns else 0
        for turn, segment in enumerate(request.segments, request.first_turn):
            self._in_turn[turn] += len(segment)
        self._turns[request] = self._arrived[request] = None
        self.tokens += request.waiting_tokens()
        self.segments += len(request.segments)

    def take(self, now: float, expired: list[Request]) -> Ticket | None:
        """The next segment; requests past their deadline go to `expired` with what they still had waiting left in them."""
        while self._turns:
            request = next(iter(self._turns))
            if now >= request.deadline:
                self._forget(request)
                expired.append(request)
                continue
            self._left(_turn(request), request.segments[request.begun])
            place = request.start(now)
            if request.begun < len(request.segments):
                self._turns.move_to_end(request)
            else:
                del self._turns[request], self._arrived[request]
            return Ticket(request, place)
        return None

    def drop(self, request: Request) -> int:
        """Take out what has not begun of a request; gives the number of segments."""
        return self._forget(request) if request in self._turns else 0

    def not_begun(self) -> list[Request]:
        """The requests of which no segment has begun."""
        return [r for r in self._arrived if r.begun == 0]

    def oldest(self) -> float | None:
        """When the longest waiting request came, or None when none waits."""
        return next((r.enqueued_at for r in self._arrived), None)

    def _forget(self, request: Request) -> int:
        waiting = request.segments[request.begun :]
        for turn, segment in enumerate(waiting, _turn(request)):
            self._left(turn, segment)
        del self._turns[request], self._arrived[request]
        return len(waiting)

    def _left(self, turn: int, segment: Encoded) -> None:
        self.tokens -= len(segment)
        self.segments -= 1
        self._in_turn[turn] -= len(segment)
        if not self._in_turn[turn]:
            del self._in_turn[turn]


def _turn(request: Request) -> int:
    """The turn in which its next segment comes."""
    return request.first_turn + request.begun
