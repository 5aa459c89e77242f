"""Ingest: a source (model folder, adapter folder, `hf://org/name@revision`) comes in, a `Candidate` goes out, or a refusal.

Nothing is loaded here. The folder is scanned first, then measured: the manifest and its root digest, the chat template in force,
the tokenizer, and for an adapter its base.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Literal

from gate import hub
from gate.adapter_fit import ADAPTER_CONFIG, check_fit, read_json_object
from gate.chat_template import read_chat_template
from gate.errors import CandidateError, InfrastructureError, UnsafeCandidateError, UsageError
from gate.manifest import Progress, file_digest, manifest, root_digest
from gate.records import Candidate, Record, canonical_json, sha256_hex
from gate.scan import ScanFinding, refuse, scan_folder, scan_names
from gate.scan_finding import OF_BASE
from gate.tokenizer_files import tokenizer_folder, vocabulary_files

__all__ = ["check_unchanged", "default_cache_dir", "load_candidate", "manifest", "root_digest"]


class _Folder(Record):
    """A folder found for a source."""

    path: Path
    revision: str = ""
    warnings: tuple[str, ...] = ()


def load_candidate(
    source: str,
    *,
    base: str | None = None,
    baseline_template_digest: str | None = None,
    template_mismatch: Literal["refuse", "warn"] = "refuse",
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    notes: list[ScanFinding] | None = None,
) -> Candidate:
    """Find, scan and measure what is on trial.

    `baseline_template_digest` is the baseline's chat-template digest; a template that differs is refused, or with
    `template_mismatch="warn"` let through with a word. `cache_dir` is where hub revisions are kept. Every
    finding is added to `notes`, those of a refusal too.
    Raises CandidateError (it leads to no checkpoint), UnsafeCandidateError (it must not be loaded), InfrastructureError.
    """
    cache_dir = cache_dir or default_cache_dir()
    notes = [] if notes is None else notes
    found = _locate(source, cache_dir, notes)
    folder = found.path
    notes += scan_folder(folder)
    refuse(notes)
    adapter = (folder / ADAPTER_CONFIG).is_file()
    if base is not None and not adapter:
        raise UsageError(f"{source} is a full model; a base belongs to an adapter", mend="leave --base out")
    below = _base_folder(folder, base, cache_dir, notes, local=not source.startswith(hub.SCHEME)) if adapter else None
    if below:
        _scan_base(below.path, notes)
    places = (folder, below.path) if below else (folder,)
    architecture = _architecture(places[-1])
    files, digest = manifest(folder, progress=progress)
    base_files, base_digest = manifest(below.path, progress=progress) if below else ((), "")
    notes += check_fit(folder, below.path, base_digest) if below else ()
    template = _template(places, notes)
    tokenizer = _tokenizer_digest(places, notes)
    _compare_template(template, baseline_template_digest, template_mismatch, notes)
    card = _training_card(folder, notes)
    refuse(notes)
    return Candidate(
        source=source,
        kind="adapter" if adapter else "model",
        path=str(folder),
        revision=found.revision,
        digest=digest,
        files=files,
        base_path=str(below.path) if below else "",
        base_digest=base_digest,
        base_files=base_files,
        architecture=architecture,
        chat_template=template,
        chat_template_digest=sha256_hex(template.encode()),
        tokenizer_digest=tokenizer,
        training_card=card,
        warnings=(
            *found.warnings,
            *(below.warnings if below else ()),
            *(finding.sentence() for finding in notes if finding.severity == "warn"),
        ),
    )


def default_cache_dir() -> Path:
    """Where hub revisions are kept: taskgate/hub under XDG_CACHE_HOME, else under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "taskgate" / "hub"


