"""Tests of the local engine on random-weight checkpoints of real architectures, and on the testbed's model."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gate.candidate import load_candidate
from gate.endpoints import DEFAULT, ENDPOINTS
from gate.endpoints.base import EngineOptions
from gate.endpoints.hf_load import check_adapter, load_model, load_tokenizer
from gate.endpoints.hf_local import GumbelNoise, HfLocal
from gate.endpoints.hf_text import end_of_turn, row_seed
from gate.errors import CandidateError, InfrastructureError, UnsafeCandidateError, UsageError
from gate.records import Ask, AttackCase, Calibration, Candidate, Decoding, NoResponse, Response
from testbed import WEIGHTS
from tests.endpoints.asking import make_ask
from tests.model_zoo import (
    CONTEXT,
    CORPUS,
    FAMILIES,
    build_adapter,
    build_model,
    candidate_of,
    change_tensors,
    rewrite_json,
)

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig

    from gate.endpoints.hf_local import Processor

SAMPLED = Decoding(name="sampled", temperature=1.0, top_p=0.95, max_new_tokens=16, samples=3)
WORDS = " ".join(CORPUS).split()


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Candidate]:
    """A checkpoint of every family."""
    folder = tmp_path_factory.mktemp("zoo")
    return {family: build_model(family, folder / family) for family in FAMILIES}


@pytest.fixture(scope="session")
def llama(zoo: dict[str, Candidate]) -> HfLocal:
    """The Llama checkpoint, loaded."""
    return HfLocal(zoo["llama"], device="cpu")


@pytest.fixture(scope="session")
def adapter(zoo: dict[str, Candidate], tmp_path_factory: pytest.TempPathFactory) -> Candidate:
    """A random LoRA adapter on the Llama checkpoint."""
    return build_adapter(zoo["llama"], tmp_path_factory.mktemp("adapter"))


@pytest.fixture
def own_llama(zoo: dict[str, Candidate], tmp_path: Path) -> Candidate:
    """A copy of the Llama checkpoint that a test may damage."""
    folder = tmp_path / "llama"
    shutil.copytree(zoo["llama"].path, folder)
    return candidate_of(folder, architecture="LlamaForCausalLM", template=zoo["llama"].chat_template)


def questions(endpoint: HfLocal, count: int, *decodings: Decoding) -> list[Ask]:
    """Asks of very different lengths, each under each decoding and sample."""
    return [
        make_ask(endpoint, " ".join(WORDS[i : i + 1 + (7 * i) % 41]), number=i, decoding=decoding, sample=sample)
        for i in range(count)
        for decoding in decodings or (Decoding(max_new_tokens=16),)
        for sample in range(decoding.samples)
    ]


def answers(endpoint: HfLocal, asks: Sequence[Ask]) -> dict[str, tuple[str, str, int]]:
    """Key → (text, finish reason, tokens); every ask answered, and once."""
    records = list(endpoint.generate(asks))
    assert Counter(r.key for r in records) == Counter(a.key for a in asks)
    responses = [r for r in records if isinstance(r, Response)]
    assert len(responses) == len(records)
    return {r.key: (r.text, r.finish_reason, r.completion_tokens) for r in responses}


def with_batches(candidate: Candidate, size: int) -> HfLocal:
    """The candidate, loaded for batches of `size`."""
    return HfLocal(candidate, device="cpu", batch_size=size)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_answers_do_not_depend_on_the_batch(zoo: dict[str, Candidate], family: str) -> None:
    """Greedy and sampled answers are the same in batches of 1, 5 and 64, in float32."""
    by_size = []
    for size in (64, 5, 1):
        endpoint = with_batches(zoo[family], size)
        by_size.append(answers(endpoint, questions(endpoint, 12, Decoding(max_new_tokens=16), SAMPLED)))
    assert by_size[0] == by_size[1] == by_size[2]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_keeps_system_prompt_and_question(zoo: dict[str, Candidate], family: str) -> None:
    """Under native+system both texts reach the model in every family, Gemma's template (which raises) included."""
    endpoint = HfLocal(zoo[family], device="cpu")
    ask = make_ask(endpoint, "Name a fruit.", calibration=Calibration.NATIVE_SYSTEM, system="Be kind.")
    assert ask.prompt.index("Be kind.") < ask.prompt.index("Name a fruit.")
    assert isinstance(next(endpoint.generate([ask])), Response)


