"""What is trained on: the prompt is the text that the gate asks with, the answer ends with the base's end mark."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from gate.candidate import load_candidate
from gate.endpoints.hf_text import HfText
from gate.errors import RecipeError
from gate.finetune.course import Collate, Item
from gate.finetune.data import Example
from gate.finetune.losses import IGNORED
from gate.finetune.text import Writer
from gate.records import Message
from testbed import WEIGHTS

EXAMPLE = Example(
    "a:1", (Message(role="system", content="Be brief"), Message(role="user", content="Say hello")), "Hello", "t/task", 0
)


@pytest.fixture(scope="module")
def text() -> HfText:
    """The testbed's tokenizer and template."""
    return HfText(load_candidate(str(WEIGHTS / "aligned")))


def test_a_chat_row_is_the_gates_prompt_and_the_answer_with_its_end(text: HfText) -> None:
    """What the template writes after the end mark is not trained on: nothing generates it."""
    writer = Writer(text, "chat", text.stop_ids(None))
    prompt, answer = writer.texts(EXAMPLE)
    assert prompt == text.native([{"role": m.role, "content": m.content} for m in EXAMPLE.messages])
    assert answer == "Hello<|im_end|>\n"
    row = writer.encode([EXAMPLE], lambda _: None)[0]
    assert text.tokenizer.decode(row.ids) == f"{prompt}Hello<|im_end|>"
    assert text.tokenizer.decode(row.ids[row.prompt :]) == "Hello<|im_end|>"


def test_an_alpaca_row_is_the_published_template(text: HfText) -> None:
    """The system prompt stands in front of the preamble, the answer ends with the tokenizer's end of text."""
    prompt, answer = Writer(text, "alpaca", text.stop_ids(None)).texts(EXAMPLE)
    assert prompt.startswith("Be brief\n\nBelow is an instruction")
    assert prompt.endswith("### Instruction:\nSay hello\n\n### Response:\n")
    assert answer == "Hello<|im_end|>"


@pytest.mark.parametrize("answers_only", [True, False])
def test_labels_cover_the_answer_alone_or_everything(text: HfText, answers_only: bool) -> None:
    """Padding is never trained on; prompts only where the recipe says so."""
    long = EXAMPLE._replace(answer="Hello there, and a long answer to pad the other row")
    rows = Writer(text, "chat", text.stop_ids(None)).encode([EXAMPLE, long], lambda _: None)
    batch = Collate(0, answers_only=answers_only)([Item(rows[0], 0), Item(rows[1], 1)])
    for line, row in enumerate(rows):
        begin = row.prompt if answers_only else 0
        labels = batch["labels"][line].tolist()
        assert labels[begin : len(row.ids)] == row.ids[begin:].tolist()
        assert set(labels[:begin] + labels[len(row.ids) :]) <= {IGNORED}
        assert batch["attention_mask"][line].sum() == len(row.ids)


def test_a_template_that_writes_the_answer_elsewhere_still_trains_the_answer(tmp_path: Path) -> None:
    """Where the whole conversation does not continue the prompt, the answer follows the prompt all the same."""
    odd = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\nAnswer: {% endif %}"
    )
    folder = Path(shutil.copytree(WEIGHTS / "aligned", tmp_path / "odd"))
    (folder / "chat_template.jinja").write_text(odd, encoding="utf-8")
    text = HfText(load_candidate(str(folder)))
    prompt, answer = Writer(text, "chat", text.stop_ids(None)).texts(EXAMPLE)
    assert prompt.endswith("assistant\nAnswer: ")
    assert answer == "Hello<|im_end|>"


def test_turns_that_the_template_refuses_are_named_with_their_line() -> None:
    """The error is of the row, and tells of the other format."""
    template = "{{ raise_exception('no turns today') }}"
    text = HfText(load_candidate(str(WEIGHTS / "aligned")).model_copy(update={"chat_template": template}))
    with pytest.raises(RecipeError, match="a:1: the chat template refuses") as caught:
        Writer(text, "chat", ()).texts(EXAMPLE)
    assert "format: alpaca" in caught.value.diagnostics()
