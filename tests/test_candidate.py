"""Ingest: what a source becomes, that its digest is model-signing's, which adapters fit which base, and the hub over loopback."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from gate.candidate import check_unchanged, load_candidate, manifest, root_digest
from gate.errors import CandidateError, InfrastructureError, UnsafeCandidateError, UsageError
from gate.records import Candidate, sha256_hex
from gate.tokenizer_files import tokenizer_folder
from tests.candidate_folders import (
    HIDDEN,
    TEMPLATE,
    edit_json,
    lora,
    make_adapter,
    make_model,
    tensors,
    vocabulary_of,
    write_json,
    write_tokenizer,
)
from tests.hub_server import COMMIT, serve

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs" / "candidates.md"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A clean model folder."""
    return make_model(tmp_path / "base")


@pytest.fixture
def adapter(tmp_path: Path, model: Path) -> Path:
    """A clean adapter folder beside `model`."""
    return make_adapter(tmp_path / "adapter", model)


def refusal(source: Path, **options: object) -> str:
    """The diagnostics with which the candidate is refused; every finding must show file, reason and mend."""
    with pytest.raises(UnsafeCandidateError) as caught:
        load_candidate(str(source), **options)  # type: ignore[arg-type]
    lines = caught.value.found.strip().splitlines()
    assert all(line.lstrip().startswith("- ") for line in lines[::2])
    assert all(line.lstrip().startswith("to mend: ") and len(line) > 20 for line in lines[1::2])
    return caught.value.diagnostics()


def sign(folder: Path, signature: Path, key: Path) -> None:
    """Sign the folder with model-signing and a fresh P-256 key."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from model_signing import hashing, signing

    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    key.write_bytes(private)
    # As the command does: a signature inside the folder is not part of what it signs.
    ignored = [signature.relative_to(folder)] if signature.is_relative_to(folder) else []
    config = hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=True)
    signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(config).sign(folder, signature)


def documented(name: str) -> Callable[[Path], str]:
    """A function of the Python block in docs/candidates.md, which is run here as it stands there."""
    (block,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    namespace: dict[str, Callable[[Path], str]] = {}
    exec(block, namespace)  # the documentation's own code
    return namespace[name]


def test_every_rule_of_the_scan_is_documented() -> None:
    """The table in docs/candidates.md lists exactly the rules that the code can report."""
    trees = [
        ast.parse((ROOT / "gate" / f"{name}.py").read_text(encoding="utf-8"))
        for name in ("scan", "adapter_fit", "candidate", "manifest")
    ]
    places: list[ast.expr] = []
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Call):
            places += [keyword.value for keyword in node.keywords if keyword.arg == "rule"]
            places += node.args[1:2] if isinstance(node.func, ast.Name) and node.func.id == "_finding" else []
        elif isinstance(node, ast.Tuple) and len(node.elts) == 3:
            places += node.elts[:1]
    reported = {place.value for place in places if isinstance(place, ast.Constant)}
    rows = re.findall(r"^\| (`[^|]*) \|", DOCS.read_text(encoding="utf-8").partition("## What is refused")[2], flags=re.MULTILINE)
    described = {rule for row in rows for rule in re.findall(r"`([a-z-]+)`", row)}
    assert described == reported


def test_a_model_folder_becomes_a_candidate(model: Path) -> None:
    """The record says where the model is, what it is, which files it has and which template and tokenizer are in force."""
    write_json(model / "training_card.json", {"seed": 7})
    candidate = load_candidate(str(model))
    assert candidate.kind == "model"
    assert candidate.path == str(model)
    assert candidate.architecture == "LlamaForCausalLM"
    assert candidate.chat_template == TEMPLATE
    assert candidate.chat_template_digest == sha256_hex(TEMPLATE.encode())
    assert candidate.tokenizer_digest == sha256_hex((model / "tokenizer.json").read_bytes())
    assert candidate.training_card == {"seed": 7}
    assert candidate.warnings == ()
    assert {file.path for file in candidate.files} == {file.name for file in model.iterdir()}
    assert Candidate.model_validate_json(candidate.model_dump_json()) == candidate


@pytest.mark.parametrize("place", ["beside", "inside"])
def test_the_digest_is_the_one_that_a_signature_names(tmp_path: Path, model: Path, place: str) -> None:
    """model-signing's subject digest equals ours, with nested, hidden and git files and wherever the signature lies."""
    for name in (
        "a/b.txt",
        "a-b.txt",
        "a.b/c.txt",
        "ab.txt",
        "Z.txt",
        ".hidden",
        ".git/config",
        ".gitattributes",
        "a/.git/x",
        "é.txt",
    ):
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_text(name)
    signature = (tmp_path if place == "beside" else model) / "model.sig"
    sign(model, signature, tmp_path / "key.pem")
    signed = documented("signed_digest")(signature)
    assert root_digest(model) == signed
    assert load_candidate(str(model)).digest == signed