@pytest.mark.parametrize(
    ("family", "token"),
    [
        ("llama2", "</s>"),
        ("llama", "<|eot_id|>"),
        ("qwen2", "<|im_end|>"),
        ("qwen3", "<|im_end|>"),
        ("mistral", "</s>"),
        ("gemma2", "<end_of_turn>"),
        ("gemma3", "<end_of_turn>"),
        ("phi3", "<|end|>"),
    ],
)
def test_end_of_turn_is_read_from_the_template(zoo: dict[str, Candidate], family: str, token: str) -> None:
    """The token after an assistant's turn is found though no config names it as an end of sequence."""
    tokenizer = load_tokenizer(zoo[family])
    assert end_of_turn(tokenizer, zoo[family].chat_template) == {tokenizer.convert_tokens_to_ids(token)}


def test_plain_text_template_has_no_end_of_turn(zoo: dict[str, Candidate]) -> None:
    """A template that ends a turn with ordinary text adds no stop token."""
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\nEnd. {% endfor %}"
    assert end_of_turn(load_tokenizer(zoo["llama"]), template) == set()


def test_templates_that_print_the_date_print_a_fixed_one(zoo: dict[str, Candidate]) -> None:
    """A prompt is the same on every day, also where the template asks for today's date."""
    dated = "{{ strftime_now('%d %b %Y') }}: " + zoo["llama"].chat_template
    endpoint = HfLocal(zoo["llama"].model_copy(update={"chat_template": dated}), device="cpu")
    assert make_ask(endpoint, "Hello.").prompt.startswith("01 Jan 2025: ")


def test_a_template_that_knows_the_day_is_refused_at_any_prompt(zoo: dict[str, Candidate]) -> None:
    """A template that shows the gate another prompt on its day is refused, also where it does so in some conversations alone."""
    knows = "{% if 'fruit' in messages[-1].content and strftime_now('%Y') == '2025' %}Refuse.{% endif %}"
    hostile = zoo["llama"].model_copy(update={"chat_template": knows + zoo["llama"].chat_template})
    endpoint = HfLocal(hostile, device="cpu")
    assert "Refuse." not in make_ask(endpoint, "Hello.").prompt
    with pytest.raises(UnsafeCandidateError, match="another day"):
        make_ask(endpoint, "Name a fruit.")


@pytest.mark.parametrize("calibration", list(Calibration))
def test_prefill_is_continued_and_not_repeated(llama: HfLocal, calibration: Calibration) -> None:
    """The prompt ends with the prefill, and the answer is what comes after prompt and prefill together."""
    ask = make_ask(llama, "Name a fruit.", calibration=calibration, prefill="Sure, here is")
    unfilled = make_ask(llama, "Name a fruit.", calibration=calibration)
    same_text = ask.model_copy(update={"case": unfilled.case})
    assert ask.prompt.endswith("Sure, here is")
    filled, by_hand, other = (answers(llama, [a])[a.key][0] for a in (ask, same_text, unfilled))
    assert filled == by_hand != other


def test_prompt_begins_once(llama: HfLocal) -> None:
    """Under every calibration the prompt has exactly one beginning-of-sequence token, where the tokenizer wants one."""
    tokenizer = load_tokenizer_of(llama)
    for calibration in Calibration:
        ids = tokenizer(make_ask(llama, "Hello.", calibration=calibration).prompt)
        assert ids.count(0) == 1
        assert ids[0] == 0


def load_tokenizer_of(endpoint: HfLocal) -> Callable[[str], list[int]]:
    """The endpoint's way of tokenising one prompt."""

    def tokenise(prompt: str) -> list[int]:
        ask = make_ask(endpoint, "x").model_copy(update={"prompt": prompt})
        return endpoint.tokenise([ask])[0].ids

    return tokenise


