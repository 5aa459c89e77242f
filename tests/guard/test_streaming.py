"""Holding back: what was not screened has not left, what was screened leaves whole, and memory stays bounded."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from guard_server.bundle_spec import Window
from guard_server.streaming import Due, Holdback

WINDOWS = st.integers(2, 40).flatmap(lambda c: st.builds(Window, characters=st.just(c), overlap=st.integers(0, c - 1)))
CHUNKS = st.lists(st.text(max_size=60), max_size=12)


class Stream:
    """A whole stream through a `Holdback`, each due window found harmless at once."""

    def __init__(self, chunks: Sequence[str], window: Window) -> None:
        self.text = "".join(chunks)
        self.holdback = Holdback(window)
        self.due: list[Due] = []
        self.out = ""
        self.early: list[tuple[int, int]] = []
        """After each release before the end: characters released, end of what was screened."""
        for chunk in chunks:
            for due in self.holdback.push(chunk):
                self._pass(due)
                self.early.append((self.holdback.released, due.end))
        self.out += self.holdback.release(self.holdback.received)

    def _pass(self, due: Due) -> None:
        self.due.append(due)
        self.out += self.holdback.release(due.release)


@given(CHUNKS, WINDOWS)
def test_the_text_leaves_whole_and_in_order(chunks: list[str], window: Window) -> None:
    """However it is cut into chunks, exactly the text that came leaves."""
    stream = Stream(chunks, window)
    assert stream.out == stream.text
    assert stream.holdback.released == stream.holdback.received == len(stream.text)


@given(CHUNKS, WINDOWS)
def test_every_short_span_lies_whole_in_a_screened_window(chunks: list[str], window: Window) -> None:
    """Whatever has left early lay in a screened window with the overlap behind it; windows hold the text of their place."""
    stream = Stream(chunks, window)
    assert all(d.text == stream.text[d.start : d.end] and len(d.text) <= window.characters for d in stream.due)
    left = max((due.release for due in stream.due), default=0)
    for start in range(left):
        assert any(d.start <= start and start + window.overlap <= d.end for d in stream.due)


@given(CHUNKS, WINDOWS)
def test_nothing_leaves_before_the_overlap_behind_it_is_screened(chunks: list[str], window: Window) -> None:
    """While text still comes, the last overlap of what was screened stays: a span that began there may yet go on."""
    assert all(released <= screened - window.overlap for released, screened in Stream(chunks, window).early)


@given(CHUNKS, WINDOWS)
def test_nothing_leaves_without_a_release(chunks: list[str], window: Window) -> None:
    """Windows that are only due let nothing out."""
    holdback = Holdback(window)
    for chunk in chunks:
        holdback.push(chunk)
    assert holdback.released == 0


@given(CHUNKS, WINDOWS)
def test_how_the_text_is_cut_into_chunks_does_not_change_what_is_screened(chunks: list[str], window: Window) -> None:
    """A stream of single characters gives the same windows as one chunk."""
    text = "".join(chunks)
    assert [d.text for d in Stream(list(text), window).due] == [d.text for d in Stream([text] if text else [], window).due]


@given(st.integers(1, 30), WINDOWS, st.integers(200, 1500))
def test_memory_is_bounded_by_the_window(size: int, window: Window, total: int) -> None:
    """What is kept never exceeds two windows and a chunk, however long the stream."""
    holdback = Holdback(window)
    for _ in range(total // size):
        for due in holdback.push("x" * size):
            holdback.release(due.release)
        assert holdback.kept <= 2 * window.characters + size


@given(st.text(min_size=60, max_size=120), st.lists(st.integers(0, 60), min_size=1, max_size=6))
def test_a_release_never_gives_text_twice_or_out_of_order(text: str, positions: list[int]) -> None:
    """Releasing up to a position that has left already gives nothing."""
    holdback = Holdback(Window(characters=20, overlap=5))
    holdback.push(text)
    out = "".join(holdback.release(position) for position in positions)
    assert out == text[: max(positions)]
