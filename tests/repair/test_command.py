"""`gate repair`: what is typed becomes methods and settings, or an error that says why; how it ends is its exit code."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.repair_methods import SHOWN, asked
from gate.errors import ExitCode, UsageError
from gate.records import Decision, Role, Split
from gate.repair import METHODS
from gate.repair.base import setting_of
from gate.repair.card import HeldOut, RepairCard
from gate.repair_command import code_of, file_there, named_methods, named_settings
from gate.repair_pipeline import repair
from tests.repair.loop import Loop


def test_methods_are_tried_in_the_tables_order_whatever_is_typed() -> None:
    """Names in any order give the table's; none gives all; an unknown one is refused with the known ones."""
    assert [m.name for m in named_methods("mix, scaling")] == ["scaling", "mix"]
    assert named_methods("") == METHODS
    with pytest.raises(UsageError, match="no method is called sclaing") as caught:
        named_methods("sclaing")
    assert "scaling" in caught.value.expected


def test_a_typed_setting_is_numbers_and_yes_or_no() -> None:
    """METHOD:KEY=VALUE,... may be repeated; a strange key, value or method is refused."""
    methods = named_methods("safe-lora,scaling")
    found = named_settings(["safe-lora:threshold=0.35,rescale=true", "scaling:alpha=0.5", "scaling:alpha=.25"], methods)
    assert [s.values for s in found["safe-lora"]] == [{"threshold": 0.35, "rescale": True}]
    assert [s.values for s in found["scaling"]] == [{"alpha": 0.5}, {"alpha": 0.25}]
    for text in ("scaling:beta=1", "scaling:alpha=much", "scaling", "mix:share=0.1", "scaling:alpha=nan"):
        with pytest.raises(UsageError):
            named_settings([text], methods)
    with pytest.raises(UsageError, match="is no file"):
        file_there(Path("nowhere.jsonl"))


def test_the_exit_code_is_the_held_out_gates(tmp_path: Path) -> None:
    """0 for a pass, 3 for a block and where nothing was chosen, 4 for an inconclusive one."""
    loop = Loop(tmp_path, lambda scale, _: scale**2)
    loop.blocked()
    card: RepairCard = repair(loop.bench("scaling"))
    assert code_of(card) is ExitCode.PASS
    assert code_of(card.model_copy(update={"held_out": None, "chosen": None})) is ExitCode.BLOCK
    held_out = card.held_out
    assert isinstance(held_out, HeldOut)
    for decision, code in ((Decision.BLOCK, ExitCode.BLOCK), (Decision.INCONCLUSIVE, ExitCode.INCONCLUSIVE)):
        other = held_out.model_copy(update={"decision": decision})
        assert code_of(card.model_copy(update={"held_out": other})) is code


def test_the_bench_measures_settings_that_there_are_on_every_held_out_behaviour() -> None:
    """Each setting of the bench is one that its method has; the questions are 60 behaviours a cell, none of the tuning half."""
    known = {method.name: method for method in METHODS}
    assert set(SHOWN) | {"serve"} == set(known)
    assert all(setting_of(known[name], values).values for name, many in SHOWN.items() for values in many)
    items = asked()
    cells = {(item.task, role): set[str]() for item in items for role in Role}
    for item in items:
        cells[item.task, item.role].add(item.behaviour)
    assert {len(behaviours) for behaviours in cells.values()} == {60}
    assert {item.split for item in items} == {Split.GATING}
    assert len(items) == 600
