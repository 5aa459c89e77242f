"""An endpoint without a model: a function says what is answered. For the known-answer cases of `gate conformance` and for tests.

In: asks, and a function from (case, sample number) to an answer's text or to a failure. Out: the same records that an engine
yields, in a seeded order of its own, so that nothing downstream can lean on the order in which asks were put.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from gate.endpoints.templates import render_case
from gate.records import Ask, AttackCase, EngineInfo, NoResponse, Response, sha256_hex

Answer = Callable[[AttackCase, int], str | NoResponse]
"""(case, sample) → the answer's text, or why none comes (`no_answer` makes it). May raise what an engine may raise."""


class Scripted:
    """Answers every ask with what `answer` says. Tokens are white-space words; a text beyond the limit is cut."""

    def __init__(self, answer: Answer, *, seed: int = 0) -> None:
        self._answer = answer
        self._seed = seed

    @property
    def info(self) -> EngineInfo:
        """`scripted`, version 1, without dtype and device."""
        return EngineInfo(name="scripted", version="1", dtype="none", device="none")

    def render(self, case: AttackCase) -> str:
        """The case under its calibration, in ChatML where the calibration is native."""
        return render_case(case, _chatml, bos="")

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """Answer every ask exactly once, in a shuffled order that depends on the seed and the asks' keys alone."""
        order = sorted(asks, key=lambda ask: ask.key)
        random.Random(self._seed).shuffle(order)
        for ask in order:
            yield self._reply(ask)

    def close(self) -> None:
        """Nothing to free."""

    def _reply(self, ask: Ask) -> Response | NoResponse:
        answer = self._answer(ask.case, ask.sample)
        if isinstance(answer, NoResponse):
            return answer.model_copy(update={"case_id": ask.case.id, "sample": ask.sample, "key": ask.key})
        words = answer.split()
        limit = ask.decoding.max_new_tokens
        return Response(
            case_id=ask.case.id,
            sample=ask.sample,
            key=ask.key,
            text=answer if len(words) <= limit else " ".join(words[:limit]),
            finish_reason="stop" if len(words) <= limit else "length",
            prompt_tokens=len(ask.prompt.split()),
            completion_tokens=min(len(words), limit),
        )


def no_answer(kind: Literal["timeout", "error", "unreachable", "unsupported"], reason: str) -> NoResponse:
    """A failure for `Answer` to return; `Scripted` fills in whose it is."""
    return NoResponse(case_id="", sample=0, key="", kind=kind, reason=reason)


def uniform(seed: int, *parts: str | int) -> float:
    """A number in [0, 1) that depends on the seed and the parts alone: what a script with a true rate draws from."""
    digest = sha256_hex("\x1f".join([str(seed), *map(str, parts)]).encode())
    return int(digest[:13], 16) / 16**13


def _chatml(turns: Sequence[Mapping[str, str]]) -> str:
    """ChatML with the generation prompt."""
    return "".join(f"<|im_start|>{t['role']}\n{t['content']}<|im_end|>\n" for t in turns) + "<|im_start|>assistant\n"
