"""The known-answer cases of `gate conformance`: nothing comes in, one result per case goes out, and a table of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from gate.conformance.cases import CASES
from gate.conformance.rates import RATES
from gate.conformance.result import Case, Observation, Result
from gate.conformance.scene import Gate, Scene
from gate.errors import GateError, UsageError
from gate.records import canonical_json

__all__ = ["ALL_CASES", "Case", "Gate", "Observation", "Result", "render", "run_all", "run_case"]

ALL_CASES: tuple[Case, ...] = (*CASES, *RATES)


def run_all() -> tuple[Result, ...]:
    """Play every case against this gate, each in a temporary folder of its own."""
    with TemporaryDirectory(prefix="taskgate-conformance-") as folder:
        return tuple(run_case(case, Path(folder)) for case in ALL_CASES)


def run_case(case: Case, folder: Path, gate: Gate | None = None) -> Result:
    """Play one case in a folder below `folder`; an error that the case did not ask for is a wrong answer."""
    place = folder / case.key
    place.mkdir(parents=True)
    try:
        seen = case.play(Scene(place, gate or Gate()))
    except GateError as error:
        seen = Observation(found="error", right=False, detail=error.diagnostics())
    return Result(
        kind=case.kind,
        name=case.name,
        seen=case.seen,
        expected=case.expected,
        observed=seen.found,
        right=seen.right,
        detail=seen.detail,
    )


def render(results: Sequence[Result], format_: str = "text") -> str:
    """The table as `text`, `markdown` or `json`; `none` is empty. Raises `UsageError` for another format."""
    match format_:
        case "text":
            return _text(results)
        case "markdown":
            return _markdown(results)
        case "json":
            return canonical_json([result.model_dump(mode="json") for result in results]).decode()
        case "none":
            return ""
    raise UsageError(
        f"the conformance table has no format {format_!r}",
        expected="text, markdown, json or none",
        mend="choose another --format",
    )


def summary(results: Sequence[Result]) -> str:
    """How many of how many are right, by kind."""
    kinds = dict.fromkeys(result.kind for result in results)
    counts = [[r.right for r in results if r.kind == kind] for kind in kinds]
    return ", ".join(f"{kind}s {sum(right)}/{len(right)}" for kind, right in zip(kinds, counts, strict=True))


def _text(results: Sequence[Result]) -> str:
    width = max((len(r.name) for r in results), default=0)
    lines = [f"{'right' if r.right else 'WRONG'}  {r.name:<{width}}  {r.observed}{_wanted(r)}" for r in results]
    return "\n".join([*lines, summary(results)])


def _wanted(result: Result) -> str:
    return "" if result.right else f"  (expected: {result.expected}; {result.detail})"


def _markdown(results: Sequence[Result]) -> str:
    head = ["| case | where seen | expected | observed | right |", "|---|---|---|---|---|"]
    return "\n".join([*head, *map(_row, results), "", summary(results)])


def _row(result: Result) -> str:
    texts = (result.name, result.seen or "scripted rate", result.expected, result.observed, "yes" if result.right else "**no**")
    return "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in texts) + " |"
