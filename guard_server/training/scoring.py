"""Scores labelled texts with an ONNX file as the server would: its preparation of a text, its session, one text at a time.

In: a folder with model.onnx and tokenizer.json and the numbers of a `BundleSpec`. Out: logits by window, or the worst window's of
each text. Decoded views are not made here: labelled texts that calibrate are read as they stand.
"""

import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from guard_server.bundle import MODEL, TOKENIZER, Bundle, VerifiedFiles
from guard_server.bundle_spec import BundleSpec
from guard_server.classifier import Logits as OneLogits
from guard_server.classifier import OnnxModel, OnnxTokenizer
from guard_server.policy import Policy
from guard_server.records import Encoded
from guard_server.screening import prepare
from guard_server.training.scored import Logits, Scored, Text
from guard_server.training.thresholds import Reading

_Item = TypeVar("_Item")
_Found = TypeVar("_Found")
AS_IT_STANDS: Final = Policy.model_validate(
    {"prompt": {"*": {"flag": "never", "block": "never"}}, "response": {"*": {"flag": "never", "block": "never"}}}
    | {"max_characters": sys.maxsize, "views": ()}
)
"""Every window of the text, however long, and no decoded view."""
Progress = Callable[[], None]
"""Called after each text."""


def _nothing() -> None: ...


class Scorer:
    """One ONNX file with its tokenizer; a model that is not a bundle yet needs no manifest."""

    def __init__(self, folder: Path, spec: BundleSpec, *, workers: int = 1) -> None:
        """`workers`: threads that share the session, one core each. Raises `BundleError` where a file can't be loaded."""
        bundle = self.bundle_of(folder, spec)
        self.spec = spec
        self.tokenizer = OnnxTokenizer(bundle)
        self.model = OnnxModel(bundle)
        self._workers = workers
        self._known: dict[Encoded, OneLogits] = {}

    @staticmethod
    def bundle_of(folder: Path, spec: BundleSpec) -> Bundle:
        """A folder with model and tokenizer as a bundle in memory: what the server's classes are made from."""
        files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (MODEL, TOKENIZER)}
        return Bundle(VerifiedFiles(folder, "", files, signed=False, verified=False), spec, {})

    def windows(self, text: str, context: str | None = None) -> Logits:
        """Logits of every segment, in reading order."""
        return self.read(text, context).logits

    def read(self, text: str, context: str | None = None) -> Reading:
        """Every segment, in reading order."""
        prepared = prepare(text, context, AS_IT_STANDS, self.spec, self.tokenizer)
        logits = stacked([self._infer(encoded) for encoded in prepared.encoded])
        return Reading(logits, np.array([segment.sentence for segment in prepared.segments], dtype=np.bool_))

    def _infer(self, encoded: Encoded) -> OneLogits:
        """Our long documents repeat their sentences: what has been read is not read again."""
        if encoded not in self._known:
            self._known[encoded] = self.model.infer_one(encoded)
        return self._known[encoded]

    def score(self, texts: Sequence[Text], progress: Progress = _nothing) -> Scored:
        """Each text with the logits of its worst window, by the logit that decides for its direction and task."""

        def worst(text: Text) -> Logits:
            found = self.windows(text.text, text.context)
            progress()
            at = int(found.risk(text.direction, text.task).argmax())
            return found.select(np.array([at]))

        return Scored(tuple(texts), Logits.joined(self._map(worst, texts)))

    def documents(self, texts: Sequence[tuple[str, str | None]], progress: Progress = _nothing) -> list[Reading]:
        """Every (text, context), read."""

        def read(one: tuple[str, str | None]) -> Reading:
            found = self.read(*one)
            progress()
            return found

        return list(self._map(read, texts))

    def _map(self, function: Callable[[_Item], _Found], items: Sequence[_Item]) -> Iterator[_Found]:
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                yield from pool.map(function, items)
            except BaseException:
                # An interruption must not wait for thousands of texts that are still queued.
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def stacked(rows: Sequence[OneLogits]) -> Logits:
    """The server's logits of single segments as arrays."""
    columns = (
        [row.task for row in rows],
        [row.harm for row in rows],
        [row.category for row in rows],
        [row.response for row in rows],
    )
    return Logits(*(np.array(column, dtype=np.float64) for column in columns))
