"""The metrics: known answers, libraries' own values, and nothing outside [0, 1]."""

from __future__ import annotations

import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.quality import METRICS, accuracy, bleu, chrf, code_parses, exact, metric_label, rouge_l

FENCED = "Here you are:\n```python\ndef add(a, b):\n    return a + b\n```\n"


def test_exact_match_looks_at_the_whole_answer() -> None:
    """White space around it aside, an answer is a reference or it is not."""
    assert exact(" Bonjour. \n", ["Salut.", "Bonjour."]) == 1
    assert exact("Bonjour. Merci.", ["Bonjour."]) == 0


def test_accuracy_reads_a_label() -> None:
    """A label is found alone, in the first line or behind its colon, whatever its case; in the middle of prose it is not."""
    for text in ("positive", " Positive. ", "POSITIVE\nbecause it praises", "Label: positive", "**positive**"):
        assert accuracy(text, ["positive"]) == 1, text
    for text in ("", "negative", "It is not positive", "positive or negative"):
        assert accuracy(text, ["positive"]) == 0, text


def test_sacrebleu_scores_are_its_own_divided_by_a_hundred() -> None:
    """ChrF and BLEU are the library's sentence scores; the best of several references counts as the library counts it."""
    text, references = "the cat sat on a mat", ["the cat sat on the mat", "a cat was on the mat"]
    assert chrf(text, references) == sacrebleu.sentence_chrf(text, references).score / 100
    assert bleu(text, references) == sacrebleu.sentence_bleu(text, references).score / 100
    assert chrf(references[0], references) == bleu(references[0], references) == 1


def test_rouge_l_is_the_longest_common_subsequence_s_f_measure() -> None:
    """Five of six words in order on both sides give 5/6; other scripts have words too; the best reference counts."""
    assert rouge_l("the cat sat on a mat", ["the cat sat on the mat", "no"]) == 5 / 6
    assert rouge_l("Привет мир", ["привет, мир!"]) == 1
    assert rouge_l("", ["something"]) == 0


def test_code_that_parses_is_told_from_code_that_does_not() -> None:
    """All the code of an answer must be Python that does something; prose and stubs score nothing, and nothing is run."""
    assert code_parses(FENCED, []) == 1
    assert code_parses("def add(a, b):\n    return a + b", []) == 1
    assert code_parses(FENCED.replace("b):", "b:"), []) == 0
    assert code_parses(FENCED + "```python\nx = (\n```", []) == 0
    assert code_parses("I would add the two numbers.", []) == 0
    assert code_parses("```python\ndef add(a, b):\n    pass\n```", []) == 0
    assert code_parses("```python\nraise SystemExit(open('/nonexistent'))\nx = 1 / 0\n```", []) == 1


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60), st.text(min_size=1, max_size=40))
def test_every_metric_scores_any_answer_from_0_to_1(text: str, reference: str) -> None:
    """No answer, however odd, is without a score or beyond the scale."""
    for metric in METRICS.values():
        assert 0 <= metric(text, [reference]) <= 1


def test_metrics_of_a_library_are_named_with_its_version() -> None:
    """What scored an answer stands in the report."""
    assert metric_label("exact") == "exact"
    assert metric_label("bleu") == f"bleu (sacrebleu {sacrebleu.__version__})"
