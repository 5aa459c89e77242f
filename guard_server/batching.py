"""The engines that score segments off the event loop: `SessionPool` (one unpadded text at a time), `MicroBatcher` (GPU, fp32).

    score() on the event loop -> FairQueue -> worker threads, one per model given -> one call back per finished request

A request that does not fit the queue is refused at once; one whose caller has gone or whose deadline has passed leaves the queue
unscored. Time in the queue is kept apart from time in the model.
"""

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from guard_server.errors import (
    LESS_OR_MORE,
    DeadlineExceededError,
    GuardError,
    InferenceFailedError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
)
from guard_server.fair_queue import FairQueue, Request, Ticket
from guard_server.records import Encoded, Scores, Timing

DropReason = Literal["cancelled", "deadline", "failed", "closing"]
_FORGOTTEN: Final = 0.03
"""Share of what is known of the pace that each run of the model replaces: it stands on the last thirty runs or so."""
_AHEAD: Final = 0.25
"""Share of a request's time that the work before it may take. All requests advance in turn, so that later ones delay it
too: at a steady load it takes about twice that. Without this bound a full queue scores a part of each and nearly none in time.
"""
_LOGGER: Final = logging.getLogger(__name__)
_SHORTEST_RETRY, _LONGEST_RETRY, _UNKNOWN_RETRY = 0.1, 60.0, 1.0


class Model(Protocol):
    """What a worker thread runs; `classifier.OnnxModel` is one. Both may raise `InferenceFailedError`."""

    def score_one(self, encoded: Encoded) -> Scores:
        """Scores of one segment, unpadded."""

    def score_padded(self, batch: Sequence[Encoded]) -> list[Scores]:
        """Scores of one padded batch, in its order."""


class QueueObserver(Protocol):
    """Told what happens in the queue of a bundle (`model` is its name); called from several threads, must not block.

    What it raises is logged once and ends no thread.
    """

    def on_queue(self, model: str, segments: int, tokens: int) -> None:
        """So many wait now."""

    def on_dropped(self, model: str, segments: int, reason: DropReason) -> None:
        """Segments left the queue unscored."""

    def on_scored(self, model: str, segments: int, tokens: int, queued: float, inference: float) -> None:
        """One run of the model has ended: seconds that its longest waiting segment waited, and seconds that it ran."""


class Unobserved:
    """A `QueueObserver` that keeps nothing."""

    def on_queue(self, model: str, segments: int, tokens: int) -> None:
        """Nothing."""

    def on_dropped(self, model: str, segments: int, reason: DropReason) -> None:
        """Nothing."""

    def on_scored(self, model: str, segments: int, tokens: int, queued: float, inference: float) -> None:
        """Nothing."""


class _Harmless:
    """An observer whose failures change nothing for those who wait: the first is logged."""

    def __init__(self, observer: QueueObserver) -> None:
        self._observer = observer
        self._failed = False

    def on_queue(self, model: str, segments: int, tokens: int) -> None:
        self._tell(lambda: self._observer.on_queue(model, segments, tokens))

    def on_dropped(self, model: str, segments: int, reason: DropReason) -> None:
        self._tell(lambda: self._observer.on_dropped(model, segments, reason))

    def on_scored(self, model: str, segments: int, tokens: int, queued: float, inference: float) -> None:
        self._tell(lambda: self._observer.on_scored(model, segments, tokens, queued, inference))

    def _tell(self, what: Callable[[], None]) -> None:
        try:
            what()
        except Exception:
            if not self._failed:
                self._failed = True
                _LOGGER.exception("an observer of the queue failed; what it is told from now on may be missing")


@dataclass(frozen=True, slots=True)
class BatchRule:
    """When a batch is run and how it is cut."""

    tokens: int
    """Budget of a padded batch: its segments times its longest."""
    wait_seconds: float
    """How long the first segment waits for company."""

    def wait_for(self, tokens: int, oldest: float | None, now: float) -> float | None:
        """Seconds to wait for more: 0 to run now, None where nothing waits."""
        if oldest is None:
            return None
        return 0.0 if tokens >= self.tokens else max(0.0, oldest + self.wait_seconds - now)

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        """Places in batches of like length, each within the budget when padded; a longer segment is alone."""
        batches: list[list[int]] = []
        # From the longest on: each batch's first segment is its padded length.
        for place in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= self.tokens:
                batches[-1].append(place)
            else:
                batches.append([place])
        return batches


