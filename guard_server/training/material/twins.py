"""Look-alikes: in, hand-written pairs from `text/twins_*.yaml`; out, harmless rows that read like harm, each with a harmful twin.

The twins share words and form, so a classifier that goes by words alone gets one of them wrong. Questions and requests to write
count as text generation, statements without a request as other. A line of the files is `harmless || harmful`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from random import Random

from guard_server.labels import Category, Task
from guard_server.training.material.base import Family, row, words
from guard_server.training.material.wrap import LAYOUTS
from guard_server.training.rows import Row

CHOICE_FORMS = (
    "Choose the best option.\n{question}\n{options}",
    "{question}\n{options}",
    "Question: {question}\n{options}\nAnswer:",
    "Which answer is right? {question}\n{options}",
    "{question} Answer with one letter or number only.\n{options}",
    "Pick one.\n\n{question}\n\n{options}\n\nYour choice:",
    "Multiple choice: {question}\n{options}",
    "Read the question and select the best answer. {question}\n{options}",
)
SUMMARY_FORMS = (
    "{request}\n\n{passage}",
    "{passage}\n\n{request}",
    "Text: {passage}\nTask: {request}",
    '{request}\n"{passage}"',
    "{request} Here is the article: {passage}",
    "### Article\n{passage}\n\n### Request\n{request}",
)

Twins = tuple[str, str]


def fields(name: str) -> Iterator[tuple[Category, list[str]]]:
    """The lines of `text/twins_<name>.yaml`, split at `||`, with the category of the harmful side."""
    for category, block in words(f"twins_{name}").items():
        for line in block.splitlines():
            yield Category(category), [part.strip().replace("\\n", "\n") for part in line.split("||")]


def _both(family: str, task: Task, category: Category, twins: Twins, pair: str) -> Iterator[Row]:
    harmless, harmful = twins
    yield row(family, harmless, task, "benign", pair=pair)
    yield row(family, harmful, task, "harmful", category=category, pair=pair)


def _plain(name: str, task: Task, _: Random) -> Iterator[Row]:
    family = f"twins_{name}"
    for at, (category, (harmless, harmful)) in enumerate(fields(name)):
        yield from _both(family, task, category, (harmless, harmful), f"{family}-{at}")


def _laid_out(question: str, form: str, layout: Callable[[list[str]], str], order: list[int]) -> str:
    head, *options = (part.strip() for part in question.split(";"))
    # Twins with fewer options than the order names simply skip those.
    shuffled = [options[at] for at in order if at < len(options)]
    return form.replace("{question}", head).replace("{options}", layout(shuffled))


def choices(rng: Random) -> Iterator[Row]:
    """Every pair of questions in two layouts, the same one for both twins, options shuffled."""
    for at, (category, (harmless, harmful)) in enumerate(fields("choices")):
        for copy, layout in enumerate(rng.sample(LAYOUTS, 2)):
            form, order = rng.choice(CHOICE_FORMS), rng.sample(range(4), 4)
            twins = (_laid_out(harmless, form, layout, order), _laid_out(harmful, form, layout, order))
            yield from _both("twins_choices", Task.CLASSIFICATION, category, twins, f"twins_choices-{at}-{copy}")


def summaries(rng: Random) -> Iterator[Row]:
    """Every passage in two forms, with the harmless and the harmful request."""
    for at, (category, (passage, harmless, harmful)) in enumerate(fields("summaries")):
        for copy, form in enumerate(rng.sample(SUMMARY_FORMS, 2)):
            filled = form.replace("{passage}", passage)
            twins = (filled.replace("{request}", harmless), filled.replace("{request}", harmful))
            yield from _both("twins_summaries", Task.SUMMARIZATION, category, twins, f"twins_summaries-{at}-{copy}")


FAMILIES: dict[str, Family] = {
    "twins_homonyms": partial(_plain, "homonyms", Task.TEXT_GENERATION),
    "twins_contexts": partial(_plain, "contexts", Task.TEXT_GENERATION),
    "twins_knowledge": partial(_plain, "knowledge", Task.TEXT_GENERATION),
    "twins_writing": partial(_plain, "writing", Task.TEXT_GENERATION),
    "twins_people": partial(_plain, "people", Task.TEXT_GENERATION),
    "twins_reversed": partial(_plain, "reversed", Task.TEXT_GENERATION),
    "twins_code": partial(_plain, "code", Task.CODE_GENERATION),
    "twins_passages": partial(_plain, "passages", Task.OTHER),
    "twins_diary": partial(_plain, "diary", Task.OTHER),
    "twins_choices": choices,
    "twins_summaries": summaries,
}
"""The families of look-alikes by name."""
