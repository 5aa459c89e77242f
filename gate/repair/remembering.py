"""An endpoint whose answers are kept from one check to the next: the unrepaired candidate, which every try is compared with.

In: a function that opens it. Out: an endpoint that loads the weights when something is asked that it has not answered yet, and
frees them when it is closed. An answer depends on its key alone, so what was answered once needs no second generation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from gate.endpoints.base import Endpoint
from gate.records import Ask, AttackCase, EngineInfo, NoResponse, Response


class Remembering:
    """Answers of one candidate, over all its openings. See `gate.endpoints.base.Endpoint`."""

    def __init__(self, open_: Callable[[], Endpoint]) -> None:
        self._open = open_
        self._inner: Endpoint | None = None
        self._info: EngineInfo | None = None
        self._prompts: dict[str, str] = {}
        self._answers: dict[str, Response] = {}

    @property
    def info(self) -> EngineInfo:
        """The engine's own, as it was when it was loaded first."""
        if self._info is None:
            self._info = self._loaded().info
        return self._info

    def render(self, case: AttackCase) -> str:
        """The engine's own; a case's text is kept, so that nothing is loaded for what is known."""
        if case.id not in self._prompts:
            self._prompts[case.id] = self._loaded().render(case)
        return self._prompts[case.id]

    def generate(self, asks: Sequence[Ask]) -> Iterator[Response | NoResponse]:
        """What is known first, then what has to be generated. A failure is not kept."""
        missing = [ask for ask in asks if ask.key not in self._answers]
        for ask in asks:
            if (known := self._answers.get(ask.key)) is not None:
                yield known.model_copy(update={"case_id": ask.case.id, "sample": ask.sample})
        for answer in self._loaded().generate(missing) if missing else ():
            if isinstance(answer, Response):
                self._answers[answer.key] = answer
            yield answer

    def close(self) -> None:
        """Free the weights; the answers stay."""
        if self._inner is not None:
            self._inner.close()
            self._inner = None

    def _loaded(self) -> Endpoint:
        if self._inner is None:
            self._inner = self._open()
        return self._inner
