"""From what the Trainer saved to a folder that ships: an adapter or whole model, tokenizer, chat template, training card.

In: the saved folder, the base, the card. Out: the same folder, tidied, the same bytes each time, and scanned as by `gate check`.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from gate.adapter_fit import ADAPTER_CONFIG, read_json_object
from gate.candidate import load_candidate
from gate.endpoints.hf_load import load_model, quiet, resolve_dtype
from gate.finetune.card import TrainingCard
from gate.finetune.model import stored_dtype
from gate.finetune.recipe import Recipe
from gate.finetune.workplace import CARD
from gate.hub import SCHEME, parse_source
from gate.records import Candidate
from gate.scan import refuse, scan_folder
from gate.tokenizer_files import VOCABULARY_FILES

_TOKENIZER = (
    *VOCABULARY_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_LEFT_BEHIND = ("training_args.bin", "README.md")
"""What the libraries put beside the weights: a pickle, and an empty model card."""


def tidy(folder: Path, out: Path, recipe: Recipe, base: Candidate, card: TrainingCard) -> None:
    """Make `folder` what shall stand at `out`."""
    for name in _LEFT_BEHIND:
        (folder / name).unlink(missing_ok=True)
    adapter = (folder / ADAPTER_CONFIG).is_file()
    if adapter:
        _name_base(folder / ADAPTER_CONFIG, out, recipe, base)
    if recipe.result == "merged" and (adapter or stored_dtype(base) != "float32"):
        _as_whole_model(folder, base)
    for name in _TOKENIZER:
        if (Path(base.path) / name).is_file():
            shutil.copyfile(Path(base.path) / name, folder / name)
    (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    refuse(scan_folder(folder))


def _name_base(file: Path, out: Path, recipe: Recipe, base: Candidate) -> None:
    """Name the base as `gate.candidate` finds it, and write the config in one order: PEFT's lists come from sets."""
    config = read_json_object(file)
    if recipe.base.startswith(SCHEME):
        config["base_model_name_or_path"], _ = parse_source(recipe.base)
        config["revision"] = base.revision
    else:
        config["base_model_name_or_path"] = Path(os.path.relpath(base.path, out)).as_posix()
    ordered = {
        key: sorted(value) if key == "target_modules" and isinstance(value, list) else value for key, value in config.items()
    }
    file.write_text(json.dumps(ordered, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _as_whole_model(folder: Path, base: Candidate) -> None:
    """Replace what is saved by a whole model in the base's own dtype; an adapter is merged in float32."""
    import torch

    saved = folder.with_name("saved")
    shutil.rmtree(saved, ignore_errors=True)
    folder.replace(saved)
    for name in _TOKENIZER:
        if (Path(base.path) / name).is_file():
            shutil.copyfile(Path(base.path) / name, saved / name)
    adapter = (saved / ADAPTER_CONFIG).is_file()
    cpu = torch.device("cpu")
    candidate = load_candidate(str(saved), base=base.path if adapter else None)
    model = load_model(candidate, cpu, torch.float32)
    with quiet():
        model.to(resolve_dtype(stored_dtype(base), cpu)).save_pretrained(folder)
    shutil.rmtree(saved)
