"""The answer log: what it says is what its files say, whatever happened to them in between, and none of it is kept in memory."""

from __future__ import annotations

import stat
import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gate.answer_log import Answer, AnswerLog, Opinion, Place
from gate.cells import state_of
from gate.errors import InfrastructureError, RunStoreError
from gate.records import MAX_SAMPLES, Judgement, Measure, NoJudgement, NoResponse, Outcome, Response

LABEL = "j 1 d"
CASES = ("a", "b", "ü|native|greedy", "\u2028")
SAMPLES = (0, 1, 7, MAX_SAMPLES - 1)
KEYS = ("k1", "k2", "k3", "k4", "k5")


def response(place: Place, key: str = "k", text: str = "t") -> Response:
    """An answer at a place."""
    case_id, sample = place
    return Response(
        case_id=case_id, sample=sample, key=key, text=text, finish_reason="stop", prompt_tokens=1, completion_tokens=1
    )


def failure(place: Place, key: str = "k") -> NoResponse:
    """Why no answer came at a place."""
    return NoResponse(case_id=place[0], sample=place[1], key=key, kind="error", reason="r")


def opinion(place: Place, outcome: Outcome | None = Outcome.REFUSED, version: str = "1") -> Opinion:
    """A judgement at a place; null: why there is none."""
    if outcome is None:
        return NoJudgement(case_id=place[0], sample=place[1], judge="j", version=version, digest="d", reason="r")
    return Judgement(
        case_id=place[0], sample=place[1], outcome=outcome, score=1, judge="j", version=version, digest="d", reason="r"
    )


def opened(folder: Path) -> AnswerLog:
    """The log in a folder as the next process finds it."""
    log = AnswerLog(folder, "candidate")
    log.mend()
    log.load(LABEL)
    return log


def place_of(record: Answer | Opinion) -> Place:
    """Where a record stands."""
    return record.case_id, record.sample


@dataclass
class Model:
    """What a log should say, in dictionaries."""

    answers: dict[Place, Answer] = field(default_factory=dict)
    opinions: dict[Place, Opinion] = field(default_factory=dict)
    keys: dict[str, Response] = field(default_factory=dict)

    def outcomes(self, case_id: str, samples: int) -> list[Outcome | None] | None:
        """As `AnswerLog.outcomes` is described."""
        found: list[Outcome | None] = []
        for sample in range(samples):
            answer, said = self.answers.get((case_id, sample)), self.opinions.get((case_id, sample))
            if isinstance(answer, NoResponse):
                found.append(None)
            elif answer is None or said is None:
                return None
            else:
                found.append(said.outcome if isinstance(said, Judgement) else None)
        return found

    def check(self, log: AnswerLog) -> None:
        """Hold a log to all of it."""
        assert len(log) == len(self.answers)
        assert {place_of(a): a for a in log.answers()} == self.answers
        assert sum(1 for _ in log.answers()) == len(self.answers)
        unjudged = {p for p, a in self.answers.items() if isinstance(a, Response) and p not in self.opinions}
        assert {place_of(a) for a in log.unjudged()} == unjudged
        for case_id in CASES:
            for sample in SAMPLES:
                place = (case_id, sample)
                assert log.has_answer(place) == (place in self.answers)
                assert log.answer(place) == self.answers.get(place)
                assert log.opinion(place) == self.opinions.get(place)
            for samples in (1, 2):
                found = log.outcomes(case_id, samples)
                assert (None if found is None else list(found)) == self.outcomes(case_id, samples)
        for key in KEYS:
            assert log.twin(key) == self.keys.get(key)


places = st.tuples(st.sampled_from(CASES), st.sampled_from(SAMPLES))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
some_answers = st.lists(
    st.one_of(st.builds(response, places, st.sampled_from(KEYS), texts), st.builds(failure, places, st.sampled_from(KEYS))),
    max_size=6,
)
some_opinions = st.lists(st.builds(opinion, places, st.sampled_from([*Outcome, None])), max_size=6)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("answers"), some_answers),
        st.tuples(st.just("opinions"), some_opinions),
        st.tuples(st.just("replace"), some_opinions),
        st.tuples(st.just("forget"), st.sets(places, max_size=4)),
        st.tuples(st.just("reopen"), st.binary(max_size=8).filter(lambda tail: b"\n" not in tail)),
    ),
    max_size=12,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=steps)
