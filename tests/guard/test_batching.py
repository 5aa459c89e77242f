"""The engines: same scores under any load, a bounded queue, nothing scored for nobody, nobody left waiting."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard_server.batching import BatchRule, DropReason, MicroBatcher, Model, QueueObserver, SessionPool
from guard_server.bundle import load_bundle
from guard_server.classifier import OnnxModel, OnnxTokenizer
from guard_server.errors import (
    DeadlineExceededError,
    GuardError,
    InferenceFailedError,
    NotReadyError,
    OverloadedError,
    TooLargeError,
)
from guard_server.labels import CATEGORIES, TASKS
from guard_server.records import Encoded, Engine, Scores
from tests.guard.tiny_bundle import NOT_A_NUMBER, write_tiny_bundle

BROKEN = 13
"""The token for which `Scripted` fails."""


@dataclass
class Scripted:
    """A model whose harm score is the first token's id / 1000, that waits at a gate and remembers what it was given."""

    gate: threading.Event = field(default_factory=threading.Event)
    seen: list[list[int]] = field(default_factory=list)
    entered: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    failure: Exception = field(default_factory=lambda: InferenceFailedError("not a number"))

    def score_one(self, encoded: Encoded) -> Scores:
        """As the batch of one."""
        return self.score_padded([encoded])[0]

    def score_padded(self, batch: Sequence[Encoded]) -> list[Scores]:
        """Scores, or the failure where the broken token is in it."""
        self.seen.append([e.ids[0] for e in batch])
        self.entered.release()
        assert self.gate.wait(10)
        if any(e.ids[0] == BROKEN for e in batch):
            raise self.failure
        zeros = dict.fromkeys(TASKS, 0.0)
        return [Scores(zeros, zeros, dict.fromkeys(CATEGORIES, 0.0), e.ids[0] / 1000, 0.0) for e in batch]

    async def begun(self) -> None:
        """Until it has been entered once more."""
        assert await asyncio.to_thread(self.entered.acquire, timeout=10)


@dataclass
class Recorder:
    """An observer that keeps what it is told."""

    dropped: list[tuple[int, DropReason]] = field(default_factory=list)
    scored: list[tuple[int, int, float, float]] = field(default_factory=list)
    depth: tuple[int, int] = (0, 0)

    def on_queue(self, model: str, segments: int, tokens: int) -> None:
        """Keep the newest."""
        self.depth = (segments, tokens)

    def on_dropped(self, model: str, segments: int, reason: DropReason) -> None:
        """Keep it."""
        self.dropped.append((segments, reason))

    def on_scored(self, model: str, segments: int, tokens: int, queued: float, inference: float) -> None:
        """Keep it."""
        self.scored.append((segments, tokens, queued, inference))


def _segment(first: int, tokens: int = 4) -> Encoded:
    return Encoded((first,) + (0,) * (tokens - 1), (0,) * tokens)


def _soon(seconds: float = 20.0) -> float:
    return asyncio.get_running_loop().time() + seconds


@asynccontextmanager
async def _pool(
    *models: Model, max_queue_tokens: int = 1000, observer: QueueObserver | None = None
) -> AsyncIterator[SessionPool]:
    pool = SessionPool(models, name="test", max_queue_tokens=max_queue_tokens, observer=observer)
    try:
        yield pool
    finally:
        for model in models:
            if isinstance(model, Scripted):
                model.gate.set()
        await pool.close()


async def _harm(engine: Engine, *segments: Encoded, deadline: float | None = None) -> list[float]:
    scores, _ = await engine.score(segments, deadline=_soon() if deadline is None else deadline)
    return [s.response_harm for s in scores]


async def _until_waiting(pool: Recorder, segments: int) -> None:
    """Until so many segments wait (the tasks that queue them have run)."""
    for _ in range(1000):
        if pool.depth[0] == segments:
            return
        await asyncio.sleep(0.001)
    pytest.fail(f"{pool.depth[0]} segments wait, not {segments}")


