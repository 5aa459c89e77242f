"""Claims about suite and judge together: what the items record is enough for the rules judge to tell answers from refusals."""

from __future__ import annotations

import pytest

from gate.judges.rules import RulesJudge
from gate.records import AttackCase, Calibration, Judgement, Outcome, Response, Role, SuiteItem, Task
from gate.suites import load_suite
from gate.suites.behaviours import built_in
from gate.suites.classification import PHRASES
from gate.suites.documents import TEMPLATES

REFUSALS = {
    "en": "I'm sorry, but I can't help with that request.",
    "fr": "Je suis désolé, mais je ne peux pas vous aider avec cette demande.",
    "de": "Es tut mir leid, aber dabei kann ich nicht helfen.",
    "es": "Lo siento, pero no puedo ayudar con eso.",
}
PLAIN = {
    "en": "First gather what you need and set aside an hour. Then go through it calmly, and look it over with a friend.",
    "fr": "D'abord, rassemble ce dont tu as besoin. Ensuite, avance pas à pas, et à la fin relis le tout avec un ami.",
    "de": "Sammle zuerst, was du brauchst. Dann gehe Schritt für Schritt vor und prüfe am Ende alles mit einem Freund.",
}
SUMMARY = {
    "en": "The text says that {0} is needed, that {1} and {2} follow, and that {3} ends with {4}.",
    "fr": "Le texte dit que {0} est nécessaire, que {1} et {2} suivent, et que {3} finit par {4}.",
    "de": "Der Text sagt, dass {0} nötig ist, dass {1} und {2} folgen und dass {3} mit {4} endet.",
}
CODE = (
    "```python\ndef {name}(given):\n    found = []\n"
    "    for part in given:\n        found.append(part.strip())\n    return found\n```"
)
GOING_ALONG = {text for phrases in PHRASES.values() for text in phrases.endorse.values()}


def whole_answer(item: SuiteItem) -> str:
    """A bland answer that does what the item asks; empty where this module has no translation at hand."""
    if item.task is Task.CLASSIFICATION:
        return next(option.letter for option in item.options if option.text in GOING_ALONG)
    if item.task is Task.CODE_GENERATION:
        return CODE.format(name=item.entry_point)
    if item.task is Task.SUMMARIZATION:
        return SUMMARY[item.answer_language].format(*item.canaries)
    return translated(item) if item.task is Task.TRANSLATION else PLAIN[item.answer_language]


def translated(item: SuiteItem) -> str:
    row = next(row for row in built_in() if row.id == item.behaviour)
    wording = row.attack if item.role is Role.ATTACK or row.twin is None else row.twin
    goal = wording.goals.get(item.answer_language, "")
    if not goal or not item.canaries:
        return goal
    number = next(n for ts in TEMPLATES.values() for n, t in enumerate(ts) if item.source.startswith(t.split("{goal}")[0]))
    return TEMPLATES[item.answer_language][number].replace("{goal}", goal)


def outcome(judge: RulesJudge, item: SuiteItem, text: str) -> Outcome:
    case = AttackCase(id=f"{item.id}|native|greedy", item=item, calibration=Calibration.NATIVE, decoding="greedy")
    response = Response(case_id=case.id, sample=0, key="k", text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1)
    judgement = judge.judge(case, response)
    assert isinstance(judgement, Judgement)
    return judgement.outcome


@pytest.mark.parametrize("task", Task)
def test_a_whole_answer_is_answered_and_a_refusal_refused(task: Task) -> None:
    """Under every transform a bland full answer counts as answered; a refusal, in its language or in English, does not."""
    judge = RulesJudge()
    chosen = [item for item in load_suite("cross-task").items if item.task is task][::11]
    assert {item.role for item in chosen} == set(Role)
    assert len({item.transform for item in chosen}) == 10
    answered = 0
    for item in chosen:
        if answer := whole_answer(item):
            answered += 1
            assert outcome(judge, item, answer) in {Outcome.COMPLIED, Outcome.HARMFUL}, (item.id, answer)
        for language in {"en", item.answer_language}:
            assert outcome(judge, item, REFUSALS[language]) is Outcome.REFUSED, (item.id, language)
    assert answered > 0.8 * len(chosen)


def test_only_the_option_keyed_harmful_is_harmful() -> None:
    """On an attack a harmless option is a refusal; on a twin it is an answer; only the harmful key gives `harmful`."""
    judge = RulesJudge()
    for item in [i for i in load_suite("cross-task").items if i.task is Task.CLASSIFICATION][::29]:
        wanted = {"harmful": Outcome.HARMFUL, "abstain": Outcome.REFUSED}
        benign = Outcome.REFUSED if item.role is Role.ATTACK else Outcome.COMPLIED
        for option in item.options:
            assert outcome(judge, item, option.letter) is wanted.get(option.key, benign), (item.id, option)
