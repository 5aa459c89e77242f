"""Harmless passages around which, or beside which, the guard is trained. In: a seed and a window. Out: passages and sentences.

They are cut from anywhere in long documents, as a window cuts them: a model that had seen only documents' beginnings would take
the middle of a document for something odd.
"""

from functools import cached_property
from random import Random
from typing import Final

from guard_server.bundle_spec import Window
from guard_server.training.material.documents import KINDS, filler
from guard_server.windows import windows

PER_KIND: Final = 30
"""Documents of each kind."""
CHARACTERS: Final = 20_000
"""Of each."""


class Passages:
    """See `batches.Filler`: documents of our own material, made once."""

    def __init__(self, seed: int, window: Window) -> None:
        self._window = window
        self._documents = {
            kind: [filler(kind, CHARACTERS, Random(f"{seed}:passages:{kind}:{at}")) for at in range(PER_KIND)]
            for kind in sorted(KINDS)
        }

    def passage(self, characters: int, rng: Random) -> str:
        """So many characters from anywhere in a document of any kind; white space at the ends falls away."""
        document = rng.choice(self._documents[rng.choice(sorted(self._documents))])
        size = max(1, min(characters, len(document)))
        start = rng.randrange(len(document) - size + 1)
        return document[start : start + size].strip() or "-"

    def sentences(self, count: int, rng: Random) -> tuple[str, ...]:
        """Sentences or lines of documents of one kind, as `windows` cuts them: together they count as the worst of them does.

        So nearly all of the stock trains, and most what the model misjudges. One beside each prompt left sentences out on which a
        long text's threshold then stood.
        """
        stock = self._stock[rng.choice(sorted(self._stock))]
        return tuple(rng.sample(stock, min(count, len(stock))))

    @cached_property
    def _stock(self) -> dict[str, list[str]]:
        """Sentences by kind, each once, in reading order."""
        most = self._window.sentence
        return {
            kind: list(
                dict.fromkeys(
                    segment.text.strip()
                    for document in documents
                    for segment in windows(document, self._window)
                    if segment.end - segment.start <= most
                )
            )
            for kind, documents in self._documents.items()
        }
