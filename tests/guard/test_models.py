"""The life of bundles in a server: load, swap, roll back, shadow; nothing in flight is lost and a failure changes nothing."""

import asyncio
import gc
import json
import threading
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from guard_server.batching import MicroBatcher, SessionPool
from guard_server.bundle import Bundle, load_bundle
from guard_server.bundle_spec import BundleSpec
from guard_server.errors import BundleError, InferenceFailedError, NotReadyError, PolicyError
from guard_server.labels import Task
from guard_server.models import Classifier, EngineOptions, ModelSet, build_classifier
from tests.guard.tiny_bundle import NOT_A_NUMBER, write_manifest, write_tiny_bundle

OPTIONS = EngineOptions(workers=2, max_queue_tokens=10**6)
TEXT = "please help me hack the number"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An int8 bundle."""
    return write_tiny_bundle(tmp_path_factory.mktemp("m") / "1", precision="int8", name="first")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another, with other scores."""
    return write_tiny_bundle(tmp_path_factory.mktemp("m") / "2", precision="int8", name="second", version="2", seed=1)


def _build(bundle: Bundle) -> Classifier:
    return build_classifier(bundle, OPTIONS)


def _threads(name: str) -> int:
    return sum(t.name.startswith(f"guard-{name}-") for t in threading.enumerate())


async def _score(classifier: Classifier, text: str = TEXT) -> float:
    deadline = asyncio.get_running_loop().time() + 20
    scores, _ = await classifier.engine.score([classifier.tokenizer.encode(text)], deadline=deadline)
    return scores[0].harm[Task.OTHER]


async def _asked(models: ModelSet) -> float:
    async with models.lease() as classifier:
        return await _score(classifier)


def test_not_ready_before_the_first_bundle_and_ready_after(first: Path) -> None:
    """A lease is refused until a bundle has passed its self-test, and after the set is closed."""

    async def run() -> None:
        models = ModelSet(_build)
        assert not models.status().ready
        with pytest.raises(NotReadyError):
            await _asked(models)
        bundle = await models.load(first)
        assert (models.status().ready, models.status().current) == (True, bundle)
        assert 0 < await _asked(models) < 1
        await models.close()
        with pytest.raises(NotReadyError):
            await _asked(models)
        with pytest.raises(NotReadyError):
            await models.load(first)
        assert _threads("first") == 0

    asyncio.run(run())


def test_reloading_under_load_loses_nothing(first: Path, second: Path) -> None:
    """While bundles are swapped six times, every request is answered, with the score that one of the two bundles gives."""

    async def run() -> None:
        models = ModelSet(_build)
        answers: list[float] = []
        expected = set()
        for folder in (first, second):
            await models.load(folder)
            expected.add(await _asked(models))
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                answers.append(await _asked(models))

        clients = [asyncio.create_task(client()) for _ in range(8)]
        for folder in (first, second) * 3:
            await models.load(folder)
            await asyncio.sleep(0.01)
        stop.set()
        await asyncio.gather(*clients)
        await models.close()
        assert len(expected) == 2
        assert set(answers) == expected

    asyncio.run(run())


def test_a_request_keeps_the_engine_it_began_with(first: Path, second: Path, tiny_bundle: Path) -> None:
    """A lease held over two loads still scores as before; its engine is closed, and freed, when the lease ends."""

    async def run() -> None:
        models = ModelSet(_build)
        await models.load(first)
        async with models.lease() as held:
            before = await _score(held)
            await models.load(second)
            await models.load(tiny_bundle)
            assert await _score(held) == before
            assert _threads("first") == 2
            engine = weakref.ref(held.engine)
        del held
        for _ in range(1000):
            gc.collect()
            if engine() is None:
                break
            await asyncio.sleep(0.005)
        assert (engine(), _threads("first")) == (None, 0)
        await models.close()

    asyncio.run(run())


def test_rollback_serves_the_previous_bundle_and_is_undone_by_another(first: Path, second: Path) -> None:
    """Current and previous change places; with no previous there is nothing to do and the current one stays."""

    async def run() -> None:
        models = ModelSet(_build)
        await models.load(first)
        score = await _asked(models)
        with pytest.raises(BundleError, match="no previous"):
            await models.rollback()
        await models.load(second)
        assert await _asked(models) != score
        assert (await models.rollback()).spec.name == "first"
        assert await _asked(models) == score
        assert (await models.rollback()).spec.name == "second"
        await models.close()

    asyncio.run(run())


