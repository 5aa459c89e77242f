"""Shrinks an fp32 graph as far as keeps its judgements, and says what was tried.

In: model.onnx (fp32) and texts whose harm is labelled. Out: the smallest variant that passes the quality gate, per direction and
task: at most .01 AUROC lost and at most 2 % of decisions changed at the threshold for 5 % false positives, which each file has
of its own, because thresholds are set on the file that ships.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from sklearn.metrics import roc_auc_score

from guard_server.errors import BundleError
from guard_server.labels import TASKS, Direction, Task
from guard_server.training.compact import compact
from guard_server.training.export import write_graph
from guard_server.training.scored import Scored
from guard_server.training.thresholds import upper_quantile
from guard_server.training.weights import Floats

AUROC_LOSS: Final = 0.01
FLIPS: Final = 0.02
GATE_TARGET: Final = 0.05
LEAST: Final = 100
"""Texts that a task needs to be judged alone; all are judged together besides."""
LEAST_CLASS: Final = 20
"""Texts of either class below which an AUROC says nothing."""
LEAST_HARMLESS: Final = 60
"""Harmless texts below which their 5 % quantile is one text's chance."""
LARGEST: Final = 40_000_000
"""Bytes of a whole bundle."""
_NARROW: Final = 16
"""Layers that give at most so many numbers are heads: they cost nothing in fp32."""
Kind = Literal["int8", "int8-ffn-fp32", "stored-small", "fp32"]
KINDS: Final[tuple[Kind, ...]] = ("int8", "int8-ffn-fp32", "stored-small", "fp32")
"""In the order they are tried, which is that of their speed. `stored-small`: fp32 arithmetic on weights stored in fp16 and
embedding tables stored in int8 (`compact`)."""


COMPUTED_IN_FP32: Final = frozenset[Kind]({"stored-small", "fp32"})


class QualityError(BundleError):
    """No variant keeps the judgements within the size allowed."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a variant changed for one direction and task (None: all)."""

    direction: Direction
    task: Task | None
    texts: int
    auroc: float | None
    """Of the fp32 file; None where a class has too few texts."""
    auroc_after: float | None
    flips: float
    """Share of decisions that differ at 5 % false positives."""
    judged: bool

    @property
    def passed(self) -> bool:
        """Whether the change is small enough, or too few texts tell."""
        lost = 0.0 if self.auroc is None or self.auroc_after is None else self.auroc - self.auroc_after
        return not self.judged or (lost <= AUROC_LOSS and self.flips <= FLIPS)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One variant that was tried."""

    kind: Kind
    bytes: int
    changes: tuple[Change, ...]
    """Empty for fp32, which is the measure."""

    @property
    def failed(self) -> tuple[Change, ...]:
        """The changes that are too great."""
        return tuple(change for change in self.changes if not change.passed)


def quantise(source: Path, target: Path, kind: Kind) -> None:
    """Write the variant `kind` of the fp32 file `source`: QInt8 weights per channel, activations quantised as they come."""
    graph = onnx.load(source)
    # With the exporter's shapes noted, the quantiser's shape inference contradicts them.
    del graph.graph.value_info[:]
    if kind == "stored-small":
        graph = compact(graph)
    write_graph(graph, target)
    if kind in COMPUTED_IN_FP32:
        return
    with _quiet():
        quantize_dynamic(
            target,
            target,
            weight_type=QuantType.QInt8,
            per_channel=True,
            nodes_to_exclude=_kept(graph, feed_forward=kind == "int8-ffn-fp32"),
        )
    write_graph(onnx.load(target), target)


def compare(full: Scored, variant: Scored) -> tuple[Change, ...]:
    """What changed between two files' scores of the same texts, per direction and task, and over all tasks."""
    changes = []
    for direction in Direction:
        for task in (*TASKS, None):
            before, after = full.about_harm(direction, task), variant.about_harm(direction, task)
            if before.texts:
                changes.append(_change(direction, task, before, after))
    return tuple(changes)


def choose(
    source: Path, target: Path, score: Callable[[Path], Scored], *, largest: int = LARGEST
) -> tuple[Kind, tuple[Attempt, ...]]:
    """Write to `target` the first variant that passes, and say what was tried; `score` scores the gate's texts with a file.

    Raises `QualityError`, naming task and change, where none passes within `largest` bytes.
    """
    full = score(source)
    attempts: list[Attempt] = []
    for kind in KINDS:
        quantise(source, target, kind)
        size = target.stat().st_size
        attempts.append(Attempt(kind, size, () if kind == "fp32" else compare(full, score(target))))
        if not attempts[-1].failed and size <= largest:
            return kind, tuple(attempts)
    msg = "no variant is small and true enough: " + "; ".join(map(_reason, attempts))
    raise QualityError(msg)


def _change(direction: Direction, task: Task | None, before: Scored, after: Scored) -> Change:
    harmful = before.harmful()
    tells = min(int(harmful.sum()), int((~harmful).sum())) >= LEAST_CLASS
    first, second = _risks(before), _risks(after)
    auroc, auroc_after = (float(roc_auc_score(harmful, risk)) if tells else None for risk in (first, second))
    if harmful.all():
        # No harmless text sets a threshold: nothing can be said of decisions.
        return Change(direction, task, len(harmful), None, None, 0.0, False)
    decided, decided_after = (risk >= upper_quantile(risk[~harmful], GATE_TARGET) for risk in (first, second))
    judged = len(harmful) >= LEAST and int((~harmful).sum()) >= LEAST_HARMLESS
    flips = float((decided != decided_after).mean())
    return Change(direction, task, len(harmful), auroc, auroc_after, flips, judged)


def _risks(scored: Scored) -> Floats:
    """The logit that decides for each text's own direction and task."""
    return np.array([scored.logits.risk(text.direction, text.task)[at] for at, text in enumerate(scored.texts)])


def _kept(graph: onnx.ModelProto, *, feed_forward: bool) -> list[str]:
    """Names of the nodes that stay in fp32: the heads, and where asked the layers that lead the feed-forward part down."""
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    widths = _encoder_widths(graph)
    kept = []
    for node in graph.graph.node:
        shape = next((tuple(weights[name].dims) for name in node.input[1:2] if name in weights), ())
        if node.op_type not in {"MatMul", "Gemm"} or len(shape) != 2:
            continue
        flipped = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        entering, leaving = shape[::-1] if flipped else shape
        down = feed_forward and leaving in widths and entering > leaving
        if leaving <= _NARROW or down:
            kept.append(node.name)
    return kept


def _encoder_widths(graph: onnx.ModelProto) -> set[int]:
    """Widths of embedding tables: what the feed-forward part leads back to."""
    tables = {tensor.name: int(tensor.dims[1]) for tensor in graph.graph.initializer if len(tensor.dims) == 2}
    return {tables[node.input[0]] for node in graph.graph.node if node.op_type == "Gather" and node.input[0] in tables}


def _reason(attempt: Attempt) -> str:
    failed: Sequence[Change] = attempt.failed
    parts = []
    for change in failed:
        known = change.auroc is not None and change.auroc_after is not None
        auroc = f"AUROC {change.auroc:.3f} -> {change.auroc_after:.3f}, " if known else ""
        parts.append(f"{change.direction}/{change.task or 'all'} {auroc}{change.flips:.1%} of {change.texts} decisions changed")
    return f"{attempt.kind} ({attempt.bytes / 1e6:.1f} MB): {', '.join(parts) or 'too large'}"


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises a pre-processing step that fails on these graphs."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