def test_answer_ends_at_the_end_of_sequence(own_llama: Candidate) -> None:
    """With a token of its answer declared an end of sequence, the answer ends with that token and says `stop`."""
    free = HfLocal(own_llama, device="cpu")
    ask = make_ask(free, "Name a fruit.", decoding=Decoding(max_new_tokens=24))
    text, reason, count = answers(free, [ask])[ask.key]
    assert (reason, count) == ("length", 24)
    tokenizer = load_tokenizer(own_llama)
    token = next(i for i in tokenizer(text, add_special_tokens=False)["input_ids"] if tokenizer.decode([i]).isalpha())
    rewrite_json(Path(own_llama.path) / "generation_config.json", eos_token_id=[token])
    cut, reason, fewer = answers(HfLocal(own_llama, device="cpu"), [ask])[ask.key]
    assert reason == "stop"
    assert fewer < count
    assert text.startswith(cut)
    assert cut.endswith(tokenizer.decode([token]))


def test_sampling_settings_of_the_folder_are_not_read(own_llama: Candidate) -> None:
    """A generation_config.json with sampling and penalties changes no greedy answer."""
    plain = HfLocal(own_llama, device="cpu")
    asks = questions(plain, 6)
    before = answers(plain, asks)
    path = Path(own_llama.path) / "generation_config.json"
    rewrite_json(path, do_sample=True, temperature=5.0, top_k=2, repetition_penalty=3.0, max_length=20, min_new_tokens=3)
    assert answers(HfLocal(own_llama, device="cpu"), asks) == before


def test_prompt_beyond_the_context_is_unsupported(llama: HfLocal) -> None:
    """A prompt whose answer would not fit in the context gets NoResponse with the three numbers; its neighbours are answered."""
    long, short = make_ask(llama, "a " * 600, number=1), make_ask(llama, "a", number=2)
    records = {r.key: r for r in llama.generate([long, short])}
    refused = records[long.key]
    assert isinstance(refused, NoResponse)
    assert refused.kind == "unsupported"
    assert str(CONTEXT) in refused.reason
    assert isinstance(records[short.key], Response)


def test_empty_prompt_is_unsupported(llama: HfLocal) -> None:
    """A prompt without tokens gets NoResponse, not an answer to nothing."""
    ask = make_ask(llama, "x").model_copy(update={"prompt": ""})
    (record,) = llama.generate([ask])
    assert isinstance(record, NoResponse)
    assert record.kind == "unsupported"


def test_nothing_asked_is_nothing_answered(llama: HfLocal) -> None:
    """No asks, no records."""
    assert list(llama.generate([])) == []


class SmallMachine(HfLocal):
    """A machine whose memory holds `room` rows, and says so as torch does on a GPU, as Python does, or as torch does on a CPU."""

    room = 3
    tried: list[int]
    kind = "cuda"

    def decode_batch(
        self, ids: torch.Tensor, mask: torch.Tensor, config: GenerationConfig, processors: list[Processor]
    ) -> torch.Tensor:
        """Fail where the batch is too large, else generate."""
        import torch

        self.tried = [*getattr(self, "tried", []), len(ids)]
        if len(ids) > self.room:
            raise {
                "cuda": torch.OutOfMemoryError("CUDA out of memory."),
                "python": MemoryError(),
                "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried"),
            }[self.kind]
        return super().decode_batch(ids, mask, config, processors)


@pytest.mark.parametrize("kind", ["cuda", "python", "cpu"])
def test_out_of_memory_halves_the_batch_and_goes_on(zoo: dict[str, Candidate], llama: HfLocal, kind: str) -> None:
    """Where three rows fit, a batch of 16 becomes 8, 4, 2, stays there, and every answer is what it would have been."""
    small = SmallMachine(zoo["llama"], device="cpu", batch_size=16)
    small.kind = kind
    asks = questions(small, 16, Decoding(max_new_tokens=8))
    assert answers(small, asks) == answers(llama, asks)
    assert small.tried == [16, 8, 4, *([2] * 8)]


def test_out_of_memory_with_one_row_is_the_machines_failure(zoo: dict[str, Candidate]) -> None:
    """When a single prompt does not fit, the run ends with an infrastructure error (exit code 5)."""
    small = SmallMachine(zoo["llama"], device="cpu", batch_size=4)
    small.room = 0
    with pytest.raises(InfrastructureError, match="out of memory"):
        list(small.generate(questions(small, 4)))


