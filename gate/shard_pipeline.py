"""A check in parts: `run_shard` asks one shard's items in full; `merge` makes one run of all shards and decides.

In: what `pipeline.check` takes, and which shard; or the folders of all shards. Out: a folder with a shard's answers and no
verdict; or a run folder like any other. The verdict is read off the committed order, so that it and the stopping index are those
of one process, which would have made fewer generations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

from gate.allowance import Allowance
from gate.answer_log import Place, Side
from gate.attack import Evidence, Observer
from gate.cells import Cell, wanted
from gate.errors import RunStoreError, UsageError
from gate.judges import make_judge
from gate.pipeline import (
    Inputs,
    OpenEndpoint,
    attack_side,
    begin,
    decide_and_report,
    default_folder,
    header_of,
    plan_of,
    stored_plan,
    stored_questions,
)
from gate.records import Candidate, NoResponse, Response, Verdict
from gate.run_store import RunHeader, RunStore, locked, prepare_folder
from gate.sharding import Shard, merged_header, parse_shard, shard_header
from gate.stopwatch import UNWATCHED, Stopwatch
from gate.suites import load_suite

BATCH: Final = 1024
"""Answers copied at once."""


@dataclass(frozen=True)
class ShardDone:
    """What a shard's folder holds at its end, candidate and baseline together."""

    shard: Shard
    answers: int
    missing: int
    """Items' samples with a reason why no answer came."""
    stopped_by: str = ""
    """The limit that ended the asking before the shard was finished; empty otherwise."""


def shard_folder(inputs: Inputs, shard: Shard) -> Path:
    """The run's default folder, with the shard behind its name: the same command finds its own shard again."""
    whole = default_folder(inputs)
    return whole.with_name(f"{whole.name}.shard-{shard.index}-of-{shard.count}")


def run_shard(
    inputs: Inputs,
    folder: Path,
    open_endpoint: OpenEndpoint,
    shard: Shard,
    *,
    batch_size: int = 64,
    observe: Observer = lambda _: None,
    allowance: Allowance | None = None,
) -> ShardDone:
    """Ask, or go on asking, a shard's items in `folder`. Nothing is decided: no shard alone knows where the tests would stop."""
    cells = plan_of(inputs.policy, inputs.suite, inputs.questions)
    prepare_folder(folder)
    with locked(folder):
        store = begin(inputs, shard_header(header_of(inputs, cells), shard), folder)
        sides: list[tuple[Side, Candidate, tuple[Cell, ...]]] = [("candidate", inputs.candidate, shard.of(cells))]
        if inputs.baseline is not None:
            sides.append(("baseline", inputs.baseline, shard.compared(cells)))
        stopped_by = ""
        for side, candidate, own in sides:
            if not stopped_by:
                found = attack_side(inputs, store, open_endpoint, batch_size, observe, side, candidate, own, allowance, part=True)
                stopped_by = found.stopped_by
        kinds = Counter(type(store.logs[side].answer(place)) for side, _, own in sides for place in _places(own))
        return ShardDone(shard, answers=kinds[Response], missing=kinds[NoResponse], stopped_by=stopped_by)


def merge(out: Path, folders: Sequence[Path], watch: Stopwatch = UNWATCHED) -> Verdict:
    """Make one run of all shards in `out`, which is free or holds an earlier merge of them, and decide.

    Raises `UsageError` where the folders are not the shards of one run, each there once and finished; nothing is written then.
    """
    with ExitStack() as held:
        for folder in {folder.resolve() for folder in folders}:  # one that is given twice has an error of its own
            held.enter_context(locked(folder))
        header = merged_header([(str(folder), RunStore(folder).header) for folder in folders])
        cells = stored_plan(RunStore(folders[0]))
        for folder in folders:
            _refuse_unfinished(_opened(folder), cells)
        prepare_folder(out)
        held.enter_context(locked(out))
        whole = _begin_merged(out, header, RunStore(folders[0]))
        for folder in folders:
            _copy(_opened(folder), whole, cells)
        _leave_out(whole, cells)
        watch.begin(out)
        return decide_and_report(whole, cells, watch=watch)


