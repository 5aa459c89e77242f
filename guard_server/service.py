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

from guard_server.errors import (
    DeadlineExceededError,
    GuardError,
    InferenceFailedError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
)
from guard_server.labels import Category, Decision, Direction, Task
from guard_server.logs import Logger, TextLog
from guard_server.metrics import Metrics
from guard_server.models import ModelSet
from guard_server.policy import Policies, Policy
from guard_server.schemas import ModelRef
from guard_server.screening import Active, Screened, screen
from guard_server.settings import Settings

FAILURES: Final = (OverloadedError, DeadlineExceededError, InferenceFailedError, NotReadyError)
"""What `on_failure` decides about: the guard's own inability, never a fault of the request."""
RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Subject:
    """One text to screen."""

    text: str
    direction: Direction = Direction.PROMPT
    task: Task | None = None
    """None: the model says."""
    context: str | None = None
    """For an answer: the prompt."""
    already: int = 0
    """Segments of the same text that were scored before (a stream's windows): the thresholds count them."""


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
    draining: bool = False
    _taken: int = 0
    _shadows: set[asyncio.Task[None]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._text_log = TextLog(self.settings)

    def deadline(self) -> float:
        """When a request that comes now must be answered, on the loop's clock."""
        return asyncio.get_running_loop().time() + self.settings.deadline_seconds

    async def screen(
        self, route: str, subjects: Sequence[Subject], policy_name: str | None = None, deadline: float | None = None
    ) -> Answer:
        """Screen all subjects of one request under one permit, one deadline (none given: from now) and one bundle."""
        policy = self.policies.choose(route, policy_name)
        if len(subjects) > self.settings.max_texts:
            raise TooLargeError(f"a request may hold {self.settings.max_texts} texts, found {len(subjects)}", field="texts")
        began = time.perf_counter()
        try:
            with self.permit():
                async with self.models.lease() as active:
                    found = await self._all(active, policy, subjects, deadline or self.deadline())
                    self._shadow(policy, subjects, found)
                    model = _ref(active)
        except FAILURES as error:
            return self._failed(error, route, policy, subjects)
        answer = Answer(
            [Outcome(s.decision, subject.direction, s) for s, subject in zip(found, subjects, strict=True)],
            policy.name,
            model,
            sum(s.queue_seconds for s in found),
            sum(s.inference_seconds for s in found),
            time.perf_counter() - began,
        )
        self._record(answer, subjects)
        return answer

    @contextmanager
    def permit(self) -> Iterator[None]:
        """One of the permits; tried, never awaited, so that what can't be served soon is refused at once."""
        if self._taken >= self.settings.max_requests:
            self.metrics.shed.inc()
            raise OverloadedError(f"{self._taken} requests are being screened already", retry_after=RETRY_SECONDS)
        self._taken += 1
        self.metrics.in_flight.set(self._taken)
        try:
            yield
        finally:
            self._taken -= 1
            self.metrics.in_flight.set(self._taken)

    def unread(self, kind: str, count: int) -> None:
        """Note parts of a request that hold no text and can't be screened."""
        self.metrics.unread.labels(kind).inc(count)
        self.logger.warning("unread", part=kind, count=count)

    async def _all(self, active: Active, policy: Policy, subjects: Sequence[Subject], deadline: float) -> list[Screened]:
        work = [
            screen(
                s.text,
                direction=s.direction,
                task=s.task,
                context=s.context,
                policy=policy,
                active=active,
                deadline=deadline,
                already=s.already,
            )
            for s in subjects
        ]
        if len(work) == 1:
            return [await work[0]]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(one) for one in work]
        except* GuardError as errors:
            # The first one decides; the group has cancelled the others, so their work leaves the queue.
            raise _first(errors) from None
        return [task.result() for task in tasks]

    def _failed(self, error: GuardError, route: str, policy: Policy, subjects: Sequence[Subject]) -> Answer:
        action = self.policies.on_failure(route, policy)
        self.metrics.failures.labels(error.kind, action).inc(len(subjects))
        self.logger.warning(
            "not screened", kind=error.kind, reason=error.message, action=action, texts=len(subjects), route=route
        )
        if action == "closed":
            raise error
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
        try:
            async with self.models.lease_shadow() as active:
                if active is None:
                    return
                others = await self._all(active, policy, subjects, self.deadline())
                for other, ours in zip(others, found, strict=True):
                    agreement = "same" if other.decision is ours.decision else f"{ours.decision}_to_{other.decision}"
                    self.metrics.shadow.labels(agreement).inc()
                    self.metrics.shadow_difference.observe(abs(other.score - ours.score))
        except GuardError as error:
            self.metrics.shadow.labels("failed").inc()
            self.logger.debug("shadow", kind=error.kind, reason=error.message)


def _first(errors: BaseExceptionGroup[GuardError]) -> GuardError:
    inner = errors.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _ref(active: Active) -> ModelRef:
    return ModelRef(name=active.spec.name, version=active.spec.version, digest=active.digest)


# Dependencies are async although they wait for nothing: FastAPI runs plain functions in a thread, at the cost of two changes.
async def guard_of(request: Request) -> Guard:
    """The app's guard, for routes."""
    return cast("Guard", request.app.state.guard)


async def request_id_of(request: Request) -> str:
    """The id that the request log gave."""
    return cast("str", request.state.request_id)
