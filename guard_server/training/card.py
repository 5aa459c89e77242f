"""The evaluation card of a bundle: what it was made from and what was measured. In: the build's results. Out: card.json, CARD.md.

Nothing here depends on the clock or the machine's speed, so that the same inputs give the same bundle; latencies stand beside it.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict, JsonValue

from guard_server.bundle_spec import Threshold
from guard_server.labels import Direction
from guard_server.training.calibrate import Fit
from guard_server.training.figures import RECALL, Evaluation, Group, Rate
from guard_server.training.quantise import AUROC_LOSS, FLIPS, Attempt
from guard_server.training.thresholds import Basis, LeftOut

LIMITS: Final = (
    "Figures on left-out sets come from models of the same recipe, one per fold, each trained without the fold's sets; the file "
    "that ships was trained on all of them, so there is no left-out figure of its own weights on these sets.",
    "Figures on never-trained sets are of the file that ships, at its own thresholds.",
    "Thresholds for one segment are quantiles of left-out harmless texts of one window, "
    "raised where the quantised file scores harmless texts higher than the full-precision one. Sets weigh the same from 100 "
    "texts on; our own material weighs at most half.",
    "Thresholds for more segments are set on long documents scored by the file that ships. These are our own filler, text of a "
    "kind it was trained on, so on other long documents more may be flagged than the target says; many requests joined to one "
    "text are flagged about as often as the most suspicious of them.",
    "Probabilities assume equally many harmful and harmless texts. Real traffic holds fewer harmful ones: read them as scores.",
    "Own material was written by few hands: figures on it say little about text written by others.",
    "An attacker who can try often can find texts that pass. This is one layer among several.",
)


HEAD: Final = (
    "head", "task or set", "positive", "negative", "AUROC", "AP", "recall* 1 %", "recall* 5 %", "recall at 5 %", "FPR at 5 %"
)  # fmt: skip


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSet(_Record):
    """A set of foreign texts and what it served for."""

    name: str
    use: str
    rows: int
    licence: str
    origin: str


class LongRate(_Record):
    """Harmless long texts that no model was trained on, at the bundle's thresholds for their length."""

    segments: int
    target: float
    reached: Rate | None


class Card(_Record):
    """`card.json`."""

    name: str
    version: str
    encoder: str
    precision: str
    model_bytes: int
    seed: int
    opset: int
    parity: float
    """Greatest difference of a logit between torch and the fp32 graph."""
    training: dict[str, JsonValue]
    """The trainer's own record, as it wrote it."""
    data: tuple[DataSet, ...]
    gate_texts: str
    attempts: tuple[Attempt, ...]
    calibration: tuple[Fit, ...]
    thresholds: tuple[Basis, ...]
    left_out: Evaluation | None
    """Of the fold models, on foreign sets that each had not seen."""
    own: Evaluation | None
    """Of the fold models, on families of our own material that each had not seen."""
    left_out_rates: tuple[LeftOut, ...]
    never_trained: Evaluation | None
    """Of the file that ships, on sets no model was trained on; None where no data folder was given."""
    long_unseen: tuple[LongRate, ...]
    """Of the file that ships, on harmless prompts of such sets, joined to long texts."""
    limits: tuple[str, ...] = LIMITS


def render(card: Card, thresholds: Sequence[Threshold]) -> str:
    """CARD.md."""
    return "\n".join(_lines(card, thresholds)) + "\n"


def _lines(card: Card, thresholds: Sequence[Threshold]) -> Iterator[str]:
    yield f"# {card.name} {card.version}\n"
    yield f"Built on {card.encoder}. Precision {card.precision}, model.onnx {card.model_bytes / 1e6:.1f} MB, seed {card.seed}, "
    yield f"ONNX opset {card.opset}; the fp32 graph differs from torch by at most {card.parity:.1e}. All figures: card.json.\n"
    if card.never_trained is not None:
        yield "## On sets that were never trained on (the file that ships)\n"
        yield from _evaluation(card.never_trained)
    if card.left_out is not None:
        yield "## On left-out sets (models trained without them)\n"
        yield "The thresholds were set on these harmless texts; the section on thresholds says how they do without a set.\n"
        yield from _evaluation(card.left_out)
    if card.own is not None:
        yield "## Own data, families left out (written by few hands)\n"
        yield from _table(HEAD, map(_group, card.own.groups))
    yield "## Precision\n"
    yield f"A variant fails if a task loses more than {AUROC_LOSS:g} AUROC, or if more than {FLIPS:.0%} of its decisions "
    yield "change at the threshold for 5 %, which each file has of its own. "
    yield f"Measured on {card.gate_texts}.\n"
    yield from _attempts(card.attempts)
    yield "## Calibration (left-out sets)\n"
    yield from _calibration(card.calibration)
    yield "## Thresholds\n"
    yield from _thresholds(card.thresholds, thresholds)
    yield "Thresholds set again without a set, and the share of that set's harmless texts that reaches them:\n"
    yield from _table(
        ("set", "direction", "task", "target", "n", "reaches it"),
        ((r.dataset, r.direction, r.task, f"{r.target:g}", str(r.n), f"{r.rate:.3f}") for r in card.left_out_rates),
    )
    if card.long_unseen:
        yield "Harmless prompts of never-trained sets, joined to long texts; these had no part in the thresholds:\n"
        yield from _table(
            ("segments", "target", "reach the threshold", "n"),
            (
                (str(r.segments), f"{r.target:g}", _rate(r.reached), str(r.reached.n if r.reached else 0))
                for r in card.long_unseen
            ),
        )
    yield "## Data\n"
    yield from _table(
        ("set", "use", "rows", "licence", "origin"), ((d.name, d.use, str(d.rows), d.licence, d.origin) for d in card.data)
    )
    yield "## Limits\n"
    yield from (f"- {limit}" for limit in card.limits)


