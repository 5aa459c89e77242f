"""The story of a check: inputs → cells → attack → decide → report. Each stage can be entered again from the run folder.

    check   asks what is still to be asked, then decides and reports; the same call resumes
    judge   judges the stored answers again (another judge version), then decides and reports
    decide  takes the verdict again from the stored judgements
    report  renders the stored verdict again

This module alone knows the order of the stages. It prints nothing and reads no clock: the date comes in with `Inputs`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from gate import metrics, report
from gate.allowance import Allowance
from gate.answer_log import Side
from gate.attack import Attack, Evidence, Observer
from gate.cells import Cell, Walk, order_digest, paired_cells, plan
from gate.contamination import Overlap
from gate.decide import Provenance, Trial
from gate.decide import decide as take_verdict
from gate.endpoints.base import Endpoint
from gate.errors import RunStoreError, UsageError
from gate.json_lines import disk_failed
from gate.judges.base import Judge
from gate.judging import judge_batch, judge_each, judge_label
from gate.policy import Policy
from gate.quality import check_questions, contests
from gate.records import (
    Candidate,
    EngineInfo,
    Response,
    Role,
    Verdict,
    canonical_json,
    sha256_hex,
)
from gate.run_evidence import candidate_of, evidence_of
from gate.run_store import (
    METRICS,
    RunHeader,
    RunIdentity,
    RunStore,
    create_or_check,
    locked,
    prepare_folder,
    pretty,
    read_telemetry,
)
from gate.standing import standing_of
from gate.stopwatch import UNWATCHED, Stopwatch
from gate.suites import load_suite, write_suite
from gate.suites.base import Suite
from gate.utility_set import FILE, UtilitySet, read_set
from gate.verification import watched

OpenEndpoint = Callable[[Candidate], Endpoint]
"""Loads a candidate's weights; called once per side."""


@dataclass(frozen=True)
class Inputs:
    """Everything a check rests on, resolved and loaded."""

    policy: Policy
    suite: Suite
    candidate: Candidate
    judge: Judge
    today: str
    """Date (UTC, ISO) on which the run begins."""
    baseline: Candidate | None = None
    questions: UtilitySet | None = None
    """The policy's utility set, if it names one."""
    overlap: Overlap | None = None
    """Of the candidate's training data with the items, where its card says what it was."""

    def __post_init__(self) -> None:
        if self.policy.baseline.required and self.baseline is None:
            raise UsageError(
                f"policy {self.policy.name!r} requires a baseline",
                expected="--baseline with the model to compare with",
                mend="give one, or set baseline.required: false",
            )
        known = {item.transform for item in self.suite.items}
        named = {
            n for part in (self.policy.gate.transforms, self.policy.report.transforms) if not isinstance(part, str) for n in part
        }
        if named - known:
            raise UsageError(
                f"policy {self.policy.name!r} names transforms that suite {self.suite.name!r} does not have",
                expected=f"some of: {', '.join(sorted(known))}",
                found=", ".join(sorted(named - known)),
                mend="correct gate.transforms and report.transforms",
            )
        cells = plan_of(self.policy, self.suite, self.questions)
        check_questions(self.policy, cells, self.questions)
        for cell in cells:
            wanted = () if isinstance(self.policy.gate.transforms, str) else self.policy.gate.transforms
            if cell.gated and cell.role is Role.ATTACK and (untested := sorted(set(wanted) - set(cell.transforms))):
                raise UsageError(
                    f"policy {self.policy.name!r} gates transforms that suite {self.suite.name!r} does not hold for {cell.task}",
                    expected=f"items of every gated transform in the {self.policy.split} split",
                    found=f"none of: {', '.join(untested)}",
                    mend="leave them out of gate.transforms, or out of gate.tasks the task",
                )


def tool_version() -> str:
    """The installed version of this program."""
    try:
        return version("taskgate")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+source"


def default_folder(inputs: Inputs) -> Path:
    """`runs/<candidate>-<policy>-<digest of the run's identity>`: the same command finds its own run again."""
    identity = header_of(inputs, plan_of(inputs.policy, inputs.suite, inputs.questions)).identity
    name = Path(inputs.candidate.path).name or "candidate"
    about = canonical_json(identity.model_dump(mode="json"))
    short = sha256_hex(about)[:16]
    return Path("runs") / f"{name}-{inputs.policy.name}-{short}"


