"""The guard's policy file: what ships, what is refused and how that is said, and the step from a score to a decision."""

from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from guard_server.errors import NotAllowedError, NotFoundError, PolicyError
from guard_server.labels import TASKS, Decision, Direction, Task
from guard_server.policy import (
    Policies,
    Thresholds,
    check_against,
    load_policies,
    parse_policies,
    policy_schema,
    thresholds,
)
from guard_server.views import VIEWS
from tests.guard.steered import spec

SHIPPED = Path(__file__).resolve().parents[2] / "policies" / "guard.yaml"


def policies(
    prompt: str = '{"*": {flag: {target_fpr: .05}, block: {target_fpr: .01}}}',
    more: str = "",
    after: str = "",
    name: str = "default:",
) -> Policies:
    """A file with one policy."""
    return parse_policies(
        f"schema_version: guard-policy/v1\npolicies:\n  {name}\n    prompt: {prompt}\n"
        f'    response: {{"*": {{flag: {{target_fpr: .05}}, block: never}}}}\n{more}\n{after}'
    )


def test_the_shipped_file_fits_a_bundle_and_does_as_it_says() -> None:
    """Default flags at 5 % and blocks at 1 %, strict blocks at 5 %, observe never blocks."""
    shipped = load_policies(SHIPPED)
    check_against(shipped, spec())
    assert shipped.names == ["default", "strict", "observe"]
    by_name = {
        name: {t: thresholds(shipped.named(name), spec(), Direction.PROMPT, t, 1) for t in TASKS} for name in shipped.names
    }
    other = Task.OTHER
    assert by_name["default"][other] == Thresholds(flag=0.5, block=0.9)
    assert by_name["strict"][other] == Thresholds(flag=0.5, block=0.5)
    assert by_name["observe"][other] == Thresholds(flag=0.5, block=None)
    assert all(set(shipped.named(name).views) == set(VIEWS) for name in shipped.names)


def test_the_schema_accepts_what_ships_and_refuses_what_the_loader_refuses() -> None:
    """The JSON Schema tells the shipped file from one with a misspelt key."""
    raw = yaml.safe_load(SHIPPED.read_text())
    jsonschema.validate(raw, policy_schema())
    raw["policies"]["default"]["prompt"]["*"]["flagg"] = "never"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(raw, policy_schema())


