"""What an engine has been asked and has not answered yet. Two asks with one key have one answer, and are asked once.

In: asks in the order in which they are to be made, and answers as they come. Out: which ask to put next, which answers to keep.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from gate.records import Ask, NoResponse, Response

Reply = Response | NoResponse
Place = tuple[str, int]
"""Case id and sample number."""


class Flight:
    """The asks that an engine has, and those that wait for the answer to the same question."""

    def __init__(self, turns: Iterator[Ask]) -> None:
        self.asks: dict[Place, Ask] = {}
        self._followers: dict[str, list[Ask]] = {}
        """Key in flight → asks of other cells that it will answer too."""
        self._following = 0
        self._again: deque[Ask] = deque()
        self._turns = turns

    def __len__(self) -> int:
        """Replys to come."""
        return len(self.asks) + self._following

    def next(self) -> Ask | None:
        """The next ask to make."""
        return self._again.popleft() if self._again else next(self._turns, None)

    def add(self, ask: Ask) -> bool:
        """Take in an ask; whether it is to be put: not where its key is in flight already."""
        if ask.key in self._followers:
            self._followers[ask.key].append(ask)
            self._following += 1
            return False
        self.asks[ask.case.id, ask.sample] = ask
        self._followers[ask.key] = []
        return True

    def land(self, answer: Reply) -> list[Reply]:
        """The answer and its copies; nothing where it was not asked. After a failure the next ask with its key is made."""
        ask = self.asks.get((answer.case_id, answer.sample))
        if ask is None or ask.key != answer.key:
            return []
        del self.asks[answer.case_id, answer.sample]
        followers = self._followers.pop(ask.key)
        self._following -= len(followers)
        if isinstance(answer, Response):
            return [answer, *(copied(answer, follower) for follower in followers)]
        self._again.extend(followers)
        return [answer]

    def drop(self, unwanted: Callable[[Ask], bool]) -> list[Place]:
        """Leave out asks that nobody wants any longer; returns those that the engine has."""
        self._again = deque(ask for ask in self._again if not unwanted(ask))
        for key, followers in self._followers.items():
            self._followers[key] = [ask for ask in followers if not unwanted(ask)]
        self._following = sum(map(len, self._followers.values()))
        gone = [place for place, ask in self.asks.items() if unwanted(ask) and not self._followers[ask.key]]
        for place in gone:
            del self._followers[self.asks.pop(place).key]
        return gone


def copied(answer: Reply, ask: Ask) -> Reply:
    """The answer at the place of an ask with the same key."""
    return answer.model_copy(update={"case_id": ask.case.id, "sample": ask.sample})