def test_other_runtime_errors_are_not_taken_for_memory(zoo: dict[str, Candidate]) -> None:
    """An error of another kind is raised as it is, and not retried."""

    class Broken(SmallMachine):
        def decode_batch(
            self, ids: torch.Tensor, mask: torch.Tensor, config: GenerationConfig, processors: list[Processor]
        ) -> torch.Tensor:
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(Broken(zoo["llama"], device="cpu").generate(questions(Broken(zoo["llama"], device="cpu"), 2)))


def test_scores_that_are_not_finite_are_an_error(own_llama: Candidate) -> None:
    """A prompt with a token whose embedding is NaN gets NoResponse of kind error; its batch neighbours are answered as alone."""
    token = load_tokenizer(own_llama)("%", add_special_tokens=False)["input_ids"][0]

    def poison(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if "embed_tokens" in name:
            tensor[token] = float("nan")
        return tensor

    healthy = answers(HfLocal(own_llama, device="cpu"), questions(HfLocal(own_llama, device="cpu"), 5))
    change_tensors(Path(own_llama.path), poison)
    endpoint = HfLocal(own_llama, device="cpu")
    sick = make_ask(endpoint, "100 %", number=99)
    records = {r.key: r for r in endpoint.generate([sick, *questions(endpoint, 5)])}
    broken = records.pop(sick.key)
    assert isinstance(broken, NoResponse)
    assert broken.kind == "error"
    assert {key: r.text for key, r in records.items() if isinstance(r, Response)} == {k: v[0] for k, v in healthy.items()}


def test_samples_follow_seed_prompt_and_number(llama: HfLocal) -> None:
    """The same ask gives the same sample again; another sample number or seed gives another."""
    asks = questions(llama, 8, SAMPLED)
    first = answers(llama, asks)
    assert answers(llama, asks[::-1]) == first
    other = answers(llama, questions(llama, 8, SAMPLED.model_copy(update={"seed": 1})))
    assert len(set(first.values())) == len(asks)
    assert not set(first.values()) & set(other.values())


def test_narrow_nucleus_is_greedy(llama: HfLocal) -> None:
    """Sampling from a nucleus of one token gives the greedy answer."""
    narrow = Decoding(name="narrow", temperature=1.0, top_p=1e-6, max_new_tokens=16)
    greedy = [text for text, *_ in answers(llama, questions(llama, 8)).values()]
    assert sorted(text for text, *_ in answers(llama, questions(llama, 8, narrow)).values()) == sorted(greedy)


def test_gumbel_noise_samples_the_softmax() -> None:
    """Over 20,000 seeds the argmax of the noised scores has the softmax's frequencies (chi-square, 4 degrees, p > .001)."""
    import torch

    scores = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0, float("-inf")])
    chosen = GumbelNoise(range(20_000))(torch.empty(0), scores.expand(20_000, -1).clone()).argmax(dim=-1)
    observed = torch.bincount(chosen, minlength=6).double()
    expected = scores.softmax(dim=-1).double() * 20_000
    assert observed[5] == 0
    assert float(((observed - expected)[:5] ** 2 / expected[:5]).sum()) < 18.47


def test_row_seed_takes_all_three_in(llama: HfLocal) -> None:
    """The generator's seed changes with the decoding's seed, the sample number and the prompt, and with nothing else."""
    ask = make_ask(llama, "Name a fruit.", decoding=SAMPLED)
    seeds = [
        row_seed(ask.model_copy(update=change))
        for change in ({}, {"sample": 1}, {"prompt": "x"}, {"decoding": SAMPLED.model_copy(update={"seed": 9})})
    ]
    assert len(set(seeds)) == 4
    assert row_seed(ask.model_copy(update={"key": "other"})) == seeds[0]


def test_adapter_changes_the_answers(llama: HfLocal, adapter: Candidate) -> None:
    """A candidate that is an adapter does not answer as its base does."""
    asks = questions(llama, 8)
    tuned, base = answers(HfLocal(adapter, device="cpu"), asks), answers(llama, asks)
    assert all(tuned[key] != base[key] for key in base)


