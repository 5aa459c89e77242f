"""Weights on disk, read and written tensor by tensor: one file of a model is in memory at a time, never the model.

In: scanned folders. Out: an adapter's LoRA factors by module name, a model's tensors by theirs, and new folders of the same
layout.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from gate.endpoints.hf_load import ADAPTER_WEIGHTS
from gate.errors import CandidateError
from gate.json_lines import disk_failed
from gate.records import Candidate, canonical_json

if TYPE_CHECKING:
    import torch

ADAPTER_CONFIG: Final = "adapter_config.json"
CARD: Final = "repair.json"
"""In a repaired folder: what was done to it."""
_FACTOR = re.compile(r"(?:base_model\.model\.)?(?P<module>.+)\.lora_(?P<part>[AB])(?:\.default)?\.weight")
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:model|transformer|language_model)\.")
_LEFT_BEHIND = frozenset({CARD, "model.sig", "README.md"})
"""What is not copied from the source: its own repair, signature and model card say nothing true of the new folder."""


@dataclass(frozen=True)
class Factors:
    """The LoRA factors of one module: it adds scaling · B · A to its weight."""

    a: torch.Tensor
    b: torch.Tensor
    scaling: float

    @property
    def delta(self) -> torch.Tensor:
        """What is added to the weight, in float32: (out × in)."""
        product: torch.Tensor = self.b.float() @ self.a.float()
        return product * self.scaling


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter as it lies on disk."""

    config: dict[str, Any]
    factors: dict[str, Factors]
    """Module name (without PEFT's prefix) → its factors."""

    @classmethod
    def read(cls, folder: Path) -> Adapter:
        """Read an adapter. Raises `CandidateError` for anything that is more than plain LoRA factors."""
        from safetensors.torch import load_file

        config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        if why := more_than_lora(config):
            raise CandidateError(f"the adapter in {folder} is more than LoRA factors", found=why, mend=MERGE_IT)
        parts: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in load_file(folder / ADAPTER_WEIGHTS).items():
            match = _FACTOR.fullmatch(key)
            if match is None or tensor.dim() != 2:
                raise CandidateError(f"the adapter in {folder} is more than LoRA factors", found=key[:120], mend=MERGE_IT)
            parts.setdefault(match["module"], {})[match["part"]] = tensor
        if lone := [module for module, both in parts.items() if len(both) != 2]:
            raise CandidateError(f"the adapter in {folder} has one factor of two", found=lone[0], mend="save it again")
        factors = {m: Factors(p["A"], p["B"], _scaling(config, m, p["A"].shape[0])) for m, p in sorted(parts.items())}
        return cls(config, factors)

    def with_factors(self, factors: Mapping[str, Factors]) -> Adapter:
        """The same adapter with other factors of the same modules, ranks and scalings."""
        return replace(self, factors=dict(factors))

    def delta_of(self, name: str) -> torch.Tensor | None:
        """What the adapter adds to a weight of that name; null when it leaves it alone."""
        module = self._modules.get(_core(name))
        if module is None:
            return None
        delta = self.factors[module].delta
        return delta.T if self.config.get("fan_in_fan_out") else delta

    @cached_property
    def _modules(self) -> dict[str, str]:
        return {_core(f"{module}.weight"): module for module in self.factors}


MERGE_IT: Final = "merge it into its base, then repair the merged model (with --aligned)"


def more_than_lora(config: Mapping[str, Any]) -> str:
    """What an adapter's config names beyond LoRA factors of linear layers; empty for a plain one."""
    if config.get("peft_type") != "LORA":
        return f"PEFT type {str(config.get('peft_type'))[:40]}"
    more = (
        "use_dora",
        "lora_bias",
        "use_bdlora",
        "use_qalora",
        "modules_to_save",
        "trainable_token_indices",
        "target_parameters",
    )
    if config.get("bias", "none") != "none":
        return f"bias {config['bias']!r}"
    return next((name for name in more if config.get(name)), "")


def unfit_adapter(candidate: Candidate) -> str:
    """Why a candidate's adapter can't be taken apart into LoRA factors; empty for a plain one and for a whole model."""
    if candidate.kind != "adapter":
        return ""
    why = more_than_lora(json.loads((Path(candidate.path) / ADAPTER_CONFIG).read_text(encoding="utf-8")))
    return f"the adapter is more than LoRA factors: {why}" if why else ""


def _scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """lora_alpha ÷ rank, or ÷ √rank for rank-stabilised LoRA; a module may have an alpha of its own."""
    from peft.utils.other import get_pattern_key

    patterns = config.get("alpha_pattern") or {}
    alpha = float(patterns.get(get_pattern_key(list(patterns), module), config["lora_alpha"]))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


