"""The shape of the program, read off its syntax trees: imports go down, nothing heavy at module level, small parts."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

LAYERS: dict[str, int] = {
    "records": 0,
    "errors": 0,
    "allowance": 1,
    "answer_log": 1,
    "extras": 1,
    "json_lines": 1,
    "scan_finding": 1,
    "policy": 1,
    "comparison": 1,
    "contamination": 1,
    "ngrams": 1,
    "noninferiority": 1,
    "safety_wordings": 1,
    "standing": 1,
    "stats": 1,
    "sequential": 1,
    "template_days": 1,
    "tokenizer_files": 1,
    "yaml_record": 1,
    "cells": 2,
    "run_store": 2,
    "utility_set": 2,
    "suites": 2,
    "endpoints": 2,
    "judges": 2,
    "manifest": 2,
    "candidate": 3,
    "served": 3,
    "scan": 3,
    "scan_sarif": 3,
    "chat_template": 3,
    "template_trial": 3,
    "adapter_fit": 3,
    "hub": 3,
    "safetensors_header": 3,
    "sniff": 3,
    "attack": 3,
    "judging": 3,
    "attest": 3,
    "decide": 3,
    "repair": 3,
    "drift": 3,
    "quality": 3,
    "overlap": 3,
    "safety_set": 3,
    "report": 3,
    "finetune": 3,
    "sharding": 3,
    "stopping": 3,
    "history": 3,
    "metrics": 3,
    "stopwatch": 3,
    "verification": 3,
    "exporter": 4,
    "pipeline": 4,
    "repair_pipeline": 4,
    "drift_pipeline": 4,
    "run_evidence": 4,
    "pushgateway": 4,
    "shard_pipeline": 4,
    "replay": 4,
    "conformance": 4,
    "engine_speed": 4,
    "planning": 4,
    "check_options": 5,
    "history_commands": 5,
    "tracking": 5,
    "console": 5,
    "safety_set_command": 5,
    "suite_commands": 5,
    "attest_commands": 5,
    "plan_command": 5,
    "scan_command": 5,
    "repair_command": 5,
    "drift_command": 5,
    "finetune_command": 5,
    "shard_commands": 5,
    "cli": 5,
}
"""Part (module or package right under `gate`) → layer. A new part needs a line here."""
INGEST = {
    "candidate",
    "scan",
    "scan_sarif",
    "chat_template",
    "template_trial",
    "adapter_fit",
    "hub",
    "safetensors_header",
    "sniff",
}
"""The modules that candidate.py is cut into: they may import one another."""
LOOKS_ASIDE = {"finetune": INGEST, "repair": {"candidate", "finetune"}}
"""Parts of layer 3 that begin with another one of it: what is fine-tuned is ingested first, as what is gated is, and
two repairs are a fine-tuning again."""
HEAVY = {
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "safetensors",
    "huggingface_hub",
    "model_signing",
    "pyarrow",
    "datasets",
    "vllm",
    "ray",
    "matplotlib",
    "cryptography",
    "securesystemslib",
    "cyclonedx",
}
PRINTS = {
    "safety_set_command",
    "cli",
    "console",
    "attest_commands",
    "finetune_command",
    "suite_commands",
    "plan_command",
    "repair_command",
    "drift_command",
    "scan_command",
    "shard_commands",
    "history_commands",
    "tracking",
}
MAX_MODULE_LINES = 450
MAX_FUNCTION_LINES = 60

FILES = sorted((ROOT / "gate").rglob("*.py"))
ALL_FILES = [*FILES, *sorted((ROOT / "guard_server").rglob("*.py"))]


def module_of(path: Path) -> str:
    """Dotted name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def part_of(module: str) -> str:
    """The part of the program that a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def imports_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported module with its line, wherever it is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            known = [name for name in inner if name in TREES]
            yield from ((name, node.lineno) for name in known or [node.module])


def at_module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run on import: not those of functions, nor of `if TYPE_CHECKING`."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


def own_imports(module: str) -> list[tuple[str, int]]:
    """Imports of other parts of the program, at any level of the file."""
    return [
        (name, line) for name, line in imports_of(TREES[module]) if name.startswith("gate.") and part_of(name) != part_of(module)
    ]


def allowed(importer: str, imported: str) -> bool:
    """Down always; sideways only above layer 3, in layer 1 and 0, or within what candidate.py is cut into."""
    above, below = LAYERS[importer], LAYERS[imported]
    if above != below:
        return above > below
    return above in (1, 4, 5) or {importer, imported} <= INGEST or imported in LOOKS_ASIDE.get(importer, ())


def test_every_part_has_its_layer() -> None:
    """No module stands outside the layers, and no layer names a module that is gone."""
    parts = {part_of(module) for module in TREES} - {""}
    assert parts == set(LAYERS)


@pytest.mark.parametrize("module", sorted(m for m in TREES if part_of(m)))
def test_imports_go_down(module: str) -> None:
    """No module imports from a layer above, or from a neighbour in a layer of plug-ins and stages."""
    wrong = [
        f"{module}:{line} imports {name}" for name, line in own_imports(module) if not allowed(part_of(module), part_of(name))
    ]
    assert wrong == []


@pytest.mark.parametrize("package", ["suites", "endpoints", "judges"])
def test_plugins_do_not_know_each_other(package: str) -> None:
    """A package of plug-ins imports nothing of another one."""
    others = {"suites", "endpoints", "judges"} - {package}
    wrong = [(m, n) for m in TREES if part_of(m) == package for n, _ in own_imports(m) if part_of(n) in others]
    assert wrong == []


def test_import_graph_has_no_cycle() -> None:
    """The modules can be put in an order in which each imports only earlier ones."""
    graph = {
        module: {name for name, _ in imports_of(tree) if name in TREES and name != module and not module.startswith(f"{name}.")}
        for module, tree in TREES.items()
    }
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"cycle: {' → '.join(error.args[1])}")


@pytest.mark.parametrize("module", sorted(TREES))
def test_heavy_libraries_wait_for_the_function_that_needs_them(module: str) -> None:
    """Importing a module loads no model library."""
    level = list(at_module_level(TREES[module]))
    found = [name for node in level if isinstance(node, ast.Import | ast.ImportFrom) for name, _ in imports_of(node)]
    assert not HEAVY & {name.split(".")[0] for name in found}


@pytest.mark.parametrize("module", sorted(m for m in TREES if part_of(m) not in PRINTS))
def test_only_the_command_line_prints_or_exits(module: str) -> None:
    """What is printed and how the process ends is decided in one place."""
    calls = [node.func for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)]
    names = {f.id for f in calls if isinstance(f, ast.Name)} | {ast.unparse(f) for f in calls if isinstance(f, ast.Attribute)}
    assert not names & {
        "print",
        "input",
        "exit",
        "quit",
        "sys.exit",
        "os._exit",
        "os.abort",
        "sys.stdout.write",
        "sys.stderr.write",
    }
    assert "SystemExit" not in ast.unparse(TREES[module])


@pytest.mark.parametrize("module", sorted(TREES))
def test_remote_code_is_never_trusted(module: str) -> None:
    """No call passes trust_remote_code, and no dictionary that could become its keywords holds it."""
    for node in ast.walk(TREES[module]):
        assert not (isinstance(node, ast.keyword) and node.arg == "trust_remote_code")
        assert not (isinstance(node, ast.Dict) and "trust_remote_code" in [getattr(key, "value", "") for key in node.keys])


@pytest.mark.parametrize("path", ALL_FILES, ids=module_of)
def test_parts_are_small_enough_to_hold(path: Path) -> None:
    """No module is longer than 450 lines, no function than 60."""
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_MODULE_LINES
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


@pytest.mark.parametrize("path", ALL_FILES, ids=module_of)
def test_module_says_what_it_is(path: Path) -> None:
    """A module with code starts with a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not tree.body or ast.get_docstring(tree)


