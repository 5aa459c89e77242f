"""The plan against the walk it foretells: exhausted over all orders, drawn at random, and read from the stored bench."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from typer.testing import CliRunner

from gate import cells as grid
from gate import pipeline
from gate.cells import Cell, family_size, plan, walk
from gate.cli import app
from gate.conformance.scene import Model, complies_with
from gate.endpoints.scripted import Scripted, no_answer
from gate.engine_speed import measure, sample_cases
from gate.errors import ExitCode, InfrastructureError, UsageError
from gate.plan_command import PlanFormat, duration, render_plan
from gate.planning import Plan, Subject, assumed_rate, default_assumptions, make_plan
from gate.policy import Policy, load_policy
from gate.records import Ask, AttackCase, Measure, NoResponse, Outcome, Response, Role, Task
from gate.sequential import WithoutReplacement
from gate.stopping import Contest, asked, earliest, law_of, stopping
from gate.suites import load_suite
from tests.conftest import ROOT
from tests.folders import inputs_of
from tests.trials import SUITE_DIGEST, cells_of, items_of, policy_of

WAIVER = {"rule": "max_rate", "task": "translation", "reason": "known and accepted", "owner": "us", "expires": "2030-01-01"}


def attack_cell(policy: Policy, count: int) -> tuple[Cell, grid.Tests]:
    """The gated attack cell of a trial policy on `count` items, and its tests."""
    cells = cells_of(policy, items_of(count))
    cell = next(c for c in cells if c.gated and c.role is Role.ATTACK)
    tests = grid.tests_of(cell, policy, family_size(cells, cell.role))
    assert tests is not None
    return cell, tests


def read_of(cell: Cell, tests: grid.Tests, hits: Collection[int], min_judged: int) -> tuple[int, str]:
    """What `walk` reads, and how it ends, where the cell's items at these places are hits."""
    outcomes = {case.id: (Outcome.COMPLIED if n in hits else Outcome.REFUSED,) for n, case in enumerate(cell.cases)}
    found = walk(cell, outcomes, tests, Measure.ANSWERED, min_judged)
    return len(found.states), found.end


def small_policy(min_judged: int, *, waived: bool = False, alpha: float = 0.2) -> Policy:
    """A limit of 30 % and wide alphas, so that few items decide."""
    return policy_of(
        limits={"max_rate": 0.3, "max_over_refusal": 0.3},
        decision={"alpha_block": alpha, "alpha_pass": alpha},
        evidence={"min_items": 1, "min_behaviours": 1, "min_judged": min_judged},
        waivers=[WAIVER] if waived else [],
    )


@pytest.mark.parametrize("waived", [False, True])
@pytest.mark.parametrize("min_judged", [1, 5, 8, 11, 12])
def test_the_law_is_the_walks_over_all_orders(min_judged: int, waived: bool) -> None:
    """On 11 items, for every number of hits, mean, deviation, p90 and both ends are those of every order's walk."""
    cell, tests = attack_cell(small_policy(min_judged, waived=waived), 11)
    assert cell.waived is waived
    for hits in range(12):
        ends = [read_of(cell, tests, set(places), min_judged) for places in itertools.combinations(range(11), hits)]
        read = np.array([t for t, _ in ends])
        law = law_of(cell, tests, hits, min_judged)
        assert law.mean == pytest.approx(read.mean())
        assert law.deviation == pytest.approx(read.std(), abs=1e-6)
        assert law.p90 == np.sort(read)[math.ceil(0.9 * len(read)) - 1]
        assert law.block == pytest.approx(np.mean([end == "block" for _, end in ends]))
        assert law.passed == pytest.approx(np.mean([end == "pass" for _, end in ends]))


@pytest.mark.parametrize("hits", [6, 12, 15, 24])
def test_the_law_is_near_the_mean_of_random_orders(hits: int) -> None:
    """On 120 items at 5 to 20 % and a limit of 10 %, 300 walks in random orders read what the law says, within four errors."""
    policy = policy_of(evidence={"min_items": 1, "min_behaviours": 1, "min_judged": 40})
    cell, tests = attack_cell(policy, 120)
    draw = random.Random(hits)
    read = [read_of(cell, tests, set(draw.sample(range(120), hits)), 40)[0] for _ in range(300)]
    law = law_of(cell, tests, hits, 40)
    assert abs(np.mean(read) - law.mean) < 4 * law.deviation / math.sqrt(len(read))
    assert law.deviation > 5


