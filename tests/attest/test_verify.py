"""Verification: what holds passes, and of what does not hold, the first reason in the fixed order is given."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError
from securesystemslib.dsse import Envelope

from gate.attest.envelope import sign
from gate.attest.predicates import derived
from gate.attest.statement import SafetyEvaluationStatement, Statement, read_statement
from gate.attest.verify import Trusted, verify
from gate.conformance.scene import Model, fails_on
from gate.errors import ExitCode, RefusedAttestation, UnsafeCandidateError
from gate.records import canonical_json
from tests.attest.runs import NOW, SIGNED, key_number, measured, run_of, signed, statements_of, trusted, verified


def refusal(
    attestation: bytes, trust: Trusted, folder: Path, *, base: Path | None = None, now: timedelta = NOW - SIGNED
) -> RefusedAttestation:
    """The refusal of an attestation."""
    with pytest.raises(RefusedAttestation) as caught:
        verified(attestation, trust, folder, base, SIGNED + now)
    assert caught.value.exit_code == ExitCode.BLOCK
    return caught.value


def test_an_untouched_model_is_verified(attestation: bytes, said: tuple[Statement, ...], model: Path) -> None:
    """The folder that was gated and passed is verified, and the result says what it is."""
    found = verified(attestation, trusted(said), model)
    assert (found.decision, found.subject, found.sha256) == ("pass", "my-model", measured(model).sha256)


def test_an_adapter_is_verified_with_its_base(passed_adapter: Path, adapter: Path, model: Path, tmp_path: Path) -> None:
    """An adapter holds on the base that it was gated on, and on no other folder; without a base it is refused."""
    said = statements_of(passed_adapter)
    assert verified(signed(said), trusted(said), adapter, model).base_sha256 == measured(model).sha256
    other = shutil.copytree(model, tmp_path / "base")
    (other / "generation_config.json").write_text("{}")
    assert "base" in refusal(signed(said), trusted(said), adapter, base=other).problem
    assert refusal(signed(said), trusted(said), adapter).check == "subject"


def test_one_of_several_keys_is_enough(attestation: bytes, said: tuple[Statement, ...], model: Path) -> None:
    """While keys are rotated, the old and the new one are trusted; an attestation by either holds."""
    assert verified(attestation, trusted(said, 2, 1), model)
    assert refusal(attestation, trusted(said, 2, 3), model).check == "key"


def test_a_blocked_model_is_refused_for_its_decision(blocked: Path, model: Path) -> None:
    """A block is attested too, without a verification result; verifying it ends at the last check, with the gate's reason."""
    said = statements_of(blocked)
    assert len(said) == 2
    found = refusal(signed(said), trusted(said), model)
    assert (found.check, "over the limit" in found.found) == ("decision", True)


def test_a_suite_is_compared_where_one_is_named(attestation: bytes, said: tuple[Statement, ...], model: Path) -> None:
    """One of several allowed suites is enough, no name allows any, and another one is refused with its own reason."""
    trust = trusted(said)
    assert verified(attestation, replace(trust, suites=trust.suites | {"0" * 64}), model)
    assert verified(attestation, replace(trust, suites=frozenset()), model)
    found = refusal(attestation, replace(trust, suites=frozenset({"0" * 64})), model)
    assert (found.check, "asked a suite" in found.problem, *trust.suites) == ("suite", True, found.found.partition(" ")[0])


def test_no_evidence_is_not_a_pass(model: Path, tmp_path: Path) -> None:
    """A run without enough answers is inconclusive, attested as such, and refused."""
    said = statements_of(run_of(model, tmp_path / "run", Model("failing", fails_on(30, "error"))))
    assert refusal(signed(said), trusted(said), model).check == "decision"


def test_age_counts_from_the_older_of_signature_and_run(passed: Path, model: Path) -> None:
    """An attestation holds to its last second and not after; an old run that is signed again stays old."""
    said = statements_of(passed)
    assert verified(signed(said), trusted(said, days=2), model, now=SIGNED + timedelta(days=2))
    late = refusal(signed(said), trusted(said, days=2), model, now=timedelta(days=2, seconds=1))
    assert late.check == "age"
    again = statements_of(passed, signed=SIGNED + timedelta(days=40))
    assert refusal(signed(again), trusted(again), model, now=timedelta(days=40)).check == "age"


def test_the_future_is_refused(passed: Path, model: Path) -> None:
    """A signature later than the clock, beyond a few minutes' difference, is refused; within it, it holds."""
    said = statements_of(passed)
    assert verified(signed(said), trusted(said), model, now=SIGNED - timedelta(minutes=4))
    assert "future" in refusal(signed(said), trusted(said), model, now=-timedelta(minutes=6)).problem


