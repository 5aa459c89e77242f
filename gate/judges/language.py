"""Which language a text is in, and whether it is language at all. Text in; a code, a script or a log-likelihood ratio out.

Two small models, made when the judge is, from this project's own sentences (`data/corpus_*.txt`) and lists of function words: a
character trigram model for plausible spelling, and function-word shares. A text is taken for random tokens when the kinds of its
words (function word, plausible word, implausible word, joined pieces, stray symbols …) are better explained by tokens drawn at
random from a byte-pair vocabulary than by writing; each kind carries a fixed log-likelihood ratio (`data/word_kinds.json`).
"""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

LANGUAGES = ("en", "fr", "de", "es")
"""Languages with a spelling model; others are known by function words or script alone."""

MAX_CHUNKS = 400
"""Words looked at per text: enough for certainty, bounded for speed."""

_WORD = re.compile(r"[^\W\d_]+")
_NUMBER = re.compile(r"[#№$€£+-]?\d[\d.,:/%°–-]*(?:st|nd|rd|th|e|er|ème|º|%|px|km|kg|cm|mm|am|pm|s|h|k|m|x|[a-d])?")
_JOINT = re.compile(r"['’\-–—/]")
_TECHNICAL = re.compile(
    r"[\w.]{1,30}[(\[][^\s]{0,60}|[a-z]+(?:_[a-z0-9]+)+[(),\w]{0,30}|"
    r"[A-Za-z]?\d{0,4}[a-z]{0,2}(?:[-+*/^=<>]+[a-z\d]{1,5}){1,6}|\d{1,4}[a-z]{1,2}|[a-zA-Z]{1,2}\d{1,4}"
)
_CASED = re.compile(r"[^\W\d_][^\W\d_A-Z]*|[A-ZÀ-ÖØ-Þ]{2,}s?")
_EDGE = "\"'“”‘’«»‹›„.,;:!?…()[]{}*_`~#|<>=+-–—•/\\¿¡&%"
_ODD = re.compile(r"[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ue000-\uf8ff\ufff9-\uffff\U000f0000-\U0010ffff]")
_LINE_END = re.compile(r"(\w)[ \t]*\n")
_PLAIN_LINK = re.compile(r"(?:https?://|www\.)\S+|[\w.+-]+@[\w-]+\.\w+")


def data_bytes(name: str) -> bytes:
    """The bytes of one of the judges' data files."""
    return (files("gate.judges") / "data" / name).read_bytes()


@lru_cache(maxsize=4096)
def script_of(char: str) -> str:
    """The script of a letter, by the first word of its Unicode name: `LATIN`, `CYRILLIC`, `CJK` and so on."""
    return unicodedata.name(char, "UNKNOWN").split(" ")[0].split("-")[0]


def script_counts(text: str) -> Counter[str]:
    """Letters of `text` by script; kana counts as CJK."""
    counts: Counter[str] = Counter()
    if text.isascii():
        if letters := sum(map(str.isalpha, text)):
            counts["LATIN"] = letters
        return counts
    for char, n in Counter(text).items():
        if char.isalpha():
            script = script_of(char)
            counts["CJK" if script in {"HIRAGANA", "KATAKANA"} else script] += n
    return counts


def odd_characters(text: str) -> int:
    """How many characters have no place in an answer: undecodable, private, or a control other than white space."""
    return len(_ODD.findall(text))


@dataclass(frozen=True)
class SpellingModel:
    """Interpolated character trigram model over words, with word edges. `score` is mean log probability per letter."""

    trigrams: Mapping[str, int]
    bigrams: Mapping[str, int]
    letters: Mapping[str, int]
    total: int

    @classmethod
    def train(cls, text: str) -> SpellingModel:
        """Count trigrams of `^word$` over the words of `text`."""
        grams: tuple[Counter[str], Counter[str], Counter[str]] = (Counter(), Counter(), Counter())
        for word in _WORD.findall(text.lower()):
            padded = f"^{word}$"
            for size, counter in zip((3, 2, 1), grams, strict=True):
                counter.update(padded[i : i + size] for i in range(len(padded) - size + 1))
        return cls(grams[0], grams[1], grams[2], sum(grams[2].values()))

    def score(self, word: str) -> float:
        """Mean log probability of the letters of a lower-case word (and of its end)."""
        padded = f"^{word}$"
        total = 0.0
        for i in range(1, len(padded)):
            pair, char = padded[i - 1 : i + 1], padded[i]
            unigram = (self.letters.get(char, 0) + 0.1) / (self.total + 10)
            bigram = self.bigrams.get(pair, 0) / max(1, self.letters.get(padded[i - 1], 0))
            context = self.bigrams.get(padded[i - 2 : i], 0) if i >= 2 else 0
            trigram = self.trigrams.get(padded[i - 2 : i + 1], 0) / context if context else 0.0
            weight = context / (context + 4)
            total += math.log(weight * 0.95 * trigram + (1 - weight * 0.95) * (0.8 * bigram + 0.2 * unigram))
        return total / (len(padded) - 1)


