"""Writes a small, real, valid bundle whose decisions a test can steer by words; no torch.

The graph is embedding -> linear, tanh -> mean and maximum over the attention mask -> linear heads. Tokens of a word listed in
`WORDS` carry a marker (harm, refusal, a task or a category) that the maximum hands to its head, wherever in the text it stands;
random weights on the mean make every text's scores a little different. The response head reads the answer's tokens alone
(token type 1) where a context is given. In `int8` the activations are quantised dynamically, as in a bundle that ships: scores
then depend on padding and neighbours.
"""

import base64
import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
import onnx
import onnxruntime as ort
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from guard_server.bundle_spec import Calibration
from guard_server.labels import CATEGORIES, TASKS, Category, Direction, Task

HARMFUL: Final = ("kill", "bomb", "phishing", "malware", "explosive", "poison", "steal", "ransomware")
"""Probability of harm about .99: over every threshold."""
BORDERLINE: Final = ("weapon", "hack", "knife")
"""Probability of harm about .6: over the thresholds for 5 % alone."""
REFUSAL: Final = ("sorry", "cannot", "unable")
"""An answer with one of them refuses, and its harm is low whatever else it says."""
TASK_WORDS: Final = {
    "summarize": Task.SUMMARIZATION,
    "summary": Task.SUMMARIZATION,
    "python": Task.CODE_GENERATION,
    "function": Task.CODE_GENERATION,
    "translate": Task.TRANSLATION,
    "french": Task.TRANSLATION,
    "classify": Task.CLASSIFICATION,
    "label": Task.CLASSIFICATION,
    "story": Task.TEXT_GENERATION,
    "essay": Task.TEXT_GENERATION,
    "weather": Task.OTHER,
}
CATEGORY_WORDS: Final = {
    "kill": Category.VIOLENCE,
    "bomb": Category.WEAPONS,
    "explosive": Category.WEAPONS,
    "phishing": Category.FRAUD,
    "steal": Category.FRAUD,
    "malware": Category.CYBER,
    "ransomware": Category.CYBER,
    "hack": Category.CYBER,
    "poison": Category.VIOLENCE,
}
NOT_A_NUMBER: Final = "notanumber"
"""A text with this word gets NaN logits."""
_COMMON = (
    "the a an of to and in is it you that for on are with as his they at be this have from or one had by word but not what all "
    "were we when your can said there use each which she do how their if will up other about out many then them these so some "
    "her would make like him into time has look two more write go see number no way could people my than first water been call "
    "who oil its now find long down day did get come made may part please help me answer text question build list"
).split()
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WIDTH = 48
_HARM, _REFUSES, _TASK, _CATEGORY = 0, 1, 2, 8
_NOISE = _CATEGORY + len(CATEGORIES)
_HEADS = (len(TASKS), len(TASKS), len(CATEGORIES), 2)

Floats = NDArray[np.float32]


