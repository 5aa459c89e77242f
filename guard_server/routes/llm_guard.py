"""LLM Guard's API contract: `/analyze/prompt`, `/analyze/output`, `/scan/prompt`, `/scan/output`, for those who move from it.

The guard's heads answer as scanners: `Harm` always, `Refusal` on outputs. Text is never rewritten, so `sanitized_*` is what came,
save for lone surrogates, which are no characters. `scanners_suppress: ["Harm"]` makes everything valid: the caller asked so.
"""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from guard_server.answers import encodable
from guard_server.cancellation import unless_disconnected
from guard_server.disclosure import disclose
from guard_server.labels import Decision, Direction
from guard_server.schemas import Listed
from guard_server.screening import Subject
from guard_server.service import Guard, guard_of

ANALYZE_PROMPT: Final = "/analyze/prompt"
ANALYZE_OUTPUT: Final = "/analyze/output"
SCAN_PROMPT: Final = "/scan/prompt"
SCAN_OUTPUT: Final = "/scan/output"
router = APIRouter(tags=["LLM Guard"])


class PromptRequest(BaseModel):
    """A prompt; a scanner named in `scanners_suppress` is left out of the answer and of `is_valid`."""

    model_config = ConfigDict(extra="ignore")
    prompt: str
    scanners_suppress: Listed[str] = Field(default_factory=list)


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


class Scanner:
    """Screens the one text of a request and tells it in LLM Guard's words."""

    def __init__(self, request: Request, response: Response, guard: Guard) -> None:
        self.request, self.response, self.guard = request, response, guard

    async def __call__(self, route: str, subject: Subject, suppressed: list[str]) -> Scan:
        """The scan; raises what `Guard.screen` raises, and `ClientDisconnect`."""
        answer = await unless_disconnected(self.request, self.guard.screen(route, [subject]))
        disclose(self.response, [answer])
        outcome = answer.outcomes[0]
        scores = {"Harm": outcome.score, "Refusal": outcome.refusal}
        shown = {name: score for name, score in scores.items() if score is not None and name not in suppressed}
        # A refusal is no fault of the answer: it is shown, and validity follows from harm alone.
        return Scan(is_valid="Harm" in suppressed or outcome.decision is not Decision.BLOCK, scanners=shown)


async def scanner_of(request: Request, response: Response, guard: Annotated[Guard, Depends(guard_of)]) -> Scanner:
    """The scanner of a request."""
    return Scanner(request, response, guard)


Scanning = Annotated[Scanner, Depends(scanner_of)]


@router.post(ANALYZE_PROMPT)
async def analyze_prompt(body: PromptRequest, scan: Scanning) -> PromptAnalysis:
    """Screen a prompt."""
    found = await scan(ANALYZE_PROMPT, _prompt(body), body.scanners_suppress)
    return PromptAnalysis(sanitized_prompt=encodable(body.prompt), **found.model_dump())


@router.post(SCAN_PROMPT)
async def scan_prompt(body: PromptRequest, scan: Scanning) -> Scan:
    """Screen a prompt; the same without its text."""
    return await scan(SCAN_PROMPT, _prompt(body), body.scanners_suppress)


@router.post(ANALYZE_OUTPUT)
async def analyze_output(body: OutputRequest, scan: Scanning) -> OutputAnalysis:
    """Screen an answer."""
    found = await scan(ANALYZE_OUTPUT, _output(body), body.scanners_suppress)
    return OutputAnalysis(sanitized_output=encodable(body.output), **found.model_dump())


@router.post(SCAN_OUTPUT)
async def scan_output(body: OutputRequest, scan: Scanning) -> Scan:
    """Screen an answer; the same without its text."""
    return await scan(SCAN_OUTPUT, _output(body), body.scanners_suppress)


def _prompt(body: PromptRequest) -> Subject:
    return Subject(body.prompt, Direction.PROMPT)


def _output(body: OutputRequest) -> Subject:
    return Subject(body.output, Direction.RESPONSE, context=body.prompt or None)
