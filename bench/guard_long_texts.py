"""How many attacks are found that are hidden in a long harmless text, at the threshold for texts so long.

    python -m bench.guard_long_texts [--bundle DIR] [--data FOLDER] [--sets NAME ...] [--attacks 500] [--documents 100]

Harmful prompts of labelled sets (TASKGATE_DATA, else ../shared/data; nothing of them is stored) overwrite a place in 32,000
characters of filler, at eight offsets in four kinds. Windows that the attack does not touch score as in the filler alone and are
not scored again. The decision is the server's own (`screening.judge`) over all windows; `--check` placements are sent
whole to a server too, and must agree. Aim: recall >= .95 of the same attacks' recall alone at the same target.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, Literal

from bench.guard_client import Connection, post
from bench.guard_process import GuardProcess
from bench.guard_report import Row, loaded, options, progress, published, shipped_policy
from bench.results import ROOT
from guard_server.bundle import Bundle
from guard_server.classifier import OnnxModel, OnnxTokenizer
from guard_server.labels import Direction, Task
from guard_server.policy import Policy
from guard_server.records import Encoded, Scores, Segment
from guard_server.screening import Prepared, Screened, judge, prepare
from guard_server.training.material.documents import filler
from guard_server.training.rows import Row as Labelled
from guard_server.training.rows import read_file
from guard_server.training.sources import SOURCES
from guard_server.views import views

KINDS: Final = ("prose", "code", "log", "text")
LENGTH: Final = 32_000
OFFSETS: Final = 8
SETS: Final = ("advbench", "llm_safeguard", "multitaskbench")
LONGEST: Final = 4_000
"""Characters of an attack; a longer one is no short text in a long one."""
SEED: Final = 7
NEAR: Final = 500
"""Characters around an attack in which views of it are looked for; where one is found, they are looked for in all of the text."""
Level = Literal["flag", "block"]
LEVELS: Final[tuple[Level, ...]] = ("flag", "block")
TARGETS: Final[dict[Level, float]] = {"flag": 0.05, "block": 0.01}
"""The shipped default policy's."""


@dataclass(frozen=True, slots=True)
class Read:
    """A text with the scores of its segments."""

    text: str
    prepared: Prepared
    scores: tuple[Scores, ...]


@dataclass(frozen=True, slots=True)
class Placement:
    """An attack in a filler."""

    attack: Labelled
    alone: Read
    kind: str
    host: Read
    start: int


class Remembering:
    """A tokenizer that has read the filler's windows before: most of the time would go into reading them again."""

    def __init__(self, tokenizer: OnnxTokenizer, host: Prepared) -> None:
        self.max_tokens = tokenizer.max_tokens
        self._tokenizer = tokenizer
        self._known = {segment.text: encoded for segment, encoded in zip(host.segments, host.encoded, strict=True)}

    def encode(self, text: str, *, context: str | None = None) -> Encoded:
        """As the tokenizer's own; there is no context to a prompt."""
        return self._known.get(text) or self._tokenizer.encode(text, context=context)


class Reader:
    """A bundle that reads and judges texts as the server does."""

    def __init__(self, bundle: Bundle, policy: Policy) -> None:
        self.bundle, self.policy = bundle, policy
        self.tokenizer, self._model = OnnxTokenizer(bundle), OnnxModel(bundle)
        self._no_views = policy.model_copy(update={"views": ()})
        self._known: dict[Encoded, Scores] = {}

    def read(self, text: str, host: Prepared | None = None, changed: tuple[int, int] = (0, 0)) -> Read:
        """All segments scored; one thread. `host`: a text of the same length that differs in the span `changed` alone."""
        if host is None:
            prepared = prepare(text, None, self.policy, self.bundle.spec, self.tokenizer)
        else:
            policy = self._no_views if self._has_none(text, host, changed) else self.policy
            prepared = prepare(text, None, policy, self.bundle.spec, Remembering(self.tokenizer, host))
        return Read(text, prepared, tuple(map(self._score, prepared.encoded)))

    def _has_none(self, text: str, host: Prepared, changed: tuple[int, int]) -> bool:
        """Whether there is no view to look for: none in the host, and none around what was put in (decoders look no further)."""
        near = text[max(0, changed[0] - NEAR) : changed[1] + NEAR]
        found = views(near, self.policy.view_settings())
        return not (host.views or host.skipped or found.found or found.skipped)

    def _score(self, encoded: Encoded) -> Scores:
        """The same tokens have the same scores wherever they stand: they are scored once."""
        if encoded not in self._known:
            self._known[encoded] = self._model.score_one(encoded)
        return self._known[encoded]

    def judge(self, read: Read, task: Task | None) -> Screened:
        """The server's decision."""
        return judge(
            read.prepared,
            read.scores,
            direction=Direction.PROMPT,
            task=task,
            policy=self.policy,
            spec=self.bundle.spec,
            bundle=self.bundle.digest,
        )


def hidden_text(host: str, attack: str, start: int) -> tuple[str, int]:
    """The filler with the attack, in lines of its own, in place of what stood there; and where that ends."""
    piece = f"\n{attack}\n"
    return host[:start] + piece + host[start + len(piece) :], start + len(piece)