def _evaluation(found: Evaluation) -> Iterator[str]:
    yield "Recall* is at a threshold set on these very texts; the last two columns at the bundle's thresholds (95 % intervals).\n"
    yield from _table(HEAD, map(_group, (*found.groups, *found.by_dataset)))
    yield f"Harmless prompts flagged at the score that flags {RECALL:.0%} of all harmful prompts, and at the 5 % target:\n"
    yield from _table(
        ("set", "n", f"at {RECALL:.0%} recall", "at 5 % target"),
        ((row.dataset, str(row.n), _rate(row.at_recall), _rate(row.at_target.get("0.05"))) for row in found.over_refusal),
    )
    heads = found.heads
    yield f"Task named rightly: {_rate(heads.task)}. Category: {_rate(heads.category)}. Refusal: {_rate(heads.refusal)}.\n"


def _group(group: Group) -> tuple[str, ...]:
    at = group.at[-1]
    ranks = (_number(group.auroc), _number(group.average_precision), *(_number(part.recall_here, 2) for part in group.at))
    return (group.head, group.name, str(group.positives), str(group.negatives), *ranks, _rate(at.recall), _rate(at.fpr))


def _attempts(attempts: Sequence[Attempt]) -> Iterator[str]:
    def rows() -> Iterator[tuple[str, ...]]:
        for attempt in attempts:
            yield attempt.kind, f"{attempt.bytes / 1e6:.1f}", "", "", "", "", "failed" if attempt.failed else "passed"
            for change in attempt.changes:
                verdict = ("passed" if change.passed else "failed") if change.judged else "too few to judge"
                what = f"{change.direction}, {change.task or 'all'}"
                auroc = f"{_number(change.auroc)} → {_number(change.auroc_after)}"
                yield "", "", what, str(change.texts), auroc, f"{change.flips:.1%}", verdict

    yield from _table(("variant", "MB", "texts", "n", "AUROC", "decisions changed", "verdict"), rows())


def _calibration(fits: Sequence[Fit]) -> Iterator[str]:
    yield "Expected calibration error before and after scaling; pooled: too few texts of the task, all tasks' texts scale it.\n"
    yield from _table(
        ("head", "positive", "negative", "before", "after", ""),
        (
            (
                f.head,
                str(f.positives),
                str(f.negatives),
                _number(f.error_before),
                _number(f.error_after),
                "pooled" if f.pooled else "",
            )
            for f in fits
        ),
    )


def _thresholds(bases: Sequence[Basis], thresholds: Sequence[Threshold]) -> Iterator[str]:
    at = {(t.direction, t.task, t.target_fpr): t for t in thresholds}

    def rows() -> Iterator[tuple[str, ...]]:
        for basis in bases:
            for target in sorted({t.target_fpr for t in thresholds}):
                found = at[basis.direction, basis.task, target]
                values = (_of_length(found, count) for count in (1, 8, 64, 256))
                pooled = "all tasks' texts" if basis.pooled else ""
                yield basis.direction, basis.task, f"{target:g}", str(found.benign), str(len(basis.sets)), *values, pooled

    head = ("direction", "task", "target", "harmless texts", "sets", "1 segment", "8", "64", "256", "set on")
    yield "Of a text of several segments: for its windows, then for its sentences and lines.\n"
    yield from _table(head, rows())
    for direction in Direction:
        counts = next((basis.documents for basis in bases if basis.direction is direction and basis.documents), {})
        if counts:
            yield f"- {direction}: harmless documents by number of segments: {', '.join(f'{k}: {n}' for k, n in counts.items())}"
    yield ""


def _of_length(threshold: Threshold, count: int) -> str:
    window, sentence = (threshold.for_segments(count, sentence=sentence) for sentence in (False, True))
    return f"{window:.3f}" if count == 1 else f"{window:.3f}, {sentence:.3f}"


def _table(head: Sequence[str], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in row)} |"
    yield ""


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _rate(found: Rate | None) -> str:
    return "–" if found is None else f"{found.share:.2f} [{found.low:.2f}, {found.high:.2f}]"
