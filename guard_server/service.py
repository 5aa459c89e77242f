"""What every screening route calls: permit, deadline, bundle, screening, failure policy, metrics, log; then the answer's records.

In: subjects (text, direction, task, context). Out: `Answer` with one `Outcome` a subject; a failure is an error where the route's
policy fails closed, and an outcome with `failure` set where it fails open. Nothing passes unscreened without saying so.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final, cast

from starlette.requests import Request

from guard_server.auth import Gatekeeper
from guard_server.desk import Desk
from guard_server.errors import (
    BadRequestError,
    DeadlineExceededError,
    GuardError,
    InferenceFailedError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
)
from guard_server.labels import Category, Decision, Direction, Task
from guard_server.logs import Logger, TextLog
from guard_server.metrics import Metrics, agreement
from guard_server.models import ModelSet
from guard_server.policy import Policies, Policy
from guard_server.schemas import ModelRef
from guard_server.screening import Active, Screened, Subject, screen
from guard_server.settings import Settings

FAILURES: Final = (OverloadedError, DeadlineExceededError, InferenceFailedError, NotReadyError)
"""What `on_failure` decides about: the guard's own inability, never a fault of the request."""
RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was decided about one subject."""

    decision: Decision
    direction: Direction
    screened: Screened | None = None
    failure: str | None = None
    """Why it was not screened, where the policy fails open."""

    @property
    def task(self) -> Task | None:
        """The task it was judged as."""
        return self.screened.task if self.screened else None

    @property
    def score(self) -> float | None:
        """The worst segment's calibrated score."""
        return self.screened.score if self.screened else None

    @property
    def refusal(self) -> float | None:
        """Probability that an answer refuses."""
        return self.screened.refusal if self.screened else None

    @property
    def categories(self) -> dict[Category, float]:
        """Score times the probability of the kind."""
        return self.screened.categories if self.screened else {}


@dataclass(frozen=True, slots=True)
class Answer:
    """One request's outcomes, in the order of its subjects."""

    outcomes: list[Outcome]
    policy: str
    model: ModelRef
    queue_seconds: float = 0.0
    inference_seconds: float = 0.0
    total_seconds: float = 0.0

    @property
    def decision(self) -> Decision:
        """The worst of the outcomes."""
        return max((o.decision for o in self.outcomes), key=list(Decision).index)


NO_MODEL: Final = ModelRef(name="none", version="none", digest="")


