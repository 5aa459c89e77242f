"""A scripted engine that batches by itself: answers come in a seeded random order, a few at a time, some late after a drop."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from gate.endpoints.scripted import Answer, Scripted
from gate.errors import InfrastructureError
from gate.records import Ask, NoResponse, Response

Reply = Response | NoResponse
Place = tuple[str, int]


@dataclass
class Seen:
    """What reached the engine, and what it saw at most."""

    put: list[Ask] = field(default_factory=list)
    dropped: list[Place] = field(default_factory=list)
    taken: list[Place] = field(default_factory=list)
    late: list[Place] = field(default_factory=list)
    """Answers that came although they had been dropped."""
    most: int = 0
    closed: int = 0


class Streaming(Scripted):
    """A `Continuous` endpoint. `dies_after` answers comes its `death`; every `forgets`-th ask is lost without a word."""

    def __init__(
        self,
        answer: Answer,
        *,
        in_flight: int = 8,
        seed: int = 0,
        dies_after: int = -1,
        death: BaseException | None = None,
        forgets: int = 0,
    ) -> None:
        super().__init__(answer)
        self.seen = Seen()
        self.in_flight = in_flight
        self.dies_after = dies_after
        self.death = death or InfrastructureError("the machine has failed")
        self.forgets = forgets
        self.draw = random.Random(seed)

    def queue(self) -> StreamingQueue:
        """A new, empty queue."""
        return StreamingQueue(self)


class StreamingQueue:
    """Holds asks and gives their answers back in a random order."""

    def __init__(self, endpoint: Streaming) -> None:
        self._endpoint = endpoint
        self._asks: dict[Place, Ask] = {}
        self._late: list[Ask] = []
        self._put = 0

    def room(self) -> int:
        """Free places."""
        return max(0, self._endpoint.in_flight - len(self._asks))

    def put(self, asks: Sequence[Ask]) -> None:
        """Take in asks, some of which are forgotten."""
        seen = self._endpoint.seen
        seen.put += asks
        for ask in asks:
            self._put += 1
            if not self._endpoint.forgets or self._put % self._endpoint.forgets:
                self._asks[ask.case.id, ask.sample] = ask
        seen.most = max(seen.most, len(self._asks))

    def drop(self, places: Collection[Place]) -> None:
        """Forget asks; one in three has its answer already, which comes late."""
        for place in places:
            ask = self._asks.pop(place, None)
            self._endpoint.seen.dropped.append(place)
            if ask is not None and self._endpoint.draw.random() < 1 / 3:
                self._late.append(ask)

    def take(self) -> Sequence[Reply]:
        """Between one answer and three, and what comes late."""
        endpoint, seen = self._endpoint, self._endpoint.seen
        if 0 <= endpoint.dies_after <= len(seen.taken):
            raise endpoint.death
        waiting = sorted(self._asks)
        chosen = endpoint.draw.sample(waiting, min(len(waiting), endpoint.draw.randint(1, 3)))
        late, self._late = self._late, []
        asks = [*late, *(self._asks.pop(place) for place in chosen)]
        seen.late += [(ask.case.id, ask.sample) for ask in late]
        seen.taken += chosen
        return list(endpoint.generate(asks))

    def close(self) -> None:
        """Forget everything."""
        self._asks.clear()
        self._endpoint.seen.closed += 1