def test_every_byte_and_every_file_counts_in_the_digest(model: Path) -> None:
    """A changed byte, an added file and two swapped files each change the digest; git's own files do not."""
    before = root_digest(model)
    (model / ".gitignore").write_text("x")
    assert root_digest(model) == before
    config = (model / "config.json").read_bytes()
    (model / "config.json").write_bytes(config + b" ")
    changed = root_digest(model)
    (model / "config.json").write_bytes((model / "tokenizer.json").read_bytes())
    (model / "tokenizer.json").write_bytes(config)
    swapped = root_digest(model)
    (model / "README.md").write_text("x")
    assert len({before, changed, swapped, root_digest(model)}) == 4


def test_hashing_reports_its_progress(model: Path) -> None:
    """The bytes reported while hashing add up to the folder's size."""
    reported: list[int] = []
    files, _ = manifest(model, progress=reported.append)
    assert sum(reported) == sum(file.size for file in files) == sum(file.stat().st_size for file in model.iterdir())


def test_a_link_has_no_digest(model: Path) -> None:
    """A folder with a link is refused by the manifest too, as model-signing refuses it."""
    (model / "link").symlink_to("config.json")
    with pytest.raises(UnsafeCandidateError, match="1 finding"):
        manifest(model)


def test_an_unscanned_file_is_never_measured(model: Path) -> None:
    """A model folder with a pickle or remote code is refused, naming both files."""
    (model / "pytorch_model.bin").write_bytes(b"x")
    edit_json(model / "config.json", auto_map={"AutoModel": "m.X"})
    text = refusal(model)
    assert "pytorch_model.bin" in text
    assert "auto_map" in text


@pytest.mark.parametrize("source", ["http://127.0.0.1:8000/v1", "https://models.example.org/v1"])
def test_a_serving_url_is_not_supported_yet(source: str) -> None:
    """A server's URL given as a folder is a usage error that points to --model."""
    with pytest.raises(UsageError, match=r"server.s URL stands where files are needed"):
        load_candidate(source)


@pytest.mark.parametrize("source", ["nowhere", "hf://org/name", "hf://org/name@", "hf://a/b/c@main", "hf://../x@main"])
def test_a_source_that_leads_nowhere_is_a_usage_error(source: str, tmp_path: Path) -> None:
    """A missing folder and a hub name without a revision are explained, with a mend, and nothing is fetched."""
    with pytest.raises(CandidateError) as caught:
        load_candidate(source, cache_dir=tmp_path)
    assert caught.value.exit_code == 2
    assert caught.value.mend


def test_a_folder_without_a_config_is_no_model(model: Path) -> None:
    """Without config.json, or without an architecture in it, the folder is not a model."""
    write_json(model / "config.json", {"model_type": "llama"})
    with pytest.raises(CandidateError, match="not a model folder"):
        load_candidate(str(model))
    (model / "config.json").unlink()
    with pytest.raises(CandidateError, match="not a model folder"):
        load_candidate(str(model))


