"""Holding a text back until it is screened, while it is still being written.

Pure: chunks in, windows to screen and released text out. A window is cut whenever the text has grown by a stride, so each is
screened once; what lies before the screened part's end less the overlap is released, because a span of harm that began earlier
would have lain whole in a screened window. At the end the route screens the whole text, and only then releases the rest.
"""

from dataclasses import dataclass

from guard_server.bundle_spec import Window


@dataclass(frozen=True, slots=True)
class Due:
    """A window to screen; when it is found harmless, text up to `release` may leave."""

    text: str
    start: int
    end: int
    release: int


class Holdback:
    """One stream's text: what has come, what was screened, what has left. Positions are in characters of the whole stream."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._tail = ""
        """The text from `_base` on: what is not released, and as much before the screened end as the next window needs."""
        self._base = 0
        self._screened = 0
        self.released = 0
        """How many characters have left."""

    @property
    def received(self) -> int:
        """How many characters have come."""
        return self._base + len(self._tail)

    @property
    def kept(self) -> int:
        """How many characters are held in memory."""
        return len(self._tail)

    def push(self, chunk: str) -> list[Due]:
        """Take a chunk; the windows that are due now, in order."""
        self._tail += chunk
        due = []
        while self.received >= (end := self._next_end):
            due.append(self._cut(end, release=end - self._window.overlap))
        return due

    def release(self, upto: int) -> str:
        """Let text up to a position leave; gives the part that had not left before."""
        if upto <= self.released:
            return ""
        text = self._tail[self.released - self._base : upto - self._base]
        self.released = upto
        self._forget()
        return text

    @property
    def _next_end(self) -> int:
        """Where the next window ends: the first one is whole, each further one goes on by a stride."""
        return max(self._window.characters, self._screened + self._window.characters - self._window.overlap)

    def _cut(self, end: int, release: int) -> Due:
        start = max(0, end - self._window.characters)
        self._screened = end
        return Due(self._tail[start - self._base : end - self._base], start, end, release)

    def _forget(self) -> None:
        """Drop what has left and no window will need again, so that memory is bounded by the window."""
        needed = min(self.released, max(0, self._screened - self._window.characters))
        self._tail = self._tail[needed - self._base :]
        self._base = needed
