"""What must not be loaded: a model or adapter folder comes in, findings go out, each with the file, the reason and the mend.

The scan reads names, the first bytes of every file, JSON and safetensors headers. It never imports torch, never unpickles, and
any bytes end in a finding, not in a crash. What model-signing leaves out of its manifest (git's own paths) is left out here too:
nothing outside the digest is loaded, and nothing in it goes unscanned.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from gate.chat_template import MAX_TEMPLATE, TEMPLATE_DIR, template_fault
from gate.manifest import GIT_PATHS, odd_entry, walk
from gate.safetensors_header import HeaderError, TensorInfo, read_header
from gate.scan_finding import ScanFinding, refuse, shown
from gate.sniff import Kind, sniff
from gate.template_trial import day_fault

__all__ = ["ScanFinding", "refuse", "scan_folder", "scan_names"]

MAX_JSON = 32 * 1024 * 1024
MAX_VOCABULARY = 128 * 1024 * 1024
"""Bytes of a JSON file; tokenizers, vocabularies and weight indices may be the larger."""
_CONVERT = (
    "in a place where you trust the file, load it and save it as safetensors (save_pretrained), then delete it from the folder"
)
_LEFTOVER = "delete it from the folder: training state isn't part of a model that ships"
_NO_CODE = "remove it; only architectures that transformers itself has can be gated"
_PICKLE_REASON = "pickle-format file: loading it runs code that the file chooses"

_SUFFIXES: dict[str, tuple[str, str, str]] = {
    **dict.fromkeys(
        ".bin .pt .pth .pkl .pickle .ckpt .joblib .dill .npz .pdparams .t7".split(),
        ("pickle", _PICKLE_REASON, _CONVERT),
    ),
    **dict.fromkeys(
        ".h5 .hdf5 .keras .gguf .ggml .msgpack .onnx .tflite .pb .mlmodel .ot .nemo .mar .engine".split(),
        ("format", "weights in a format that the gate does not load", "export the model to safetensors; move this file out"),
    ),
    **dict.fromkeys(
        ".zip .tar .gz .tgz .bz2 .xz .zst .lz4 .7z .rar .z".split(),
        ("archive", "an archive, whose contents are not scanned", "move it out of the folder"),
    ),
    **dict.fromkeys(
        ".py .pyc .pyo .pyd .so .dll .dylib .exe .sh .bash .bat .cmd .ps1 .js .whl .egg .jar .c .cpp .cu".split(),
        ("code", "program code in a model folder", _NO_CODE),
    ),
}
_KNOWN = frozenset(
    ".json .jsonl .jinja .safetensors .model .tiktoken .txt .md .rst .sig .csv .tsv .yaml .yml .png .jpg .jpeg .gif .svg .webp "
    ".pdf .bib".split()
)
_BY_KIND: dict[Kind, tuple[str, str, str]] = {
    Kind.PICKLE: ("pickle", f"{_PICKLE_REASON} (found by its content)", _CONVERT),
    Kind.ARCHIVE: ("archive", "an archive by its content, which is not scanned", "move it out of the folder"),
    Kind.PROGRAM: ("code", "a program by its content", _NO_CODE),
    Kind.FORMAT: (
        "format",
        "weights by their content, in a format that the gate does not load",
        "export the model to safetensors",
    ),
    Kind.LFS_POINTER: ("lfs-pointer", "a git-lfs pointer in place of the file", "run `git lfs pull` in the clone"),
}
_VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})
"""JSON whose keys are tokens, so that any word may stand there."""
_OWN_NOTES = frozenset({"training_card.json"})
"""JSON that nothing loads a model by."""


def scan_folder(path: Path) -> tuple[ScanFinding, ...]:
    """Every finding about the folder, refusals first. Raises nothing for any content; an unreadable file is a finding."""
    findings: list[ScanFinding] = []
    files: list[str] = []
    try:
        entries = list(walk(path))
    except OSError as error:
        return (_finding(".", "unreadable", f"the folder can't be read ({error.strerror})", "make it readable"),)
    for name, mode in entries:
        blocked = tuple(_check_entry(name, mode))
        findings += blocked
        if not blocked:
            files.append(name)
    headers: dict[str, dict[str, TensorInfo]] = {}
    for name in files:
        findings += _guarded(name, lambda name=name: _check_file(path, name, headers))  # type: ignore[misc]
    for name in files:
        if name.endswith(".safetensors.index.json"):
            findings += _guarded(name, lambda name=name: _check_index(path, name, headers))  # type: ignore[misc]
    findings += _check_set(files, {finding.rule for finding in findings})
    unique = dict.fromkeys(findings)
    return tuple(sorted(unique, key=lambda finding: (finding.severity != "refuse", finding.file, finding.rule)))


def scan_names(names: Iterable[str]) -> tuple[ScanFinding, ...]:
    """The findings that names alone give: for a repository's listing, before anything is fetched."""
    wanted = [name for name in sorted(names) if name.split("/")[0] not in GIT_PATHS]
    return tuple(finding for name in wanted for finding in _check_entry(name, stat.S_IFREG))


