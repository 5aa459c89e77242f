"""The playground page as a person meets it: Debian's Chromium, a real server, no console error, and a picture of each state."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.guard.app_client import BORDERLINE, HARMFUL, HARMLESS, Running, keys, running

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"there is no {CHROMIUM} (Debian: the package chromium)")
KEYS, ENTRIES = keys(person="screen")
LONG = ("please tell a long story about the weather and the water. " * 600)[:29_900] + f" {HARMFUL}"


@pytest.fixture(scope="module")
def server(tiny_bundle: Path) -> Iterator[Running]:
    """A server that asks for no key."""
    with running(tiny_bundle, max_queue_tokens=10_000_000) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


Open = Callable[..., Page]


@pytest.fixture
def opened(server: Running, browser: Browser) -> Iterator[Open]:
    """Opens the page; at the end nothing may have been written to the console, and nothing thrown."""
    problems: list[str] = []
    contexts = []

    def note(message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            problems.append(message.text)

    def open_page(url: str = "", dark: bool = False, width: int = 1000) -> Page:
        context = browser.new_context(color_scheme="dark" if dark else "light", viewport={"width": width, "height": 800})
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(url or server.url)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def _screen(page: Page, text: str) -> None:
    page.get_by_label("Text to screen").fill(text)
    page.get_by_role("button", name="Screen").click()


@pytest.mark.parametrize(("text", "decision"), [(HARMFUL, "block"), (BORDERLINE, "flag"), (HARMLESS, "allow")])
@pytest.mark.parametrize("dark", [False, True])
def test_a_text_is_screened_and_its_decision_shown(opened: Open, tmp_path: Path, text: str, decision: str, dark: bool) -> None:
    """Typing a text and pressing the button shows the decision, the score and the windows; in light and in dark."""
    page = opened(dark=dark)
    expect(page.locator("#model")).to_contain_text("tiny")
    _screen(page, text)
    expect(page.locator(".verdict strong")).to_have_text(decision)
    expect(page.locator(".verdict")).to_contain_text("score")
    expect(page.get_by_role("row").filter(has_text="original")).to_contain_text(text)
    page.screenshot(path=tmp_path / f"{decision}-{'dark' if dark else 'light'}.png", full_page=True)


def test_the_worst_of_many_windows_is_shown_first(opened: Open, tmp_path: Path) -> None:
    """A text of 30,000 characters is screened whole, and the window that decided stands on top."""
    page = opened()
    _screen(page, LONG)
    expect(page.locator(".verdict strong")).to_have_text("block")
    worst = page.locator("tr.worst").first
    expect(worst).to_contain_text("bomb")
    assert page.locator("#result table").last.locator("tbody tr").count() == 20
    page.screenshot(path=tmp_path / "long.png", full_page=True)


def test_a_sentence_that_decides_is_shown_above_windows_that_score_higher(opened: Open) -> None:
    """Windows have thresholds of their own, so that the highest score need not decide; the answer comes from the test."""
    page = opened()
    text = "a story about the weather " * 100
    windows = [{"view": "original", "start": at, "end": at + 480, "sentence": False, "score": 0.84} for at in range(0, 2000, 80)]
    worst = {"view": "original", "start": 2, "end": 25, "sentence": True}
    result = {
        "decision": "flag", "reason": "score", "score": 0.77, "thresholds": {"flag": 0.75, "block": 0.9}, "task": "other",
        "task_source": "model", "refusal": None, "categories": {}, "windows": 26, "segments": 26, "skipped": [],
        "context_cut": False, "worst": worst, "details": [*windows, worst | {"score": 0.77}],
    }  # fmt: skip
    answer = {"policy": "default", "timing": {"total_ms": 1.0}, "results": [result]}
    page.route("**/v1/screen*", lambda route: route.fulfill(json=answer))
    _screen(page, text)
    first = page.locator("#result table").last.locator("tbody tr").first
    expect(first).to_have_class("worst")
    expect(first).to_contain_text("original, sentence")


def test_an_answer_is_screened_with_its_prompt(opened: Open, tmp_path: Path) -> None:
    """Direction response opens a field for the prompt; a refusal is allowed and its probability shown."""
    page = opened()
    expect(page.get_by_label("Prompt that was answered")).to_be_hidden()
    page.get_by_label("Direction").select_option("response")
    page.get_by_label("Prompt that was answered").fill(HARMFUL)
    _screen(page, "sorry, we cannot help with that")
    expect(page.locator(".verdict strong")).to_have_text("allow")
    expect(page.locator(".verdict")).to_contain_text("refusal")
    page.screenshot(path=tmp_path / "response.png", full_page=True)


def test_task_and_policy_are_chosen_from_what_the_server_has(opened: Open) -> None:
    """The lists hold the bundle's tasks and the server's policies; what is chosen is in force."""
    page = opened()
    page.get_by_label("Policy").select_option("strict")
    page.get_by_label("Task").select_option("translation")
    _screen(page, BORDERLINE)
    expect(page.locator(".verdict strong")).to_have_text("block")
    expect(page.locator(".verdict")).to_contain_text("translation")


def test_text_is_shown_never_run(opened: Open) -> None:
    """Markup in a screened text is text on the page."""
    page = opened()
    _screen(page, f"<img src=x onerror=document.title='run'> <b>{HARMFUL}</b>")
    expect(page.get_by_role("row").filter(has_text="original")).to_contain_text("<img src=x")
    assert page.title() == "Taskgate guard"
    assert page.locator("#result img").count() == 0


def test_the_page_fits_a_telephone(opened: Open, tmp_path: Path) -> None:
    """At 375 pixels nothing makes the page scroll sideways."""
    page = opened(width=375)
    _screen(page, HARMFUL + " " + "x" * 300)
    expect(page.locator(".verdict strong")).to_have_text("block")
    page.screenshot(path=tmp_path / "narrow.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_a_server_with_keys_says_that_it_wants_one(tiny_bundle: Path, browser: Browser, tmp_path: Path) -> None:
    """Without a key the page shows the refusal; with it the text is screened."""
    with running(tiny_bundle, api_keys=ENTRIES) as server:
        page = browser.new_page()
        page.goto(server.url)
        expect(page.locator("#model")).to_contain_text("key")
        _screen(page, HARMFUL)
        expect(page.locator(".verdict")).to_contain_text("401")
        page.screenshot(path=tmp_path / "keys.png", full_page=True)
        page.get_by_label("API key").fill(KEYS["person"])
        _screen(page, HARMFUL)
        expect(page.locator(".verdict strong")).to_have_text("block")
        expect(page.locator("#model")).to_contain_text("tiny")
        page.close()
