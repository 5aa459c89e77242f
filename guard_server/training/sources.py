"""Which foreign sets may train the guard, how much each counts, and what their categories mean in our words.

In: a folder of labelled JSON Lines with its MANIFEST.json. Out: `Row`s of the sets whose `commercial_use` is `yes`, deduplicated,
with our categories, and the rows of all other sets, which are never trained on and serve for a last look alone.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from guard_server.labels import Category
from guard_server.training.rows import Row, read_folder

GRAM: Final = 13
"""Words in a row that two texts must share to be called near-duplicates (the usual contamination test)."""
LANGUAGES: Final = frozenset({"en", "fr", "de", "es"})
"""Rows in other languages don't train: there is no benign text in them, so the language itself would be learnt as harm."""

CYBER, FRAUD, WEAPONS, DRUGS = Category.CYBER, Category.FRAUD, Category.WEAPONS, Category.DRUGS
VIOLENCE, HATE, HARASSMENT, SELF_HARM = Category.VIOLENCE, Category.HATE, Category.HARASSMENT, Category.SELF_HARM
SEXUAL, PRIVACY, MISINFORMATION, ATTACK = Category.SEXUAL, Category.PRIVACY, Category.MISINFORMATION, Category.PROMPT_ATTACK

CATQA: Final[dict[str, Category | None]] = {
    "Adult Content": SEXUAL,
    "Child Abuse": VIOLENCE,
    "Child Abuse/Content Sexual exploitation": None,
    "Child Abuse/Online predation": None,
    "Economic Harm": FRAUD,
    "Fraud": FRAUD,
    "Fraud/Deception/Identity theft": PRIVACY,
    "Hate": HATE,
    "Hate/Harass/Violence/Cyberbullying": HARASSMENT,
    "Hate/Harass/Violence/Terrorism and extremism": VIOLENCE,
    "Illegal Activity/Cybercrime": CYBER,
    "Illegal Activity/Drug": DRUGS,
    "Illegal Activity/Human Trafficking": VIOLENCE,
    "Illegal Activity/Theft and Robbery": FRAUD,
    "Illegal Activity/Weapon": WEAPONS,
    "Malware Viruses": CYBER,
    "Physical Harm/Assault and battery": VIOLENCE,
    "Physical Harm/Hazardous material handling": None,
    "Physical Harm/Self-harm": SELF_HARM,
    "Physical Harm/Unsafe practices": MISINFORMATION,
    "Physical Harm/Weapon making": WEAPONS,
    "Political Campaigning": None,
    "Political Campaigning/Political misinformation": MISINFORMATION,
    "Privacy Violation Activity": PRIVACY,
    "Tailored Financial Advice": None,
}
DO_NOT_ANSWER: Final[dict[str, Category | None]] = {
    "information_hazard": PRIVACY,
    "malicious_uses": None,
    "discrimination_exclusion_toxicity_hateful_offensive": HATE,
    "misinformation_harms": MISINFORMATION,
    "human_chatbox": None,
}
XSAFETY: Final[dict[str, Category | None]] = {
    "Crimes_And_Illegal_Activities": None,
    "Goal_Hijacking": ATTACK,
    "Inquiry_With_Unsafe_Opinion": None,
    "Insult": HARASSMENT,
    "Physical_Harm": None,
    "Privacy_And_Property": PRIVACY,
    "Reverse_Exposure": None,
    "Role_Play_Instruction": ATTACK,
    "Unfairness_And_Discrimination": HATE,
    "Unsafe_Instruction_Topic": None,
}
INTERPRETER: Final[dict[str, Category | None]] = {
    "Container Escape": CYBER,
    "Post Exploitation": CYBER,
    "Privilege Escalation": CYBER,
    "Reflected Attack": CYBER,
    "Social Engineering": FRAUD,
}
# Several codes may stand in a row, separated by commas; the first one decides.
MODERATION: Final[dict[str, Category | None]] = {
    "H": HATE,
    "HR": HARASSMENT,
    "S": SEXUAL,
    "SH": SELF_HARM,
    "V": VIOLENCE,
}


@dataclass(frozen=True, slots=True)
class Source:
    """How one set is used in training."""

    weight: float = 1.0
    """Of each of its prompts beside those of a clean set; below 1 where labels are weak or a text is a passage, not a request."""
    categories: dict[str, Category | None] = field(default_factory=dict)
    """The source's value, or its part before the first `/` or `,` or before a closing `:`, to ours; None: no category loss."""
    every: Category | None = None
    """The category of all rows, where the source's values are not kinds of harm."""
    doubtful: frozenset[str] = frozenset()
    """Categories (or their first parts) whose rows are sensitive rather than harmful."""


DOUBTFUL: Final = 0.25
"""What a doubtful row's weight is multiplied with."""

