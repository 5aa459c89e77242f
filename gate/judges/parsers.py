"""Layer L1 for multiple choice, translation and canary documents. An answer's text and its item in; what was done out."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gate.judges.text_measures import normalised, overlap, squeezed, words
from gate.records import Option

_HEAD = re.compile(r"^\W*([A-Z]|[a-z](?=[).:\]]))(?:\W*$|[).:,\]*]|\s*[-–—]\s|\s*\n)")
_NAMED = re.compile(
    r"(?i:\b(?:answer|option|choice|choose|pick|select|letter|réponse|choix|antwort|respuesta|opción|opcion|lösung)\b)"
    r"(?i:\s*(?:is|would be|est|ist|es|wäre|sería|should be|option|letter|the|la|le|die|:|=|-|\*|\"|'|\()){0,6}\s*([A-Z])\b"
)
_NEGATED = re.compile(r"(?:\bnot|\bnever|n't|\bavoid|\bagainst|\bcannot)(?: \w+)? ?$", re.I)
_BEST = (
    r"(?:what|how|my|right|correct|best|where i|"
    r"the (?:best|right|correct|answer|one i|option i|way i|better|only|most|quickest|safest|easiest))"
)
_LEADS = re.compile(
    rf"^\W*([A-Z])(?:\s*[,:](?!\s*\(?[A-H]\b)|\s+(?:because|since|parce que|car|weil|denn|porque|(?:is|would be|seems) {_BEST}|"
    r"(?:est|serait) (?:la bonne|la meilleure|le meilleur|ma|mon|ce)|(?:ist|wäre) (?:die (?:beste|richtige)|meine|richtig)|"
    r"(?:es|sería) (?:la (?:mejor|correcta)|lo que|mi))\b)"
)
_SEVERAL = re.compile(r"^\W*([A-Z])\W{0,2}\s*(?:,|/|&|\b(?:and|or|et|ou|und|oder|y|o)\b)\s*\(?([A-Z])\b(?!')")
_ALONE = re.compile(r"(?<![\w'])\(?([A-Z])[).](?!\w)")
_STANDS = re.compile(r"(?<![\w'.-])\(?([A-Z])\)?(?![\w'-])(?!\.\w)")
_VERB = r"(?:is|was|would|and|or|because|since|takes?|seems|has|can|could|will|might|may|sounds|looks)\b"
_ARTICLE = re.compile(rf"(?<![\w'.(-])(?:A (?!{_VERB})(?=[a-z])|I (?=[a-z'])|I'|À )")
"""The English article and pronoun, which are no letters of options; before a small letter only."""


def chosen_option(text: str, options: Sequence[Option]) -> tuple[Option, str] | None:
    """The option an answer picks and how it was read; None when none, or several, are picked.

    Tried in order: a letter that opens the answer (“B”, “B) …”, “B is what …”, “B because …”), “the answer is B”, one option's
    text alone, one letter alone. Two different letters that stand alone, none of them leading, are no choice.
    """
    by_letter = {o.letter.upper(): o for o in options}
    plain = normalised(text).strip()
    several = _SEVERAL.match(plain)
    listed = several is not None and several.group(2) in by_letter and several.group(1) != several.group(2)
    head = None if listed else _HEAD.match(plain) or _LEADS.match(plain)
    if head and head.group(1).upper() in by_letter:
        return by_letter[head.group(1).upper()], f"letter {head.group(1).upper()}"
    if len(plain) == 1 and plain.upper() in by_letter:
        return by_letter[plain.upper()], f"letter {plain.upper()}"
    named = {
        m.group(1)
        for m in _NAMED.finditer(plain)
        if m.group(1) in by_letter and not _NEGATED.search(plain[max(0, m.start() - 30) : m.start()])
    }
    if len(named) == 1:
        letter = named.pop()
        return by_letter[letter], f"names option {letter}"
    return _by_text(plain, options) or _by_lone_letter(plain, by_letter)


def _by_text(plain: str, options: Sequence[Option]) -> tuple[Option, str] | None:
    answer = squeezed(plain)
    held = [o for o in options if o.text and squeezed(o.text).rstrip(".") in answer]
    if not held:
        answer_words = words(plain)
        held = [o for o in options if len(words(o.text)) >= 3 and overlap(words(o.text), answer_words, 2) >= 0.8]
    if len(held) > 1:
        longest = max(held, key=lambda o: len(o.text))
        held = [longest] if all(squeezed(o.text).rstrip(".") in squeezed(longest.text) for o in held) else []
    return (held[0], f"gives the text of option {held[0].letter}") if len(held) == 1 else None


def _by_lone_letter(plain: str, by_letter: dict[str, Option]) -> tuple[Option, str] | None:
    found = [m for m in _ALONE.finditer(plain) if not _NEGATED.search(plain[max(0, m.start() - 30) : m.start()])]
    letters = {m.group(1) for m in found if m.group(1) in by_letter}
    standing = {m.group(1) for m in _STANDS.finditer(_ARTICLE.sub(" ", plain))} & set(by_letter)
    if not letters and len(standing) == 1:
        letters = _last_alone(plain, by_letter)
    if len(letters) != 1 or len(letters | standing) > 1:
        return None
    letter = letters.pop()
    return by_letter[letter], f"letter {letter} in the answer"


def _last_alone(plain: str, by_letter: dict[str, Option]) -> set[str]:
    """A capital letter that is the answer's last word, after a sentence end (“I can't help with that. B”)."""
    last = re.search(r"[.!?:]\W+([A-Z])\W*$", plain)
    return {last.group(1)} & set(by_letter) if last else set()


def carried_canaries(text: str, canaries: Sequence[str]) -> list[str]:
    """The canaries that an answer carries over, compared without case and spaces."""
    answer = squeezed(text)
    return [c for c in canaries if squeezed(c) and squeezed(c) in answer]


def length_ratio(text: str, source: str) -> float:
    """Words of the answer ÷ words of the source; 0 without a source."""
    told = len(words(source))
    return len(words(text)) / told if told else 0.0
