"""The story of a repair: a blocked run → settings, each gated on the tuning half → one gate on the held-out half.

In: a run that blocked its candidate, and what the methods need. Out: a folder with one run per try, the repaired model and
`repair_card.json`; or, where no setting meets the policy, the trade-off curve. The same call resumes: a try that has its
verdict is not made again. The statistics of the held-out gate account for every look that repairs of the run have had
(`repair.ledger`).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Literal

from gate import pipeline
from gate.attack import Observer
from gate.candidate import load_candidate
from gate.endpoints.base import Endpoint
from gate.errors import UsageError
from gate.json_lines import write_whole
from gate.judges import make_judge
from gate.manifest import root_digest
from gate.policy import Policy
from gate.records import Candidate, Decision, Record, Verdict, sha256_hex
from gate.repair.base import Method, Setting, Source, Tell
from gate.repair.card import UNREPAIRED, HeldOut, RepairCard, Try, Untried, digest_of, try_of
from gate.repair.curve import as_markdown, as_svg
from gate.repair.ledger import take_look
from gate.repair.policies import (
    compares,
    held_out_policy,
    refuse_without_tuning_half,
    tuning_policy,
    with_mean_drop,
    without_comparisons,
)
from gate.repair.remembering import Remembering
from gate.repair.search import most_attempts, search
from gate.repair.serving import kept_by_calibration
from gate.run_store import RunStore, locked, pretty, read_record
from gate.suites import load_suite
from gate.suites.base import Suite
from gate.utility_set import FILE, UtilitySet, read_set

IDENTITY: Final = "repair.json"
CARD: Final = "repair_card.json"
CURVE: Final = "curve"
OURS: Final = {IDENTITY, CARD, f"{CURVE}.md", f"{CURVE}.svg", "models", "runs", "tries", ".lock"}

Watch = Callable[[Policy], AbstractContextManager[Observer]]
"""Shows the progress of one check."""


@dataclass(frozen=True)
class News:
    """What a user is told while it goes on."""

    kind: Literal["try", "tried", "untried", "held-out"]
    text: str


@dataclass(frozen=True)
class Wish:
    """What was asked for."""

    run: Path
    """The blocked run's folder."""
    out: Path
    methods: tuple[Method, ...]
    settings: Mapping[str, tuple[Setting, ...]] = field(default_factory=dict)
    """Method → the settings to try in place of its own."""
    margin: float = 0.2
    """Share of each limit that the tuning half's are lowered by."""
    keep: bool = False
    """Whether models that did not pass are kept on the disk."""


class _Identity(Record):
    """`repair.json`: what a repair's folder is about."""

    schema_version: Literal["taskgate/repair/v1"] = "taskgate/repair/v1"
    run_verdict_digest: str
    candidate_digest: str
    policy_digest: str
    """Of the policy of the tuning half, margin and all."""
    inputs: dict[str, str]
    """What was given beside the candidate → its digest."""


@dataclass(frozen=True)
class Blocked:
    """The run to repair."""

    folder: Path
    verdict: Verdict
    policy: Policy
    suite: Suite
    questions: UtilitySet | None
    """The policy's utility set, if it names one."""


@contextmanager
def _silent(_: str) -> Iterator[Tell]:
    """Steps that nobody is shown."""
    yield lambda _, __: None


@dataclass(frozen=True)
class Bench:
    """All that a try needs beside its setting."""

    wish: Wish
    blocked: Blocked
    source: Source
    open_endpoint: pipeline.OpenEndpoint
    watch: Watch
    tell: Callable[[News], None]
    today: str
    batch_size: int = 64
    steps: Callable[[str], AbstractContextManager[Tell]] = _silent

    @cached_property
    def _remembering(self) -> Remembering:
        return Remembering(lambda: self.open_endpoint(self.source.candidate))

    def remembered(self, _: Candidate) -> Endpoint:
        """The unrepaired candidate's endpoint: one for all checks, so that it is asked each question once."""
        return self._remembering


def repair(bench: Bench) -> RepairCard:
    """Try, choose, and gate once; returns the card, which stands in the folder with the curve."""
    policy = tuning_policy(bench.blocked.policy, bench.wish.margin)
    refuse_without_tuning_half(bench.blocked.policy, bench.blocked.suite)
    untried = _untried(bench)
    with _begun(bench, policy):
        plain = without_comparisons(policy)
        tries = [_gated(bench, UNREPAIRED, Setting(values={}), plain, lambda _: bench.source.candidate)]
        chosen: Try | None = None
        for method in bench.wish.methods:
            if chosen is None and method.name not in {item.method for item in untried}:
                chosen = _search(bench, method, policy, tries)
        held_out = _held_out(bench, chosen) if chosen is not None else None
        card = _card(bench, tries, untried, chosen, held_out)
        _write(bench, card)
    return card


