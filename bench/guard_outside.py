"""How often harmless long texts by others are flagged: texts that neither trained the model nor set a threshold.

    python -m bench.guard_outside [--bundle DIR] [--texts 40]

In: what every installation of Python has beside it: the standard library's modules, the topics of the language reference, and
descriptions, licences and documents of installed packages. Their first 12,000 characters are screened as the server does, under
the policy `default`, the model saying the task. Out: the table in docs/guard.md and bench/results/guard_outside.json.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from pydoc_data.topics import topics
from random import Random
from statistics import median

from bench.guard_long_texts import Read, Reader, read_all
from bench.guard_report import Row, loaded, options, published, shipped_policy
from guard_server.training.figures import rate

LONGEST = 12_000
SHORTEST = 1_000
"""Characters: a text of a single window has the threshold of one segment."""
SEED = 7


def library() -> Iterator[str]:
    """Modules of the standard library, without its tests and installed packages."""
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        yield path.read_text(encoding="utf-8", errors="replace")


def reference() -> Iterator[str]:
    """Topics of the language reference."""
    yield from (str(text) for _, text in sorted(topics.items()))


def descriptions() -> Iterator[str]:
    """What packages say of themselves."""
    yield from (str(found.metadata.json.get("description", "")) for found in _packages())


def licences() -> Iterator[str]:
    """Licence files of packages."""
    for found in _packages():
        for file in found.files or ():
            if _is_licence(file.name) and (path := Path(str(file.locate()))).is_file():
                yield path.read_text(encoding="utf-8", errors="replace")


def documents() -> Iterator[str]:
    """Markdown and reStructuredText files of packages that are no licences: notes, lists, documentation."""
    for found in _packages():
        for file in found.files or ():
            if file.suffix not in {".md", ".rst"} or any(map(_is_licence, file.parts)):
                continue
            if (path := Path(str(file.locate()))).is_file():
                yield path.read_text(encoding="utf-8", errors="replace")


def _is_licence(name: str) -> bool:
    return name.upper().startswith(("LICENSE", "LICENCE", "COPYING", "NOTICE"))


def _packages() -> list[Distribution]:
    return sorted(distributions(), key=lambda found: found.name.lower())


KINDS = {
    "modules of the standard library": library,
    "topics of the language reference": reference,
    "descriptions of packages": descriptions,
    "licences of packages": licences,
    "documents of packages": documents,
}


def sample(texts: Iterator[str], count: int) -> list[str]:
    """So many different ones of at least `SHORTEST` characters, drawn at random, each cut to `LONGEST`."""
    long = sorted({text[:LONGEST] for text in texts if len(text) >= SHORTEST})
    return Random(SEED).sample(long, min(count, len(long)))


def row_of(kind: str, reads: Sequence[Read], reader: Reader) -> Row:
    """How many texts are flagged or blocked, and blocked."""
    found = [reader.judge(read, None) for read in reads]
    blocked = sum(one.decision == "block" for one in found)
    flagged = sum(one.decision != "allow" for one in found)
    return {
        "texts": kind,
        "n": len(found),
        "characters, median": f"{median(len(read.text) for read in reads):.0f}",
        "segments, median": f"{median(one.segments for one in found):.0f}",
        "flagged or blocked (5 % target)": _share(flagged, len(found)),
        "blocked (1 % target)": _share(blocked, len(found)),
    }


def _share(hits: int, n: int) -> str:
    found = rate(hits, n)
    return "–" if found is None else f"{found.share:.2f} ({found.low:.2f}–{found.high:.2f})"


def main(argv: Sequence[str] | None = None) -> list[Row]:
    """Measure and write; gives the table's rows."""
    parser = options(__doc__, seconds=0.0, meaning="not used: the number of texts decides")
    parser.add_argument("--texts", type=int, default=40, help="texts of each kind (default 40)")
    arguments = parser.parse_args(argv)
    bundle = loaded(arguments.bundle)
    reader = Reader(bundle, shipped_policy())
    count = 2 if arguments.quick else arguments.texts
    read = {kind: read_all(reader, sample(texts(), count), arguments.workers, kind) for kind, texts in KINDS.items()}
    rows = [row_of(kind, reads, reader) for kind, reads in read.items()]
    rows.append(row_of("all", [one for reads in read.values() for one in reads], reader))
    published("guard_outside", arguments, bundle, rows, longest=LONGEST, shortest=SHORTEST)
    return rows


if __name__ == "__main__":
    main()
