"""The figures of an evaluation as tables for a terminal. In: `Evaluation`. Out: rich tables. Pure."""

from collections.abc import Iterator, Sequence

from rich.table import Table

from guard_server.training.figures import RECALL, Evaluation, Group, Rate

_NONE = "–"


def tables(evaluation: Evaluation) -> Iterator[Table]:
    """Per head and task, per set, over-refusal, the naming heads."""
    yield _groups("By task", "task", evaluation.groups)
    yield _groups("By set", "set", evaluation.by_dataset)
    yield _over_refusal(evaluation)
    yield _heads(evaluation)


def _groups(title: str, what: str, groups: Sequence[Group]) -> Table:
    table = Table(title=title, caption="recall*: at a threshold set on these texts; the rest at the bundle's own thresholds")
    for name in ("head", what):
        table.add_column(name)
    for name in ("positive", "negative", "AUROC", "AP", "recall* 1 %", "recall* 5 %"):
        table.add_column(name, justify="right")
    for target in ("1 %", "5 %"):
        table.add_column(f"recall, FPR at {target} target")
    for group in groups:
        table.add_row(
            group.head,
            group.name,
            str(group.positives),
            str(group.negatives),
            _number(group.auroc),
            _number(group.average_precision),
            *(_number(at.recall_here, 2) for at in group.at),
            *(f"{_rate(at.recall)}, {_rate(at.fpr)}" for at in group.at),
            end_section=group.name == "all" and len(groups) > 1,
        )
    return table


def _over_refusal(evaluation: Evaluation) -> Table:
    table = Table(
        title="Harmless prompts flagged", caption=f"first column: at the score that flags {RECALL:.0%} of all harmful prompts"
    )
    table.add_column("set")
    table.add_column("n", justify="right")
    table.add_column(f"at {RECALL:.0%} recall")
    table.add_column("at 5 % target")
    for row in evaluation.over_refusal:
        table.add_row(row.dataset, str(row.n), _rate(row.at_recall), _rate(row.at_target.get("0.05")))
    return table


def _heads(evaluation: Evaluation) -> Table:
    heads = evaluation.heads
    table = Table(title="Task, category and refusal")
    table.add_column("what")
    table.add_column("right")
    table.add_column("n", justify="right")
    named = {"task": heads.task} | {f"task: {task}": found for task, found in heads.task_by_task.items()}
    for name, found in (named | {"category of harm": heads.category, "refused or complied": heads.refusal}).items():
        table.add_row(name, _rate(found), str(found.n) if found else "0")
    mean = _NONE if heads.partial_refusal is None else f"mean refusal {heads.partial_refusal:.2f}"
    table.add_row("partial answers (apart)", mean, str(heads.partial))
    return table


def _number(value: float | None, digits: int = 3) -> str:
    return _NONE if value is None else f"{value:.{digits}f}"


def _rate(found: Rate | None) -> str:
    return _NONE if found is None else f"{found.share:.2f} [{found.low:.2f} {found.high:.2f}]"
