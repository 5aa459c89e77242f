"""The story of a drift matrix: a plan → fine-tunes → one fixed-number check each → the matrix, its tables and its drawing.

    OUT/models/ARM-seedN   what gate finetune leaves      OUT/runs/ARM-seedN, OUT/runs/base   run folders of gate check
    OUT/drift.json  drift.md  heat_map.svg  heat_map.png

Every stage is a folder that is finished or resumed, so the same call goes on after a kill. Jobs are independent: processes share
them out.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gate import pipeline
from gate.candidate import load_candidate
from gate.drift.heat_map import heat_map
from gate.drift.markdown import as_markdown
from gate.drift.matrix import Drift, Quality, assemble, checkpoint
from gate.drift.plan import BASE, DriftPlan, policy_of
from gate.errors import UsageError
from gate.finetune import Recipe, finetune, load_recipe
from gate.json_lines import write_whole
from gate.judges import make_judge
from gate.quality import exact
from gate.records import Record, Response, Role, Task, Verdict, canonical_json, sha256_hex
from gate.run_store import RunStore, pretty, read_record
from gate.suites import load_suite

IDENTITY: Final = "plan.json"
FILES: Final = ("drift.json", "drift.md", "heat_map.svg", "heat_map.png")


@dataclass(frozen=True)
class Job:
    """One checkpoint of a plan. Pickled to the process that does it."""

    plan: DriftPlan
    directory: Path
    """Of the plan: private attributes do not travel."""
    out: Path
    arm: str
    seed: int | None
    today: str

    @property
    def name(self) -> str:
        """Of its folders."""
        return self.arm if self.seed is None else f"{self.arm}-seed{self.seed}"


@dataclass(frozen=True)
class News:
    """A stage that is done: of how many, and which."""

    done: int
    total: int
    what: str


class _Identity(Record):
    """`plan.json`: what the folder is about."""

    plan_digest: str
    recipes: dict[str, str]
    """Arm → digest of its recipe."""


Work = Callable[[Job], None]
"""A stage of a job. A function of a module, because another process calls it."""


def drift(
    plan: DriftPlan, out: Path, train: Work, check: Work, *, workers: int, today: str, tell: Callable[[News], None]
) -> Drift:
    """Train and check what is not there yet, then assemble and write. Raises what a stage raises; the rest is left as it is."""
    jobs = jobs_of(plan, out, today)
    _begin(plan, out)
    _share_out(jobs, train, check, workers, tell)
    rows = [(job, _verdict(job)) for job in jobs]
    found = assemble(plan, rows[0][1], [checkpoint(job.arm, job.seed, verdict, _quality(job)) for job, verdict in rows])
    for name, data in zip(
        FILES, (pretty(found), as_markdown(found).encode(), heat_map(found, "svg"), heat_map(found, "png")), strict=True
    ):
        write_whole(out / name, data)
    return found


def jobs_of(plan: DriftPlan, out: Path, today: str) -> tuple[Job, ...]:
    """The base's job, then every fine-tune's."""
    base = Job(plan, plan.directory, out, BASE, None, today)
    return (base, *(Job(plan, plan.directory, out, arm.name, seed, today) for arm, seed in plan.runs()))


def train_job(job: Job) -> None:
    """Fine-tune a job's checkpoint; the base needs none."""
    if job.seed is not None:
        finetune(_recipe(job.plan, job.directory, job.arm, job.seed), job.out / "models" / job.name)


def check_job(job: Job, open_endpoint: pipeline.OpenEndpoint) -> None:
    """Put a job's checkpoint through the plan's policy; where the verdict on it is there, nothing is loaded."""
    source = job.directory / job.plan.base if job.seed is None else job.out / "models" / job.name
    policy = policy_of(job.plan)
    inputs = pipeline.Inputs(
        policy=policy,
        suite=load_suite(job.plan.suite, relative_to=job.directory),
        candidate=load_candidate(str(source)),
        judge=make_judge(policy.judge),
        today=job.today,
    )
    folder = job.out / "runs" / job.name
    if not ((folder / "verdict.json").exists() and _is_of(RunStore(folder).verdict(), inputs)):
        pipeline.check(inputs, folder, open_endpoint)