def test_the_law_is_the_stored_benchs() -> None:
    """Every row of the stored bench of the default test has the mean, p90 and ends that a plan would state."""
    stored = json.loads((ROOT / "bench" / "results" / "generations_to_verdict.json").read_text(encoding="utf-8"))
    for row in stored["against_fixed"]:
        if row["population"] > 500:
            continue  # seconds of work for nothing new
        test = WithoutReplacement(row["population"], stored["limit"], stored["alpha"], stored["alpha"])
        law = stopping(test.up, test.down, row["hits"], 1, waived=False)
        assert law.p90 == row["p90"]
        assert [law.mean, law.block, law.passed] == pytest.approx([row["mean"], row["block"], row["pass"]])


@pytest.mark.parametrize("min_judged", [1, 5, 9])
def test_the_least_is_the_least_over_all_orders(min_judged: int) -> None:
    """The earliest pass and the earliest block are those that some order of some number of hits comes to."""
    cell, tests = attack_cell(small_policy(min_judged), 9)
    ends = [
        read_of(cell, tests, set(places), min_judged) for hits in range(10) for places in itertools.combinations(range(9), hits)
    ]
    least = tuple(min((t for t, end in ends if end == how), default=None) for how in ("pass", "block"))
    assert earliest(cell, tests, min_judged) == least


def test_a_cell_that_cannot_have_the_least_evidence_never_passes() -> None:
    """With more answers asked for than there are items, every order of a faultless suite reads all and passes nothing."""
    cell, tests = attack_cell(small_policy(12), 9)
    assert earliest(cell, tests, 12)[0] is None
    assert law_of(cell, tests, 0, 12).mean == 9
    assert law_of(cell, tests, 0, 12).passed == 0


def test_a_hand_counted_cell() -> None:
    """One hit allowed of four: two hits in a row are over it for sure, three misses within it for sure, and so is the mean."""
    policy = policy_of(limits={"max_rate": 0.25, "max_over_refusal": 0.25}, decision={"alpha_block": 0.01, "alpha_pass": 0.01})
    cell, tests = attack_cell(policy, 4)
    assert earliest(cell, tests, 1) == (3, 2)
    assert law_of(cell, tests, 4, 1).mean == 2
    assert law_of(cell, tests, 0, 1).mean == 3
    # One hit: it comes first, second or third (then the fourth is needed), or last (three misses decide).
    assert law_of(cell, tests, 1, 1).mean == pytest.approx(3 / 4 * 4 + 1 / 4 * 3)


def test_expectations_rise_to_the_limit_and_fall_beyond_it() -> None:
    """A rate nearer the limit reads more, on either side of it."""
    cell, tests = attack_cell(policy_of(), 200)
    means = [law_of(cell, tests, hits, 40).mean for hits in (0, 5, 10, 15, 20, 30, 50, 100, 200)]
    top = means.index(max(means))
    assert means[: top + 1] == sorted(means[: top + 1])
    assert means[top:] == sorted(means[top:], reverse=True)
    assert 2 <= top <= 5


def subject_of(name: str, *, baseline: bool = False) -> Subject:
    """A shipped policy's grid."""
    loaded = load_policy(name)
    suite = load_suite(loaded.policy.suite, relative_to=loaded.directory)
    cells = plan(loaded.policy, suite.items, suite.system_prompt, suite.digest)
    return Subject(loaded.policy, cells, suite.name, suite.digest, baseline=baseline)


def trial_subject(policy: Policy | None = None, *, baseline: bool = False) -> Subject:
    """A trial policy's grid on 60 attacks and twins."""
    chosen = policy or policy_of()
    return Subject(chosen, cells_of(chosen), "trial", SUITE_DIGEST, baseline=baseline)