def blocked_run(folder: Path, max_mean_drop: float | None = None) -> Blocked:
    """The blocked run in a folder; `max_mean_drop` in place of its policy's. Raises `UsageError` for a run that did not block."""
    store = RunStore(folder)
    verdict = store.verdict()
    if verdict.decision is not Decision.BLOCK:
        raise UsageError(
            f"{folder} holds a run whose verdict is {verdict.decision}",
            expected="a run that blocked its candidate",
            mend="a pass needs no repair; an inconclusive run needs more evidence first",
        )
    policy = store.policy() if max_mean_drop is None else with_mean_drop(store.policy(), max_mean_drop)
    questions = read_set(folder / FILE) if policy.utility.set else None
    return Blocked(folder, verdict, policy, load_suite(folder / "suite"), questions)


def candidate_of(folder: Path) -> Candidate:
    """The run's candidate, found and measured again. Raises `UsageError` where it is served, or is not what was gated."""
    stored = RunStore(folder).candidate()
    if stored is None or stored.kind == "endpoint":
        raise UsageError(
            f"{folder} is about a served model: its weights are not at hand",
            expected="a run of a model or adapter folder",
            mend="check the checkpoint that the server serves, and repair that run",
        )
    found = load_candidate(stored.path, base=stored.base_path or None, template_mismatch="warn")
    if found.trial_digest != stored.trial_digest:
        raise UsageError(
            f"{stored.path} is not what the run blocked",
            expected=f"digest {stored.digest[:16]}, base {stored.base_digest[:16] or 'none'}",
            found=f"digest {found.digest[:16]}, base {found.base_digest[:16] or 'none'}",
            mend="restore the candidate, or check what is there now and repair that run",
        )
    return found


def _untried(bench: Bench) -> tuple[Untried, ...]:
    """The methods that can't be tried, each with the reason. Raises `UsageError` where that is all of them."""
    found = []
    for method in bench.wish.methods:
        lacking = bench.source.lacking(method.needs)
        if why := f"needs {', '.join(lacking)}" if lacking else method.unfit(bench.source):
            found.append(Untried(method=method.name, why=why))
            bench.tell(News("untried", f"{method.name}: not tried: {why}"))
    if len(found) == len(bench.wish.methods):
        raise UsageError(
            "no method can be tried",
            expected="what at least one method needs",
            found="; ".join(f"{item.method}: {item.why}" for item in found),
            mend="give what is named above, or choose other --methods",
        )
    return tuple(found)


@contextmanager
def _begun(bench: Bench, policy: Policy) -> Iterator[None]:
    """The repair's folder, locked: made new, or seen to be this repair's."""
    out, source = bench.wish.out, bench.source
    given = {"aligned": source.aligned, "unaligned": source.unaligned, "safety adapter": source.safety_adapter}
    files = {"safety": source.safety, "retain": source.retain, "recipe": source.recipe}
    identity = _Identity(
        run_verdict_digest=digest_of(bench.blocked.verdict),
        candidate_digest=source.candidate.trial_digest,
        policy_digest=policy.digest,
        inputs={name: model.trial_digest for name, model in given.items() if model is not None}
        | {name: sha256_hex(file.read_bytes()) for name, file in files.items() if file is not None},
    )
    path = out / IDENTITY
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is no folder", expected="a repair's folder, or a name that is free", mend="choose another --out")
    if not path.exists() and out.exists() and (strange := sorted(p.name for p in out.iterdir() if p.name not in OURS)):
        raise UsageError(
            f"{out} is not empty and is no repair's folder", found=", ".join(strange[:5]), mend="choose another --out"
        )
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    with locked(out):
        if path.exists() and (found := read_record(path, _Identity)) != identity:
            different = [name for name in _Identity.model_fields if getattr(found, name) != getattr(identity, name)]
            raise UsageError(
                f"{out} belongs to another repair", found=f"other {', '.join(different)}", mend="choose another --out"
            )
        write_whole(path, pretty(identity))
        yield


def _search(bench: Bench, method: Method, policy: Policy, tries: list[Try]) -> Try | None:
    """Try a method's settings; adds to `tries`, and returns the one that passes with the least change."""
    settings = bench.wish.settings.get(method.name) or method.settings()
    most, before = most_attempts(method.search, len(settings)), len(tries)

    def attempt(setting: Setting) -> Try:
        number = len(tries) - before + 1
        bench.tell(News("try", f"{method.name}: {setting.label or 'as it is'} ({number} of at most {most})"))

        def make(out: Path) -> Candidate:
            if not out.exists():
                with bench.steps(f"{method.name}: {setting.label}") as steps:
                    method.apply(bench.source, setting, out, steps)
            return _scanned(bench.source, out)

        tried = _gated(bench, method.name, setting, policy, make)
        tries.append(tried)
        bench.tell(News("tried", f"{tried.label}: {tried.decision.upper()} on the tuning half. {tried.reason}"))
        return tried

    return search(method.search, settings, attempt)


