"""The guard's policy file: YAML in, frozen `Policies` out; and the pure step from a score to a decision.

A file holds named policies and, per route, which of them is in force unless the caller names another. Unknown and duplicate keys
and numbers that contradict each other are errors (`PolicyError`) that name the place and, for an unknown key, the nearest known.
"""

import difflib
import hashlib
import json
import re
import reprlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Final, Literal, Self, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    PrivateAttr,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from guard_server.bundle_spec import BundleSpec
from guard_server.errors import VALUE_ERROR, NotAllowedError, NotFoundError, PolicyError
from guard_server.labels import TASKS, Decision, Direction, Task
from guard_server.views import VIEWS, ViewSettings

ROUTES: Final = (
    "/v1/screen",
    "/v1/screen/batch",
    "/v1/screen/stream",
    "/v1/moderations",
    "/beta/litellm_basic_guardrail_api",
    "/analyze/prompt",
    "/analyze/output",
    "/scan/prompt",
    "/scan/output",
)
"""The routes that screen: those a policy file may give a policy."""

OWN_ROUTES: Final = frozenset({"/v1/screen", "/v1/screen/batch", "/v1/screen/stream"})
"""Whose callers may name any policy unless the file says otherwise; on the foreign contracts a request may be an end user's."""

OnFailure = Literal["closed", "open"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Limit(_Record):
    """From which score on something is done: stated as a share of harmless texts, or as the score itself."""

    target_fpr: FiniteFloat | None = Field(default=None, gt=0, lt=1)
    """Share of harmless texts that may reach it; the bundle knows the score."""
    threshold: FiniteFloat | None = Field(default=None, ge=0, le=1)
    """The calibrated probability itself, however many windows are scored."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.target_fpr is None) == (self.threshold is None):
            raise ValueError("give either target_fpr or threshold")
        return self


def _limit_kind(value: object) -> str:
    return "never" if isinstance(value, str) else "limit"


LimitOrNever = Annotated[
    Annotated[Limit, Tag("limit")] | Annotated[Literal["never"], Tag("never")],
    Discriminator(_limit_kind),
]


class Rule(_Record):
    """What is done with texts of one task; a key left out is taken from `*`."""

    flag: LimitOrNever | None = None
    block: LimitOrNever | None = None


TaskKey = Task | Literal["*"]


class Policy(_Record):
    """How texts are screened."""

    description: str = ""
    prompt: dict[TaskKey, Rule]
    """Per task, `*` for those not named."""
    response: dict[TaskKey, Rule]
    on_failure: OnFailure = "closed"
    """What the answer says when a text could not be screened: closed blocks it, open allows it; both say so."""
    on_unread: Decision = Decision.FLAG
    """The least decision when a decoded view was found and a limit kept it, or its end, from being screened."""
    max_characters: int = Field(default=50_000, ge=1)
    """A longer text is refused, not cut."""
    views: tuple[str, ...] = tuple(VIEWS)
    """Decodings to look for, the most wanted first."""
    max_views: int = Field(default=8, ge=0)
    max_view_bytes: int = Field(default=20_000, ge=1)
    max_total_view_bytes: int = Field(default=60_000, ge=1)
    _name: str = PrivateAttr(default="")

    @property
    def name(self) -> str:
        """Its key in the file."""
        return self._name

    @field_validator("views")
    @classmethod
    def _known_views(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in VIEWS:
                raise ValueError(f"unknown view {name!r}" + _did_you_mean(name, VIEWS))
            if names.count(name) > 1:
                raise ValueError(f"{name!r} is named twice")
        return names

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for direction, rules in ((d, self.rules(d)) for d in Direction):
            whole = rules.get("*")
            if whole is None or whole.flag is None or whole.block is None:
                raise ValueError(f"{direction.value}: '*' must say flag and block (a limit, or never)")
            for task in TASKS:
                flag, block = self.limits(direction, task)
                if flag and block and _easier(block, flag):
                    raise ValueError(f"{direction.value}, {task.value}: blocks more easily than it flags")
        return self

    def rules(self, direction: Direction) -> Mapping[TaskKey, Rule]:
        """The rules of a direction, as written."""
        return self.prompt if direction is Direction.PROMPT else self.response

    def limits(self, direction: Direction, task: Task) -> tuple[Limit | None, Limit | None]:
        """When a text of a task is flagged and when blocked; None for never."""
        rules = self.rules(direction)
        own, whole = rules.get(task, Rule()), rules["*"]
        flag, block = own.flag or whole.flag, own.block or whole.block
        return (flag if isinstance(flag, Limit) else None), (block if isinstance(block, Limit) else None)

    def view_settings(self) -> ViewSettings:
        """What `views.views` is asked for."""
        return ViewSettings(self.views, self.max_views, self.max_view_bytes, self.max_total_view_bytes)


class RouteRule(_Record):
    """What holds on one route."""

    policy: str
    """In force unless the request names another."""
    policies: Literal["any"] | tuple[str, ...] | None = None
    """The others that a request may name; left out: any on /v1/screen and what is under it, none on the foreign contracts."""
    tasks: Literal["any", "model"] = "any"
    """`model`: a request may not name its task, for thresholds are per task: who names it may pick those that let a text pass."""
    on_failure: OnFailure | None = None
    """Instead of the policy's own."""


class Policies(_Record):
    """A policy file."""

    schema_version: Literal["guard-policy/v1"]
    policies: dict[str, Policy] = Field(min_length=1)
    routes: dict[str, RouteRule] = Field(default_factory=dict)
    """A route not named has the policy `default`."""

    @model_validator(mode="after")
    def _routes_exist(self) -> Self:
        for route, rule in self.routes.items():
            if route not in ROUTES:
                raise ValueError(f"routes: there is no screening route {route!r}" + _did_you_mean(route, ROUTES))
            if rule.policy not in self.policies:
                raise ValueError(f"routes.{route}: no policy {rule.policy!r}" + _did_you_mean(rule.policy, self.policies))
            for name in rule.policies or () if rule.policies != "any" else ():
                if name not in self.policies:
                    raise ValueError(f"routes.{route}.policies: no policy {name!r}" + _did_you_mean(name, self.policies))
        if "default" not in self.policies and set(ROUTES) - self.routes.keys():
            raise ValueError("policies: give a policy 'default', or one to every route")
        return self

    @model_validator(mode="after")
    def _named(self) -> Self:
        for name, policy in self.policies.items():
            policy._name = name
        return self

    @property
    def names(self) -> list[str]:
        """The policies' names, in the file's order."""
        return list(self.policies)

    @property
    def digest(self) -> str:
        """SHA-256 over the file's meaning (canonical JSON), hexadecimal: comments and order of keys do not change it."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def named(self, name: str) -> Policy:
        """A policy by name; raises `NotFoundError` naming the nearest."""
        if name not in self.policies:
            raise NotFoundError(f"there is no policy {name!r}" + _did_you_mean(name, self.policies), field="policy")
        return self.policies[name]

    def choose(self, route: str, name: str | None = None) -> Policy:
        """The policy in force for a request on a route: the one it names, else the route's, else `default`.

        Raises `NotFoundError`, and `NotAllowedError` for a policy that a request may not name on this route.
        """
        rule = self.routes.get(route)
        own = rule.policy if rule else "default"
        if name is None or name == own:
            return self.named(own)
        found = self.named(name)
        allowed = rule.policies if rule and rule.policies is not None else "any" if route in OWN_ROUTES else ()
        if allowed != "any" and name not in allowed:
            raise NotAllowedError(
                f"a request may not choose policy {name!r} on {route}; the policy file says which", field="policy"
            )
        return found

    def check_task(self, route: str, task: Task | None) -> None:
        """Raises `NotAllowedError` for a task that a request names on a route where the model says it."""
        if task is not None and route in self.routes and self.routes[route].tasks == "model":
            raise NotAllowedError(f"a request may not name its task on {route}; leave it out, or say auto", field="task")

    def on_failure(self, route: str, policy: Policy) -> OnFailure:
        """What a text that could not be screened gets: as the route says, else the policy."""
        own = self.routes[route].on_failure if route in self.routes else None
        return own or policy.on_failure


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The least scores that are flagged and blocked; None for never."""

    flag: float | None
    block: float | None

    def decide(self, score: float) -> Decision:
        """What is done with a text of that score."""
        if self.block is not None and score >= self.block:
            return Decision.BLOCK
        return Decision.FLAG if self.flag is not None and score >= self.flag else Decision.ALLOW


def thresholds(
    policy: Policy, spec: BundleSpec, direction: Direction, task: Task, segments: int, *, sentence: bool = False
) -> Thresholds:
    """A policy's thresholds for the windows, or the sentences, of a text of which `segments` (at least 1) are scored.

    Raises `PolicyError` where the bundle has none.
    """

    def score(limit: Limit | None) -> float | None:
        if limit is None or limit.target_fpr is None:
            return None if limit is None else limit.threshold
        known = spec.threshold(direction, task, limit.target_fpr)
        if known is None:
            raise PolicyError(_no_threshold(spec, direction, task, limit.target_fpr))
        return known.for_segments(segments, sentence=sentence)

    flag, block = policy.limits(direction, task)
    return Thresholds(score(flag), score(block))


def check_against(policies: Policies, spec: BundleSpec) -> None:
    """Refuse (`PolicyError`) a target the bundle has no threshold for, and numbers that block sooner than they flag with it."""
    for name, policy in policies.policies.items():
        for direction, task in ((d, t) for d in Direction for t in TASKS):
            counts = {1, *(n for t in spec.thresholds if (t.direction, t.task) == (direction, task) for n in t.segments)}
            for count, sentence in product(sorted(counts), (False, True)):
                try:
                    at = thresholds(policy, spec, direction, task, count, sentence=sentence)
                except PolicyError as error:
                    raise PolicyError(f"policy {name}: {error.message}") from error
                if at.flag is not None and at.block is not None and at.block < at.flag:
                    where = f"policy {name}, {direction.value}, {task.value}, {count} segment(s)"
                    raise PolicyError(f"{where}: blocks from {at.block:.4f} and flags from {at.flag:.4f} with bundle {spec.name}")


def load_policies(path: Path) -> Policies:
    """Read a policy file; `PolicyError` says where and what is wrong."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    return parse_policies(text, where=str(path))


def parse_policies(text: str, *, where: str = "policy file") -> Policies:
    """Parse a policy file's text; every error names the place, and an unknown key the nearest known one."""
    try:
        raw = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader subclass
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets the errors of int(), float(), datetime() and the like through.
        raise PolicyError(f"{where}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise PolicyError(f"{where}: a policy file is a mapping, found {type(raw).__name__}; start from policies/guard.yaml")
    try:
        return Policies.model_validate(raw)
    except ValidationError as error:
        found = (_explain(e["loc"], e["type"], e["msg"], e.get("input")) for e in error.errors(include_url=False))
        problems = list(dict.fromkeys(found))
        raise PolicyError(f"{where}: {len(problems)} problem(s): {'; '.join(problems)}") from error


def policy_schema() -> dict[str, object]:
    """JSON Schema of the policy file (checked in as schemas/guard-policy.schema.json)."""
    return Policies.model_json_schema()


class _StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys, of which plain YAML loaders silently let the last win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _easier(block: Limit, flag: Limit) -> bool:
    """Whether the block is reached sooner than the flag, as far as that shows without a bundle."""
    if block.target_fpr is not None and flag.target_fpr is not None:
        return block.target_fpr > flag.target_fpr
    return block.threshold is not None and flag.threshold is not None and block.threshold < flag.threshold


def _no_threshold(spec: BundleSpec, direction: Direction, task: Task, target: float) -> str:
    has = sorted(t.target_fpr for t in spec.thresholds if (t.direction, t.task) == (direction, task))
    known = ", ".join(f"{value:g}" for value in has) or "none"
    return f"bundle {spec.name} has no threshold for target_fpr {target:g}, {direction.value}, {task.value}; it has: {known}"


def _explain(loc: tuple[int | str, ...], kind: str, message: str, found: object) -> str:
    # Names that pydantic gives to members of a union are no places in the file.
    parts = [str(part) for part in loc if not re.match(r"(limit|never|\[key\]|(literal|str-enum)\[.*)$", str(part))]
    place = ".".join(parts) or "policy file"
    if kind == "extra_forbidden":
        return f"{place}: unknown key" + _did_you_mean(parts[-1], _fields_at(parts[:-1]))
    if "[key]" in loc:
        return f"{place}: unknown task" + _did_you_mean(str(found), ["*", *TASKS])
    if kind == "missing":
        return f"{place}: missing"
    if kind == "value_error":
        return f"{place}: {message.removeprefix(VALUE_ERROR)}"
    return f"{place}: {message}, found {reprlib.repr(found)[:60]}"


def _fields_at(parts: list[str]) -> Iterable[str]:
    """The keys known at a place: of the innermost model on the way there."""
    model: type[BaseModel] = Policies
    for part in parts:
        field = model.model_fields.get(part)
        inner = next(_models_in(field.annotation), None) if field else None
        model = inner or model
    return model.model_fields


def _models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.5)
    return f"; the nearest known is {near[0]!r}" if near else ""
