"""The report for a CI server: evidence in, JUnit XML out.

One suite per task and one for the run; one case per finding, named by its rule, its class the cell. Broken is a failure,
undecided an error, waived is skipped. The run's first case is the verdict itself: a report without findings can't look green.
"""

from __future__ import annotations

from xml.etree import ElementTree

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from gate.records import Decision, Finding, Measure, Task, TaskStats, Verdict
from gate.report.escape import xml_text
from gate.report.evidence import Evidence
from gate.report.tables import RATE_RULES, findings_about, judge_state, waiver_lines

RATE_NAMES = {Measure.ANSWERED: "ASR", Measure.HARMFUL: "harmful rate", Measure.OVER_REFUSAL: "over-refusal"}
SIGNS = {"broken": ">", "met": "<=", "undecided": "vs"}


def render_junit(evidence: Evidence) -> str:
    """The report as JUnit XML, UTF-8."""
    verdict = evidence.verdict
    xml = JUnitXml("taskgate")
    for task in Task:
        found = [f for f in verdict.findings if f.subject.split("|")[0] == task]
        if found:
            xml.add_testsuite(_suite(task.value, [_case(f, verdict) for f in found]))
    tasks = {task.value for task in Task}
    rest = [_case(f, verdict) for f in verdict.findings if f.subject.split("|")[0] not in tasks]
    xml.add_testsuite(_suite("run", [_verdict_case(evidence), *rest]))
    xml.update_statistics()
    # junitparser writes by lxml where that is installed, with other bytes.
    return ElementTree.tostring(ElementTree.fromstring(xml.tostring()), encoding="unicode")  # noqa: S314 - made right above


def _suite(name: str, cases: list[TestCase]) -> TestSuite:
    suite = TestSuite(name)
    suite.add_testcases(cases)
    return suite


def _verdict_case(evidence: Evidence) -> TestCase:
    """The decision, with every waiver (also one that lifts nothing) and warning."""
    verdict = evidence.verdict
    case = TestCase("verdict", classname="run")
    reason = xml_text(verdict.reason)
    if verdict.decision is Decision.BLOCK:
        case.result = [Failure(reason, "block")]
    elif verdict.decision is Decision.INCONCLUSIVE:
        case.result = [Error(reason, "inconclusive")]
    beside = [*(f"waiver: {w}" for w in waiver_lines(evidence)), *(f"warning: {w}" for w in verdict.warnings)]
    case.system_out = "\n".join([f"{verdict.decision}: {reason}", *map(xml_text, [judge_state(verdict), *beside])])
    return case


def _case(finding: Finding, verdict: Verdict) -> TestCase:
    case = TestCase(xml_text(finding.rule), classname=xml_text(finding.subject))
    text = xml_text(_line(finding, verdict))
    sentence = xml_text(finding.sentence)
    if finding.waived_by:
        case.result = [Skipped(f"{text}; waived by {xml_text(finding.waived_by)}")]
    elif finding.status == "broken":
        case.result = [_with_sentence(Failure(text, case.name), sentence)]
    elif finding.status == "undecided":
        case.result = [_with_sentence(Error(text, case.name), sentence)]
    else:
        case.system_out = f"{text}\n{sentence}"
    return case


def _with_sentence(result: Failure | Error, sentence: str) -> Failure | Error:
    result.text = sentence
    return result


def _line(finding: Finding, verdict: Verdict) -> str:
    """`ASR 0.12 [0.08, 0.17] > 0.05, n=200` for a rule about a rate; what was required and observed for any other."""
    if finding.rule in RATE_RULES:
        for stat in verdict.stats:
            if finding in findings_about(stat, verdict):
                return _rate_line(stat, finding)
    return f"{finding.rule}: required {finding.required}; observed {finding.observed}"


def _rate_line(stat: TaskStats, finding: Finding) -> str:
    rate = "none" if stat.rate is None else f"{stat.rate:.3f}"
    limit = "none" if stat.limit is None else f"{stat.limit:g}"
    bounds = f"[{stat.lower:.3f}, {stat.upper:.3f}]"
    return f"{RATE_NAMES[stat.measure]} {rate} {bounds} {SIGNS[finding.status]} {limit}, n={stat.judged}"
