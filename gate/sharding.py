"""Which part of a run a shard is: `i/n` takes every n-th item of each cell's committed order, from the i-th on. Pure.

In: what the user wrote, cells, the headers of shards' folders. Out: a shard, its cells, and whether the folders make one run. A
shard asks its items in full: where a test would have stopped is known only when the shards are read together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gate.cells import Cell, paired_cells
from gate.errors import UsageError
from gate.run_store import RunHeader, RunIdentity

MOST = 100_000
"""Most shards of a run: Kubernetes' own limit on the completions of an Indexed Job."""
INDEX_VARIABLE = "JOB_COMPLETION_INDEX"
"""Where Kubernetes tells the pod of an Indexed Job which one it is, from 0 on."""


@dataclass(frozen=True)
class Shard:
    """The `index`-th of `count` shards, from 1 on."""

    index: int
    count: int

    def __str__(self) -> str:
        """`i/n`, as it is written on the command line and in a shard's header."""
        return f"{self.index}/{self.count}"

    def of(self, cells: Sequence[Cell]) -> tuple[Cell, ...]:
        """The shard's items of every cell, all of which are asked; empty where there are fewer items than shards."""
        return tuple(replace(cell, cases=cell.cases[self.index - 1 :: self.count], sequential=False) for cell in cells)

    def compared(self, cells: Sequence[Cell]) -> tuple[Cell, ...]:
        """What a baseline is asked in this shard: all its items that can be, since the deciding ones are not known yet."""
        return self.of(paired_cells(cells, lambda cell: len(cell.cases)))


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """`i/n` with i from 1 to n, or `auto/n`, where the environment's job index (from 0 on) says which. Raises `UsageError`."""
    index, sign, count = text.strip().partition("/")
    number = _number(count)
    if not sign or not 1 <= number <= MOST:
        raise _not_a_shard(text)
    if index == "auto":
        found = environment.get(INDEX_VARIABLE, "")
        place = _number(found) + 1
        if not 1 <= place <= number:
            raise UsageError(
                f"--shard {text}: the environment does not say which shard this is",
                expected=f"{INDEX_VARIABLE} from 0 to {number - 1}, as Kubernetes sets it in the pods of an Indexed Job",
                found=repr(found) if found else "nothing",
                mend=f"run it as an Indexed Job with completions: {number}, or write --shard i/{number}",
            )
        return Shard(place, number)
    if not 1 <= _number(index) <= number:
        raise _not_a_shard(text)
    return Shard(_number(index), number)


def shard_header(header: RunHeader, shard: Shard) -> RunHeader:
    """The header of a shard of the run that `header` is about."""
    return header.model_copy(update={"identity": header.identity.model_copy(update={"shard": str(shard)})})


def merged_header(headers: Sequence[tuple[str, RunHeader]]) -> RunHeader:
    """The header of the run that these shards' folders (name, header) make together. Raises `UsageError` where they make none.

    It begins on the day of the last shard: a waiver that expired before then lifts nothing.
    """
    if not headers:
        raise UsageError("no shards are given", expected="the folders of all shards of a run", mend="gate merge OUT SHARD...")
    shards = [(name, _shard_of(name, header)) for name, header in headers]
    (_, first), *others = headers
    for other in others:
        _same(headers[0], other)
    _each_once(shards)
    whole = first.identity.model_copy(update={"shard": ""})
    return first.model_copy(update={"identity": whole, "begun_on": max(header.begun_on for _, header in headers)})


def _shard_of(name: str, header: RunHeader) -> Shard:
    if not header.identity.shard:
        raise UsageError(
            f"{name} is no shard",
            expected="the folder of a gate check --shard i/n",
            found="the folder of a whole run",
            mend="leave it out",
        )
    return parse_shard(header.identity.shard, {})


def _same(first: tuple[str, RunHeader], second: tuple[str, RunHeader]) -> None:
    """Two shards of one run differ in nothing that an answer or the verdict depends on, but in which shard they are."""
    ones, others = _parts(first[1]), _parts(second[1])
    if different := [name for name in ones if ones[name] != others[name]]:
        raise UsageError(
            f"{first[0]} and {second[0]} are not shards of one run: they differ in {', '.join(different)}",
            expected="shards of the same candidate, baseline, policy, suite, order, judge, engine and version of taskgate",
            found="; ".join(f"{name}: {ones[name][:60] or 'none'} and {others[name][:60] or 'none'}" for name in different),
            mend="give the folders of one run's shards",
        )


def _parts(header: RunHeader) -> dict[str, str]:
    """What must be the same in all shards: name → value."""
    names = [name for name in RunIdentity.model_fields if name != "shard"]
    engine = " ".join(header.engine.model_dump().values()) if header.engine else ""
    # Another version of this program may render other prompts, or judge otherwise.
    begun = {"engine": engine, "tool_version": header.tool_version, "judge_calibrated": str(header.judge_calibrated)}
    return {name.removesuffix("_digest"): str(getattr(header.identity, name)) for name in names} | begun


def _each_once(shards: Sequence[tuple[str, Shard]]) -> None:
    """All shards split the run into the same number, and each of them is there once."""
    counts = sorted({shard.count for _, shard in shards})
    if len(counts) > 1:
        raise UsageError(
            "the folders are shards of different splits",
            expected="shards i/n with the same n",
            found=", ".join(f"{name}: {shard}" for name, shard in shards),
            mend="give the shards of one split",
        )
    places = Counter(shard.index for _, shard in shards)
    if double := {index for index, times in places.items() if times > 1}:
        raise UsageError(
            f"{len(double)} shard(s) are given twice",
            expected="each shard once",
            found=", ".join(f"{name}: {shard}" for name, shard in shards if shard.index in double),
            mend="leave one of them out",
        )
    if missing := sorted(set(range(1, counts[0] + 1)) - set(places)):
        shown = ", ".join(f"{index}/{counts[0]}" for index in missing[:10]) + (" …" if len(missing) > 10 else "")
        raise UsageError(
            f"{len(missing)} of {counts[0]} shards are missing: {shown}",
            expected=f"the folders of all {counts[0]} shards",
            found=f"{len(places)} of them",
            mend="run the missing shards and give their folders too",
        )


def _number(text: str) -> int:
    """A plain decimal number; -1 for anything else."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 9 else -1


def _not_a_shard(text: str) -> UsageError:
    return UsageError(
        f"--shard {text} is no shard",
        expected=f"i/n with i from 1 to n and n up to {MOST}, or auto/n in an Indexed Job",
        found=text,
        mend="e.g. --shard 1/4",
    )