def _scanned(source: Source, folder: Path) -> Candidate:
    """A repaired folder through the gate's own ingest, on the candidate's base where it is an adapter."""
    adapter = (folder / "adapter_config.json").is_file()
    base = source.candidate.base_path or (source.aligned.path if source.aligned else "")
    return load_candidate(str(folder), base=base if adapter else None)


def _gated(bench: Bench, method: str, setting: Setting, policy: Policy, make: Callable[[Path], Candidate]) -> Try:
    """Make a setting and put it through the tuning half; a try that has its record is only read."""
    name = _name(method, setting)
    record, run = bench.wish.out / "tries" / f"{name}.json", bench.wish.out / "runs" / name
    if record.exists():
        return read_record(record, Try)
    model = bench.wish.out / "models" / name
    candidate = make(model)
    verdict = _check(bench, without_comparisons(policy), candidate, run)
    if verdict.decision is Decision.PASS and compares(policy):
        verdict = _check(bench, policy, candidate, run.with_name(f"{name}-compared"))
    tried = try_of(method, setting, candidate.trial_digest, verdict)
    write_whole(record, pretty(tried))
    if not tried.passed and not bench.wish.keep:
        shutil.rmtree(model, ignore_errors=True)
    return tried


def _check(bench: Bench, policy: Policy, candidate: Candidate, run: Path) -> Verdict:
    """One check; the unrepaired candidate is what quality is compared with, where the policy limits its loss."""
    unrepaired = bench.source.candidate
    inputs = pipeline.Inputs(
        policy=policy,
        suite=bench.blocked.suite,
        candidate=candidate,
        judge=make_judge(policy.judge),
        today=bench.today,
        baseline=unrepaired if compares(policy) else None,
        questions=bench.blocked.questions if policy.utility.set else None,
    )

    def open_endpoint(found: Candidate) -> Endpoint:
        return bench.remembered(found) if found.trial_digest == unrepaired.trial_digest else bench.open_endpoint(found)

    with bench.watch(policy) as observe:
        return pipeline.check(inputs, run, open_endpoint, batch_size=bench.batch_size, observe=observe)


def _held_out(bench: Bench, chosen: Try) -> HeldOut:
    """The one gate on the held-out half, with what the ledger leaves of the error."""
    model = bench.wish.out / "models" / _name(chosen.method, chosen.setting)
    candidate = _scanned(bench.source, model)
    look = take_look(bench.blocked.folder, bench.blocked.policy, candidate.trial_digest)
    bench.tell(News("held-out", f"{chosen.label}: the held-out half, look {look.number}, α_pass {look.alpha_pass:.4g}"))
    run = bench.wish.out / "runs" / f"held-out-{look.number}"
    verdict = _check(bench, held_out_policy(bench.blocked.policy, look), candidate, run)
    return HeldOut(
        look=look.number,
        alpha_pass=look.alpha_pass,
        order_seed=look.order_seed,
        decision=verdict.decision,
        reason=verdict.reason,
        verdict_digest=digest_of(verdict),
    )


def _card(
    bench: Bench,
    tries: Sequence[Try],
    untried: Sequence[Untried],
    chosen: Try | None,
    held_out: HeldOut | None,
) -> RepairCard:
    passed = held_out is not None and held_out.decision is Decision.PASS
    folder = f"models/{_name(chosen.method, chosen.setting)}" if chosen is not None and passed else ""
    return RepairCard(
        parent_digest=bench.source.candidate.digest,
        parent_trial_digest=bench.source.candidate.trial_digest,
        run_verdict_digest=digest_of(bench.blocked.verdict),
        policy_name=bench.blocked.policy.name,
        policy_digest=bench.blocked.policy.digest,
        suite_digest=bench.blocked.suite.digest,
        margin=bench.wish.margin,
        tries=tuple(tries),
        untried=tuple(untried),
        serves_as_it_is=kept_by_calibration(RunStore(bench.wish.out / "runs" / UNREPAIRED).verdict()),
        chosen=chosen,
        folder=folder,
        folder_digest=root_digest(bench.wish.out / folder) if folder else "",
        held_out=held_out,
        tool_version=pipeline.tool_version(),
    )


def _write(bench: Bench, card: RepairCard) -> None:
    """Write card and curve."""
    out, limit = bench.wish.out, bench.blocked.policy.limits.max_rate
    write_whole(out / f"{CURVE}.md", as_markdown(card).encode())
    write_whole(out / f"{CURVE}.svg", as_svg(card.tries, limit).encode())
    write_whole(out / CARD, pretty(card))


def _name(method: str, setting: Setting) -> str:
    return f"{method}-{setting.slug}" if setting.values else method
