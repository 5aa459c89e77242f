"""The story of a request's texts, on one screen: views, windows, token ids, scores, task, decision.

    text -> views -> Segment* -> Encoded* -> engine -> Scores* -> task -> worst segment against its threshold -> Screened

In: subjects, the policy in force and a loaded bundle. Out: one `Screened` each. `prepare` (before the engine) and `judge`
(after it) are pure; only `screen` waits and reads the clock. Whatever cannot be screened whole is an error, never a guess.
"""

import asyncio
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, Protocol

from guard_server.bundle_spec import BundleSpec
from guard_server.desk import Desk, too_late
from guard_server.errors import InferenceFailedError, TooLargeError
from guard_server.labels import CATEGORIES, TASKS, Category, Decision, Direction, Task
from guard_server.policy import Policy, Thresholds, thresholds
from guard_server.records import Encoded, Engine, Scores, Segment, Tokenizer
from guard_server.unknown import unknown_words
from guard_server.views import Skipped, View, views
from guard_server.windows import fit, windows

LIKELY_SHARE: Final = 0.5
"""A task at least so probable, compared with the most probable one, is likely too."""
_LONE_SURROGATES: Final = re.compile("[\ud800-\udfff]")
_SEVERITY: Final = tuple(Decision)


class Active(Protocol):
    """A loaded bundle."""

    @property
    def engine(self) -> Engine:
        """What scores."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""

    @property
    def spec(self) -> BundleSpec:
        """Windows, thresholds, labels."""

    @property
    def digest(self) -> str:
        """Of the bundle, hexadecimal."""


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
    part: bool = False
    """A window of a longer text (a stream's): read as the whole will be, by its sentences too."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A text cut and encoded: what the engine is asked."""

    segments: tuple[Segment, ...]
    encoded: tuple[Encoded, ...]
    """One for each segment."""
    windows: int
    """Segments of the original text, its sentences among them; they come first."""
    views: tuple[str, ...]
    """Decodings read beside the original."""
    skipped: tuple[Skipped, ...]
    characters_read: int
    """By the decoders."""
    context_cut: bool


@dataclass(frozen=True, slots=True)
class Screened:
    """What was found in one text, and what the policy makes of it."""

    decision: Decision
    task: Task
    """The caller's; or of the likely ones the one whose rule decided."""
    task_probabilities: dict[Task, float]
    """By the task head, over the original's windows, whoever named the task."""
    likely_tasks: tuple[Task, ...]
    """Whose rules were asked, the most probable first; more than one: the task is ambiguous and the strictest decided."""
    score: float
    """Of the worst segment, the one that decides: calibrated probability of harm. Where nothing is reached, the highest."""
    thresholds: dict[str, float]
    """`flag` and `block` in force for the worst segment; one that can't happen is left out."""
    limits: tuple[Thresholds, Thresholds]
    """Those of the text's windows and those of its sentences and lines."""
    categories: dict[Category, float]
    """Probability of each kind of harm: the worst over segments of harm x kind given harm; none is over `score`."""
    refusal: float | None
    """Direction `response`: probability that the answer refuses, of its first window, where refusals stand."""
    worst: Segment
    windows: int
    segments: int
    """Windows of all views that were scored."""
    views: tuple[str, ...]
    skipped: tuple[Skipped, ...]
    """Decodings that a limit left unread; where there is one the decision is at least the policy's `on_unread`."""
    scored: tuple[tuple[Segment, float], ...]
    """Every segment with its score."""
    context_cut: bool
    policy: str
    bundle: str
    """Digest."""
    characters_read: int = 0
    """By the decoders: what looking for views cost."""


@dataclass(frozen=True, slots=True)
class Done:
    """One request's texts, in order, and where the time went, in seconds."""

    screened: list[Screened]
    prepare_seconds: float
    queue_seconds: float
    inference_seconds: float


async def screen(subjects: Sequence[Subject], *, policy: Policy, active: Active, deadline: float, desk: Desk) -> Done:
    """Screen the texts of one request, each whole and judged by itself; `deadline` on the loop's clock.

    Raises `TooLargeError`, `OverloadedError`, `DeadlineExceededError`, and what the engine raises.
    """
    loop = asyncio.get_running_loop()
    began = time.perf_counter()

    def piece(s: Subject) -> tuple[int, Callable[[], Prepared]]:
        context = s.context if s.direction is Direction.RESPONSE else None
        made = partial(prepare, s.text, context, policy, active.spec, active.tokenizer, part=s.part)
        return len(s.text) + len(s.context or ""), made

    prepared = await desk.run([piece(s) for s in subjects], deadline=deadline)
    if loop.time() >= deadline:
        raise too_late()
    prepare_seconds = time.perf_counter() - began
    # One call for all: a request has one place in the queue, and one that can never fit is told so.
    scores, timing = await active.engine.score([e for p in prepared for e in p.encoded], deadline=deadline)
    rest = iter(scores)
    judged = [
        judge(
            p,
            list(islice(rest, len(p.segments))),
            direction=s.direction,
            task=s.task,
            policy=policy,
            spec=active.spec,
            bundle=active.digest,
            already=s.already,
        )
        for p, s in zip(prepared, subjects, strict=True)
    ]
    return Done(judged, prepare_seconds, timing.queued, timing.inference)


def prepare(
    text: str, context: str | None, policy: Policy, spec: BundleSpec, tokenizer: Tokenizer, *, part: bool = False
) -> Prepared:
    """Cut a text and its views into segments and encode them, each with the end of the context; the same ids are scored once.

    Raises `TooLargeError` for a text over the policy's limit. A lone surrogate (no character) is read as U+FFFD.
    """
    if len(text) > policy.max_characters:
        limit = f"the text has {len(text)} characters; policy {policy.name!r} allows {policy.max_characters}"
        raise TooLargeError(limit, field="text")
    text = _LONE_SURROGATES.sub("\ufffd", text)
    kept, cut = cut_context(context, spec, tokenizer)
    encode = partial(tokenizer.encode, context=kept)
    found = views(text, policy.view_settings())
    original = _encoded_segments(View("original", text), spec, encode, tokenizer.max_tokens, part=part)
    # Dropped among views alone: what is seen twice in the original is counted twice, as when the thresholds were set.
    known = {encoded.ids for _, encoded in original}
    extra: list[tuple[Segment, Encoded]] = []
    seen = list(original)
    for view in found.found:
        # A view of a long text may be short and hold one sentence of it: it is read as the text is.
        parts = _encoded_segments(view, spec, encode, tokenizer.max_tokens, part=part or len(text) > spec.window.characters)
        seen += parts
        for segment, encoded in parts:
            if encoded.ids not in known:
                known.add(encoded.ids)
                extra.append((segment, encoded))
    skipped = (*found.skipped, *unknown_words(text, seen, found.found))
    segments, ids = zip(*original, *extra, strict=True)
    read = tuple(dict.fromkeys(segment.view for segment, _ in extra))
    return Prepared(segments, ids, len(original), read, skipped, found.characters_read, cut)


def cut_context(context: str | None, spec: BundleSpec, tokenizer: Tokenizer) -> tuple[str | None, bool]:
    """The end of the prompt that an answer is read with, and whether that is less than the prompt.

    At most `context_characters`, and at most half of the tokens that fit, so that the answer always has room.
    """
    if context is None or not context.strip():
        return None, False
    kept = _LONE_SURROGATES.sub("\ufffd", context[-spec.context_characters :])
    while len(kept) > 1 and len(tokenizer.encode(kept)) > tokenizer.max_tokens // 2:
        kept = kept[(len(kept) + 3) // 4 :]
    return kept, len(kept) < len(context)


def _encoded_segments(
    view: View, spec: BundleSpec, encode: Callable[[str], Encoded], max_tokens: int, *, part: bool = False
) -> list[tuple[Segment, Encoded]]:
    cut = windows(view.text, spec.window, view.name, part=part)
    return [part for segment in cut for part in fit(segment, spec.window.overlap, encode, max_tokens)]


def judge(
    prepared: Prepared,
    scores: Sequence[Scores],
    *,
    direction: Direction,
    task: Task | None,
    policy: Policy,
    spec: BundleSpec,
    bundle: str,
    already: int = 0,
) -> Screened:
    """The decision about a text from the scores of its segments, pure. Raises `InferenceFailedError` for unusable scores."""
    _check(prepared, scores)
    segments = len(scores)
    whole = [
        (segment, s) for segment, s in zip(prepared.segments[: prepared.windows], scores, strict=False) if not segment.sentence
    ]
    probabilities = task_probabilities(*zip(*whole, strict=True))
    asked = (task,) if task is not None else likely_tasks(probabilities)
    counted = segments + already
    limits = {(t, r): thresholds(policy, spec, direction, t, counted, sentence=r) for t in asked for r in (False, True)}
    # The first of equals: the most probable task; of its segments the highest of those that are worst off.
    cases = [
        _worst(prepared.segments, [s.risk(direction, t) for s in scores], (limits[t, False], limits[t, True])) for t in asked
    ]
    which = max(range(len(asked)), key=lambda i: cases[i][0])
    decided, (severity, score, at) = asked[which], cases[which]
    risks = [s.risk(direction, decided) for s in scores]
    worst = prepared.segments[at]
    decision = _SEVERITY[severity]
    if prepared.skipped:
        decision = max(decision, policy.on_unread, key=_SEVERITY.index)
    return Screened(
        decision=decision,
        task=decided,
        task_probabilities=probabilities,
        likely_tasks=asked,
        score=score,
        thresholds=_named(limits[decided, worst.sentence]),
        limits=(limits[decided, False], limits[decided, True]),
        categories={c: min(score, max(r * s.category[c] for r, s in zip(risks, scores, strict=True))) for c in CATEGORIES},
        refusal=scores[0].refusal if direction is Direction.RESPONSE else None,
        worst=worst,
        windows=prepared.windows,
        segments=segments,
        views=prepared.views,
        skipped=prepared.skipped,
        scored=tuple(zip(prepared.segments, risks, strict=True)),
        context_cut=prepared.context_cut,
        policy=policy.name,
        bundle=bundle,
        characters_read=prepared.characters_read,
    )


def _worst(segments: Sequence[Segment], risks: Sequence[float], limits: tuple[Thresholds, Thresholds]) -> tuple[int, float, int]:
    """Severity, score and place of the segment that decides; `limits`: of windows, of sentences."""
    judged = [(_SEVERITY.index(limits[s.sentence].decide(risk)), risk) for s, risk in zip(segments, risks, strict=True)]
    worst = max(judged)
    return *worst, judged.index(worst)


def task_probabilities(segments: Sequence[Segment], scores: Sequence[Scores]) -> dict[Task, float]:
    """Of a whole text: the mean over its windows, weighted by their length; what a long text is about, not its loudest window."""
    weights = [max(1, segment.end - segment.start) for segment in segments]
    return {t: sum(w * s.task[t] for w, s in zip(weights, scores, strict=True)) / sum(weights) for t in TASKS}


def likely_tasks(probabilities: dict[Task, float]) -> tuple[Task, ...]:
    """The most probable task, and those that are at least `LIKELY_SHARE` times as probable, in that order."""
    order = sorted(TASKS, key=lambda t: -probabilities[t])
    return tuple(t for t in order if probabilities[t] >= LIKELY_SHARE * probabilities[order[0]])


def _named(at: Thresholds) -> dict[str, float]:
    return {name: value for name, value in (("flag", at.flag), ("block", at.block)) if value is not None}


def _check(prepared: Prepared, scores: Sequence[Scores]) -> None:
    if len(scores) != len(prepared.segments):
        raise InferenceFailedError(f"{len(prepared.segments)} segments were asked and {len(scores)} scored")
    for s in scores:
        if not all(map(math.isfinite, (*s.task.values(), *s.harm.values(), *s.category.values(), s.response_harm, s.refusal))):
            raise InferenceFailedError("the model gave what is not a number")