@pytest.mark.parametrize("name", ["default", "strict", "demo"])
def test_the_worst_case_is_the_whole_grid(name: str) -> None:
    """Worst-case generations are cases × samples over all cells, and a baseline adds the gated attacks once more."""
    subject = subject_of(name)
    whole = sum(len(c.cases) * c.decoding.samples for c in subject.cells)
    attacks = sum(len(c.cases) * c.decoding.samples for c in subject.cells if c.gated and c.role is Role.ATTACK)
    alone, both = (make_plan(replace(subject, baseline=b), default_assumptions()) for b in (False, True))
    assert alone.worst.generations == whole
    assert (both.worst.generations, both.worst.baseline) == (whole + attacks, attacks)
    assert alone.cases == sum(len(c.cases) for c in subject.cells)
    for found in (alone, both):
        for amount in found.expected.values():
            assert found.least.generations <= amount.generations <= found.worst.generations
            assert amount.generations == pytest.approx(amount.candidate + amount.ahead + amount.beside + amount.baseline)
            assert amount.beside == found.worst.beside


def test_the_total_is_the_sum_of_the_cells() -> None:
    """With samples, a fixed report and a baseline, expected generations and their deviation are what the cells add up to."""
    gate = {
        "tasks": ["translation"],
        "calibrations": ["native"],
        "decodings": [{"name": "warm", "temperature": 1, "samples": 3}],
        "transforms": ["direct"],
    }
    subject = trial_subject(policy_of(gate=gate, report={"transforms": "rest"}), baseline=True)
    found = make_plan(subject, [assumed_rate(0.05, 0.02)])
    attack, twin, beside = found.cells
    assert (attack.samples, twin.samples, beside.samples) == (3, 1, 3)
    (name,) = found.expected
    laws = [c.expected[name] for c in found.cells]
    total = found.expected[name]
    assert total.candidate == pytest.approx(3 * laws[0].mean + laws[1].mean)
    assert total.baseline == pytest.approx(3 * laws[0].mean)
    assert total.beside == 3 * beside.cases == beside.worst
    assert total.deviation == pytest.approx(math.hypot(6 * laws[0].deviation, laws[1].deviation))
    assert total.most_new_tokens == pytest.approx(total.generations * attack.max_new_tokens)


def test_a_fixed_design_has_one_number() -> None:
    """Under `method: fixed` least, expected and worst case are the same."""
    policy = policy_of(decision={"method": "fixed", "items_per_cell": 25})
    found = make_plan(trial_subject(policy), default_assumptions())
    counts = {found.least.generations, found.worst.generations, *(a.generations for a in found.expected.values())}
    assert counts == {50}
    assert {c.least_pass for c in found.cells} == {None}


def test_the_default_assumptions_stay_within_the_limit_or_break_it() -> None:
    """Up to the limit nearly every attack cell passes; where everything is answered every one blocks."""
    found = make_plan(subject_of("demo"), default_assumptions())
    attacks = [c for c in found.cells if c.gated and c.role is Role.ATTACK]
    assert all(c.expected["clean"].passed == 1 for c in attacks)
    assert all(c.expected["at the limit"].block <= 0.005 for c in attacks)
    assert all(c.expected["drifted"].block == pytest.approx(1) for c in attacks)
    assert all(c.expected["drifted"].mean == c.least_block for c in attacks)


def test_a_shard_asks_its_slice_in_full() -> None:
    """Shards together ask the whole grid: the largest has at least its share, and at most one item per cell more."""
    subject = trial_subject(baseline=True)
    found = make_plan(subject, default_assumptions(), shards=7)
    assert found.shards is not None
    assert found.worst.generations / 7 <= found.shards.generations <= found.worst.generations / 7 + 3
    one = make_plan(subject, default_assumptions(), shards=1).shards
    assert one is not None
    assert one.generations == found.worst.generations


def test_what_is_asked_ahead_by_hand() -> None:
    """One cell that reads two of four items for sure: batches of four ask all, batches of one hardly more than two."""
    surviving = (1.0, 1.0, 0.0, 0.0)
    assert asked([Contest(4, 1, surviving)], 4) == [4]
    assert asked([Contest(4, 2, surviving)], 8) == [4]
    assert 2 <= asked([Contest(4, 1, surviving)], 1)[0] < 4
    assert asked([Contest(4, 1, ()), Contest(3, 1, ())], 2) == [4, 3]


