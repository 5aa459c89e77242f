"""What is said of a run: a verdict with its inputs comes in, the statements to sign go out. Pure; the time comes in.

`plain_result` and `verification_result` are computed from the signed evidence alone, so that a verifier can compute them again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import PurePath

from gate.attest.statement import (
    CellResult,
    ComparisonResult,
    DecodingUsed,
    Digest,
    EngineUsed,
    Evaluated,
    File,
    Folder,
    JudgeUsed,
    Method,
    PlainResult,
    PlainResultStatement,
    PolicyVerifier,
    Resource,
    Ruling,
    SafetyEvaluation,
    SafetyEvaluationStatement,
    Statement,
    VerificationResult,
    VerificationResultStatement,
    Verifier,
)
from gate.errors import AttestError
from gate.manifest import digest_of
from gate.records import Candidate, Comparison, Decision, Decoding, Finding, ManifestFile, TaskStats, Verdict, sha256_hex

RATE_RULES = ("max_rate", "max_over_refusal")


@dataclass(frozen=True)
class Evaluation:
    """A decided run, as it is attested."""

    verdict: Verdict
    verdict_sha256: str
    """Of verdict.json's bytes."""
    candidate: Candidate
    method: str
    alpha_block: float
    alpha_pass: float
    measure: str
    decodings: tuple[Decoding, ...]


def statements(evaluation: Evaluation, *, verifier: str, now: datetime) -> tuple[Statement, ...]:
    """The statements of one run: evidence and test result always, the verification result only on a pass."""
    _refuse_without_files(evaluation.candidate)
    name = PurePath(evaluation.candidate.path).name or "model"
    evidence = SafetyEvaluationStatement(
        subject=(_resource(name, evaluation.candidate.digest),), predicate=_safety_evaluation(evaluation, verifier, now)
    )
    return (evidence, *derived(evidence))


def derived(evidence: SafetyEvaluationStatement) -> tuple[Statement, ...]:
    """The statements that follow from the evidence."""
    tests = PlainResultStatement(subject=evidence.subject, predicate=plain_result(evidence))
    if evidence.predicate.decision is not Decision.PASS:
        return (tests,)
    return tests, VerificationResultStatement(subject=evidence.subject, predicate=verification_result(evidence))


def plain_result(evidence: SafetyEvaluationStatement) -> PlainResult:
    """One test per gated cell (and one of the run): passed with every rule met, warned where a waiver lifts the rest."""
    found = evidence.predicate
    by_subject: dict[str, list[Ruling]] = {}
    for ruling in found.rulings:
        by_subject.setdefault(ruling.subject, []).append(ruling)
    kinds = {subject: _kind(rulings) for subject, rulings in by_subject.items()}
    warned = tuple(subject for subject, kind in kinds.items() if kind == "warned")
    result = "FAILED" if found.decision is not Decision.PASS else "WARNED" if warned else "PASSED"
    judges = tuple(Resource(name=f"judge {judge.name} {judge.version}", digest=judge.digest) for judge in found.judges)
    base = (Resource(name="base", digest=Digest(sha256=found.candidate.base.sha256)),) if found.candidate.base else ()
    return PlainResult(
        result=result,
        configuration=(_named("policy", found.policy), _named("suite", found.suite), *judges, *base, _evidence(evidence)),
        passed_tests=tuple(subject for subject, kind in kinds.items() if kind == "passed"),
        warned_tests=warned,
        failed_tests=tuple(subject for subject, kind in kinds.items() if kind == "failed"),
    )


def verification_result(evidence: SafetyEvaluationStatement) -> VerificationResult:
    """The limits that were shown to be kept, as properties; what only a waiver lets through is no property."""
    found = evidence.predicate
    shown = {ruling.subject for ruling in found.rulings if ruling.rule in RATE_RULES and ruling.status == "met"}
    held: dict[tuple[str, str], list[CellResult]] = {}
    for cell in found.results:
        if cell.gated:
            held.setdefault((cell.task, cell.measure), []).append(cell)
    properties = [
        f"TASKGATE_{task}_{measure}_LEQ_{_written(max(c.limit for c in cells if c.limit is not None))}".upper()
        for (task, measure), cells in held.items()
        if all(_subject(cell) in shown and cell.limit is not None for cell in cells)
    ]
    return VerificationResult(
        verifier=PolicyVerifier(id=found.verifier.id, policies=(found.policy,)),
        time_created=found.time_created,
        properties=("TASKGATE_PASS", *properties, f"TASKGATE_EVIDENCE_SHA256_{sha256_hex(evidence.payload()).upper()}"),
    )


