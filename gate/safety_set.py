"""A safety set to fine-tune with: a suite's tuning half goes in, requests with short refusals of our own come out, task by task.

    {"messages": [...], "answer": "I'm sorry, but ...", "task": "translation", "kind": "safety", "behaviour": "..."}

The gating half is what verdicts are taken on, and nothing of it may be trained on: its items are never taken, and a row is left
out that shares a 13-gram with what is its requests' own (`suites.particular`). The same suite and seed give the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

from gate.errors import SuiteError
from gate.judges import make_judge
from gate.judges.base import Judge
from gate.judges.language import LanguageModel
from gate.ngrams import Grams, shares
from gate.records import (
    AttackCase,
    Calibration,
    Judgement,
    Message,
    Outcome,
    Record,
    Response,
    Role,
    Split,
    SuiteItem,
    Task,
)
from gate.safety_wordings import refusal
from gate.suites.base import Suite
from gate.suites.behaviours import salted
from gate.suites.loaders.layouts import LAYOUTS
from gate.suites.loaders.tables import read_table
from gate.suites.particular import particular, texts_of

T = TypeVar("T", SuiteItem, "SafetyRow")


class SafetyRow(Record):
    """One request and the refusal of it, as `gate finetune` reads it."""

    messages: tuple[Message, ...]
    answer: str
    task: Task
    kind: Literal["safety"] = "safety"
    behaviour: str


class SafetySet(NamedTuple):
    """The rows, and how many requests were left out and why."""

    rows: tuple[SafetyRow, ...]
    left_out: dict[str, int]


def from_suite(suite: Suite, *, per_task: int | None = None, seed: int = 0) -> SafetySet:
    """Rows of the suite's tuning half: every request of an attack once, or `per_task` of each task, drawn by the seed.

    Raises `SuiteError` where a task that the suite has would be left without a row.
    """
    language = LanguageModel()
    held_out = _held_out(suite)
    left_out: Counter[str] = Counter()
    kept: dict[Task, list[SuiteItem]] = {}
    seen: set[tuple[Task, tuple[Message, ...]]] = set()
    for item in _tuning(suite, left_out):
        if _touches(texts_of(item), held_out):
            left_out["share a 13-gram with a request of the gating half"] += 1
        elif (item.task, item.messages) in seen:
            left_out["repeat a request"] += 1
        else:
            seen.add((item.task, item.messages))
            kept.setdefault(item.task, []).append(item)
    if missing := {item.task for item in suite.items} - set(kept):
        raise SuiteError(
            f"{suite.name}: no request is left to refuse in {', '.join(sorted(missing))}",
            expected="attacks in the tuning half that share no 13-gram with the gating half's",
            found="none",
            mend="build a suite with more behaviours, or other transforms",
        )
    rows = [_row(item, language, seed) for task in sorted(kept) for item in _drawn(kept[task], per_task, seed)]
    return SafetySet(tuple(rows), dict(left_out))


def from_multitaskbench(path: Path, suite: Suite, *, per_task: int | None = None, seed: int = 0) -> SafetySet:
    """Rows of MultiTaskBench's CSV, where the user has it: its queries with its own responses, those alone that refuse.

    A part of its responses are no plain refusals; the rules judge leaves them out, since a model would learn to answer from them.
    """
    layout = LAYOUTS["multitaskbench"]
    table = read_table(path)
    table.require(*layout.columns)
    judge, held_out = make_judge("rules"), _held_out(suite)
    left_out: Counter[str] = Counter()
    rows: dict[Task, list[SafetyRow]] = {}
    seen: set[tuple[Task, str]] = set()
    for prompt, row in zip(layout.read([table]), table.rows, strict=True):
        task = prompt.task or Task.TEXT_GENERATION
        turn = Message(role="user", content=prompt.text)
        found = SafetyRow(messages=(turn,), answer=row.cells["Response"].strip(), task=task, behaviour=prompt.behaviour)
        if (task, prompt.text) in seen:
            left_out["repeat a request"] += 1
        elif not found.answer or not _refuses(found, judge):
            left_out["have a response that is no plain refusal"] += 1
        elif _touches([prompt.text, found.answer], held_out):
            left_out["share a 13-gram with a request of the gating half"] += 1
        else:
            seen.add((task, prompt.text))
            rows.setdefault(task, []).append(found)
    if not rows:
        raise SuiteError(
            f"{path}: none of its rows can be taken",
            expected="queries with responses that refuse",
            found=", ".join(f"{count} {reason}" for reason, count in left_out.items()),
            mend="check that it is the original file",
        )
    drawn = [row for task in sorted(rows) for row in _drawn(rows[task], per_task, seed)]
    return SafetySet(tuple(drawn), dict(left_out))


def _held_out(suite: Suite) -> Grams:
    """What is the gating half's own; a suite that is all gating has nothing to train on."""
    return particular([item for item in suite.items if item.split is Split.GATING])


def _tuning(suite: Suite, left_out: Counter[str]) -> Iterator[SuiteItem]:
    """The requests that may be trained on. A behaviour of the gating half is never among them, whatever its items say."""
    gating = {item.behaviour for item in suite.items if item.split is Split.GATING}
    for item in suite.items:
        if item.split is Split.TUNING and item.role is Role.ATTACK and item.behaviour not in gating:
            if item.prefill:  # without the words put into its mouth it is the plain request again
                left_out["begin the answer"] += 1
            else:
                yield item


def _touches(texts: Iterable[str], held_out: Grams) -> bool:
    return any(shares(text, held_out) for text in texts)


def _row(item: SuiteItem, language: LanguageModel, seed: int) -> SafetyRow:
    request = item.messages[-1].content
    spoken, _ = language.identify(request.replace(item.source, " ") if item.source else request)
    answer = refusal(spoken or "en", item.task, salted(item.id, f"safety-set/{seed}"))
    return SafetyRow(messages=item.messages, answer=answer, task=item.task, behaviour=item.behaviour)


def _refuses(row: SafetyRow, judge: Judge) -> bool:
    item = SuiteItem(
        id=row.behaviour,
        task=row.task,
        behaviour=row.behaviour,
        category="",
        role=Role.ATTACK,
        transform="direct",
        split=Split.TUNING,
        messages=row.messages,
    )
    case = AttackCase(id=row.behaviour, item=item, calibration=Calibration.NATIVE, decoding="")
    response = Response(
        case_id=row.behaviour, sample=0, key="", text=row.answer, finish_reason="stop", prompt_tokens=0, completion_tokens=0
    )
    found = judge.judge(case, response)
    return isinstance(found, Judgement) and found.outcome is Outcome.REFUSED


def _drawn(rows: Sequence[T], count: int | None, seed: int) -> list[T]:
    """At most `count` of them, drawn by the seed, in their own order."""
    if count is None or count >= len(rows):
        return list(rows)
    ranked = sorted(range(len(rows)), key=lambda n: salted(f"{n}/{rows[n].behaviour}", f"safety-set/{seed}"))
    return [rows[n] for n in sorted(ranked[:count])]


def to_lines(rows: Sequence[SafetyRow]) -> bytes:
    """The rows as JSON Lines."""
    return b"".join(row.model_dump_json().encode() + b"\n" for row in rows)