@pytest.mark.parametrize("shared", [True, False])
def test_int8_scores_are_bit_equal_with_fifty_others_in_flight(tmp_path: Path, shared: bool) -> None:
    """Over threads that share a session or have one each, a text's scores are those it has alone, to the bit."""
    folder = write_tiny_bundle(tmp_path / "b", precision="int8")
    bundle = load_bundle(folder, public_key=None, require_signed=False)
    tokenizer, first = OnnxTokenizer(bundle), OnnxModel(bundle)
    texts = [tokenizer.encode("kill " * (i % 7) + "please help " * (i % 40 + 1)) for i in range(51)]
    alone = [first.score_one(t) for t in texts]

    async def together() -> list[Scores]:
        async with _pool(first, first if shared else OnnxModel(bundle), max_queue_tokens=10**6) as pool:
            answers = await asyncio.gather(*(pool.score([t], deadline=_soon()) for t in texts * 4))
        return [scores[0] for scores, _ in answers]

    assert asyncio.run(together()) == alone * 4


def test_scores_come_in_the_order_asked() -> None:
    """Whichever thread is first, place i of the answer is segment i's."""

    async def run() -> list[float]:
        models = [Scripted() for _ in range(3)]
        for model in models:
            model.gate.set()
        async with _pool(*models) as pool:
            return await _harm(pool, *(_segment(100 + i) for i in range(40)))

    assert asyncio.run(run()) == [(100 + i) / 1000 for i in range(40)]


def test_an_empty_batch_has_no_scores() -> None:
    """A text without segments costs nothing and is no error."""

    async def run() -> list[float]:
        async with _pool(Scripted()) as pool:
            return await _harm(pool)

    assert asyncio.run(run()) == []


def test_what_does_not_fit_is_refused_at_once_and_fits_later() -> None:
    """At the bound: `OverloadedError` with a time to retry after; when the queue has drained the same request is served."""

    async def run() -> None:
        model, seen = Scripted(), Recorder()
        async with _pool(model, max_queue_tokens=8, observer=seen) as pool:
            running = asyncio.create_task(_harm(pool, _segment(1)))
            await model.begun()
            waiting = asyncio.create_task(_harm(pool, _segment(2), _segment(3)))
            await _until_waiting(seen, 2)
            with pytest.raises(OverloadedError) as refused:
                await _harm(pool, _segment(4, tokens=1))
            assert refused.value.retry_after is not None
            assert refused.value.retry_after > 0
            model.gate.set()
            assert (await running, await waiting) == ([0.001], [0.002, 0.003])
            assert await _harm(pool, _segment(4, tokens=1)) == [0.004]

    asyncio.run(run())


def test_what_could_never_fit_is_too_large() -> None:
    """Telling the caller to retry would be a lie."""

    async def run() -> None:
        async with _pool(Scripted(), max_queue_tokens=8) as pool:
            with pytest.raises(TooLargeError):
                await _harm(pool, _segment(1, tokens=9))

    asyncio.run(run())


def test_a_passed_deadline_is_an_error_and_the_work_is_dropped() -> None:
    """The caller hears at the deadline though the model is busy; the model never sees the segments; they are counted once."""

    async def run() -> None:
        model, seen = Scripted(), Recorder()
        async with _pool(model, observer=seen) as pool:
            running = asyncio.create_task(_harm(pool, _segment(1)))
            await model.begun()
            with pytest.raises(DeadlineExceededError):
                await _harm(pool, _segment(2), _segment(3), deadline=_soon(0.02))
            assert seen.depth == (0, 0)
            model.gate.set()
            assert await running == [0.001]
        assert (model.seen, seen.dropped) == ([[1]], [(2, "deadline")])

    asyncio.run(run())


