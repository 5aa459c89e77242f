"""LLM Guard's API contract: `/analyze/prompt`, `/analyze/output`, `/scan/prompt`, `/scan/output`, for those who move from it.

The guard's heads answer as scanners: `Harm` always, `Refusal` on outputs. Text is never rewritten, so `sanitized_*` is what came.
"""

from typing import Annotated, Final

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field

from guard_server.labels import Decision, Direction
from guard_server.screening import Subject
from guard_server.service import Guard, Outcome, guard_of

ANALYZE_PROMPT: Final = "/analyze/prompt"
ANALYZE_OUTPUT: Final = "/analyze/output"
SCAN_PROMPT: Final = "/scan/prompt"
SCAN_OUTPUT: Final = "/scan/output"
router = APIRouter(tags=["LLM Guard"])


class PromptRequest(BaseModel):
    """A prompt; a scanner named in `scanners_suppress` is left out of the answer and of `is_valid`."""

    model_config = ConfigDict(extra="ignore")
    prompt: str
    scanners_suppress: list[str] = Field(default_factory=list)


class OutputRequest(PromptRequest):
    """An answer with the prompt it answers."""

    output: str


class Scan(BaseModel):
    """Validity and the scanners' scores, 0 to 1."""

    is_valid: bool
    scanners: dict[str, float]


class PromptAnalysis(Scan):
    """The answer of `/analyze/prompt`."""

    sanitized_prompt: str


class OutputAnalysis(Scan):
    """The answer of `/analyze/output`."""

    sanitized_output: str


@router.post(ANALYZE_PROMPT)
async def analyze_prompt(body: PromptRequest, guard: Annotated[Guard, Depends(guard_of)]) -> PromptAnalysis:
    """Screen a prompt."""
    scan = await _prompt(body, guard, ANALYZE_PROMPT)
    return PromptAnalysis(sanitized_prompt=body.prompt, **scan.model_dump())


@router.post(SCAN_PROMPT)
async def scan_prompt(body: PromptRequest, guard: Annotated[Guard, Depends(guard_of)]) -> Scan:
    """Screen a prompt; the same without its text."""
    return await _prompt(body, guard, SCAN_PROMPT)


@router.post(ANALYZE_OUTPUT)
async def analyze_output(body: OutputRequest, guard: Annotated[Guard, Depends(guard_of)]) -> OutputAnalysis:
    """Screen an answer."""
    scan = await _output(body, guard, ANALYZE_OUTPUT)
    return OutputAnalysis(sanitized_output=body.output, **scan.model_dump())


@router.post(SCAN_OUTPUT)
async def scan_output(body: OutputRequest, guard: Annotated[Guard, Depends(guard_of)]) -> Scan:
    """Screen an answer; the same without its text."""
    return await _output(body, guard, SCAN_OUTPUT)


async def _prompt(body: PromptRequest, guard: Guard, route: str) -> Scan:
    answer = await guard.screen(route, [Subject(body.prompt, Direction.PROMPT)])
    return _scan(answer.outcomes[0], body.scanners_suppress)


async def _output(body: OutputRequest, guard: Guard, route: str) -> Scan:
    answer = await guard.screen(route, [Subject(body.output, Direction.RESPONSE, context=body.prompt or None)])
    return _scan(answer.outcomes[0], body.scanners_suppress)


def _scan(outcome: Outcome, suppressed: list[str]) -> Scan:
    scores = {"Harm": outcome.score, "Refusal": outcome.refusal}
    shown = {name: score for name, score in scores.items() if score is not None and name not in suppressed}
    # A refusal is no fault of the answer: it is shown, and validity follows from harm alone.
    return Scan(is_valid="Harm" in suppressed or outcome.decision is not Decision.BLOCK, scanners=shown)