@pytest.mark.parametrize("batch_size", [4, 16, 64])
@pytest.mark.parametrize("hits", [0, 3, 60])
def test_a_check_asks_about_what_the_plan_expects(tmp_path: Path, batch_size: int, hits: int) -> None:
    """A whole check of a scripted model with that many hits in 60 asks within a sixth of the expected generations."""
    model = Model("scripted", complies_with(hits))
    inputs = inputs_of(model)
    subject = Subject(inputs.policy, pipeline.plan_of(inputs.policy, inputs.suite), "scene", inputs.suite.digest)
    (found,) = make_plan(subject, [assumed_rate(hits / 60)], batch_size=batch_size).expected.values()
    asks: list[Ask] = []

    class Listening(Scripted):
        def generate(self, batch: Sequence[Ask]) -> Iterator[Response | NoResponse]:
            """Write down, answer."""
            asks.extend(batch)
            return super().generate(batch)

    pipeline.check(inputs, tmp_path / "run", lambda _: Listening(model.answer), batch_size=batch_size)
    assert len(asks) == pytest.approx(found.generations, rel=1 / 6)


def test_a_gated_cell_without_cases_is_told() -> None:
    """A gate over a task that the suite does not hold plans nothing for it and says so."""
    found = make_plan(trial_subject(policy_of(gate={"tasks": ["translation", "classification"]})), default_assumptions())
    assert "no case for 4 gated cells" in found.notes[0]
    assert "no case" not in make_plan(trial_subject(), default_assumptions()).notes[0]


class Ticking:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Now, in seconds."""
        return self.now


class Slow(Scripted):
    """Answers four words a prompt; each batch takes a second and each prompt a half."""

    def __init__(self, clock: Ticking) -> None:
        super().__init__(lambda _case, _sample: "one two three four")
        self.clock = clock
        self.batches: list[list[str]] = []
        self.closed = False
        clock.now += 10.0

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """Take the time, answer."""
        self.batches.append([ask.case.id for ask in asks])
        self.clock.now += 1.0 + 0.5 * len(asks)
        yield from super().generate(asks)

    def close(self) -> None:
        """Remember."""
        self.closed = True


class Waiting:
    """A queue with room for three; answers two at a time."""

    def __init__(self, endpoint: Slow) -> None:
        self.endpoint = endpoint
        self.asks: list[Ask] = []
        self.closed = False
        self.most = 0

    def room(self) -> int:
        """What is left of three."""
        return 3 - len(self.asks)

    def put(self, asks: Sequence[Ask]) -> None:
        """Keep them."""
        self.asks += asks
        self.most = max(self.most, len(self.asks))

    def drop(self, places: Collection[tuple[str, int]]) -> None:
        """Forget those at these places."""
        self.asks = [ask for ask in self.asks if (ask.case.id, ask.sample) not in places]

    def take(self) -> Sequence[Response | NoResponse]:
        """Answer the first two."""
        now, self.asks = self.asks[:2], self.asks[2:]
        return list(Slow.generate(self.endpoint, now))

    def close(self) -> None:
        """Remember."""
        self.closed = True


class Queued(Slow):
    """The same, fed through a queue."""

    def queue(self) -> Waiting:
        """One queue, remembered."""
        self.last = Waiting(self)
        return self.last


def test_speed_is_measured_without_loading_and_warming_up() -> None:
    """Twelve prompts in batches of five: 3 × 1 s and 12 × 0.5 s, after 10 s of loading and 1.5 s for a first prompt."""
    clock = Ticking()
    opened: list[Slow] = []

    def open_endpoint() -> Slow:
        opened.append(Slow(clock))
        return opened[-1]

    subject = trial_subject()
    found, lengths = measure(open_endpoint, subject.cells, 12, batch_size=5, clock=clock)
    assert (found.load_seconds, found.seconds, found.asked, found.answered) == (11.5, 9.0, 12, 12)
    assert found.prompts_per_second == pytest.approx(12 / 9)
    assert found.new_tokens_per_second == pytest.approx(48 / 9)
    assert found.share_of_new_tokens == pytest.approx(4 / subject.cells[0].decoding.max_new_tokens)
    assert [len(batch) for batch in opened[0].batches] == [1, 5, 5, 2]
    assert opened[0].closed
    assert set(lengths) == {c.id for c in subject.cells}


def test_an_engine_with_a_queue_is_measured_through_it() -> None:
    """All prompts go through the queue, never more at once than it has room for, and it is closed."""
    clock = Ticking()
    endpoint = Queued(clock)
    found, _ = measure(lambda: endpoint, trial_subject().cells, 8, clock=clock)
    assert found.answered == 8
    assert endpoint.last.most == 3
    assert endpoint.last.closed
    assert max(len(batch) for batch in endpoint.batches) <= 2


def test_a_measured_plan_is_in_proportion() -> None:
    """Time is the loading and the generations at the measured speed; tokens are those of rendered prompts and mean answers."""
    clock = Ticking()
    subject = trial_subject(baseline=True)
    measured, lengths = measure(lambda: Slow(clock), subject.cells, 10, clock=clock)
    found = make_plan(subject, default_assumptions(), measured=measured, lengths=lengths, shards=6)
    assert found.worst.seconds is not None
    assert found.worst.seconds == pytest.approx(2 * 11.5 + found.worst.generations / measured.prompts_per_second)
    assert found.worst.new_tokens == pytest.approx(4 * found.worst.generations)
    scripted = Scripted(lambda _c, _s: "")
    words = sum(
        len(scripted.render(case).split()) * (2 if cell.role is Role.ATTACK else 1)
        for cell in subject.cells
        for case in cell.cases
    )
    assert found.worst.prompt_tokens == pytest.approx(words, rel=0.05)
    assert found.shards is not None
    assert found.shards.seconds == pytest.approx(2 * 11.5 + (found.worst.seconds - 2 * 11.5) / 6)


def test_an_engine_that_answers_nothing_is_no_estimate() -> None:
    """Where every prompt fails, the failure's reason is told as an infrastructure error, and the engine is closed."""
    with pytest.raises(InfrastructureError) as error:
        measure(lambda: Scripted(lambda _c, _s: no_answer("timeout", "no one home")), trial_subject().cells, 4)
    assert error.value.found == "no one home"


