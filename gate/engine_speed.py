"""How fast an engine is on a plan's prompts: opens it, asks it a few of them, closes it; a `Measured` comes out.

The prompts are taken from the committed orders, spread over the cells by what each may take, and are asked the way a check asks.
The clock comes in as a function.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gate.attack import answer_key
from gate.cells import Cell
from gate.endpoints.base import Continuous, Endpoint
from gate.endpoints.batches import Batches
from gate.errors import InfrastructureError, UsageError
from gate.records import Ask, EngineInfo, NoResponse, Record, Response

Clock = Callable[[], float]
RENDERED = 40
"""Prompts rendered per cell for its mean length: the first of the committed order, which is random."""


class Measured(Record):
    """A short calibration of an engine on prompts of the plan."""

    engine: EngineInfo
    batched: bool
    """Whether it answers batch by batch; else it batches by itself."""
    asked: int
    answered: int
    load_seconds: float
    """From the call that opens the engine until it had answered one prompt. Apart from `seconds`."""
    seconds: float
    """For the `asked` prompts, put to the engine together."""
    prompts_per_second: float
    prompt_tokens_per_second: float
    new_tokens_per_second: float
    tokens_per_character: float
    """Prompt tokens by characters of the rendered prompt."""
    share_of_new_tokens: float
    """Mean length of an answer as a share of the most it may have."""
    mean_max_new_tokens: float


def prompt_lengths(cells: Sequence[Cell], render: Callable[[Cell, int], str]) -> dict[str, float]:
    """Cell id → mean characters of its prompts, over the first `RENDERED`; `render` is given a cell and a place in its order."""
    return {
        cell.id: sum(len(render(cell, place)) for place in range(min(RENDERED, len(cell.cases)))) / min(RENDERED, len(cell.cases))
        for cell in cells
        if cell.cases
    }


def sample_cases(cells: Sequence[Cell], count: int) -> list[tuple[Cell, int]]:
    """At most `count` (cell, place in its order), spread over the cells by the generations they may take; the same every time."""
    weights = [len(cell.cases) * cell.decoding.samples for cell in cells]
    total, taken = sum(weights), dict.fromkeys(range(len(cells)), 0)
    found: list[tuple[Cell, int]] = []
    ends = np.cumsum(weights)
    drawn = min(count, sum(len(cell.cases) for cell in cells))
    for n in range(drawn):
        index = int(np.searchsorted(ends, (n + 0.5) / drawn * total, side="right"))
        if taken[index] < len(cells[index].cases):
            found.append((cells[index], taken[index]))
            taken[index] += 1
    return found


def measure(
    open_endpoint: Callable[[], Endpoint],
    cells: Sequence[Cell],
    count: int,
    *,
    batch_size: int = 64,
    clock: Clock = time.perf_counter,
) -> tuple[Measured, dict[str, float]]:
    """Open the engine, ask it about `count` prompts of the plan, close it: what it measured, and `prompt_lengths`.

    One prompt is asked before, within the loading time, since the first one pays for what engines build on first use. Raises
    `InfrastructureError` where no prompt is answered: there is nothing to estimate from.
    """
    began = clock()
    endpoint = open_endpoint()
    try:

        def ask_for(cell: Cell, place: int) -> Ask:
            prompt = endpoint.render(cell.cases[place])
            key = answer_key("plan", endpoint, prompt, cell, 0)
            return Ask(case=cell.cases[place], sample=0, prompt=prompt, key=key, decoding=cell.decoding)

        chosen = sample_cases(cells, count)
        if not chosen:
            raise UsageError("there is nothing to ask", expected="items in the policy's split of the suite", found="none")
        asks = [ask_for(cell, place) for cell, place in chosen]
        first, *_ = chosen
        list(_answer(endpoint, [ask_for(first[0], len(first[0].cases) - 1)], 1))
        loaded = clock()
        answers = list(_answer(endpoint, asks, batch_size))
        ended = clock()
        lengths = prompt_lengths(cells, lambda cell, place: endpoint.render(cell.cases[place]))
        batched = not isinstance(endpoint, Continuous)
        return _measured(endpoint.info, batched, asks, answers, loaded - began, ended - loaded), lengths
    finally:
        endpoint.close()


def _answer(endpoint: Endpoint, asks: Sequence[Ask], batch_size: int) -> Iterator[Response | NoResponse]:
    """Every answer, the way a check gets them: out of the engine's queue, or batch by batch from behind one."""
    queue = endpoint.queue() if isinstance(endpoint, Continuous) else Batches(endpoint, batch_size)
    waiting, in_flight = list(asks), 0
    try:
        while waiting or in_flight:
            room = min(queue.room() if in_flight else max(1, queue.room()), len(waiting))
            if room > 0:
                queue.put(waiting[:room])
                waiting, in_flight = waiting[room:], in_flight + room
            came = queue.take()
            in_flight -= len(came)
            yield from came
            if not came:
                raise InfrastructureError("the engine lost prompts of the calibration", mend="run the command again")
    finally:
        queue.close()


def _measured(
    info: EngineInfo,
    batched: bool,
    asks: Sequence[Ask],
    answers: Sequence[Response | NoResponse],
    load: float,
    seconds: float,
) -> Measured:
    good = [answer for answer in answers if isinstance(answer, Response)]
    if not good:
        reasons = [answer.reason for answer in answers if isinstance(answer, NoResponse)]
        raise InfrastructureError(
            "the engine answered none of the calibration's prompts",
            expected="answers to estimate from",
            found=reasons[0] if reasons else "no answer",
            mend="mend the engine, or plan without one: --calibrate 0",
        )
    by_case = {ask.case.id: ask for ask in asks}
    lasted = max(seconds, 1e-9)
    prompt_tokens = sum(answer.prompt_tokens for answer in good)
    new_tokens = sum(answer.completion_tokens for answer in good)
    return Measured(
        engine=info,
        batched=batched,
        asked=len(asks),
        answered=len(good),
        load_seconds=load,
        seconds=seconds,
        prompts_per_second=len(asks) / lasted,
        prompt_tokens_per_second=prompt_tokens / lasted,
        new_tokens_per_second=new_tokens / lasted,
        tokens_per_character=prompt_tokens / max(1, sum(len(by_case[answer.case_id].prompt) for answer in good)),
        share_of_new_tokens=new_tokens / sum(by_case[answer.case_id].decoding.max_new_tokens for answer in good),
        mean_max_new_tokens=sum(ask.decoding.max_new_tokens for ask in asks) / len(asks),
    )