def _locate(source: str, cache_dir: Path, notes: list[ScanFinding]) -> _Folder:
    """The local folder of a source, fetched if it stands on a hub."""
    if re.match(r"https?://", source):
        raise UsageError(
            "a server's URL stands where files are needed",
            expected="a model or adapter folder, or hf://org/name@revision",
            mend="name the served model: --candidate URL --model NAME; or give the checkpoint that the server serves",
        )
    if source.startswith(hub.SCHEME):
        return _fetch(*hub.parse_source(source), cache_dir, notes)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise CandidateError(
            f"no candidate at {source}",
            expected="a model or adapter folder, or hf://org/name@revision",
            found="a file" if folder.exists() else "nothing there",
            mend="check the path; a model on the hub is written hf://org/name@revision",
        )
    return _Folder(path=folder.resolve())


def _fetch(repo: str, revision: str, cache_dir: Path, notes: list[ScanFinding]) -> _Folder:
    """A hub revision as a folder. The listing is judged by its names before anything is downloaded."""
    listing = hub.cached(repo, revision, cache_dir) or hub.list_repository(repo, revision)
    mend = "name a commit without this file, or download the safetensors model yourself and give the folder"
    notes += (finding.model_copy(update={"mend": mend}) for finding in scan_names(listing.sizes))
    refuse(notes)
    folder = hub.download(listing, cache_dir)
    warnings = [] if revision == listing.commit else [f"{repo}@{revision} was resolved to commit {listing.commit}"]
    if skipped := [name for name in listing.unwanted() if name.split("/", maxsplit=1)[0] not in {".gitattributes", ".gitignore"}]:
        warnings.append(
            f"{repo}: not fetched and not in the digest: {', '.join(map(ascii, skipped[:5]))} ({len(skipped)} in all)"
        )
    return _Folder(path=folder.resolve(), revision=listing.commit, warnings=tuple(warnings))


def _base_folder(adapter: Path, base: str | None, cache_dir: Path, notes: list[ScanFinding], *, local: bool) -> _Folder:
    """The base's folder: `base`, else the adapter config's name relative to the adapter, as a path, as a hub name.

    The config of an adapter fetched from a hub (`local` false) can't point at a local folder.
    """
    if base is not None:
        return _locate(base, cache_dir, notes)
    config = read_json_object(adapter / ADAPTER_CONFIG)
    name = config.get("base_model_name_or_path")
    if not isinstance(name, str) or not name:
        raise CandidateError(f"{adapter} does not name its base", expected="base_model_name_or_path", mend="give --base FOLDER")
    for folder in (adapter / name, Path(name)) if local else ():
        if folder.is_dir():
            return _Folder(path=folder.resolve())
    revision = config.get("revision")
    source = f"{hub.SCHEME}{name}@{revision if isinstance(revision, str) and revision else 'main'}"
    try:
        return _fetch(*hub.parse_source(source), cache_dir, notes)
    except (CandidateError, InfrastructureError) as error:
        raise type(error)(
            f"the adapter's base {name!a} was not found",
            expected="a folder beside the adapter, a path, or a model on the hub",
            found=error.problem + (f" ({error.found})" if error.found else ""),
            mend="give --base FOLDER or --base hf://org/name@revision",
        ) from error


def _scan_base(base: Path, notes: list[ScanFinding]) -> None:
    """The scan of a base, its files named as the base's; refused at once, since the comparison reads its headers."""
    notes += (finding.model_copy(update={"file": f"{OF_BASE}{finding.file}"}) for finding in scan_folder(base))
    refuse(notes)
    if (base / ADAPTER_CONFIG).is_file():
        raise CandidateError(
            f"the base {base} is itself an adapter", expected="a full model", mend="merge it into its base first"
        )


