"""How long one text takes. In: a scorer. Out: milliseconds by number of tokens, one thread; figures that never repeat."""

import platform
import time
from typing import Final

import numpy as np
import onnxruntime
from pydantic import BaseModel, ConfigDict

from guard_server.records import Encoded
from guard_server.training.scoring import Scorer

LENGTHS: Final = (32, 64, 128, 256)
ROUNDS: Final = 20


class Latency(BaseModel):
    """Of one segment, one thread, without tokenising."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    milliseconds: dict[int, float]
    """Least time of the rounds, by number of tokens."""
    median: dict[int, float]
    processor: str
    onnxruntime: str


def measure(scorer: Scorer) -> Latency:
    """CPU time of the calling thread, lengths in turn so that a busy moment hits all of them."""
    times: dict[int, list[float]] = {length: [] for length in LENGTHS if length <= scorer.spec.max_tokens}
    texts = {length: _encoded(scorer, length) for length in times}
    for _ in range(ROUNDS):
        for length, encoded in texts.items():
            began = time.thread_time()
            scorer.model.infer_one(encoded)
            times[length].append((time.thread_time() - began) * 1000)
    return Latency(
        milliseconds={length: round(min(found), 3) for length, found in times.items()},
        median={length: round(float(np.median(found)), 3) for length, found in times.items()},
        processor=platform.processor() or platform.machine(),
        onnxruntime=onnxruntime.__version__,
    )


def _encoded(scorer: Scorer, length: int) -> Encoded:
    """A text of exactly so many tokens."""
    ids = scorer.tokenizer.encode("the water of the river is cold in spring " * (length // 4 + 1)).ids
    chosen = (*ids[: length - 1], ids[-1])
    return Encoded(chosen, (0,) * len(chosen))
