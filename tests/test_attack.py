"""The attack loop: what is asked, what is stored, and what an engine's misbehaviour comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

import pytest

from gate.answer_log import AnswerLog
from gate.attack import Attack, Progress, answer_key
from gate.cells import Cell
from gate.conformance.scene import ITEMS, OddJudge, complies_with, safe, small_policy, small_suite, unsafe
from gate.endpoints.scripted import Scripted, no_answer
from gate.errors import InfrastructureError
from gate.judges import make_judge
from gate.judging import judge_batch, judge_label
from gate.policy import Evidence, Gated, Policy
from gate.records import (
    Ask,
    AttackCase,
    Calibration,
    Decoding,
    EngineInfo,
    Judgement,
    NoJudgement,
    NoResponse,
    Response,
    Role,
    Task,
)
from tests.stored import judged_places, stored_places
from tests.trials import cells_of

Reply = Response | NoResponse
TRIAL = "t" * 64
LABEL = judge_label(make_judge("rules"))


class Bent(Scripted):
    """A scripted engine whose stream of answers is bent on its way; it remembers every batch."""

    def __init__(self, bend: Callable[[Sequence[Ask], Iterator[Reply]], Iterator[Reply]] | None = None) -> None:
        super().__init__(safe)
        self.batches: list[list[Ask]] = []
        self._bend = bend

    def generate(self, asks: Sequence[Ask]) -> Iterator[Reply]:
        """The scripted answers, bent."""
        self.batches.append(list(asks))
        answers = super().generate(asks)
        return self._bend(asks, answers) if self._bend else answers

    @property
    def asked(self) -> list[tuple[str, int]]:
        """(case, sample) of every ask, in order."""
        return [(ask.case.id, ask.sample) for batch in self.batches for ask in batch]


def cells_under(policy: Policy) -> tuple[Cell, ...]:
    """The scene's suite under a policy."""
    return cells_of(policy, small_suite().items)


def attack(
    folder: Path,
    endpoint: Scripted,
    *,
    policy: Policy | None = None,
    batch_size: int = 16,
    observe: Callable[[Progress], None] | None = None,
) -> Attack:
    """An attack on a folder's log, read from disk as a new process would."""
    policy = policy or small_policy()
    log = AnswerLog(folder, "candidate")
    log.mend()
    log.load(LABEL)
    judge = make_judge("rules")
    return Attack(
        endpoint=endpoint,
        trial_digest=TRIAL,
        cells=cells_under(policy),
        policy=policy,
        log=log,
        judge=lambda pairs: judge_batch(pairs, judge),
        batch_size=batch_size,
        observe=observe or (lambda _: None),
    )


def test_every_answer_and_judgement_is_on_disk_when_the_attack_ends(tmp_path: Path) -> None:
    """The log holds one answer and one judgement per ask, and a new process reads the same."""
    endpoint = Bent()
    attack(tmp_path, endpoint).run()
    again = AnswerLog(tmp_path, "candidate")
    again.load(LABEL)
    assert stored_places(again) == judged_places(again) == sorted(endpoint.asked)
    assert len(set(endpoint.asked)) == len(endpoint.asked)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 4096])
def test_batches_are_no_larger_than_asked_for(batch_size: int, tmp_path: Path) -> None:
    """No call of the engine gets more asks than the batch size, and the evidence is the same for all of them."""
    endpoint = Bent()
    evidence = attack(tmp_path, endpoint, batch_size=batch_size).run()
    assert max(map(len, endpoint.batches)) <= batch_size
    assert {walk.end for walk in evidence.walks.values()} == {"pass"}


def test_batch_size_changes_no_walk(tmp_path: Path) -> None:
    """How the asks were batched does not show in what was decided, and where."""
    walks = []
    for size in (1, 16, 300):
        (tmp_path / str(size)).mkdir()
        evidence = attack(tmp_path / str(size), Scripted(complies_with(4)), batch_size=size).run()
        walks.append({name: (walk.states, walk.end, walk.crossed_at) for name, walk in evidence.walks.items()})
    assert walks[0] == walks[1] == walks[2]