def test_a_request_that_expired_in_the_queue_is_dropped_at_dequeue() -> None:
    """Even where the event loop has not yet noticed (its own clock stands still): by the engine's clock."""

    async def run() -> None:
        model, seen, clock = Scripted(), Recorder(), [100.0]
        pool = SessionPool([model], name="test", max_queue_tokens=99, observer=seen, clock=lambda: clock[0])
        running = asyncio.create_task(_harm(pool, _segment(1)))
        await model.begun()
        waiting = asyncio.create_task(_harm(pool, _segment(2)))
        await _until_waiting(seen, 1)
        clock[0] += 1000
        model.gate.set()
        with pytest.raises(DeadlineExceededError):
            await waiting
        assert await running == [0.001]
        await pool.close()
        assert (model.seen, seen.dropped) == ([[1]], [(1, "deadline")])

    asyncio.run(run())


def test_a_passed_deadline_says_how_far_the_text_came() -> None:
    """A text of which one segment of three was scored before the deadline is told so, and what would help."""
    clock = [100.0]

    class Slow(Scripted):
        def score_one(self, encoded: Encoded) -> Scores:
            clock[0] += 1000
            return super().score_one(encoded)

    async def run() -> None:
        model = Slow()
        model.gate.set()
        pool = SessionPool([model], name="test", max_queue_tokens=99, clock=lambda: clock[0])
        with pytest.raises(DeadlineExceededError, match=r"1 of 3 segments.*GUARD_DEADLINE_SECONDS"):
            await _harm(pool, *map(_segment, (1, 2, 3)))
        await pool.close()

    asyncio.run(run())


def test_work_whose_caller_has_gone_is_dropped() -> None:
    """A cancelled request's segments that have not begun are never scored and their room is free at once."""

    async def run() -> None:
        model, seen = Scripted(), Recorder()
        async with _pool(model, observer=seen) as pool:
            running = asyncio.create_task(_harm(pool, _segment(1), _segment(2)))
            await model.begun()
            waiting = asyncio.create_task(_harm(pool, _segment(3), _segment(4)))
            await _until_waiting(seen, 3)
            for task in (running, waiting):
                task.cancel()
            await asyncio.gather(running, waiting, return_exceptions=True)
            assert seen.depth == (0, 0)
            model.gate.set()
            assert await _harm(pool, _segment(5)) == [0.005]
        assert (model.seen, sorted(seen.dropped)) == ([[1], [5]], [(1, "cancelled"), (2, "cancelled")])

    asyncio.run(run())


def test_a_text_of_many_windows_does_not_starve_a_short_one() -> None:
    """Behind a request of 30 windows, a later short one is scored after one more window, not after 29."""

    async def run() -> list[list[int]]:
        model, seen = Scripted(), Recorder()
        async with _pool(model, observer=seen) as pool:
            long = asyncio.create_task(_harm(pool, *[_segment(1)] * 30))
            await model.begun()
            short = asyncio.create_task(_harm(pool, _segment(2)))
            await _until_waiting(seen, 30)
            model.gate.set()
            await asyncio.gather(long, short)
        return model.seen

    assert asyncio.run(run()).index([2]) <= 2


@pytest.mark.parametrize("failure", [InferenceFailedError("not a number"), ValueError("broken")])
def test_a_failing_model_is_an_error_for_its_caller_alone(failure: Exception) -> None:
    """Any exception comes as `InferenceFailedError`, drops the rest of that request, and the thread serves on."""

    async def run() -> None:
        model, seen = Scripted(failure=failure), Recorder()
        model.gate.set()
        async with _pool(model, observer=seen) as pool:
            answers = await asyncio.gather(
                _harm(pool, _segment(BROKEN), *[_segment(5)] * 50), _harm(pool, _segment(6)), return_exceptions=True
            )
            assert isinstance(answers[0], InferenceFailedError)
            assert answers[1] == [0.006]
            assert await _harm(pool, _segment(7)) == [0.007]
        assert sum(n for n, reason in seen.dropped if reason == "failed") == 51 - sum(s in ([BROKEN], [5]) for s in model.seen)

    asyncio.run(run())


