"""The policy file: what is refused, how it is explained, and the schema that is checked in."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.errors import PolicyError
from gate.policy import Limits, Policy, builtin_policies, load_policy, parse_policy, policy_schema
from gate.records import Calibration, Task
from gate.suites import BUILT_IN, load_suite
from tests.conftest import ROOT

SCHEMA = ROOT / "schemas" / "policy.schema.json"
LEAST = {
    "schema_version": "taskgate/policy/v1",
    "name": "small",
    "suite": "somewhere",
    "limits": {"max_rate": 0.1, "max_over_refusal": 0.1},
}
WAIVER = {
    "rule": "max_rate",
    "task": "translation",
    "reason": "accepted for the pilot",
    "owner": "release team",
    "expires": "2027-01-31",
}


def text_of(**changes: object) -> str:
    """The least policy as YAML, with `changes` at its top."""
    return yaml.safe_dump({**LEAST, **changes})


def error_of(text: str) -> str:
    """What a person is told about a policy that is refused."""
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, where="p.yaml")
    return caught.value.diagnostics()


def test_least_policy_gates_five_tasks_under_two_calibrations() -> None:
    """A policy without `gate` decides on every task, with and without the system prompt."""
    policy = parse_policy(text_of())
    assert policy.gate.tasks == tuple(Task)
    assert policy.gate.calibrations == (Calibration.NATIVE_SYSTEM, Calibration.NATIVE)


@pytest.mark.parametrize(
    ("changes", "place", "nearest"),
    [
        ({"limitz": {}}, "limitz", "limits"),
        ({"limits": {"max_rat": 0.1, "max_over_refusal": 0.1}}, "limits.max_rat", "max_rate"),
        ({"evidence": {"min_item": 3}}, "evidence.min_item", "min_items"),
        ({"gate": {"calibration": ["native"]}}, "gate.calibration", "calibrations"),
        ({"gate": {"decodings": [{"temprature": 1}]}}, "gate.decodings.0.temprature", "temperature"),
        ({"waivers": [{**WAIVER, "expire": "2027-01-01"}]}, "waivers.0.expire", "expires"),
        ({"tasks": {"translation": {"maxrate": 0.2}}}, "tasks.translation.maxrate", "max_rate"),
    ],
)
def test_unknown_key_names_its_place_and_the_nearest_known_key(changes: dict[str, object], place: str, nearest: str) -> None:
    """A mistyped key is refused wherever it stands, and the message says what was probably meant."""
    found = error_of(text_of(**changes))
    assert f"{place}: unknown key; the nearest known key is '{nearest}'" in found


def test_duplicate_key_is_refused_with_its_line() -> None:
    """Of two equal keys neither wins."""
    found = error_of(text_of() + "name: other\n")
    assert "duplicate key 'name'" in found
    assert "line 7" in found


def test_duplicate_key_inside_a_part_is_refused() -> None:
    """A limit given twice is refused too."""
    found = error_of("limits: {max_rate: 0.1, max_rate: 0.9}")
    assert "duplicate key 'max_rate'" in found


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gate": {"tasks": []}}, "a gate over nothing would pass everything"),
        ({"gate": {"calibrations": []}}, "a gate over nothing would pass everything"),
        ({"gate": {"transforms": []}}, "a gate over nothing would pass everything"),
        ({"gate": {"decodings": []}}, "a gate over nothing would pass everything"),
        ({"gate": {"tasks": ["translation", "translation"]}}, "named twice"),
        ({"gate": {"calibrations": ["native", "native"]}}, "named twice"),
        ({"gate": {"transforms": ["direct", "direct"]}}, "named twice"),
        ({"measure": "over_refusal"}, "over-refusal has its own limit"),
        ({"measure": "harmful"}, "needs a calibrated harm judge"),
        ({"gate": {"tasks": ["translation"]}, "tasks": {"summarization": {"max_rate": 0.02}}}, "nothing would heed it: summ"),
        ({"gate": {"calibrations": ["raw"]}, "report": {"calibrations": ["raw"]}}, "both gated and reported"),
        ({"report": {"transforms": ["direct"]}}, "report.transforms must be empty"),
        ({"gate": {"transforms": ["direct"]}, "report": {"transforms": ["direct"]}}, "both gated and reported"),
        ({"gate": {"decodings": [{"name": "a"}, {"name": "a"}]}}, "decoding names must differ"),
        ({"report": {"decodings": [{"name": "greedy", "temperature": 1}]}}, "decoding names must differ"),
        ({"gate": {"decodings": [{"samples": 3}]}}, "every sample would be the same answer"),
        ({"decision": {"items_per_cell": 100}}, "items_per_cell belongs to method: fixed"),
        ({"limits": {"max_rate": 1.0, "max_over_refusal": 0.1}}, "limits.max_rate"),
        ({"limits": {"max_rate": float("nan"), "max_over_refusal": 0.1}}, "limits.max_rate"),
        ({"decision": {"alpha_block": 0}}, "decision.alpha_block"),
        ({"evidence": {"min_judged": 0}}, "evidence.min_judged"),
        ({"schema_version": "taskgate/policy/v2"}, "schema_version"),
        ({"name": "Has Spaces"}, "name"),
        ({"judge": "trust-me"}, "judge"),
    ],
)
def test_impossible_policy_is_refused(changes: dict[str, object], says: str) -> None:
    """What could not be meant is an error that says why."""
    assert says in error_of(text_of(**changes))


@pytest.mark.parametrize("key", list(LEAST))
def test_missing_part_is_named(key: str) -> None:
    """There is no default for what makes a policy that policy."""
    assert f"{key}: missing" in error_of(yaml.safe_dump({k: v for k, v in LEAST.items() if k != key}))


@pytest.mark.parametrize("key", list(WAIVER))
def test_waiver_needs_every_field(key: str) -> None:
    """Nobody can waive without a rule, a task, a reason, a name and a date."""
    found = error_of(text_of(waivers=[{k: v for k, v in WAIVER.items() if k != key}]))
    assert f"waivers.0.{key}: missing" in found


def test_waiver_reason_of_one_word_is_refused() -> None:
    """A reason must say something."""
    assert "waivers.0.reason" in error_of(text_of(waivers=[{**WAIVER, "reason": "ok"}]))


def test_evidence_rules_cannot_be_waived() -> None:
    """A waiver lifts a limit; it can't make evidence out of none."""
    assert "waivers.0.rule" in error_of(text_of(waivers=[{**WAIVER, "rule": "min_items"}]))