def test_log_says_what_dictionaries_would(steps: list[tuple[str, object]], tmp_path_factory: pytest.TempPathFactory) -> None:
    """After any steps, closing with a torn line among them, a log agrees with a model that holds everything in memory."""
    folder = tmp_path_factory.mktemp("log")
    log, model = opened(folder), Model()
    for name, what in steps:
        log = take(log, model, name, what, folder)
        model.check(log)
    log.sync()
    model.check(opened(folder))


def take(log: AnswerLog, model: Model, name: str, what: object, folder: Path) -> AnswerLog:
    """One step, in the log and in the model."""
    if name == "reopen":
        assert isinstance(what, bytes)
        log.sync()
        for path in (log.responses.path, log.judgements.path):
            with path.open("ab") as file:
                file.write(what)
        return opened(folder)
    if name == "forget":
        assert isinstance(what, set)
        log.forget(what)
        model.answers = {p: a for p, a in model.answers.items() if p not in what}
        model.opinions = {p: o for p, o in model.opinions.items() if p not in what}
        # What a later record at its place replaced goes with the rewriting; of two answers with one key the later one stays.
        stored = list(log.answers())
        assert {place_of(a) for a in stored} == set(model.answers)
        model.keys = {a.key: a for a in stored if isinstance(a, Response)}
        return log
    records = list(what) if isinstance(what, list) else []
    if name == "answers":
        log.add_answers(records)
        model.answers |= {place_of(a): a for a in records}
        model.keys |= {a.key: a for a in records if isinstance(a, Response)}
    elif name == "opinions":
        log.add_opinions(records)
        model.opinions |= {place_of(o): o for o in records}
    else:
        log.replace_opinions(iter(records))
        model.opinions = {place_of(o): o for o in records}
    return log


def filled(folder: Path) -> AnswerLog:
    """A log of three answers, two of them judged, in files."""
    log = opened(folder)
    log.add_answers([response(("a", n), key=f"k{n}", text=f"text {n}") for n in range(3)])
    log.add_opinions([opinion(("a", 0)), opinion(("a", 1), Outcome.COMPLIED)])
    log.sync()
    return log