def test_a_nan_of_the_real_model_is_an_error(tiny_bundle: Path) -> None:
    """From the graph to the caller: no score, an `InferenceFailedError`."""
    bundle = load_bundle(tiny_bundle, public_key=None, require_signed=False)
    tokenizer = OnnxTokenizer(bundle)

    async def run() -> None:
        async with _pool(OnnxModel(bundle)) as pool:
            with pytest.raises(InferenceFailedError):
                await _harm(pool, tokenizer.encode("please help"), tokenizer.encode(NOT_A_NUMBER))

    asyncio.run(run())


def test_closing_finishes_what_has_begun_and_refuses_the_rest() -> None:
    """The request whose first segment runs gets all its scores; one that waits, and one that comes later, `NotReadyError`."""

    async def run() -> None:
        model, seen = Scripted(), Recorder()
        pool = SessionPool([model], name="closing", max_queue_tokens=99, observer=seen)
        begun = asyncio.create_task(_harm(pool, _segment(1), _segment(2)))
        await model.begun()
        waiting = asyncio.create_task(_harm(pool, _segment(3)))
        await _until_waiting(seen, 2)
        closing = asyncio.create_task(pool.close())
        with pytest.raises(NotReadyError):
            await waiting
        with pytest.raises(NotReadyError):
            await _harm(pool, _segment(4))
        model.gate.set()
        assert await begun == [0.001, 0.002]
        await closing
        assert seen.dropped == [(1, "closing")]
        assert not [t for t in threading.enumerate() if t.name.startswith("guard-closing")]

    asyncio.run(run())


def test_waiting_is_counted_apart_from_running() -> None:
    """By a clock that the test moves: 3 s before the model was free, 2 s in it."""

    async def run() -> None:
        model, seen, clock = Scripted(), Recorder(), [0.0]
        pool = SessionPool([model], name="test", max_queue_tokens=99, observer=seen, clock=lambda: clock[0])
        first = asyncio.create_task(pool.score([_segment(1)], deadline=_soon()))
        await model.begun()
        second = asyncio.create_task(pool.score([_segment(2)], deadline=_soon()))
        await _until_waiting(seen, 1)
        clock[0] += 3
        model.gate.set()
        await first
        await second
        timings = [(await task)[1] for task in (first, second)]
        assert [(t.queued, t.inference) for t in timings] == [(0, 3), (3, 0)]
        assert seen.scored == [(1, 4, 0, 3), (1, 4, 3, 0)]
        await pool.close()

    asyncio.run(run())


async def _retry_after(runs: Sequence[tuple[int, float]]) -> float | None:
    """What one thread tells who comes while 40 tokens wait, after segments of so many tokens that took so many seconds."""
    model, seen, clock = Scripted(), Recorder(), [0.0]
    pool = SessionPool([model], name="test", max_queue_tokens=40, observer=seen, clock=lambda: clock[0])
    for tokens, seconds in runs:
        model.gate.clear()
        asked = asyncio.create_task(_harm(pool, _segment(1, tokens)))
        await model.begun()
        clock[0] += seconds
        model.gate.set()
        await asked
    model.gate.clear()
    tasks = [asyncio.create_task(_harm(pool, _segment(2)))]
    await model.begun()
    tasks.append(asyncio.create_task(_harm(pool, *[_segment(3)] * 10)))
    await _until_waiting(seen, 10)
    with pytest.raises(OverloadedError) as refused:
        await _harm(pool, _segment(4))
    model.gate.set()
    await asyncio.gather(*tasks)
    await pool.close()
    return refused.value.retry_after


def test_the_time_to_retry_after_follows_the_pace() -> None:
    """With 4 tokens in 2 s measured and 40 waiting before one thread, it is 20 s."""
    assert asyncio.run(_retry_after([(4, 2)])) == pytest.approx(20)


def test_the_pace_is_that_of_the_tokens_not_of_the_segments() -> None:
    """A short segment at .75 s a token and then a long one at .25 make .3 s a token: 40 that wait take about 12 s, not 28."""
    assert asyncio.run(_retry_after([(4, 3), (36, 9)])) == pytest.approx(12, rel=0.01)


