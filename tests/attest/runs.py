"""Decided runs of real folders with scripted answers, a fixed key, and attestations of them; no model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from securesystemslib.signer import CryptoSigner, SSlibKey

from gate import pipeline
from gate.attest.envelope import sign
from gate.attest.predicates import Evaluation, statements
from gate.attest.statement import VERIFIER, Evaluated, SafetyEvaluationStatement, Statement
from gate.attest.verify import Measured, Trusted, Verified, verify
from gate.candidate import load_candidate
from gate.conformance.scene import TODAY, Model, safe, small_policy, small_suite
from gate.judges import make_judge
from gate.manifest import manifest
from gate.policy import Policy
from gate.records import sha256_hex
from gate.replay import replay
from tests.folders import scripted

SIGNED = datetime(2026, 1, 1, 12, tzinfo=UTC)
"""When the tests' attestations are signed: on the day of their runs."""
NOW = SIGNED + timedelta(days=3)


def key_number(number: int = 1) -> CryptoSigner:
    """A key that is the same every time, and nobody's."""
    return CryptoSigner(ec.derive_private_key(number, ec.SECP256R1()))


def run_of(
    folder: Path,
    out: Path,
    model: Model | None = None,
    *,
    base: Path | None = None,
    policy: Policy | None = None,
    baseline: bool = False,
) -> Path:
    """A whole run about the files in `folder`, answered by `model` (default: an aligned one), or against itself."""
    answering = model or Model("aligned", safe)
    candidate = load_candidate(str(folder), base=str(base) if base else None)
    inputs = pipeline.Inputs(
        policy=policy or small_policy(),
        suite=small_suite(),
        candidate=candidate,
        judge=make_judge("rules"),
        today=TODAY,
        baseline=candidate if baseline else None,
    )
    pipeline.check(inputs, out, scripted(answering), batch_size=32)
    return out


def evaluation_of(run: Path) -> Evaluation:
    """The run, as it is attested."""
    found = replay(run)
    assert found.same
    policy = found.policy
    return Evaluation(
        verdict=found.verdict,
        verdict_sha256=sha256_hex(found.stored),
        candidate=found.candidate,
        method=policy.decision.method,
        alpha_block=policy.decision.alpha_block,
        alpha_pass=policy.decision.alpha_pass,
        measure=policy.measure,
        decodings=(*policy.gate.decodings, *policy.report.decodings),
    )


def statements_of(run: Path, *, verifier: str = VERIFIER, signed: datetime = SIGNED) -> tuple[Statement, ...]:
    """What is said of a run."""
    return statements(evaluation_of(run), verifier=verifier, now=signed)


def signed(said: Sequence[Statement], key: int = 1) -> bytes:
    """The statements, signed."""
    return sign([statement.payload() for statement in said], key_number(key))


def evidence_of(said: Sequence[Statement]) -> SafetyEvaluationStatement:
    """The first statement."""
    assert isinstance(said[0], SafetyEvaluationStatement)
    return said[0]


def trusted(said: Sequence[Statement], *keys: int, days: int = 30) -> Trusted:
    """What a deployer of this run's model trusts."""
    found = evidence_of(said).predicate
    public: list[SSlibKey] = []
    for key in keys or (1,):
        owned = key_number(key).public_key
        assert isinstance(owned, SSlibKey)
        public.append(owned)
    policies, suites = frozenset({found.policy.digest.sha256}), frozenset({found.suite.digest.sha256})
    return Trusted(tuple(public), VERIFIER, policies, timedelta(days=days), suites)


def measured(folder: Path) -> Measured:
    """A folder on disk."""
    files, digest = manifest(folder)
    return Measured(digest, files)


def verified(attestation: bytes, trust: Trusted, folder: Path, base: Path | None = None, now: datetime = NOW) -> Verified:
    """Verify against folders on disk."""

    def measure(_: Evaluated) -> tuple[Measured, Measured | None]:
        return measured(folder), measured(base) if base else None

    return verify(attestation, trust, measure, now)
