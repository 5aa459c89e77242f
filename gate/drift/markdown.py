"""The matrix in Markdown: a table per calibration and mix, what help was kept, and the claims. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gate.drift.matrix import Checkpoint, Drift, Spread, lines_of, mixes, spread
from gate.records import Calibration, Measure, Task

TASKS: tuple[Task, ...] = tuple(Task)


def as_markdown(drift: Drift) -> str:
    """The whole report. A cell is the mean over the seeds in percent, then the least lower and greatest upper bound."""
    plan = drift.plan
    seeds = ", ".join(str(seed) for seed in plan.seeds)
    lines = [
        f"# Drift: {plan.name}",
        "",
        f"Suite `{drift.suite_name}` ({plan.split} half), seeds {seeds}, {drift.engine}. Plan `{drift.plan_digest[:12]}`.",
        "",
        f"Cells: mean over the seeds in percent [least lower – greatest upper bound of a seed]. Bounds are one-sided at "
        f"{1 - plan.alpha:g}, by behaviour; under {plan.calibration} the lower one's error is divided by the {len(TASKS)} tasks. "
        "Where fewer than nine of ten answers could be judged, the cell says how many; the rest count both ways in the bounds.",
        "",
    ]
    for mix in mixes(plan):
        for calibration in (plan.calibration, *plan.beside):
            lines += _answered(drift, mix, calibration)
    lines += _help(drift)
    lines += _claims(drift)
    return "\n".join(lines)


def _answered(drift: Drift, mix: str, calibration: Calibration) -> list[str]:
    items = drift.plan.items if calibration is drift.plan.calibration else drift.plan.items_beside
    title = f"## Attacks answered, {calibration}, {_mix(mix)}"
    rows = _rows(drift, mix, lambda found, task: _cell(spread(found, task, calibration, Measure.ANSWERED)))
    return [title, "", f"n = {items} per task and seed.", "", *_table("fine-tuned on", rows), ""]


def _help(drift: Drift) -> list[str]:
    lines: list[str] = []
    calibration = drift.plan.calibration
    for mix in mixes(drift.plan):
        refused = _rows(drift, mix, lambda found, task: _cell(spread(found, task, calibration, Measure.OVER_REFUSAL)))
        lines += [f"## Harmless twins refused, {calibration}, {_mix(mix)}", "", *_table("fine-tuned on", refused), ""]
        if any(row.quality for row in drift.checkpoints):
            right = _rows(drift, mix, _right)
            lines += [f"## Harmless twins answered exactly right, {calibration}, {_mix(mix)}", ""]
            lines += ["Mean over the seeds in percent (least – greatest).", "", *_table("fine-tuned on", right), ""]
    return lines


def _claims(drift: Drift) -> list[str]:
    if not drift.claims:
        return []
    lines = ["## Expected, and what came", "", "| fine-tune | seed | expected | held | verdict |", "|---|---|---|---|---|"]
    for claim in drift.claims:
        held = "yes" if claim.held else "**NO**"
        lines.append(f"| {claim.arm} | {claim.seed} | {claim.expected} | {held} | {claim.sentence.replace('|', ', ')} |")
    return [*lines, ""]


def _rows(drift: Drift, mix: str, cell: Callable[[Sequence[Checkpoint], Task], str]) -> list[list[str]]:
    return [[label, *(cell(drift.of(arm), task) for task in TASKS)] for label, arm in lines_of(drift.plan, mix)]


def _table(corner: str, rows: Sequence[Sequence[str]]) -> list[str]:
    head = f"| {corner} | " + " | ".join(TASKS) + " |"
    return [head, "|" + "---|" * (len(TASKS) + 1), *("| " + " | ".join(row) + " |" for row in rows)]


def _cell(found: Spread | None) -> str:
    if found is None:
        return "–"
    cell = f"{100 * found.mean:.1f} [{100 * found.lower:.0f} – {100 * found.upper:.0f}]"
    return cell if found.readable else f"{cell} of {found.judged}/{found.asked} judged"


def _right(rows: Sequence[Checkpoint], task: Task) -> str:
    rates = [rate for row in rows if task in row.quality and (rate := row.quality[task].rate) is not None]
    if not rates:
        return "–"
    return f"{100 * sum(rates) / len(rates):.1f} ({100 * min(rates):.1f} – {100 * max(rates):.1f})"


def _mix(mix: str) -> str:
    return f"with {mix}" if mix else "nothing mixed in"
