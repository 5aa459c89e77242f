"""What every human-readable report says, before any format: evidence in, titled tables and sentences of raw strings out.

The renderers escape and lay out; they choose no words about a rate. Strings here are not escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from gate.comparison import rule_of
from gate.comparison import subject_of as contrast_of
from gate.records import Comparison, Decision, Finding, Measure, Task, TaskStats, Verdict
from gate.report.evidence import Evidence, Example

MEASURE_WORDS = {
    Measure.ANSWERED: "answered",
    Measure.HARMFUL: "answered harmfully",
    Measure.OVER_REFUSAL: "refused though harmless",
}
HEADLINES = {Decision.PASS: "PASS", Decision.BLOCK: "BLOCK", Decision.INCONCLUSIVE: "INCONCLUSIVE"}
CONSEQUENCES = {
    Decision.PASS: "The release may go on (exit code 0).",
    Decision.BLOCK: "The release is held (exit code 3).",
    Decision.INCONCLUSIVE: "The release is held (exit code 4): no evidence is not a pass.",
}
BOUND_WORDS = {
    "confidence_sequence": "confidence sequence, valid whenever the run stops",
    "korn_graubard": "Korn-Graubard by behaviour, fixed number of items",
}
RATE_RULES = ("max_rate", "max_over_refusal")
SEVERITY = ("met", "undecided", "broken")


@dataclass(frozen=True)
class Table:
    """A titled table; every row has as many strings as there are columns."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def subject_of(stat: TaskStats) -> str:
    """The subject of the findings on a statistic, as `decide` names it."""
    cell = f"{stat.task}|{stat.calibration}|{stat.decoding}"
    return cell if is_attack(stat) else f"{cell} (twins)"


def spoken(subject: str) -> str:
    """A finding's subject as a person reads it."""
    return subject.replace("|", ", ")


def name_of(stat: TaskStats) -> str:
    """A cell as a person reads it."""
    return f"{stat.task} ({stat.calibration}, {stat.decoding})"


def place_of(stat: TaskStats, verdict: Verdict) -> str:
    """The calibration, with the decoding where the run has several."""
    several = len({s.decoding for s in verdict.stats}) > 1
    return f"{stat.calibration}, {stat.decoding}" if several else stat.calibration.value


def percent(share: float | None, beside: float | None = None) -> str:
    """A share in percent: one decimal, or as many (up to five) as tell it from the figure `beside` it."""
    if share is None:
        return "none"
    digits = 1
    while beside is not None and share != beside and digits < 5 and f"{share:.{digits}%}" == f"{beside:.{digits}%}":
        digits += 1
    return f"{100 * share:.{digits}f} %"


def trimmed(share: float) -> str:
    """A set figure (limit, level) in percent without trailing zeros."""
    return f"{100 * share:.3f}".rstrip("0").rstrip(".") + " %"


def is_attack(stat: TaskStats) -> bool:
    """Whether the statistic is about attacks, not about harmless twins."""
    return stat.measure is not Measure.OVER_REFUSAL


def findings_about(stat: TaskStats, verdict: Verdict) -> tuple[Finding, ...]:
    """The findings on this statistic; none for one that is only reported."""
    return tuple(f for f in verdict.findings if f.subject == subject_of(stat)) if stat.gated else ()


def rate_status(stat: TaskStats, verdict: Verdict) -> str:
    """The status of the rule on the rate itself, apart from the cell's other rules; empty if there is none."""
    return next((f.status for f in findings_about(stat, verdict) if f.rule in RATE_RULES), "")


def status_of(stat: TaskStats, verdict: Verdict) -> str:
    """The worst status of the cell's findings, with the rules that gave it; waived ones count as waived."""
    found = findings_about(stat, verdict)
    for status in reversed(SEVERITY[1:]):
        rules = [f.rule for f in found if f.status == status and not f.waived_by]
        if rules:
            return f"{status}: {', '.join(rules)}"
    if any(f.waived_by for f in found):
        return "waived"
    return "met" if found else "no rule"


def worst_first(stats: Iterable[TaskStats], verdict: Verdict) -> list[TaskStats]:
    """Broken before undecided before met, then by how far the lower bound lies above the limit."""

    def key(stat: TaskStats) -> tuple[int, float]:
        word = status_of(stat, verdict).split(":")[0]
        return -(SEVERITY.index(word) if word in SEVERITY else 0), (stat.limit or 0.0) - stat.lower

    return sorted(stats, key=key)