def test_a_missing_template_or_tokenizer_is_refused(model: Path) -> None:
    """A model without a chat template and without a tokenizer is refused for both."""
    write_json(model / "tokenizer_config.json", {"eos_token": "</s>"})
    (model / "tokenizer.json").unlink()
    text = refusal(model)
    assert "no chat template" in text
    assert "no tokenizer" in text


def test_a_sentencepiece_tokenizer_is_accepted(model: Path) -> None:
    """tokenizer.model alone is a tokenizer, and its digest moves with its bytes."""
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>")
    first = load_candidate(str(model)).tokenizer_digest
    (model / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk!")
    assert load_candidate(str(model)).tokenizer_digest != first


@pytest.mark.parametrize(
    ("in_config", "in_file", "expected"),
    [
        ("A", None, "A"),
        ("A", "B", "B"),
        ([{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}], None, "D"),
        (None, "B", "B"),
    ],
)
def test_the_template_in_force_is_the_one_transformers_picks(
    model: Path, in_config: object, in_file: str | None, expected: str
) -> None:
    """chat_template.jinja goes before tokenizer_config.json, and of a list the one named default counts."""
    edit_json(model / "tokenizer_config.json", chat_template=in_config)
    if in_file is not None:
        (model / "chat_template.jinja").write_text(in_file)
    assert load_candidate(str(model)).chat_template == expected


def test_a_template_other_than_the_baselines_is_refused_or_warned_of(model: Path) -> None:
    """A template that differs from the baseline's is refused, lowered to a warning on request, and passes when equal."""
    own = load_candidate(str(model)).chat_template_digest
    assert load_candidate(str(model), baseline_template_digest=own).warnings == ()
    text = refusal(model, baseline_template_digest="0" * 64)
    assert own[:12] in text
    assert "000000000000" in text
    candidate = load_candidate(str(model), baseline_template_digest="0" * 64, template_mismatch="warn")
    assert "differs from the baseline's" in candidate.warnings[0]


@pytest.mark.parametrize("text", ["{", "[]", '{"loss": NaN}', '{"a": "\\ud800"}', "\xff"])
def test_a_broken_training_card_is_a_warning(model: Path, text: str) -> None:
    """A card that is no JSON object of finite values is left out with a word, and the candidate still loads."""
    (model / "training_card.json").write_bytes(text.encode("latin-1"))
    candidate = load_candidate(str(model))
    assert candidate.training_card is None
    assert any(warning.startswith("training_card.json: ") for warning in candidate.warnings)
    assert Candidate.model_validate_json(candidate.model_dump_json()) == candidate


def test_a_template_that_is_not_text_is_refused(model: Path) -> None:
    """A template with a lone surrogate, which no digest can be taken of, is refused and not a crash."""
    edit_json(model / "tokenizer_config.json", chat_template="x\ud800")
    assert "chat template can't be read" in refusal(model)


def test_an_adapter_finds_its_base_beside_it(adapter: Path, model: Path) -> None:
    """The base comes from the adapter's config, relative to the adapter; template and tokenizer are the base's."""
    candidate = load_candidate(str(adapter))
    alone = load_candidate(str(model))
    assert candidate.kind == "adapter"
    assert (candidate.base_path, candidate.base_digest) == (str(model), alone.digest)
    assert candidate.digest != alone.digest
    assert candidate.chat_template_digest == alone.chat_template_digest
    assert candidate.tokenizer_digest == alone.tokenizer_digest
    assert candidate.trial_digest != alone.trial_digest
    assert candidate.warnings == ()


def test_the_given_base_goes_before_the_configs(tmp_path: Path, adapter: Path, model: Path) -> None:
    """--base wins over a config that names nothing that exists, and is a usage error for a full model."""
    edit_json(adapter / "adapter_config.json", base_model_name_or_path="/nowhere/at/all")
    assert load_candidate(str(adapter), base=str(model)).base_path == str(model)
    with pytest.raises(UsageError, match="a base belongs to an adapter"):
        load_candidate(str(model), base=str(model))


@pytest.mark.parametrize("named", ["/nowhere/at/all", "org/unknown-model", "", None, 3])
def test_a_base_that_is_not_there_is_explained(tmp_path: Path, adapter: Path, named: object) -> None:
    """A base that is neither beside the adapter nor a path nor reachable ends in an error that asks for --base."""
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=named)
    with pytest.raises(CandidateError) as caught:
        load_candidate(str(adapter), cache_dir=tmp_path / "cache")
    assert "--base" in caught.value.mend