def test_missing_answers_do_not_count_as_tokens() -> None:
    """A prompt in four that fails is counted as asked and not as answered, and the mean length is of the others."""
    seen = itertools.count()

    def answer(_case: AttackCase, _sample: int) -> str | NoResponse:
        return no_answer("error", "lost") if next(seen) % 4 == 1 else "a b c"

    subject = trial_subject()
    found, _ = measure(lambda: Scripted(answer), subject.cells, 8)
    assert (found.asked, found.answered) == (8, 6)
    assert found.share_of_new_tokens == pytest.approx(3 / subject.cells[0].decoding.max_new_tokens)


@pytest.mark.parametrize("count", [1, 7, 32, 500])
def test_the_sample_is_spread_over_the_cells(count: int) -> None:
    """Prompts are each taken once, from the front of each cell's order, and by cell in proportion to what it may take."""
    cells = cells_of(policy_of(gate={"tasks": ["translation", "summarization"]}), items_of(30, tasks=tuple(Task)[:4]))
    chosen = sample_cases(cells, count)
    assert len(chosen) == min(count, sum(len(c.cases) for c in cells))
    for cell in cells:
        places = [place for c, place in chosen if c.id == cell.id]
        assert places == list(range(len(places)))
        assert abs(len(places) - len(chosen) * len(cell.cases) / sum(len(c.cases) for c in cells)) <= 1


def test_nothing_to_ask_is_told() -> None:
    """A suite without items in the policy's split is a usage error, not a plan with a speed."""
    policy = policy_of(split="tuning")
    with pytest.raises(UsageError, match="nothing to ask"):
        measure(lambda: Scripted(lambda _c, _s: ""), cells_of(policy), 4)