def check(
    inputs: Inputs,
    folder: Path,
    open_endpoint: OpenEndpoint,
    *,
    batch_size: int = 64,
    observe: Observer = lambda _: None,
    allowance: Allowance | None = None,
    watch: Stopwatch = UNWATCHED,
) -> Verdict:
    """Run, or resume, a check in `folder`; returns the verdict, which stands there with its reports.

    Where the allowance is spent first, the verdict is taken on what is there, and says what is missing.
    """
    cells = plan_of(inputs.policy, inputs.suite, inputs.questions)
    prepare_folder(folder)
    with locked(folder):
        store = begin(inputs, header_of(inputs, cells), folder)
        watch.begin(folder)
        run_side = partial(attack_side, inputs, store, open_endpoint, batch_size, observe, allowance=allowance or Allowance())
        with watch.stage("candidate"):
            evidence = run_side("candidate", inputs.candidate, cells)
        stopped_by = evidence.stopped_by
        if inputs.baseline is not None and not stopped_by:
            with watch.stage("baseline"):
                stopped_by = run_side("baseline", inputs.baseline, _paired(cells, evidence.walks)).stopped_by
        return decide_and_report(store, cells, stopped_by, watch)


def judge(folder: Path, judge: Judge) -> Verdict:
    """Judge the stored answers again, then decide and report."""
    with locked(folder):
        store = RunStore(folder)
        store.load()
        cells = _stored_plan(store)
        cases = {case.id: case for cell in cells for case in cell.cases}
        # The judge's name first: judgements of another are left out on loading, so a kill in between mixes nothing.
        store.drop_verdict()
        store.set_judge(judge_label(judge), calibrated=judge.calibrated)
        for log in store.logs.values():
            answers = (a for a in log.answers() if isinstance(a, Response) and a.case_id in cases)
            log.replace_opinions(judge_each(((cases[a.case_id], a) for a in answers), judge))
        return decide_and_report(store, cells)


def decide(folder: Path) -> Verdict:
    """Take the verdict again from the stored judgements, and report."""
    with locked(folder):
        return decide_and_report(*whole_run(folder))


def whole_run(folder: Path) -> tuple[RunStore, tuple[Cell, ...]]:
    """The run in the folder, its evidence loaded, and its plan; its lock is held. Judgements of another judge are refused."""
    store = RunStore(folder)
    store.load()
    if foreign := sum(log.foreign for log in store.logs.values()):
        raise RunStoreError(
            f"{folder}: {foreign} judgements are not of the run's judge",
            expected=store.header.identity.judge,
            mend="run `gate judge` on the folder: it judges every answer again",
        )
    return store, _stored_plan(store)


def report_again(folder: Path, *, unmasked: bool = False) -> Verdict:
    """Render the stored verdict again, with prompts and answers in full where asked."""
    with locked(folder):
        store = RunStore(folder)
        store.load()
        cells = _stored_plan(store)  # first: a shard is told that it is one, not that its verdict is missing
        verdict = store.verdict()
        _write_reports(store, verdict, cells, unmasked=unmasked)
        return verdict


def purge(folder: Path) -> Verdict | None:
    """Remove every answer from the folder; a verdict and its reports stay, without examples. Null where there was none yet."""
    with locked(folder):
        store = RunStore(folder)
        verdict = store.verdict() if (folder / "verdict.json").exists() else None
        rendered = report.render_all(evidence_of(store, verdict)) if verdict else {}
        store.purge({name: text.encode() for name, text in rendered.items()})
        return verdict


def _paired(cells: Sequence[Cell], walks: Mapping[str, Walk]) -> tuple[Cell, ...]:
    """What a baseline is asked: the gated attacks that the candidate's decision read, and all that is compared beside them."""
    return paired_cells(cells, lambda cell: len(walks[cell.id].states))


def plan_of(policy: Policy, suite: Suite, questions: UtilitySet | None = None) -> tuple[Cell, ...]:
    """The cells of a run, each in its committed order."""
    return plan(policy, suite.items, suite.system_prompt, suite.digest, questions.items if questions else ())