@dataclass
class Guard:
    """The server's one object with state: the loaded bundles, the policies in force, and the permits taken."""

    settings: Settings
    models: ModelSet
    policies: Policies
    metrics: Metrics
    logger: Logger
    gatekeeper: Gatekeeper
    desk: Desk = field(default_factory=Desk)
    draining: bool = False
    _taken: int = 0
    _shadows: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._text_log = TextLog(self.settings)

    async def screen(self, route: str, subjects: Sequence[Subject], policy_name: str | None = None) -> Answer:
        """Screen all subjects of one request under one permit, one deadline and one bundle."""
        (answer,) = await self.screen_batch(route, [(subjects, policy_name)])
        if isinstance(answer, GuardError):
            raise answer
        return answer

    async def screen_batch(self, route: str, items: Sequence[tuple[Sequence[Subject], str | None]]) -> list[Answer | GuardError]:
        """Screen several items, each with its policy, as one request: one permit, one deadline; an item's error stands for it."""
        texts = sum(len(subjects) for subjects, _ in items)
        if texts > self.settings.max_texts:
            raise TooLargeError(f"a request may hold {self.settings.max_texts} texts, found {texts}", field="texts")
        deadline = self._deadline()
        try:
            with self.permit():
                work = [self._screen(route, subjects, name, deadline) for subjects, name in items]
                return [await work[0]] if len(work) == 1 else list(await asyncio.gather(*work))
        except OverloadedError as error:
            return [self._failed(error, route, subjects, name) for subjects, name in items]

    async def _screen(self, route: str, subjects: Sequence[Subject], name: str | None, deadline: float) -> Answer | GuardError:
        if not subjects:
            return BadRequestError("nothing to screen: no text, or no message of this direction")
        began = time.perf_counter()
        try:
            policy = self.policies.choose(route, name)
            for subject in subjects:
                self.policies.check_task(route, subject.task)
            async with self.models.lease() as active:
                done = await screen(subjects, policy=policy, active=active, deadline=deadline, desk=self.desk)
                model = _ref(active)
        except FAILURES as error:
            return self._failed(error, route, subjects, name)
        except GuardError as error:
            return error
        outcomes = [Outcome(s.decision, subject.direction, s) for s, subject in zip(done.screened, subjects, strict=True)]
        seconds = time.perf_counter() - began
        answer = Answer(outcomes, policy.name, model, done.queue_seconds, done.inference_seconds, seconds)
        self.metrics.prepare_seconds.observe(done.prepare_seconds)
        self._record(answer, subjects)
        self._shadow(policy, subjects, done.screened)
        return answer

    @contextmanager
    def permit(self) -> Iterator[None]:
        """One of the permits; tried, never awaited, so that what can't be served soon is refused at once."""
        if self._taken >= self.settings.max_requests:
            raise OverloadedError(f"{self._taken} requests are being screened already", retry_after=RETRY_SECONDS)
        self._taken += 1
        self.metrics.in_flight.set(self._taken)
        try:
            yield
        finally:
            self._taken -= 1
            self.metrics.in_flight.set(self._taken)

    def _deadline(self) -> float:
        """When a request that comes now must be answered, on the loop's clock."""
        return asyncio.get_running_loop().time() + self.settings.deadline_seconds

    def unread(self, kind: str, count: int) -> None:
        """Note parts of a request that hold no text and can't be screened."""
        self.metrics.unread.labels(kind).inc(count)
        self.logger.warning("unread", part=kind, count=count)

    def _failed(self, error: GuardError, route: str, subjects: Sequence[Subject], name: str | None) -> Answer | GuardError:
        """What the policy says of texts that could not be screened: the error, or an answer that lets them pass and says so."""
        try:
            policy = self.policies.choose(route, name)
        except GuardError as unknown:
            return unknown
        action = self.policies.on_failure(route, policy)
        if isinstance(error, OverloadedError):
            self.metrics.shed.inc()
        self.metrics.failures.labels(error.kind, action).inc(len(subjects))
        self.logger.warning(
            "not screened", kind=error.kind, reason=error.message, action=action, texts=len(subjects), route=route
        )
        if action == "closed":
            return error
        for subject in subjects:
            self.metrics.decisions.labels(subject.direction, subject.task or "unknown", Decision.ALLOW, "failure").inc()
        failure = f"{error.kind}: {error.message}"
        outcomes = [Outcome(Decision.ALLOW, subject.direction, failure=failure) for subject in subjects]
        return Answer(outcomes, policy.name, NO_MODEL)

    def _record(self, answer: Answer, subjects: Sequence[Subject]) -> None:
        for outcome, subject in zip(answer.outcomes, subjects, strict=True):
            found = cast("Screened", outcome.screened)
            self.metrics.observe(found, subject.direction)
            self.logger.info(
                "screened",
                direction=subject.direction,
                task=found.task,
                decision=found.decision,
                score=round(found.score, 6),
                segments=found.segments,
                policy=answer.policy,
                bundle=answer.model.digest[:12],
                **self._text_log.fields(subject.text),
            )

    def _shadow(self, policy: Policy, subjects: Sequence[Subject], found: Sequence[Screened]) -> None:
        """Score with the shadow bundle after the answer, where there is one and there is room; never in the answer's way."""
        if self.models.status().shadow is None or len(self._shadows) >= self.settings.max_requests:
            return
        task = asyncio.get_running_loop().create_task(self._compare(policy, list(subjects), list(found)))
        self._shadows.add(task)
        task.add_done_callback(self._shadows.discard)

    async def _compare(self, policy: Policy, subjects: list[Subject], found: list[Screened]) -> None:
        deadline = self._deadline()
        try:
            async with self.models.lease_shadow() as active:
                if active is None:
                    return
                done = await screen(subjects, policy=policy, active=active, deadline=deadline, desk=self.desk)
        except GuardError as error:
            self.metrics.shadow.labels("failed").inc()
            self.logger.debug("shadow", kind=error.kind, reason=error.message)
            return
        for other, ours in zip(done.screened, found, strict=True):
            self.metrics.shadow.labels(agreement(ours.decision, other.decision)).inc()
            self.metrics.shadow_difference.observe(abs(other.score - ours.score))


def _ref(active: Active) -> ModelRef:
    return ModelRef(name=active.spec.name, version=active.spec.version, digest=active.digest)


# Dependencies are async although they wait for nothing: FastAPI runs plain functions in a thread, at the cost of two changes.
async def guard_of(request: Request) -> Guard:
    """The app's guard, for routes."""
    return cast("Guard", request.app.state.guard)


async def request_id_of(request: Request) -> str:
    """The id that the request log gave."""
    return cast("str", request.state.request_id)