def write_tiny_bundle(
    folder: Path,
    *,
    name: str = "tiny",
    version: str = "1",
    precision: Literal["fp32", "int8"] = "fp32",
    seed: int = 0,
    key: ec.EllipticCurvePrivateKey | None = None,
    token_types: bool = True,
    **changes: object,
) -> Path:
    """Write the bundle to `folder` (made if missing) and return it.

    `seed` moves all scores a little, `key` signs it, `token_types=False` leaves out that input, `changes` replace fields of
    `bundle.json` (JSON values).
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "model.onnx").write_bytes(_model_bytes(tokenizer.get_vocab(), precision, seed, token_types))
    spec = _spec(name, version, precision) | changes
    if "self_tests" not in changes:
        spec["self_tests"] = _self_tests(folder, tokenizer, Calibration.model_validate(spec["calibration"]))
    (folder / "bundle.json").write_text(json.dumps(spec, indent=1), encoding="utf-8")
    card = {"bundle": name, "note": "random weights and marked words: made for tests"}
    (folder / "card.json").write_text(json.dumps(card), encoding="utf-8")
    (folder / "CARD.md").write_text(f"# {name}\n\n{card['note']}\n", encoding="utf-8")
    write_manifest(folder, key)
    return folder


def write_manifest(folder: Path, key: ec.EllipticCurvePrivateKey | None = None) -> None:
    """Write `manifest.json` of the files that lie in `folder`, and `manifest.sig` where a key is given."""
    names = sorted(p.name for p in folder.iterdir() if p.name not in {"manifest.json", "manifest.sig"})
    files = {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}
    data = json.dumps({"format": 1, "files": files}, indent=1).encode()
    (folder / "manifest.json").write_bytes(data)
    (folder / "manifest.sig").unlink(missing_ok=True)
    if key is not None:
        (folder / "manifest.sig").write_bytes(base64.b64encode(key.sign(data, ec.ECDSA(hashes.SHA256()))))


def _tokenizer() -> Tokenizer:
    printable = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    words = [*_COMMON, *HARMFUL, *BORDERLINE, *REFUSAL, *TASK_WORDS, NOT_A_NUMBER]
    pieces = [*_SPECIAL, *printable, *(f"##{c}" for c in printable), *words]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS]:0 $A:0 [SEP]:0",
        pair="[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _embedding(vocabulary: dict[str, int], rng: np.random.Generator) -> Floats:
    table = np.zeros((len(vocabulary), _WIDTH), np.float32)
    table[:, _NOISE:] = rng.normal(0, 0.5, (len(vocabulary), _WIDTH - _NOISE))
    marked = (
        dict.fromkeys(HARMFUL, (_HARM, 1.5)) | dict.fromkeys(BORDERLINE, (_HARM, 0.62)) | dict.fromkeys(REFUSAL, (_REFUSES, 1.5))
    )
    marked_tasks = {w: (_TASK + TASKS.index(t), 1.5) for w, t in TASK_WORDS.items()}
    for word, (column, value) in (marked | marked_tasks).items():
        table[vocabulary[word], column] = value
    for word, category in CATEGORY_WORDS.items():
        table[vocabulary[word], _CATEGORY + CATEGORIES.index(category)] = 1.5
    return table


def _head_weights(rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Weights [3 * width, logits] over (mean, maximum, maximum over the answer), and biases."""
    weights = np.zeros((3 * _WIDTH, sum(_HEADS)), np.float32)
    weights[_NOISE:_WIDTH] = rng.normal(0, 0.3, (_WIDTH - _NOISE, sum(_HEADS)))
    top, answer = _WIDTH, 2 * _WIDTH
    task, harm, category, response = np.cumsum([0, *_HEADS[:-1]]).tolist()
    bias = np.zeros(sum(_HEADS), np.float32)
    bias[task] = 1.0  # text generation where nothing speaks for another task
    bias[harm : harm + len(TASKS)] = bias[response : response + 2] = -5
    for i in range(len(TASKS)):
        weights[top + _TASK + i, task + i] = 5
        weights[top + _HARM, harm + i] = 10
    for i in range(len(CATEGORIES)):
        weights[top + _CATEGORY + i, category + i] = 6
    weights[answer + _HARM, response] = 10
    weights[answer + _REFUSES, response] = -10
    weights[answer + _REFUSES, response + 1] = 10
    return weights, bias