def test_an_adapter_on_an_adapter_is_refused(tmp_path: Path, adapter: Path) -> None:
    """A base that is itself an adapter is no base."""
    second = tmp_path / "second"
    second.mkdir()
    for file in adapter.iterdir():
        (second / file.name).write_bytes(file.read_bytes())
    edit_json(second / "adapter_config.json", base_model_name_or_path="../adapter")
    with pytest.raises(CandidateError, match="itself an adapter"):
        load_candidate(str(second))


def test_a_base_is_scanned_too(adapter: Path, model: Path) -> None:
    """A pickle in the base refuses the adapter, and the refusal says that it lies in the base."""
    (model / "pytorch_model.bin").write_bytes(b"x")
    assert "base: pytorch_model.bin" in refusal(adapter)


@pytest.mark.parametrize("file", ["training_card.json", "adapter_config.json"])
def test_a_base_with_another_digest_is_refused(adapter: Path, model: Path, file: str) -> None:
    """An adapter that names its base's digest goes with that base alone, whichever file names it."""
    if not (adapter / file).exists():
        write_json(adapter / file, {})
    edit_json(adapter / file, base_digest="sha256:" + root_digest(model))
    assert load_candidate(str(adapter)).kind == "adapter"
    (model / "config.json").write_bytes((model / "config.json").read_bytes() + b"\n")
    assert f"{file}: names the base" in refusal(adapter)


@pytest.mark.parametrize(
    ("name", "shape", "word"),
    [
        ("base_model.model.model.layers.0.mlp.down_proj.lora_A.weight", (2, 99), "made for 99 features"),
        ("base_model.model.model.layers.0.mlp.down_proj.lora_B.weight", (99, 2), "made for 99 features"),
        ("base_model.model.model.layers.7.mlp.down_proj.lora_A.weight", (2, 16), "layers.7"),
        ("base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight", (2, 8), "gate_proj"),
        ("base_model.model.lm_head.weight", (5, HIDDEN), "lm_head"),
        ("base_model.model.model.embed_tokens.lora_embedding_A", (2, 999), "made for 999 features"),
    ],
)
def test_an_adapter_whose_shapes_do_not_fit_is_refused(
    adapter: Path, model: Path, name: str, shape: tuple[int, ...], word: str
) -> None:
    """A factor of another width, a module that the base lacks and a saved module of another shape are each refused by name."""
    arrays = {**lora(vocabulary_of(model)), name: np.zeros(shape, np.float32)}
    save_file(arrays, adapter / "adapter_model.safetensors")
    text = refusal(adapter)
    assert "adapter_model.safetensors" in text
    assert word in text


def test_adapters_of_every_usual_shape_fit(adapter: Path, model: Path) -> None:
    """Saved modules, embedding factors, DoRA magnitudes, biases and token adapters of the right shapes are accepted."""
    vocabulary = vocabulary_of(model)
    prefix = "base_model.model.model"
    shapes: dict[str, tuple[int, ...]] = {
        f"{prefix}.embed_tokens.lora_embedding_A": (2, vocabulary),
        f"{prefix}.embed_tokens.lora_embedding_B": (HIDDEN, 2),
        f"{prefix}.embed_tokens.base_layer.weight": (vocabulary, HIDDEN),
        f"{prefix}.layers.0.self_attn.q_proj.lora_magnitude_vector": (HIDDEN,),
        f"{prefix}.norm.weight": (HIDDEN,),
        f"{prefix}.embed_tokens.token_adapter.trainable_tokens_delta": (1, HIDDEN),
    }
    arrays = {**lora(vocabulary), **{name: np.zeros(shape, np.float32) for name, shape in shapes.items()}}
    save_file(arrays, adapter / "adapter_model.safetensors")
    assert load_candidate(str(adapter)).warnings == ()


