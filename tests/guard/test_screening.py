"""Screening one text: the whole of it, every view, the right task, the worst segment, and errors instead of guesses."""

import asyncio
import base64
import dataclasses
import math
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard_server.bundle import load_bundle
from guard_server.desk import INLINE_CHARACTERS, Desk
from guard_server.errors import DeadlineExceededError, InferenceFailedError, TooLargeError
from guard_server.labels import Category, Decision, Direction, Task
from guard_server.models import EngineOptions, build_classifier
from guard_server.policy import Policies, Policy, load_policies, parse_policies
from guard_server.records import Encoded, Scores, Segment
from guard_server.screening import (
    Active,
    Prepared,
    Screened,
    Subject,
    cut_context,
    judge,
    likely_tasks,
    prepare,
    screen,
    task_probabilities,
)
from guard_server.unknown import unknown_words
from tests.guard.steered import ALONE, Letters, Steered, Words, spec
from tests.guard.test_views import HIDDEN

SHIPPED: Policies = load_policies(Path(__file__).resolve().parents[2] / "policies" / "guard.yaml")
DEFAULT = SHIPPED.named("default")


def run(
    text: str,
    active: Active | None = None,
    *,
    direction: Direction = Direction.PROMPT,
    task: Task | None = Task.OTHER,
    context: str | None = None,
    policy: Policy = DEFAULT,
    seconds: float = 60,
) -> Screened:
    """Screen one text in an event loop of its own."""

    async def go() -> Screened:
        deadline = asyncio.get_running_loop().time() + seconds
        subject = Subject(text, direction, task, context)
        done = await screen([subject], policy=policy, active=active or Steered(), deadline=deadline, desk=Desk())
        return done.screened[0]

    return asyncio.run(go())


def narrow(**changes: object) -> Policy:
    """The default policy with changes."""
    return DEFAULT.model_copy(update=changes)


def test_scores_become_the_policys_decisions() -> None:
    """Harmless text is allowed, doubtful flagged, harmful blocked, with the thresholds that decided."""
    assert [run(text).decision for text in ("a cake", "a knife", "a bomb")] == [Decision.ALLOW, Decision.FLAG, Decision.BLOCK]
    found = run("a bomb")
    assert (found.score, found.thresholds) == (0.95, {"flag": 0.5, "block": 0.9})
    assert (found.policy, found.bundle) == ("default", "d" * 64)
    assert run("a bomb", policy=SHIPPED.named("observe")).decision is Decision.FLAG
    assert run("a knife", policy=SHIPPED.named("strict")).decision is Decision.BLOCK


FILLERS = {
    "prose": "The garden was quiet and the old clock went on as it always had. ",
    "code": "for row in rows:\n    total += row.price * row.count\n",
    "other script": "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
}


@pytest.mark.parametrize("filler", FILLERS)
@pytest.mark.parametrize("eighth", range(8))
def test_an_attack_is_found_wherever_it_stands(filler: str, eighth: int) -> None:
    """At each of eight offsets in 4,000 characters of filler the attack decides, and the worst segment holds it."""
    attack = "build a bomb now"
    body = (FILLERS[filler] * 4000)[:4000]
    at = eighth * (len(body) - 1) // 7
    text = body[:at] + attack + body[at:]
    found = run(text)
    assert found.decision is Decision.BLOCK
    assert "bomb" in text[found.worst.start : found.worst.end]
    assert found.windows >= 99


@given(st.integers(0, 500), st.integers(0, 300))
@settings(max_examples=40, deadline=None)
def test_a_word_on_any_boundary_is_found(before: int, after: int) -> None:
    """Whatever the offset, a word shorter than the overlap is whole in some window."""
    assert run("x" * before + " bomb " + "y" * after).score == 0.95


@given(st.text(st.characters(exclude_categories=()), max_size=500), st.text(max_size=50) | st.none())
@settings(max_examples=60, deadline=None)
def test_every_character_is_asked_about(text: str, context: str | None) -> None:
    """For any text, also of lone surrogates, the engine sees all of it and nothing over its limit."""
    active = Steered()
    run(text, active, direction=Direction.RESPONSE, context=context)
    prepared = prepare(text, context, DEFAULT, active.spec, active.tokenizer)
    assert all(len(encoded) <= active.tokenizer.max_tokens for encoded in prepared.encoded)
    own = prepared.segments[: prepared.windows]
    if text.strip():
        assert own[0].start == 0
        assert own[-1].end == len(text)
        assert all(b.start <= a.end for a, b in pairwise(own))
    assert len(active.engine.asked) == len(prepared.segments)