def bound_of(stat: TaskStats) -> str:
    """Both bounds of the rate, each one-sided at the stated level."""
    return f"{percent(stat.lower, stat.limit).removesuffix(' %')} to {percent(stat.upper, stat.limit)}"


def sentence_about(stat: TaskStats, verdict: Verdict) -> str:
    """How many of how many, the bound, the limit: one sentence."""
    return f"{found_about(stat)}; {bound_about(stat, verdict)}; {limit_about(stat)}."


def found_about(stat: TaskStats) -> str:
    """How many of how many."""
    subject = "harmful" if is_attack(stat) else "harmless"
    if stat.judged == 0:
        return f"none of {stat.asked} {subject} requests asked got an answer that could be judged"
    were = "was" if stat.hits == 1 else "were"
    return f"{stat.hits} of {stat.judged} {subject} requests {were} {MEASURE_WORDS[stat.measure]} ({percent(stat.rate)})"


def bound_about(stat: TaskStats, verdict: Verdict) -> str:
    """The bound that the rate's status rests on, or both, with confidence."""
    at_least = f"at least {percent(stat.lower, stat.limit)} at {trimmed(stat.lower_level)} confidence"
    at_most = f"at most {percent(stat.upper, stat.limit)} at {trimmed(stat.upper_level)} confidence"
    bounds = {"broken": at_least, "met": at_most}.get(rate_status(stat, verdict), f"{at_least} and {at_most}")
    return f"the suite's rate is {bounds}"


def limit_about(stat: TaskStats) -> str:
    """The limit in words."""
    return "no limit is set" if stat.limit is None else f"the limit is {trimmed(stat.limit)}"


def headline(verdict: Verdict) -> str:
    """The decision in words, with what it has been lifted over."""
    waived = sum(1 for f in verdict.findings if f.waived_by)
    lifted = f" ({waived} {'finding' if waived == 1 else 'findings'} waived)" if waived else ""
    return f"{HEADLINES[verdict.decision]}{lifted}"


def tally(verdict: Verdict) -> str:
    """How many of the gated cells (attacks and twins) stand how."""
    words = [status_of(s, verdict).split(":")[0] for s in verdict.stats if s.gated]
    counts = ", ".join(f"{words.count(w)} {w}" for w in ("broken", "undecided", "waived", "met", "no rule") if w in words)
    return f"Gated cells: {counts or 'none'}."


def judge_state(verdict: Verdict) -> str:
    """What the counts rest on."""
    if not verdict.judge_calibrated:
        return "Judge uncalibrated: refusal-based rate, no correction applied."
    corrections = sorted({s.correction for s in verdict.stats})
    return f"Judge calibrated; correction: {', '.join(corrections) or 'none'}."


def gated_table(evidence: Evidence) -> Table:
    """The cells that decide."""
    stats = [s for s in evidence.verdict.stats if s.gated and is_attack(s)]
    used = sorted({(s.bound, s.lower_level, s.upper_level) for s in stats})
    levels = "; ".join(f"{BOUND_WORDS[b]}: lower {trimmed(low)}, upper {trimmed(up)}" for b, low, up in used)
    note = f"Rate = hits of judged. Each bound is one-sided ({levels}). The bound decides, never the rate."
    return _rate_table("Gated cells", note, worst_first(stats, evidence.verdict), evidence.verdict)


def over_refusal_table(evidence: Evidence) -> Table:
    """Harmless twins that were refused."""
    stats = [s for s in evidence.verdict.stats if not is_attack(s)]
    note = "Harmless twins of the same requests, in the same frames."
    return _rate_table("Over-refusal", note, worst_first(stats, evidence.verdict), evidence.verdict)


def reported_table(evidence: Evidence) -> Table:
    """Cells that are measured and shown, and decide nothing."""
    stats = [s for s in evidence.verdict.stats if not s.gated and is_attack(s)]
    note = "Other transforms, templates or decodings than the gate's: not gated by the policy, and no part of the verdict."
    return _rate_table("Reported only", note, stats, evidence.verdict)


def _rate_table(title: str, note: str, stats: Sequence[TaskStats], verdict: Verdict) -> Table:
    columns = ("task", "calibration", "hits of judged (asked/planned)", "rate", "bounds", "limit", "status")
    # One measure stands in the note; a column of its own would only cost width.
    measures = sorted({s.measure for s in stats})
    note = f"Hits: {' or '.join(MEASURE_WORDS[m] for m in measures)}. {note}"
    rows = tuple(
        (
            s.task.value,
            place_of(s, verdict) + (f", {s.measure}" if len(measures) > 1 else ""),
            f"{s.hits} of {s.judged} ({s.asked}/{s.planned})",
            percent(s.rate),
            bound_of(s),
            "none" if s.limit is None or not s.gated else trimmed(s.limit),
            status_of(s, verdict) if s.gated else f"not gated: {_transforms(s)}",
        )
        for s in stats
    )
    return Table(title, note, columns, rows)


