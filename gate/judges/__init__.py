"""The table of judges: name → factory. A judge is a module here and a line in this table."""

from __future__ import annotations

from collections.abc import Callable

from gate.errors import UsageError
from gate.judges.base import Judge


def _rules() -> Judge:
    from gate.judges.rules import RulesJudge  # its models are made when it is asked for

    return RulesJudge()


JUDGES: dict[str, Callable[[], Judge]] = {
    "rules": _rules,
}


def make_judge(name: str) -> Judge:
    """The judge of that name, ready to judge; a `UsageError` for a name not in the table."""
    if name not in JUDGES:
        raise UsageError(
            f"no judge is called '{name}'",
            expected=f"one of {', '.join(sorted(JUDGES))}",
            found=repr(name),
            mend="correct the judge's name in the policy",
        )
    return JUDGES[name]()
