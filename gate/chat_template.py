"""Chat templates as text: a model folder comes in, the template in force and its faults go out. Nothing is rendered here.

A template is a program from an untrusted folder. It is compiled in jinja2's sandbox without constant folding, because folding
`{{ 'a' * 10**10 }}` would run it. gate.template_trial renders some, in a process of its own.
"""

from __future__ import annotations

import json
from pathlib import Path

from jinja2 import TemplateError, nodes
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEMPLATE = 256 * 1024
"""Bytes. The largest templates of published models take some tens of kilobytes."""
MAX_CONFIG = 32 * 1024 * 1024
"""Bytes of tokenizer_config.json that are read."""

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_DIR = "additional_chat_templates"
CONFIG_FILE = "tokenizer_config.json"

_FUNCTIONS = frozenset({"strftime_now", "raise_exception"})
"""What transformers adds to jinja2's own globals. As text, a function shows its maker and its address in memory."""
_PRESENCE = frozenset({"defined", "undefined", "callable", "none"})


class _Generation(Extension):
    """The `{% generation %}` block of training templates, which transformers knows; its body is kept as it is."""

    tags = {"generation"}  # noqa: RUF012 - the type jinja2 declares

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _NoFolding(CodeGenerator):
    """Generates code without evaluating constant expressions."""

    def _output_child_to_const(self, *_: object) -> str:
        raise nodes.Impossible


class _Environment(ImmutableSandboxedEnvironment):
    """The environment that transformers compiles templates in, less the folding."""

    code_generator_class = _NoFolding


def read_chat_template(folder: Path) -> str | None:
    """The folder's default chat template, picked as transformers does: its .jinja file, else tokenizer_config.json's, else None.

    Raises ValueError when a file holds no readable template, OSError when it can't be read.
    """
    file = folder / TEMPLATE_FILE
    if file.is_file():
        return _capped(file, MAX_TEMPLATE).decode("utf-8")
    config_file = folder / CONFIG_FILE
    if not config_file.is_file():
        return None
    try:
        config = json.loads(_capped(config_file, MAX_CONFIG))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return _default(config.get("chat_template")) if isinstance(config, dict) else None


def _capped(file: Path, limit: int) -> bytes:
    with file.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"over {limit} bytes")
    return data


def _default(value: object) -> str | None:
    """A string, or of the list and map forms the template named `default`."""
    if isinstance(value, list):
        value = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
    if isinstance(value, dict):
        value = value.get("default")
    return value if isinstance(value, str) and value.strip() else None


def environment() -> _Environment:
    """A new environment in which templates compile as in transformers."""
    return _Environment(
        trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )


def template_fault(text: str) -> str:
    """Why the template must not be used: too long, reads other files, leaves it to chance, does not compile. Empty: it may."""
    if len(text.encode("utf-8", "replace")) > MAX_TEMPLATE:
        return f"it takes over {MAX_TEMPLATE} bytes"
    made = environment()
    try:
        tree = made.parse(text)
        if next(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)), None) is not None:
            return "it includes or imports other templates"
        if next(tree.find_all((nodes.EvalContextModifier, nodes.ScopedEvalContextModifier)), None) is not None:
            return "it switches autoescape, whose argument is evaluated when it is compiled"
        if fault := _environment_fault(tree):
            return fault
        made.compile(tree)
    except TemplateError as error:
        return f"it does not compile: {error.message or type(error).__name__}"[:300]
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError, AssertionError) as error:
        return f"it does not compile ({type(error).__name__})"
    return ""


def _environment_fault(tree: nodes.Template) -> str:
    """Which source of chance, or of knowing where it runs, the template reaches for; the day itself is for gate.template_trial.

    jinja2 has two sources of chance, the filter `random` and `lipsum`; `map` can name a filter by an expression.
    """
    if any(node.name == "random" for node in tree.find_all(nodes.Filter)) or any(
        map(_maps_by_chance, tree.find_all(nodes.Filter))
    ):
        return "it chooses at random, or names the filter of `map` by an expression"
    fine = {id(call.node) for call in tree.find_all(nodes.Call)} | {
        id(test.node) for test in tree.find_all(nodes.Test) if test.name in _PRESENCE
    }
    fine |= {id(branch.test) for branch in tree.find_all(nodes.If)}
    fine |= {id(choice.test) for choice in tree.find_all(nodes.CondExpr)}
    for name in tree.find_all(nodes.Name):
        if name.ctx == "load" and name.name == "lipsum":
            return "it chooses at random (lipsum)"
        if name.ctx == "load" and name.name in _FUNCTIONS and id(name) not in fine:
            return f"it uses {name.name} other than by calling it"
    return ""


def _maps_by_chance(node: nodes.Filter) -> bool:
    if node.name != "map":
        return False
    first = node.args[0] if node.args else None
    plain = first is None or (isinstance(first, nodes.Const) and first.value not in {"random", "map"})
    return not plain or node.dyn_args is not None