SKIPS = {"tests/conftest.py", "tests/conformance/test_known_answers.py"}
"""They skip for want of the shared data, which is not in the repository; conftest counts them."""
NEEDS_PROGRAMS = {
    "tests/engines/conftest.py",
    "tests/guard/test_admin.py",
    "tests/guard/test_classifier.py",
    "tests/guard/test_litellm.py",
    "tests/guard/test_playground.py",
    "tests/guard/test_routes.py",
    "tests/guard/training/test_sign.py",
    "tests/report/test_html_browser.py",
    "tests/history/conftest.py",
    "tests/monitoring/programs.py",
}
"""They skip for want of a program that is not Python's (Chromium, promtool, PostgreSQL, openssl, LiteLLM's proxy), of the
engines' environment (`make test-engines`), of a signal or of a GPU's absence; CI has them all."""


def test_no_other_test_is_skipped() -> None:
    """What the repository holds (the testbed's weights and suite) is needed, not optional: its absence fails a test."""
    marks = ("pytest.skip(", "pytest.mark.skip", "pytest.importorskip(", "unittest.skip")
    tests = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    own = str(Path(__file__).relative_to(ROOT))
    assert {name for name, text in tests.items() if name != own and any(mark in text for mark in marks)} <= SKIPS | NEEDS_PROGRAMS


def test_rules_catch_what_they_are_for() -> None:
    """An import upwards, one sideways and a heavy one are seen, and what is allowed is not."""
    assert not allowed("policy", "pipeline")
    assert not allowed("judges", "endpoints")
    assert not allowed("attack", "decide")
    assert allowed("scan", "sniff")
    assert allowed("pipeline", "report")
    tree = ast.parse("import numpy\nif x:\n    import torch.nn\ndef f():\n    import peft\n")
    level = [n for node in at_module_level(tree) if isinstance(node, ast.Import) for n, _ in imports_of(node)]
    assert sorted(itertools.chain(level)) == ["numpy", "torch.nn"]
