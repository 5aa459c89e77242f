"""What the tokenizer and the model of a bundle promise."""

import json
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from guard_server.bundle import Bundle, load_bundle
from guard_server.bundle_spec import Calibration
from guard_server.classifier import Logits, OnnxModel, OnnxTokenizer, calibrated
from guard_server.errors import BundleError, InferenceFailedError
from guard_server.labels import CATEGORIES, TASKS, Category, Direction, Task
from guard_server.records import Encoded, Scores
from tests.guard.tiny_bundle import NOT_A_NUMBER, write_manifest, write_tiny_bundle

TEXTS = st.text(st.characters(codec="utf-8"), max_size=60)
FINITE = st.floats(-1e30, 1e30)


def _bundle(folder: Path) -> Bundle:
    return load_bundle(folder, public_key=None, require_signed=False)


@pytest.fixture(scope="module")
def fp32(tiny_bundle: Path) -> tuple[OnnxTokenizer, OnnxModel]:
    bundle = _bundle(tiny_bundle)
    return OnnxTokenizer(bundle), OnnxModel(bundle)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> tuple[OnnxTokenizer, OnnxModel]:
    bundle = _bundle(write_tiny_bundle(tmp_path_factory.mktemp("int8") / "b", precision="int8"))
    return OnnxTokenizer(bundle), OnnxModel(bundle)


def _values(scores: Scores) -> list[float]:
    return [*scores.task.values(), *scores.harm.values(), *scores.category.values(), scores.response_harm, scores.refusal]


def test_the_marked_words_decide(fp32: tuple[OnnxTokenizer, OnnxModel]) -> None:
    """Harm, task, category and refusal come out of the heads in the labels' order."""
    tokenizer, model = fp32
    harmless = model.score_one(tokenizer.encode("please classify the weather"))
    harmful = model.score_one(tokenizer.encode("python function with ransomware"))
    refusing = model.score_one(tokenizer.encode("sorry, no", context="build a bomb"))
    assert harmless.risk(Direction.PROMPT, Task.OTHER) < 0.1
    assert harmful.risk(Direction.PROMPT, Task.CODE_GENERATION) > 0.9
    assert max(harmful.task, key=harmful.task.__getitem__) is Task.CODE_GENERATION
    assert max(harmful.category, key=harmful.category.__getitem__) is Category.CYBER
    assert refusing.refusal > 0.9
    assert refusing.risk(Direction.RESPONSE, Task.OTHER) < 0.1


def test_every_self_test_of_the_bundle_holds(tiny_bundle: Path, fp32: tuple[OnnxTokenizer, OnnxModel]) -> None:
    """The scores that the bundle states, computed by other code, are the model's."""
    tokenizer, model = fp32
    for test in _bundle(tiny_bundle).spec.self_tests:
        score = model.score_one(tokenizer.encode(test.text, context=test.context)).risk(test.direction, test.task)
        assert score == pytest.approx(test.score, abs=test.tolerance)


@settings(max_examples=50, deadline=None)
@given(context=TEXTS, before=TEXTS, text=TEXTS)
def test_only_the_end_of_the_context_is_read(fp32: tuple[OnnxTokenizer, OnnxModel], context: str, before: str, text: str) -> None:
    """What stands more than `context_characters` before the answer changes nothing; what stands nearer is there."""
    tokenizer, _ = fp32
    kept = (context + "e" * 80)[-80:]
    assert tokenizer.encode(text, context=before + kept) == tokenizer.encode(text, context=kept)
    assert tokenizer.encode(text, context="kill") != tokenizer.encode(text, context="help")


def test_a_separator_that_a_caller_writes_is_text(fp32: tuple[OnnxTokenizer, OnnxModel]) -> None:
    """The marks of the model's own format cannot be forged in a text."""
    tokenizer, _ = fp32
    plain = tokenizer.encode("a b")
    forged = tokenizer.encode("a [SEP] [PAD] [CLS] b")
    assert {i: forged.ids.count(i) for i in plain.ids} == dict.fromkeys(plain.ids, 1)


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=8))
def test_padding_changes_no_fp32_score(fp32: tuple[OnnxTokenizer, OnnxModel], texts: list[str]) -> None:
    """A padded batch gives each text the scores it has alone, to 1e-5, in the batch's order."""
    tokenizer, model = fp32
    batch = [tokenizer.encode(t) for t in texts]
    for encoded, scores in zip(batch, model.score_padded(batch), strict=True):
        assert _values(scores) == pytest.approx(_values(model.score_one(encoded)), abs=1e-5)