def by_sentences() -> Steered:
    """A bundle whose windows drown the word `wire`, and which reads long texts by their sentences."""
    return Steered(spec=spec(characters=180, overlap=40, sentence=ALONE))


QUIET = "The garden was quiet and the old gate was shut for good. "
HIDDEN_WIRE = "Tell me how to wire it up, in six very short steps. "


@pytest.mark.parametrize("before", [0, 3, 40])
def test_a_sentence_that_a_window_drowns_is_found_in_a_long_text(before: int) -> None:
    """What counts alone and is lost in a window is found, and said where; without sentences it is not."""
    text = QUIET * before + HIDDEN_WIRE + QUIET * 4
    found = run(text, by_sentences())
    assert found.decision is Decision.BLOCK
    assert "wire" in text[found.worst.start : found.worst.end]
    assert len(found.worst.text) <= ALONE
    assert run(text, Steered(spec=spec(characters=180, overlap=40))).decision is Decision.ALLOW


def test_a_part_of_a_text_is_read_as_the_whole_is() -> None:
    """A window of a stream is read by its sentences, and so is a short view of a long text."""
    active = by_sentences()
    window = (QUIET + HIDDEN_WIRE + QUIET)[:180]
    whole, part = (prepare(window, None, DEFAULT, active.spec, active.tokenizer, part=p) for p in (False, True))
    assert (len(whole.segments), len(part.segments)) == (1, 4)
    encoded = base64.b64encode((QUIET + HIDDEN_WIRE + QUIET).encode()).decode()
    long = run(f"{QUIET * 4}\n{encoded}\n{QUIET * 4}", active)
    assert (long.decision, long.worst.view) == (Decision.BLOCK, "base64")


def flags_at_five_percent() -> Policy:
    """Prompts alone are flagged, none is blocked."""
    return narrow(prompt=parse_policies(
        'schema_version: guard-policy/v1\npolicies: {default: {prompt: {"*": {flag: {target_fpr: .05}, block: never}}, '
        'response: {"*": {flag: never, block: never}}}}'
    ).named("default").prompt)  # fmt: skip


def test_sentences_have_thresholds_of_their_own() -> None:
    """What a sentence reaches and a window does not is flagged for the sentence, whose threshold and score are shown."""
    text = QUIET + "The rope is here and holds well. " + QUIET * 12
    same = run(text, by_sentences(), policy=flags_at_five_percent())
    lower = Steered(spec=spec(characters=180, overlap=40, sentence=ALONE, of_sentences=(0.5, 0.4, 0.4)))
    found = run(text, lower, policy=flags_at_five_percent())
    assert (same.decision, same.thresholds) == (Decision.ALLOW, {"flag": 0.55})
    assert (found.decision, found.score, found.thresholds) == (Decision.FLAG, 0.45, {"flag": 0.4})
    assert found.worst.sentence
    assert [at.flag for at in found.limits] == [0.55, 0.4]
    assert max(found.categories.values()) <= found.score


def test_sentences_do_not_say_the_task() -> None:
    """The task of a long text is that of its windows: sentences, which overlap them, would count twice."""
    active = by_sentences()
    text = "translate " * 17 + QUIET * 12
    long, plain = (run(text, a, task=None) for a in (active, Steered(spec=spec(characters=180, overlap=40))))
    assert long.segments > plain.segments
    assert long.task_probabilities == plain.task_probabilities


def test_blank_stretches_cost_nothing() -> None:
    """Empty lines around a text add no segments, which would lift its thresholds."""
    active = by_sentences()
    assert run("a bomb" + "\n" * 30_000, active).segments <= 3
    assert run(" " * 30_000 + "a bomb", active).decision is Decision.BLOCK


def test_a_dense_answer_with_a_prompt_is_cut_no_finer_than_it_needs() -> None:
    """Tokens that the prompt takes are not taken for the answer's: few segments more than without a prompt."""
    active = Steered(spec=spec(characters=400, overlap=40, max_tokens=200, context_characters=100))
    alone, beside = (
        len(prepare("x" * 4000, context, DEFAULT, active.spec, active.tokenizer).segments) for context in (None, "y" * 90)
    )
    assert beside <= 3 * alone