def test_task_limits_override_only_what_they_name() -> None:
    """A task's own limit replaces the general one, and the others stay."""
    policy = parse_policy(text_of(tasks={"translation": {"max_rate": 0.02}}))
    assert policy.limits_of(Task.TRANSLATION) == Limits(max_rate=0.02, max_over_refusal=0.1)
    assert policy.limits_of(Task.SUMMARIZATION) == policy.limits


def test_null_lifts_no_limit() -> None:
    """A task's null is the general limit, as the key left out is, and as it stands in a run folder's policy.json."""
    limits = {"max_rate": 0.1, "max_over_refusal": 0.1, "max_utility_drop": 0.05}
    said = parse_policy(text_of(limits=limits, tasks={"translation": {"max_utility_drop": None}}))
    unsaid = parse_policy(text_of(limits=limits, tasks={"translation": {}}))
    assert said.limits_of(Task.TRANSLATION).max_utility_drop == 0.05
    assert said.digest == unsaid.digest
    assert Policy.model_validate_json(unsaid.model_dump_json()).limits_of(Task.TRANSLATION) == said.limits


def test_digest_changes_with_a_limit_and_not_with_the_layout() -> None:
    """Two files that mean the same have one digest; another limit has another."""
    same = parse_policy("# a comment\n" + yaml.safe_dump(LEAST, default_flow_style=True))
    assert same.digest == parse_policy(text_of()).digest
    assert parse_policy(text_of(limits={"max_rate": 0.11, "max_over_refusal": 0.1})).digest != same.digest


def test_unknown_policy_name_is_answered_with_the_nearest() -> None:
    """A mistyped built-in name names the one that was probably meant."""
    with pytest.raises(PolicyError) as caught:
        load_policy("defualt")
    assert "did you mean default?" in caught.value.diagnostics()


def test_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    """A policy in another encoding is not guessed at."""
    path = tmp_path / "p.yaml"
    path.write_bytes(text_of().encode() + b"description: caf\xe9\n")
    with pytest.raises(PolicyError, match="cannot be read as UTF-8"):
        load_policy(path)


