"""The model of a bundle: text to token ids to logits to calibrated scores, by tokenizers and onnxruntime.

In: a verified `Bundle`. Out: an `OnnxTokenizer` and an `OnnxModel`, both safe to use from several threads at once. A logit that
is not a finite number is an `InferenceFailedError`, never a score. Dynamic int8 scores depend on padding and neighbours, so
`score_one` runs one text unpadded; `score_padded` is for fp32 and fp16.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Encoding
from tokenizers import Tokenizer as HfTokenizer

from guard_server.bundle import MODEL, TOKENIZER, Bundle
from guard_server.bundle_spec import Calibration
from guard_server.errors import BundleError, InferenceFailedError
from guard_server.labels import CATEGORIES, TASKS
from guard_server.records import Encoded, Scores
from guard_server.wordpiece import readable

Device = Literal["cpu", "cuda"]
_INPUTS: Final = ("input_ids", "attention_mask", "token_type_ids")
_OUTPUTS: Final = {"task": len(TASKS), "harm": len(TASKS), "category": len(CATEGORIES), "response": 2}


@dataclass(frozen=True, slots=True)
class Logits:
    """What the model gives for one segment; finite."""

    task: tuple[float, ...]
    harm: tuple[float, ...]
    category: tuple[float, ...]
    response: tuple[float, ...]
    """Harm, refusal."""


class OnnxTokenizer:
    """A bundle's tokenizer; implements `records.Tokenizer`."""

    def __init__(self, bundle: Bundle) -> None:
        """Raises `BundleError` where tokenizer.json is none."""
        self.max_tokens = bundle.spec.max_tokens
        self._context_characters = bundle.spec.context_characters
        data = bundle.files.read(TOKENIZER)
        try:
            # Here too and not in the export alone: a bundle made elsewhere must not be blind where a word holds an emoji.
            self._tokenizer = HfTokenizer.from_buffer(readable(data))
        except Exception as error:  # tokenizers raises bare ones
            msg = f"{bundle.files.folder}: {TOKENIZER} cannot be loaded ({error}); build the bundle again"
            raise BundleError(msg) from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        # "[SEP]" written by a caller is text, not the mark that separates the prompt from the answer.
        self._tokenizer.encode_special_tokens = True
        self._unknown_id = self._tokenizer.token_to_id(getattr(self._tokenizer.model, "unk_token", None) or "")

    def encode(self, text: str, *, context: str | None = None) -> Encoded:
        """Ids of the text, or of the pair (the context's last `context_characters`, text)."""
        if context is None:
            encoding = self._tokenizer.encode(text)
        else:
            encoding = self._tokenizer.encode(context[-self._context_characters :], text)
        return Encoded(tuple(encoding.ids), tuple(encoding.type_ids), self._unknown(encoding, 0 if context is None else 1))

    def _unknown(self, encoding: Encoding, sequence: int) -> tuple[tuple[int, int], ...]:
        ids = encoding.ids
        if self._unknown_id is None or self._unknown_id not in ids:
            return ()
        rows = zip(ids, encoding.sequence_ids, encoding.offsets, strict=True)
        return tuple(span for token, of, span in rows if token == self._unknown_id and of == sequence)


