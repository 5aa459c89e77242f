"""The queue in front of a model: its bound, its fairness, its book-keeping."""

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guard_server.fair_queue import FairQueue, Request
from guard_server.records import Encoded


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def _request(loop: asyncio.AbstractEventLoop, lengths: list[int], at: float = 0.0, deadline: float = 1e9) -> Request:
    return Request([Encoded((1,) * n, (0,) * n) for n in lengths], at, deadline, loop, loop.create_future())


REQUESTS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=6), min_size=1, max_size=8)


@given(requests=REQUESTS, moves=st.lists(st.tuples(st.sampled_from(["take", "drop", "push"]), st.integers(0, 7)), max_size=60))
def test_the_counts_are_those_of_what_waits(
    loop: asyncio.AbstractEventLoop, requests: list[list[int]], moves: list[tuple[str, int]]
) -> None:
    """After any moves, tokens and segments are exactly those pushed, not taken and not dropped; nothing is handed out twice."""
    queue = FairQueue(10**6)
    made = [_request(loop, lengths) for lengths in requests]
    waiting: dict[tuple[int, int], int] = {}
    unpushed = set(range(len(made)))
    for move, which in moves:
        which %= len(made)
        if move == "push" and which in unpushed:
            unpushed.remove(which)
            queue.push(made[which])
            waiting |= {(which, i): n for i, n in enumerate(requests[which])}
        elif move == "drop":
            gone = [key for key in waiting if key[0] == which]
            assert queue.drop(made[which]) == len(gone)
            waiting = {key: n for key, n in waiting.items() if key not in gone}
        elif move == "take":
            ticket = queue.take(0.0, [])
            assert (ticket is None) == (not waiting)
            if ticket is not None:
                waiting.pop((made.index(ticket.request), ticket.place))
        assert (queue.segments, queue.tokens) == (len(waiting), sum(waiting.values()))


@given(
    requests=REQUESTS,
    taken=st.integers(0, 30),
    dropped=st.sets(st.integers(0, 7)),
    same=st.integers(0, 3),
    segments=st.integers(1, 8),
)
def test_what_comes_before_a_request_is_known_without_adding_up_the_queue(
    loop: asyncio.AbstractEventLoop, requests: list[list[int]], taken: int, dropped: set[int], same: int, segments: int
) -> None:
    """It is what the others have in as many turns as the request, to one segment of each; those of its own call don't count."""
    queue = FairQueue(10**6)
    made = [_request(loop, lengths, deadline=1.0) for lengths in requests]
    own = made[len(made) - same :] if same else []
    for request in own:
        request.deadline = 2.0
    for i, request in enumerate(made):
        queue.push(request)
        if i < taken:
            queue.take(0.0, [])
    for _ in range(taken):
        queue.take(0.0, [])
    for i in dropped & set(range(len(made))):
        queue.drop(made[i])
    new = _request(loop, [1] * segments, deadline=2.0)
    found = queue.tokens_before(new)
    queue.push(new)
    least = most = 0
    for i, request in enumerate(made):
        if request not in own and i not in dropped:
            waiting = [len(s) for s in request.segments[request.begun :]]
            least, most = least + sum(waiting[:segments]), most + sum(waiting[: segments + 1])
    assert least <= found <= most
    if not taken:
        assert found == least


@given(requests=REQUESTS)
def test_requests_take_turns(loop: asyncio.AbstractEventLoop, requests: list[list[int]]) -> None:
    """No request gets its next segment before every other that waits has got one; each gets its own in order."""
    queue = FairQueue(10**6)
    made = [_request(loop, lengths) for lengths in requests]
    for request in made:
        queue.push(request)
    order = [(made.index(t.request), t.place) for t in iter(lambda: queue.take(0.0, []), None)]
    assert order == sorted(order, key=lambda item: (item[1], item[0]))


def test_what_is_past_its_deadline_is_handed_over_unbegun(loop: asyncio.AbstractEventLoop) -> None:
    """An expired request is passed over, reported once, and its tokens are free."""
    queue = FairQueue(100)
    late, timely = _request(loop, [5, 5], deadline=1.0), _request(loop, [7], deadline=9.0)
    queue.push(late)
    queue.push(timely)
    expired: list[Request] = []
    ticket = queue.take(1.0, expired)
    assert ticket is not None
    assert ticket.request is timely
    assert expired == [late]
    assert (queue.segments, queue.tokens, late.begun) == (0, 0, 0)


@given(steps=st.lists(st.tuples(st.floats(0, 10), st.booleans()), min_size=1, max_size=20))
def test_waiting_and_running_add_up_to_all_the_time(loop: asyncio.AbstractEventLoop, steps: list[tuple[float, bool]]) -> None:
    """However the runs of a request's segments overlap, queued + inference is the time from its coming to its last run's end."""
    request = _request(loop, [1] * 20, at=5.0)
    now, running = 5.0, 0.0
    for seconds, start in steps:
        running += seconds if request.running else 0
        now += seconds
        if start:
            request.start(now)
        elif request.running:
            request.stop(now)
    while request.running:
        request.stop(now)
    timing = request.timing()
    assert timing.inference == pytest.approx(running)
    assert timing.queued + timing.inference <= now - 5.0 + 1e-9
