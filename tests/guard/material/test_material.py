"""All of our own training text together."""

from collections import Counter

from guard_server.training.material import PARTS, RUNS, families, generate
from guard_server.training.material.general import frames

ROWS = list(generate(1))


def test_no_row_comes_twice() -> None:
    """Ids are unique over all families."""
    assert max(Counter(row.id for row in ROWS).values()) == 1


def test_no_prompt_has_both_labels() -> None:
    """A text is harmful or benign, wherever it comes from."""
    labels: dict[str, set[str]] = {}
    for row in ROWS:
        if row.label is not None:
            labels.setdefault(row.text, set()).add(row.label)
    assert [text for text, found in labels.items() if len(found) > 1] == []


def test_same_seed_same_text() -> None:
    """Two generations with one seed are equal, and another seed gives another text."""
    assert list(generate(1)) == ROWS
    assert list(generate(2)) != ROWS


def test_openings_stand_before_both_labels() -> None:
    """What is put around harmless requests is put around harmful ones about as often: a third of them at least."""
    openings = tuple(frames("ask")["before"])
    shares = {}
    for label in ("benign", "harmful"):
        texts = [r.text for r in ROWS if r.label == label and r.lang == "en" and r.task == "text_generation" and not r.response]
        shares[label] = sum(text.startswith(openings) for text in texts) / len(texts)
    assert shares["harmful"] > shares["benign"] / 3


def test_every_family_yields_rows_of_its_name() -> None:
    """The name in the table is the name in the rows, with the part where the family has parts."""
    names = {row.dataset.removeprefix("own_") for row in ROWS}
    parted = {name for name in names if any(name.startswith(f"{whole}_") for whole in (*PARTS, *RUNS))}
    assert names - parted == set(families()) - PARTS.keys() - RUNS.keys()
    assert {name.rpartition("_")[0] for name in parted} >= {"translate", "summarize"}


def test_twins_are_left_out_together() -> None:
    """Both sides of a pair stand in one part."""
    where: dict[str, set[str]] = {}
    for row in ROWS:
        if "pair" in row.meta:
            where.setdefault(f"{row.dataset.split('_')[1]}:{row.meta['pair']}", set()).add(row.dataset)
    assert {key for key, found in where.items() if len(found) > 1} == set()


def test_no_part_holds_most_of_a_task() -> None:
    """Whatever is left out, most of a task's harmless and harmful prompts stay, classification's harmless ones excepted."""
    totals: Counter[tuple[str, str | None]] = Counter()
    parts: Counter[tuple[str, str | None, str]] = Counter()
    for row in ROWS:
        if row.label is not None and row.response is None:
            totals[row.task, row.label] += 1
            parts[row.task, row.label, row.dataset] += 1
    large = {key for key, count in parts.items() if count > totals[key[:2]] / 2}
    assert large == {("classification", "benign", "own_classify")}
