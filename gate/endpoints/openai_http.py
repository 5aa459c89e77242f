"""Answers asks by a server that speaks OpenAI's API: vLLM, SGLang, TGI, llama.cpp, a hosted one. The template is the server's.

In: a candidate of kind `endpoint` (see `gate.served`), asks. Out: a response per ask as it comes, or why none came. Requests run
in an event loop of a background thread, bounded by a window that yields to 429 and 503; only what may pass is tried again.

A reason says at most what the server said, cut to one line, and never holds the API key.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Final

from gate.endpoints import http_wire
from gate.endpoints.http_asker import Asked, Asker
from gate.endpoints.http_request import Patience
from gate.endpoints.http_server import Identity, api_key, ask_identity, parse_address
from gate.endpoints.http_thread import LoopThread
from gate.errors import CandidateError, InfrastructureError, UnsafeCandidateError
from gate.records import Ask, AttackCase, Candidate, EngineInfo, NoResponse, Response

IN_FLIGHT: Final = 32
"""Most requests in flight where the user does not say."""
UNREACHABLE_IN_A_ROW: Final = 8
"""Asks in a row, each tried again and again, after which the server counts as gone."""
OTHERS_IN_A_ROW: Final = 20
"""Answers in a row by another model, after which nothing more is asked."""
Place = tuple[str, int]
Answer = Response | NoResponse


class OpenAiHttp:
    """A served model. See `gate.endpoints.base.Continuous`."""

    def __init__(self, candidate: Candidate, *, in_flight: int = 0, patience: Patience | None = None) -> None:
        """Ask the server what it serves. Raises `UnsafeCandidateError` where that is not the candidate any longer."""
        self._candidate = candidate
        self._address = parse_address(candidate.source)
        self._in_flight = in_flight or IN_FLIGHT
        self._patience = patience or Patience()
        self._identity = self._ask_unchanged()
        self._queue: HttpQueue | None = None

    @property
    def info(self) -> EngineInfo:
        """`openai_http`; the server's word on its software; the host. Its dtype is the server's own."""
        return EngineInfo(name="openai_http", version=self._identity.software, dtype="served", device=self._address.host)

    def render(self, case: AttackCase) -> str:
        """Canonical JSON of the messages for the native calibrations, text for alpaca and raw (without special tokens)."""
        return http_wire.render(case)

    def generate(self, asks: Sequence[Ask]) -> Iterator[Answer]:
        """Answer every ask exactly once, as answers come."""
        waiting = list(asks)
        line = self.queue()
        try:
            while True:
                room = line.room()
                line.put(waiting[:room])
                del waiting[:room]
                came = line.take()
                if not came and not waiting:
                    return
                yield from came
        finally:
            line.close()

    def queue(self) -> HttpQueue:
        """A new, empty queue; one before it is closed."""
        self.close()
        self._queue = HttpQueue(self._identity, api_key(), self._in_flight, self._patience)
        return self._queue

    def verify_unchanged(self) -> None:
        """Ask again what is served, at the end of a run. Raises `UnsafeCandidateError` where it is not what it was."""
        now = self._ask_unchanged()
        if now.software != self._identity.software:
            raise UnsafeCandidateError(
                f"the software that serves {self._identity.model} was changed while it was asked",
                expected=self._identity.software,
                found=now.software,
                mend="choose another --out: this run folder holds answers of the software before, and goes on with it alone",
            )

    def close(self) -> None:
        """Forget what is in flight and end the thread."""
        if self._queue is not None:
            self._queue.close()

    def _ask_unchanged(self) -> Identity:
        """What the server states now. Raises `UnsafeCandidateError` where it is not the candidate's digest."""
        now = ask_identity(self._address, self._candidate.path)
        if now.digest != self._candidate.digest:
            raise UnsafeCandidateError(
                f"{self._candidate.path} at {self._address.url} is not the model that it was when the run began",
                expected=f"identity {self._candidate.digest[:16]}",
                found=f"identity {now.digest[:16]}: {now.sentence()}",
                mend="find out who changed the server; to judge what is served now, run the command again with another --out",
            )
        return now


