"""A whole matrix on the testbed, two steps of training and a few requests a task; and what its folder refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from gate.drift.plan import DriftPlan, load_plan
from gate.drift_command import check, train
from gate.drift_pipeline import Job, News, drift
from gate.errors import RunStoreError, UsageError
from gate.records import Task
from testbed import SUITE, WEIGHTS
from tests.finetune.recipes import write_rows

RECIPE = {
    "schema_version": "taskgate/recipe/v1",
    "name": "tiny",
    "base": str(WEIGHTS / "aligned"),
    "lora": {"r": 4, "alpha": 4},
    "lr": 1e-3,
    "batch": 4,
    "max_steps": 2,
    "max_length": 256,
}


def write_plan(folder: Path, **changes: object) -> DriftPlan:
    """One arm, one seed, four items a task."""
    write_rows(folder)
    recipe = {**RECIPE, "data": [{"path": f"{Task.TRANSLATION}.jsonl"}]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    told = {
        "schema_version": "taskgate/drift-plan/v1",
        "name": "tiny",
        "base": str(WEIGHTS / "aligned"),
        "suite": str(SUITE),
        "items": 4,
        "beside": ["raw"],
        "items_beside": 2,
        "min_behaviours": 1,
        "transforms": ["direct"],
        "decoding": {"max_new_tokens": 16},
        "arms": [{"name": "tuned", "tuned_on": "translation", "recipe": "recipe.yaml"}],
        **changes,
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(told))
    return load_plan(folder / "plan.yaml")


def run(plan: DriftPlan, out: Path) -> list[str]:
    """Make the matrix; what was told."""
    told: list[News] = []
    drift(plan, out, train, check, workers=1, today="2026-11-29", tell=told.append)
    assert [news.done for news in told] == list(range(1, told[-1].total + 1))
    return [news.what for news in told]


def test_a_matrix_is_made_and_the_same_call_adds_nothing(tmp_path: Path) -> None:
    """Base and fine-tune are trained and checked, all four files are there, and again gives the same bytes, loading nothing."""
    plan = write_plan(tmp_path)
    out = tmp_path / "out"
    assert sorted(run(plan, out)) == ["base: checked", "base: trained", "tuned-seed0: checked", "tuned-seed0: trained"]
    names = ("drift.json", "drift.md", "heat_map.svg", "heat_map.png")
    first = {name: (out / name).read_bytes() for name in names}
    answers = out / "runs" / "tuned-seed0" / "candidate.responses.jsonl"
    before = answers.stat().st_mtime_ns
    run(plan, out)
    assert {name: (out / name).read_bytes() for name in names} == first
    assert answers.stat().st_mtime_ns == before


def nothing(_job: Job) -> None:
    """A stage that leaves nothing."""


def test_another_plan_or_changed_recipe_is_refused(tmp_path: Path) -> None:
    """A folder belongs to one plan and its recipes: with another seed, or other steps in a recipe, it is refused."""
    out = tmp_path / "out"

    def begin(plan: DriftPlan) -> None:
        drift(plan, out, nothing, nothing, workers=1, today="2026-11-29", tell=lambda _: None)

    with pytest.raises(RunStoreError):  # it began, and its stages left no run
        begin(write_plan(tmp_path))
    with pytest.raises(UsageError, match="belongs to another plan"):
        begin(write_plan(tmp_path, seeds=[7]))
    plan = write_plan(tmp_path)
    with pytest.raises(RunStoreError):
        begin(plan)
    (tmp_path / "recipe.yaml").write_text((tmp_path / "recipe.yaml").read_text().replace("max_steps: 2", "max_steps: 3"))
    with pytest.raises(UsageError, match="recipes were changed"):
        begin(plan)


def test_a_strange_folder_and_a_foreign_base_are_refused(tmp_path: Path) -> None:
    """Somebody's files are left alone; a base that is not the recipe's is an error before anything is trained."""
    plan, out = write_plan(tmp_path, seeds=[7]), tmp_path / "out"
    out.mkdir()
    (out / "note.txt").write_text("somebody's")
    with pytest.raises(UsageError, match="not empty"):
        run(plan, out)
    with pytest.raises(UsageError, match="does not start from the plan's base"):
        run(write_plan(tmp_path, base=str(WEIGHTS / "base")), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_failing_stage_is_raised_with_its_explanation(tmp_path: Path) -> None:
    """A recipe whose data is gone ends the command with the recipe's own error, from the other process."""
    plan = write_plan(tmp_path)
    (tmp_path / f"{Task.TRANSLATION}.jsonl").unlink()
    with pytest.raises(UsageError) as error:
        run(plan, tmp_path / "out")
    assert "translation.jsonl" in error.value.diagnostics()