def _is_of(verdict: Verdict, inputs: pipeline.Inputs) -> bool:
    found = (verdict.candidate_digest, verdict.policy_digest, verdict.suite_digest)
    return found == (inputs.candidate.digest, inputs.policy.digest, inputs.suite.digest)


def _recipe(plan: DriftPlan, directory: Path, arm: str, seed: int) -> Recipe:
    path = next(directory / found.recipe for found in plan.arms if found.name == arm)
    return load_recipe(path).model_copy(update={"seed": seed})


def _begin(plan: DriftPlan, out: Path) -> None:
    """The folder: made new, or seen to be this plan's. Recipes that start from another base are refused."""
    base = (plan.directory / plan.base).resolve()
    recipes = {arm.name: load_recipe(plan.directory / arm.recipe) for arm in plan.arms}
    for arm in plan.arms:
        found = ((plan.directory / arm.recipe).parent / recipes[arm.name].base).resolve()
        if found != base:
            raise UsageError(
                f"arm {arm.name!r} does not start from the plan's base",
                expected=str(base),
                found=str(found),
                mend="correct the plan's base, or the recipe's",
            )
    digests = {name: sha256_hex(canonical_json(recipe.model_dump(mode="json"))) for name, recipe in recipes.items()}
    identity = _Identity(plan_digest=plan.digest, recipes=digests)
    path = out / IDENTITY
    if path.exists() and read_record(path, _Identity) != identity:
        raise UsageError(
            f"{out} belongs to another plan, or recipes were changed since", found=str(path), mend="choose another --out"
        )
    if not path.exists() and out.is_dir() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty and is no drift matrix's folder", mend="choose another --out")
    for name in ("models", "runs"):
        (out / name).mkdir(parents=True, exist_ok=True)
    write_whole(path, pretty(identity))


def _share_out(jobs: Sequence[Job], train: Work, check: Work, workers: int, tell: Callable[[News], None]) -> None:
    """Run the stages of all jobs in processes; the first failure ends the rest and is raised."""
    total, done = 2 * len(jobs), 0
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin_worker, initargs=(workers,)) as pool:
        waiting: dict[Future[None], tuple[Job, bool]] = {pool.submit(train, job): (job, False) for job in jobs}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    job, checked = waiting.pop(future)
                    future.result()
                    done += 1
                    tell(News(done, total, f"{job.name}: {'checked' if checked else 'trained'}"))
                    if not checked:
                        waiting[pool.submit(check, job)] = (job, True)
        except BaseException:  # Ctrl-C too: what has not begun must not begin
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin_worker(workers: int) -> None:
    """Before torch is loaded: a worker's threads are its share of the cores, and it ends when the command is killed."""
    os.environ["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // workers))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def _verdict(job: Job) -> Verdict:
    return RunStore(job.out / "runs" / job.name).verdict()


def _quality(job: Job) -> dict[Task, Quality]:
    """Exactly right answers to the twins of the gated cells, counted from the run folder."""
    store = RunStore(job.out / "runs" / job.name)
    store.load()
    return dict(_counted(store))


def _counted(store: RunStore) -> Iterator[tuple[Task, Quality]]:
    for cell in pipeline.stored_plan(store):
        cases = [case for case in cell.cases if case.item.reference]
        if not (cell.gated and cell.role is Role.TWIN and cases):
            continue
        answers = [(case, store.logs["candidate"].answer((case.id, 0))) for case in cases]
        right = sum(exact(a.text, [case.item.reference]) == 1 for case, a in answers if isinstance(a, Response))
        yield cell.task, Quality(right=right, asked=len(cases))
