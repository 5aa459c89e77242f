"""May a model be deployed? An attestation, what is trusted, and what lies on disk come in; a `Verified` goes out, or a refusal.

`verify` makes the checks one after the other, always in the same order: key, payload type, predicate type, verifier, subject,
policy, suite, age, decision. A reader sees one reason, that of the first check that fails. Nothing is taken from the attestation
before its key was checked. Pure but for `measure`, which reads the folder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from gate.attest.envelope import SignedLine, opened, read_lines
from gate.attest.predicates import derived
from gate.attest.statement import (
    PAYLOAD_TYPE,
    SAFETY_EVALUATION,
    TEST_RESULT,
    VERIFICATION_RESULT,
    Evaluated,
    Folder,
    SafetyEvaluationStatement,
    Statement,
    StatementType,
    read_statement,
)
from gate.errors import RefusedAttestation
from gate.records import Decision, ManifestFile, Record

if TYPE_CHECKING:
    from securesystemslib.signer import Key

TYPES: Final = (SAFETY_EVALUATION, TEST_RESULT, VERIFICATION_RESULT)
CLOCK_SKEW: Final = timedelta(minutes=5)
"""How far in the future an attestation's time may lie, for clocks that differ."""


@dataclass(frozen=True)
class Measured:
    """A folder as it lies on disk."""

    sha256: str
    files: tuple[ManifestFile, ...]


Measure = Callable[[Evaluated], tuple[Measured, Measured | None]]
"""Measures the candidate's folder, and its base's where the attestation says that it is an adapter."""


@dataclass(frozen=True)
class Trusted:
    """What the deployer accepts."""

    keys: tuple[Key, ...]
    verifier: str
    policies: frozenset[str]
    """Digests of policies."""
    max_age: timedelta
    suites: frozenset[str] = frozenset()
    """Digests of suites, which no policy's digest covers; empty: any."""


class Verified(Record):
    """What was verified."""

    subject: str
    sha256: str
    base_sha256: str
    decision: Decision
    reason: str
    policy: str
    policy_sha256: str
    suite: str
    suite_sha256: str
    """Of what was asked, which a policy names and its digest does not cover."""
    verifier: str
    keyid: str
    signed_at: datetime
    evaluated_on: str
    tool_version: str


def verify(attestation: bytes, trusted: Trusted, measure: Measure, now: datetime) -> Verified:
    """Check everything, in order. Raises RefusedAttestation with the first reason; what `measure` raises goes through."""
    lines = read_lines(attestation)
    payloads = _key(lines, trusted.keys)
    _payload_type(lines)
    statements = _predicate_type(payloads)
    evidence = _evidence(statements)
    _verifier(evidence, trusted.verifier)
    _subject(evidence, measure)
    _policy(evidence, trusted.policies)
    _suite(evidence, trusted.suites)
    _age(evidence, trusted.max_age, now)
    _decision(evidence)
    found = evidence.predicate
    return Verified(
        subject=evidence.subject[0].name,
        sha256=found.candidate.folder.sha256,
        base_sha256=found.candidate.base.sha256 if found.candidate.base else "",
        decision=found.decision,
        reason=found.reason,
        policy=found.policy.name,
        policy_sha256=found.policy.digest.sha256,
        suite=found.suite.name,
        suite_sha256=found.suite.digest.sha256,
        verifier=found.verifier.id,
        keyid=lines[0].signatures[0].keyid,
        signed_at=found.time_created,
        evaluated_on=found.evaluated_on.isoformat(),
        tool_version=found.tool_version,
    )


def _key(lines: Sequence[SignedLine], keys: Sequence[Key]) -> list[bytes]:
    """Every line is signed by one of the keys, all by the same."""
    payloads: list[bytes] = []
    for number, line in enumerate(lines, start=1):
        payload = opened(line, keys)
        if payload is None:
            raise RefusedAttestation(
                "key",
                "the attestation is not signed by a trusted key, or was changed after it was signed",
                expected=f"a signature by {', '.join(key.keyid[:16] for key in keys)}",
                found=f"line {number}, which says {line.signatures[0].keyid[:16]!a}",
                mend="fetch the attestation again; if the key was rotated, give the new public key",
            )
        payloads.append(payload)
    if len({line.signatures[0].keyid for line in lines}) != 1:
        raise RefusedAttestation("key", "the attestation's lines are signed by different keys", mend="attest the run again")
    return payloads


def _payload_type(lines: Sequence[SignedLine]) -> None:
    for line in lines:
        if line.payload_type != PAYLOAD_TYPE:
            raise RefusedAttestation(
                "payload type",
                "the key signed something that is no in-toto statement",
                expected=PAYLOAD_TYPE,
                found=ascii(line.payload_type),
            )


def _predicate_type(payloads: Sequence[bytes]) -> list[Statement]:
    """The known statements, one of each kind, in the order in which they are written."""
    names: list[str] = []
    for payload in payloads:
        try:
            names.append(StatementType.model_validate_json(payload, strict=True).predicate_type)
        except ValidationError as error:
            raise RefusedAttestation("predicate type", "the key signed something that is no in-toto statement") from error
    if names[:2] != list(TYPES[:2]) or names[2:] not in ([], [VERIFICATION_RESULT]):
        raise RefusedAttestation(
            "predicate type",
            "the attestation does not hold what gate attest writes",
            expected=f"{TYPES[0]}, {TYPES[1]}, and on a pass {TYPES[2]}",
            found=", ".join(map(ascii, names)),
            mend="one run's attestation to a file; other statements about the model belong into files of their own",
        )
    try:
        statements = [read_statement(payload) for payload in payloads]
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise _unknown_form(f"{place}: {first['msg']}") from error
    if [statement.payload() for statement in statements] != list(payloads):
        raise _unknown_form("the same content, written otherwise")
    return statements