class _Stopping(asyncio.SelectorEventLoop):
    """An event loop whose clock can be set to stand still."""

    stands_at: float | None = None

    def time(self) -> float:
        """That time, or the real one."""
        return super().time() if self.stands_at is None else self.stands_at


@pytest.mark.parametrize(
    ("segments", "deadline", "taken"), [(5, 20.0, True), (5, 21.0, False), (9, 39.0, False), (5, 41.0, True), (1, 21.0, True)]
)
def test_work_that_would_come_too_late_is_refused_at_once(segments: int, deadline: float, taken: bool) -> None:
    """Behind a text with 10 s of work, one is taken where its turns come in a quarter of its time, or it is of the same call."""

    async def run() -> bool:
        model, seen, clock = Scripted(), Recorder(), [0.0]
        pool = SessionPool([model], name="test", max_queue_tokens=400, observer=seen, clock=lambda: clock[0])
        slow = asyncio.create_task(_harm(pool, _segment(1)))
        await model.begun()
        clock[0] += 2
        model.gate.set()
        await slow
        model.gate.clear()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, _Stopping)
        at = loop.time()

        async def asked(segment: Encoded, count: int, seconds: float) -> asyncio.Task[list[float]]:
            loop.stands_at = at  # however long it took until here
            task = asyncio.create_task(_harm(pool, *[segment] * count, deadline=at + seconds))
            await asyncio.sleep(0)
            loop.stands_at = None
            return task

        tasks = [await asked(_segment(2), 1, 20)]
        await model.begun()
        tasks.append(await asked(_segment(3), 5, 20))
        await _until_waiting(seen, 5)
        tasks.append(await asked(_segment(4), segments, deadline))
        refused = tasks[-1].done() and isinstance(tasks[-1].exception(), OverloadedError)
        model.gate.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        await pool.close()
        return not refused

    with asyncio.Runner(loop_factory=_Stopping) as runner:
        assert runner.run(run()) is taken


@given(lengths=st.lists(st.integers(1, 50), max_size=40), budget=st.integers(1, 200))
def test_batches_hold_every_segment_once_within_the_padded_budget(lengths: list[int], budget: int) -> None:
    """Padding counted, no batch is over the budget but a segment alone; batches go from long to short."""
    batches = BatchRule(budget, 0.0).cut(lengths)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
    for one, following in pairwise(batches):
        assert min(lengths[i] for i in one) >= max(lengths[i] for i in following)


@pytest.mark.parametrize(
    ("tokens", "oldest", "now", "wait"),
    [(0, None, 9.0, None), (50, 5.0, 5.5, 1.5), (50, 5.0, 7.0, 0.0), (50, 5.0, 99.0, 0.0), (100, 5.0, 5.0, 0.0)],
)
def test_a_batch_waits_for_its_budget_or_its_time(tokens: int, oldest: float | None, now: float, wait: float | None) -> None:
    """A full batch runs at once, another when its first segment has waited 2 s, an empty one never."""
    assert BatchRule(100, 2.0).wait_for(tokens, oldest, now) == wait


def _batcher(model: Model, budget: int = 64, wait: float = 0.001, observer: QueueObserver | None = None) -> MicroBatcher:
    return MicroBatcher([model], rule=BatchRule(budget, wait), name="b", max_queue_tokens=10**6, observer=observer)


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=30), budget=st.integers(8, 400))
def test_micro_batches_of_any_company_give_the_same_fp32_scores(tiny_bundle: Path, counts: list[int], budget: int) -> None:
    """To 1e-5, whatever else is in flight and however the batches fall."""
    bundle = load_bundle(tiny_bundle, public_key=None, require_signed=False)
    tokenizer, model = OnnxTokenizer(bundle), OnnxModel(bundle)
    texts = [tokenizer.encode("please hack " + "help " * n) for n in counts]

    async def run() -> list[Scores]:
        engine = _batcher(model, budget)
        answers = await asyncio.gather(*(engine.score([t], deadline=_soon()) for t in texts))
        await engine.close()
        return [scores[0] for scores, _ in answers]

    for text, scores in zip(texts, asyncio.run(run()), strict=True):
        alone = model.score_one(text)
        assert list(scores.harm.values()) == pytest.approx(list(alone.harm.values()), abs=1e-5)
        assert list(scores.task.values()) == pytest.approx(list(alone.task.values()), abs=1e-5)