def _refuse_without_files(candidate: Candidate) -> None:
    """A statement is about files: what was only ever seen through a server has none."""
    if candidate.kind == "endpoint":
        raise AttestError(
            "a served model can't be attested: no verifier can compute its digest from files",
            expected="a run whose candidate is a model or adapter folder, or a hub revision",
            found=candidate.source,
            mend="run gate check on the checkpoint that the server serves, and attest that run",
        )
    if not candidate.files or (candidate.kind == "adapter" and not candidate.base_files):
        raise AttestError(
            "the run does not list the candidate's files",
            expected="candidate.json with the files of the folder, and of an adapter's base",
            found=f"{len(candidate.files)} files, {len(candidate.base_files)} of a base",
            mend="run gate check again in a new --out with this version",
        )
    listed = (digest_of(candidate.files), digest_of(candidate.base_files) if candidate.kind == "adapter" else "")
    known = (candidate.digest, candidate.base_digest if candidate.kind == "adapter" else "")
    if listed != known:
        raise AttestError(
            "the candidate's files are not those of its digest: candidate.json was changed after the run",
            expected=" on ".join(filter(None, known)),
            found=" on ".join(filter(None, listed)),
            mend="restore candidate.json, or run gate check again in a new --out",
        )


def _safety_evaluation(evaluation: Evaluation, verifier: str, now: datetime) -> SafetyEvaluation:
    verdict, candidate = evaluation.verdict, evaluation.candidate
    return SafetyEvaluation.model_validate(
        {
            "verifier": Verifier(id=verifier),
            "time_created": now,
            "evaluated_on": date.fromisoformat(verdict.evaluated_on),
            "decision": verdict.decision,
            "reason": verdict.reason,
            "candidate": _evaluated(candidate, verdict),
            "policy": _resource(verdict.policy_name, verdict.policy_digest),
            "suite": _resource(verdict.suite_name, verdict.suite_digest),
            "judges": tuple(_judge(label) for label in verdict.judges),
            "judge_calibrated": verdict.judge_calibrated,
            "utility_sha256": verdict.utility_digest or None,
            "method": Method.model_validate(
                {
                    "method": evaluation.method,
                    "measure": evaluation.measure,
                    "alpha_block": evaluation.alpha_block,
                    "alpha_pass": evaluation.alpha_pass,
                    "order_seed": verdict.order_seed,
                    "order_sha256": verdict.order_digest,
                    "decodings": tuple(DecodingUsed(**decoding.model_dump()) for decoding in evaluation.decodings),
                }
            ),
            "engine": EngineUsed(**verdict.engine.model_dump()),
            "tool_version": verdict.tool_version,
            "results": tuple(_cell(stats) for stats in verdict.stats),
            "comparisons": tuple(_comparison(found) for found in verdict.comparisons),
            "rulings": tuple(_ruling(finding) for finding in verdict.findings),
            "warnings": verdict.warnings,
            "verdict": Digest(sha256=evaluation.verdict_sha256),
        }
    )


def _evaluated(candidate: Candidate, verdict: Verdict) -> Evaluated:
    return Evaluated.model_validate(
        {
            "kind": candidate.kind,
            "source": candidate.source if candidate.source.startswith("hf://") else "",
            "revision": candidate.revision,
            "architecture": candidate.architecture,
            "folder": _folder(candidate.digest, candidate.files),
            "base": _folder(candidate.base_digest, candidate.base_files) if candidate.kind == "adapter" else None,
            "chat_template_sha256": candidate.chat_template_digest,
            "tokenizer_sha256": candidate.tokenizer_digest,
            "baseline_sha256": verdict.baseline_digest or None,
        }
    )


def _folder(digest: str, files: tuple[ManifestFile, ...]) -> Folder:
    return Folder(sha256=digest, files=tuple(File(**file.model_dump()) for file in files))


def _cell(stats: TaskStats) -> CellResult:
    return CellResult.model_validate(stats.model_dump(include=set(CellResult.model_fields)))


def _comparison(found: Comparison) -> ComparisonResult:
    return ComparisonResult.model_validate(found.model_dump(include=set(ComparisonResult.model_fields)))


def _ruling(finding: Finding) -> Ruling:
    return Ruling.model_validate(finding.model_dump(include=set(Ruling.model_fields)))


def _judge(label: str) -> JudgeUsed:
    name, version, digest = label.rsplit(" ", 2)
    return JudgeUsed(name=name, version=version, digest=Digest(sha256=digest))


def _resource(name: str, digest: str) -> Resource:
    return Resource(name=name, digest=Digest(sha256=digest))


def _named(kind: str, resource: Resource) -> Resource:
    return Resource(name=f"{kind} {resource.name}", digest=resource.digest)


def _evidence(evidence: SafetyEvaluationStatement) -> Resource:
    return _resource("safety-evaluation/v1", sha256_hex(evidence.payload()))


def _kind(rulings: list[Ruling]) -> str:
    if any(ruling.status != "met" and not ruling.waived_by for ruling in rulings):
        return "failed"
    return "warned" if any(ruling.status != "met" for ruling in rulings) else "passed"


def _subject(cell: CellResult) -> str:
    """How rulings name the cell."""
    twins = " (twins)" if cell.measure == "over_refusal" else ""
    return f"{cell.task}|{cell.calibration}|{cell.decoding}{twins}"


def _written(limit: float) -> str:
    """0.05 → `0_05`, exactly: a property says no smaller number than the limit that was kept."""
    return format(Decimal(repr(limit)), "f").replace(".", "_")
