"""Stopped at any moment, by `kill -9` or within the process, the same recipe ends with the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gate.candidate import root_digest
from gate.errors import RecipeError
from gate.finetune import Progress, Recipe, finetune
from gate.finetune.workplace import Workplace
from tests.conftest import ROOT
from tests.finetune.recipes import small, write_refusals

STEPS = 12
Moment = Callable[[Progress], bool]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the runs of this module lie, so that their base is at the same relative path."""
    return tmp_path_factory.mktemp("resume")


def recipe_in(folder: Path, **changes: object) -> Recipe:
    """Dropout, refusals, held-out losses, CoBa, curves whose points don't fall on the checkpoints."""
    safety = {"data": [{"path": str(write_refusals(folder))}], "share": 0.3}
    told: dict[str, Any] = {
        "max_steps": STEPS,
        "save_every": 4,
        "log_every": 5,
        "safety": safety,
        "balance": "coba",
        "coba": {"warm_up": 2, "window": 4, "rows_per_cell": 1, "every": 3},
        "eval": {"share": 0.1, "every": 3},
    }
    return small(folder, **{**told, **changes})


@pytest.fixture(scope="module")
def whole(folder: Path) -> str:
    """The digest of an uninterrupted run."""
    return root_digest(finetune(recipe_in(folder), folder / "whole"))


class StoppedError(Exception):
    """Raised in the midst of a run."""


def stopped_at(recipe: Recipe, out: Path, moment: Moment) -> None:
    """Begin, and break off when the moment comes."""

    def observe(progress: Progress) -> None:
        if moment(progress):
            raise StoppedError

    with pytest.raises(StoppedError):
        finetune(recipe, out, observe=observe)
    assert not out.exists()


MOMENTS: dict[str, Moment] = {
    "before the first checkpoint": lambda p: p.phase == "training" and p.step == 3,
    "between two checkpoints": lambda p: p.phase == "training" and p.step == 7,
    "while a checkpoint is written": lambda p: p.phase == "saving" and p.step == 8,
    "while it measures": lambda p: p.phase == "measuring" and p.step == 9,
    "after the last step": lambda p: p.phase == "saving" and p.step == STEPS,
}


@pytest.mark.parametrize("name", MOMENTS)
def test_broken_off_at_a_moment_the_run_ends_as_if_nothing_had_been(folder: Path, whole: str, name: str) -> None:
    """Weights, config and card, with its curves and CoBa's weights, are the uninterrupted run's."""
    out = folder / name.replace(" ", "-")
    stopped_at(recipe_in(folder), out, MOMENTS[name])
    assert root_digest(finetune(recipe_in(folder), out)) == whole


def test_a_checkpoint_that_lacks_a_file_is_passed_over(folder: Path, whole: str, tmp_path: Path) -> None:
    """Broken off while an old checkpoint was removed, the run goes on from one that is whole."""
    out = folder / "damaged"
    stopped_at(recipe_in(folder), out, lambda p: p.phase == "training" and p.step == 9)
    place = Workplace(out)
    newest = place.newest()
    assert newest is not None
    (newest[0] / "optimizer.pt").unlink()
    older = place.newest()
    assert older is not None
    assert (newest[1].step, older[1].step) == (8, 4)
    assert root_digest(finetune(recipe_in(folder), out)) == whole


def test_an_early_stop_is_not_overrun_by_a_resume(folder: Path) -> None:
    """Broken off after the early stop, the run does not go on training; it keeps the best step."""
    ruinous = {"lr": 0.5, "balance": "none", "coba": {}, "eval": {"share": 0.1, "every": 2}, "early_stop": {"patience": 1}}
    recipe = recipe_in(folder, **ruinous, max_steps=40)
    wanted = root_digest(finetune(recipe, folder / "stopped"))
    card = json.loads((folder / "stopped" / "training_card.json").read_text(encoding="utf-8"))
    assert card["stop_reason"].startswith("early stop")
    saves: list[int] = []

    def last_save(progress: Progress) -> bool:
        saves.extend([progress.step] if progress.phase == "saving" else [])
        return saves.count(card["steps"]) == 2  # the checkpoint's, then the finished folder's

    stopped_at(recipe, folder / "stopped-again", last_save)
    assert root_digest(finetune(recipe, folder / "stopped-again")) == wanted


def test_killed_the_same_command_ends_with_the_same_digest(folder: Path, whole: str) -> None:
    """`kill -9` after the second checkpoint of `gate finetune`, then the same command: the uninterrupted run's folder."""
    file = folder / "recipe.json"
    file.write_text(recipe_in(folder).model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "gate.cli", "finetune", str(file), "--out", str(folder / "killed")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ledger = folder / ".killed.partial" / "checkpoints" / "checkpoint-4" / "ledger.json"
    deadline = time.monotonic() + 300
    while not ledger.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    assert process.wait(timeout=30) == -signal.SIGKILL
    assert not (folder / "killed").exists()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    assert "goes on after step" in done.stderr
    assert done.stdout == f"{folder / 'killed'}\n"
    assert root_digest(folder / "killed") == whole


def test_another_recipes_stopped_run_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    """A changed recipe is refused where a stopped run lies, and what is there stays."""
    out = tmp_path / "out"
    stopped_at(recipe_in(folder), out, MOMENTS["between two checkpoints"])
    with pytest.raises(RecipeError, match="differs in its recipe digest") as caught:
        finetune(recipe_in(folder, lr=1e-4), out)
    assert ".out.partial" in caught.value.diagnostics()
    assert Workplace(out).newest() is not None


def test_another_users_working_folder_is_not_gone_on_with(folder: Path, tmp_path: Path) -> None:
    """A checkpoint that somebody else laid where the run would look for its own is refused, by its owner, and stays."""
    out = tmp_path / "out"
    stopped_at(recipe_in(folder), out, MOMENTS["between two checkpoints"])
    hidden = Workplace(out).folder
    assert hidden.stat().st_mode & 0o077 == 0  # nobody else could have put it in there
    if os.geteuid() == 0:
        os.chown(hidden, 12345, -1)
    else:  # only root can give a folder away; a link to a folder of root's is as much somebody else's
        hidden.rename(tmp_path / "away")
        hidden.symlink_to("/usr")
    with pytest.raises(RecipeError, match="made by another user") as caught:
        finetune(recipe_in(folder), out)
    assert str(hidden.stat().st_uid) in caught.value.diagnostics()
    assert hidden.exists()
    assert not out.exists()


def test_two_processes_do_not_make_the_same_folder(folder: Path, tmp_path: Path) -> None:
    """While one holds the working folder, a second is told so."""
    out = tmp_path / "out"
    with Workplace(out).locked(), pytest.raises(RecipeError, match="is being made by another process"):
        finetune(recipe_in(folder), out)


def test_other_versions_of_the_libraries_are_refused(folder: Path, tmp_path: Path) -> None:
    """A run that was begun with another torch would end with neither's weights."""
    out = tmp_path / "out"
    stopped_at(recipe_in(folder), out, MOMENTS["between two checkpoints"])
    file = Workplace(out).folder / "run.json"
    told = json.loads(file.read_text(encoding="utf-8"))
    told["versions"]["torch"] = "1.0"
    file.write_text(json.dumps(told), encoding="utf-8")
    with pytest.raises(RecipeError, match="differs in its versions"):
        finetune(recipe_in(folder), out)