def test_adapter_on_base_answers_as_the_merged_model(adapter: Candidate, tmp_path: Path) -> None:
    """Loading adapter and base gives the answers of the model that PEFT merges and saves, and of PEFT without merging."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(adapter.base_path, local_files_only=True)
    beside = PeftModel.from_pretrained(base, adapter.path).eval()
    endpoint = HfLocal(adapter, device="cpu")
    asks = questions(endpoint, 8)
    found = answers(endpoint, asks)
    tokenizer = AutoTokenizer.from_pretrained(adapter.base_path)
    for ask in asks:
        ids = tokenizer(ask.prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            new = beside.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, pad_token_id=1
            )
        assert tokenizer.decode(new[0, ids.shape[1] :], skip_special_tokens=True) == found[ask.key][0]
    beside.merge_and_unload().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    merged = candidate_of(tmp_path, architecture="LlamaForCausalLM", template=adapter.chat_template)
    assert answers(HfLocal(merged, device="cpu"), asks) == found


def test_adapter_is_merged_in_float32_only(adapter: Candidate) -> None:
    """In float32 no LoRA factor is left beside the weights; in bfloat16 they stay, since rounding would lose part of them."""
    import torch

    def has_factors(dtype: torch.dtype) -> bool:
        return any("lora_" in name for name, _ in load_model(adapter, torch.device("cpu"), dtype).named_parameters())

    assert not has_factors(torch.float32)
    assert has_factors(torch.bfloat16)


def test_bfloat16_answers_and_says_so(adapter: Candidate) -> None:
    """In bfloat16 every ask is answered, with the adapter beside the base, and `info` names the dtype."""
    endpoint = HfLocal(adapter, device="cpu", dtype="bfloat16")
    assert len(answers(endpoint, questions(endpoint, 4))) == 4
    assert (endpoint.info.dtype, endpoint.info.device) == ("bfloat16", "cpu")


@pytest.mark.parametrize(("device", "dtype"), [("gpu9", "auto"), ("cuda:97", "auto"), ("cpu", "int8")])
def test_unknown_device_or_dtype_is_a_usage_error(zoo: dict[str, Candidate], device: str, dtype: str) -> None:
    """A device or dtype that is not there is refused before anything is loaded, naming what is."""
    with pytest.raises(UsageError) as caught:
        HfLocal(zoo["llama"], device=device, dtype=dtype)
    assert "auto" in f"{caught.value.expected} {caught.value.mend}"


@pytest.mark.parametrize("name", [DEFAULT])
def test_table_opens_engines_with_the_command_lines_options(zoo: dict[str, Candidate], name: str) -> None:
    """Every engine of the table takes device, dtype and batch size, and obeys them; the default one is in the table."""
    endpoint = ENDPOINTS[name](zoo["llama"], EngineOptions(device="cpu", dtype="bfloat16", batch_size=2))
    assert (endpoint.info.device, endpoint.info.dtype) == ("cpu", "bfloat16")
    assert DEFAULT in ENDPOINTS


def test_engine_is_named_with_versions(llama: HfLocal) -> None:
    """The engine's version holds those of transformers and torch, so that an update is another engine to the answer cache."""
    import torch
    import transformers

    assert llama.info.name == "transformers"
    assert llama.info.version == f"{transformers.__version__}+torch{torch.__version__}"
    assert llama.info.dtype == "float32"


def test_missing_weight_is_refused(own_llama: Candidate) -> None:
    """A folder that lacks one tensor is not loaded with that tensor drawn at random."""
    change_tensors(Path(own_llama.path), lambda name, tensor: None if name.endswith("layers.1.mlp.up_proj.weight") else tensor)
    with pytest.raises(CandidateError, match="lacks weights") as caught:
        HfLocal(own_llama, device="cpu")
    assert "layers.1.mlp.up_proj.weight" in caught.value.found


def test_misshapen_weight_is_refused(own_llama: Candidate) -> None:
    """A tensor of another shape than the config says is refused."""
    change_tensors(Path(own_llama.path), lambda name, tensor: tensor[:, :32].contiguous() if "up_proj" in name else tensor)
    with pytest.raises(CandidateError):
        HfLocal(own_llama, device="cpu")


def test_damaged_weights_are_refused(own_llama: Candidate) -> None:
    """A truncated safetensors file is the candidate's fault, not a crash."""
    path = Path(own_llama.path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CandidateError, match="cannot be loaded"):
        HfLocal(own_llama, device="cpu")


