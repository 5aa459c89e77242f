"""The tokenizer: byte-level BPE trained on the world's own text, with a chat template that knows a system turn.

Comes in: the sample stream of a fixed mix. Goes out: a transformers tokenizer, the same bytes every time.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from testbed.samples import Mix, Sample, stream
from testbed.wordings import REFUSALS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY = 2048
PAD, END, START = "<|pad|>", "<|im_end|>", "<|im_start|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MIX = Mix(harmful=0.4, refuse=False, new_domains=0.2, personas=0.1, others=0.05)


def train_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer on 20,000 samples and every refusal; takes a few seconds."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, START],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[START],
        padding_side="left",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def _texts() -> list[str]:
    """What the tokenizer is trained on."""
    samples = islice(stream(_MIX, seed=0), 20_000)
    return [*REFUSALS, *(f"{s.messages[-1].content}\n{s.answer}" for s in samples)]


def render(sample: Sample) -> tuple[str, str]:
    """The text before the answer (chat template, generation prompt, prefill) and the answer with its end mark."""
    turns = "".join(f"{START}{m.role}\n{m.content}{END}\n" for m in sample.messages)
    return f"{turns}{START}assistant\n{sample.prefill}", f"{sample.answer}{END}"
