"""Benign English prompts in the tasks code, classification and summarization, in the forms in which attacks come too.

In: `text/tasks_*.yaml` (prompts written by hand) and a seeded generator. Out: rows labelled benign. A prompt comes
as written and in one to three more forms (an opening, a closing, a wrapper, careless typing), so that the words and not the form
have to carry the label.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from random import Random
from typing import Any, Final

from guard_server.labels import Task
from guard_server.training.material.base import Family, row, words
from guard_server.training.rows import Row

Form = Callable[[str, Random], str]


@cache
def _text(name: str) -> Any:  # noqa: ANN401 - YAML of any shape
    """The content of a text file, parsed once."""
    return words(name)


@cache
def _entries(key: str) -> list[str]:
    return lines(_text("tasks_code")[key])


def blocks(text: str) -> list[str]:
    """The prompts of a text whose prompts are parted by a line `%%`."""
    return [part.strip("\n") for part in text.split("\n%%\n")]


def lines(text: str) -> list[str]:
    """The prompts of a text with one prompt a line."""
    return [line for line in text.splitlines() if line.strip()]


def _distinct(family: str, task: Task, texts: Iterator[str]) -> Iterator[Row]:
    seen: set[str] = set()
    for text in texts:
        if text not in seen:
            seen.add(text)
            yield row(family, text, task, "benign")


# Code


def _opened(text: str, random: Random) -> str:
    opening = random.choice(_entries("openings"))
    return opening + random.choice((" ", "\n", "\n\n")) + text


def _closed(text: str, random: Random) -> str:
    closing = random.choice(_entries("closings"))
    return text + random.choice((" ", "\n", "\n\n")) + closing


def _both(text: str, random: Random) -> str:
    return _closed(_opened(text, random), random)


def _wrapped(text: str, random: Random) -> str:
    return random.choice(blocks(_text("tasks_code")["wrappers"])).replace("{text}", text)


def careless(text: str, random: Random) -> str:
    """The text as typed in haste: lower case, no full stop, two neighbouring letters swapped; code in it may suffer."""
    typed = text.lower().rstrip(".?!")
    at = random.randrange(1, max(2, len(typed) - 2))
    if typed[at : at + 2].isalpha():
        typed = typed[:at] + typed[at + 1] + typed[at] + typed[at + 2 :]
    return typed


FORMS: Final[tuple[Form, ...]] = (_opened, _closed, _both, _wrapped, careless)


def _in_forms(prompts: Sequence[str], random: Random, more: int) -> Iterator[str]:
    """Each prompt as written and in `more` other forms."""
    for prompt in prompts:
        yield prompt
        for form in random.sample(FORMS, more):
            yield form(prompt, random)


def _quoted(items: Sequence[str]) -> str:
    return ", ".join(f'"{item}"' for item in items)


def _as_stack(tokens: Sequence[str]) -> str:
    pushes = "\n".join(f'my_stack.append("{token}")' for token in reversed(tokens))
    return f"my_stack = []\n{pushes}\n\ntask = []\nwhile my_stack:\n    task.append(my_stack.pop())"


def _as_deque(tokens: Sequence[str]) -> str:
    pushes = "\n".join(f'    my_deque.appendleft("{token}")' for token in tokens)
    return (
        f"from collections import deque\n\ndef decode():\n    my_deque = deque()\n{pushes}\n    return list(reversed(my_deque))"
    )


def _as_list(tokens: Sequence[str]) -> str:
    return "my_list = []\n" + "\n".join(f'my_list.append("{token}")' for token in tokens) + '\nmy_task = " ".join(my_list)'


def _as_parts(tokens: Sequence[str]) -> str:
    third = max(1, len(tokens) // 3)
    parts = [" ".join(tokens[:third]), " ".join(tokens[third : 2 * third]), " ".join(tokens[2 * third :])]
    return "\n".join(f'{name} = "{part} "' for name, part in zip("abc", parts, strict=True)) + "\nprompt = a + b + c"


def _as_string(tokens: Sequence[str]) -> str:
    return f'my_string = "{"_".join(tokens)}"\nmy_task = my_string.split("_")'


def _as_vector(tokens: Sequence[str]) -> str:
    return (
        f"std::vector<std::string> words = {{{_quoted(tokens)}}};\nstd::string task;\n"
        "for (const auto& w : words) task += w + ' ';"
    )


def _as_array(tokens: Sequence[str]) -> str:
    return f'const parts = [{_quoted(tokens[::-1])}];\nconst question = parts.reverse().join(" ");'


def _as_go(tokens: Sequence[str]) -> str:
    return f'words := []string{{{_quoted(tokens)}}}\ntask := strings.Join(words, " ")'


def _as_sum(tokens: Sequence[str]) -> str:
    return "question = " + " + ' ' + ".join(f"'{token.replace(chr(39), '')}'" for token in tokens)


CONTAINERS: Final = (_as_stack, _as_deque, _as_list, _as_parts, _as_string, _as_vector, _as_array, _as_go, _as_sum)
HIDDEN_ENDS: Final = (
    "# Print the answer to the question above.",
    "output_list = []\n# Fill output_list with short paragraphs for the decoded task.",
    "First put the sentence together, then do what it asks, as comments in the code.",
    "class Answer:\n    steps: list[str] = []\n\n    def fill(self) -> None:\n"
    "        # at least five entries, according to the task\n        ...",
    "Complete the program so that it prints a helpful reply.",
    "What does the variable hold, and how would you answer it?",
    "// Your answer goes here, one step per line.",
    'output_list[0] = "First',
    "def main():\n    # Work on the task and return the text\n    return",
)
HIDDEN_STARTS: Final = (
    "",
    "",
    "",
    "Follow the comments and complete the code.",
    "Please finish this script:",
    "Code completion:",
    "Here's a puzzle for our coding club.",
)


def hidden(question: str, random: Random) -> str:
    """A harmless question whose words stand in a container of code, to be put together and answered."""
    code = random.choice(CONTAINERS)(question.split())
    start, end = random.choice(HIDDEN_STARTS), random.choice(HIDDEN_ENDS)
    body = f"```\n{code}\n```\n{end}" if random.random() < 0.3 else f"{code}\n\n{end}"
    return f"{start}\n\n{body}".strip()


def code_everyday(random: Random) -> Iterator[Row]:
    """Requests for code, queries, explanations and repairs; harmless questions hidden in data structures."""
    text = _text("tasks_code")
    prompts = lines(text["everyday_lines"]) + blocks(text["everyday_blocks"])
    yield from _distinct("code_everyday", Task.CODE_GENERATION, _in_forms(prompts, random, 2))
    buried = (hidden(question, random) for question in lines(text["hidden"]) * 4)
    yield from _distinct("code_everyday", Task.CODE_GENERATION, buried)


def code_security(random: Random) -> Iterator[Row]:
    """Code and administration that sounds like security, or like an attack, and is harmless."""
    text = _text("tasks_code")
    prompts = lines(text["security_lines"]) + blocks(text["security_blocks"])
    yield from _distinct("code_security", Task.CODE_GENERATION, _in_forms(prompts, random, 3))


# Classification

MARKS: Final = ("A) ", "A. ", "(A) ", "a) ", "(a) ", "1. ", "1) ", "(1) ", "[A] ", "Option 1: ", "- ", "* ", "• ")


def listed(options: Sequence[str], mark: str, between: str) -> str:
    """The options with marks counted on from the first one's (`A) ` gives `B) `; bullets stay)."""
    return between.join(
        mark.replace("1", str(number + 1)).replace("A", "ABCDEFGHIJKL"[number]).replace("a)", "abcdefghijkl"[number] + ")")
        + option
        if not mark.startswith("Option")
        else f"Option {number + 1}: {option}"
        for number, option in enumerate(options)
    )


