"""A stream of batches through a Ray Data pipeline whose actors hold engines: they are loaded once, however long the stream.

In: batches, one after another. Out: a reply to each, in any order, as Ray Data hands the blocks on. The source of the pipeline
asks a small actor, the feed, for one numbered batch after another, and the feed gives the same batch for the same number, so that
Ray may repeat any task. A worker that dies is started again by Ray, with the batch that it had.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from gate.endpoints.base import EngineOptions
from gate.endpoints.ray_worker import Batch, Load, Reply, Worker
from gate.errors import InfrastructureError, UsageError
from gate.records import Candidate

if TYPE_CHECKING:
    from ray.data import Dataset

STARTS: Final = 4
"""How often a batch is begun before it is given up: one that kills its workers must not go round for ever."""
WAIT_FOR_ROOM: Final = 600
"""Seconds that a cluster has for starting all workers' processes, nodes that it adds for them included; not for loading."""
STORE_BYTES: Final = 256 * 1024 * 1024
"""Object store of a local cluster: only prompts and answers pass through it."""


class Feed:
    """The actor that the pipeline's source reads: batch by number. What is answered is forgotten."""

    def __init__(self) -> None:
        import asyncio

        self._batches: dict[int, str] = {}
        self._begun: dict[int, int] = {}
        self._next = 0
        self._closed = False
        self._changed = asyncio.Condition()

    async def put(self, batch: str, answered: list[int]) -> None:
        """Take in the next batch, and forget those that are answered."""
        async with self._changed:
            for number in answered:
                self._batches.pop(number, None)
                self._begun.pop(number, None)
            self._batches[self._next] = batch
            self._next += 1
            self._changed.notify_all()

    async def get(self, number: int) -> str | None:
        """The batch of this number, when it is there; an empty one if it was answered; null at the end of the stream."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._closed or number < self._next)
            if number >= self._next:
                return None
            return self._batches.get(number, Batch(number=number, asks=()).model_dump_json())

    async def begin(self, number: int) -> int:
        """Count that a worker begins this batch; returns how often one has."""
        self._begun[number] = self._begun.get(number, 0) + 1
        return self._begun[number]

    async def close(self) -> None:
        """End the stream."""
        async with self._changed:
            self._closed = True
            self._changed.notify_all()


def _batches_of(_: object, feed: Any) -> Iterator[dict[str, list[str]]]:  # noqa: ANN401 - an actor handle has no public type
    """The pipeline's first step: one row becomes all batches of the feed, each a row, each handed on at once."""
    import ray

    number = 0
    while (batch := ray.get(feed.get.remote(number))) is not None:
        yield {"batch": [batch]}
        number += 1


