"""Guards on tiny random encoders of the five families, and a WordPiece tokenizer trained on a few sentences."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel

from guard_server.training.model import GuardModel, Shape

FAMILIES = ("bert", "distilbert", "roberta", "modernbert", "deberta-v2")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
VOCABULARY = 400
_COMMON = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
_EXTRA: dict[str, dict[str, object]] = {
    "bert": {},
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "roberta": {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "type_vocab_size": 1},
    "modernbert": {
        "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3,
        "local_attention": 16, "global_attn_every_n_layers": 2,
    },
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16, "type_vocab_size": 0,
                   "norm_rel_ebd": "layer_norm", "share_att_key": True},
}  # fmt: skip
SENTENCES = (
    "Write a short guide on how to plant a tree in the garden and water it well.",
    "Translate the following sentence into French: the cook prepares the soup slowly.",
    "Summarize the text in one sentence. The team played a long match until the last minute.",
    "Classify the topic of this message as cooking, travel, sport or music.",
    "def sort_numbers(values): return sorted(values)",
    "I'm sorry, but I can't help with that. Sure, here is the answer to your question.",
)


def tiny_guard(family: str, *, seed: int = 0) -> GuardModel:
    """A guard on a random encoder of `family`, its weights spread enough that logits differ between texts."""
    config = AutoConfig.for_model(family, **_COMMON, max_position_embeddings=320, **_EXTRA[family])
    torch.manual_seed(seed)
    separator = None if family == "bert" else 3
    guard = GuardModel(AutoModel.from_config(config), Shape(hidden=32, separator=separator)).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in guard.heads.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return guard


def tiny_tokenizer(path: Path) -> Path:
    """Write a WordPiece tokenizer.json with truncation and padding on, as encoders ship it."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = [chr(code) for code in range(32, 127)]
    tokenizer.train_from_iterator(
        SENTENCES, trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet)
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.enable_truncation(64)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]", length=64)
    tokenizer.save(str(path))
    return path


def save_guard(folder: Path, family: str = "bert", *, seed: int = 0) -> Path:
    """A folder as `GuardModel.save` writes it."""
    folder.mkdir(parents=True)
    tiny_guard(family, seed=seed).save(folder, tiny_tokenizer(folder / "tokenizer.json"))
    return folder