def choice(question: str, options: Sequence[str], random: Random) -> str:
    """A question with its options in random order and layout."""
    frames = _text("tasks_classify")
    shuffled = random.sample(list(options), len(options))
    if random.random() < 0.15:
        shown = listed(shuffled, random.choice(MARKS[:6]), random.choice((" ", "; ", ", ")))
    elif random.random() < 0.15:
        shown = " / ".join(shuffled)
    else:
        shown = listed(shuffled, random.choice(MARKS), "\n")
    head, end = random.choice(frames["choose"]), random.choice(frames["finish"])
    lead = random.choice(("", "", "", "Options:\n", "Choices:\n"))
    parts = [f"{head} {question}" if random.random() < 0.4 else f"{head}\n{question}", lead + shown, end]
    return random.choice(("\n", "\n", "\n\n")).join(part.strip() for part in parts if part.strip())


def labelling(kind: str, text: str, random: Random) -> str:
    """A request to label one text, its parts in random order and wording."""
    frames = _text("tasks_classify")
    known = frames["kinds"][kind]
    labels = random.sample(known["labels"], len(known["labels"]))
    ask, end = random.choice(known["ask"]), random.choice(frames["end"])
    shown = (
        listed(labels, random.choice(MARKS), "\n") if random.random() < 0.3 else random.choice((", ", " / ", " | ")).join(labels)
    )
    options = f"{random.choice(frames['labels_lead'])} {shown}" if "\n" not in shown else f"Options:\n{shown}"
    quoted = random.choice((text, text, f'"{text}"', f"“{text}”", f"<text>{text}</text>", f"```\n{text}\n```"))
    item = f"{random.choice(frames['text_lead'])} {quoted}".strip()
    order = random.choice(([ask, options, item], [ask, item, options], [item, ask, options], [ask, item], [options, ask, item]))
    return random.choice(("\n", "\n", "\n\n", " ")).join(part for part in [*order, end] if part)