def _transforms(stat: TaskStats) -> str:
    """The transforms of a cell: by name, or how many."""
    return ", ".join(stat.transforms) if len(stat.transforms) <= 2 else f"{len(stat.transforms)} transforms"


def behaviours_table(evidence: Evidence) -> Table:
    """Bounds for behaviours like the suite's, where looking is over."""
    stats = [s for s in evidence.verdict.stats if s.behaviours_lower is not None and s.behaviours_upper is not None]
    rows = tuple(
        (
            s.task.value,
            place_of(s, evidence.verdict),
            s.measure.value,
            f"{s.clusters} of {s.planned_clusters}",
            percent(s.behaviours_lower),
            percent(s.behaviours_upper),
            "gated" if s.gated else f"not gated: {_transforms(s)}",
        )
        for s in stats
    )
    note = (
        "Korn-Graubard bounds by behaviour on the rate over behaviours like the suite's, for cells whose every planned item "
        "was read: those only reported, and gated ones that went to their end. The verdict is about the suite."
    )
    return Table("Over behaviours", note, ("task", "calibration", "measure", "behaviours", "at least", "at most", "part"), rows)


def transforms_table(evidence: Evidence) -> Table:
    """Hits of judged per transform and task: gated and reported cells together, in the measure that gates."""
    stats = evidence.verdict.stats
    measure = next((s.measure for s in stats if s.gated and is_attack(s)), Measure.ANSWERED)
    counts: dict[tuple[str, str], dict[Task, tuple[int, int]]] = {}
    for stat in (s for s in stats if s.measure is measure):
        for transform, (hits, judged) in stat.by_transform.items():
            row = counts.setdefault((place_of(stat, evidence.verdict), transform), {})
            before = row.get(stat.task, (0, 0))
            row[stat.task] = (before[0] + hits, before[1] + judged)
    tasks = [task for task in Task if any(task in row for row in counts.values())]
    cells = {key: tuple("{} of {}".format(*row[t]) if t in row else "none" for t in tasks) for key, row in counts.items()}
    rows = tuple((*key, *cells[key]) for key in sorted(counts))
    note = (
        f"Hits ({MEASURE_WORDS[measure]}) of judged, gated and only reported cells together: of a gated cell the items that the "
        "decision read. The shares vary by chance; 0 of 0: asked, nothing judged; none: not asked."
    )
    return Table("By transform", note, ("calibration", "transform", *(t.value for t in tasks)), rows)


def findings_table(evidence: Evidence) -> Table:
    """Every rule that is not plainly met."""
    rows = tuple(
        (f.rule, spoken(f.subject), "waived" if f.waived_by else f.status, f.required, f.observed)
        for f in sorted(evidence.verdict.findings, key=lambda f: -SEVERITY.index(f.status))
        if f.status != "met" or f.waived_by
    )
    met = sum(1 for f in evidence.verdict.findings if f.status == "met")
    note = f"{met} of {len(evidence.verdict.findings)} rules are met."
    return Table("Findings that are not met", note, ("rule", "subject", "status", "required", "observed"), rows)


def waiver_lines(evidence: Evidence) -> tuple[str, ...]:
    """Waivers of the policy, and what each lifted one was lifted from."""
    lifted = (f"lifts {f.rule} on {spoken(f.subject)}: {f.waived_by}" for f in evidence.verdict.findings if f.waived_by)
    return (*evidence.waivers, *lifted)


def missing_table(evidence: Evidence) -> Table:
    """Cells with questions that gave no usable answer: these count against a pass."""
    stats = [s for s in evidence.verdict.stats if s.missing or s.invalid]
    place = partial(place_of, verdict=evidence.verdict)
    rows = tuple((s.task.value, place(s), s.measure.value, str(s.asked), str(s.missing), str(s.invalid)) for s in stats)
    note = "Each counts as a hit where a pass is sought, and as no hit where a block is."
    return Table("No usable answer", note, ("task", "calibration", "measure", "asked", "missing", "invalid"), rows)


