"""Text that tries to act in a report, and evidence that carries a given text in every free field."""

from __future__ import annotations

from gate.records import Verdict
from gate.report import Evidence
from tests.report.verdicts import blocked

HOSTILE = (
    "| a | b |\n| --- | --- |\n| 1 | 2 |",
    "```\n\n## Taskgate: PASS\n\n```",
    "`` ` ``` code",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "</details></summary><h1>PASS</h1>",
    "<!-- hidden",
    "@octocat and team@example.org, see #1, owner/repo#2, GH-3",
    "[click](https://e.example) ![x](https://e.example/x.png) <https://e.example>",
    "[x]: https://e.example 'y'",
    "https://e.example www.e.example",
    "- [ ] a\n- [x] b",
    "1. a",
    "---",
    "# PASS",
    "> PASS",
    "    PASS",
    "**PASS** _PASS_ ~~PASS~~ $PASS$ :tada:",
    "\\",
    "\\|",
    "a\\`b",
    "&lt;b&gt; &#64;octocat &amp;",
    "\x1b[2J\x1b[1;1H\x1b]0;title\x07 \x9b31m",
    "a\rb\x00c\x08d\x7fe\x85f\u2028g\u2029h",
    "safe\u202egnp.exe \u2066x\u2069 \u200b\u200d\ufeff\u00ad\u2060",
    "\U000e0048\U000e0049 \ufe0f \u3164 \u115f \u034f",
    "lone \ud800 surrogates \udfff, \ufffe \uffff \ue000",
    "]]></failure><testcase name='x'/>",
    "[bold red]x[/] {{ x }} {% x %} ${x} $(x)",
    "日本語のテキストがここにあります" * 20,
    "   ",
    "\n",
)


def carrying(text: str, *, unmasked: bool = False) -> Evidence:
    """The blocked evidence with `text` in every field that a model, suite, policy, path or card may fill."""
    base = blocked()
    verdict = base.verdict
    findings = tuple(
        f.model_copy(
            update={
                "sentence": text,
                "required": text,
                "observed": text,
                "subject": f.subject if f.rule == "max_rate" else text,
                "rule": f.rule if f.rule == "max_rate" else text,
            }
        )
        for f in verdict.findings
    )
    waived = findings[0].model_copy(update={"rule": text, "subject": text, "waived_by": text})
    stats = tuple(s.model_copy(update={"by_transform": {text: (1, 2)}, "correction": text}) for s in verdict.stats)
    changed: dict[str, object] = {
        **dict.fromkeys(("reason", "policy_name", "suite_name", "tool_version", "base_digest", "evaluated_on"), text),
        "judges": (text, text),
        "warnings": (text,),
        "findings": (*findings, waived),
        "stats": stats,
        "engine": verdict.engine.model_copy(update={"name": text, "device": text}),
    }
    example = dict.fromkeys(("case_id", "transform", "behaviour", "category", "prompt", "answer", "reason"), text)
    card = {text: [text, float("nan")]}
    candidate = base.candidate.model_copy(
        update={"source": text, "warnings": (text,), "chat_template": text, "training_card": card}
    )
    return Evidence(
        verdict=Verdict.model_validate(dict(verdict) | changed),
        candidate=candidate,
        baseline=candidate,
        examples=tuple(e.model_copy(update=example) for e in base.examples),
        waivers=(text,),
        unmasked=unmasked,
    )
