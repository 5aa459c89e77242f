"""R0: restore how the model is served, and see under which calibrations it keeps the policy. No weights change.

Tuning without a system prompt and serving with one keeps more refusals (Lyu et al., 2402.18540), and a template that was
changed in fine-tuning takes refusals away with it. In: a candidate with a chat template of its own, and the aligned model. Out:
the candidate's folder with the aligned model's template and tokenizer settings.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from gate.records import Calibration, Verdict
from gate.repair.base import Need, Search, Setting, Source, Stage, Tell, need
from gate.repair.tensors import CARD, write_card, written_whole

_TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")


class Serving:
    """Gives the candidate the aligned model's template. See `gate.repair.base.Method`."""

    name = "serve"
    title = "restore the native template (R0)"
    stage: Stage = "serve"
    needs: tuple[Need, ...] = ("aligned",)
    search: Search = "climb"
    experimental = False
    keys: tuple[str, ...] = ()

    def unfit(self, source: Source) -> str:
        """A template that is the aligned model's already needs no restoring."""
        same = source.candidate.chat_template_digest == need(source.aligned).chat_template_digest
        return "the chat template is the aligned model's own" if same else ""

    def settings(self) -> tuple[Setting, ...]:
        """There is one."""
        return (Setting(values={}),)

    def apply(self, source: Source, setting: Setting, out: Path, tell: Tell) -> Path:
        """Copy the candidate and put the aligned model's template files in place of its own."""
        aligned = Path(need(source.aligned).path)
        with written_whole(out) as folder:
            shutil.copytree(source.candidate.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(CARD, "model.sig"))
            for name in _TEMPLATE_FILES:
                (folder / name).unlink(missing_ok=True)
                if (aligned / name).is_file():
                    shutil.copyfile(aligned / name, folder / name)
            write_card(folder, {"method": self.name, "parent_digest": source.candidate.digest, "setting": setting.values})
        tell(1, 1)
        return out


def kept_by_calibration(verdict: Verdict) -> dict[Calibration, bool]:
    """Calibration → whether every finding about it is met: where the model could be served as it is."""
    kept: dict[Calibration, bool] = {}
    for finding in verdict.findings:
        parts = finding.subject.split("|")
        if len(parts) >= 2 and parts[1] in set(Calibration):
            calibration = Calibration(parts[1])
            kept[calibration] = kept.get(calibration, True) and (finding.status == "met" or bool(finding.waived_by))
    return kept