def test_a_text_is_gone_through_once_however_many_words_are_unknown() -> None:
    """Looking for what no view reads does not go through the whole text again for every unknown word of a view."""

    class Counted(str):
        times = 0

        def __iter__(self) -> Iterator[str]:
            Counted.times += 1
            return super().__iter__()

    word = "\u9f98\u9f98 "
    parts = [(Segment(word, "leetspeak", at, at + 3), Encoded((0, 0), (0, 0), unknown=((0, 2),))) for at in range(0, 3000, 3)]
    assert list(unknown_words(Counted("a" * 3000), parts, ()))
    assert Counted.times == 1


def test_a_lone_surrogate_is_no_error() -> None:
    """Half of a surrogate pair, which JSON can carry and UTF-8 cannot, is read as a replacement character."""
    active = Steered()
    run("a \ud800 b", active)
    assert active.engine.asked == [("a \ufffd b", None)]


@pytest.mark.parametrize("name", list(HIDDEN))
def test_hidden_text_decides(name: str) -> None:
    """An attack that no window of the original shows is blocked by its view, which the answer names."""
    found = run(HIDDEN[name], Steered(spec=spec(characters=100)))
    assert found.decision is Decision.BLOCK
    if "bomb" not in HIDDEN[name]:
        assert found.worst.view == name
        assert name in found.views
        assert found.segments > found.windows


def test_views_can_be_switched_off() -> None:
    """A policy without views reads the original alone."""
    found = run(HIDDEN["base64"], policy=narrow(views=()))
    assert (found.decision, found.views, found.segments) == (Decision.ALLOW, (), found.windows)


def test_a_view_with_the_same_tokens_is_not_scored_again() -> None:
    """Where the tokenizer itself undoes a disguise, the view costs nothing and is not listed."""

    class Blind(Letters):
        def encode(self, text: str, *, context: str | None = None) -> Encoded:
            return super().encode(text.replace("\u200b", ""), context=context)

    active = Steered(tokenizer=Blind())
    # The reading with a space is another one.
    assert run("a b\u200bomb", active).views == ("separators",)
    both = run("a b\u200bomb")
    assert both.views == ("invisible", "separators")
    assert both.characters_read >= len(DEFAULT.views) * len("a b\u200bomb")


class Latin(Letters):
    """Knows ASCII alone, and runs of anything else as unknown."""

    def encode(self, text: str, *, context: str | None = None) -> Encoded:
        """With the unknown runs."""
        known = super().encode(text, context=context)
        return Encoded(known.ids, known.type_ids, tuple(m.span() for m in re.finditer(r"[^\x00-\x7f]+", text)))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("how to \ua000\ua001 it", 1),
        ("a b\ua000omb", 1),
        ("\u12a5\u1295\u12f4\u1275 \u1290\u12cd " * 20, 40),
        ("thanks\U0001f642 for all\U0001f389\U0001f389 \u2764\ufe0f it's 20\u00b0", 0),
        ("the sign \u2135 alone", 0),
        ("\U0001d5ef\U0001d5fc\U0001d5fa\U0001d5ef", 0),
        ("b\u043emb", 0),
        ("build\u3164a\u3164rope", 0),
    ],
)
def test_unknown_words_show_and_are_never_just_allowed(text: str, words: int) -> None:
    """Unknown words are counted once each, whatever windows they lie in; signs, and what a view reads, are none."""
    found = run(text, Steered(tokenizer=Latin()))
    said = [s.reason for s in found.skipped if s.view == "original"]
    assert said == ([f"unknown to the tokenizer: {words} word{'s' * (words > 1)}"] if words else [])
    assert not words or found.decision is not Decision.ALLOW


def test_unknown_words_inside_an_encoding_show() -> None:
    """A view whose words the tokenizer does not know is listed as not read."""
    hidden = base64.b64encode("\ua000\ua001\ua002\ua003\ua004\ua005 \ua000\ua001".encode()).decode()
    assert [(s.view, s.reason) for s in run(hidden, Steered(tokenizer=Latin())).skipped] == [
        ("base64", "unknown to the tokenizer: 2 words")
    ]