@pytest.mark.parametrize(
    ("prompt", "more", "said"),
    [
        ('{"*": {flag: {target_fpr: .01}, block: {target_fpr: .05}}}', "", "blocks more easily than it flags"),
        ('{"*": {flag: {threshold: .8}, block: {threshold: .5}}}', "", "blocks more easily than it flags"),
        ('{"*": {flag: {threshold: .5}, block: never}, translation: {block: {threshold: .4}}}', "", "translation: blocks"),
        ('{"*": {flag: {target_fpr: .05, threshold: .5}, block: never}}', "", "either target_fpr or threshold"),
        ('{"*": {flag: {}, block: never}}', "", "either target_fpr or threshold"),
        ('{"*": {flag: {target_fpr: 5}, block: never}}', "", "flag.target_fpr: Input should be less than 1, found 5"),
        ('{"*": {flag: {threshold: .nan}, block: never}}', "", "finite number"),
        ('{"*": {flag: {target_fp: .05}, block: never}}', "", "the nearest known is 'target_fpr'"),
        ('{"*": {flag: nver, block: never}}', "", "prompt.*.flag: Input should be 'never', found 'nver'"),
        ('{"*": {flag: never}}', "", "'*' must say flag and block"),
        ("{other: {flag: never, block: never}}", "", "'*' must say flag and block"),
        ('{"*": {flag: never, block: never}, codegeneration: {}}', "", "unknown task; the nearest known is 'code_generation'"),
        ('{"*": {flag: never, block: never}}', "    views: [bse64]", "unknown view 'bse64'; the nearest known is 'base64'"),
        ('{"*": {flag: never, block: never}}', "    views: [hex, hex]", "'hex' is named twice"),
        ('{"*": {flag: never, block: never}}', "    on_failure: opened", "on_failure: Input should be 'closed' or 'open'"),
        ('{"*": {flag: never, block: never}}', "    max_chars: 5", "unknown key; the nearest known is 'max_characters'"),
        ('{"*": {flag: never, block: never}}', "    max_views: -1", "max_views"),
        ('{"*": {flag: never, block: never}}', "    name: other", "policies.default.name: unknown key"),
        ('{"*": {flag: never, block: never}}', "routes: {/v1/scren: {policy: default}}", "the nearest known is '/v1/screen'"),
        ('{"*": {flag: never, block: never}}', "routes: {/v1/screen: {policy: defualt}}", "the nearest known is 'default'"),
        ('{"*": {flag: never, block: never}}', "routes: {/v1/screen: {polcy: default}}", "the nearest known is 'policy'"),
        ('{"*": {flag: never, block: never}}', "    max_views: 1\n    max_views: 2", "duplicate key 'max_views'"),
        ("[", "", "not valid YAML"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_and_named(prompt: str, more: str, said: str) -> None:
    """Each impossible file is a PolicyError that says the place and the reason, once."""
    with pytest.raises(PolicyError) as error:
        policies(prompt, more)
    assert said in error.value.message
    assert error.value.message.count(said) == 1
    assert error.value.status == 422


def test_files_that_are_none(tmp_path: Path) -> None:
    """A missing file, one that is not UTF-8, a list, and one without policies are each a PolicyError."""
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "absent.yaml", binary):
        with pytest.raises(PolicyError, match="cannot be read"):
            load_policies(path)
    for text in ("[]", "", "schema_version: guard-policy/v1", "schema_version: guard-policy/v2\npolicies: {}", "a: 2001-99-99"):
        with pytest.raises(PolicyError):
            parse_policies(text)


def test_a_task_overrides_only_what_it_names() -> None:
    """A task's block limit leaves its flag limit as `*` says, and other tasks alone."""
    only = policies('{"*": {flag: {threshold: .4}, block: {threshold: .9}}, translation: {block: {threshold: .6}}}').named(
        "default"
    )
    assert thresholds(only, spec(), Direction.PROMPT, Task.TRANSLATION, 1) == Thresholds(0.4, 0.6)
    assert thresholds(only, spec(), Direction.PROMPT, Task.OTHER, 1) == Thresholds(0.4, 0.9)
    never = policies('{"*": {flag: {threshold: .4}, block: {threshold: .9}}, translation: {block: never}}').named("default")
    assert thresholds(never, spec(), Direction.PROMPT, Task.TRANSLATION, 1).block is None


def test_a_target_follows_the_number_of_segments_and_an_explicit_threshold_does_not() -> None:
    """With more segments the bundle's threshold for a target rises; one given as a score stays."""
    both = policies('{"*": {flag: {target_fpr: .05}, block: {threshold: .7}}}').named("default")
    assert thresholds(both, spec(), Direction.PROMPT, Task.OTHER, 1) == Thresholds(0.5, 0.7)
    assert thresholds(both, spec(), Direction.PROMPT, Task.OTHER, 5) == Thresholds(0.55, 0.7)
    assert thresholds(both, spec(), Direction.PROMPT, Task.OTHER, 99_999) == Thresholds(0.55, 0.7)
    assert thresholds(both, spec(), Direction.PROMPT, Task.OTHER, 5, sentence=True) == Thresholds(0.55, 0.7)
    assert thresholds(both, spec(of_sentences=(0.5, 0.51, 0.52)), Direction.PROMPT, Task.OTHER, 5, sentence=True) == Thresholds(
        0.52, 0.7
    )


def test_a_target_that_the_bundle_has_not_is_refused() -> None:
    """Checked against a bundle, a policy with an unknown target says which the bundle has."""
    odd = policies('{"*": {flag: {target_fpr: .05}, block: {target_fpr: .002}}}')
    with pytest.raises(PolicyError, match=r"policy default: .*no threshold for target_fpr 0.002.*it has: 0.01, 0.05"):
        check_against(odd, spec())


def test_a_block_under_the_flag_shows_with_the_bundles_numbers() -> None:
    """A target and an explicit threshold can only be compared with a bundle, which is done for every number of segments."""
    odd = policies('{"*": {flag: {target_fpr: .05}, block: {threshold: .52}}}')
    with pytest.raises(PolicyError, match=r"prompt, .*16 segment\(s\): blocks from 0.5200 and flags from 0.5500"):
        check_against(odd, spec())


def test_routes_choose_and_override() -> None:
    """A route's policy holds unless the request names one; a route's on_failure beats the policy's; unknown names are 404."""
    shipped = load_policies(SHIPPED)
    assert shipped.choose("/v1/screen").name == "default"
    assert shipped.choose("/v1/screen", "strict").name == "strict"
    assert shipped.choose("/not/named").name == "default"
    with pytest.raises(NotFoundError, match="nearest known is 'strict'"):
        shipped.choose("/v1/screen", "strikt")
    own = policies(after="routes: {/v1/moderations: {policy: default, on_failure: open}}")
    assert own.on_failure("/v1/moderations", own.choose("/v1/moderations")) == "open"
    assert own.on_failure("/v1/screen", own.choose("/v1/screen")) == "closed"
    assert shipped.on_failure("/v1/screen", shipped.named("observe")) == "open"


def test_the_digest_is_of_the_meaning() -> None:
    """Comments and spacing do not change the digest; a number does."""
    one, same = policies(), policies(more="    # a comment\n    max_views: 8")
    other = policies(more="    max_views: 7")
    assert one.digest == same.digest != other.digest
    assert len(one.digest) == 64


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_a_decision_never_softens_as_the_score_rises(low: float, high: float, score: float) -> None:
    """For any thresholds the decision is monotone in the score, and reached exactly at the threshold."""
    at = Thresholds(flag=min(low, high), block=max(low, high))
    order = list(Decision)
    assert order.index(at.decide(score)) <= order.index(at.decide(min(1, score + 0.1)))
    assert at.decide(at.block or 0) is Decision.BLOCK
    assert Thresholds(None, None).decide(score) is Decision.ALLOW


def test_only_stricter_policies_can_be_chosen_on_the_shipped_foreign_contracts() -> None:
    """`observe`, which never blocks, can be named on the guard's own routes alone."""
    shipped = load_policies(SHIPPED)
    assert shipped.choose("/v1/screen", "observe").name == "observe"
    for route in ("/v1/moderations", "/beta/litellm_basic_guardrail_api"):
        assert {shipped.choose(route, name).name for name in (None, "default", "strict")} == {"default", "strict"}
        with pytest.raises(NotAllowedError, match="observe"):
            shipped.choose(route, "observe")


@pytest.mark.parametrize(
    ("route", "listed", "allowed"),
    [
        ("/v1/screen", "", True),
        ("/v1/screen", ", policies: []", False),
        ("/v1/moderations", "", False),
        ("/v1/moderations", ", policies: any", True),
        ("/v1/moderations", ", policies: [default, other]", True),
    ],
)
def test_a_route_lists_what_a_request_may_choose(route: str, listed: str, allowed: bool) -> None:
    """Left out: any on the guard's own routes, none on the foreign ones; else what is listed, and always the route's own."""
    found = policies(after=f"  other: *rules\nroutes:\n  {route}: {{policy: default{listed}}}", name="default: &rules")
    assert found.choose(route, "default").name == "default"
    if allowed:
        assert found.choose(route, "other").name == "other"
    else:
        with pytest.raises(NotAllowedError):
            found.choose(route, "other")


def test_a_route_that_lists_an_unknown_policy_is_refused() -> None:
    """The nearest known name is given."""
    with pytest.raises(PolicyError, match="nearest known is 'default'"):
        policies(after="routes:\n  /v1/moderations: {policy: default, policies: [defualt]}")