def test_a_free_model_takes_what_has_gathered_as_one_batch() -> None:
    """Requests that came while it was busy are run together, cut at the budget (4 segments of 4 tokens), none twice."""

    async def run() -> list[list[int]]:
        model, seen = Scripted(), Recorder()
        engine = _batcher(model, budget=16, wait=0.0, observer=seen)
        tasks = [asyncio.create_task(_harm(engine, _segment(99)))]
        await model.begun()
        tasks += [asyncio.create_task(_harm(engine, _segment(i))) for i in range(1, 7)]
        await _until_waiting(seen, 6)
        model.gate.set()
        assert await asyncio.gather(*tasks) == [[0.099], *([i / 1000] for i in range(1, 7))]
        await engine.close()
        return model.seen

    assert asyncio.run(run()) == [[99], [1, 2, 3, 4], [5, 6]]


def test_a_text_that_breaks_its_batch_breaks_no_other() -> None:
    """In one padded batch with a failing segment, the others get their scores and it alone the error."""

    async def run() -> list[list[float] | BaseException]:
        model, seen = Scripted(), Recorder()
        engine = _batcher(model, observer=seen)
        first = asyncio.create_task(_harm(engine, _segment(99)))
        await model.begun()
        tasks = [asyncio.create_task(_harm(engine, _segment(i))) for i in (1, BROKEN, 2)]
        await _until_waiting(seen, 3)
        model.gate.set()
        await first
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        await engine.close()
        return answers

    one, broken, two = asyncio.run(run())
    assert (one, two) == ([0.001], [0.002])
    assert isinstance(broken, GuardError)


def test_closing_does_not_wait_for_a_batch_to_fill() -> None:
    """A batcher that would wait an hour for company closes at once and refuses what waits."""

    async def run() -> None:
        seen = Recorder()
        engine = _batcher(Scripted(), wait=3600.0, observer=seen)
        waiting = asyncio.create_task(_harm(engine, _segment(1)))
        await _until_waiting(seen, 1)
        await engine.close()
        with pytest.raises(NotReadyError):
            await waiting

    asyncio.run(run())


class Failing(Recorder):
    """An observer that raises whatever it is told."""

    def on_queue(self, model: str, segments: int, tokens: int) -> None:
        """Raise."""
        raise KeyError("on_queue")

    def on_dropped(self, model: str, segments: int, reason: DropReason) -> None:
        """Raise."""
        raise KeyError("on_dropped")

    def on_scored(self, model: str, segments: int, tokens: int, queued: float, inference: float) -> None:
        """Raise."""
        raise KeyError("on_scored")


def test_an_observer_that_fails_ends_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    """With one thread and an observer that raises at every word, texts are scored and dropped as ever; it is logged once."""

    async def run() -> None:
        model = Scripted()
        async with _pool(model, observer=Failing()) as pool:
            running = asyncio.create_task(_harm(pool, _segment(1)))
            await model.begun()
            with pytest.raises(DeadlineExceededError):
                await _harm(pool, _segment(2), deadline=_soon(0.02))
            model.gate.set()
            assert await running == [0.001]
            with pytest.raises(InferenceFailedError):
                await _harm(pool, _segment(BROKEN))
            assert await _harm(pool, _segment(3), _segment(4)) == [0.003, 0.004]

    asyncio.run(run())
    assert [record.levelname for record in caplog.records] == ["ERROR"]
