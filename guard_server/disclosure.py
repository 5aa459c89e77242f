"""What an answer's headers say on every screening route, whatever its contract leaves out of the body.

In: a request's answers, and how many parts hold no text. Out: the headers

    x-guard-decision: allow | flag | block   the worst; left out in a batch of which an item is in error and none is blocked
    x-guard-failure: KIND                    something was not screened and its policy fails open; the first kind
    x-guard-unread: N                        decodings and parts left unread; left out where there are none

A stream's head leaves before anything is decided: there the events say it.
"""

from collections.abc import Sequence
from typing import Final

from starlette.responses import Response

from guard_server.errors import GuardError
from guard_server.labels import Decision
from guard_server.service import Answer

DECISION: Final = "x-guard-decision"
FAILURE: Final = "x-guard-failure"
UNREAD: Final = "x-guard-unread"


def disclose(response: Response, answers: Sequence[Answer | GuardError], unread_parts: int = 0) -> None:
    """Set the headers; no answers at all: there was nothing that could be read."""
    given = [a for a in answers if isinstance(a, Answer)]
    worst = max((a.decision for a in given), key=list(Decision).index, default=Decision.ALLOW)
    if len(given) == len(answers) or worst is Decision.BLOCK:
        response.headers[DECISION] = worst.value
    outcomes = [outcome for answer in given for outcome in answer.outcomes]
    failures = [o.failure.partition(":")[0] for o in outcomes if o.failure is not None]
    if failures:
        response.headers[FAILURE] = failures[0]
    unread = unread_parts + sum(len(o.screened.skipped) for o in outcomes if o.screened is not None)
    if unread:
        response.headers[UNREAD] = str(unread)