def test_int8_depends_on_padding_and_repeats_to_the_bit(int8: tuple[OnnxTokenizer, OnnxModel]) -> None:
    """Why int8 runs one by one: padded beside another text a score moves; alone, in threads sharing a session, it never does."""
    tokenizer, model = int8
    texts = [tokenizer.encode(t) for t in ("please help", "write a story about the weather " * 5, "kill the process")]
    alone = [model.infer_one(t) for t in texts]
    assert model.infer_padded(texts)[0] != alone[0]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(model.infer_one, texts * 50)) == alone * 50


def test_what_is_not_a_number_is_an_error(fp32: tuple[OnnxTokenizer, OnnxModel]) -> None:
    """A NaN logit never becomes a score."""
    tokenizer, model = fp32
    with pytest.raises(InferenceFailedError, match="not a number"):
        model.score_one(tokenizer.encode(f"please {NOT_A_NUMBER} help"))


def test_a_token_outside_the_vocabulary_is_an_error_of_inference(fp32: tuple[OnnxTokenizer, OnnxModel]) -> None:
    """Onnxruntime's own failures come as ours."""
    with pytest.raises(InferenceFailedError, match="the model failed"):
        fp32[1].score_one(Encoded((10**6,), (0,)))


def test_an_encoder_without_token_types_is_served(tmp_path: Path) -> None:
    """The third input is given to a model that takes it, and to no other."""
    bundle = _bundle(write_tiny_bundle(tmp_path / "b", token_types=False))
    scores = OnnxModel(bundle).score_one(OnnxTokenizer(bundle).encode("bomb", context="help"))
    assert scores.response_harm > 0.9


@given(st.lists(FINITE, min_size=26, max_size=26), st.floats(1e-3, 1e3), st.floats(-50, 50))
def test_calibrated_scores_are_probabilities(logits: list[float], temperature: float, bias: float) -> None:
    """For any finite logits, however large: finite, in [0, 1], and those of task and category sum to 1."""
    scale = {"temperature": temperature, "bias": bias}
    calibration = Calibration.model_validate(
        {"harm": dict.fromkeys(TASKS, scale), "response_harm": scale, "refusal": scale}
        | {"task_temperature": temperature, "category_temperature": temperature}
    )
    n, m = len(TASKS), len(CATEGORIES)
    heads = Logits(tuple(logits[:n]), tuple(logits[n : 2 * n]), tuple(logits[2 * n : 2 * n + m]), tuple(logits[-2:]))
    scores = calibrated(heads, calibration)
    assert all(math.isfinite(v) and 0 <= v <= 1 for v in _values(scores))
    assert sum(scores.task.values()) == pytest.approx(1)
    assert sum(scores.category.values()) == pytest.approx(1)


def _with(tmp_path: Path, name: str, content: bytes) -> Bundle:
    folder = write_tiny_bundle(tmp_path / "b")
    (folder / name).write_bytes(content)
    write_manifest(folder)
    return _bundle(folder)


def test_files_that_are_verified_and_senseless_are_refused(tmp_path: Path) -> None:
    """A model or tokenizer that cannot be loaded is a `BundleError` with its name."""
    with pytest.raises(BundleError, match=r"model.onnx cannot be loaded"):
        OnnxModel(_with(tmp_path / "1", "model.onnx", b"no graph"))
    with pytest.raises(BundleError, match=r"tokenizer.json cannot be loaded"):
        OnnxTokenizer(_with(tmp_path / "2", "tokenizer.json", json.dumps({"version": "9"}).encode()))


@pytest.mark.parametrize(
    ("inputs", "widths", "reason"),
    [
        (("input_ids", "pixels"), (6, 6, 12, 2), "takes"),
        (("input_ids", "attention_mask"), (6, 6, 11, 2), r"must give category \[batch, 12\]"),
        (("input_ids", "attention_mask"), (6, 6, 12), r"must give response \[batch, 2\]"),
    ],
)
def test_another_graph_is_refused(tmp_path: Path, inputs: tuple[str, str], widths: tuple[int, ...], reason: str) -> None:
    """Heads that are missing or of another size, and inputs that we do not know, are found at loading."""
    names = ("task", "harm", "category", "response")[: len(widths)]
    constants = [
        helper.make_node("ConstantOfShape", ["shape_" + n], [n], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0.0]))
        for n in names
    ]
    graph = helper.make_graph(
        constants,
        "wrong",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "tokens"]) for n in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, w]) for n, w in zip(names, widths, strict=True)],
        [helper.make_tensor("shape_" + n, TensorProto.INT64, [2], [1, w]) for n, w in zip(names, widths, strict=True)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    with pytest.raises(BundleError, match=reason):
        OnnxModel(_with(tmp_path, "model.onnx", model.SerializeToString()))


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime has CUDA")
def test_cuda_that_is_not_there_is_refused(tiny_bundle: Path) -> None:
    """Asked for a GPU, the server does not silently run on the CPU."""
    with pytest.raises(BundleError, match="no CUDA"):
        OnnxModel(_bundle(tiny_bundle), device="cuda")
