"""Every record that travels between the stages, in the order in which they arise.

    SuiteItem ─▶ AttackCase ─▶ Ask ─▶ Response | NoResponse ─▶ Judgement | NoJudgement ─▶ TaskStats ─▶ Finding ─▶ Verdict

Records are frozen, refuse unknown fields and non-finite numbers, and round-trip through JSON. Imports nothing of ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base of all records: frozen, closed, finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with changes; what was computed of the original (a cached digest) is not taken over."""
        copy = super().model_copy(update=update, deep=deep)
        for name in copy.__dict__.keys() - type(self).model_fields.keys():
            del copy.__dict__[name]
        return copy


def canonical_json(value: object) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces: the form that digests are taken of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256_hex(data: bytes) -> str:
    """Hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


class Task(StrEnum):
    """The five tasks in which a behaviour is asked for."""

    TEXT_GENERATION = "text_generation"
    SUMMARIZATION = "summarization"
    CODE_GENERATION = "code_generation"
    TRANSLATION = "translation"
    CLASSIFICATION = "classification"


class Role(StrEnum):
    """What the item is for: `attack` should be refused, its benign `twin` should be answered."""

    ATTACK = "attack"
    TWIN = "twin"


class Split(StrEnum):
    """Behaviours are split by salted hash: repairs are chosen on `tuning`, verdicts are taken on `gating`."""

    TUNING = "tuning"
    GATING = "gating"


class Calibration(StrEnum):
    """How a request is put to the model: the deployment's template and system prompt."""

    NATIVE_SYSTEM = "native+system"
    NATIVE = "native"
    ALPACA = "alpaca"
    RAW = "raw"


class Outcome(StrEnum):
    """What an answer did. *answered* = complied + harmful; *harmful* needs a harm judge."""

    REFUSED = "refused"
    COMPLIED = "complied"
    HARMFUL = "harmful"
    INVALID = "invalid"


class Measure(StrEnum):
    """Which share a statistic is about."""

    ANSWERED = "answered"
    HARMFUL = "harmful"
    OVER_REFUSAL = "over_refusal"


class Decision(StrEnum):
    """The verdict's three values."""

    PASS = "pass"
    BLOCK = "block"
    INCONCLUSIVE = "inconclusive"


class Message(Record):
    """One chat turn."""

    role: Literal["system", "user", "assistant"]
    content: str


class Option(Record):
    """One option of a multiple-choice item and what choosing it means."""

    letter: str
    text: str
    key: Literal["harmful", "abstain", "benign"]


class SuiteItem(Record):
    """One question of a suite, before it is put through a calibration."""

    id: str
    """Stable and unique in its suite."""
    task: Task
    behaviour: str
    """The seed behaviour: the cluster of the statistics. A twin carries its attack's behaviour."""
    category: str
    """Hazard category (suite's own names; the built-in suite uses MLCommons')."""
    role: Role
    transform: str
    """Name of the attack transform: `direct`, `persona_…`, `prefill`, …"""
    split: Split
    messages: tuple[Message, ...]
    """The turns without a system prompt; the last one is the user's."""
    prefill: str = ""
    """Words put into the assistant's mouth, where the transform does so; the answer continues them."""
    source: str = ""
    """The quoted span that the task works on (text to translate or to summarise), if any: not the model's own voice."""
    answer_language: str = "en"
    """ISO 639-1 code of the language a right answer is in."""
    options: tuple[Option, ...] = ()
    """Multiple-choice options with their keys."""
    canaries: tuple[str, ...] = ()
    """Placeholder tokens of a canary document; an answer that carries them over did the task."""
    entry_point: str = ""
    """Name of the function that a code item asks for."""
    reference: str = ""
    """The exact right answer, where the task has one (the testbed's has)."""


MAX_SAMPLES = 100
"""Samples that may be taken of one case."""


class Decoding(Record):
    """How answers are sampled. `temperature` 0 is greedy and takes one sample."""

    name: str = "greedy"
    temperature: float = Field(default=0.0, ge=0, le=5)
    top_p: float = Field(default=1.0, gt=0, le=1)
    samples: int = Field(default=1, ge=1, le=MAX_SAMPLES)
    max_new_tokens: int = Field(default=128, ge=1, le=8192)
    seed: int = 0
    """Seed of the sampling; sample i of a case draws from (seed, prompt, i)."""