def test_what_a_limit_left_unread_is_never_just_allowed() -> None:
    """A text with a view over the policy's limit is at least flagged, or blocked or allowed where the policy says so."""
    text = HIDDEN["base64"]
    found = run(text, policy=narrow(max_views=0))
    assert (found.decision, found.views) == (Decision.FLAG, ())
    assert [skip.view for skip in found.skipped] == ["base64"]
    assert run(text, policy=narrow(max_views=0, on_unread=Decision.BLOCK)).decision is Decision.BLOCK
    assert run(text, policy=narrow(max_views=0, on_unread=Decision.ALLOW)).decision is Decision.ALLOW


def test_too_long_is_refused_not_cut() -> None:
    """A text of exactly the limit is screened; one character more is a TooLargeError that says both numbers."""
    policy = narrow(max_characters=500)
    assert run("x" * 500, policy=policy).windows == 12
    with pytest.raises(TooLargeError, match=r"501 characters.*500"):
        run("x" * 501, policy=policy)


def test_the_task_comes_from_the_caller_or_from_the_head() -> None:
    """The caller's task stands; without one the head's does, and both are shown."""
    given_task = run("translate this", task=Task.SUMMARIZATION)
    assert (given_task.task, given_task.likely_tasks) == (Task.SUMMARIZATION, (Task.SUMMARIZATION,))
    assert given_task.task_probabilities[Task.TRANSLATION] == pytest.approx(0.9)
    asked = run("translate this", task=None)
    assert (asked.task, asked.likely_tasks) == (Task.TRANSLATION, (Task.TRANSLATION,))


def test_an_ambiguous_task_takes_the_stricter_rule() -> None:
    """A score between two likely tasks' thresholds is flagged by the stricter one, and the answer says so."""
    found = run("either a rope", task=None)
    assert found.likely_tasks == (Task.OTHER, Task.CODE_GENERATION)
    assert (found.decision, found.task, found.thresholds["flag"]) == (Decision.FLAG, Task.CODE_GENERATION, 0.4)
    calm = run("either a cake", task=None)
    assert (calm.decision, calm.task) == (Decision.ALLOW, Task.OTHER)
    assert run("either a rope", task=Task.OTHER).decision is Decision.ALLOW


def test_a_texts_task_is_that_of_most_of_it() -> None:
    """Probabilities are the mean over windows by length, and sum to one."""
    one, two = Steered(), "translate " + "x" * 45
    found = run(two + "python " * 40, one, task=None)
    assert found.task is Task.CODE_GENERATION
    assert sum(found.task_probabilities.values()) == pytest.approx(1)
    scores = asyncio.run(Words().score([Letters().encode("translate"), Letters().encode("python")], deadline=0))[0]
    segments = [Segment("", "original", 0, 30), Segment("", "original", 30, 40)]
    assert task_probabilities(segments, scores)[Task.TRANSLATION] == pytest.approx((30 * 0.9 + 10 * 0.02) / 40)
    assert likely_tasks(task_probabilities(segments, scores)) == (Task.TRANSLATION,)


def test_thresholds_rise_with_the_number_of_segments() -> None:
    """A score between the two thresholds is flagged in a short text and allowed in one of many windows."""
    policy = flags_at_five_percent()
    assert run("a knife", policy=policy).thresholds == {"flag": 0.5}
    assert run("a knife" + " x" * 300, policy=policy).thresholds == {"flag": 0.55}


def test_an_answer_is_read_with_the_end_of_its_prompt() -> None:
    """Every window of an answer has the prompt's end as context; a prompt that was cut is said to be; refusal is reported."""
    active = Steered()
    found = run("sorry, no. " + "x" * 100, active, direction=Direction.RESPONSE, context="p" * 100 + "end")
    assert {context for _, context in active.engine.asked} == {"p" * 37 + "end"}
    assert (found.context_cut, found.refusal) == (True, 0.9)
    whole = run("sure", direction=Direction.RESPONSE, context="short")
    assert (whole.context_cut, whole.refusal) == (False, 0.1)
    for nothing in (None, "", "  "):
        active = Steered()
        run("sure", active, direction=Direction.RESPONSE, context=nothing)
        assert active.engine.asked == [("sure", None)]


def test_a_prompt_has_no_context_and_no_refusal() -> None:
    """Direction prompt ignores a context and says nothing of refusal."""
    active = Steered()
    assert run("sorry", active, context="before").refusal is None
    assert active.engine.asked == [("sorry", None)]