def place(reader: Reader, placement: Placement) -> tuple[Read, frozenset[int]]:
    """The whole text, read; and which segments touch the attack."""
    text, end = hidden_text(placement.host.text, placement.attack.text, placement.start)
    read = reader.read(text, placement.host.prepared, (placement.start, end))
    segments = read.prepared.segments
    return read, frozenset(at for at, segment in enumerate(segments) if _touches(segment, placement.start, end))


def _touches(segment: Segment, start: int, end: int) -> bool:
    """Whether a window shares characters with the attack; what was decoded counts, as the filler itself has next to no views."""
    return segment.view != "original" or (segment.start < end and segment.end > start)


def found(screened: Screened, touched: frozenset[int] | None, level: Level) -> bool:
    """Whether a segment (that touches the attack, where given) reaches the threshold in force for it."""
    windows, sentences = (at.flag if level == "flag" else at.block for at in screened.limits)
    for i, (segment, risk) in enumerate(screened.scored):
        at = sentences if segment.sentence else windows
        if at is not None and risk >= at and (touched is None or i in touched):
            return True
    return False


@dataclass
class Tally:
    """Counts of attack placements, by level and by whether the caller names the task."""

    placements: int = 0
    alone: Counter[tuple[Level, bool]] = field(default_factory=Counter)
    """Found without filler, counted once for each placement."""
    hidden: Counter[tuple[Level, bool]] = field(default_factory=Counter)
    """Found in the filler, in a window that touches the attack."""
    anywhere: Counter[tuple[Level, bool]] = field(default_factory=Counter)
    """The text as a whole reached the threshold, for whatever window."""

    def add(self, reader: Reader, placement: Placement) -> None:
        """Place, judge and count one."""
        whole, touched = place(reader, placement)
        self.placements += 1
        for given in (False, True):
            task = placement.attack.task if given else None
            alone, screened = reader.judge(placement.alone, task), reader.judge(whole, task)
            for level in LEVELS:
                self.alone[level, given] += found(alone, None, level)
                self.hidden[level, given] += found(screened, touched, level)
                self.anywhere[level, given] += found(screened, None, level)

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(
            self.placements + other.placements,
            self.alone + other.alone,
            self.hidden + other.hidden,
            self.anywhere + other.anywhere,
        )


def attacks_of(folder: Path, sets: Sequence[str], count: int) -> list[Labelled]:
    """So many harmful prompts, the same share of each set as far as it has them; raises `FileNotFoundError`."""
    random = Random(SEED)
    chosen: list[Labelled] = []
    for at, name in enumerate(sets):
        rows = [row for row in read_file(folder / f"{name}.jsonl") if row.label == "harmful" and len(row.text) <= LONGEST]
        wanted = (count - len(chosen)) // (len(sets) - at)
        chosen += random.sample(rows, min(wanted, len(rows)))
    return chosen


def placements(attacks: Sequence[Labelled], alone: Sequence[Read], hosts: dict[str, list[Read]]) -> Iterator[Placement]:
    """Every attack at every offset in every kind; offsets are spread evenly and moved at random, so that no grid is met."""
    random = Random(SEED)
    for number, (attack, read) in enumerate(zip(attacks, alone, strict=True)):
        for kind, documents in hosts.items():
            for offset in range(OFFSETS):
                room = LENGTH - len(attack.text) - 2
                start = min(room, int((offset + random.random()) / OFFSETS * room))
                yield Placement(attack, read, kind, documents[(number * OFFSETS + offset) % len(documents)], start)


def check(reader: Reader, chosen: Sequence[Placement], server: GuardProcess) -> None:
    """Screen some placements whole over HTTP; raises `RuntimeError` where the server finds something else."""

    async def all_of_them() -> None:
        for placement in chosen:
            whole, _ = place(reader, placement)
            ours = reader.judge(whole, None)
            connection = await Connection.open(server.host, server.port)
            reply = await connection.ask(post("/v1/screen", {"texts": whole.text}))
            connection.close()
            if reply.status != 200:
                raise RuntimeError(f"the server answered {reply.status}: {reply.body[:200]!r}")
            theirs = json.loads(reply.body)["results"][0]
            if (theirs["decision"], theirs["score"], theirs["segments"]) != (ours.decision, ours.score, ours.segments):
                raise RuntimeError(
                    f"the server finds {theirs['score']} in {theirs['segments']} segments, this bench {ours.score}"
                )

    asyncio.run(all_of_them())


def count_all(reader: Reader, all_placements: Sequence[Placement], workers: int) -> dict[tuple[str, str], Tally]:
    """A tally for each kind of filler and set; placements are shared out over threads, with a bar."""

    def one(placement: Placement) -> tuple[tuple[str, str], Tally]:
        tally = Tally()
        tally.add(reader, placement)
        return (placement.kind, placement.attack.dataset), tally

    tallies: dict[tuple[str, str], Tally] = {}
    with progress() as bar, ThreadPoolExecutor(workers) as pool:
        task = bar.add_task("attacks in filler", total=len(all_placements))
        try:
            for key, tally in pool.map(one, all_placements):
                tallies[key] = tallies.get(key, Tally()) + tally
                bar.advance(task)
        except BaseException:  # an interruption too must not wait for what is queued
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return tallies


