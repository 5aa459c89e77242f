"""The scan's findings for code scanning: what was found in each source comes in, one SARIF 2.1.0 log goes out. Pure.

A refusal is an error, a warning a warning. Places are whole files: a finding about a binary has no line, and code scanning wants
one, so it is the first. A finding about an adapter's base stands at the file of the adapter that names the base.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from gate.adapter_fit import ADAPTER_CONFIG
from gate.records import Record, sha256_hex
from gate.scan_finding import OF_BASE, ScanFinding

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
LEVELS: Final = {"refuse": "error", "warn": "warning"}
RULES: Final = {
    "pickle": "A pickle: loading it runs code that the file chooses",
    "format": "Weights in a format that is neither loaded nor scanned",
    "archive": "An archive, whose contents are not scanned",
    "code": "Program code in a model folder",
    "remote-code": "Configuration that makes a loader import code",
    "link": "A symbolic link: what it leads to is not in the digest",
    "special": "A device, pipe or socket",
    "name": "A file name that can forge lines or lead elsewhere",
    "safetensors": "A safetensors header that does not describe its file",
    "lfs-pointer": "A git-lfs pointer in place of the file",
    "index": "A weight index that names no safetensors files beside it",
    "missing-shard": "A shard that the weight index names is not there",
    "missing-tensor": "A shard lacks tensors that the weight index places in it",
    "no-weights": "No weights that can be loaded",
    "ambiguous": "Which of two sets of weights is served depends on the loader",
    "other-weights": "Configuration that loads other weights than the usual names",
    "other-file": "Configuration that reads another file than the folder's own",
    "json": "JSON that cannot be read",
    "huge-json": "A JSON file over the limit",
    "chat-template": "A chat template that cannot be rendered safely as in production",
    "no-template": "No chat template",
    "template-mismatch": "A chat template other than the baseline's",
    "no-tokenizer": "No whole vocabulary",
    "base-mismatch": "An adapter that does not fit the base",
    "unreadable": "A file or folder that cannot be read",
    "unknown": "A file of unknown type",
    "template": "A chat template of the adapter's own",
    "card": "A training card that cannot be read",
    "unchecked": "An adapter whose shapes are not compared with the base's",
}
"""Rule → what it is about; docs/candidates.md says why and how to mend."""


class Scanned(Record):
    """What the scan of one source came to."""

    name: str
    """`candidate` or `baseline`."""
    place: str
    """URI of the folder, ending in a slash: relative to where the log is read, or absolute."""
    findings: tuple[ScanFinding, ...]
    complete: bool
    """False where something else ended it: then no finding is no sign that there is none."""


def render_sarif(scans: Sequence[Scanned], tool_version: str) -> str:
    """The log, indented ASCII JSON with a final newline; one run per source."""
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(scan, tool_version) for scan in scans]}
    return json.dumps(log, indent=2) + "\n"


def _run(scan: Scanned, tool_version: str) -> dict[str, Any]:
    used = sorted({finding.rule for finding in scan.findings})
    return {
        "tool": {"driver": {"name": "taskgate", "version": tool_version, "rules": [_rule(rule, scan) for rule in used]}},
        "automationDetails": {"id": f"taskgate/scan/{scan.name}/"},
        "invocations": [{"executionSuccessful": scan.complete}],
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, used.index(finding.rule), scan.place) for finding in scan.findings],
    }


def _rule(rule: str, scan: Scanned) -> dict[str, Any]:
    first = next(finding for finding in scan.findings if finding.rule == rule)
    return {
        "id": rule,
        "shortDescription": {"text": RULES.get(rule, rule)},
        "help": {"text": f"To mend: {first.mend}. docs/candidates.md explains every rule."},
        "defaultConfiguration": {"level": LEVELS[first.severity]},
        "properties": {"tags": ["security", "model"]},
    }


def _result(finding: ScanFinding, index: int, place: str) -> dict[str, Any]:
    file = ADAPTER_CONFIG if finding.file.startswith(OF_BASE) else finding.file
    uri = place if file == "." else place + quote(file)
    # ASCII, unlike the records' canonical form: a reason may quote what is no Unicode text.
    about = json.dumps([finding.rule, finding.file, finding.reason])
    return {
        "ruleId": finding.rule,
        "ruleIndex": index,
        "level": LEVELS[finding.severity],
        "message": {"text": finding.sentence()},
        "locations": [{"physicalLocation": {"artifactLocation": {"uri": uri}, "region": {"startLine": 1}}}],
        "partialFingerprints": {"taskgateFinding/v1": sha256_hex(about.encode())},
    }
