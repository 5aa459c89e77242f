"""`gate finetune` as a process and its progress: what each mode writes, and what bad input is told."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gate.console import LogMode
from gate.finetune import Progress, parse_recipe
from gate.finetune_command import watching
from tests.conftest import ROOT
from tests.finetune.recipes import LEAST

RUN = (
    Progress(phase="reading", note="40 of 40 rows tokenised"),
    Progress(phase="training", step=1, steps=2),
    Progress(phase="training", step=2, steps=2, losses={"translation/task": 0.5}, held_out={"translation/task": 0.75}),
    Progress(phase="saving", step=2, steps=2),
    Progress(phase="done", note="out: finished"),
)


def shown(mode: LogMode) -> list[str]:
    """The lines that a mode writes for a short run."""
    stream = io.StringIO()
    with watching(mode, stream) as observe:
        for progress in RUN:
            observe(progress)
    return stream.getvalue().splitlines()


def test_plain_progress_has_the_losses_by_task_at_the_last_step() -> None:
    """Notes as sentences, the last step with training and held-out loss; `auto` is plain where there is no terminal."""
    lines = shown(LogMode.PLAIN)
    assert lines[0] == "40 of 40 rows tokenised"
    assert "step 2 of 2; loss: translation/task 0.500; held out: translation/task 0.750" in lines
    assert lines[-1] == "out: finished"
    assert shown(LogMode.AUTO) == lines


def test_json_progress_is_json_lines_alone_and_ends_with_done() -> None:
    """Every line is an event with the losses by task."""
    events = [json.loads(line) for line in shown(LogMode.JSON)]
    assert {event["event"] for event in events} == {"progress"}
    assert events[-1]["phase"] == "done"
    assert [e["losses"] for e in events if e["phase"] == "training" and e["step"] == 2] == [{"translation/task": 0.5}]


def test_rich_progress_shows_a_bar_and_every_tasks_loss() -> None:
    """The live display ends with the last step and the table of losses."""
    text = "\n".join(shown(LogMode.RICH))
    assert "2/2" in text
    assert "translation/task" in text
    assert "0.750" in text


def test_quiet_says_nothing() -> None:
    """No line at all."""
    assert shown(LogMode.QUIET) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (yaml.safe_dump({**LEAST, "lern_rate": 1}), "lern_rate: unknown key"),
        (yaml.safe_dump(LEAST), "no candidate at"),
    ],
)
def test_a_bad_recipe_ends_with_the_usage_code_and_a_mend(tmp_path: Path, text: str, says: str) -> None:
    """Nothing but the error is written; standard output stays empty and no folder appears."""
    (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "gate.cli",
        "finetune",
        str(tmp_path / "r.yaml"),
        "--out",
        str(tmp_path / "out"),
        "--log",
        "quiet",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert "to mend:" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_documents_recipe_and_code_are_valid() -> None:
    """The recipe in docs/finetune.md parses, and its Python runs up to the call."""
    page = (ROOT / "docs" / "finetune.md").read_text(encoding="utf-8")
    recipes = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert [parse_recipe(text).name for text in recipes] == ["multitask"]
    scope: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, scope)
    assert callable(scope["seeds"])
