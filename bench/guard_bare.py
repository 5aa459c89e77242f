"""The reference of the guard's speed benches: onnxruntime alone on the token ids that the server gives it for the same texts.

Same file, same session options, same threads; no HTTP, no tokenising, no views, no scores: the arrays lie ready.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from guard_server.bundle import MODEL, Bundle
from guard_server.classifier import OnnxTokenizer, session_options
from guard_server.policy import Policy
from guard_server.records import Encoded
from guard_server.screening import prepare

Feed = Mapping[str, NDArray[np.int64]]


@dataclass(frozen=True, slots=True)
class BareRun:
    """What bare inference took: texts, wall seconds, processor seconds."""

    texts: int
    wall: float
    cpu: float


class Bare:
    """One session of the bundle and the arrays of some texts, one for each segment that the server scores."""

    def __init__(self, bundle: Bundle, texts: Sequence[str], policy: Policy) -> None:
        self._session = ort.InferenceSession(bundle.files.read(MODEL), session_options(), providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._taken = {taken.name for taken in self._session.get_inputs()}
        tokenizer = OnnxTokenizer(bundle)
        prepared = [prepare(text, None, policy, bundle.spec, tokenizer).encoded for text in texts]
        self._feeds = [[self._feed(encoded) for encoded in segments] for segments in prepared]
        self.segments = sum(map(len, prepared)) / len(prepared)
        self.tokens = sum(len(encoded) for segments in prepared for encoded in segments) / len(prepared)
        """Both per text, as scored: windows overlap."""

    def __len__(self) -> int:
        """The number of texts."""
        return len(self._feeds)

    def infer(self, index: int) -> float:
        """Run one text's segments one after the other; wall seconds."""
        began = time.perf_counter()
        for feed in self._feeds[index % len(self._feeds)]:
            self._session.run(self._outputs, feed)
        return time.perf_counter() - began

    def run(self, seconds: float, *, threads: int, at_once: int) -> BareRun:
        """Go through the texts for so long; with one text at once its segments are spread over the threads, as in the server."""
        began, cpu = time.perf_counter(), time.process_time()
        until = began + seconds
        with ThreadPoolExecutor(threads) as pool:
            if threads > 1 and at_once == 1:
                done = self._one_by_one(until, pool)
            else:
                turn = count()
                done = sum(pool.map(lambda _: self._worker(until, turn), range(min(threads, at_once))))
        return BareRun(done, time.perf_counter() - began, time.process_time() - cpu)

    def _worker(self, until: float, turn: count[int]) -> int:
        done = 0
        while time.perf_counter() < until:
            self.infer(next(turn))
            done += 1
        return done

    def _one_by_one(self, until: float, pool: ThreadPoolExecutor) -> int:
        done = 0
        while time.perf_counter() < until:
            feeds = self._feeds[done % len(self._feeds)]
            if len(feeds) == 1:
                self.infer(done)
            else:
                list(pool.map(lambda feed: self._session.run(self._outputs, feed), feeds))
            done += 1
        return done

    def _feed(self, encoded: Encoded) -> Feed:
        ids = np.array([encoded.ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.array([encoded.type_ids], np.int64)}
        return {name: array for name, array in feed.items() if name in self._taken}