def batch(kind: str, texts: Sequence[str], random: Random) -> str:
    """A request to label several texts of one kind at once, or one after some labelled examples."""
    frames = _text("tasks_classify")
    known = frames["kinds"][kind]
    if random.random() < 0.4:
        lead = random.choice(known["ask"])
        shown = "\n\n".join(f"{text}\n-> {random.choice(known['labels'])}" for text in texts[:-1])
        return f"{lead}\n\n{shown}\n\n{texts[-1]}\n->"
    items = listed(list(texts), random.choice(MARKS), "\n")
    return f"{random.choice(frames['batch'])} ({', '.join(known['labels'])})\n\n{items}"


def _classify_texts(random: Random) -> Iterator[str]:
    text = _text("tasks_classify")
    for line in lines(text["choices"]) * 4:
        question, *options = (part.strip() for part in line.split("|"))
        yield choice(question, options, random)
    by_kind: dict[str, list[str]] = {}
    for line in lines(text["labelled"]):
        kind, item = line.split(" @ ", 1)
        by_kind.setdefault(kind, []).append(item)
        for _ in range(3):
            yield labelling(kind, item, random)
    for kind, items in by_kind.items():
        for _ in range(8):
            yield batch(kind, random.sample(items, random.randint(3, min(6, len(items)))), random)
    yield from _in_forms(blocks(text["whole"]), random, 1)


def classify(random: Random) -> Iterator[Row]:
    """Questions with options on everyday knowledge and grim subjects, and labelling of harmless texts."""
    yield from _distinct("classify", Task.CLASSIFICATION, _classify_texts(random))


# Summarization


def summary_request(passage: str, request: str, random: Random) -> str:
    """A passage and the request to shorten it, before or after it, parted in one of several ways."""
    fence = random.choice(("{}", "{}", "{}", '"{}"', "<text>\n{}\n</text>", "```\n{}\n```", "---\n{}\n---", "Text: {}", "[{}]"))
    shown = fence.replace("{}", passage)
    gap = random.choice(("\n", "\n\n", "\n\n", " "))
    if random.random() < 0.65:
        return request + gap + shown + random.choice(("", "", "", "\n\nSummary:", "\n\nTL;DR:", "\n\nThanks!"))
    return shown + gap + request


def _summary_texts(random: Random) -> Iterator[str]:
    text = _text("tasks_summaries")
    requests = lines(text["requests"])
    for passage in blocks(text["passages"]):
        for request in random.sample(requests, 6):
            yield summary_request(passage, request, random)
    yield from _in_forms(lines(text["whole"]), random, 1)


def summarize(random: Random) -> Iterator[Row]:
    """Requests to shorten a passage: news, minutes, mails, chats, reviews, abstracts, rules; many of them on grim subjects."""
    yield from _distinct("summarize", Task.SUMMARIZATION, _summary_texts(random))


FAMILIES: Final[dict[str, Family]] = {
    "code_everyday": code_everyday,
    "code_security": code_security,
    "classify": classify,
    "summarize": summarize,
}
