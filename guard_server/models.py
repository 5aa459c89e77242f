"""Which bundles are loaded: the current one, the previous one kept warm, and a shadow.

    folder -> verify -> build -> self-test -> swap;   a failure at any step leaves everything as it was

A request leases the classifier that is current when it begins and keeps it to its end; one that has been replaced is closed after
its last lease. Loading runs in threads, one load at a time; the event loop goes on serving.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from guard_server.batching import BatchRule, MicroBatcher, QueueObserver, SessionPool
from guard_server.bundle import Bundle, load_bundle
from guard_server.bundle_spec import BundleSpec, SelfTest
from guard_server.classifier import Device, OnnxModel, OnnxTokenizer
from guard_server.errors import BundleError, GuardError, NotReadyError
from guard_server.records import Engine, Tokenizer

_Result = TypeVar("_Result")
Accept = Callable[[BundleSpec], None]
"""Raises `GuardError` where the server's policies cannot use a bundle."""


@dataclass(frozen=True, slots=True)
class Classifier:
    """A bundle that is loaded."""

    bundle: Bundle
    tokenizer: Tokenizer
    engine: Engine

    @property
    def spec(self) -> BundleSpec:
        """Windows, thresholds, labels."""
        return self.bundle.spec

    @property
    def digest(self) -> str:
        """Of the bundle, hexadecimal."""
        return self.bundle.digest


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a bundle is run; the fields are the settings' of the same names."""

    device: Device = "cpu"
    workers: int = 0
    """Threads; 0: one per usable core."""
    max_queue_tokens: int = 262_144
    batch_tokens: int = 16_384
    batch_wait_seconds: float = 0.002


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """What is loaded: what `/readyz`, `/v1/models` and the metrics say it from."""

    ready: bool
    loading: bool
    """Whether one is being loaded, or has asked to be."""
    current: Bundle | None
    previous: Bundle | None
    shadow: Bundle | None


def build_classifier(bundle: Bundle, options: EngineOptions, observer: QueueObserver | None = None) -> Classifier:
    """The bundle's tokenizer and engine; takes the time that onnxruntime needs to load. Raises `BundleError`.

    int8 and every CPU: one text at a time over threads that share one session's weights. fp32 and fp16 on CUDA: micro-batches.
    """
    device: Device = "cpu" if bundle.spec.precision == "int8" else options.device
    tokenizer, model = OnnxTokenizer(bundle), OnnxModel(bundle, device=device)
    name, bound = series_of(bundle), options.max_queue_tokens
    if device == "cuda":
        rule = BatchRule(options.batch_tokens, options.batch_wait_seconds)
        batcher = MicroBatcher([model], rule=rule, name=name, max_queue_tokens=bound, observer=observer)
        return Classifier(bundle, tokenizer, batcher)
    workers = options.workers or _usable_cores()
    return Classifier(bundle, tokenizer, SessionPool([model] * workers, name=name, max_queue_tokens=bound, observer=observer))


def series_of(bundle: Bundle) -> str:
    """What the queue and the metrics call a bundle: two that are loaded may have one name, never one digest."""
    return f"{bundle.spec.name}-{bundle.digest[:12]}"


async def self_test(classifier: Classifier, *, seconds: float) -> None:
    """Ask the bundle's self-tests of it; raises `BundleError` where a score is not the one that the bundle states."""
    for test in classifier.bundle.spec.self_tests:
        try:
            score = await _self_test_score(classifier, test, seconds)
        except GuardError as error:
            msg = f"self-test {test.text!r} failed: {error.message}; build the bundle again or keep the one that serves"
            raise BundleError(msg) from error
        if abs(score - test.score) > test.tolerance:
            msg = (
                f"self-test {test.text!r} scores {score:.4f}, the bundle states {test.score:.4f} ± {test.tolerance:g}; "
                "rebuild the bundle with this version of onnxruntime"
            )
            raise BundleError(msg)


async def _self_test_score(classifier: Classifier, test: SelfTest, seconds: float) -> float:
    encoded = classifier.tokenizer.encode(test.text, context=test.context)
    deadline = asyncio.get_running_loop().time() + seconds
    scores, _ = await classifier.engine.score([encoded], deadline=deadline)
    return scores[0].risk(test.direction, test.task)


class _Slot:
    """A classifier with the count of its leases."""

    def __init__(self, classifier: Classifier) -> None:
        self.classifier = classifier
        self._leases = 0
        self._free = asyncio.Event()
        self._free.set()

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Classifier]:
        self._leases += 1
        self._free.clear()
        try:
            yield self.classifier
        finally:
            self._leases -= 1
            if self._leases == 0:
                self._free.set()

    async def close_when_free(self) -> None:
        await self._free.wait()
        await self.classifier.engine.close()