def _finding(name: str, rule: str, reason: str, mend: str, severity: Literal["refuse", "warn"] = "refuse") -> ScanFinding:
    return ScanFinding(file=shown(name), rule=rule, reason=reason, mend=mend, severity=severity)


def _guarded(name: str, check: Callable[[], Iterable[ScanFinding]]) -> list[ScanFinding]:
    try:
        return list(check())
    except (OSError, RecursionError, MemoryError) as error:
        reason = f"the file can't be read ({getattr(error, 'strerror', None) or type(error).__name__})"
        return [_finding(name, "unreadable", reason, "make it readable, or write the file again")]


def _check_entry(name: str, mode: int) -> Iterator[ScanFinding]:
    """By name and mode alone."""
    yield from odd_entry(name, mode)
    if stat.S_ISREG(mode) and (rule := _suffix_rule(name)) is not None:
        leftover = re.match(r"(optimizer|scheduler|scaler|rng_state.*|training_args)\.\w+$", PurePosixPath(name).name)
        yield _finding(name, rule[0], rule[1], _LEFTOVER if leftover else rule[2])


def _suffix_rule(name: str) -> tuple[str, str, str] | None:
    base = PurePosixPath(name).name.lower()
    if ".so." in base:
        return _SUFFIXES[".so"]
    return _SUFFIXES.get(PurePosixPath(base).suffix)


def _check_file(folder: Path, name: str, headers: dict[str, dict[str, TensorInfo]]) -> Iterator[ScanFinding]:
    """By content."""
    suffix = PurePosixPath(name.lower()).suffix
    if suffix == ".safetensors":
        yield from _check_weights(folder, name, headers)
        return
    kind = sniff(folder / name)
    if kind is not Kind.OTHER:
        yield _finding(name, *_BY_KIND[kind])
    elif suffix == ".json":
        yield from _check_json(folder, name)
    elif suffix == ".jinja":
        if name == "chat_template.jinja" or name.startswith(f"{TEMPLATE_DIR}/"):
            with (folder / name).open("rb") as stream:
                yield from _check_template(name, stream.read(MAX_TEMPLATE + 1).decode("utf-8", "replace"))
    elif suffix and suffix not in _KNOWN:
        mend = "nothing to do, or move the file out of the folder"
        yield _finding(name, "unknown", "a file of unknown type; it counts in the digest and nothing loads it", mend, "warn")


def _check_weights(folder: Path, name: str, headers: dict[str, dict[str, TensorInfo]]) -> Iterator[ScanFinding]:
    # The header first: a length of 640 bytes begins with the same two bytes as a pickle of protocol 2.
    try:
        headers[name] = read_header(folder / name)
    except HeaderError as error:
        kind = sniff(folder / name)
        if kind is Kind.OTHER:
            mend = "fetch or save the file again; a header that lies is never repaired by hand"
            yield _finding(name, "safetensors", f"not the safetensors file it claims to be: {error}", mend)
        else:
            yield _finding(name, *_BY_KIND[kind])


def _check_json(folder: Path, name: str) -> Iterator[ScanFinding]:
    base = PurePosixPath(name).name
    large = base in _VOCABULARIES or base.endswith(".index.json")
    limit = MAX_VOCABULARY if large else MAX_JSON
    if (folder / name).stat().st_size > limit:
        yield _finding(name, "huge-json", f"a JSON file over {limit} bytes", "move it out of the folder")
        return
    try:
        content = json.loads((folder / name).read_bytes())
    except (ValueError, RecursionError) as error:
        severity: Literal["refuse", "warn"] = "warn" if base in _OWN_NOTES else "refuse"
        yield _finding(name, "json", f"not readable as JSON ({type(error).__name__})", "write the file again", severity)
        return
    if large or base in _OWN_NOTES:
        return
    yield from _check_keys(name, content)
    if base == "tokenizer_config.json" and isinstance(content, dict):
        for text in _templates(content.get("chat_template")):
            yield from _check_template(name, text)


