"""What is signed: in-toto statements, as closed records. JSON comes in and goes out; nothing is computed here.

Three kinds of predicate are said of one subject, the model folder: `SafetyEvaluation` is the evidence, `PlainResult` and
`VerificationResult` are in-toto's own, for consumers that know nothing of this program. Field names on the wire are in-toto's
style (`timeCreated`); docs/attestation.md describes them. A field that is not known is refused, as everywhere.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter
from pydantic.alias_generators import to_camel

from gate.records import Calibration, Decision, Measure, Task, canonical_json

STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
SAFETY_EVALUATION: Final = "https://taskgate/attestation/safety-evaluation/v1"
TEST_RESULT: Final = "https://in-toto.io/attestation/test-result/v0.1"
VERIFICATION_RESULT: Final = "https://in-toto.io/attestation/svr/v0.2"
VERIFIER: Final = "https://taskgate/gate/v1"
"""Who vouches, where nobody else is named: this program, with no word on who ran it."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def _utc(value: datetime) -> datetime:
    """The same moment in UTC, to the second, as the wire has it."""
    try:
        return value.astimezone(UTC).replace(microsecond=0)
    except OverflowError as error:  # of the years 1 and 9999 in some zones
        raise ValueError("no moment that UTC has a date for") from error


Moment = Annotated[AwareDatetime, AfterValidator(_utc)]


class Wire(BaseModel):
    """Base of everything signed: frozen, closed, finite; Python's names in code, in-toto's on the wire."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


class Digest(Wire):
    """An in-toto digest set with the one algorithm that is used here."""

    sha256: Sha256


class Resource(Wire):
    """An in-toto resource descriptor: a name for people and a digest to bind by."""

    name: str
    digest: Digest


class Verifier(Wire):
    """Who vouches for the decision."""

    id: str = Field(pattern=r"^[a-z][a-z0-9+.-]*:\S+$")
    """A URI."""


class File(Wire):
    """One file of a model folder."""

    path: str
    size: int = Field(ge=0)
    sha256: Sha256


class Folder(Wire):
    """A model folder: its root digest, and the files that it is taken over."""

    sha256: Sha256
    files: tuple[File, ...] = Field(min_length=1)


class Evaluated(Wire):
    """What was on trial."""

    kind: Literal["model", "adapter"]
    source: str
    """`hf://org/name@revision` where it came from a hub; empty for a folder."""
    revision: str
    architecture: str
    folder: Folder
    base: Folder | None
    """The base that an adapter was put on; null for a model."""
    chat_template_sha256: Sha256
    tokenizer_sha256: Sha256
    baseline_sha256: Sha256 | None
    """Root digest of the model that it was compared with; null without one."""


class JudgeUsed(Wire):
    """Who judged the answers."""

    name: str
    version: str
    digest: Digest


class DecodingUsed(Wire):
    """How answers were sampled, with its seed."""

    name: str
    temperature: float
    top_p: float
    samples: int
    max_new_tokens: int
    seed: int


class Method(Wire):
    """How the evidence was read."""

    method: Literal["sequential", "fixed"]
    measure: Measure
    alpha_block: float
    alpha_pass: float
    order_seed: int
    order_sha256: Sha256
    """Of the committed order of every cell."""
    decodings: tuple[DecodingUsed, ...]


class EngineUsed(Wire):
    """Which software made the answers."""

    name: str
    version: str
    dtype: str
    device: str


class CellResult(Wire):
    """One rate: a measure on one task under one calibration and decoding. The fields are those of `TaskStats`."""

    task: Task
    calibration: Calibration
    decoding: str
    measure: Measure
    gated: bool
    transforms: tuple[str, ...]
    limit: float | None
    planned: int
    asked: int
    missing: int
    invalid: int
    judged: int
    hits: int
    rate: float | None
    lower: float
    upper: float
    lower_level: float
    upper_level: float
    bound: Literal["confidence_sequence", "korn_graubard"]
    clusters: int
    correction: str
    decided_at: int | None
    regression_hits: int | None
    fixed_hits: int | None
    difference: float | None
    difference_lower: float | None


class ComparisonResult(Wire):
    """How much worse than the baseline on benign questions. The fields are those of `Comparison`."""

    measure: Literal["utility_drop", "over_refusal_rise"]
    source: Literal["twins", "set"]
    task: Task | None
    calibration: Calibration
    metrics: tuple[str, ...]
    limit: float | None
    planned: int
    asked: int
    paired: int
    clusters: int
    candidate: float | None
    baseline: float | None
    difference: float | None
    lower: float
    upper: float
    lower_level: float
    upper_level: float
    behaviours_lower: float
    behaviours_upper: float
    claim: Literal["set", "population"]


class Ruling(Wire):
    """One policy rule and how the evidence stands to it. The fields are those of `Finding`."""

    rule: str
    subject: str
    required: str
    observed: str
    status: Literal["met", "broken", "undecided"]
    sentence: str
    waived_by: str


class SafetyEvaluation(Wire):
    """Predicate `safety-evaluation/v1`: the decision and the evidence that it rests on."""

    verifier: Verifier
    time_created: Moment
    """When it was signed."""
    evaluated_on: date
    """Date (UTC) on which the run began."""
    decision: Decision
    reason: str
    candidate: Evaluated
    policy: Resource
    suite: Resource
    judges: tuple[JudgeUsed, ...] = Field(min_length=1)
    judge_calibrated: bool
    utility_sha256: Sha256 | None
    """Digest of the policy's set of benign questions; null without one."""
    method: Method
    engine: EngineUsed
    tool_version: str
    results: tuple[CellResult, ...]
    comparisons: tuple[ComparisonResult, ...]
    rulings: tuple[Ruling, ...]
    warnings: tuple[str, ...]
    verdict: Digest
    """Of the run's verdict.json, byte for byte."""


