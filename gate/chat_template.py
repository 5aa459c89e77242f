"""Chat templates as text: a model folder comes in, the template in force and its faults go out. Nothing is rendered here.

A template is a program from an untrusted folder. It is compiled in jinja2's sandbox without constant folding, because folding
`{{ 'a' * 10**10 }}` would run it.
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


def template_fault(text: str) -> str:
    """Why the template must not be used: too long, reads other files, or does not compile. Empty when it may be."""
    if len(text.encode("utf-8", "replace")) > MAX_TEMPLATE:
        return f"it takes over {MAX_TEMPLATE} bytes"
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    try:
        tree = environment.parse(text)
        if next(tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)), None) is not None:
            return "it includes or imports other templates"
        if next(tree.find_all((nodes.EvalContextModifier, nodes.ScopedEvalContextModifier)), None) is not None:
            return "it switches autoescape, whose argument is evaluated when it is compiled"
        environment.compile(tree)
    except TemplateError as error:
        return f"it does not compile: {error.message or type(error).__name__}"[:300]
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError, AssertionError) as error:
        return f"it does not compile ({type(error).__name__})"
    return ""