class AttackCase(Record):
    """One question as it is put to the model: a suite item under one calibration and decoding."""

    id: str
    """`item|calibration|decoding`."""
    item: SuiteItem
    calibration: Calibration
    system: str = ""
    """The system prompt; empty unless the calibration has one."""
    decoding: str
    """Name of the decoding."""


class Ask(Record):
    """One generation to make: a case, which sample of it, and the rendered prompt it will be answered from."""

    case: AttackCase
    sample: int
    prompt: str
    """The text the model continues (or canonical JSON of the messages, where the server applies the template)."""
    key: str
    """SHA-256 over candidate digest, prompt, decoding, sample number, engine and engine version: the answer cache's key."""
    decoding: Decoding


class Response(Record):
    """An answer that came."""

    case_id: str
    sample: int
    key: str
    text: str
    """The new text alone: neither prompt nor prefill."""
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int


class NoResponse(Record):
    """Why no answer came. Counts against a pass, never as a refusal."""

    case_id: str
    sample: int
    key: str
    kind: Literal["timeout", "error", "unreachable", "unsupported"]
    reason: str


def encodable(answer: Response | NoResponse) -> Response | NoResponse:
    """The answer as JSON can hold it: lone surrogates, which some engines make, become question marks."""
    if isinstance(answer, NoResponse):
        return answer
    text = answer.text.encode("utf-8", "replace").decode("utf-8")
    return answer if text == answer.text else answer.model_copy(update={"text": text})


class Judgement(Record):
    """What one judge says of one answer."""

    case_id: str
    sample: int
    outcome: Outcome
    score: float = Field(ge=0, le=1)
    """The judge's confidence in the outcome; 1 for a rule that has none."""
    judge: str
    version: str
    digest: str
    """SHA-256 over the judge's data and version."""
    reason: str


class NoJudgement(Record):
    """Why an answer could not be judged. Counts against a pass."""

    case_id: str
    sample: int
    judge: str
    version: str
    digest: str
    reason: str


class EngineInfo(Record):
    """Which software made the answers."""

    name: str
    version: str
    dtype: str
    device: str


class ManifestFile(Record):
    """One file of a model folder."""

    path: str
    """Relative to the folder, with forward slashes."""
    size: int
    sha256: str


class Candidate(Record):
    """What is on trial, as found on disk."""

    source: str
    """As given: a path or `hf://org/name@revision`; the normalised URL of a served one."""
    kind: Literal["model", "adapter", "endpoint"]
    path: str
    """The local folder that is loaded; the served model's name where the candidate is an endpoint."""
    revision: str = ""
    """The pinned commit of a hub candidate."""
    digest: str
    """Root digest of the folder's manifest (model-signing's), as its signature's subject names it.

    Of an endpoint: SHA-256 over URL, model and what the server states of it.
    """
    files: tuple[ManifestFile, ...]
    base_path: str = ""
    base_digest: str = ""
    """Folder and root digest of the base model, for an adapter."""
    base_files: tuple[ManifestFile, ...] = ()
    """The base's files; empty for a model, and in runs begun before they were kept."""
    architecture: str
    chat_template: str
    """The chat template in force (adapter's own, else the base's)."""
    chat_template_digest: str
    tokenizer_digest: str
    training_card: dict[str, Any] | None = None
    """`training_card.json` of the folder, if it has one."""
    warnings: tuple[str, ...] = ()
    """What the scan let through with a word (e.g. a template that differs from the baseline's, where policy allows it)."""

    @property
    def trial_digest(self) -> str:
        """One digest of everything that answers: the folder, the base it needs, template and tokenizer.

        File names stand beside the root digest, which a renamed file may leave as it was.
        """
        names = [file.path for file in self.files]
        return sha256_hex(
            canonical_json([self.digest, self.base_digest, names, self.chat_template_digest, self.tokenizer_digest])
        )


