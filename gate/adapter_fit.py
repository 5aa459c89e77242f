"""Whether an adapter belongs to the base it will be put on: two scanned folders come in, findings go out. Headers and JSON only.

Three things are compared: the base digest that the adapter names, if it names one; the shapes of its tensors with the base's
weights; its tokenizer's vocabulary with the base's. An adapter on another base answers, and answers what nobody trained.
"""

from __future__ import annotations

import filecmp
import json
import re
from collections.abc import Iterator
from pathlib import Path

from gate.safetensors_header import TensorInfo, read_header
from gate.scan_finding import ScanFinding
from gate.tokenizer_files import VOCABULARY_FILES

Header = dict[str, TensorInfo]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_FLOAT = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
_LORA = re.compile(r"(?P<module>.+)\.lora_(?P<part>embedding_A|embedding_B|A|B)(\.default)?(\.weight)?")
_VECTOR = re.compile(r"(?P<module>.+)\.lora_magnitude_vector(\.default)?(\.weight)?")
_OTHER_BASE = "give the base it was trained on (--base), or train the adapter on this one"


def read_json_object(file: Path) -> dict[str, object]:
    """The JSON object in `file`; empty when there is none (the scan has already reported a broken one)."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def check_fit(adapter: Path, base: Path, base_digest: str) -> tuple[ScanFinding, ...]:
    """Every mismatch between the adapter folder and the base folder with that root digest."""
    return (*_check_digest(adapter, base_digest), *_check_shapes(adapter, base), *_check_vocabulary(adapter, base))


def _mismatch(file: str, reason: str, mend: str = _OTHER_BASE) -> ScanFinding:
    return ScanFinding(file=file, rule="base-mismatch", reason=reason, mend=mend)


def _check_digest(adapter: Path, base_digest: str) -> Iterator[ScanFinding]:
    for file in ("training_card.json", ADAPTER_CONFIG):
        named = read_json_object(adapter / file).get("base_digest")
        if isinstance(named, str) and named and named.removeprefix("sha256:").lower() != base_digest:
            reason = f"names the base {named[:80]!a}; the base given has {base_digest}"
            yield _mismatch(file, reason)


def base_header(base: Path) -> Header:
    """All tensors of a model folder, from model.safetensors or the shards that its index names."""
    single = base / "model.safetensors"
    if single.is_file():
        return read_header(single)
    weight_map = read_json_object(base / "model.safetensors.index.json").get("weight_map")
    shards = sorted(set(weight_map.values())) if isinstance(weight_map, dict) else []
    return {name: tensor for shard in shards for name, tensor in read_header(base / shard).items()}


def _check_shapes(adapter: Path, base: Path) -> Iterator[ScanFinding]:
    config = read_json_object(adapter / ADAPTER_CONFIG)
    tensors = read_header(adapter / ADAPTER_WEIGHTS)
    weights = _Weights(base_header(base), tied=_tied(base))
    kind = config.get("peft_type")
    if kind != "LORA":
        reason = f"PEFT type {str(kind)[:40]!a}: its shapes are not compared with the base's"
        mend = "nothing to do; LoRA adapters are compared"
        yield ScanFinding(file=ADAPTER_CONFIG, rule="unchecked", reason=reason, mend=mend, severity="warn")
        return
    faults = [
        fault for name in sorted(tensors) if (fault := _fault(name, tensors, weights, config.get("fan_in_fan_out") is True))
    ]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        yield _mismatch(ADAPTER_WEIGHTS, faults[0] + more)


def _tied(base: Path) -> bool:
    return read_json_object(base / "config.json").get("tie_word_embeddings") is not False


class _Weights:
    """The base's weights, found by module path whatever wrapper prefix (`model.`, `transformer.`) either side carries."""

    def __init__(self, header: Header, *, tied: bool) -> None:
        self._by_core = {_core(name): tensor for name, tensor in header.items()}
        if tied and "lm_head.weight" not in self._by_core:
            embedding = next((t for n, t in self._by_core.items() if n.endswith(("embed_tokens.weight", "wte.weight"))), None)
            if embedding is not None:
                self._by_core["lm_head.weight"] = embedding

    def find(self, name: str) -> TensorInfo | None:
        return self._by_core.get(_core(name))


def _core(name: str) -> str:
    return re.sub(r"(?:(?<=\.)|^)(?:base_model|model|transformer|language_model)\.", "", name)