class HttpQueue:
    """Requests in flight. See `gate.endpoints.base.Queue`.

    Asks that the server could not be reached for are held back until it answers another one: after eight in a row the run ends as
    unreachable with none of the eight stored as failed. There is always room for eight, however small the window.
    """

    def __init__(self, identity: Identity, key: str, in_flight: int, patience: Patience) -> None:
        self._identity = identity
        self._patience = patience
        self._flying: dict[int, Place] = {}
        self._serial = 0
        self._held: dict[int, NoResponse] = {}
        self._unreachable = 0
        self._others = 0
        self._any_right = False
        self._error: Exception | None = None
        self._thread: LoopThread[Asker, Ask, Asked] = LoopThread(
            lambda: Asker.open(identity, key, in_flight, patience), lambda asker, ask: asker.ask(ask)
        )

    def room(self) -> int:
        """Twice the window less what is in flight: a second window waits here, so that the server does not."""
        most = max(2 * self._thread.worker.window.size, UNREACHABLE_IN_A_ROW)
        return max(most - len(self._flying), 0)

    def put(self, asks: Sequence[Ask]) -> None:
        """Take in asks; beyond the window they wait their turn."""
        for ask in asks:
            self._serial += 1
            self._flying[self._serial] = (ask.case.id, ask.sample)
            self._thread.put(self._serial, ask)

    def drop(self, places: Collection[Place]) -> None:
        """Cancel the requests of these places; their answers are not given out any more."""
        wanted = set(places)
        dropped = [serial for serial, place in self._flying.items() if place in wanted]
        for serial in dropped:
            self._forget(serial)
        self._thread.cancel(dropped)

    def take(self) -> list[Answer]:
        """Wait for answers. What came before an error comes first.

        Raises `InfrastructureError` when the server is gone or refuses the key, `UnsafeCandidateError` or `CandidateError` when
        nothing but another model answers.
        """
        out: list[Answer] = []
        while not out and self._error is None:
            if len(self._flying) == len(self._held):  # nobody had another ask
                self._unreachable = 0  # these are given out: no later error says of them that they were not
                return self._release()
            for serial, asked in self._thread.take():
                out += self._sort_in(serial, asked)
        if self._error is not None and not out:
            raise self._error
        return out

    def close(self) -> None:
        """Cancel everything and end the thread."""
        self._flying.clear()
        self._held.clear()
        self._thread.close()

    def _sort_in(self, serial: int, asked: Asked | Exception) -> list[Answer]:
        """What may be given out now that this came: the answer, and what was held back until one came."""
        if isinstance(asked, Exception):
            self._error = self._error or asked
            return []
        if serial not in self._flying:
            return []
        answer = asked.answer
        self._count_others(asked)
        if isinstance(answer, NoResponse) and answer.kind == "unreachable":
            self._held[serial] = answer
            self._unreachable += 1
            if self._unreachable >= UNREACHABLE_IN_A_ROW:
                self._error = self._error or self._gone(answer)
            return []
        self._unreachable = 0
        self._forget(serial)
        return [*self._release(), answer]

    def _release(self) -> list[Answer]:
        """Give out what was held back."""
        held = list(self._held.items())
        for serial, _ in held:
            self._forget(serial)
        return [answer for _, answer in held]

    def _forget(self, serial: int) -> None:
        self._flying.pop(serial, None)
        self._held.pop(serial, None)

    def _count_others(self, asked: Asked) -> None:
        """Give up once nothing but another model answers: the name is an alias, or the model was swapped."""
        self._any_right |= isinstance(asked.answer, Response)
        self._others = self._others + 1 if asked.other else 0
        if self._others >= OTHERS_IN_A_ROW:
            kind = UnsafeCandidateError if self._any_right else CandidateError
            self._error = self._error or kind(
                f"{self._identity.url} answers with another model than the one asked, {self._others} times in a row",
                expected=f"answers of {self._identity.model}",
                found=f"answers of {asked.other[:80]!a}",
                mend="find out who changed the server" if self._any_right else "give the model's exact name as --model",
            )

    def _gone(self, last: NoResponse) -> InfrastructureError:
        return InfrastructureError(
            f"{self._identity.url} can't be reached: {self._unreachable} asks in a row failed",
            found=last.reason,
            mend="bring the server back, or ask it for less (--in-flight); the same command resumes",
        )
