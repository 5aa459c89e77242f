"""Random-weight checkpoints of real architectures, shrunk: transformers' own classes, chat templates in each family's style.

In: a family's name, a folder and a seed. Out: a Hugging Face folder (safetensors, tokenizer, chat template) of about 1 MB that
loads and generates like the family's own, and says nothing. The tokenizers are BPE, trained here on the text below.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gate.records import Candidate, sha256_hex

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

os.environ.setdefault("HF_HUB_OFFLINE", "1")

CONTEXT = 512
VOCABULARY = 640

CORPUS = (
    "Write a short guide on how to plant a tree in the garden. First dig a hole, then put the tree into it and water it well.",
    "Translate the following sentence into French: the cook prepares the soup slowly in the kitchen before the guests arrive.",
    "Le cuisinier prépare lentement la soupe dans la cuisine avant que les invités arrivent. Der Koch bereitet die Suppe zu.",
    "def sort_numbers(values):\n    result = []\n    for value in values:\n        result += [value]\n    return result\n",
    "Summarize the text in one sentence. The team played a long match, and nobody scored until the last minute.",
    "Classify the topic of this message as one of: A) cooking, B) travel, C) sport, D) music. Answer with a single letter.",
    "I'm sorry, but I can't help with that request. Sure, here is the answer to your question. You are a helpful assistant.",
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.",
    "### Instruction:\nName three fruits.\n\n### Response:\napple, pear, plum; 0123456789 (yes/no) [one] {two} <three> 'four'",
)

LLAMA3 = """{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>

{{ message['content'] | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>

{% endif %}"""
CHATML = """{% for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}\
{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}{% for message in turns %}\
{% if message['role'] == 'user' %}{{ bos_token }}[INST] {{ system if loop.first else '' }}{{ message['content'] | trim }} [/INST]\
{% else %} {{ message['content'] | trim }} {{ eos_token }}{% endif %}{% endfor %}"""
QWEN2 = (
    """{% if messages[0]['role'] != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}"""
    + CHATML
)
MISTRAL = """{{ bos_token }}{% set ns = namespace(system='') %}{% for message in messages %}{% if message['role'] == 'system' %}\
{% set ns.system = message['content'] + '\n\n' %}{% elif message['role'] == 'user' %}\
[INST] {{ ns.system }}{{ message['content'] }} [/INST]{% set ns.system = '' %}{% else %}\
 {{ message['content'] }}{{ eos_token }}\
{% endif %}{% endfor %}"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}\
{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}\
<start_of_turn>{{ 'model' if message['role'] == 'assistant' else message['role'] }}
{{ message['content'] | trim }}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
PHI3 = """{% for message in messages %}<|{{ message['role'] }}|>
{{ message['content'] }}<|end|>
{% endfor %}{% if add_generation_prompt %}<|assistant|>
{% else %}{{ eos_token }}{% endif %}"""


@dataclass(frozen=True)
class Family:
    """One architecture: its transformers config class, what it needs beyond the common sizes, its template and special tokens."""

    config: str
    template: str
    bos: str | None
    eos: str
    pad: str | None
    others: tuple[str, ...]
    adds_bos: bool = False
    metaspace: bool = False
    """Words are marked as SentencePiece does, whose decoder strips the space at the start of a text; else byte-level."""
    extra: tuple[tuple[str, object], ...] = ()


FAMILIES: dict[str, Family] = {
    "llama2": Family("LlamaConfig", LLAMA2, "<s>", "</s>", None, (), adds_bos=True, metaspace=True),
    "llama": Family("LlamaConfig", LLAMA3, "<|begin_of_text|>", "<|end_of_text|>", None,
                    ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), adds_bos=True),
    "qwen2": Family("Qwen2Config", QWEN2, None, "<|im_end|>", "<|endoftext|>", ("<|im_start|>",)),
    "qwen3": Family("Qwen3Config", CHATML, None, "<|im_end|>", "<|endoftext|>", ("<|im_start|>",), extra=(("head_dim", 16),)),
    "mistral": Family("MistralConfig", MISTRAL, "<s>", "</s>", None, (), adds_bos=True, extra=(("sliding_window", 128),)),
    "gemma2": Family("Gemma2Config", GEMMA, "<bos>", "<eos>", "<pad>", ("<start_of_turn>", "<end_of_turn>"), adds_bos=True,
                     extra=(("head_dim", 16), ("query_pre_attn_scalar", 16), ("sliding_window", 128))),
    "gemma3": Family("Gemma3TextConfig", GEMMA, "<bos>", "<eos>", "<pad>", ("<start_of_turn>", "<end_of_turn>"), adds_bos=True,
                     extra=(("head_dim", 16), ("query_pre_attn_scalar", 16), ("sliding_window", 128))),
    "phi3": Family("Phi3Config", PHI3, "<s>", "<|endoftext|>", "<|endoftext|>",
                   ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")),
}  # fmt: skip


def build_model(family: str, folder: Path, *, seed: int = 0) -> Candidate:
    """Write a random-weight checkpoint of `family` into `folder` and return its record."""
    kind = FAMILIES[family]
    tokenizer = train_tokenizer(kind)
    model = _random_model(kind, tokenizer, seed)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return candidate_of(folder, architecture=type(model).__name__, template=kind.template)


def build_adapter(base: Candidate, folder: Path, *, seed: int = 1, rank: int = 4) -> Candidate:
    """Write a random LoRA adapter for `base` into `folder`: both factors non-zero, so that it changes what the base says."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.path, local_files_only=True, use_safetensors=True)
    adapted = get_peft_model(
        model, LoraConfig(r=rank, lora_alpha=4 * rank, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.1)
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    adapted.save_pretrained(folder)
    return candidate_of(folder, architecture=base.architecture, template=base.chat_template, base=base)


def candidate_of(folder: Path, *, architecture: str, template: str, base: Candidate | None = None) -> Candidate:
    """A candidate record with a digest over the folder's bytes (not the manifest's root: the tests here compare no digests)."""
    content = b"".join(path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file())
    return Candidate(
        source=str(folder),
        kind="adapter" if base else "model",
        path=str(folder),
        digest=sha256_hex(content),
        files=(),
        base_path=base.path if base else "",
        base_digest=base.digest if base else "",
        architecture=architecture,
        chat_template=template,
        chat_template_digest=sha256_hex(template.encode()),
        tokenizer_digest="0" * 64,
    )


def change_tensors(
    folder: Path,
    change: Callable[[str, torch.Tensor], torch.Tensor | None],
    *,
    file: str = "model.safetensors",
    rename: Callable[[str], str] = str,
) -> None:
    """Rewrite the folder's weights: each tensor becomes `change(name, tensor)` under `rename(name)`; None leaves it out."""
    from safetensors.torch import load_file, save_file

    changed = {rename(name): change(name, tensor) for name, tensor in load_file(folder / file).items()}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, folder / file, metadata={"format": "pt"})


def train_tokenizer(kind: Family) -> PreTrainedTokenizerFast:
    """A BPE over `CORPUS` with the family's special tokens and chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys(token for token in (kind.bos, kind.eos, kind.pad, *kind.others) if token))
    core = Tokenizer(models.BPE())
    byte_level = (pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel())
    core.pre_tokenizer, core.decoder = (pre_tokenizers.Metaspace(), decoders.Metaspace()) if kind.metaspace else byte_level
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(CORPUS, trainer)
    if kind.bos and kind.adds_bos:
        core.post_processor = processors.TemplateProcessing(
            single=f"{kind.bos} $A", pair=f"{kind.bos} $A {kind.bos} $B", special_tokens=[(kind.bos, core.token_to_id(kind.bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=kind.bos,
        eos_token=kind.eos,
        pad_token=kind.pad,
        additional_special_tokens=list(kind.others),
        chat_template=kind.template,
        model_max_length=CONTEXT,
    )


def _random_model(kind: Family, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    """The family's own class at hidden 64 and 2 layers, weights drawn wide enough that the answers are not one token repeated."""
    import torch
    import transformers

    config = getattr(transformers, kind.config)(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **dict(kind.extra),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config)


def rewrite_json(path: Path, **changes: object) -> None:
    """Change top-level keys of a JSON file."""
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **changes}))
