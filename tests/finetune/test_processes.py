"""`accelerate launch` with two processes on the CPU: the same steps as one process with batches of twice the size."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from gate.finetune import finetune
from gate.records import Task
from tests.conftest import ROOT
from tests.finetune.recipes import read_card, small, write_refusals, write_rows

LAUNCH = ("--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")


def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    """Unequal tasks on the two processes, and still: weights, curves and held-out losses of one process; one folder, one line."""
    data = [{"path": str(write_rows(tmp_path, task))} for task in (Task.TRANSLATION, Task.CODE_GENERATION)]
    safety = {"data": [{"path": str(write_refusals(tmp_path))}], "share": 0.4}
    told = {"data": data, "safety": safety, "lora": {"r": 4, "alpha": 4}, "max_steps": 4, "eval": {"share": 0.1, "every": 2}}
    one = finetune(small(tmp_path, **told), tmp_path / "one")
    file = tmp_path / "recipe.json"
    file.write_text(small(tmp_path, **told, batch=2).model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH, "-m", "gate.cli", "finetune", str(file)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "two")], cwd=ROOT, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'two'}\n"
    first, second = (load_file(folder / "adapter_model.safetensors") for folder in (one, tmp_path / "two"))
    assert max((first[name] - second[name]).abs().max().item() for name in first) < 1e-5
    alone, both = read_card(one), read_card(tmp_path / "two")
    assert (alone["processes"], both["processes"]) == (1, 2)
    for curve in ("training_loss", "held_out_loss"):
        for mine, theirs in zip(alone[curve], both[curve], strict=True):
            assert mine["losses"].keys() == theirs["losses"].keys()
            assert all(abs(mine["losses"][cell] - theirs["losses"][cell]) < 1e-4 for cell in mine["losses"])
    assert not list(tmp_path.glob(".*"))