def test_nothing_but_the_two_files_is_left_in_the_folder(tmp_path: Path) -> None:
    """The index has no name while it is in use, so neither a kill nor the end of the process leaves one."""
    log = filled(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["candidate.judgements.jsonl", "candidate.responses.jsonl"]
    assert log.answer(("a", 2)) == response(("a", 2), key="k2", text="text 2")


@pytest.mark.parametrize("left", [b"", b"SQLite format 3\0" + b"\xff" * 5000, b"of another version\n"])
def test_index_that_a_kill_left_is_never_read(left: bytes, tmp_path: Path) -> None:
    """Whatever stands in a scratch file of that name, the files alone are believed, and the scratch goes."""
    filled(tmp_path)
    (tmp_path / "candidate.index.tmp").write_bytes(left)
    again = opened(tmp_path)
    assert again.twin("k1") == response(("a", 1), key="k1", text="text 1")
    assert not (tmp_path / "candidate.index.tmp").exists()


def test_files_that_went_back_to_an_older_copy_are_believed(tmp_path: Path) -> None:
    """With the logs shorter than they were (a restored backup), what is gone is gone: asked and judged again."""
    log = filled(tmp_path)
    for file, keep in ((log.responses, 2), (log.judgements, 1)):
        file.path.write_bytes(b"".join(line.data for line in list(file.read())[:keep]))
    again = opened(tmp_path)
    assert (len(again), again.has_answer(("a", 2)), again.twin("k2")) == (2, False, None)
    assert [place_of(a) for a in again.unjudged()] == [("a", 1)]


def test_files_that_grew_in_another_process_are_believed(tmp_path: Path) -> None:
    """What a later process added, a corrected answer among it, is there when the log is loaded again."""
    filled(tmp_path)
    other = opened(tmp_path)
    other.add_answers([failure(("a", 0), key="new"), response(("b", 5), key="k9")])
    other.sync()
    again = opened(tmp_path)
    assert (len(again), again.answer(("a", 0))) == (4, failure(("a", 0), key="new"))
    assert list(again.outcomes("a", 1) or ()) == [None]


def test_log_loaded_twice_counts_everything_once(tmp_path: Path) -> None:
    """Loading is reading the files, not adding to what was read."""
    log = filled(tmp_path)
    log.load(LABEL)
    log.load(LABEL)
    assert (len(log), sum(1 for _ in log.answers())) == (3, 3)


def test_foreign_judgement_goes_when_the_log_is_rewritten(tmp_path: Path) -> None:
    """Forgetting one answer keeps the run's judge's words on the others, and drops another judge's, newer ones too."""
    log = filled(tmp_path)
    log.add_opinions([opinion(("a", 1), Outcome.HARMFUL, version="2")])
    log.sync()
    again = opened(tmp_path)
    again.forget({("a", 0)})
    assert again.opinion(("a", 1)) == opinion(("a", 1), Outcome.COMPLIED)
    assert opened(tmp_path).foreign == 0


@pytest.mark.parametrize("sample", [-1, MAX_SAMPLES, 10**15])
def test_sample_that_no_decoding_has_is_refused(sample: int, tmp_path: Path) -> None:
    """A line with an impossible sample number is damage that is named, not memory that is asked for."""
    log = filled(tmp_path)
    with log.responses.path.open("ab") as file:
        file.write(response(("a", sample)).model_dump_json().encode() + b"\n")
    with pytest.raises(RunStoreError, match=r"responses\.jsonl:4 is damaged"):
        opened(tmp_path)


def test_replacing_that_breaks_off_keeps_the_old_judgements(tmp_path: Path) -> None:
    """A judge that dies half-way through judging again leaves the file as it was, and no other file."""
    log = filled(tmp_path)
    before = log.judgements.path.read_bytes()

    def dying() -> object:
        yield opinion(("a", 0), Outcome.HARMFUL)
        raise InfrastructureError("out of memory")

    with pytest.raises(InfrastructureError, match="out of memory"):
        log.replace_opinions(dying())  # type: ignore[arg-type]
    assert log.judgements.path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_answers_added_while_answers_are_read_are_not_among_them(tmp_path: Path) -> None:
    """Reading a log ends, also where every answer that is read leads to another one."""
    log = filled(tmp_path)
    for n, _ in enumerate(log.answers()):
        log.add_answers([response(("b", n))])
    assert len(log) == 6


def test_index_that_can_not_be_made_ends_with_what_to_do(tmp_path: Path) -> None:
    """Where the folder takes no file the run stops as for any full disk, resumable."""
    (tmp_path / "candidate.index.tmp").mkdir()
    log = AnswerLog(tmp_path, "candidate")
    with pytest.raises(InfrastructureError, match="cannot be written"):
        log.add_answers([response(("a", 0))])


def test_outcomes_read_like_a_list_of_outcomes(tmp_path: Path) -> None:
    """Slices, membership, equality and an item's state are those of the list, missing answers included."""
    log = opened(tmp_path)
    log.add_answers([response(("a", 0)), failure(("a", 1)), response(("a", 2))])
    log.add_opinions([opinion(("a", 0), Outcome.INVALID), opinion(("a", 2), None)])
    found = log.outcomes("a", 3)
    assert found is not None
    assert found == [Outcome.INVALID, None, None]
    assert (found[0], found[-1], list(found[1:])) == (Outcome.INVALID, None, [None, None])
    assert (None in found, Outcome.INVALID in found, Outcome.REFUSED in found, "other" in found) == (True, True, False, False)
    assert state_of(found, Measure.ANSWERED) == "missing"


def test_memory_does_not_grow_with_the_texts(tmp_path: Path) -> None:
    """Ten thousand answers of 2,000 characters, 20 MB of text, leave less than 100 kB more than the first thousand did."""
    log = opened(tmp_path)

    def add(first: int) -> None:
        for case in range(first, first + 10):
            log.add_answers([response((f"c{case}", n), key=f"{case}-{n}", text=f"{case}-{n} " * 300) for n in range(MAX_SAMPLES)])
            log.add_opinions([opinion((f"c{case}", n)) for n in range(MAX_SAMPLES)])

    add(0)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for first in range(10, 100, 10):
        add(first)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(log) == 10_000
    assert grown < 100_000


def test_files_are_private(tmp_path: Path) -> None:
    """Written again whole or appended, what holds answers is readable by its owner alone."""
    log = filled(tmp_path)
    log.forget({("a", 0)})
    assert {stat.S_IMODE(p.stat().st_mode) for p in tmp_path.iterdir()} == {0o600}