def _stored_plan(store: RunStore) -> tuple[Cell, ...]:
    """The plan of the run in the folder. A shard is refused: it holds a part of a run, which nothing is decided on."""
    if store.header.identity.shard:
        raise RunStoreError(
            f"{store.folder} holds shard {store.header.identity.shard} of a run, not a run",
            expected="the folder of a whole run, or of a merged one",
            mend="merge it with the run's other shards: gate merge OUT SHARD...",
        )
    return stored_plan(store)


def stored_plan(store: RunStore) -> tuple[Cell, ...]:
    """The plan that the folder's own inputs give; inputs that were changed since the run began are refused."""
    policy, suite, identity = store.policy(), load_suite(store.folder / "suite"), store.header.identity
    questions = stored_questions(store)
    cells = plan_of(policy, suite, questions)
    begun = (identity.policy_digest, identity.suite_digest, identity.order_digest, identity.utility_digest)
    found = (policy.digest, suite.digest, order_digest(cells), questions.digest if questions else "")
    if begun != found:
        raise RunStoreError(
            f"{store.folder}: suite, policy or utility set in the folder are not those the run was begun with",
            expected=f"policy, suite, order and utility digest {', '.join(d[:16] or 'none' for d in begun)}",
            found=", ".join(d[:16] or "none" for d in found),
            mend=f"restore policy.json, suite/ and {FILE}, or choose another --out",
        )
    return cells


def stored_questions(store: RunStore) -> UtilitySet | None:
    """The utility set in the run folder, if the run has one."""
    return read_set(store.folder / FILE) if store.policy().utility.set else None


def header_of(inputs: Inputs, cells: tuple[Cell, ...]) -> RunHeader:
    """What `run.json` says of a run that begins now."""
    return RunHeader(
        identity=RunIdentity(
            candidate_digest=inputs.candidate.trial_digest,
            baseline_digest=inputs.baseline.trial_digest if inputs.baseline else "",
            policy_digest=inputs.policy.digest,
            suite_name=inputs.suite.name,
            suite_digest=inputs.suite.digest,
            order_digest=order_digest(cells),
            utility_digest=inputs.questions.digest if inputs.questions else "",
            judge=judge_label(inputs.judge),
        ),
        begun_on=inputs.today,
        tool_version=tool_version(),
        judge_calibrated=inputs.judge.calibrated,
    )


def begin(inputs: Inputs, header: RunHeader, folder: Path) -> RunStore:
    """Open the run folder: begin it, or check that it is this run's, and read what is there."""
    if not (folder / "run.json").exists():
        try:
            write_suite(inputs.suite, folder / "suite", compress=True)
        except OSError as error:
            raise disk_failed(folder / "suite", error) from error
    files = {"policy.json": pretty(inputs.policy), "candidate.json": pretty(inputs.candidate)}
    if inputs.baseline is not None:
        files["baseline.json"] = pretty(inputs.baseline)
    if inputs.questions is not None:
        files[FILE] = inputs.questions.lines
    create_or_check(folder, header, files)
    store = RunStore(folder)
    _refuse_expired(inputs, store)
    store.cut_unverified()
    store.set_overlap(inputs.overlap)
    for log in store.logs.values():
        log.mend()
    store.load()
    return store


def _refuse_expired(inputs: Inputs, store: RunStore) -> None:
    """A run keeps the date it began on; one that began under a waiver which has expired since may not go on under it."""
    begun, today = date.fromisoformat(store.header.begun_on), date.fromisoformat(inputs.today)
    for waiver in inputs.policy.waivers:
        if begun <= waiver.expires < today:
            raise RunStoreError(
                f"{store.folder} was begun under a waiver that has expired since",
                expected=f"{waiver.rule} on {waiver.task}, waived by {waiver.owner} until {waiver.expires}",
                found=f"begun on {begun}, today is {today}",
                mend="choose another --out, and renew the waiver or leave it out of the policy",
            )