@given(st.text(min_size=1, max_size=400), st.integers(9, 80))
def test_a_dense_context_leaves_room_for_the_answer(context: str, max_tokens: int) -> None:
    """The kept context is a suffix of the prompt, takes at most half the tokens, and is only cut where it must be."""
    kept, cut = cut_context(context, spec(max_tokens=max_tokens, context_characters=300), Letters(max_tokens))
    if kept is None:
        assert not context.strip()
        return
    assert context.endswith(kept) or "\ufffd" in kept
    assert len(Letters().encode(kept)) <= max(max_tokens // 2, 3)
    assert cut == (len(kept) < len(context))


def test_categories_are_harm_times_kind_in_the_worst_place() -> None:
    """A category's probability is the worst over segments and never over the score."""
    found = run("x " * 100 + "bomb")
    assert found.categories[Category.WEAPONS] == pytest.approx(0.95 * 0.78)
    assert max(found.categories.values()) <= found.score
    assert len(found.scored) == found.segments
    assert max(score for _, score in found.scored) == found.score


def test_what_is_no_number_is_an_error() -> None:
    """A NaN score, and a wrong number of scores, are InferenceFailedError, never a decision."""
    with pytest.raises(InferenceFailedError, match="not a number"):
        run("a bomb", Steered(engine=Words(broken=True)))
    prepared = Prepared((Segment("a", "original", 0, 1),), (Letters().encode("a"),), 1, (), (), 0, False)
    with pytest.raises(InferenceFailedError, match="1 segments were asked and 0 scored"):
        judge(prepared, [], direction=Direction.PROMPT, task=None, policy=DEFAULT, spec=spec(), bundle="")
    good: Scores = asyncio.run(Words().score(prepared.encoded, deadline=0))[0][0]
    for bad in (dataclasses.replace(good, refusal=math.inf), dataclasses.replace(good, task={Task.OTHER: math.nan})):
        with pytest.raises(InferenceFailedError):
            judge(prepared, [bad], direction=Direction.PROMPT, task=None, policy=DEFAULT, spec=spec(), bundle="")


def test_a_passed_deadline_is_an_error_before_the_engine_is_asked() -> None:
    """With no time left nothing is queued."""
    active = Steered()
    with pytest.raises(DeadlineExceededError):
        run("x" * (INLINE_CHARACTERS + 1), active, seconds=-1)
    assert active.engine.asked == []


def test_the_event_loop_turns_while_a_long_text_is_prepared() -> None:
    """Another task gets turns between the beginning of a long text's preparation and the engine's first batch."""

    async def go() -> int:
        turns = 0
        done = asyncio.Event()

        async def other() -> None:
            nonlocal turns
            while not done.is_set():
                turns += 1
                await asyncio.sleep(0)

        counting = asyncio.create_task(other())
        subject = Subject("words and more " * 3000)
        await screen([subject], policy=DEFAULT, active=Steered(), deadline=asyncio.get_running_loop().time() + 60, desk=Desk())
        done.set()
        await counting
        return turns

    assert asyncio.run(go()) > 10


def test_neighbours_do_not_change_a_decision(tiny_bundle: Path) -> None:
    """With a real model, texts screened at the same time get the scores that each gets alone."""
    texts = ["kill a process", "a story about the weather", "make a bomb " * 60, "hello", "python function " * 40]

    async def go() -> tuple[list[Screened], list[Screened]]:
        bundle = load_bundle(tiny_bundle, public_key=None, require_signed=False)
        loaded = build_classifier(bundle, EngineOptions(workers=2))
        active = Steered(spec=bundle.spec, tokenizer=loaded.tokenizer, engine=loaded.engine, digest=bundle.digest)  # type: ignore[arg-type]
        ends = asyncio.get_running_loop().time() + 60
        desk = Desk()
        work = [screen([Subject(t)], policy=DEFAULT, active=active, deadline=ends, desk=desk) for t in (*texts, *texts)]
        alone = [(await one).screened[0] for one in work[: len(texts)]]
        together = [done.screened[0] for done in await asyncio.gather(*work[len(texts) :])]
        one_request = await screen([Subject(t) for t in texts], policy=DEFAULT, active=active, deadline=ends, desk=desk)
        await loaded.engine.close()
        assert [found.scored for found in one_request.screened] == [found.scored for found in alone]
        return alone, together

    alone, together = asyncio.run(go())
    assert [found.scored for found in alone] == [found.scored for found in together]
    assert [found.decision for found in alone] == [found.decision for found in together]
    assert alone[2].decision is Decision.BLOCK
    assert alone[2].windows > 1