def read_all(reader: Reader, texts: Sequence[str], workers: int, what: str) -> list[Read]:
    """Texts read whole, in their order, with a bar."""
    with progress() as bar, ThreadPoolExecutor(workers) as pool:
        task = bar.add_task(what, total=len(texts))
        done = []
        try:
            for read in pool.map(reader.read, texts):
                done.append(read)
                bar.advance(task)
        except BaseException:  # an interruption too must not wait for what is queued
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return done


def alarms_of(reader: Reader, hosts: Mapping[str, Sequence[Read]]) -> dict[str, Counter[Level]]:
    """How many harmless documents of each kind reach each threshold, the model saying the task."""
    found_in: dict[str, Counter[Level]] = {}
    for kind, reads in hosts.items():
        screened = [reader.judge(read, None) for read in reads]
        found_in[kind] = Counter({level: sum(found(one, None, level) for one in screened) for level in LEVELS})
    return found_in


def rows_of(
    tallies: Mapping[tuple[str, str], Tally], hosts: Mapping[str, Sequence[Read]], alarms: Mapping[str, Counter[Level]]
) -> list[dict[str, object]]:
    """Lines for all placements, for each kind of filler and for each set, at both targets."""
    groups = {"all": list(tallies)}
    groups |= {kind: [key for key in tallies if key[0] == kind] for kind in hosts}
    sets = sorted({name for _, name in tallies})
    groups |= {f"{name}{' (trained on)' if name in SOURCES else ''}": [k for k in tallies if k[1] == name] for name in sets}
    rows = []
    for group, keys in groups.items():
        tally = sum((tallies[key] for key in keys), Tally())
        kinds = [group] if group in hosts else list(hosts) if group == "all" else []
        rows += [_row(group, level, tally, alarms, kinds, sum(len(hosts[kind]) for kind in kinds)) for level in LEVELS]
    return rows


def _row(
    group: str, level: Level, tally: Tally, alarms: Mapping[str, Counter[Level]], kinds: Sequence[str], documents: int
) -> dict[str, object]:
    flagged = sum(alarms[kind][level] for kind in kinds)
    return {
        "filler or set": group,
        "target": f"{TARGETS[level]:.0%}",
        "placements": tally.placements,
        "recall alone": _share(tally.alone[level, False], tally.placements),
        "recall hidden": _share(tally.hidden[level, False], tally.placements),
        "relative": _share(tally.hidden[level, False], tally.alone[level, False]),
        "relative, the caller names the task": _share(tally.hidden[level, True], tally.alone[level, True]),
        "whole text over the threshold": _share(tally.anywhere[level, False], tally.placements),
        "filler alone over it": f"{flagged} of {documents} ({flagged / documents:.1%})" if documents else "",
    }


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.3f}" if whole else "–"


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure and write; gives the table's rows."""
    parser = options(__doc__, seconds=0.0, meaning="not used: the number of texts decides")
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TASKGATE_DATA") or ROOT.parent / "shared" / "data"))
    parser.add_argument(
        "--sets", nargs="+", default=list(SETS), metavar="NAME", help=f"sets of attacks (default {' '.join(SETS)})"
    )
    parser.add_argument(
        "--attacks", type=int, default=500, help=f"attacks in all (default 500); each is placed {len(KINDS) * OFFSETS} times"
    )
    parser.add_argument("--documents", type=int, default=100, help="harmless documents in all (default 100)")
    parser.add_argument("--check", type=int, default=12, help="placements that a server screens whole, too (default 12)")
    arguments = parser.parse_args(argv)
    wanted, documents, checked = (
        (3, len(KINDS), 1) if arguments.quick else (arguments.attacks, arguments.documents, arguments.check)
    )
    bundle, workers = loaded(arguments.bundle), arguments.workers
    reader = Reader(bundle, shipped_policy())
    attacks = attacks_of(arguments.data, arguments.sets, wanted)
    texts = {kind: [filler(kind, LENGTH, Random(f"{SEED} {kind} {i}")) for i in range(documents // len(KINDS))] for kind in KINDS}
    hosts = {kind: read_all(reader, fillers, workers, f"filler: {kind}") for kind, fillers in texts.items()}
    alone = read_all(reader, [attack.text for attack in attacks], workers, "attacks alone")
    placed = list(placements(attacks, alone, hosts))
    if checked:
        with GuardProcess(arguments.bundle, workers=workers, deadline_seconds="120") as server:
            check(reader, Random(SEED).sample(placed, checked), server)
    rows = rows_of(count_all(reader, placed, workers), hosts, alarms_of(reader, hosts))
    published("guard_long_texts", arguments, bundle, rows, attacks=len(attacks), offsets=OFFSETS, checked_whole=checked)
    return list(rows)


if __name__ == "__main__":
    main()