class _Actor(Worker):
    """A worker whose batches are counted as it begins them, in an actor that outlives it. Ray repeats what a dead one had.

    It loads with its first batch, so that Ray's wait for its start is a wait for room on the cluster alone.
    """

    def __init__(self, feed: Any, *arguments: Any) -> None:  # noqa: ANN401 - an actor handle has no public type
        self._feed = feed
        self._to_load: tuple[Any, ...] | None = arguments

    def __call__(self, rows: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """Rows with a batch each → rows with a reply each."""
        if self._to_load is not None:
            super().__init__(*self._to_load)
            self._to_load = None
        return super().__call__(rows)

    def reply(self, batch: Batch) -> Reply:
        """Answer one batch, unless its workers died each time."""
        import ray

        if ray.get(self._feed.begin.remote(batch.number)) <= STARTS:
            return super().reply(batch)
        return self.refuse(
            batch,
            InfrastructureError(
                f"{STARTS} workers died over the same prompts",
                expected="a worker that lives through a batch",
                found=f"{len(batch.asks)} prompts, the first of case {batch.asks[0].case.id if batch.asks else 'none'}",
                mend="give the workers more memory, or lower --batch-size; the run resumes",
            ),
        )


class Stream:
    """A running pipeline. One caller, one thread."""

    def __init__(
        self,
        load: Load,
        candidate: Candidate,
        options: EngineOptions,
        driver: str,
        expected: str,
        *,
        wait: int = WAIT_FOR_ROOM,
    ) -> None:
        """Connect to the cluster of RAY_ADDRESS, or start one here, and describe the pipeline; the first `receive` starts it.

        `wait`: seconds until workers that found no room on the cluster are given up.
        """
        import ray

        self._wait = wait
        self._workers = options.workers
        self._connected = not ray.is_initialized()
        if self._connected:
            _connect(options)
        self._feed: Any = ray.remote(Feed).options(num_cpus=0).remote()
        self._answered: list[int] = []
        self._replies: Generator[Any, None, None] = iter(
            self._pipeline(load, candidate, options, driver, expected).iter_batches(batch_size=None, prefetch_batches=0)
        )

    def send(self, batch: Batch) -> None:
        """Put one batch into the stream; its number is the count of those sent before. Raises `InfrastructureError`."""
        import ray
        from ray.exceptions import RayError

        try:
            ray.get(self._feed.put.remote(batch.model_dump_json(), self._answered))
        except RayError as error:
            raise _cluster_failed(error) from error
        self._answered = []

    def receive(self) -> Reply:
        """Wait for the next reply. Raises `InfrastructureError` when the cluster gives up or has no room for the workers."""
        from ray.data.exceptions import SystemException
        from ray.exceptions import GetTimeoutError, RayError

        try:
            row = next(self._replies)
        except GetTimeoutError as error:
            raise InfrastructureError(
                f"the Ray cluster did not start {self._workers} workers within {self._wait} s",
                expected="a free processor, and the GPUs asked for, for each worker",
                found=f"free now: {_free()}",
                mend="wait for other jobs (ray status shows them), or lower --workers or --gpus-per-worker; the run resumes",
            ) from error
        except (RayError, SystemException, StopIteration) as error:
            raise _cluster_failed(error) from error
        reply = Reply.model_validate_json(str(row["reply"][0]))
        self._answered.append(reply.number)
        return reply

    def close(self) -> None:
        """Stop the workers, and the cluster where it was started here. Batches in flight are lost."""
        import ray

        self._replies.close()  # stops the pipeline and its actors
        ray.kill(self._feed)
        if self._connected:
            ray.shutdown()

    def _pipeline(self, load: Load, candidate: Candidate, options: EngineOptions, driver: str, expected: str) -> Dataset:
        import ray.data
        from ray.data import ActorPoolStrategy, DataContext

        context = DataContext.get_current().copy()
        context.enable_progress_bars = False
        context.wait_for_min_actors_s = self._wait  # Ray's own -1 waits for ever, in silence
        context.target_max_block_size = 1  # a row, which is a whole batch, leaves as a block of its own, at once
        with DataContext.current(context):
            # The source waits and takes no processor. Other resources than the workers' keep Ray from making one step of both.
            source = ray.data.from_items([0]).map_batches(
                _batches_of, fn_kwargs={"feed": self._feed}, batch_size=None, num_cpus=0
            )
            return source.map_batches(
                _Actor,
                fn_constructor_args=(self._feed, load, candidate, options, driver, expected),
                batch_size=1,
                compute=ActorPoolStrategy(size=options.workers),
                num_cpus=1,
                num_gpus=options.gpus_per_worker or None,
            )


def may_be_elsewhere() -> bool:
    """Whether workers may run on other machines than this one."""
    import ray

    return bool(os.environ.get("RAY_ADDRESS")) or ray.is_initialized()


def _connect(options: EngineOptions) -> None:
    """To the cluster of RAY_ADDRESS, or to a local one of as many processors as workers. Nothing is sent to Ray's makers."""
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if os.environ.get("RAY_ADDRESS"):
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING)
        except ConnectionError as error:
            raise InfrastructureError(
                "no Ray cluster answers at RAY_ADDRESS",
                expected="the address of a running cluster's head",
                found=f"{os.environ['RAY_ADDRESS']}: {(str(error).strip().splitlines() or ['no connection'])[0][:300]}",
                mend="start it, give its token as Ray asks for it (RAY_AUTH_MODE, RAY_AUTH_TOKEN), or unset RAY_ADDRESS",
            ) from error
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else its notes on every actor stand between the progress lines
    try:
        ray.init(
            address="local",
            num_cpus=options.workers,
            include_dashboard=False,
            object_store_memory=STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except Exception as error:  # what a cluster whose processes are slow to start ends in
        raise InfrastructureError(
            "a local Ray cluster did not start",
            found=f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no reason'])[0][:300]}",
            mend="free processors and memory, or run without a cluster (--engine hf_local); the same command resumes",
        ) from error
    wanted, found = options.workers * options.gpus_per_worker, ray.cluster_resources().get("GPU", 0.0)
    if wanted > found:
        ray.shutdown()
        raise UsageError(
            f"{options.workers} workers need {wanted:g} GPUs",
            expected="GPUs for all workers on this machine",
            found=f"{found:g}",
            mend="lower the workers or the GPUs of each, or set RAY_ADDRESS to a cluster that has them",
        )


def _free() -> str:
    """Processors and GPUs of the cluster that nobody holds."""
    import ray

    free = ray.available_resources()
    return f"{free.get('CPU', 0.0):g} processors, {free.get('GPU', 0.0):g} GPUs"


def _cluster_failed(error: Exception) -> InfrastructureError:
    """What Ray could not mend by starting workers again."""
    return InfrastructureError(
        "the Ray cluster failed",
        expected="a reply from a worker",
        found=f"{type(error).__name__}: {(str(error).strip().splitlines() or ['the stream ended'])[0][:300]}",
        mend="look at the cluster's logs, then run the same command again: it resumes",
    )