class _ThreadedEngine(ABC):
    """A queue with one thread per model; what a thread takes and how it runs it, the subclass says."""

    def __init__(
        self,
        models: Sequence[Model],
        *,
        name: str,
        max_queue_tokens: int,
        observer: QueueObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the threads. `models` may repeat one that several threads can share; `name` is the observer's."""
        self._name = name
        self._observer = _Harmless(observer or Unobserved())
        self._clock = clock
        self._queue = FairQueue(max_queue_tokens)
        self._changed = threading.Condition()
        self._closing = False
        self._recent_seconds, self._recent_tokens = 0.0, 0.0
        self._threads = [
            threading.Thread(target=self._work, args=(model,), name=f"guard-{name}-{i}", daemon=True)
            for i, model in enumerate(models)
        ]
        for thread in self._threads:
            thread.start()

    async def score(self, batch: Sequence[Encoded], *, deadline: float) -> tuple[list[Scores], Timing]:
        """As `records.Engine.score`; a batch that could never fit the queue is a `TooLargeError`."""
        if not batch:
            return [], Timing(0.0, 0.0)
        loop = asyncio.get_running_loop()
        now = self._clock()
        request = Request(batch, now, now + deadline - loop.time(), loop, loop.create_future())
        self._enqueue(request)
        reason: DropReason = "cancelled"
        try:
            async with asyncio.timeout_at(deadline):
                return await request.future
        except TimeoutError:
            reason = "deadline"
            raise _too_late(request) from None
        finally:
            if not request.settled:
                self._give_up(request, reason)

    async def close(self) -> None:
        """Finish the requests that have begun, refuse the others with `NotReadyError`, end the threads."""
        with self._changed:
            self._closing = True
            refused = self._queue.not_begun()
            count = sum(self._settle(request) for request in refused)
            self._changed.notify_all()
        self._report(count, "closing")
        for request in refused:
            _answer(request, NotReadyError("the server is stopping or has changed its model"))
        for thread in self._threads:
            await asyncio.to_thread(thread.join)

    @abstractmethod
    def _take(self, now: float, expired: list[Request]) -> list[Ticket]:
        """What a free thread does next, or nothing; the lock is held."""

    @abstractmethod
    def _patience(self, now: float) -> float | None:
        """How long a free thread that got nothing sleeps unless woken; the lock is held."""

    @abstractmethod
    def _infer(self, model: Model, segments: list[Encoded]) -> list[Scores | GuardError]:
        """One outcome for each segment."""

    def _enqueue(self, request: Request) -> None:
        tokens = request.waiting_tokens()
        if tokens > self._queue.max_tokens:
            msg = (
                f"{tokens} tokens in one request; the queue holds {self._queue.max_tokens}: "
                "send less text at a time, or raise GUARD_MAX_QUEUE_TOKENS"
            )
            raise TooLargeError(msg)
        with self._changed:
            if self._closing:
                raise NotReadyError("the server is stopping or has changed its model")
            if not self._queue.fits(tokens):
                raise OverloadedError("the queue is full", retry_after=self._retry_after())
            allowed = _AHEAD * (request.deadline - request.enqueued_at)
            if self._seconds(self._queue.tokens) > allowed and self._seconds(self._queue.tokens_before(request)) > allowed:
                raise OverloadedError("what waits would take too long", retry_after=self._retry_after())
            self._queue.push(request)
            self._show_depth()
            self._changed.notify(len(request.segments))

    def _retry_after(self) -> float:
        """Seconds after which there may be room; the lock is held."""
        if not self._recent_tokens:
            return _UNKNOWN_RETRY
        return min(max(self._seconds(self._queue.tokens), _SHORTEST_RETRY), _LONGEST_RETRY)

    def _seconds(self, tokens: int) -> float:
        """Seconds until so many tokens are done, at the pace of late; 0 while that is unknown. The lock is held."""
        return tokens * self._recent_seconds / self._recent_tokens / len(self._threads) if self._recent_tokens else 0.0

    def _settle(self, request: Request) -> int:
        """Await no more scores of it; gives how many segments left the queue. The lock is held."""
        request.settled = True
        count = self._queue.drop(request)
        self._show_depth()
        return count

    def _show_depth(self) -> None:
        # Under the lock, or an older depth could be told after a newer one and stand.
        self._observer.on_queue(self._name, self._queue.segments, self._queue.tokens)

    def _give_up(self, request: Request, reason: DropReason) -> None:
        with self._changed:
            count = 0 if request.settled else self._settle(request)
        self._report(count, reason)

    def _report(self, count: int, reason: DropReason) -> None:
        if count:
            self._observer.on_dropped(self._name, count, reason)

    def _work(self, model: Model) -> None:
        while tickets := self._next():
            segments = [t.segment for t in tickets]
            started = self._clock()
            try:
                outcomes = self._infer(model, segments)
            except Exception as error:  # noqa: BLE001 (a thread that dies would leave its callers waiting)
                failure = error if isinstance(error, GuardError) else InferenceFailedError(f"the model failed: {error}")
                outcomes = [failure] * len(segments)
            self._finish(tickets, outcomes, started)

    def _next(self) -> list[Ticket]:
        """Wait for work; empty when there will be none."""
        while True:
            expired: list[Request] = []
            with self._changed:
                now = self._clock()
                tickets = self._take(now, expired)
                for request in expired:
                    request.settled = True
                if tickets or expired:
                    self._show_depth()
                else:
                    if self._closing and not self._queue.segments:
                        return []
                    self._changed.wait(self._patience(now))
            for request in expired:
                self._report(len(request.segments) - request.begun, "deadline")
                _answer(request, _too_late(request))
            if tickets:
                return tickets

    def _finish(self, tickets: list[Ticket], outcomes: list[Scores | GuardError], started: float) -> None:
        tokens = sum(len(t.segment) for t in tickets)
        queued = started - min(t.request.enqueued_at for t in tickets)
        done: list[tuple[Request, tuple[list[Scores], Timing] | GuardError]] = []
        dropped = 0
        with self._changed:
            ended = self._clock()
            self._learn_pace(ended - started, tokens)
            for ticket, outcome in zip(tickets, outcomes, strict=True):
                request = ticket.request
                request.stop(ended)
                if request.settled:
                    continue
                if isinstance(outcome, GuardError):
                    dropped += self._settle(request)
                    done.append((request, outcome))
                    continue
                request.results[ticket.place] = outcome
                request.left -= 1
                if request.left == 0:
                    request.settled = True
                    done.append((request, ([s for s in request.results if s is not None], request.timing())))
        # Told before it is answered: who has an answer finds it counted.
        self._report(dropped, "failed")
        self._observer.on_scored(self._name, len(tickets), tokens, queued, ended - started)
        for request, answer in done:
            _answer(request, answer)

    def _learn_pace(self, seconds: float, tokens: int) -> None:
        # Sums, not a mean of quotients: a short segment costs more a token, and would count as much as a long one.
        self._recent_seconds += seconds - _FORGOTTEN * self._recent_seconds
        self._recent_tokens += tokens - _FORGOTTEN * self._recent_tokens


class SessionPool(_ThreadedEngine):
    """Each thread scores one segment at a time, unpadded: what else is in flight cannot change a score, in int8 to the bit."""

    def _take(self, now: float, expired: list[Request]) -> list[Ticket]:
        ticket = self._queue.take(now, expired)
        return [] if ticket is None else [ticket]

    def _patience(self, now: float) -> float | None:  # noqa: ARG002 (a MicroBatcher's depends on it)
        return None

    def _infer(self, model: Model, segments: list[Encoded]) -> list[Scores | GuardError]:
        return [model.score_one(segment) for segment in segments]


class MicroBatcher(_ThreadedEngine):
    """Each thread scores padded batches cut by a `BatchRule`: for fp32 and fp16, where neighbours change rounding alone."""

    def __init__(
        self,
        models: Sequence[Model],
        *,
        rule: BatchRule,
        name: str,
        max_queue_tokens: int,
        observer: QueueObserver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """As `SessionPool`'s, with the rule."""
        self._rule = rule
        super().__init__(models, name=name, max_queue_tokens=max_queue_tokens, observer=observer, clock=clock)

    def _take(self, now: float, expired: list[Request]) -> list[Ticket]:
        if self._patience(now) != 0.0 and not self._closing:
            return []
        tickets: list[Ticket] = []
        tokens = 0
        while tokens < self._rule.tokens and (ticket := self._queue.take(now, expired)) is not None:
            tickets.append(ticket)
            tokens += len(ticket.segment)
        return tickets

    def _patience(self, now: float) -> float | None:
        return self._rule.wait_for(self._queue.tokens, self._queue.oldest(), now)

    def _infer(self, model: Model, segments: list[Encoded]) -> list[Scores | GuardError]:
        outcomes: dict[int, Scores | GuardError] = {}
        for places in self._rule.cut([len(s) for s in segments]):
            batch = [segments[i] for i in places]
            outcomes.update(zip(places, _score_batch(model, batch), strict=True))
        return [outcomes[i] for i in range(len(segments))]


def _score_batch(model: Model, batch: list[Encoded]) -> Sequence[Scores | GuardError]:
    if len(batch) > 1:
        # A batch fails as a whole; one by one, only the caller whose text it was gets the error.
        with suppress(InferenceFailedError):
            return model.score_padded(batch)
    return [_score_alone(model, segment) for segment in batch]


def _score_alone(model: Model, segment: Encoded) -> Scores | GuardError:
    try:
        return model.score_padded([segment])[0]
    except InferenceFailedError as error:
        return error


def _answer(request: Request, answer: tuple[list[Scores], Timing] | GuardError) -> None:
    """Hand the answer to the event loop that waits for it."""
    # A loop that is closed waits for nothing.
    with suppress(RuntimeError):
        request.loop.call_soon_threadsafe(_resolve, request.future, answer)


def _resolve(future: asyncio.Future[tuple[list[Scores], Timing]], answer: tuple[list[Scores], Timing] | GuardError) -> None:
    if future.done():
        return
    if isinstance(answer, GuardError):
        future.set_exception(answer)
    else:
        future.set_result(answer)


def _too_late(request: Request) -> DeadlineExceededError:
    scored, all_of_them = len(request.segments) - request.left, len(request.segments)
    return DeadlineExceededError(f"not screened in time: {scored} of {all_of_them} segments were scored; {LESS_OR_MORE}")