def test_decided_cell_is_asked_no_further(tmp_path: Path) -> None:
    """Of a model that answers everything a few items of each cell are asked, not its sixty."""
    endpoint = Scripted(unsafe)
    attacker = attack(tmp_path, endpoint, batch_size=4)
    evidence = attacker.run()
    attacks = [cell for cell in attacker.cells if cell.role is Role.ATTACK]
    for cell in attacks:
        answered = sum(case.id in evidence.outcomes for case in cell.cases)
        assert evidence.walks[cell.id].end == "block"
        assert answered <= 12


def test_reported_cells_are_read_to_their_end(tmp_path: Path) -> None:
    """What is only shown has no test that could stop it early."""
    policy = small_policy(report={"calibrations": ["raw"], "items_per_cell": 9})
    attacker = attack(tmp_path, Scripted(unsafe), policy=policy)
    evidence = attacker.run()
    beside = [evidence.walks[cell.id] for cell in attacker.cells if not cell.gated]
    assert [(walk.end, len(walk.states)) for walk in beside] == [("exhausted", 9)] * 2


def test_answer_that_never_comes_is_a_failure_with_a_reason(tmp_path: Path) -> None:
    """An engine that drops an ask leaves no hole: a record says that nothing came, and it counts as missing."""
    dropped: list[str] = []

    def drop_first(asks: Sequence[Ask], answers: Iterator[Reply]) -> Iterator[Reply]:
        dropped.append(next(answers).case_id)
        yield from answers

    attacker = attack(tmp_path, Bent(drop_first))
    attacker.run()
    lost = attacker.log.answer((dropped[0], 0))
    assert isinstance(lost, NoResponse)
    assert lost.reason == "the engine gave no answer"


def test_answers_of_other_asks_are_not_taken(tmp_path: Path) -> None:
    """An engine that repeats answers, or answers what was not asked, changes nothing."""

    def noisy(asks: Sequence[Ask], answers: Iterator[Reply]) -> Iterator[Reply]:
        for answer in answers:
            yield answer
            yield answer.model_copy(update={"text": "something else"})
            yield answer.model_copy(update={"case_id": "nobody asked"})
            yield answer.model_copy(update={"key": "of another model", "sample": 0})

    endpoint = Bent(noisy)
    attacker = attack(tmp_path, endpoint)
    attacker.run()
    texts = {a.text for a in attacker.log.answers() if isinstance(a, Response)}
    assert "something else" not in texts
    assert stored_places(attacker.log) == sorted(endpoint.asked)


def test_failing_machine_keeps_the_batches_that_were_stored(tmp_path: Path) -> None:
    """An engine that dies in its third batch leaves two on disk, and the next process asks for none of them again."""
    calls: list[int] = []

    def die(asks: Sequence[Ask], answers: Iterator[Reply]) -> Iterator[Reply]:
        calls.append(len(asks))
        if len(calls) == 3:
            raise InfrastructureError("out of memory")
        return answers

    broken = Bent(die)
    with pytest.raises(InfrastructureError):
        attack(tmp_path, broken).run()
    stored = [(ask.case.id, ask.sample) for batch in broken.batches[:2] for ask in batch]
    second = Bent()
    attacker = attack(tmp_path, second)
    assert stored_places(attacker.log) == sorted(stored)
    resumed = attacker.run()
    assert not set(second.asked) & set(stored)
    (tmp_path / "whole").mkdir()
    whole = attack(tmp_path / "whole", Bent()).run()
    assert [w.states for w in whole.walks.values()] == [w.states for w in resumed.walks.values()]


def test_answers_without_a_judgement_are_judged_and_not_asked_again(tmp_path: Path) -> None:
    """A kill between storing and judging costs no generation."""
    attack(tmp_path, Bent()).run()
    (tmp_path / "candidate.judgements.jsonl").unlink()
    endpoint = Bent()
    attacker = attack(tmp_path, endpoint)
    attacker.run()
    assert endpoint.asked == []
    assert judged_places(attacker.log) == stored_places(attacker.log)


