"""Every known-answer case is answered right, and a gate that always says the same, or reuses answers, is caught by it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from gate import pipeline
from gate.conformance import ALL_CASES, Case, Gate, render, run_case
from gate.conformance.cases import CASES
from gate.conformance.rates import RATES
from gate.conformance.result import Result
from gate.conformance.scene import ITEMS, Model, Scene, safe, small_suite
from gate.endpoints.base import Endpoint
from gate.errors import GateError, UsageError
from gate.records import Ask, AttackCase, Candidate, Decision, EngineInfo, NoResponse, Response, Role, Task, Verdict
from tests.conftest import NO_DATA


def by_key(case: Case) -> str:
    """Names a case in the test's report."""
    return case.key


@pytest.mark.parametrize("case", ALL_CASES, ids=by_key)
def test_gate_answers_as_it_must(case: Case, tmp_path: Path) -> None:
    """The gate's answer to this case is the known one, in the words of the table."""
    result = run_case(case, tmp_path)
    assert result.right, result
    assert result.observed == case.expected


def always(decision: Decision) -> Gate:
    """A gate that runs everything, swallows every error and then says the same."""

    def say(verdict: Verdict) -> Verdict:
        return verdict.model_copy(update={"decision": decision})

    def check(inputs: pipeline.Inputs, folder: Path, open_endpoint: pipeline.OpenEndpoint, *, batch_size: int) -> Verdict:
        try:
            return say(pipeline.check(inputs, folder, open_endpoint, batch_size=batch_size))
        except GateError:
            return say(pipeline.check(inputs, folder.with_name(f"{folder.name}+"), open_endpoint, batch_size=batch_size))

    def decide(folder: Path) -> Verdict:
        try:
            return say(pipeline.decide(folder))
        except GateError:
            return say(Verdict.model_validate_json((folder / "verdict.json").read_bytes()))

    return Gate(check, decide)


@pytest.mark.parametrize("case", ALL_CASES, ids=by_key)
def test_case_catches_a_gate_that_always_says_the_same(case: Case, tmp_path: Path) -> None:
    """A gate that passes everything fails the cases that must be held; one that blocks everything, those that must pass."""
    wrong = Decision.BLOCK if case.expected == "pass" else Decision.PASS
    assert not run_case(case, tmp_path, always(wrong)).right


class _Remembering:
    """An endpoint with the defect of a careless cache: what was once answered to a prompt is the answer to it."""

    def __init__(self, inner: Endpoint, known: dict[str, Response]) -> None:
        self._inner = inner
        self._known = known

    @property
    def info(self) -> EngineInfo:
        return self._inner.info

    def render(self, case: AttackCase) -> str:
        return self._inner.render(case)

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        for ask in asks:
            if ask.prompt not in self._known:
                answer = next(self._inner.generate([ask]))
                assert isinstance(answer, Response)
                self._known[ask.prompt] = answer
            own = {"case_id": ask.case.id, "sample": ask.sample, "key": ask.key}
            yield self._known[ask.prompt].model_copy(update=own)

    def close(self) -> None:
        self._inner.close()


@pytest.mark.parametrize("key", ["answers-of-another", "other-decoding"])
def test_case_catches_a_cache_keyed_by_the_prompt_alone(key: str, tmp_path: Path) -> None:
    """A gate that reuses an answer across models or decodings is found out."""
    known: dict[str, Response] = {}

    def check(inputs: pipeline.Inputs, folder: Path, open_endpoint: pipeline.OpenEndpoint, *, batch_size: int) -> Verdict:
        def careless(candidate: Candidate) -> Endpoint:
            return _Remembering(open_endpoint(candidate), known)

        return pipeline.check(inputs, folder, careless, batch_size=batch_size)

    case = next(c for c in CASES if c.key == key)
    assert not run_case(case, tmp_path, Gate(check, pipeline.decide)).right


def test_an_unexpected_error_is_a_wrong_answer(tmp_path: Path) -> None:
    """A case in which the gate breaks is not counted as right, and its row says what broke."""

    def check(*_: object, **__: object) -> Verdict:
        raise UsageError("the gate broke")

    result = run_case(CASES[0], tmp_path, Gate(check))
    assert (result.observed, result.right) == ("error", False)
    assert "the gate broke" in result.detail


def test_sixteen_defects_and_no_name_twice() -> None:
    """There is one case per row of the reference table, and each has its own folder."""
    assert len(CASES) == 16
    assert len({case.key for case in ALL_CASES}) == len(ALL_CASES)
    assert {case.kind for case in RATES} == {"known rate"}


def test_every_row_of_the_reference_table_has_its_case(shared_data: Path) -> None:
    """The sources named in the reference's rows are those of the cases, in its order."""
    reference = shared_data.parent / "reference" / "conformance.md"
    if not reference.is_file():
        pytest.skip(f"{NO_DATA}: {reference}")
    lines = reference.read_text(encoding="utf-8").splitlines()
    rows = [line.split("|")[2] for line in lines if line.startswith("| ")][1:]
    assert len(rows) == len(CASES)
    for row, case in zip(rows, CASES, strict=True):
        assert any(word in row for word in case.seen.replace(",", " ").replace(":", " ").split()), (row, case.seen)


def test_scripted_suite_has_the_size_that_the_rates_are_stated_in() -> None:
    """Each task has the same number of attacks and twins, so that k answered of it is a rate of exactly k / ITEMS."""
    for task in Task:
        for role in Role:
            assert sum(i.task is task and i.role is role for i in small_suite().items) == ITEMS


RESULTS = (
    Result(kind="known defect", name="a|b", seen="tool", expected="block", observed="pass", right=False, detail="why"),
    Result(kind="known rate", name="c", seen="", expected="pass", observed="pass", right=True, detail="fine"),
)


def test_text_table_shows_what_was_wrong() -> None:
    """The line of a wrong answer names what was expected, and the sum counts it."""
    text = render(RESULTS, "text")
    assert "WRONG  a|b  pass  (expected: block; why)" in text
    assert text.endswith("known defects 0/1, known rates 1/1")


def test_markdown_table_keeps_a_bar_in_a_name() -> None:
    """A bar in a name does not start a new column."""
    assert "| a\\|b | tool | block | pass | **no** |" in render(RESULTS, "markdown")


def test_json_table_reads_back() -> None:
    """The JSON form holds every field of every result."""
    assert tuple(Result.model_validate(row) for row in json.loads(render(RESULTS, "json"))) == RESULTS


def test_unknown_format_is_refused() -> None:
    """A format that the table does not have is a usage error."""
    with pytest.raises(UsageError, match="junit"):
        render(RESULTS, "junit")


def test_scene_puts_the_model_on_trial_that_it_was_given(tmp_path: Path) -> None:
    """Every stored answer of a scripted run came from that model's own script."""
    model = Model("aligned", safe)
    Scene(tmp_path).run(model)
    lines = (tmp_path / "run" / "candidate.responses.jsonl").read_text(encoding="utf-8").splitlines()
    asked = {(ask.case.id, ask.sample): safe(ask.case) for ask in model.asks}
    assert {(r["case_id"], r["sample"]): r["text"] for r in map(json.loads, lines)} == asked