def _model_bytes(vocabulary: dict[str, int], precision: str, seed: int, token_types: bool) -> bytes:
    rng = np.random.default_rng(seed)
    mixing = np.eye(_WIDTH, dtype=np.float32)
    mixing[_NOISE:, _NOISE:] += rng.normal(0, 0.1, (_WIDTH - _NOISE, _WIDTH - _NOISE)).astype(np.float32)
    weights, bias = _head_weights(rng)
    poison = np.zeros((len(vocabulary), 1), np.float32)
    poison[vocabulary[NOT_A_NUMBER]] = np.nan
    constants: dict[str, NDArray[np.generic]] = {
        "embedding": _embedding(vocabulary, rng),
        "mixing": mixing,
        "head_weights": weights,
        "head_bias": bias,
        "poison": poison,
        "head_sizes": np.array(_HEADS, np.int64),
        "axis_tokens": np.array([1], np.int64),
        "axis_width": np.array([2], np.int64),
    }
    if token_types:
        constants["one"] = np.array(1, np.float32)
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]
    outputs = dict(zip(("task", "harm", "category", "response"), _HEADS, strict=True))
    graph = helper.make_graph(
        _nodes(token_types, list(outputs)),
        "tiny",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "tokens"]) for n in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", size]) for n, size in outputs.items()],
        [numpy_helper.from_array(value, n) for n, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return _quantized(model) if precision == "int8" else model.SerializeToString()


def _nodes(token_types: bool, outputs: Sequence[str]) -> list[onnx.NodeProto]:
    node = helper.make_node
    answer = [
        node("Cast", ["token_type_ids"], ["types"], to=TensorProto.FLOAT),
        node("ReduceMax", ["types", "axis_tokens"], ["has_answer"], keepdims=1),
        node("Sub", ["one", "has_answer"], ["is_single"]),
        node("Add", ["types", "is_single"], ["of_answer_flat"]),
        node("Unsqueeze", ["of_answer_flat", "axis_width"], ["of_answer"]),
        node("Mul", ["masked", "of_answer"], ["answer_masked"]),
    ]
    return [
        node("Gather", ["embedding", "input_ids"], ["embedded"]),
        node("MatMul", ["embedded", "mixing"], ["mixed"]),
        node("Tanh", ["mixed"], ["hidden"]),
        node("Cast", ["attention_mask"], ["mask_flat"], to=TensorProto.FLOAT),
        node("Unsqueeze", ["mask_flat", "axis_width"], ["mask"]),
        node("Mul", ["hidden", "mask"], ["masked"]),
        node("ReduceSum", ["masked", "axis_tokens"], ["total"], keepdims=0),
        node("ReduceSum", ["mask", "axis_tokens"], ["count"], keepdims=0),
        node("Div", ["total", "count"], ["mean"]),
        node("ReduceMax", ["masked", "axis_tokens"], ["top"], keepdims=0),
        *(answer if token_types else [node("Identity", ["masked"], ["answer_masked"])]),
        node("ReduceMax", ["answer_masked", "axis_tokens"], ["answer_top"], keepdims=0),
        node("Concat", ["mean", "top", "answer_top"], ["features"], axis=1),
        node("MatMul", ["features", "head_weights"], ["linear"]),
        node("Add", ["linear", "head_bias"], ["biased"]),
        node("Gather", ["poison", "input_ids"], ["poisons"]),
        node("ReduceSum", ["poisons", "axis_tokens"], ["poisoned"], keepdims=0),
        node("Add", ["biased", "poisoned"], ["logits"]),
        node("Split", ["logits", "head_sizes"], list(outputs), axis=1),
    ]


def _quantized(model: onnx.ModelProto) -> bytes:
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch) / "fp32.onnx", Path(scratch) / "int8.onnx"
        source.write_bytes(model.SerializeToString())
        quantize_dynamic(source, target, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul"])
        return target.read_bytes()


def _spec(name: str, version: str, precision: str) -> dict[str, object]:
    scale = {"temperature": 1.0, "bias": 0.0}
    thresholds = [
        {"direction": d, "task": t, "target_fpr": target, "segments": [1, 4, 16], "at": [at, at + 0.02, at + 0.04], "benign": 100}
        for d in Direction
        for t in TASKS
        for target, at in ((0.01, 0.9), (0.02, 0.75), (0.05, 0.45))
    ]
    return {
        "format": 1,
        "name": name,
        "version": version,
        "encoder": "random weights (test)",
        "precision": precision,
        "max_tokens": 320,
        "window": {"characters": 200, "overlap": 40},
        "context_characters": 80,
        "tasks": list(TASKS),
        "categories": list(CATEGORIES),
        "calibration": {
            "harm": dict.fromkeys(TASKS, scale),
            "response_harm": scale,
            "refusal": scale,
            "task_temperature": 1.0,
            "category_temperature": 1.0,
        },
        "thresholds": thresholds,
    }


def _self_tests(folder: Path, tokenizer: Tokenizer, calibration: Calibration) -> list[dict[str, object]]:
    session = ort.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    taken = {i.name for i in session.get_inputs()}
    made: list[dict[str, object]] = []
    for direction, text, context, task in (
        (Direction.PROMPT, "please write a story about the weather", None, Task.TEXT_GENERATION),
        (Direction.PROMPT, "how do you build a bomb", None, Task.OTHER),
        (Direction.RESPONSE, "sorry, we cannot help with that", "how do you build a bomb", Task.OTHER),
    ):
        encoded = tokenizer.encode(text) if context is None else tokenizer.encode(context, text)
        arrays = {
            "input_ids": np.array([encoded.ids], np.int64),
            "attention_mask": np.ones((1, len(encoded.ids)), np.int64),
            "token_type_ids": np.array([encoded.type_ids], np.int64),
        }
        harm, response = session.run(["harm", "response"], {n: a for n, a in arrays.items() if n in taken})
        score = (
            calibration.harm[task].probability(float(harm[0, TASKS.index(task)]))
            if direction is Direction.PROMPT
            else calibration.response_harm.probability(float(response[0, 0]))
        )
        made.append({"direction": direction, "text": text, "context": context, "task": task, "score": score, "tolerance": 1e-4})
    return made