def run_plan(*arguments: str) -> str:
    """Standard output of `gate plan`."""
    result = CliRunner().invoke(app, ["plan", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


@pytest.mark.parametrize("name", ["demo", "default"])
def test_the_command_prints_the_same_plan_in_every_form(name: str) -> None:
    """JSON is the plan, valid against the checked-in schema; text and Markdown show its totals and a row for every cell."""
    found = Plan.model_validate_json(run_plan("-p", name, "--calibrate", "0", "-f", "json", "--shards", "4"))
    schema = json.loads((ROOT / "schemas" / "plan.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(found.model_dump(mode="json"), schema)
    assert found == make_plan(subject_of(name), default_assumptions(), batch_size=64, shards=4)
    text, markdown = (run_plan("-p", name, "--calibrate", "0", "-f", form, "--shards", "4") for form in ("text", "markdown"))
    for shown in (text, markdown):
        assert f"{found.worst.generations:,.0f}" in shown
        assert f"{found.shards.generations if found.shards else 0:,.0f} generations" in shown
        assert sum(" greedy " in line or " sampled " in line for line in shown.splitlines()) == len(found.cells)


def test_assumed_rates_take_the_place_of_the_usual_ones() -> None:
    """`--assume-rate`, once for each, gives one expectation a rate, with the twins' rate as told."""
    found = Plan.model_validate_json(
        run_plan("-p", "demo", "--calibrate", "0", "-f", "json", "--assume-rate", "0.02", "--assume-rate", "0.3")
    )
    assert list(found.expected) == ["rate 0.02", "rate 0.3"]
    refusing = Plan.model_validate_json(
        run_plan("-p", "demo", "--calibrate", "0", "-f", "json", "--assume-rate", "0.02", "--assume-over-refusal", "0.05")
    )
    (name,) = refusing.expected
    assert refusing.expected[name].generations > found.expected["rate 0.02"].generations


def test_a_calibration_without_a_candidate_is_refused() -> None:
    """Without a candidate the command says to give one, or to go without a calibration."""
    with pytest.raises(UsageError, match="needs a candidate") as error:
        run_plan("-p", "demo")
    assert "--calibrate 0" in error.value.mend


def test_what_a_check_refuses_is_refused() -> None:
    """A URL without the name of its model, and an engine that is none, end as they do in `gate check`."""
    with pytest.raises(UsageError, match="is a server"):
        run_plan("-p", "demo", "-c", "http://localhost:1")
    assert CliRunner().invoke(app, ["plan", "-p", "demo", "--engine", "abacus"]).exit_code == ExitCode.USAGE


def test_the_testbeds_model_is_measured() -> None:
    """Six prompts on the shipped model give speeds, tokens and times for every line of the plan."""
    model = str(ROOT / "testbed" / "weights" / "aligned")
    found = Plan.model_validate_json(run_plan("-p", "demo", "-c", model, "--calibrate", "6", "--device", "cpu", "-f", "json"))
    assert found.measured is not None
    assert (found.measured.asked, found.measured.answered) == (6, 6)
    assert found.measured.engine.name == "transformers"
    assert 0 < found.measured.share_of_new_tokens <= 1
    assert all(a.seconds and a.prompt_tokens and a.new_tokens for a in (found.least, found.worst, *found.expected.values()))
    assert found.least.seconds is not None
    assert found.worst.seconds is not None
    assert found.measured.load_seconds < found.least.seconds < found.worst.seconds


def test_names_of_a_suite_cannot_act_in_the_table(tmp_path: Path) -> None:
    """A suite's name with a terminal escape or a table's pipe is shown, not obeyed."""
    found = make_plan(replace(trial_subject(), suite="\x1b[2Jsuite|x<b>"), default_assumptions())
    text, markdown = render_plan(found, PlanFormat.TEXT), render_plan(found, PlanFormat.MARKDOWN)
    assert "\x1b" not in text + markdown
    assert "<b>" not in markdown
    assert "suite|" not in markdown


def test_durations_are_told_in_the_unit_that_fits() -> None:
    """Below a minute in seconds, below an hour in minutes, else in hours."""
    assert [duration(s) for s in (0.04, 59.9, 61, 3599.9, 7500)] == ["0.0 s", "59.9 s", "1 min 1 s", "1 h 0 min", "2 h 5 min"]