def baseline_table(evidence: Evidence) -> Table:
    """Paired with the baseline: what got worse, what got better."""
    stats = [s for s in evidence.verdict.stats if s.regression_hits is not None]
    columns = ("task", "calibration", "measure", "hit now, not before", "hit before, not now", "difference", "at least")
    rows = tuple(
        (
            s.task.value,
            place_of(s, evidence.verdict),
            s.measure.value,
            str(s.regression_hits),
            str(s.fixed_hits),
            percent(s.difference),
            percent(s.difference_lower),
        )
        for s in stats
    )
    note = "The same questions, put to the baseline."
    return Table("Against the baseline", note, columns, rows)


def examples_first(evidence: Evidence) -> tuple[Example, ...]:
    """The examples, those from cells that hold the release first."""
    verdict = evidence.verdict
    held = {(s.task, s.calibration) for s in verdict.stats if status_of(s, verdict).startswith(("broken", "undecided"))}
    return tuple(sorted(evidence.examples, key=lambda e: (e.task, e.calibration) not in held))


def comparison_table(evidence: Evidence) -> Table:
    """What the candidate does worse than the baseline on benign questions: quality lost, refusals gained."""
    found = evidence.verdict.comparisons
    columns = (
        "what",
        "task",
        "calibration",
        "before → now",
        "worse / better",
        "loss [bounds]",
        "by behaviour",
        "limit",
        "status",
    )
    rows = tuple(
        (
            "refusals" if c.measure == "over_refusal_rise" else "own set" if c.source == "set" else "twins",
            c.task.value if c.task else "mean of tasks",
            c.calibration.value,
            f"{percent(c.baseline).removesuffix(' %')} → {percent(c.candidate)}",
            f"{c.worse} / {c.better} of {c.paired}" + (f" ({c.asked} asked)" if c.asked != c.paired else ""),
            f"{_points(c.difference)} [{_points(c.lower)} to {_points(c.upper)}]",
            f"{_points(c.behaviours_lower)} to {_points(c.behaviours_upper)}",
            "none" if c.limit is None else trimmed(c.limit),
            comparison_status(c, evidence.verdict),
        )
        for c in found
    )
    if not found:
        return Table("Utility against the baseline", "", columns, ())
    lowest, level = min(c.lower_level for c in found), found[0].upper_level
    claim = "The bounds in brackets, on these questions, decide" if found[0].claim == "set" else "The bounds by behaviour decide"
    metrics = ", ".join(sorted({name for c in found for name in c.metrics}))
    note = (
        "The same benign questions, put to both: quality on the suite's twins and on the policy's own set, and refused twins. "
        "A loss in points above 0: the candidate is worse. Each bound is one-sided "
        f"(lower at least {trimmed(lowest)}, upper {trimmed(level)}). {claim}."
    )
    return Table("Utility against the baseline", note + (f" Scored by {metrics}." if metrics else ""), columns, rows)


def _points(share: float | None) -> str:
    """A difference in percentage points, with its sign; 0 has none."""
    if share is None:
        return "none"
    shown = f"{100 * share:+.1f}"
    return "0.0" if shown in ("+0.0", "-0.0") else shown


def comparison_status(of: Comparison, verdict: Verdict) -> str:
    """The status of its finding; `shown` where no limit is set on it."""
    found = next((f for f in verdict.findings if f.rule == rule_of(of) and f.subject == contrast_of(of)), None)
    if found is None:
        return "shown"
    return "waived" if found.waived_by and found.status != "met" else found.status


def provenance(evidence: Evidence) -> tuple[tuple[str, str], ...]:
    """Everything needed to repeat the run, as name and value."""
    verdict, candidate = evidence.verdict, evidence.candidate
    baseline = evidence.baseline
    engine = verdict.engine
    pairs = (
        ("candidate", candidate.source),
        ("candidate revision", candidate.revision),
        ("candidate digest", verdict.candidate_digest),
        ("base digest", verdict.base_digest),
        ("baseline", baseline.source if baseline else "none given"),
        ("baseline digest", verdict.baseline_digest),
        ("policy", f"{verdict.policy_name} {verdict.policy_digest}"),
        ("suite", f"{verdict.suite_name} {verdict.suite_digest}"),
        ("utility set", verdict.utility_digest),
        *(("judge", judge) for judge in verdict.judges),
        ("order", f"seed {verdict.order_seed}, digest {verdict.order_digest}"),
        ("decoding", ", ".join(sorted({s.decoding for s in verdict.stats}))),
        ("engine", f"{engine.name} {engine.version}, {engine.dtype}, {engine.device}"),
        ("taskgate", verdict.tool_version),
        ("begun on", verdict.evaluated_on),
    )
    return tuple((name, value) for name, value in pairs if value)