class PlainResult(Wire):
    """Predicate `test-result/v0.1`: what any reader of in-toto's test results understands."""

    result: Literal["PASSED", "WARNED", "FAILED"]
    configuration: tuple[Resource, ...]
    passed_tests: tuple[str, ...]
    warned_tests: tuple[str, ...]
    failed_tests: tuple[str, ...]


class PolicyVerifier(Wire):
    """Who vouches, and for which policies."""

    id: str
    policies: tuple[Resource, ...]


class VerificationResult(Wire):
    """Predicate `svr/v0.2`: the properties that were verified. Written only for a pass."""

    verifier: PolicyVerifier
    time_created: Moment
    properties: tuple[str, ...]


class _Statement(Wire):
    type_: Literal["https://in-toto.io/Statement/v1"] = Field(default=STATEMENT_TYPE, alias="_type")
    subject: tuple[Resource, ...] = Field(min_length=1, max_length=1)
    """The candidate's folder alone: a statement holds for each of its subjects, and no base passed by itself."""

    def payload(self) -> bytes:
        """The bytes that are signed."""
        return canonical_json(self.model_dump(mode="json"))


class SafetyEvaluationStatement(_Statement):
    """The evidence."""

    predicate_type: Literal["https://taskgate/attestation/safety-evaluation/v1"] = SAFETY_EVALUATION
    predicate: SafetyEvaluation


class PlainResultStatement(_Statement):
    """The tests by name."""

    predicate_type: Literal["https://in-toto.io/attestation/test-result/v0.1"] = TEST_RESULT
    predicate: PlainResult


class VerificationResultStatement(_Statement):
    """The pass."""

    predicate_type: Literal["https://in-toto.io/attestation/svr/v0.2"] = VERIFICATION_RESULT
    predicate: VerificationResult


Statement = SafetyEvaluationStatement | PlainResultStatement | VerificationResultStatement
_STATEMENT: Final[TypeAdapter[Statement]] = TypeAdapter(Annotated[Statement, Field(discriminator="predicate_type")])


class StatementType(BaseModel):
    """The two fields of a statement that say how to read the rest."""

    model_config = ConfigDict(extra="ignore")

    type_: str = Field(alias="_type")
    predicate_type: str = Field(alias="predicateType")


def read_statement(payload: bytes) -> Statement:
    """Parse what was signed; a pydantic ValidationError says what is wrong with it. Only the wire's own names are read."""
    return _STATEMENT.validate_json(payload, strict=True, by_alias=True, by_name=False)


def predicate_schema() -> dict[str, Any]:
    """JSON Schema of our predicate, as it stands on the wire (checked in as schemas/safety-evaluation.schema.json)."""
    schema = SafetyEvaluation.model_json_schema(by_alias=True, mode="serialization")
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SAFETY_EVALUATION, **schema}