class OnnxModel:
    """One onnxruntime session of a bundle; one thread per call, so that N threads may share it and its weights."""

    def __init__(self, bundle: Bundle, *, device: Device = "cpu") -> None:
        """Raises `BundleError` where the graph is not as `bundle_spec` says, or the device is not to be had."""
        providers = _providers(device)
        data = bundle.files.read(MODEL)
        try:
            self._session = ort.InferenceSession(data, session_options(), providers=providers)
        except Exception as error:  # onnxruntime's errors share no other base
            msg = f"{bundle.files.folder}: {MODEL} cannot be loaded ({_first_line(error)}); build the bundle again"
            raise BundleError(msg) from error
        if device == "cuda" and "CUDAExecutionProvider" not in self._session.get_providers():
            msg = "onnxruntime could not start CUDA and fell back to the CPU; check the driver, or set the device to cpu"
            raise BundleError(msg)
        _check_signature(self._session, f"{bundle.files.folder}: {MODEL}")
        self._inputs = frozenset(i.name for i in self._session.get_inputs())
        self._calibration = bundle.spec.calibration

    def infer_one(self, encoded: Encoded) -> Logits:
        """Logits of one segment, unpadded; bit-equal at every repetition. Raises `InferenceFailedError`."""
        ids = np.array([encoded.ids], np.int64)
        return self._run(ids, np.ones_like(ids), np.array([encoded.type_ids], np.int64))[0]

    def infer_padded(self, batch: Sequence[Encoded]) -> list[Logits]:
        """Logits of segments in one padded batch, in their order. Raises `InferenceFailedError`."""
        shape = (len(batch), max(map(len, batch)))
        ids, mask, types = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for i, encoded in enumerate(batch):
            # Padded by id 0 whatever the model's padding token: the mask hides it.
            ids[i, : len(encoded)], mask[i, : len(encoded)], types[i, : len(encoded)] = encoded.ids, 1, encoded.type_ids
        return self._run(ids, mask, types)

    def score_one(self, encoded: Encoded) -> Scores:
        """Calibrated scores of one segment, unpadded. Raises `InferenceFailedError`."""
        return calibrated(self.infer_one(encoded), self._calibration)

    def score_padded(self, batch: Sequence[Encoded]) -> list[Scores]:
        """Calibrated scores of segments in one padded batch, in their order. Raises `InferenceFailedError`."""
        return [calibrated(logits, self._calibration) for logits in self.infer_padded(batch)]

    def _run(self, ids: NDArray[np.int64], mask: NDArray[np.int64], types: NDArray[np.int64]) -> list[Logits]:
        feed = {n: a for n, a in zip(_INPUTS, (ids, mask, types), strict=True) if n in self._inputs}
        try:
            heads: list[NDArray[np.float32]] = self._session.run(list(_OUTPUTS), feed)
        except Exception as error:  # onnxruntime's errors share no other base
            msg = f"the model failed: {_first_line(error)}"
            raise InferenceFailedError(msg) from error
        if not all(np.isfinite(head).all() for head in heads):
            msg = "the model gave what is not a number"
            raise InferenceFailedError(msg)
        rows = zip(*(head.tolist() for head in heads), strict=True)
        return [Logits(*(tuple(head) for head in row)) for row in rows]


def calibrated(logits: Logits, calibration: Calibration) -> Scores:
    """Probabilities of the logits; finite for finite logits."""
    return Scores(
        task=dict(zip(TASKS, _softmax(logits.task, calibration.task_temperature), strict=True)),
        harm={t: calibration.harm[t].probability(x) for t, x in zip(TASKS, logits.harm, strict=True)},
        category=dict(zip(CATEGORIES, _softmax(logits.category, calibration.category_temperature), strict=True)),
        response_harm=calibration.response_harm.probability(logits.response[0]),
        refusal=calibration.refusal.probability(logits.response[1]),
    )


def _softmax(logits: Sequence[float], temperature: float) -> list[float]:
    largest = max(logits)
    weights = [math.exp((x - largest) / temperature) for x in logits]
    total = sum(weights)
    return [w / total for w in weights]


def session_options() -> ort.SessionOptions:
    """How every session of the server is run: one thread, no spinning, memory that does not grow with the lengths seen."""
    options = ort.SessionOptions()
    # The calling thread does all the work: N workers are N cores, and no pool of the session's own spins beside them.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    # A memory plan is kept for each shape that was ever seen: with texts of all lengths, memory that only grows.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = True
    options.log_severity_level = 3
    return options


def _providers(device: Device) -> list[str]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        msg = "this onnxruntime has no CUDA; install onnxruntime-gpu in its place, or set the device to cpu"
        raise BundleError(msg)
    ort.preload_dlls()  # CUDA and cuDNN from their wheels, where the system has none; says nothing where it finds none either
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]


def _check_signature(session: ort.InferenceSession, where: str) -> None:
    """Inputs and outputs are those that `bundle_spec` names; raises `BundleError`."""
    inputs = {i.name for i in session.get_inputs()}
    if not {"input_ids", "attention_mask"} <= inputs <= set(_INPUTS):
        msg = f"{where} takes {sorted(inputs)}, known are {list(_INPUTS)}; export it again"
        raise BundleError(msg)
    widths = {o.name: o.shape[-1] if o.shape else None for o in session.get_outputs()}
    for name, width in _OUTPUTS.items():
        # An axis without a fixed size has a name in place of a number.
        if name not in widths or (isinstance(widths[name], int) and widths[name] != width):
            msg = f"{where} must give {name} [batch, {width}]; export it again"
            raise BundleError(msg)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
