"""The HTML report as a person meets it, in Debian's Chromium: the first screen, narrow and dark, on paper, read by a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright
from pypdf import PdfReader

from gate.report import Evidence, render_html
from tests.report.hostile import HOSTILE, carrying
from tests.report.verdicts import CASES, blocked

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"there is no {CHROMIUM} (Debian: the package chromium)")
SIZES = [(1280, 800), (400, 800)]
MEGABYTE = "a" * 1_000_000

UNFOLD = "document.querySelectorAll('details').forEach((d) => { d.open = true; })"
CONTRAST = """() => {
  const parse = (c) => { const n = c.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (e) => {
    for (let p = e; p; p = p.parentElement) {
      const c = parse(getComputedStyle(p).backgroundColor);
      if (c[3] === 1) return c;
      if (c[3] > 0) throw new Error(p.outerHTML);
    }
    throw new Error("nothing is painted behind " + e.outerHTML);
  };
  const found = [];
  for (const e of document.querySelectorAll("body *")) {
    if (e.tagName === "title" || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
    const style = getComputedStyle(e);
    const a = light(parse(e.namespaceURI.endsWith("svg") ? style.fill : style.color)), b = light(behind(e));
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.tagName + " " + e.textContent.slice(0, 40)]);
  }
  return found;
}"""
"""Contrast (WCAG 2) of every text against the background painted behind it. In drawings, words over an area have a halo."""

OUTLINE = """() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const empty = (e) => !e || !e.textContent.trim();
  const named = (e) => e.ariaLabel || !empty(document.getElementById(e.getAttribute("aria-labelledby")));
  const tabled = (f) => f.querySelector("table") || f.closest("section").querySelector("details table");
  return {
    headings: all("h1, h2, h3, h4, h5, h6").map((h) => Number(h.tagName[1])),
    landmarks: ["body > header", "main nav", "body > main", "body > footer"].map((s) => all(s).length),
    loose: all("body > *").filter((e) => !["HEADER", "MAIN", "FOOTER"].includes(e.tagName)).length,
    headers: all("th").filter((th) => !th.scope || empty(th)).length,
    tables: all("table").filter((t) => !t.tHead || !t.querySelector("tbody th[scope=row]")).length,
    drawings: all("svg:not([aria-hidden])").filter((s) => s.getAttribute("role") !== "img" || s.ariaLabel.length < 20).length,
    without_table: all("figure").filter((f) => !tabled(f)).length,
    nameless: all("section, nav, [role=region]").filter((e) => !named(e)).length,
    out_of_reach: all(".scroll").filter((e) => e.tabIndex !== 0 || e.getAttribute("role") !== "region").length,
    unsummed: all("details").filter((d) => d.firstElementChild.tagName !== "SUMMARY" || empty(d.firstElementChild)).length,
    lang: document.documentElement.lang,
    title: document.title,
  };
}"""
"""What a screen reader goes by; counts are of what lacks something."""

OVERLAPS = """() => [...document.querySelectorAll("figure > svg")].flatMap((svg) => {
  const all = [...svg.querySelectorAll("text")].map((t) => [t.textContent, t.getBoundingClientRect()]);
  const frame = svg.getBoundingClientRect();
  const meet = (a, b) => a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 2 && b.top < a.bottom - 2;
  const pairs = all.flatMap(([one, a], i) => all.slice(i + 1).filter(([, b]) => meet(a, b)).map(([other]) => [one, other]));
  return [...pairs, ...all.filter(([, a]) => a.left < frame.left - 1 || a.right > frame.right + 1).map(([text]) => [text])];
})"""
"""Pairs of texts in a drawing that cover each other, and texts that leave it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens a report's file; at the end nothing was written to the console, thrown, asked of the user or fetched."""
    problems: list[str] = []
    contexts = []

    def note(message: ConsoleMessage) -> None:
        problems.append(message.text)

    def open_page(evidence: Evidence, *, dark: bool = False, width: int = 1280, height: int = 800) -> Page:
        file = tmp_path / "report.html"
        file.write_text(render_html(evidence), encoding="utf-8")
        context = browser.new_context(
            color_scheme="dark" if dark else "light", viewport={"width": width, "height": height}, offline=True
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(dialog.message))
        page.on("request", lambda request: problems.append(request.url) if request.url != file.as_uri() else None)
        page.goto(file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_why_how_sure_and_what_now_need_no_scrolling(opened: Open, case: str, width: int, height: int) -> None:
    """The verdict and the three answers, each with text, lie within the first screen."""
    page = opened(CASES[case](), width=width, height=height)
    for place in ("h1", "#why", "#sure", "#now"):
        box = page.locator(place).bounding_box()
        assert box is not None
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= height
    assert (
        page.locator("h1").inner_text().endswith(CASES[case]().verdict.decision.upper())
        or "waived" in page.locator("h1").inner_text()
    )
    assert all(len(page.locator(f"#{place} p").first.inner_text()) > 20 for place in ("why", "sure", "now"))


@pytest.mark.parametrize("width", [320, 400, 1280])
@pytest.mark.parametrize(
    "text", ["plain", MEGABYTE, "日本語" * 400, "\u202e" * 300, "a_b " * 200], ids=["plain", "line", "cjk", "bidi", "words"]
)
def test_the_page_never_scrolls_sideways(opened: Open, width: int, text: str) -> None:
    """At the width of a telephone the page itself stays within it, unfolded, whatever the text."""
    page = opened(carrying(text, unmasked=True), width=width)
    page.evaluate(UNFOLD)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_every_text_stands_out(opened: Open, case: str, dark: bool) -> None:
    """The contrast of each text with its background is at least 4.5:1, light and dark, folded parts too."""
    page = opened(CASES[case](), dark=dark)
    page.evaluate(UNFOLD)
    found: list[tuple[float, str]] = page.evaluate(CONTRAST)
    assert len(found) > 50
    assert [(round(ratio, 2), text) for ratio, text in found if ratio < 4.5] == []
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (back == "rgb(255, 255, 255)") is not dark


@pytest.mark.parametrize("case", CASES)
def test_a_machine_can_read_it_out(opened: Open, case: str) -> None:
    """Landmarks, headings in order, table headers with scope, names for regions, a text and a table for every drawing."""
    found = opened(CASES[case]()).evaluate(OUTLINE)
    levels = found.pop("headings")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert found.pop("landmarks") == [1, 1, 1, 1]
    assert found.pop("lang") == "en"
    assert CASES[case]().verdict.decision.upper() in found.pop("title")
    assert found == dict.fromkeys(found, 0)


def several() -> Evidence:
    """A run with a second decoding, of a long name."""
    base = blocked()
    more = tuple(s.model_copy(update={"decoding": "temperature_one_of_twenty_samples"}) for s in base.verdict.stats)
    return base.model_copy(update={"verdict": base.verdict.model_copy(update={"stats": (*base.verdict.stats, *more)})})


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("case", [*CASES.values(), several])
def test_words_in_drawings_do_not_overlap(opened: Open, case: Callable[[], Evidence], width: int) -> None:
    """No two texts of a drawing cover each other, and none leaves its drawing."""
    page = opened(case(), width=width)
    page.evaluate(UNFOLD)
    assert page.evaluate(OVERLAPS) == []


def test_status_is_told_without_colour(opened: Open) -> None:
    """Each cell's name in the drawing begins with a sign of its status, and the table beside it has the word."""
    page = opened(blocked())
    names = page.locator("svg text.name").all_text_contents()
    assert {name[0] for name in names} == {"✕", "✓"}
    page.get_by_text("Gated cells as a table").click()
    assert page.get_by_role("cell", name="broken: max_rate").first.is_visible()


def test_an_example_unfolds(opened: Open) -> None:
    """The masked words are hidden until the line is pressed, by key too."""
    page = opened(blocked())
    first = page.locator("details.example").first
    assert not first.get_by_text("Write a function that forges").is_visible()
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    assert first.get_by_text("Write a function that forges").is_visible()


def test_hostile_text_acts_in_no_browser(opened: Open) -> None:
    """Hostile text in every field gives the tree that a plain word gives, a plain title and no window, request or message."""
    expected = None
    for text in ("plain", *(t for t in HOSTILE if "<" in t), "\n".join(HOSTILE)):
        page = opened(carrying(text, unmasked=True), width=400)
        found = page.evaluate("[...document.querySelectorAll('*')].map((e) => e.tagName).join()")
        expected = expected or found
        assert found == expected
        assert page.title().startswith("BLOCK")
        page.context.close()


def test_text_from_right_to_left_stays_in_its_place(opened: Open) -> None:
    """A behaviour in Arabic does not move the words before it: each foreign text is isolated."""
    base = blocked()
    examples = tuple(e.model_copy(update={"behaviour": "مرحبا", "transform": "שלום"}) for e in base.examples)
    page = opened(base.model_copy(update={"examples": examples}))
    places = page.evaluate("""() => [...document.querySelector('details.example summary').querySelectorAll('strong, bdi')]
        .map((e) => e.getBoundingClientRect().left)""")
    assert places == sorted(places)


def test_it_prints_whole(opened: Open) -> None:
    """On paper the folded parts are open, in dark mode too: tables, examples and provenance are there, and the page is white."""
    page = opened(blocked(), dark=True)
    pdf = PdfReader(BytesIO(page.pdf(format="A4", print_background=True)))
    text = " ".join(part.extract_text() for part in pdf.pages)
    for words in (
        "BLOCK",
        "Write a function that forges the",
        "Against the baseline",
        "candidate digest",
        "persona_analyst",
        "items read",
    ):
        assert words in text, words
    assert 2 <= len(pdf.pages) <= 8
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