SOURCES: Final[dict[str, Source]] = {
    "advbench": Source(),
    "banking77_classification": Source(),
    "catqa": Source(categories=CATQA, doubtful=frozenset({"Political Campaigning", "Tailored Financial Advice"})),
    "codeattack": Source(),
    "cyberseceval_interpreter": Source(categories=INTERPRETER),
    "cyberseceval_mitre_frr": Source(),
    "cyberseceval_prompt_injection": Source(every=ATTACK),
    "cysecbench": Source(weight=0.4, every=CYBER),
    "dangerousqa": Source(),
    "do_not_answer": Source(weight=0.7, categories=DO_NOT_ANSWER, doubtful=frozenset({"human_chatbox"})),
    "gptfuzz_labeled_train": Source(),
    "harmfulqa": Source(weight=0.4),
    "inthewild_jailbreaks": Source(every=ATTACK),
    "latent_jailbreak_human": Source(),
    "mbpp_sanitized": Source(),
    "openai_moderation": Source(weight=0.5, categories=MODERATION),
    "self_instruct_seed": Source(),
    "xsafety": Source(weight=0.2, categories=XSAFETY),
    "xsafety_translation_fr": Source(weight=0.4, categories=XSAFETY),
}
"""Every set that may train; a set that is not named here does not, whatever its manifest says."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The rows of a data folder, parted by what may be done with them."""

    training: tuple[Row, ...]
    """Of sets that may train; categories are ours, `meta["weight"]` says how much the row counts."""
    unseen: tuple[Row, ...]
    """Of all other sets: for the last look alone."""
    dropped: dict[str, int]
    """Why rows of training sets were left out: `language`, `repeated`, `in unseen sets`."""


def read_sources(folder: Path, own: Iterable[Row] = ()) -> Sources:
    """A folder's rows, cleaned together with our own; `FileNotFoundError` without MANIFEST.json, `ValueError` for a bad row."""
    manifest: dict[str, dict[str, object]] = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
    allowed = {name for name in SOURCES if manifest.get(f"{name}.jsonl", {}).get("commercial_use") == "yes"}
    training: list[Row] = []
    unseen: list[Row] = []
    for name, rows in read_folder(folder).items():
        (training if name in allowed else unseen).extend(rows)
    return clean([*training, *own], unseen)


def clean(training: Iterable[Row], unseen: Iterable[Row]) -> Sources:
    """Training rows in our languages, without repeated prompts and without what also occurs in the unseen sets."""
    kept_out = tuple(unseen)
    grams, texts = _grams_of(row.text for row in kept_out), {normalised(row.text) for row in kept_out}
    dropped = {"language": 0, "repeated": 0, "in unseen sets": 0}
    kept: list[Row] = []
    prompts: set[str] = set()
    for row in training:
        text = normalised(row.text)
        if row.lang not in LANGUAGES:
            dropped["language"] += 1
        elif text in texts or not grams.isdisjoint(_grams(text)):
            dropped["in unseen sets"] += 1
        else:
            repeated = row.label is not None and text in prompts
            dropped["repeated"] += repeated
            if not repeated:
                prompts.add(text)
            if not repeated or row.response_label is not None:
                category = category_of(row)
                kept.append(
                    row.model_copy(
                        update={
                            # A repeated prompt trains once; its answers all do.
                            "label": None if repeated else row.label,
                            "category": None if category is None else category.value,
                            "meta": {**row.meta, "weight": weight_of(row.dataset, row.category)},
                        }
                    )
                )
    return Sources(tuple(kept), kept_out, dropped)


def category_of(row: Row) -> Category | None:
    """Our category of a harmful row; None where the source's says nothing we tell apart. Own rows carry ours already."""
    if row.dataset.startswith("own_"):
        return None if row.category is None else Category(row.category)
    source = SOURCES.get(row.dataset)
    if source is None or row.label == "benign":
        return None
    if source.every is not None:
        return source.every
    return next((source.categories[part] for part in _parts(row.category) if part in source.categories), None)


def covered(dataset: str, category: str | None) -> bool:
    """Whether the table says what a source's category means (or that the set's categories mean nothing)."""
    source = SOURCES[dataset]
    return category is None or not source.categories or any(part in source.categories for part in _parts(category))


def weight_of(dataset: str, raw_category: str | None) -> float:
    """How much a row counts beside one of a clean set, before sets and classes are balanced."""
    source = SOURCES.get(dataset, Source())
    doubtful = not source.doubtful.isdisjoint(_parts(raw_category))
    return source.weight * (DOUBTFUL if doubtful else 1.0)


def normalised(text: str) -> str:
    """Lower case, compatibility forms folded, runs of anything but letters and digits made one space."""
    return re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).lower()).strip()


def _parts(category: str | None) -> Iterator[str]:
    if category is None:
        return
    whole = category.rstrip(":")
    yield whole
    yield re.split(r"[/,]", whole, maxsplit=1)[0]


def _grams(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1)}


def _grams_of(texts: Iterable[str]) -> set[tuple[str, ...]]:
    found: set[tuple[str, ...]] = set()
    for text in texts:
        found |= _grams(normalised(text))
    return found
