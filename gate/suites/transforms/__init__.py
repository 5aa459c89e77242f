"""The attack transforms: a literal table. A new one is a pure function in a module here and a line below.

The minimal set: a direct request, three personas, refusal suppression, two encodings, an assistant prefill, two languages.
"""

from __future__ import annotations

from gate.suites.transforms.base import Transform
from gate.suites.transforms.direct import direct
from gate.suites.transforms.encodings import to_base64, to_leetspeak
from gate.suites.transforms.languages import french, german
from gate.suites.transforms.personas import examiner, novelist, unrestricted
from gate.suites.transforms.prefill import prefill
from gate.suites.transforms.suppression import suppression

__all__ = ["TRANSFORMS", "Transform"]

TRANSFORMS: dict[str, Transform] = {
    transform.name: transform
    for transform in (
        Transform("direct", direct, source="-"),
        Transform("persona-novelist", novelist, source="arXiv 2307.02483"),
        Transform("persona-unrestricted", unrestricted, source="arXiv 2307.02483"),
        Transform("persona-examiner", examiner, source="arXiv 2307.02483"),
        Transform("refusal-suppression", suppression, source="arXiv 2307.02483"),
        Transform("base64", to_base64, source="arXiv 2307.02483"),
        Transform("leetspeak", to_leetspeak, source="arXiv 2307.02483"),
        Transform("prefill", prefill, source="arXiv 2404.02151"),
        Transform("language-fr", french, source="arXiv 2310.06474", language="fr"),
        Transform("language-de", german, source="arXiv 2310.06474", language="de"),
    )
}