@pytest.mark.parametrize(("kind", "again"), [("timeout", True), ("unreachable", True), ("error", False), ("unsupported", False)])
def test_only_failures_of_the_moment_are_asked_again(
    kind: Literal["timeout", "unreachable", "error", "unsupported"], again: bool, tmp_path: Path
) -> None:
    """A resumed run asks again where the machine failed; what the candidate itself could not answer stays unanswered."""
    down = Scripted(lambda case, _: no_answer(kind, "down") if case.item.role is Role.ATTACK else safe(case))
    with suppress(InfrastructureError):  # of what is out of reach, the budget is soon spent
        attack(tmp_path, down).run()
    endpoint = Bent()
    attack(tmp_path, endpoint).run()
    assert bool(endpoint.asked) is again


def test_the_verdict_is_dropped_before_the_log_changes(tmp_path: Path) -> None:
    """The hook is called before anything is asked, and not at all where nothing is left to ask."""
    called: list[int] = []
    endpoint = Bent()
    first = attack(tmp_path, endpoint)
    first.changing = lambda: called.append(len(endpoint.batches))
    first.run()
    assert called[0] == 0
    called.clear()
    second = attack(tmp_path, endpoint)
    second.changing = lambda: called.append(1)
    second.run()
    assert called == []


def test_text_that_json_cannot_hold_is_stored(tmp_path: Path) -> None:
    """A lone surrogate in an answer becomes a question mark; the run goes on."""

    def bend(_asks: Sequence[Ask], answers: Iterator[Reply]) -> Iterator[Reply]:
        for reply in answers:
            yield reply.model_copy(update={"text": "I can\ud800't"}) if isinstance(reply, Response) else reply

    attacker = attack(tmp_path, Bent(bend))
    attacker.run()
    assert {a.text for a in attacker.log.answers() if isinstance(a, Response)} == {"I can?'t"}


def test_samples_of_one_case_are_asked_one_by_one(tmp_path: Path) -> None:
    """A decoding with three samples makes three asks of each attack, with three keys."""
    decoding = Decoding(name="hot", temperature=1.0, samples=3)
    policy = small_policy(gate=Gated(tasks=(Task.TRANSLATION,), calibrations=(Calibration.NATIVE,), decodings=(decoding,)))
    endpoint = Bent()
    attack(tmp_path, endpoint, policy=policy).run()
    asks = [ask for batch in endpoint.batches for ask in batch if ask.case.item.role is Role.ATTACK]
    assert {ask.sample for ask in asks} == {0, 1, 2}
    assert len({ask.key for ask in asks}) == len(asks) == 3 * len({ask.case.id for ask in asks})


class Renamed(Scripted):
    """The same model on another engine."""

    def __init__(self, **changes: str) -> None:
        super().__init__(safe)
        self._changes = changes

    @property
    def info(self) -> EngineInfo:
        """Another name, version, dtype or device."""
        return super().info.model_copy(update=self._changes)


@pytest.mark.parametrize("changes", [{"name": "e"}, {"version": "2"}, {"dtype": "bfloat16"}, {"device": "gpu"}])
def test_key_changes_with_the_engine(changes: dict[str, str]) -> None:
    """An answer of another engine, version, dtype or device has another key."""
    cell = cells_under(small_policy())[0]
    assert answer_key(TRIAL, Scripted(safe), "p", cell, 0) != answer_key(TRIAL, Renamed(**changes), "p", cell, 0)


@pytest.mark.parametrize(
    "changes", [{"temperature": 0.5}, {"top_p": 0.9}, {"max_new_tokens": 64}, {"seed": 1}], ids=lambda c: next(iter(c))
)
def test_key_changes_with_the_decoding(changes: dict[str, float]) -> None:
    """Every setting that an answer depends on is in its key."""
    keys = set()
    for decoding in (Decoding(), Decoding.model_validate(changes)):
        policy = small_policy(gate=Gated(tasks=(Task.TRANSLATION,), calibrations=(Calibration.NATIVE,), decodings=(decoding,)))
        keys.add(answer_key(TRIAL, Scripted(safe), "p", cells_under(policy)[0], 0))
    assert len(keys) == 2


