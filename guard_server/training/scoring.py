"""Scores labelled texts with an ONNX file as the server would: its tokenizer, its session, its windows, one text at a time.

In: a folder with model.onnx and tokenizer.json and the numbers of a `BundleSpec`. Out: logits by window, or the worst window's of
each text. Decoded views are not made here: labelled texts that calibrate are read as they stand.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from guard_server.bundle import MODEL, TOKENIZER, Bundle, VerifiedFiles
from guard_server.bundle_spec import BundleSpec
from guard_server.classifier import Logits as OneLogits
from guard_server.classifier import OnnxModel, OnnxTokenizer
from guard_server.records import Encoded, Tokenizer
from guard_server.training.scored import Logits, Scored, Text
from guard_server.views import View, ViewSettings, views
from guard_server.windows import fit, windows

_Item = TypeVar("_Item")
Progress = Callable[[], None]
"""Called after each text."""


def _nothing() -> None: ...


class Scorer:
    """One ONNX file with its tokenizer; a model that is not a bundle yet needs no manifest."""

    def __init__(self, folder: Path, spec: BundleSpec, *, workers: int = 1) -> None:
        """`workers`: threads that share the session, one core each. Raises `BundleError` where a file can't be loaded."""
        files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (MODEL, TOKENIZER)}
        bundle = Bundle(VerifiedFiles(folder, "", files, signed=False, verified=False), spec, {})
        self.spec = spec
        self.tokenizer = OnnxTokenizer(bundle)
        self.model = OnnxModel(bundle)
        self._workers = workers

    def windows(self, text: str, context: str | None = None) -> Logits:
        """Logits of every window, in reading order."""
        return stacked([self.model.infer_one(encoded) for encoded in segments(text, context, self.spec, self.tokenizer)])

    def score(self, texts: Sequence[Text], progress: Progress = _nothing) -> Scored:
        """Each text with the logits of its worst window, by the logit that decides for its direction and task."""

        def worst(text: Text) -> Logits:
            found = self.windows(text.text, text.context)
            progress()
            at = int(found.risk(text.direction, text.task).argmax())
            return found.select(np.array([at]))

        return Scored(tuple(texts), Logits.joined(self._map(worst, texts)))

    def documents(self, texts: Sequence[tuple[str, str | None]], progress: Progress = _nothing) -> list[Logits]:
        """Logits of every window of every (text, context)."""

        def read(one: tuple[str, str | None]) -> Logits:
            found = self.windows(*one)
            progress()
            return found

        return list(self._map(read, texts))

    def _map(self, function: Callable[[_Item], Logits], items: Sequence[_Item]) -> Iterator[Logits]:
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                yield from pool.map(function, items)
            except BaseException:
                # An interruption must not wait for thousands of texts that are still queued.
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def segments(
    text: str, context: str | None, spec: BundleSpec, tokenizer: Tokenizer, view_settings: ViewSettings | None = None
) -> list[Encoded]:
    """All that is scored of a text, as token ids: its windows, then those of its decoded views where these are asked for."""
    shown = [View("original", text), *(views(text, view_settings).found if view_settings else ())]
    return [
        encoded
        for view in shown
        for window in windows(view.text, spec.window, view.name)
        for _, encoded in fit(window, spec.window.overlap, lambda part: tokenizer.encode(part, context=context), spec.max_tokens)
    ]


def stacked(rows: Sequence[OneLogits]) -> Logits:
    """The server's logits of single segments as arrays."""
    columns = (
        [row.task for row in rows],
        [row.harm for row in rows],
        [row.category for row in rows],
        [row.response for row in rows],
    )
    return Logits(*(np.array(column, dtype=np.float64) for column in columns))
