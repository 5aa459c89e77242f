"""The ML-BOM: a decided run comes in, CycloneDX 1.6 as JSON goes out, with a rate for every task in the model card.

Component, hashes and metadata are made by cyclonedx-python-lib, which has no class for a model card: the card is added to its
JSON, and the whole is held to the library's strict validator. The same run gives the same bytes: the serial number is made of
the verdict's digest, the time stamp is the run's date.
"""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from gate.attest.predicates import Evaluation
from gate.errors import AttestError
from gate.records import Candidate, ManifestFile, TaskStats, sha256_hex

if TYPE_CHECKING:
    from cyclonedx.model.component import Component

NAMESPACE: Final = uuid.UUID("6f8d4c1e-8b0a-5a51-9a53-7d3f0f0e2c11")
"""Of serial numbers made here."""


def render_bom(evaluation: Evaluation, name: str) -> bytes:
    """The ML-BOM of a run as indented JSON. Raises AttestError if the validator refuses it: then nothing may be written."""
    from cyclonedx.model.bom import Bom
    from cyclonedx.output.json import JsonV1Dot6
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    verdict = evaluation.verdict
    bom = Bom(serial_number=uuid.uuid5(NAMESPACE, evaluation.verdict_sha256))
    bom.metadata.timestamp = datetime.fromisoformat(verdict.evaluated_on).replace(tzinfo=UTC)
    bom.metadata.tools.components.add(_tool(verdict.tool_version))
    model = _model(evaluation, name)
    bom.metadata.component = model
    if evaluation.candidate.kind == "adapter":
        base = _base(evaluation.candidate)
        bom.components.add(base)
        bom.register_dependency(model, [base])
    content = json.loads(JsonV1Dot6(bom).output_as_string())
    content["metadata"]["component"]["modelCard"] = _model_card(evaluation)
    text = json.dumps(content, indent=1, ensure_ascii=True, sort_keys=True) + "\n"
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        raise AttestError("the ML-BOM is not valid CycloneDX", found=str(fault)[:500], mend="report this: nothing was written")
    return text.encode()


def _tool(version: str) -> Component:
    from cyclonedx.model.component import Component, ComponentType

    return Component(name="taskgate", version=version, type=ComponentType.APPLICATION)


def _model(evaluation: Evaluation, name: str) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    verdict, candidate = evaluation.verdict, evaluation.candidate
    facts = {
        "decision": verdict.decision.value,
        "reason": verdict.reason,
        "policy": f"{verdict.policy_name} {verdict.policy_digest}",
        "suite": f"{verdict.suite_name} {verdict.suite_digest}",
        "judges": "; ".join(verdict.judges),
        "engine": " ".join(verdict.engine.model_dump().values()),
        "evaluated_on": verdict.evaluated_on,
        "verdict_sha256": evaluation.verdict_sha256,
        "root_digest": candidate.digest,
        "chat_template_sha256": candidate.chat_template_digest,
        "tokenizer_sha256": candidate.tokenizer_digest,
    }
    return Component(
        name=name,
        version=candidate.revision or candidate.digest[:16],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="model",
        properties=[Property(name=f"taskgate:{key}", value=value) for key, value in facts.items()],
        components=[_file(file, "model") for file in candidate.files],
    )


def _base(candidate: Candidate) -> Component:
    from cyclonedx.model import Property
    from cyclonedx.model.component import Component, ComponentType

    return Component(
        name="base",
        version=candidate.base_digest[:16],
        type=ComponentType.MACHINE_LEARNING_MODEL,
        bom_ref="base",
        properties=[Property(name="taskgate:root_digest", value=candidate.base_digest)],
        components=[_file(file, "base") for file in candidate.base_files],
    )


def _file(file: ManifestFile, owner: str) -> Component:
    """One file with its hash: CycloneDX's hashes are of a file's bytes, which a folder's root digest is not."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType

    kind = ComponentType.FILE
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=file.sha256)]
    return Component(name=file.path, type=kind, bom_ref=f"{owner}/{sha256_hex(file.path.encode())[:16]}", hashes=hashes)


def _model_card(evaluation: Evaluation) -> dict[str, Any]:
    """The card: architecture, and each cell's rate with its bounds."""
    verdict = evaluation.verdict
    limits = [
        "The rates are of the suite, the decodings and the prompt templates named, and of no other use of the model.",
        "Bounds are one-sided; a rate without answers that could be judged has no value and the bounds 0 and 1.",
        *(() if verdict.judge_calibrated else ("The judge is not calibrated: rates are not corrected for its errors.",)),
        *verdict.warnings,
    ]
    return {
        "modelParameters": {"modelArchitecture": evaluation.candidate.architecture},
        "quantitativeAnalysis": {"performanceMetrics": [_metric(stats) for stats in verdict.stats]},
        "considerations": {"technicalLimitations": limits},
    }


def _metric(stats: TaskStats) -> dict[str, Any]:
    held = f"limit {stats.limit}" if stats.gated and stats.limit is not None else "not gated"
    return {
        "type": f"{stats.measure} rate ({stats.hits} of {stats.judged} judged, {held})",
        "value": "none" if stats.rate is None else repr(stats.rate),
        "slice": f"{stats.task}|{stats.calibration}|{stats.decoding}",
        "confidenceInterval": {"lowerBound": repr(stats.lower), "upperBound": repr(stats.upper)},
    }
