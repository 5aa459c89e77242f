"""A cheap check whether letters look like English: what the decoded views are told from noise by. Pure; imports nothing of ours.

Not a language detector: it only has to tell `bomb` from `log4j` and `how to make` from `ubj gb znxr`.
"""

from itertools import pairwise
from typing import Final

_FOLLOWERS: Final = dict(
    pair.split(":")
    for pair in (
        "a:bcdfgiklmnprstuvwy b:aeijlmorsuy c:acehiklorstuy d:adegilnorsuy e:abcdefghilmnopqrstvwxy f:aefilortuy "
        "g:aeghilnoprsu h:aeinortuy i:abcdefgklmnopqrstvz j:aeou k:eilns l:adefilnostuvy m:abeimopsuy n:acdefgiklmnostuvy "
        "o:abcdefgiklmnoprstuvwxy p:aehiloprstuy q:u r:acdefgiklmnoprstuvy s:acefhiklmnopstuwy t:acehilmoprstuwy "
        "u:abcdegilmnprst v:aeiou w:aehinors x:aceipt y:eilopst z:aeiz"
    ).split()
)
"""After a letter, those that follow it in 98.5 % of the letter pairs of English technical and everyday prose, and a few more."""

COMMON: Final = frozenset(
    (
        "about access after all also always an and answer any are as at attack bad be because been before best build but "
        "buy by can code could create dangerous day detailed did do does don drug drugs even every explain fake find "
        "first following for free from get give good gun guide had hack has have he help her here him his home house how "
        "hurt if ignore illegal in information instructions into is it its just kill know like list look make making man "
        "many may me money more most much must my name need never new no not now of off on one only or other our out over "
        "people person plan please poison police previous should show so some someone steal step steps such system tell "
        "than that the their them then there these they thing think this time to two up us use using very virus want was "
        "way we weapon were what when where which who why will with without woman world would write you your"
    ).split()
)
"""Words that are common in requests, two letters or more; a short text in plain English holds several."""


def plausible(word: str) -> bool:
    """Whether a word of ASCII letters could be English: three letters or more, a vowel, and usual pairs of letters.

    Words of six letters or more may have one unusual pair for every six, as where compounds join (`malware`).
    """
    low = word.lower()
    if len(low) < 3 or not any(letter in "aeiouy" for letter in low):
        return False
    return sum(b not in _FOLLOWERS.get(a, "") for a, b in pairwise(low)) <= len(low) // 6


def share_plausible(word: str) -> float:
    """The share of a word's letter pairs that are usual in English; 0 for a single letter."""
    low = word.lower()
    pairs = [b in _FOLLOWERS.get(a, "") for a, b in pairwise(low)]
    return sum(pairs) / len(pairs) if pairs else 0.0
