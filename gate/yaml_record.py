"""Files that people write: YAML text in, a frozen closed record out, or one error that names every place and what was meant.

Duplicate keys are refused; an unknown key is told the nearest known one. The caller says which record, error and page it is.
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from gate.errors import UsageError
from gate.records import Record

R = TypeVar("R", bound=Record)


class _StrictLoader(yaml.SafeLoader):
    """YAML without duplicate keys, which plain YAML loaders silently let the last of win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_text(path: Path, error_type: type[UsageError]) -> str:
    """The file's text. Raises `error_type` when it can't be read as UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise error_type(f"{path}: cannot be read as UTF-8 text", found=str(error)) from error


def parse_record(text: str, model: type[R], error_type: type[UsageError], *, where: str, what: str, example: str, page: str) -> R:
    """The record that the YAML describes. Raises `error_type` naming every problem.

    `what` is the file's kind in words, `example` a file to start from, `page` the document to read.
    """
    try:
        raw = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader subclass
    except (yaml.YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError) as error:
        # PyYAML lets the errors of int(), float(), datetime() and the like through: `2001-99-99` is a ValueError.
        raise error_type(f"{where}: not valid YAML", found=" ".join(str(error).split()), mend="correct the line named") from error
    if not isinstance(raw, dict):
        raise error_type(f"{where}: a {what} is a mapping", found=type(raw).__name__, mend=f"start from {example}")
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(model, what, e["loc"], e["type"], e["msg"], e.get("input")) for e in error.errors(include_url=False)]
        raise error_type(f"{where}: {len(problems)} problem(s)", found="; ".join(problems), mend=f"see {page}") from error


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)), None)


def _explain(model: type[BaseModel], what: str, loc: tuple[int | str, ...], kind: str, message: str, found: object) -> str:
    place = ".".join(str(part) for part in loc if not str(part).startswith(("tuple[", "literal["))) or what
    if kind == "extra_forbidden":
        near = nearest(str(loc[-1]), _fields_at(model, loc[:-1]))
        return f"{place}: unknown key" + (f"; the nearest known key is {near!r}" if near else "")
    if kind == "missing":
        return f"{place}: missing"
    return f"{place}: {message}, found {reprlib.repr(found)[:60]}" if kind != "value_error" else f"{place}: {message}"


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> Iterable[str]:
    for part in loc:
        field = model.model_fields.get(str(part))
        candidates = [] if field is None else _models_in(field.annotation)
        if candidates:
            model = candidates[0]
    return model.model_fields


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]