class Weights:
    """The tensors of a model folder, found by name whatever wrapper prefix either side carries, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._place = {name: file for file in weight_files(folder) for name in _names(file)}
        self._by_core = {_core(name): name for name in self._place}

    def get(self, name: str) -> torch.Tensor:
        """One tensor. Raises `CandidateError` where the folder has none of that name."""
        from safetensors import safe_open

        found = self._by_core.get(_core(name))
        if found is None:
            raise CandidateError(
                f"{self.folder} has no weight {name[:120]}",
                expected="a model of the candidate's architecture, with weights of the same names",
                mend="give the model that the candidate was trained from",
            )
        with safe_open(self._place[found], framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(found)
        return tensor

    def like(self, name: str, other: torch.Tensor) -> torch.Tensor:
        """One tensor in float32. Raises `CandidateError` where its shape is another than `other`'s."""
        found = self.get(name)
        if found.shape != other.shape:
            raise CandidateError(
                f"{name[:120]} of {self.folder} has another shape than the candidate's",
                expected=str(list(other.shape)),
                found=str(list(found.shape)),
                mend="give a model of the same family",
            )
        return found.float()


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The safetensors files of a model folder: the single one, or the shards that its index names."""
    if (folder / "model.safetensors").is_file():
        return (folder / "model.safetensors",)
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    return tuple(folder / name for name in sorted(set(index["weight_map"].values())))


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())


def _core(name: str) -> str:
    return _WRAPPERS.sub("", name)


@contextmanager
def written_whole(out: Path) -> Iterator[Path]:
    """A folder to write into, which stands at `out` once all of it is written; a killed write leaves `out` as it was."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(out, ignore_errors=True)
        partial.replace(out)
    except OSError as error:
        raise disk_failed(out, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_adapter(source: Candidate, adapter: Adapter, out: Path, card: Mapping[str, object]) -> Path:
    """Write `adapter` with the candidate's tokenizer, template and training card beside it; returns `out`."""
    from safetensors.torch import save_file

    config = {**adapter.config, "base_model_name_or_path": _base_named(source, adapter.config, out)}
    tensors = {
        f"base_model.model.{module}.lora_{part}.weight": tensor.contiguous()
        for module, factors in adapter.factors.items()
        for part, tensor in (("A", factors.a), ("B", factors.b))
    }
    with written_whole(out) as folder:
        _copy_beside(Path(source.path), folder, weights=(ADAPTER_WEIGHTS, ADAPTER_CONFIG))
        save_file(tensors, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
        (folder / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        write_card(folder, card)
    return out


def write_model(
    shape: Candidate,
    source: Candidate,
    change: Callable[[str, torch.Tensor], torch.Tensor],
    out: Path,
    card: Mapping[str, object],
) -> Path:
    """Write a whole model in the layout of `shape`'s folder, every tensor as `change` (name, tensor) makes it; returns `out`.

    A tensor keeps its dtype on disk. Tokenizer, template and training card are the candidate's where it has them.
    """
    from safetensors import safe_open
    from safetensors.torch import save_file

    model = Path(shape.path)
    files = weight_files(model)
    with written_whole(out) as folder:
        foreign = () if source.path == shape.path else ("training_card.json",)  # another model's card tells nothing of this one
        _copy_beside(model, folder, weights=(*(file.name for file in files), *foreign))
        if foreign:
            _copy_beside(Path(source.path), folder, weights=(ADAPTER_WEIGHTS, ADAPTER_CONFIG))
        for file in files:
            with safe_open(file, framework="pt") as opened:
                old = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
                metadata = opened.metadata()
            new = {name: change(name, t).to(t.dtype).contiguous() if t.is_floating_point() else t for name, t in old.items()}
            save_file(new, folder / file.name, metadata=metadata)
        write_card(folder, card)
    return out


def write_card(folder: Path, card: Mapping[str, object]) -> None:
    """Write what was done into a repaired folder: no clock and no place in it, so that equal repairs have equal digests."""
    pretty = json.dumps(json.loads(canonical_json(card)), indent=1, sort_keys=True)
    (folder / CARD).write_text(pretty + "\n", encoding="utf-8")


def _copy_beside(source: Path, folder: Path, *, weights: tuple[str, ...]) -> None:
    """Copy the files at the top of a folder that are no weights."""
    for file in sorted(source.iterdir()):
        if file.is_file() and file.name not in {*weights, *_LEFT_BEHIND} and file.suffix != ".safetensors":
            shutil.copyfile(file, folder / file.name)


def _base_named(source: Candidate, config: Mapping[str, Any], out: Path) -> str:
    """How the new adapter names its base: a folder relative to its own, a hub's model as the candidate's config does."""
    name = config.get("base_model_name_or_path")
    local = isinstance(name, str) and ((Path(source.path) / name).is_dir() or Path(name).is_dir())
    if isinstance(name, str) and name and not local:
        return name
    return os.path.relpath(source.base_path, out.resolve())