def test_key_changes_with_candidate_prompt_and_sample_and_not_with_a_name() -> None:
    """Another model, prompt or sample is another answer; another name of the same decoding is not."""
    cell = cells_under(small_policy())[0]
    engine = Scripted(safe)
    keys = {answer_key(trial, engine, prompt, cell, n) for trial in ("a", "b") for prompt in ("p", "q") for n in (0, 1)}
    assert len(keys) == 8
    named = small_policy(
        gate=Gated(tasks=(Task.TEXT_GENERATION,), calibrations=(Calibration.NATIVE,), decodings=(Decoding(name="other"),))
    )
    assert answer_key("a", engine, "p", cells_under(named)[0], 0) == answer_key("a", engine, "p", cell, 0)


def test_other_engine_asks_again_and_its_answers_replace_the_old(tmp_path: Path) -> None:
    """Answers of an engine that is no longer the one in use are forgotten, on disk too."""
    attack(tmp_path, Scripted(safe)).run()
    attacker = attack(tmp_path, Renamed(version="2"))
    attacker.run()
    again = AnswerLog(tmp_path, "candidate")
    again.load(LABEL)
    keys = {answer.key for answer in again.answers()}
    assert attacker.asked == len(again) == len(keys)
    lines = (tmp_path / "candidate.responses.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(again)


def test_same_prompt_under_two_decoding_names_is_asked_once(tmp_path: Path) -> None:
    """Two cells whose answers must be the same share them."""
    decodings = (Decoding(name="one"), Decoding(name="two"))
    gate = Gated(tasks=(Task.TRANSLATION,), calibrations=(Calibration.NATIVE,), decodings=decodings)
    endpoint = Bent()
    attacker = attack(
        tmp_path, endpoint, policy=small_policy(gate=gate, evidence=Evidence(min_items=1, min_behaviours=1, min_judged=ITEMS))
    )
    evidence = attacker.run()
    keys = [ask.key for batch in endpoint.batches for ask in batch]
    assert len(set(keys)) == len(keys)
    assert {len(walk.states) for walk in evidence.walks.values()} == {ITEMS}
    assert attacker.stored == ITEMS


def test_progress_counts_up_to_the_end(tmp_path: Path) -> None:
    """The observer is told before the first batch and after each one; the last time every cell is done."""
    seen: list[tuple[int, int, bool]] = []

    def observe(progress: Progress) -> None:
        seen.append((progress.asked, progress.stored, all(walk.done for walk in progress.walks.values())))

    endpoint = Bent()
    attack(tmp_path, endpoint, observe=observe).run()
    assert seen[0] == (0, 0, False)
    assert seen[-1] == (len(endpoint.asked), 0, True)
    assert [asked for asked, _, _ in seen] == sorted(asked for asked, _, _ in seen)
    seen.clear()
    attack(tmp_path, Bent(), observe=observe).run()
    assert seen[-1] == (0, len(endpoint.asked), True)


def pairs_of(count: int) -> list[tuple[AttackCase, Response]]:
    """Cases with an answer each."""
    cases = cells_under(small_policy())[0].cases[:count]
    return [
        (
            case,
            Response(
                case_id=case.id, sample=0, key="k", text=safe(case), finish_reason="stop", prompt_tokens=1, completion_tokens=1
            ),
        )
        for case in cases
    ]


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), TypeError("x"), RecursionError("x"), ZeroDivisionError("x")])
def test_judge_that_breaks_on_one_answer_leaves_a_reason_and_the_others(error: Exception) -> None:
    """One odd answer neither ends the batch nor counts as anything."""
    pairs = pairs_of(5)
    judge = OddJudge(lambda case, _: error if case.id == pairs[2][0].id else None)
    found = judge_batch(pairs, judge)
    assert [o.case_id for o in found] == [case.id for case, _ in pairs]
    assert [isinstance(o, Judgement) for o in found] == [True, True, False, True, True]
    assert isinstance(found[2], NoJudgement)
    assert type(error).__name__ in found[2].reason


def test_judge_label_names_version_and_digest() -> None:
    """A judge with other data has another label."""
    judge = OddJudge(lambda case, _: None)
    assert judge_label(judge) == f"odd 1 {judge.digest}"
    judge.digest = "0" * 64
    assert judge_label(judge).endswith("0" * 64)