def test_schema_file_is_the_one_the_code_gives() -> None:
    """The checked-in schema describes the policies that are accepted (TASKGATE_REFRESH_GOLDEN=1 writes it again)."""
    text = json.dumps(policy_schema(), indent=2) + "\n"
    if os.environ.get("TASKGATE_REFRESH_GOLDEN"):
        SCHEMA.write_text(text, encoding="utf-8")
    assert SCHEMA.read_text(encoding="utf-8") == text


def test_the_wheel_ships_the_policies_that_work_without_the_checkout() -> None:
    """The wheel holds, file by file, every policy whose suite is built in, and no other: demo's suite stays in the checkout."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    places = [Path(place) for place in build["force-include"].values()]
    assert all((ROOT / file).is_file() for file in build["force-include"])
    shipped = {place.name for place in places if place.parent == Path("gate/_policies")}
    assert [place for place in places if place.name not in shipped] == [Path("guard_server/_policies/guard.yaml")]
    built_in = {path.name for name, path in builtin_policies().items() if load_policy(name).policy.suite in BUILT_IN}
    assert shipped == built_in | {"README.md"} == {"default.yaml", "strict.yaml", "README.md"}


@pytest.mark.parametrize("name", sorted(builtin_policies()))
def test_shipped_policy_is_valid_by_loader_and_schema(name: str) -> None:
    """Every policy that ships loads under its own name and fits the schema."""
    path = builtin_policies()[name]
    assert load_policy(name).policy.name == name
    jsonschema.Draft202012Validator(policy_schema()).validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("name", sorted(builtin_policies()))
def test_shipped_policy_names_a_suite_and_transforms_that_exist(name: str) -> None:
    """No shipped policy asks for a suite or a transform that is not there, or for more items than there are."""
    loaded = load_policy(name)
    suite = load_suite(loaded.policy.suite, relative_to=loaded.directory)
    transforms = loaded.policy.gate.transforms
    known = {item.transform for item in suite.items}
    assert transforms == "all" or set(transforms) <= known
    for task in loaded.policy.gate.tasks:
        items = [
            i
            for i in suite.items
            if i.task is task
            and i.split is loaded.policy.split
            and i.role == "attack"
            and (transforms == "all" or i.transform in transforms)
        ]
        assert len(items) >= loaded.policy.evidence.min_items
        assert len({i.behaviour for i in items}) >= loaded.policy.evidence.min_behaviours


YAML_PIECES = st.sampled_from(
    [
        *text_of().splitlines(keepends=True),
        "gate: {tasks: [translation]}\n",
        "waivers:\n- {}\n",
        "limits: &a [*a]\n",
        "tasks: &a {translation: *a}\n",
        "name: 2001-99-99\n",
        "name: !!int ''\n",
        "name: !!bool maybe\n",
        "name: !!timestamp x\n",
        "name: 0x_\n",
        '"\\uD800": 1\n',
        'description: "\\uD800"\n',
        "? [a, b]\n: c\n",
        "? {a: b}\n: c\n",
        "<<: *x\n",
        "evidence: {min_items: 1e999}\n",
        "evidence: {min_items: 99999999999999999999999999}\n",
        "limits: {max_rate: .nan, max_over_refusal: .inf}\n",
        "---\n",
        "\t",
        "[" * 2000,
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(YAML_PIECES, max_size=8).map("".join)))
def test_any_text_is_a_policy_or_a_policy_error(text: str) -> None:
    """No text makes the loader fail in another way, and every refusal can be printed."""
    try:
        policy = parse_policy(text)
    except PolicyError as error:
        error.diagnostics().encode()
    else:
        assert isinstance(policy, Policy)
        assert len(policy.digest) == 64


VALUES: st.SearchStrategy[object] = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(Policy.model_fields)), VALUES)
def test_any_value_at_any_key_is_a_policy_or_a_policy_error(key: str, value: object) -> None:
    """A value of the wrong kind is explained, never a crash."""
    try:
        policy = parse_policy(yaml.safe_dump({**LEAST, key: value}, allow_unicode=True))
    except PolicyError as error:
        error.diagnostics().encode()
    else:
        assert isinstance(policy, Policy)


def test_nested_aliases_do_not_blow_up() -> None:
    """A few lines of YAML that stand for a billion values are refused at once."""
    lines = ["x0: &x0 [a, a, a, a, a, a, a, a, a, a]"] + [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 10)}]" for n in range(1, 10)]
    found = error_of("\n".join([*lines, "name: *x9"]))
    assert len(found) < 10_000