def _template(places: tuple[Path, ...], notes: list[ScanFinding]) -> str:
    """The template of the first place that has one; a finding when none does or it can't be read."""
    found: list[str] = []
    for place in places:
        try:
            text = read_chat_template(place)
            found += [] if text is None else [text.encode().decode()]
        except (ValueError, OSError) as error:
            reason = f"the chat template can't be read ({type(error).__name__})"
            notes.append(ScanFinding(file=place.name, rule="chat-template", reason=reason, mend="write it as UTF-8 text"))
    if not found:
        reason = "no chat template: how the model is asked in production is unknown"
        mend = "save chat_template.jinja (or tokenizer_config.json's chat_template) as the model was trained and will be served"
        notes.append(ScanFinding(file="chat_template.jinja", rule="no-template", reason=reason, mend=mend))
        return ""
    if len(found) > 1 and found[0] != found[1]:
        reason = "the adapter brings another chat template than its base's; the adapter's is used"
        mend = "nothing to do if it is served with this template"
        notes.append(ScanFinding(file="chat_template.jinja", rule="template", reason=reason, mend=mend, severity="warn"))
    return found[0]


def _compare_template(
    template: str, baseline_digest: str | None, mismatch: Literal["refuse", "warn"], notes: list[ScanFinding]
) -> None:
    digest = sha256_hex(template.encode())
    if template and baseline_digest is not None and digest != baseline_digest:
        reason = f"the chat template {digest[:12]}… differs from the baseline's {baseline_digest[:12]}…"
        mend = "give the candidate the baseline's template, or let the policy lower this to a warning"
        notes.append(
            ScanFinding(file="chat_template.jinja", rule="template-mismatch", reason=reason, mend=mend, severity=mismatch)
        )


def _tokenizer_digest(places: tuple[Path, ...], notes: list[ScanFinding]) -> str:
    """SHA-256 of tokenizer.json where the tokenizer lies, or over names and digests of its older files."""
    place = tokenizer_folder(places)
    if place is not None:
        names = vocabulary_files(place)
        if "tokenizer.json" in names:
            return file_digest(place, "tokenizer.json").sha256
        older = [file_digest(place, name) for name in sorted(names)]
        return sha256_hex(canonical_json([[file.path, file.sha256] for file in older]))
    mend = "save the tokenizer with the model (tokenizer.save_pretrained)"
    notes.append(ScanFinding(file="tokenizer.json", rule="no-tokenizer", reason="the folder has no tokenizer", mend=mend))
    return ""


def _architecture(folder: Path) -> str:
    """The first of config.json's architectures."""
    architectures = read_json_object(folder / "config.json").get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    if not isinstance(first, str) or not first.isidentifier():
        raise CandidateError(
            f"{folder} is not a model folder",
            expected="config.json with its architectures",
            found="no config.json" if not (folder / "config.json").is_file() else "none named",
            mend="give the folder that save_pretrained wrote",
        )
    return first


def _training_card(folder: Path, notes: list[ScanFinding]) -> dict[str, Any] | None:
    """`training_card.json`, if it is an object that can travel in a record; a word when it is there and is not."""
    file = folder / "training_card.json"
    if not file.is_file():
        return None
    try:
        card = json.loads(file.read_bytes(), parse_constant=_refuse_constant)
        canonical_json(card)
        if isinstance(card, dict):
            return card
    except (ValueError, RecursionError, OSError):
        pass
    reason = "not a JSON object of finite numbers; it is left out"
    notes.append(ScanFinding(file=file.name, rule="card", reason=reason, mend="write it again", severity="warn"))
    return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def check_unchanged(candidate: Candidate) -> None:
    """Refuse a candidate whose files (or its base's) are not those that were scanned. Called once the weights are loaded."""
    files, digest = manifest(Path(candidate.path))
    base_files, base = manifest(Path(candidate.base_path)) if candidate.base_path else ((), "")
    if (files, digest, base_files, base) != (candidate.files, candidate.digest, candidate.base_files, candidate.base_digest):
        raise UnsafeCandidateError(
            f"{candidate.path} was changed after it was scanned",
            expected=f"digest {candidate.digest[:16]}, base {candidate.base_digest[:16] or 'none'}",
            found=f"digest {digest[:16]}, base {base[:16] or 'none'}",
            mend="stop whatever writes to the folder, then run the same command again",
        )