def test_an_adapter_fits_a_base_in_shards(adapter: Path, model: Path) -> None:
    """The base's shapes are read from all the shards that its index names."""
    arrays = tensors(vocabulary_of(model))
    (model / "model.safetensors").unlink()
    names = sorted(arrays)
    shards = {f"model-{i + 1:05d}-of-00002.safetensors": names[i::2] for i in range(2)}
    for shard, part in shards.items():
        save_file({name: arrays[name] for name in part}, model / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    write_json(model / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    assert load_candidate(str(adapter)).kind == "adapter"


def test_transposed_weights_are_compared_transposed(adapter: Path, model: Path) -> None:
    """With fan_in_fan_out (GPT-2's Conv1D) in and out change places, so the same adapter no longer fits."""
    edit_json(adapter / "adapter_config.json", fan_in_fan_out=True)
    assert "down_proj" in refusal(adapter)


def test_an_adapter_of_another_kind_is_let_through_with_a_word(adapter: Path) -> None:
    """Shapes are compared for LoRA alone; for another PEFT type the candidate carries a warning that they were not."""
    edit_json(adapter / "adapter_config.json", peft_type="IA3")
    assert "not compared" in load_candidate(str(adapter)).warnings[0]


def test_an_adapter_with_another_vocabulary_is_refused(adapter: Path, model: Path) -> None:
    """The base's tokenizer beside the adapter is fine, re-formatted too; one with other tokens is refused."""
    (adapter / "tokenizer.json").write_bytes((model / "tokenizer.json").read_bytes())
    assert load_candidate(str(adapter)).kind == "adapter"
    content = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (adapter / "tokenizer.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
    assert load_candidate(str(adapter)).kind == "adapter"
    write_tokenizer(adapter / "tokenizer.json", ("quite other words stand here", "zebra quiz jukebox"))
    assert "the tokenizer is not the base's: token ids" in refusal(adapter)


def test_an_added_token_is_another_vocabulary(adapter: Path, model: Path) -> None:
    """An adapter whose tokenizer has one added token more than its base's is refused."""
    content = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    content["added_tokens"].append({**content["added_tokens"][0], "content": "<pad>", "id": 999})
    write_json(adapter / "tokenizer.json", content)
    assert "added tokens differ" in refusal(adapter)


def test_an_adapters_own_template_is_in_force(adapter: Path) -> None:
    """A template in the adapter folder goes before the base's, with a warning that the two differ."""
    (adapter / "chat_template.jinja").write_text("own")
    candidate = load_candidate(str(adapter))
    assert candidate.chat_template == "own"
    assert "another chat template than its base's" in candidate.warnings[0]


def split_vocabulary(model: Path, folder: Path) -> None:
    """Write the vocabulary of `model`'s tokenizer.json into `folder` in the older form, vocab.json and merges.txt."""
    vocabulary = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    write_json(folder / "vocab.json", vocabulary["vocab"])
    lines = ["#version: 0.2", *(" ".join(pair) for pair in vocabulary["merges"])]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")


@pytest.mark.parametrize(("kept", "own"), [(("vocab.json", "merges.txt"), True), (("merges.txt",), False), ((), False)])
def test_an_adapters_tokenizer_is_its_own_when_it_has_a_whole_vocabulary(
    adapter: Path, model: Path, kept: tuple[str, ...], own: bool
) -> None:
    """vocab.json with merges.txt is a tokenizer of the adapter's own; without vocab.json it is the base's."""
    of_base = load_candidate(str(adapter)).tokenizer_digest
    write_json(adapter / "tokenizer_config.json", {"eos_token": "</s>"})
    split_vocabulary(model, adapter)
    for name in {"vocab.json", "merges.txt"} - set(kept):
        (adapter / name).unlink()
    assert (load_candidate(str(adapter)).tokenizer_digest != of_base) is own
    assert tokenizer_folder((adapter, model)) == (adapter if own else model)


@pytest.mark.full
@pytest.mark.filterwarnings("ignore")
def test_adapters_that_peft_saves_fit_their_base(tmp_path: Path) -> None:
    """Adapters that PEFT writes, with DoRA, saved modules, embeddings, new tokens or Conv1D, are accepted without a word."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    from tests.model_zoo import build_model

    build_model("llama", tmp_path / "llama")
    shutil.copytree(tmp_path / "llama", tmp_path / "gpt2")
    GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=640)).save_pretrained(tmp_path / "gpt2")
    settings: list[tuple[str, dict[str, object]]] = [
        ("llama", {"target_modules": ["q_proj"], "use_dora": True, "modules_to_save": ["lm_head", "embed_tokens"]}),
        ("llama", {"target_modules": "all-linear", "bias": "lora_only"}),
        ("llama", {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}),
        ("llama", {"target_modules": ["q_proj"], "trainable_token_indices": [1, 2]}),
        ("gpt2", {"target_modules": ["c_attn"]}),
    ]
    for number, (base, options) in enumerate(settings):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / base, use_safetensors=True)
        get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, **options)).save_pretrained(tmp_path / f"adapter-{number}")
        assert load_candidate(str(tmp_path / f"adapter-{number}")).warnings == ()


# The hub: huggingface_hub reads its environment when it is imported, so the calls run in a process of their own, all in one.

CALL = """
import json, sys
from pathlib import Path
from gate.candidate import load_candidate
from gate.errors import GateError
for source in sys.argv[2:]:
    try:
        print(load_candidate(source, cache_dir=Path(sys.argv[1])).model_dump_json())
    except GateError as error:
        print(json.dumps([type(error).__name__, int(error.exit_code), error.diagnostics()]))
"""


def on_hub(endpoint: str, cache: Path, *sources: str) -> list[str]:
    """Load the sources one after the other with the real huggingface_hub against `endpoint`; one JSON line for each."""
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "0", "HF_HOME": str(cache / "hf"), "NO_PROXY": "127.0.0.1"}
    env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [sys.executable, "-c", CALL, str(cache), *sources]
    done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@dataclass(frozen=True)
class OnHub:
    """What became of every source that was loaded from the loopback hub."""

    original: str
    """Digest of the folder that is served as org/tiny, less the file that is not fetched."""
    answers: dict[str, str]
    """Source → JSON line."""
    requests: list[str]
    cache: Path

    def candidate(self, source: str) -> Candidate:
        """The candidate that the source became."""
        return Candidate.model_validate_json(self.answers[source])

    def error(self, source: str) -> tuple[str, int, str]:
        """Class, exit code and diagnostics of the error that the source ended in."""
        name, code, text = json.loads(self.answers[source])
        return name, code, text


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> OnHub:
    """Three repositories, one clean, one with a pickle and code, one with remote code, and an adapter here on the clean one."""
    root = tmp_path_factory.mktemp("hub")
    folders = {name: make_model(root / name) for name in ("tiny", "pickled", "remote")}
    original = root_digest(folders["tiny"])
    (folders["tiny"] / "picture.bmp").write_bytes(b"BM")
    (folders["pickled"] / "pytorch_model.bin").write_bytes(b"x")
    (folders["pickled"] / "modeling_x.py").write_text("pass")
    edit_json(folders["remote"] / "config.json", auto_map={"AutoModel": "org/other--m.X"})
    adapter = make_adapter(root / "adapter", folders["tiny"], named="org/tiny")
    names = ["tiny@main", f"tiny@{COMMIT}", "pickled@main", "remote@main", "tiny@no-such-branch", "none@main"]
    sources = [*(f"hf://org/{name}" for name in names), str(adapter)]
    with serve(folders) as server:
        answers = dict(zip([*names, "adapter"], on_hub(server.url, root / "cache", *sources), strict=True))
        return OnHub(original=original, answers=answers, requests=server.requests, cache=root / "cache")


def test_a_hub_revision_is_fetched_pinned_and_kept(hub: OnHub) -> None:
    """A branch is resolved to its commit, the fetched folder has the original's digest, and each file is fetched once."""
    first, second = hub.candidate("tiny@main"), hub.candidate(f"tiny@{COMMIT}")
    assert first.revision == second.revision == COMMIT
    assert first.digest == second.digest == hub.original
    assert not any(file.is_symlink() for file in Path(first.path).rglob("*"))
    fetched = [request for request in hub.requests if request.startswith("GET /org/tiny/resolve")]
    assert len(fetched) == len(set(fetched)) == len(first.files)
    assert first.warnings == (f"org/tiny@main was resolved to commit {COMMIT}", *second.warnings)
    assert "'picture.bmp'" in second.warnings[0]


def test_a_fetched_commit_needs_no_network(hub: OnHub) -> None:
    """With the hub switched off, a commit that was fetched gives the same record; one that was not is a usage error."""
    source = f"hf://org/tiny@{COMMIT}"
    assert load_candidate(source, cache_dir=hub.cache) == hub.candidate(f"tiny@{COMMIT}")
    with pytest.raises(CandidateError, match="the hub is switched off"):
        load_candidate(f"hf://org/tiny@{'f' * 40}", cache_dir=hub.cache)


def test_a_hub_repository_with_a_pickle_is_refused_unfetched(hub: OnHub) -> None:
    """A pickle or code in the listing refuses the repository before any file of it is downloaded."""
    name, code, text = hub.error("pickled@main")
    assert (name, code) == ("UnsafeCandidateError", 3)
    assert "pytorch_model.bin" in text
    assert "modeling_x.py" in text
    assert not [request for request in hub.requests if request.startswith("GET /org/pickled/resolve")]


def test_a_fetched_repository_is_scanned_by_content(hub: OnHub) -> None:
    """Remote code in a fetched config refuses the repository as it would a folder."""
    name, code, text = hub.error("remote@main")
    assert (name, code) == ("UnsafeCandidateError", 3)
    assert "auto_map" in text


def test_an_adapter_takes_its_base_from_the_hub(hub: OnHub) -> None:
    """A base that the adapter's config names as a hub model is fetched and pinned, with a word on the commit."""
    candidate = hub.candidate("adapter")
    assert candidate.base_digest == hub.original
    assert candidate.base_path.endswith(COMMIT)
    assert f"org/tiny@main was resolved to commit {COMMIT}" in candidate.warnings


@pytest.mark.parametrize("source", ["tiny@no-such-branch", "none@main"])
def test_an_unknown_revision_or_repository_is_a_usage_error(hub: OnHub, source: str) -> None:
    """A revision or a repository that the hub does not have is the caller's mistake, not a failure of the network."""
    assert hub.error(source)[:2] == ("CandidateError", 2)


def test_a_hub_that_does_not_answer_is_infrastructure(tmp_path: Path) -> None:
    """With nobody listening the call ends with 5 and a mend."""
    (line,) = on_hub("http://127.0.0.1:9", tmp_path, "hf://org/tiny@main")
    name, code, text = json.loads(line)
    assert (name, code) == ("InfrastructureError", 5)
    assert "to mend: check the network" in text


def test_an_unreadable_file_is_infrastructure(model: Path, tmp_path: Path) -> None:
    """A folder that vanishes while it is hashed is a failure of the machine."""
    with pytest.raises(InfrastructureError):
        manifest(tmp_path / "gone")


def test_a_candidate_changed_after_the_scan_is_refused(model: Path) -> None:
    """A file that was only renamed between scan and load is noticed; an untouched folder is let through."""
    found = load_candidate(str(model))
    check_unchanged(found)
    (model / "config.json").rename(model / "conf2.json")
    with pytest.raises(UnsafeCandidateError, match="changed after it was scanned"):
        check_unchanged(found)