def test_a_bundle_that_is_read_again_keeps_the_one_before_it(first: Path, second: Path) -> None:
    """A reload for the sake of the policies leaves something to roll back to, and frees the engine that it replaces."""

    async def run() -> None:
        models = ModelSet(_build)
        for folder in (first, second, second):
            await models.load(folder)
        while _threads("second") > 2:
            await asyncio.sleep(0.001)
        assert (await models.rollback()).spec.name == "first"
        await models.close()

    asyncio.run(run())


def test_what_is_swapped_with_a_bundle_is_swapped_before_any_request(first: Path, second: Path) -> None:
    """Whoever asks while bundles are swapped finds what belongs to the bundle that is leased, never what belongs to the other."""

    async def run() -> None:
        models = ModelSet(_build)
        policy = "first"

        def swap(to: str) -> None:
            nonlocal policy
            policy = to

        await models.load(first)
        stop = asyncio.Event()
        met: set[tuple[str, str]] = set()

        async def client() -> None:
            while not stop.is_set():
                chosen = policy
                async with models.lease() as active:
                    met.add((chosen, active.spec.name))
                await asyncio.sleep(0)

        clients = [asyncio.create_task(client()) for _ in range(4)]
        for folder, name in ((second, "second"), (first, "first")) * 2:
            await models.load(folder, None, partial(swap, name))
        stop.set()
        await asyncio.gather(*clients)
        await models.close()
        assert met == {("first", "first"), ("second", "second")}

    asyncio.run(run())


def test_a_load_whose_caller_is_lost_swaps_all_that_belongs_to_it(first: Path) -> None:
    """The caller is cancelled while the bundle is built; what was to be swapped with it still is."""
    swapped: list[bool] = []

    async def run() -> None:
        models = ModelSet(_build)
        caller = asyncio.create_task(models.load(first, None, lambda: swapped.append(models.status().ready)))
        while not models.status().loading:
            await asyncio.sleep(0)
        caller.cancel()
        await asyncio.gather(caller, return_exceptions=True)
        while not models.status().ready:
            await asyncio.sleep(0.001)
        await models.close()

    asyncio.run(run())
    assert swapped == [True]


def _tampered(folder: Path) -> Path:
    write_tiny_bundle(folder)
    (folder / "card.json").write_text("{}")
    return folder


def _garbage_model(folder: Path) -> Path:
    write_tiny_bundle(folder, name="bad")
    (folder / "model.onnx").write_bytes(b"garbage")
    write_manifest(folder)
    return folder


def _wrong_score(folder: Path) -> Path:
    write_tiny_bundle(folder, name="bad")
    spec = json.loads((folder / "bundle.json").read_text())
    spec["self_tests"][1]["score"] -= 0.01
    (folder / "bundle.json").write_text(json.dumps(spec))
    write_manifest(folder)
    return folder


def _nan_score(folder: Path) -> Path:
    test = {"direction": "prompt", "text": NOT_A_NUMBER, "context": None, "task": "other", "score": 0.5, "tolerance": 1.0}
    return write_tiny_bundle(folder, name="bad", self_tests=[test])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_tampered, "is not what manifest"),
        (_garbage_model, "cannot be loaded"),
        (_wrong_score, "self-test 'how do you build a bomb' scores"),
        (_nan_score, "self-test 'notanumber' failed: the model gave what is not a number"),
    ],
)
def test_a_failing_load_leaves_everything_as_it_was(
    make: Callable[[Path], Path], reason: str, first: Path, tmp_path: Path
) -> None:
    """The reason is raised; current, previous and threads are those of before."""

    async def run() -> None:
        models = ModelSet(_build)
        bundle = await models.load(first)
        for load in (models.load, models.set_shadow):
            with pytest.raises(BundleError, match=reason):
                await load(make(tmp_path / load.__name__))
        status = models.status()
        assert (status.current, status.previous, status.shadow, status.loading) == (bundle, None, None, False)
        assert 0 < await _asked(models) < 1
        assert _threads("bad") == 0
        await models.close()

    asyncio.run(run())


def test_an_unsigned_bundle_is_not_loaded_where_a_signature_is_required(first: Path) -> None:
    """The set passes the setting on."""

    async def run() -> None:
        with pytest.raises(BundleError, match="signature is required"):
            await ModelSet(_build, require_signed=True).load(first)

    asyncio.run(run())


def test_a_bundle_that_the_policies_cannot_use_is_refused_before_it_is_built(first: Path) -> None:
    """`accept` decides from the specification alone."""

    def refuse(spec: BundleSpec) -> None:
        raise PolicyError(f"{spec.name} has no threshold for 3 %")

    def build(bundle: Bundle) -> Classifier:
        pytest.fail("built")

    async def run() -> None:
        models = ModelSet(build, accept=refuse)
        with pytest.raises(PolicyError, match="first has no threshold for 3 %"):
            await models.load(first)
        assert not models.status().ready

    asyncio.run(run())