@pytest.mark.parametrize(
    ("at", "check"),
    [({"evaluatedOn": "9999-12-31"}, "age"), ({"timeCreated": "0001-01-01T00:00:00+05:00"}, "predicate type")],
)
def test_a_date_at_the_calendars_end_is_a_refusal(
    at: dict[str, str], check: str, said: tuple[Statement, ...], model: Path
) -> None:
    """Dates that can't be reckoned with are refused like any other, and crash nothing."""
    raw = json.loads(said[0].payload())
    raw["predicate"].update(at)
    try:
        evidence = read_statement(canonical_json(raw))
    except ValidationError:
        attestation = sign([canonical_json(raw)], key_number()) + signed(said[1:])
    else:
        assert isinstance(evidence, SafetyEvaluationStatement)
        attestation = signed((evidence, *derived(evidence)))
    assert refusal(attestation, trusted(said), model).check == check


@dataclass
class Lie:
    """A verification in which everything is wrong, to be set right one by one."""

    key: int = 2
    payload_type: str = "text/plain"
    complete: bool = False
    verifier: str = "https://example.com/somebody"
    right_folder: bool = False
    right_policy: bool = False
    right_suite: bool = False
    age: timedelta = timedelta(days=400)


MENDS: tuple[tuple[str, Callable[[Lie], Lie]], ...] = (
    ("key", lambda lie: replace(lie, key=1)),
    ("payload type", lambda lie: replace(lie, payload_type="application/vnd.in-toto+json")),
    ("predicate type", lambda lie: replace(lie, complete=True)),
    ("verifier", lambda lie: replace(lie, verifier="https://taskgate/gate/v1")),
    ("subject", lambda lie: replace(lie, right_folder=True)),
    ("policy", lambda lie: replace(lie, right_policy=True)),
    ("suite", lambda lie: replace(lie, right_suite=True)),
    ("age", lambda lie: replace(lie, age=timedelta(days=1))),
)


def test_the_first_reason_is_given_in_the_fixed_order(blocked: Path, model: Path, adapter: Path) -> None:
    """With everything wrong, the key is named; with the key right, the payload type; and so on, to the decision."""
    lie, told = Lie(), []
    for check, mend in (*MENDS, ("decision", lambda lie: lie)):
        told.append((check, _judged(lie, blocked, model, adapter)))
        lie = mend(lie)
    assert all(expected == found for expected, found in told), told


def _judged(lie: Lie, run: Path, model: Path, adapter: Path) -> str:
    said = statements_of(run, verifier=lie.verifier)
    lines = []
    for statement in said if lie.complete else said[1:]:
        envelope = Envelope(statement.payload(), lie.payload_type, {})
        envelope.sign(key_number(lie.key))
        lines.append(canonical_json(envelope.to_dict()) + b"\n")
    trust = trusted(said)
    trust = trust if lie.right_policy else replace(trust, policies=frozenset({"0" * 64}))
    trust = trust if lie.right_suite else replace(trust, suites=frozenset({"0" * 64}))
    return refusal(b"".join(lines), trust, model if lie.right_folder else adapter, now=lie.age).check


@pytest.mark.parametrize("data", [b"", b"{}\n", b"not json\n", b"\n", b"[]\n", b"\xff\n", b'{"payload":1}\n'])
def test_a_file_that_is_no_attestation_is_refused(data: bytes, said: tuple[Statement, ...], model: Path) -> None:
    """An empty, damaged or foreign file is a refusal with a reason, never a crash and never a pass."""
    assert refusal(data, trusted(said), model).check == "attestation"


def test_a_line_cut_short_is_refused(attestation: bytes, said: tuple[Statement, ...], model: Path) -> None:
    """Every beginning of the file that is shorter than it is refused."""
    for size in range(0, len(attestation), 997):
        refusal(attestation[:size], trusted(said), model)
    refusal(attestation[:-1], trusted(said), model)


def test_another_runs_lines_do_not_mix(attestation: bytes, said: tuple[Statement, ...], blocked: Path, model: Path) -> None:
    """Lines of two attestations by the same key, or a line twice, are refused: each file is one run's."""
    mine, theirs = attestation.splitlines(keepends=True), signed(statements_of(blocked)).splitlines(keepends=True)
    for lines in (
        mine + theirs,
        [mine[0], theirs[1], mine[2]],
        [theirs[0], *mine[1:]],
        [mine[0], *mine],
        mine[:1],
        mine[1:],
        mine[:2],
    ):
        assert refusal(b"".join(lines), trusted(said), model).check == "predicate type"


def test_a_link_in_the_folder_is_refused_by_name(
    attestation: bytes, said: tuple[Statement, ...], model: Path, tmp_path: Path
) -> None:
    """What a link leads to is in no digest: the folder is refused, and the link named."""
    copy = shutil.copytree(model, tmp_path / "model")
    (copy / "extra.json").symlink_to(model / "config.json")
    with pytest.raises(UnsafeCandidateError) as caught:
        verified(attestation, trusted(said), copy)
    assert "extra.json" in caught.value.found


def test_nothing_is_measured_before_the_key_was_checked(attestation: bytes, said: tuple[Statement, ...]) -> None:
    """With an untrusted key, no byte of the folder is read."""
    with pytest.raises(RefusedAttestation) as caught:
        verify(attestation, trusted(said, 2), lambda _: pytest.fail("measured"), NOW)
    assert caught.value.check == "key"