def _opened(folder: Path) -> RunStore:
    """A shard with its answers; one at a time is held, since together they may be a large run."""
    store = RunStore(folder)
    store.load()
    return store


def _own(store: RunStore, cells: Sequence[Cell]) -> Iterator[tuple[Side, tuple[Cell, ...]]]:
    """What a shard was to ask, side by side."""
    shard = parse_shard(store.header.identity.shard, {})
    yield "candidate", shard.of(cells)
    if store.candidate("baseline") is not None:
        yield "baseline", shard.compared(cells)


def _refuse_unfinished(store: RunStore, cells: Sequence[Cell]) -> None:
    """A shard that was killed, or is not run yet, would leave cells open: the verdict would not be the run's."""
    open_ = items = 0
    for side, own in _own(store, cells):
        for cell in own:
            items += len(cell.cases)
            open_ += sum(store.logs[side].outcomes(case.id, cell.decoding.samples) is None for case in cell.cases)
    if open_:
        raise UsageError(
            f"{store.folder}: shard {store.header.identity.shard} is not finished",
            expected=f"answers and judgements of its {items} items",
            found=f"none of {open_} of them",
            mend="run the shard's command again: it resumes",
        )


def _begin_merged(out: Path, header: RunHeader, first: RunStore) -> RunStore:
    """Begin the whole run, or open an earlier merge of it, with the inputs that a shard kept."""
    policy, candidate = first.policy(), first.candidate()
    if candidate is None:
        raise RunStoreError(f"{first.folder} has no candidate.json", mend="run the shard again in another --out")
    inputs = Inputs(
        policy=policy,
        suite=load_suite(first.folder / "suite"),
        candidate=candidate,
        baseline=first.candidate("baseline"),
        judge=make_judge(policy.judge),
        today=header.begun_on,
        questions=stored_questions(first),
        overlap=first.overlap(),
    )
    whole = begin(inputs, header.model_copy(update={"engine": None}), out)
    if whole.header.begun_on != header.begun_on:
        raise RunStoreError(
            f"{out} holds a run that began on another day than these shards' last one",
            expected=header.begun_on,
            found=whole.header.begun_on,
            mend="choose another OUT",
        )
    if header.engine is not None:
        whole.set_engine(header.engine)
    return whole


def _copy(store: RunStore, whole: RunStore, cells: Sequence[Cell]) -> None:
    """Copy a shard's answers and judgements, batch by batch; what an earlier merge copied is left as it is."""
    for side, own in _own(store, cells):
        source, target = store.logs[side], whole.logs[side]
        places = _places(own)
        while batch := list(islice(places, BATCH)):
            answers = [a for p in batch if (a := source.answer(p)) is not None and a != target.answer(p)]
            opinions = [o for p in batch if (o := source.opinion(p)) is not None and o != target.opinion(p)]
            if answers or opinions:
                whole.drop_verdict()
                target.add_answers(answers)
                target.add_opinions(opinions)


def _leave_out(whole: RunStore, cells: tuple[Cell, ...]) -> None:
    """Drop what one process would not have asked: cells beside a task that turned out not to be evaluable."""
    log = whole.logs["candidate"]
    kept = {cell.id for cell in wanted(cells, Evidence(cells, whole.policy(), log).walks)}
    if gone := {place for place in _places([cell for cell in cells if cell.id not in kept]) if log.has_answer(place)}:
        whole.drop_verdict()
        log.forget(gone)


def _places(cells: Iterable[Cell]) -> Iterator[Place]:
    """Every (case id, sample) of the cells."""
    for cell in cells:
        for case in cell.cases:
            for sample in range(cell.decoding.samples):
                yield case.id, sample
