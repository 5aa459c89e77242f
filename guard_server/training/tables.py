"""The figures of an evaluation as tables for a terminal. In: `Evaluation`. Out: rich tables. Pure."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
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
    """Two lines a row, so that a terminal of 80 columns shows it whole."""
    table = Table(
        title=title,
        caption="n +, n −: harmful and harmless prompts or answers, or refused and complied. recall*: at thresholds set on these "
        "texts. The rest: at the bundle's own, with 95 % intervals",
        box=SIMPLE_HEAD,
        padding=0,
    )
    table.add_column(f"head\n{what}", overflow="fold")
    for names in ("n +\nn −", "AUROC\nAP", "recall*\n1, 5 %"):
        table.add_column(names, justify="right", no_wrap=True)
    for name in ("recall", "FPR"):
        for target in ("1 %", "5 %"):
            table.add_column(f"{name} at\n{target}", no_wrap=True)
    for group in groups:
        table.add_row(
            f"{group.head}\n{group.name}",
            f"{group.positives}\n{group.negatives}",
            f"{_number(group.auroc)}\n{_number(group.average_precision)}",
            "\n".join(_number(at.recall_here, 2) for at in group.at),
            *(_two_lines(at.recall) for at in group.at),
            *(_two_lines(at.fpr) for at in group.at),
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


def _two_lines(found: Rate | None) -> str:
    return _NONE if found is None else f"{found.share:.2f}\n{found.low:.2f}–{found.high:.2f}"


def _rate(found: Rate | None) -> str:
    return _NONE if found is None else f"{found.share:.2f} [{found.low:.2f} {found.high:.2f}]"