def _check_template(name: str, text: str) -> Iterator[ScanFinding]:
    fault = template_fault(text) or day_fault(text)
    if fault:
        mend = "give the model the template it was trained with, plain jinja as transformers' apply_chat_template takes it"
        yield _finding(name, "chat-template", f"the chat template can't be used: {fault}", mend)


def _templates(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for entry in value.values() if isinstance(value, dict) else value:
            yield from _templates(entry.get("template") if isinstance(entry, dict) else entry)


def _check_keys(name: str, content: object) -> Iterator[ScanFinding]:
    """Walk a configuration for the keys through which transformers or PEFT load code or files from elsewhere."""
    pending = [content]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            pending += value.values()
            for key, entry in value.items():
                yield from _check_key(name, key, entry)


def _check_key(name: str, key: str, entry: object) -> Iterator[ScanFinding]:
    base = PurePosixPath(name).name
    if key in {"auto_map", "trust_remote_code", "custom_pipelines", "custom_generate"} and entry:
        mend = f"remove {key} if transformers has this architecture itself; otherwise it can't be gated"
        yield _finding(name, "remote-code", f"{key} asks for code from the folder or the hub", mend)
    elif key.endswith(("attn_implementation", "experts_implementation")):
        if any(isinstance(value, str) and "/" in value for value in (entry.values() if isinstance(entry, dict) else (entry,))):
            yield _finding(name, "remote-code", f"{key[:80]!a} names a kernel on the hub, native code", "remove the key")
    elif key == "auto_mapping" and isinstance(entry, dict):
        library = entry.get("parent_library") or "transformers"
        if not isinstance(library, str) or library.partition(".")[0] != "transformers":
            yield _finding(name, "remote-code", "auto_mapping makes PEFT import a module by name", "set auto_mapping to null")
    elif key == "transformers_weights" and entry:
        reason = "transformers_weights loads other weights than the usual names"
        yield _finding(name, "other-weights", reason, "remove the key; name the weights model.safetensors")
    elif base == "tokenizer_config.json" and key.endswith("_file") and entry:
        reason = f"{key[:80]!a} makes the tokenizer read another file than the folder's own"
        yield _finding(name, "other-file", reason, "remove the key")


def _check_index(folder: Path, name: str, headers: dict[str, dict[str, TensorInfo]]) -> Iterator[ScanFinding]:
    """Every tensor of the index stands in a shard beside it."""
    if (folder / name).stat().st_size > MAX_VOCABULARY:
        return
    mend = "fetch or save the weights again, index and shards together"
    try:
        index = json.loads((folder / name).read_bytes())
    except (ValueError, RecursionError):
        return  # said by _check_json
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(shard, str) for shard in weight_map.values()):
        yield _finding(name, "index", "the index has no weight_map of names", mend)
        return
    parent = PurePosixPath(name).parent
    for shard in sorted(set(weight_map.values())):
        if not re.fullmatch(r"[\w.+-]+\.safetensors", shard) or shard.startswith("."):
            reason = f"the index names {shard[:80]!a}, which is no safetensors file beside it"
            yield _finding(name, "index", reason, mend)
        elif not os.path.lexists(folder / parent / shard):
            yield _finding(str(parent / shard), "missing-shard", f"named by {shown(name)} and not there", mend)
        elif (header := headers.get(str(parent / shard))) is not None:
            absent = [tensor for tensor, place in weight_map.items() if place == shard and tensor not in header]
            if absent:
                reason = f"lacks {len(absent)} of the tensors that {shown(name)} places there, first {min(absent)[:80]!a}"
                yield _finding(str(parent / shard), "missing-tensor", reason, mend)


def _check_set(files: list[str], rules: set[str]) -> Iterator[ScanFinding]:
    """What the files are together: one model, or one adapter, with loadable weights."""
    adapter = "adapter_config.json" in files
    weights = {"model.safetensors", "model.safetensors.index.json"} & set(files)
    if adapter and weights:
        reason = "both an adapter and a full model: which of the two is served depends on the loader"
        yield _finding("adapter_config.json", "ambiguous", reason, "keep them in two folders")
    if len(weights) == 2:
        mend = "keep one of the two"
        yield _finding("model.safetensors.index.json", "ambiguous", "both model.safetensors and an index of shards", mend)
    needed = "adapter_model.safetensors" if adapter else "model.safetensors"
    there = needed in files or (not adapter and bool(weights))
    if not there and not rules & {"pickle", "link", "format", "safetensors"}:
        mend = f"save the weights as {needed}" + ("" if adapter else " (or shards with model.safetensors.index.json)")
        yield _finding(needed, "no-weights", "the folder has no weights that the gate loads", mend)