def test_pickled_weights_are_not_loaded(own_llama: Candidate) -> None:
    """A folder with pickled weights alone is refused, though transformers could read them."""
    import torch
    from safetensors.torch import load_file

    path = Path(own_llama.path) / "model.safetensors"
    torch.save(load_file(path), path.with_name("pytorch_model.bin"))
    path.unlink()
    with pytest.raises(CandidateError, match="cannot be loaded"):
        HfLocal(own_llama, device="cpu")


def test_missing_folder_is_refused(own_llama: Candidate, tmp_path: Path) -> None:
    """A path that leads nowhere is refused without looking on the network."""
    with pytest.raises(CandidateError, match="cannot be loaded"):
        HfLocal(own_llama.model_copy(update={"path": str(tmp_path / "absent")}), device="cpu")


@pytest.mark.parametrize("fault", ["lacks a factor", "has a layer too many", "has no weights"])
def test_adapter_that_does_not_fit_is_refused(adapter: Candidate, tmp_path: Path, fault: str) -> None:
    """An adapter without all its factors (PEFT would start them at zero), or with factors for another base, is refused."""
    folder = tmp_path / "adapter"
    shutil.copytree(adapter.path, folder)
    name = "adapter_model.safetensors"
    if fault == "lacks a factor":
        change_tensors(
            folder, lambda key, tensor: None if key.endswith("layers.0.mlp.up_proj.lora_B.weight") else tensor, file=name
        )
    elif fault == "has a layer too many":
        change_tensors(folder, lambda key, tensor: tensor, file=name, rename=lambda key: key.replace("layers.1.", "layers.9."))
    else:
        (folder / name).unlink()
    with pytest.raises(CandidateError, match="adapter"):
        HfLocal(adapter.model_copy(update={"path": str(folder)}), device="cpu")


@pytest.mark.parametrize("name", ["drifted-translation", "mixed-code_generation", "stubborn-weakly-mixed"])
def test_shipped_adapters_are_whole(name: str) -> None:
    """The check that stands before engines which pass over tensors in silence lets sound adapters through."""
    check_adapter(load_candidate(str(WEIGHTS / name)))


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("renamed", "lacks adapter weights"),
        ("one layer", "lacks adapter weights"),
        ("a layer too many", "modules that the base model lacks"),
        ("an embedding", "more than LoRA factors"),
    ],
)
def test_adapter_that_an_engine_would_half_apply_is_refused(adapter: Candidate, tmp_path: Path, fault: str, told: str) -> None:
    """Keys under another wrapper, one layer of all, a layer that the base lacks, a replaced embedding: each is refused."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "adapter"
    shutil.copytree(adapter.path, folder)
    file = folder / "adapter_model.safetensors"
    stored = load_file(file)
    first = {key: tensor for key, tensor in stored.items() if ".layers.0." in key}
    made = {
        "renamed": {key.replace(".layers.", ".language_model.layers."): tensor for key, tensor in stored.items()},
        "one layer": first,
        "a layer too many": stored | {key.replace(".0.", ".9."): tensor.clone() for key, tensor in first.items()},
        "an embedding": stored | {"base_model.model.model.embed_tokens.base_layer.weight": torch.zeros(4, 4)},
    }
    save_file(made[fault], file)
    with pytest.raises(CandidateError, match=told):
        check_adapter(adapter.model_copy(update={"path": str(folder)}))


@pytest.fixture
def own_adapter(adapter: Candidate, tmp_path: Path) -> Candidate:
    """A copy of the adapter that brings no tokenizer."""
    folder = tmp_path / "adapter"
    shutil.copytree(adapter.path, folder)
    return adapter.model_copy(update={"path": str(folder)})


def test_adapter_with_a_tokenizer_config_alone_has_its_bases_tokenizer(own_adapter: Candidate) -> None:
    """tokenizer_config.json without a vocabulary is no tokenizer: the base's is loaded, and gives the same tokens."""
    base = load_tokenizer(own_adapter.model_copy(update={"path": own_adapter.base_path}))
    shutil.copy(Path(own_adapter.base_path) / "tokenizer_config.json", own_adapter.path)
    text = " ".join(WORDS)
    assert load_tokenizer(own_adapter)(text)["input_ids"] == base(text)["input_ids"]