def attack_side(
    inputs: Inputs,
    store: RunStore,
    open_endpoint: OpenEndpoint,
    batch_size: int,
    observe: Observer,
    side: Side,
    candidate: Candidate,
    cells: tuple[Cell, ...],
    allowance: Allowance | None = None,
    *,
    part: bool = False,
) -> Evidence:
    """Ask one side's cells (`part`: a shard's); the weights are freed before the next side's are loaded."""
    endpoint = open_endpoint(candidate)
    try:
        store.set_engine(endpoint.info)
        with watched(endpoint, store, side) as watch:
            return Attack(
                endpoint=endpoint,
                trial_digest=candidate.trial_digest,
                cells=cells,
                policy=inputs.policy,
                log=store.logs[side],
                judge=lambda pairs: judge_batch(pairs, inputs.judge),
                batch_size=batch_size,
                observe=observe,
                changing=store.drop_verdict,
                beginning=watch.begin,
                kept=watch.kept,
                part=part,
                allowance=allowance or Allowance(),
            ).run()
    finally:
        endpoint.close()


def decide_and_report(store: RunStore, cells: tuple[Cell, ...], stopped_by: str = "", watch: Stopwatch = UNWATCHED) -> Verdict:
    """Stored evidence → verdict.json, the reports, metrics.prom. `stopped_by` names the limit that ended the asking early."""
    with watch.stage("decide"):
        verdict = _decide_and_report(store, cells, stopped_by)
    watch.finish()
    standing = standing_of(verdict, candidate_of(store), store.policy(), read_telemetry(store.folder))
    store.write(METRICS, metrics.exposition([metrics.alone(standing)], tool_version()))
    return verdict


def _decide_and_report(store: RunStore, cells: tuple[Cell, ...], stopped_by: str) -> Verdict:
    for log in store.logs.values():
        log.sync()
    verdict = decided(store, cells, stopped_by)
    store.write("verdict.json", pretty(verdict))
    _write_reports(store, verdict, cells, unmasked=False)
    return verdict


def decided(store: RunStore, cells: tuple[Cell, ...], stopped_by: str = "") -> Verdict:
    """Stored evidence → the verdict on it. Writes nothing."""
    policy = store.policy()
    evidence = Evidence(cells, policy, store.logs["candidate"])
    baseline = None
    against = store.logs["baseline"] if store.candidate("baseline") is not None else None
    if against is not None:
        baseline = Evidence(_paired(cells, evidence.walks), policy, against).outcomes
    compared = contests(cells, store.logs["candidate"], against, stored_questions(store))
    trial = Trial(cells=cells, walks=evidence.walks, baseline=baseline, stopped_by=stopped_by, contests=compared)
    return take_verdict(policy, trial, _provenance(store))


def _provenance(store: RunStore) -> Provenance:
    candidate, baseline, header = candidate_of(store), store.candidate("baseline"), store.header
    begun = (header.identity.candidate_digest, header.identity.baseline_digest)
    found = (candidate.trial_digest, baseline.trial_digest if baseline else "")
    if begun != found:
        raise RunStoreError(
            f"{store.folder}: candidate.json or baseline.json are not those the run was begun with",
            expected=", ".join(d[:16] or "none" for d in begun),
            found=", ".join(d[:16] or "none" for d in found),
            mend="restore them, or choose another --out",
        )
    return Provenance(
        candidate_digest=candidate.digest,
        base_digest=candidate.base_digest,
        baseline_digest=baseline.digest if baseline else "",
        suite_name=header.identity.suite_name,
        suite_digest=header.identity.suite_digest,
        utility_digest=header.identity.utility_digest,
        judges=(header.identity.judge,),
        judge_calibrated=header.judge_calibrated,
        order_digest=header.identity.order_digest,
        engine=header.engine or EngineInfo(name="none", version="", dtype="", device=""),
        tool_version=tool_version(),
        evaluated_on=header.begun_on,
        overlap=store.overlap(),
        warnings=candidate.warnings,
    )


def _write_reports(store: RunStore, verdict: Verdict, cells: tuple[Cell, ...], *, unmasked: bool) -> None:
    walks = Evidence(cells, store.policy(), store.logs["candidate"]).walks
    shown = evidence_of(store, verdict, cells, walks, unmasked=unmasked)
    for name, text in report.render_all(shown).items():
        store.write(name, text.encode())