def _fault(name: str, tensors: Header, weights: _Weights, transposed: bool) -> str:
    """Why the adapter's tensor does not fit the base; empty when it does or can't be compared."""
    path = name.removeprefix("base_model.model.")
    if (match := _LORA.fullmatch(path)) is not None:
        return _lora_fault(match["module"], match["part"], tensors[name].shape, weights, transposed)
    if (match := _VECTOR.fullmatch(path)) is not None:
        return "" if _weight(match["module"], weights) else _absent(match["module"])
    if "token_adapter" in path or "trainable_tokens" in path:
        return ""
    # What remains are whole weights (modules_to_save, biases, retrained embeddings).
    path = path.replace(".base_layer.", ".").replace(".modules_to_save.default.", ".").replace(".modules_to_save.", ".")
    whole = weights.find(path)
    if whole is None:
        return _absent(path)
    if whole.dtype in _FLOAT and whole.shape != tensors[name].shape:
        return f"{path[:120]!a} has shape {list(tensors[name].shape)}; the base's has {list(whole.shape)}"
    return ""


def _weight(module: str, weights: _Weights) -> TensorInfo | None:
    return weights.find(f"{module}.weight") or weights.find(module)


def _absent(module: str) -> str:
    return f"adapts {module[:120]!a}, which the base does not have"


def _lora_fault(module: str, part: str, shape: tuple[int, ...], weights: _Weights, transposed: bool) -> str:
    weight = _weight(module.replace(".base_layer", ""), weights)
    if weight is None:
        # Fused experts have other names in memory than on disk, so their absence says nothing.
        return "" if ".experts" in module else _absent(module)
    if weight.dtype not in _FLOAT or len(weight.shape) != 2 or len(shape) != 2:
        return ""
    out, inner = (weight.shape[1], weight.shape[0]) if transposed else (weight.shape[0], weight.shape[1])
    # LoRA: A is rank × in, B is out × rank. On an embedding of V × d, A is rank × V and B is d × rank.
    found, expected = {
        "A": (shape[1], inner),
        "B": (shape[0], out),
        "embedding_A": (shape[1], weight.shape[0]),
        "embedding_B": (shape[0], weight.shape[1]),
    }[part]
    if found == expected:
        return ""
    return f"lora_{part} of {module[:120]!a} is made for {found} features; the base's weight {list(weight.shape)} has {expected}"


def _check_vocabulary(adapter: Path, base: Path) -> Iterator[ScanFinding]:
    mend = "save the base's tokenizer with the adapter, or merge the adapter into a full model and gate that"
    for file in VOCABULARY_FILES:
        mine, theirs = adapter / file, base / file
        if not (mine.is_file() and theirs.is_file()) or filecmp.cmp(mine, theirs, shallow=False):
            continue
        if file == "tokenizer.json" and (difference := _vocabulary_difference(mine, theirs)) == "":
            continue
        reason = difference if file == "tokenizer.json" else "it differs from the base's"
        yield _mismatch(file, f"the tokenizer is not the base's: {reason}", mend)


def _vocabulary_difference(mine: Path, theirs: Path) -> str:
    """In which of token ids, merges and added tokens two tokenizer.json differ; empty when in none."""
    left, right = _tokens(mine), _tokens(theirs)
    parts = [name for name in left if left[name] != right[name]]
    return f"{' and '.join(parts)} differ ({_count(left)} and {_count(right)} tokens)" if parts else ""


def _count(tokens: dict[str, object]) -> int:
    vocabulary = tokens["token ids"]
    return len(vocabulary) if isinstance(vocabulary, list | dict) else 0


def _tokens(file: Path) -> dict[str, object]:
    content = read_json_object(file)
    model = content.get("model")
    model = model if isinstance(model, dict) else {}
    added = content.get("added_tokens")
    added = added if isinstance(added, list) else []
    merges = model.get("merges")
    return {
        "token ids": model.get("vocab"),
        # Both forms of one merge occur: "a b" and ["a", "b"].
        "merges": [m.split(" ") if isinstance(m, str) else m for m in merges] if isinstance(merges, list) else None,
        "added tokens": {str(t.get("content")): t.get("id") for t in added if isinstance(t, dict)}
        if isinstance(added, list)
        else None,
    }