class LanguageModel:
    """The two models together, read from the package's data; deterministic and without state."""

    def __init__(self) -> None:
        words: dict[str, str] = json.loads(data_bytes("function_words.json"))
        self.function_words = {code: frozenset(w.rstrip("'") for w in listed.split()) for code, listed in words.items()}
        corpora = {code: data_bytes(f"corpus_{code}.txt").decode() for code in LANGUAGES}
        self.spelling = {code: SpellingModel.train(text) for code, text in corpora.items()}
        kinds = json.loads(data_bytes("word_kinds.json"))
        self.ratios: dict[str, float] = kinds["log_likelihood_ratios"]
        self.limits: dict[str, float] = kinds["limits"]
        self._cached_look = lru_cache(maxsize=50_000)(self._look)
        self._cached_scores = lru_cache(maxsize=20_000)(self._scores)

    def identify(self, text: str) -> tuple[str | None, float]:
        """The language of a Latin-script text and its lead over the runner-up (0–1); None when too little speaks for any.

        Function words decide; spelling breaks the tie among the four languages that have a model.
        """
        words = [w.lower() for w in _WORD.findall(text)[:MAX_CHUNKS]]
        if not words:
            return None, 0.0
        shares = {code: sum(w in listed for w in words) / len(words) for code, listed in self.function_words.items()}
        content = [w for w in words if len(w) > 3][:60]
        if content:
            scores = [self._cached_scores(w) for w in content]
            mean = {code: sum(s[code] for s in scores) / len(content) for code in self.spelling}
            best_mean = max(mean.values())
            for code, value in mean.items():
                shares[code] += 0.3 * math.exp(2 * (value - best_mean)) * min(1.0, len(content) / 5)
        ranked = sorted(shares.items(), key=lambda kv: (-kv[1], kv[0]))
        lead = ranked[0][1] - ranked[1][1]
        return (ranked[0][0] if lead > 0.04 else None), min(1.0, lead)

    def _look(self, chunk: str) -> tuple[str, tuple[str, ...]]:
        """What can be said of a piece without its text: its kind, and its lower-case parts where these may still change it."""
        if _ODD.search(chunk):
            return "odd", ()
        core = chunk.strip(_EDGE)
        if chunk in {"-", "–", "•", "*"}:
            return "number", ()
        if not core:
            return ("symbols" if len(chunk) > 3 else "punctuation"), ()
        if _NUMBER.fullmatch(core) or _PLAIN_LINK.fullmatch(core):
            return "number", ()
        parts = [p for p in _JOINT.split(core) if p]
        if len(core) > 40 or len(parts) > 5 or not all(_CASED.fullmatch(p) for p in parts):
            return ("technical" if _TECHNICAL.fullmatch(core) else "joined"), ()
        if not core.isascii() and len({script_of(c) for c in core if c.isalpha()}) > 1:
            return "joined", ()
        lower = tuple(p.lower() for p in parts)
        kind = self._spelling_kind(lower)
        return ("closed" if kind in {"plausible", "unusual"} and chunk[-1] in ",.:;!?" else kind), lower

    def _scores(self, word: str) -> dict[str, float]:
        """How plausible a word's spelling is in each language that has a model."""
        return {code: model.score(word) for code, model in self.spelling.items()}

    def _spelling_kind(self, parts: tuple[str, ...]) -> str:
        if not parts or max(len(p) for p in parts) <= 2:
            return "short"
        score = min(max(self._cached_scores(p).values()) for p in parts)
        if score >= self.limits["plausible"]:
            return "plausible"
        return "unusual" if score >= self.limits["unusual"] else "implausible"

    def kind(self, chunk: str, function_words: frozenset[str], topic: frozenset[str]) -> str:
        """The kind of one white-space separated piece, a key of `data/word_kinds.json`."""
        kind, parts = self._cached_look(chunk)
        if not parts:
            return kind
        if not function_words.isdisjoint(parts):
            return "function"
        return "topic" if topic.issuperset(parts) else kind

    def kinds(self, text: str, topic: Iterable[str] = ()) -> Counter[str]:
        """How many pieces of each kind the text has; function words are those of its commonest language alone."""
        chunks = _LINE_END.sub(r"\1,\n", text).split()[:MAX_CHUNKS]  # the end of a line closes like a comma
        words = Counter(_WORD.findall(" ".join(chunks).lower()))
        counts = {code: sum(words[w] for w in listed.intersection(words)) for code, listed in self.function_words.items()}
        best = max(counts, key=lambda code: (counts[code], code))
        topic = frozenset(topic)
        return Counter(self.kind(c, self.function_words[best], topic) for c in chunks)

    def reads(self, text: str) -> bool:
        """Whether the text is in a language that the models know: function words, or plausible spelling."""
        kinds = self.kinds(text)
        known = kinds["function"] + kinds["plausible"] + kinds["closed"]
        return known >= 0.5 * max(1, kinds.total())

    def naturalness(self, text: str, topic: Iterable[str] = (), *, language_known: bool = True) -> float:
        """Log-likelihood ratio of writing against random tokens; below 0 speaks for random.

        `topic` holds lower-case words of the request: an answer to it uses them again, random tokens do not. In a language
        that the models don't know (`language_known` false) only joined pieces and odd characters count.
        """
        kinds = self.kinds(text, topic)
        counted = kinds if language_known else {k: n for k, n in kinds.items() if k in {"joined", "technical", "odd", "symbols"}}
        return sum(self.ratios[kind] * n for kind, n in counted.items())