def _unknown_form(found: str) -> RefusedAttestation:
    return RefusedAttestation(
        "predicate type",
        "a statement is not of the form that this version knows",
        found=found,
        mend="verify with the version that attested, or attest the run again with this one",
    )


def _evidence(statements: Sequence[Statement]) -> SafetyEvaluationStatement:
    """The evidence, once everything said beside it follows from it."""
    evidence = statements[0]
    assert isinstance(evidence, SafetyEvaluationStatement)
    if tuple(statements[1:]) != derived(evidence):
        raise RefusedAttestation(
            "predicate type",
            "the attestation contradicts itself: test result or verification result do not follow from the evidence",
            mend="attest the run again",
        )
    return evidence


def _verifier(evidence: SafetyEvaluationStatement, trusted: str) -> None:
    if (found := evidence.predicate.verifier.id) != trusted:
        raise RefusedAttestation(
            "verifier",
            "somebody else vouches for this model",
            expected=trusted,
            found=found,
            mend="give --verifier the identity that your releases are attested under",
        )


def _subject(evidence: SafetyEvaluationStatement, measure: Measure) -> None:
    """The folders on disk are the ones that were attested: root digests, and every file by name and content."""
    candidate = evidence.predicate.candidate
    if evidence.subject[0].digest.sha256 != candidate.folder.sha256 or (candidate.kind == "adapter") != (
        candidate.base is not None
    ):
        raise RefusedAttestation("subject", "the attestation contradicts itself: its subject is not the model that was evaluated")
    folder, base = measure(candidate)
    _same_folder("the model folder", candidate.folder, folder)
    if candidate.base is not None:
        if base is None:
            raise RefusedAttestation("subject", "the adapter's base was not measured", mend="give --base FOLDER")
        _same_folder("the base's folder", candidate.base, base)


def _same_folder(what: str, signed: Folder, found: Measured) -> None:
    theirs = {file.path: (file.size, file.sha256) for file in signed.files}
    ours = {file.path: (file.size, file.sha256) for file in found.files}
    if theirs == ours and signed.sha256 == found.sha256:
        return
    changed = sorted(name for name in theirs.keys() & ours.keys() if theirs[name] != ours[name])
    groups = {
        "changed": changed,
        "missing": sorted(theirs.keys() - ours.keys()),
        "not attested": sorted(ours.keys() - theirs.keys()),
    }
    told = [f"{kind}: {_listed(names)}" for kind, names in groups.items() if names]
    raise RefusedAttestation(
        "subject",
        f"{what} is not the one that was attested",
        expected=f"sha256 {signed.sha256}",
        found=f"sha256 {found.sha256}; {'; '.join(told) or 'the files agree with the list, and the list not with its digest'}",
        mend="deploy the checkpoint that was gated, or gate this one",
    )


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(map(ascii, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _policy(evidence: SafetyEvaluationStatement, allowed: frozenset[str]) -> None:
    policy = evidence.predicate.policy
    if policy.digest.sha256 not in allowed:
        raise RefusedAttestation(
            "policy",
            "the model was held to a policy that is not allowed here",
            expected=", ".join(sorted(allowed)) or "no policy at all",
            found=f"{policy.digest.sha256} ({policy.name!a})",
            mend="gate the model under the policy of this deployment; `gate policy validate FILE` prints a policy's digest",
        )


def _suite(evidence: SafetyEvaluationStatement, allowed: frozenset[str]) -> None:
    suite = evidence.predicate.suite
    if allowed and suite.digest.sha256 not in allowed:
        raise RefusedAttestation(
            "suite",
            "the model was asked a suite that is not allowed here",
            expected=", ".join(sorted(allowed)),
            found=f"{suite.digest.sha256} ({suite.name!a})",
            mend="gate the model on the suite of this deployment; `gate suite show SUITE` prints a suite's digest",
        )


def _age(evidence: SafetyEvaluationStatement, max_age: timedelta, now: datetime) -> None:
    """Neither the signature nor the run under it may be too old, or from the future. A run's date counts to the day's end."""
    signed, begun = evidence.predicate.time_created, evidence.predicate.evaluated_on
    if signed > now + CLOCK_SKEW or begun > (now + CLOCK_SKEW).date():
        raise RefusedAttestation(
            "age",
            "the attestation is from the future",
            expected=f"not after {now:%Y-%m-%dT%H:%M:%SZ}",
            found=f"signed {signed:%Y-%m-%dT%H:%M:%SZ}, evaluated {begun}",
            mend="set the clocks of signer and verifier right",
        )
    evaluated = datetime.combine(begun, time(tzinfo=UTC)) + timedelta(days=1)
    if now - min(signed, evaluated) > max_age:
        raise RefusedAttestation(
            "age",
            "the attestation is too old",
            expected=f"at most {max_age} old",
            found=f"signed {signed:%Y-%m-%dT%H:%M:%SZ}, evaluated {begun}",
            mend="run gate check again in a new --out and attest it",
        )


def _decision(evidence: SafetyEvaluationStatement) -> None:
    if (found := evidence.predicate.decision) is not Decision.PASS:
        raise RefusedAttestation(
            "decision", f"the gate did not let this model pass: {found}", expected="pass", found=evidence.predicate.reason
        )
