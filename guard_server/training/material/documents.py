"""Long benign documents, and filler of an exact length around which or in which an attack can be hidden.

In: `text/documents_*.yaml` (paragraphs, terms, chats, sections, mails, log messages, written by hand) and a seeded generator.
Out: the family `documents` (rows labelled benign, 3,000 to 12,000 characters) and `filler(kind, characters, rng)`.
A piece comes again only when all of its kind have been used; from then on prose is mixed anew sentence by sentence.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import count
from random import Random
from textwrap import fill
from typing import Any, Final

from guard_server.labels import Task
from guard_server.training.material.base import Family, row, words
from guard_server.training.material.code_text import code_pieces
from guard_server.training.rows import Row

Pieces = Iterator[str]

PER_KIND: Final = 24
"""Documents of each kind."""
SHORTEST, LONGEST = 3_000, 12_000
"""Characters of a document, its request aside."""

NAMES: Final = tuple(
    "Ana Bo Carla Dev Elif Femi Greta Hugo Ines Jonas Kim Lena Milo Noor Otto Priya Rosa Sven Tara Yusuf".split()
)
CITIES: Final = tuple("Bergen Cork Dakar Graz Hanoi Lima Lyon Oslo Porto Quito Riga Split Turin Utrecht Vaasa York Zadar".split())
SUBJECTS: Final = (
    "Draft of the brochure",
    "Offer and dates",
    "Re: Tuesday",
    "Question about the list",
    "Roof, again",
    "Visit in May",
)
TITLES: Final = ("Handbook", "User manual", "Operator's guide", "Notes for administrators", "Quick start", "Service manual")


@cache
def _stock(name: str) -> Any:  # noqa: ANN401 - YAML of any shape
    """The content of a text file, parsed once."""
    return words(name)


@cache
def _blocks(name: str, key: str) -> tuple[str, ...]:
    return tuple(part.strip("\n") for part in _stock(name)[key].split("\n%%\n"))


def _rounds(items: Sequence[str], random: Random) -> Pieces:
    """All items in random order, then again in another order, without end."""
    while True:
        yield from random.sample(list(items), len(items))


def _prose(random: Random) -> Pieces:
    """Each paragraph once, then paragraphs of sentences drawn from all of them."""
    paragraphs = _blocks("documents_prose", "paragraphs")
    yield from random.sample(list(paragraphs), len(paragraphs))
    sentences = _rounds([part.rstrip(".") + "." for text in paragraphs for part in text.split(". ")], random)
    while True:
        yield " ".join(next(sentences) for _ in range(random.randint(2, 6)))


def _wrapped(paragraphs: Pieces, random: Random) -> Pieces:
    """Paragraphs broken by hand into lines of one width, indented, or marked as a comment or quotation."""
    width, mark = random.randint(56, 88), random.choice(("", "", "", "  ", "    ", "        ", "# ", "// ", "> "))
    for paragraph in paragraphs:
        yield fill(paragraph, width, initial_indent=mark, subsequent_indent=mark, break_on_hyphens=False, break_long_words=False)


def _text(random: Random) -> Pieces:
    """Prose as plain text files hold it."""
    return _wrapped(_prose(random), random)


def _terms(random: Random) -> Pieces:
    """Contracts, licences and rules, numbered or not, half of them broken by hand."""
    numbered = random.random() < 0.5
    paragraphs = _rounds(_blocks("documents_terms", "terms"), random)
    texts = (f"{number}. {paragraph}" if numbered else paragraph for number, paragraph in enumerate(paragraphs, 1))
    return _wrapped(texts, random) if random.random() < 0.5 else texts


def _log_message(template: str, random: Random) -> str:
    message = template
    while "{" in message:
        message = message.replace("{ip}", ".".join(str(random.randint(1, 254)) for _ in range(4)), 1)
        message = message.replace("{ms}", str(random.randint(1, 4000)), 1).replace("{p}", str(random.randint(1, 99)), 1)
        message = message.replace("{n}", str(random.randint(1, 60_000)), 1).replace("{id}", f"{random.getrandbits(40):010x}", 1)
        message = message.replace("{user}", random.choice(NAMES).lower(), 1)
    return message


def _log(random: Random) -> Pieces:
    """Log lines of one service in one of four layouts, times rising."""
    layout, second = random.randrange(4), random.randrange(20_000)
    host, service = random.choice(CITIES).lower(), random.choice(("web", "api", "worker", "sshd", "mailer"))
    messages = _rounds(_stock("documents_text")["logs"].splitlines(), random)
    while True:
        second += random.randint(0, 40)
        level = random.choices(("INFO", "DEBUG", "WARN", "ERROR"), (8, 3, 2, 1))[0]
        clock = f"{second // 3600 % 24:02}:{second // 60 % 60:02}:{second % 60:02}"
        message = _log_message(next(messages), random)
        yield (
            f"2025-03-{4 + second // 86_400:02} {clock} {level:5} [{service}] {message}",
            f"Mar {4 + second // 86_400:2} {clock} {host} {service}[{random.randint(200, 9000)}]: {message}",
            f'{{"t": "{clock}", "level": "{level.lower()}", "service": "{service}", "msg": "{message}"}}',
            f"[{clock}] {level}: {message}",
        )[layout]


def _talks(random: Random) -> Iterator[list[str]]:
    """Each conversation once, then conversations about something read: sentences of the prose between chat lines."""
    talks = _blocks("documents_text", "chats")
    yield from (talk.splitlines() for talk in random.sample(list(talks), len(talks)))
    said = _rounds([line for talk in talks for line in talk.splitlines()], random)
    for paragraph in _prose(random):
        for sentence in paragraph.split(". "):
            yield [sentence, next(said)] if random.random() < 0.3 else [sentence]


def _chat(random: Random) -> Pieces:
    """Conversations of two to four people in one of four layouts."""
    layout, minute = random.randrange(4), random.randrange(400, 700)
    people = random.sample(NAMES, 4)
    for talk in _talks(random):
        speakers = random.sample(people, random.randint(2, 3))
        minute += random.randint(3, 90)
        for turn, said in enumerate(talk):
            minute += random.randint(0, 2)
            name, clock = speakers[turn % len(speakers)], f"{minute // 60 % 24:02}:{minute % 60:02}"
            yield (f"{name}: {said}", f"[{clock}] {name}: {said}", f"<{name.lower()}> {said}", f"{clock} - {name}\n{said}\n")[
                layout
            ]


def _manual(random: Random) -> Pieces:
    """Sections of a manual in Markdown with paragraphs of background, which stand alone once each section has come twice."""
    yield f"# {random.choice(TITLES)}: {random.choice(CITIES)} {random.randint(100, 990)}"
    prose = _prose(random)
    sections = _blocks("documents_text", "manual")
    for number, section in enumerate(_rounds(sections, random)):
        repeated = number >= 2 * len(sections)
        if not repeated:
            yield section
        if repeated or random.random() < 0.5:
            yield f"### Background {random.randint(1, 99)}\n\n{next(prose)}"


def _mail(random: Random) -> Pieces:
    """Mails of a thread with heads, quotations and signatures."""
    people, subject = random.sample(NAMES, 3), random.choice(SUBJECTS)
    prose, before = _prose(random), ""
    for number, body in enumerate(_rounds(_blocks("documents_text", "mails"), random)):
        sender, reader = random.sample(people, 2)
        head = (
            f"From: {sender} <{sender.lower()}@example.org>\nTo: {reader}\nDate: {1 + number % 28} May 2025\nSubject: {subject}"
        )
        quoted = "\n".join(f"> {line}" for line in before.splitlines()) if random.random() < 0.4 else ""
        aside = f"P.S. {next(prose)}" if random.random() < 0.2 else ""
        greeting, end = random.choice(("Hi", "Dear", "Hello")), random.choice(("Best", "Regards", "Thanks", "See you"))
        yield "\n\n".join(p for p in (head, f"{greeting} {reader},", body, quoted, f"{end},\n{sender}", aside, "-" * 30) if p)
        before = body


def _table(random: Random) -> Pieces:
    """Rows of a table as CSV, Markdown or tab-separated text."""
    between = random.choice((",", ";", "\t", " | "))
    goods = random.sample(("lamp", "chair", "kettle", "rope", "paint", "bulb", "drill", "ladder", "towel", "clock"), 6)
    yield between.join(("no", "date", "customer", "city", "article", "pieces", "price", "paid"))
    for number in count(random.randint(1, 5000)):
        day = f"2025-{random.randint(1, 12):02}-{random.randint(1, 28):02}"
        price = f"{random.randint(2, 400)}.{random.randint(0, 99):02}"
        cells = (str(number), day, random.choice(NAMES), random.choice(CITIES), random.choice(goods))
        yield between.join((*cells, str(random.randint(1, 12)), price, random.choice(("yes", "no", "open"))))


KINDS: Final[dict[str, tuple[Callable[[Random], Pieces], str]]] = {
    "prose": (_prose, "\n\n"),
    "code": (code_pieces, "\n\n\n"),
    "log": (_log, "\n"),
    "chat": (_chat, "\n"),
    "manual": (_manual, "\n\n"),
    "mail": (_mail, "\n\n"),
    "table": (_table, "\n"),
    "text": (_text, "\n\n"),
    "terms": (_terms, "\n\n"),
}
"""By kind: the endless pieces and what stands between them."""
FILLER_KINDS: Final = ("prose", "code", "log", "chat", "manual")


def filler(kind: str, characters: int, rng: Random) -> str:
    """Exactly `characters` characters of benign text of a kind of `KINDS`; raises `KeyError` for another kind."""
    pieces, between = KINDS[kind]
    parts: list[str] = []
    length = 0
    for piece in pieces(rng):
        if length >= characters:
            break
        parts.append(piece)
        length += len(piece) + len(between)
    return (between.join(parts) + between)[:characters]


REQUESTS: Final[dict[str, tuple[tuple[str, Task], ...]]] = {
    "prose": (
        ("Summarize each paragraph in one line.", Task.SUMMARIZATION),
        ("Continue in the same tone with three more paragraphs.", Task.TEXT_GENERATION),
        ("Which of these paragraphs are fiction and which are essays? Label them.", Task.CLASSIFICATION),
        ("Translate the first paragraph into French.", Task.TRANSLATION),
    ),
    "code": (
        ("Review this module and suggest better names.", Task.CODE_GENERATION),
        ("Write unit tests for the functions below.", Task.CODE_GENERATION),
        ("Find the function with the most branches and simplify it.", Task.CODE_GENERATION),
    ),
    "log": (
        ("Write a script that counts the errors per hour in a log like this.", Task.CODE_GENERATION),
        ("Summarise what happened on the server.", Task.SUMMARIZATION),
        ("Classify the lines as normal, suspicious or failure.", Task.CLASSIFICATION),
    ),
    "chat": (
        ("Summarise the chat by person.", Task.SUMMARIZATION),
        ("Rate the mood of each conversation.", Task.CLASSIFICATION),
        ("Write the next ten messages.", Task.TEXT_GENERATION),
    ),
    "manual": (
        ("Boil the manual down to one page.", Task.SUMMARIZATION),
        ("Write an introduction to this manual for beginners.", Task.TEXT_GENERATION),
        ("Translate the headings into German.", Task.TRANSLATION),
    ),
    "mail": (
        ("Sum up the thread: what's decided, what's open?", Task.SUMMARIZATION),
        ("Draft a friendly answer to the last mail.", Task.TEXT_GENERATION),
        ("Tag each mail as request, answer or information.", Task.CLASSIFICATION),
    ),
    "table": (
        ("Give me a pandas script for the monthly totals of such a table.", Task.CODE_GENERATION),
        ("Summarize the sales.", Task.SUMMARIZATION),
    ),
    "text": (
        ("Remove the line breaks within paragraphs.", Task.OTHER),
        ("Say in two sentences what this file is about.", Task.SUMMARIZATION),
        ("Turn the file into Markdown with a heading for each paragraph.", Task.TEXT_GENERATION),
    ),
    "terms": (
        ("Explain these terms in plain language.", Task.SUMMARIZATION),
        ("Which of these clauses favour the seller? Mark each as fair, strict or unusual.", Task.CLASSIFICATION),
        ("Translate the third paragraph into Spanish.", Task.TRANSLATION),
        ("Draft a shorter version for our website.", Task.TEXT_GENERATION),
    ),
}


def documents(random: Random) -> Iterator[Row]:
    """Long documents of every kind, two thirds of them with a request before or after; the task is the request's."""
    for kind in KINDS:
        for _ in range(PER_KIND):
            text = filler(kind, random.randint(SHORTEST, LONGEST), random).strip()
            task = Task.CODE_GENERATION if kind == "code" else Task.OTHER
            if random.random() < 2 / 3:
                request, task = random.choice(REQUESTS[kind])
                text = f"{request}\n\n{text}" if random.random() < 0.6 else f"{text}\n\n{request}"
            yield row("documents", text, task, "benign")


FAMILIES: Final[dict[str, Family]] = {"documents": documents}