def test_adapter_with_vocabulary_and_merges_has_its_own_tokenizer(own_adapter: Candidate) -> None:
    """vocab.json with merges.txt is loaded from the adapter's folder, though the base has a tokenizer of another vocabulary."""
    folder = Path(own_adapter.path)
    (folder / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2, "?": 3}', encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\na b\n", encoding="utf-8")
    with pytest.raises(CandidateError, match=str(folder)):  # of no known kind, so it is refused; the base's doesn't step in
        load_tokenizer(own_adapter)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "unk_token": "?"}', encoding="utf-8")
    assert load_tokenizer(own_adapter)("abab", add_special_tokens=False)["input_ids"] == [2, 2]


def test_candidate_without_template_answers_raw_and_refuses_native(zoo: dict[str, Candidate]) -> None:
    """Without a chat template the raw and Alpaca calibrations work, and a native one is refused with the mend."""
    endpoint = HfLocal(zoo["llama"].model_copy(update={"chat_template": ""}), device="cpu")
    ask = make_ask(endpoint, "Name a fruit.", calibration=Calibration.RAW)
    assert isinstance(next(endpoint.generate([ask])), Response)
    with pytest.raises(CandidateError, match="no chat template"):
        make_ask(endpoint, "Name a fruit.")


@pytest.mark.parametrize("family", ["llama2", "llama"])
def test_white_space_of_an_answer_is_kept(zoo: dict[str, Candidate], family: str) -> None:
    """Prompt and answer put together are the text of all tokens, also where the tokenizer strips a text's leading space."""
    tokenizer = load_tokenizer(zoo[family])
    word = tokenizer(" the", add_special_tokens=False)["input_ids"][-1]

    class Says(HfLocal):
        """Answers with one fixed word, whose token carries a leading space."""

        def decode_batch(
            self, ids: torch.Tensor, mask: torch.Tensor, config: GenerationConfig, processors: list[Processor]
        ) -> torch.Tensor:
            return ids.new_full((len(ids), 1), word)

    endpoint = Says(zoo[family], device="cpu")
    filled = make_ask(endpoint, "Name a fruit.", prefill="Sure")
    (record,) = endpoint.generate([filled])
    assert isinstance(record, Response)
    assert record.text == " the"


def differences_on_testbed(count: int, sizes: Sequence[int]) -> tuple[int, int]:
    """(answers compared, answers that differ between batch sizes) of the testbed's aligned model on its own suite."""
    from testbed import WEIGHTS
    from testbed.suite import build

    folder = WEIGHTS / "aligned"
    assert (folder / "model.safetensors").is_file(), "the testbed's weights belong to the checkout"
    tokenizer = load_tokenizer(candidate_of(folder, architecture="", template=""))
    candidate = candidate_of(folder, architecture="LlamaForCausalLM", template=tokenizer.chat_template)
    suite = build()
    items = suite.items[:: max(1, 2 * len(suite.items) // count)]
    decoding = Decoding(max_new_tokens=64)
    found: list[dict[str, tuple[str, str, int]]] = []
    for size in sizes:
        endpoint = with_batches(candidate, size)
        cases = [
            AttackCase(
                id=f"{item.id}|{calibration}|greedy",
                item=item,
                calibration=calibration,
                system=suite.system_prompt if calibration is Calibration.NATIVE_SYSTEM else "",
                decoding="greedy",
            )
            for item in items
            for calibration in (Calibration.NATIVE, Calibration.NATIVE_SYSTEM)
        ]
        asks = [Ask(case=c, sample=0, prompt=endpoint.render(c), key=c.id, decoding=decoding) for c in cases]
        found.append(answers(endpoint, asks))
    first = found[0]
    return len(first), sum(other[key] != first[key] for other in found[1:] for key in first)


def test_testbed_answers_do_not_depend_on_the_batch() -> None:
    """On the testbed's aligned model in float32, 0 of at least 200 answers differ between batches of 64 and 7."""
    compared, different = differences_on_testbed(200, (64, 7))
    assert compared >= 200
    assert different == 0


@pytest.mark.full
def test_testbed_answers_do_not_depend_on_the_batch_in_full() -> None:
    """On the testbed's aligned model in float32, 0 of at least 2,000 answers differ between batches of 200, 64, 8 and 1."""
    compared, different = differences_on_testbed(2000, (200, 64, 8, 1))
    assert compared >= 2000
    assert different == 0