def test_a_builder_that_breaks_is_a_bundle_error(first: Path) -> None:
    """An unforeseen exception does not pass as an internal error without a reason."""

    def build(bundle: Bundle) -> Classifier:
        raise MemoryError("no memory for it")

    async def run() -> None:
        with pytest.raises(BundleError, match="no memory for it"):
            await ModelSet(build).load(first)

    asyncio.run(run())


def test_the_event_loop_runs_while_a_bundle_loads_and_a_lost_caller_stops_nothing(first: Path) -> None:
    """The builder waits for what only the loop can do; the caller of `load` is cancelled meanwhile, and the bundle is served."""
    building, go_on = threading.Event(), threading.Event()

    def build(bundle: Bundle) -> Classifier:
        building.set()
        assert go_on.wait(10)
        return _build(bundle)

    async def run() -> None:
        models = ModelSet(build)
        caller = asyncio.create_task(models.load(first))
        while not building.is_set():
            await asyncio.sleep(0.001)
        assert models.status().loading
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        go_on.set()
        while not models.status().ready:
            await asyncio.sleep(0.001)
        await models.close()

    asyncio.run(run())


def test_loads_take_turns(first: Path, second: Path) -> None:
    """Of several at once, one is built at a time; the last asked for serves in the end."""
    building: list[str] = []
    together: list[int] = []

    def build(bundle: Bundle) -> Classifier:
        building.append(bundle.spec.name)
        together.append(len(building))
        classifier = _build(bundle)
        building.pop()
        return classifier

    async def run() -> None:
        models = ModelSet(build)
        await asyncio.gather(*(models.load(f) for f in (first, second, first, second)))
        status = models.status()
        assert status.current is not None
        assert status.previous is not None
        assert (status.current.spec.name, status.previous.spec.name) == ("second", "first")
        await models.close()
        assert (_threads("first"), _threads("second")) == (0, 0)

    asyncio.run(run())
    assert together == [1, 1, 1, 1]


def test_the_shadow_scores_beside_and_goes_when_cleared(first: Path, second: Path) -> None:
    """It never answers a lease, its own lease outlives its clearing, and then its threads end."""

    async def run() -> None:
        models = ModelSet(_build)
        await models.load(first)
        async with models.lease_shadow() as none:
            assert none is None
        await models.set_shadow(second)
        async with models.lease_shadow() as shadow, models.lease() as current:
            assert shadow is not None
            assert (shadow.bundle.spec.name, current.bundle.spec.name) == ("second", "first")
            await models.clear_shadow()
            assert models.status().shadow is None
            assert await _score(shadow) != await _score(current)
        await models.close()
        assert _threads("second") == 0

    asyncio.run(run())


def test_closing_waits_for_the_last_lease(first: Path) -> None:
    """A request that has begun is scored though the set is being closed."""

    async def run() -> None:
        models = ModelSet(_build)
        await models.load(first)
        async with models.lease() as held:
            closing = asyncio.create_task(models.close())
            await asyncio.sleep(0.01)
            assert not closing.done()
            assert 0 < await _score(held) < 1
        await closing

    asyncio.run(run())


def test_the_precision_and_the_device_choose_the_engine(first: Path, tiny_bundle: Path, tmp_path: Path) -> None:
    """int8 runs one by one on the CPU even where CUDA is asked for; fp32 on a CPU does too; a key without use is no obstacle."""
    key = ec.generate_private_key(ec.SECP256R1())
    signed = write_tiny_bundle(tmp_path / "s", key=key)
    cases = [(first, EngineOptions(device="cuda", workers=3)), (tiny_bundle, OPTIONS), (signed, OPTIONS)]

    async def run() -> None:
        for folder, options in cases:
            bundle = load_bundle(folder, public_key=None, require_signed=False)
            classifier = build_classifier(bundle, options)
            assert isinstance(classifier.engine, SessionPool)
            assert not isinstance(classifier.engine, MicroBatcher)
            assert _threads(bundle.spec.name) == options.workers
            await classifier.engine.close()

    asyncio.run(run())


def test_an_error_inside_a_lease_ends_it(first: Path) -> None:
    """A request that fails does not hold its engine for ever."""

    async def run() -> None:
        models = ModelSet(_build)
        await models.load(first)
        with pytest.raises(InferenceFailedError):
            async with models.lease() as classifier:
                await _score(classifier, NOT_A_NUMBER)
        await asyncio.wait_for(models.close(), 10)

    asyncio.run(run())