class TaskStats(Record):
    """The evidence about one rate: a measure on one task under one calibration and decoding."""

    task: Task
    calibration: Calibration
    decoding: str
    measure: Measure
    gated: bool
    """Whether the policy decides on it; else it is reported beside."""
    transforms: tuple[str, ...]
    limit: float | None
    planned: int
    """Items in the population: what the suite holds for this cell."""
    planned_clusters: int
    """Behaviours among the items that were to be asked: the population's, or the first n's in a fixed-n cell."""
    asked: int
    """Items of the finished prefix that the decision read (all finished items in a fixed-n cell)."""
    missing: int
    """Of the asked: no response, or no judgement."""
    invalid: int
    hits: int
    """Of the asked: items that count for the measure for sure (missing and invalid are not hits here)."""
    judged: int
    """asked - missing - invalid."""
    rate: float | None
    """hits ÷ judged; null when nothing was judged. Never what a decision is taken from."""
    lower: float
    upper: float
    """Bounds on the suite's rate; missing and invalid count 0 in the lower and 1 in the upper one."""
    lower_level: float
    upper_level: float
    """Confidence of each one-sided bound: 1 - alpha_block ÷ number of gated cells, and 1 - alpha_pass."""
    bound: Literal["confidence_sequence", "korn_graubard"]
    clusters: int
    """Behaviours among the asked."""
    behaviours_lower: float | None = None
    behaviours_upper: float | None = None
    """Korn–Graubard bounds on the rate over behaviours like the suite's; only where looking is over (exhausted or fixed n)."""
    correction: str
    """Judge correction applied: `none (uncalibrated judge)` until one is calibrated."""
    log_e_block: float | None = None
    log_e_pass: float | None = None
    """Natural logarithms of the e-values where the test crossed, else at the last item (capped); null in a fixed-n cell."""
    decided_at: int | None = None
    """The prefix length at which the test crossed; null when it did not. A pass may have read on for the least evidence."""
    by_transform: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """transform → (hits, judged)."""
    regression_hits: int | None = None
    fixed_hits: int | None = None
    """Paired with the baseline: items answered now and refused then / the reverse; null without a baseline."""
    difference: float | None = None
    difference_lower: float | None = None
    log_e_regression: float | None = None


class Comparison(Record):
    """How much worse the candidate does than the baseline on the same benign questions: a mean of paired losses, bounded."""

    measure: Literal["utility_drop", "over_refusal_rise"]
    source: Literal["twins", "set"]
    """Of the questions: the suite's benign twins, or the policy's own set."""
    task: Task | None
    """Null: the mean over the tasks."""
    calibration: Calibration
    metrics: tuple[str, ...]
    """What scored the answers, with the version of what is not ours."""
    limit: float | None
    """Null: shown, and no rule."""
    planned: int
    """Questions in the suite or set."""
    asked: int
    """Of them, put to both."""
    paired: int
    """Of the asked: both answers are there and can be told."""
    clusters: int
    """Behaviours (rows of a set) among the asked."""
    worse: int
    better: int
    """Pairs in which the candidate does worse, and better."""
    candidate: float | None
    baseline: float | None
    """Means over the pairs: of the score in [0, 1], or the refused share; of means over tasks, where there is no task."""
    difference: float | None
    """Mean loss over the pairs: above 0 the candidate is worse."""
    lower: float
    upper: float
    """Bounds on the questions' own mean loss; what is not paired counts as the least loss there and the greatest here."""
    lower_level: float
    upper_level: float
    behaviours_lower: float
    behaviours_upper: float
    """The same on the mean loss over behaviours (or rows) like these."""
    claim: Literal["set", "population"]
    """Which of the two pairs of bounds decides."""


class Finding(Record):
    """One policy rule and how the evidence stands to it."""

    rule: str
    """`max_rate`, `max_over_refusal`, `max_invalid`, `min_items`, `min_behaviours`, `regression`, `error_budget`, …"""
    subject: str
    """`task|calibration|decoding`, with ` (twins)` behind it where the rule is about benign twins; or `run`."""
    required: str
    observed: str
    status: Literal["met", "broken", "undecided"]
    sentence: str
    waived_by: str = ""
    """`owner: reason (until date)` of the waiver that lifts it; empty otherwise."""


class Verdict(Record):
    """The decision and all it rests on. Its bytes are the same whenever the same evidence is decided."""

    schema_version: Literal["taskgate/verdict/v1"] = "taskgate/verdict/v1"
    decision: Decision
    reason: str
    """One sentence: which rule, which task, what was found."""
    findings: tuple[Finding, ...]
    stats: tuple[TaskStats, ...]
    comparisons: tuple[Comparison, ...] = ()
    candidate_digest: str
    base_digest: str
    baseline_digest: str = ""
    policy_name: str
    policy_digest: str
    suite_name: str
    suite_digest: str
    utility_digest: str = ""
    """Of the policy's utility set; empty without one."""
    judges: tuple[str, ...]
    """`name version digest` of each."""
    judge_calibrated: bool
    order_seed: int
    order_digest: str
    """SHA-256 over the committed order of every cell."""
    engine: EngineInfo
    tool_version: str
    evaluated_on: str
    """Date (UTC) the run was begun, which waivers' expiry is judged by."""
    warnings: tuple[str, ...] = ()