class ModelSet:
    """The loaded bundles of a server; used from one event loop."""

    def __init__(
        self,
        build: Callable[[Bundle], Classifier],
        *,
        public_key: Path | None = None,
        require_signed: bool = False,
        accept: Accept | None = None,
        self_test_seconds: float = 30.0,
    ) -> None:
        """`build` runs in a thread; `accept` is asked about every bundle before it is served."""
        self._build = build
        self._public_key = public_key
        self._require_signed = require_signed
        self._accept = accept
        self._self_test_seconds = self_test_seconds
        self._current: _Slot | None = None
        self._previous: _Slot | None = None
        self._shadow: _Slot | None = None
        # One thread for all loads: the allocator keeps freed memory by thread, and a model's would stay with each of them.
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="guard-load")
        self._changing = asyncio.Lock()
        self._closed = False
        self._loads: set[asyncio.Task[Bundle]] = set()
        self._closings: set[asyncio.Task[None]] = set()

    async def load(self, folder: Path, accept: Accept | None = None, swapped: Callable[[], None] | None = None) -> Bundle:
        """Serve the bundle in `folder` from now on, keeping the one it replaces for `rollback`; raises `BundleError`.

        `accept` is asked for this load instead of the set's own; `swapped` runs in the same step as the swap, before any request.
        The same bundle read again replaces itself alone. A caller that is cancelled does not stop a load that has begun.
        """
        return await self._carry_out(self._load(folder, accept, swapped))

    async def rollback(self) -> Bundle:
        """Serve the previous bundle again (and keep this one, so that a second rollback undoes the first)."""
        async with self._changing:
            if self._previous is None or self._current is None:
                msg = "there is no previous bundle; load one by its folder"
                raise BundleError(msg)
            if self._accept is not None:
                self._accept(self._previous.classifier.spec)
            self._current, self._previous = self._previous, self._current
            return self._current.classifier.bundle

    async def set_shadow(self, folder: Path) -> Bundle:
        """Load a bundle for comparison beside the current one; raises `BundleError`."""
        return await self._carry_out(self._load_shadow(folder))

    async def clear_shadow(self) -> None:
        """Unload the shadow, if any."""
        async with self._changing:
            self._retire(self._shadow)
            self._shadow = None

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Classifier]:
        """The current classifier, which is not closed before the block ends; raises `NotReadyError` where there is none."""
        if self._current is None:
            raise NotReadyError("no bundle has passed its self-test")
        async with self._current.lease() as classifier:
            yield classifier

    @asynccontextmanager
    async def lease_shadow(self) -> AsyncIterator[Classifier | None]:
        """The shadow, which is not closed before the block ends, or None."""
        if self._shadow is None:
            yield None
            return
        async with self._shadow.lease() as classifier:
            yield classifier

    def status(self) -> ModelStatus:
        """What is loaded now."""
        current, previous, shadow = (
            None if slot is None else slot.classifier.bundle for slot in (self._current, self._previous, self._shadow)
        )
        return ModelStatus(current is not None, self._changing.locked(), current, previous, shadow)

    async def close(self) -> None:
        """Take no new leases and close every engine after its last one."""
        async with self._changing:
            self._closed = True
            for slot in (self._current, self._previous, self._shadow):
                self._retire(slot)
            self._current = self._previous = self._shadow = None
        await asyncio.gather(*self._closings)
        self._loader.shutdown(wait=False)

    async def _load(self, folder: Path, accept: Accept | None, swapped: Callable[[], None] | None) -> Bundle:
        async with self._changing:
            slot = await self._prepare(folder, accept or self._accept)
            replaced, self._current = self._current, slot
            if replaced is not None and replaced.classifier.digest == slot.classifier.digest:
                self._retire(replaced)
            else:
                self._retire(self._previous)
                self._previous = replaced
            if swapped is not None:
                swapped()
            return slot.classifier.bundle

    async def _load_shadow(self, folder: Path) -> Bundle:
        async with self._changing:
            slot = await self._prepare(folder, self._accept)
            self._retire(self._shadow)
            self._shadow = slot
            return slot.classifier.bundle

    async def _prepare(self, folder: Path, accept: Accept | None) -> _Slot:
        """A classifier that has passed its self-test; what was built is closed where it has not."""
        if self._closed:
            raise NotReadyError("the server is stopping")
        try:
            return _Slot(await self._built(folder, accept))
        except GuardError:
            raise
        except Exception as error:
            msg = f"{folder} cannot be loaded: {error}"
            raise BundleError(msg) from error

    async def _built(self, folder: Path, accept: Accept | None) -> Classifier:
        loop = asyncio.get_running_loop()
        verify = partial(load_bundle, folder, public_key=self._public_key, require_signed=self._require_signed)
        bundle = await loop.run_in_executor(self._loader, verify)
        if accept is not None:
            accept(bundle.spec)
        classifier = await loop.run_in_executor(self._loader, self._build, bundle)
        try:
            await self_test(classifier, seconds=self._self_test_seconds)
        except BaseException:
            await classifier.engine.close()
            raise
        return classifier

    def _retire(self, slot: _Slot | None) -> None:
        """Close a slot that can be leased no more, once its last lease is over."""
        if slot is not None:
            _hold(asyncio.create_task(slot.close_when_free()), self._closings)

    async def _carry_out(self, work: Coroutine[None, None, Bundle]) -> Bundle:
        return await asyncio.shield(_hold(asyncio.create_task(work), self._loads))


def _hold(task: asyncio.Task[_Result], tasks: set[asyncio.Task[_Result]]) -> asyncio.Task[_Result]:
    """Keep a task until it ends: the event loop alone would not."""
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    return task


def _usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
