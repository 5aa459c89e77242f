"""A trained guard as ONNX: the folder that `GuardModel.save` wrote in, `model.onnx` (fp32) and `tokenizer.json` out.

The graph is compared with torch over batches of several sizes and lengths before it counts. What the exporter notes about the
machine it ran on (stack traces with paths) is removed, so the same weights give the same bytes.
"""

import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from guard_server.bundle import MODEL, TOKENIZER
from guard_server.errors import BundleError
from guard_server.wordpiece import readable

if TYPE_CHECKING:
    from guard_server.training.model import GuardModel

OPSET: Final = 20
PARITY: Final = 1e-4
"""Greatest difference of a logit between torch and the graph."""
OUTPUTS: Final = ("task", "harm", "category", "response")
BATCHES: Final = (1, 3)
LENGTHS: Final = (3, 9, 40, 160)
Batch = dict[str, NDArray[np.int64]]


class ParityError(BundleError):
    """The exported graph computes something else than the trained model."""


@dataclass(frozen=True, slots=True)
class Export:
    """What was written."""

    model: Path
    tokenizer: Path
    opset: int
    parity: float
    """Greatest difference of a logit from torch's over all batches that were compared."""


def run_export(model: Path, out: Path) -> Export:
    """Export a folder written by `GuardModel.save` into the folder `out`; raises `ParityError`, `FileNotFoundError`."""
    from guard_server.training.model import GuardModel

    guard = GuardModel.load(model)
    out.mkdir(parents=True, exist_ok=True)
    graph = export_graph(guard)
    write_graph(graph, out / MODEL)
    difference = parity(guard, out / MODEL)
    export_tokenizer(model / TOKENIZER, out / TOKENIZER)
    return Export(out / MODEL, out / TOKENIZER, _opset(graph), difference)


def export_graph(guard: "GuardModel") -> onnx.ModelProto:
    """The model's graph with free batch and length, the outputs named as the bundle format names them."""
    names = input_names(guard)
    example = _example(guard, np.random.default_rng(0), 2, 16)
    arguments = tuple(torch.from_numpy(example[name]) for name in names)
    batch, tokens = torch.export.Dim("batch", min=1), torch.export.Dim("tokens", min=2)
    with _quiet():
        program = torch.onnx.export(
            guard.eval(),
            arguments,
            input_names=names,
            output_names=list(OUTPUTS),
            dynamic_shapes=tuple({0: batch, 1: tokens} for _ in names),
            opset_version=OPSET,
            dynamo=True,
        )
    if program is None:
        msg = "the exporter gave no graph"
        raise ParityError(msg)
    graph = program.model_proto
    _strip(graph)
    return graph


def write_graph(graph: onnx.ModelProto, path: Path) -> None:
    """Write a graph, its bytes depending on its content alone."""
    path.write_bytes(graph.SerializeToString(deterministic=True))


def parity(guard: "GuardModel", path: Path) -> float:
    """The greatest difference of a logit over `BATCHES` x `LENGTHS`; raises `ParityError` beyond `PARITY`."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    random = np.random.default_rng(1)
    worst = 0.0
    for batch, tokens in product(BATCHES, LENGTHS):
        inputs = _example(guard, random, batch, min(tokens, positions(guard)))
        with torch.inference_mode():
            expected = guard(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        difference = _difference(expected, session.run(list(OUTPUTS), dict(inputs)))
        worst = max(worst, difference)
        if not difference <= PARITY:
            msg = f"ONNX and torch differ by {difference:.2g} at batch {batch}, {tokens} tokens; at most {PARITY:g} is allowed"
            raise ParityError(msg)
    return worst


def input_names(guard: "GuardModel") -> list[str]:
    """The graph's inputs, in order."""
    return ["input_ids", "attention_mask", *(["token_type_ids"] if guard.takes_types else [])]


def positions(guard: "GuardModel") -> int:
    """How many tokens the encoder can take; RoBERTa's kind counts its positions from behind the padding id."""
    config = guard.encoder.config
    offset = int(config.pad_token_id or 0) + 1 if config.model_type in {"roberta", "xlm-roberta", "camembert"} else 0
    return int(config.max_position_embeddings) - offset


def export_tokenizer(source: Path, target: Path) -> None:
    """Copy a tokenizer.json with truncation and padding off, and WordPiece's blind spots mended (`wordpiece.readable`)."""
    content = json.loads(readable(source.read_bytes()))
    content["truncation"] = content["padding"] = None
    target.write_text(json.dumps(content, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def _example(guard: "GuardModel", random: np.random.Generator, batch: int, tokens: int) -> Batch:
    """Random ids, the later rows padded at their end; the second half of each text typed as an answer where there are types."""
    shape = (batch, tokens)
    ids = random.integers(5, int(guard.encoder.config.vocab_size), shape)
    mask = np.ones(shape, dtype=np.int64)
    for row in range(1, batch):
        mask[row, max(2, tokens - row * tokens // 4) :] = 0
    inputs: Batch = {"input_ids": ids, "attention_mask": mask}
    if guard.shape.separator is not None:
        ids[:, tokens // 3] = guard.shape.separator
    if guard.takes_types:
        inputs["token_type_ids"] = np.broadcast_to(np.arange(tokens) >= tokens // 2, shape).astype(np.int64)
    if batch > 1 and guard.takes_types:
        inputs["token_type_ids"] = inputs["token_type_ids"].copy()
        inputs["token_type_ids"][1] = 0
    return inputs


def _difference(expected: tuple[Tensor, ...], found: list[NDArray[np.float32]]) -> float:
    """The greatest absolute difference; infinite where a shape differs or a logit is not a number."""
    worst = 0.0
    for want, have in zip(expected, found, strict=True):
        if tuple(want.shape) != have.shape or not np.isfinite(have).all():
            return float("inf")
        worst = max(worst, float(np.abs(want.numpy() - have).max()))
    return worst


def _strip(graph: onnx.ModelProto) -> None:
    """Remove what says nothing of the computation: stack traces, the shapes noted beside it (they hinder quantisation)."""
    del graph.metadata_props[:]
    graph.doc_string = ""
    for part in (graph.graph, *graph.functions):
        del part.metadata_props[:]
        del part.value_info[:]
        part.doc_string = ""
        for node in part.node:
            del node.metadata_props[:]
            node.doc_string = ""
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.initializer):
        del value.metadata_props[:]


def _opset(graph: onnx.ModelProto) -> int:
    return next(int(entry.version) for entry in graph.opset_import if entry.domain in {"", "ai.onnx"})


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints its progress and warns of its own internals; its errors still come through."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
