"""The loop: what it tries, what it chooses, that it looks once at the held-out half, and that it goes on where it was killed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gate.errors import UsageError
from gate.records import Decision, Split
from gate.repair.base import Setting
from gate.repair.card import RepairCard
from gate.repair.ledger import read_ledger
from gate.repair_pipeline import repair
from gate.run_store import RunStore, read_record
from tests.repair.loop import Loop, scale_of


def squared(scale: float, _: Split) -> float:
    """The adapter answers a share of the attacks that falls with its scale."""
    return scale**2


def overfitted(scale: float, split: Split) -> float:
    """Safe on the half that repairs are chosen on, and nowhere else."""
    return 0.0 if split is Split.TUNING and scale < 1 else scale**0.1


def test_the_largest_passing_scale_is_found_and_gated_once_on_the_held_out_half(tmp_path: Path) -> None:
    """Four tries of fifteen settings; the next larger scale did not pass; the held-out verdict is of the repaired folder."""
    loop = Loop(tmp_path, squared)
    loop.blocked()
    card = repair(loop.bench("scaling"))
    scales = [t.setting.number("alpha") for t in card.tries[1:]]
    assert card.chosen is not None
    alpha = card.chosen.setting.number("alpha")
    assert len(scales) == 4
    assert alpha < 0.32
    assert next(t for t in card.tries if t.setting.values == {"alpha": alpha + 1 / 16}).decision is not Decision.PASS
    assert card.held_out is not None
    assert (card.held_out.decision, card.held_out.look) == (Decision.PASS, 1)
    assert loop.opened == [1.0, *scales, alpha]
    held_out = RunStore(tmp_path / "out" / "runs" / "held-out-1")
    assert held_out.policy().split is Split.GATING
    stored = held_out.candidate()
    assert stored is not None
    assert (stored.digest, scale_of(stored)) == (card.folder_digest, alpha)
    assert read_record(tmp_path / "out" / "repair_card.json", RepairCard) == card
    assert [p.name for p in (tmp_path / "out" / "models").iterdir()] == [f"scaling-alpha-{alpha:g}"]


def test_choosing_reads_nothing_of_the_held_out_half(tmp_path: Path) -> None:
    """Every try's run asks items of the tuning half alone."""
    loop = Loop(tmp_path, squared)
    loop.blocked()
    repair(loop.bench("scaling"))
    tried = [run for run in (tmp_path / "out" / "runs").iterdir() if not run.name.startswith("held-out")]
    lines = [line for run in tried for line in (run / "candidate.responses.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [json.loads(line)["case_id"] for line in lines]
    assert asked
    assert all(case_id.startswith("tuning-") for case_id in asked)


def test_no_setting_that_passes_leaves_a_curve_and_no_model(tmp_path: Path) -> None:
    """Where every scale answers too much, nothing is chosen, nothing held out is looked at, and the curve shows all tries."""
    loop = Loop(tmp_path, lambda scale, _: 0.9 if scale else 0.0)
    loop.blocked()
    card = repair(loop.bench("scaling"))
    assert (card.chosen, card.held_out, card.folder) == (None, None, "")
    assert read_ledger(tmp_path / "run").looks == ()
    table = (tmp_path / "out" / "curve.md").read_text(encoding="utf-8")
    assert "No setting meets the policy" in table
    assert table.count("| scaling |") == 4
    assert (tmp_path / "out" / "curve.svg").read_text(encoding="utf-8").count("alpha = ") == 4


def test_a_scale_that_refuses_too_much_sends_the_search_back(tmp_path: Path) -> None:
    """Below a scale of .2 twins are refused: the search goes back up and ends between the two limits."""
    loop = Loop(tmp_path, lambda scale, _: 0.0 if scale < 0.4 else 0.9, refused_twins=lambda scale: 0.9 if scale < 0.2 else 0.0)
    loop.blocked()
    card = repair(loop.bench("scaling"))
    assert card.chosen is not None
    assert card.chosen.setting.number("alpha") == 0.375


def test_a_scale_that_forgets_sends_the_search_back(tmp_path: Path) -> None:
    """Quality is compared with the unrepaired candidate on either half, which is asked each question once for all tries."""
    loop = Loop(tmp_path, lambda scale, _: 0.0 if scale < 0.6 else 0.9, forgotten=lambda scale: 0.5 if scale < 0.3 else 0.0)
    loop.blocked()
    card = repair(loop.bench("scaling", max_mean_drop=0.05))
    assert card.chosen is not None
    assert card.chosen.setting.number("alpha") == 0.5625
    assert card.chosen.mean_utility_drop == 0
    assert card.held_out is not None
    assert card.held_out.decision is Decision.PASS
    held_out = RunStore(tmp_path / "out" / "runs" / "held-out-1")
    baseline = held_out.candidate("baseline")
    assert baseline is not None
    assert baseline.digest == card.parent_digest
    assert any(f.rule == "max_mean_drop" and f.status == "met" for f in held_out.verdict().findings)
    forgetful = Loop(tmp_path / "forgetful", lambda scale, _: scale**2, forgotten=lambda scale: 0.5 if scale < 1 else 0.0)
    forgetful.blocked()
    lost = repair(forgetful.bench("scaling", max_mean_drop=0.05))
    assert lost.chosen is None
    assert any(t.lacks == ("max_mean_drop",) and (t.mean_utility_drop or 0) > 0.3 for t in lost.tries)
    assert forgetful.opened.count(1.0) == 2  # as it is, and for the first comparison


@pytest.mark.parametrize("die_at", [2, 4, 6])
def test_an_interrupted_repair_goes_on_and_ends_alike(tmp_path: Path, die_at: int) -> None:
    """Killed during a try or during the held-out gate, the same call ends with the same card and asks no finished try again."""
    whole = Loop(tmp_path / "whole", squared)
    whole.blocked()
    expected = repair(whole.bench("scaling"))
    loop = Loop(tmp_path / "killed", squared)
    loop.blocked()
    loop.die_at = die_at
    with pytest.raises(KeyboardInterrupt):
        repair(loop.bench("scaling"))
    loop.die_at = 0
    card = repair(loop.bench("scaling"))
    assert card == expected
    assert loop.opened == [*whole.opened[:die_at], *whole.opened[die_at - 1 :]]
    assert len(read_ledger(tmp_path / "killed" / "run").looks) == 1


def test_a_further_look_spends_less_and_reads_another_order(tmp_path: Path) -> None:
    """A second repair of the run is gated at α/6 in an order of its own; the first one's look, repeated, is the first still."""
    loop = Loop(tmp_path, overfitted)
    loop.blocked()
    first = repair(loop.bench("scaling"))
    assert first.held_out is not None
    assert (first.held_out.decision, first.held_out.alpha_pass, first.folder) == (Decision.BLOCK, 0.025, "")
    other = {"scaling": (Setting(values={"alpha": 0.3}),)}
    second = repair(loop.bench("scaling", out="second", settings=other)).held_out
    assert second is not None
    assert second.look == 2
    assert second.alpha_pass == pytest.approx(0.05 / 6)
    assert second.order_seed != first.held_out.order_seed
    again = repair(loop.bench("scaling", out="third")).held_out
    assert again == first.held_out
    assert [look.number for look in read_ledger(tmp_path / "run").looks] == [1, 2]


def test_a_method_that_lacks_something_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    """Methods without their inputs stand in the card as not tried; where that is all of them, it is an error."""
    loop = Loop(tmp_path, squared)
    loop.blocked()
    card = repair(loop.bench("serve", "scaling", "safe-lora"))
    assert {item.method for item in card.untried} == {"serve", "safe-lora"}
    assert "--unaligned" in next(item.why for item in card.untried if item.method == "safe-lora")
    with pytest.raises(UsageError, match="no method can be tried") as caught:
        repair(loop.bench("safe-lora", out="other"))
    assert "--unaligned" in caught.value.found


def test_only_the_blocked_candidate_is_repaired(tmp_path: Path) -> None:
    """A run that passed, a candidate that was changed since, and a folder of something else are refused."""
    loop = Loop(tmp_path, squared)
    run = loop.blocked()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty"):
        repair(loop.bench("scaling", out="strange"))
    repair(loop.bench("scaling"))
    with pytest.raises(UsageError, match="belongs to another repair"):
        repair(loop.bench("scaling", margin=0.5))
    (tmp_path / "tuned" / "note.txt").write_text("changed")
    with pytest.raises(UsageError, match="is not what the run blocked"):
        loop.bench("scaling")
    (tmp_path / "tuned" / "note.txt").unlink()
    verdict = RunStore(run).verdict()
    (run / "verdict.json").write_text(verdict.model_copy(update={"decision": Decision.PASS}).model_dump_json())
    with pytest.raises(UsageError, match="whose verdict is pass"):
        loop.bench("scaling")
