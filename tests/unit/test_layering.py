"""The house keeps its shape: imports point down, the plugin costs nothing, the public face is small."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_benchscale

PACKAGE = Path(pytest_benchscale.__file__).parent
LAYERS = (
    ("errors", "results"),
    ("topology",),
    ("transports", "network"),
    ("backends",),
    ("lab",),
    ("marks",),
    ("commands", "options", "progress", "reporting", "signals", "testing"),
    ("cli", "plugin"),
)
PUBLIC = {
    *("BackendUnavailable", "BenchscaleError", "CommandFailed", "CommandTimeout", "ExecResult"),
    *("Lab", "LabError", "Node", "NodeDied", "NotSupported", "Topology", "TopologyError"),
    "WaitTimeout",
}
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
# Podman is Docker with another engine; a machine of libvirt's that is there is used as one of ssh.
KNOWN_BACKENDS = {"podman": {"docker"}, "libvirt": {"ssh"}}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
BACKENDS = [path for path in MODULES if path.parent.name != "backends" and "backends" in path.parts]
SHARED = {path.stem.split("_")[0] for path in (PACKAGE / "backends").glob("*.py")} - {"podman"}


def _layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and full name of everything a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            for alias in node.names:
                yield node.lineno, f"{node.module}.{alias.name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    layer = _layer(path)
    assert layer in RANK, f"{layer} is in no layer: add it to LAYERS"
    upward = [
        f"line {line}: {name}"
        for line, name in _imports(ast.parse(path.read_text()))
        if name.startswith("pytest_benchscale.")
        and (target := name.split(".")[1]) in RANK
        and target != layer
        and RANK[target] >= RANK[layer]
        and {target, layer} != {"errors", "results"}
    ]
    assert not upward


@pytest.mark.parametrize("path", BACKENDS, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_backends_know_no_others(path: Path) -> None:
    own = _family(path.relative_to(PACKAGE / "backends").parts[0].removesuffix(".py"))
    others = {
        _family(name.split(".")[2])
        for _, name in _imports(ast.parse(path.read_text()))
        if name.startswith("pytest_benchscale.backends.")
    }
    assert others <= {own, *KNOWN_BACKENDS.get(own, ()), *SHARED}


def _family(module: str) -> str:
    """Return the backend that a module or package of the backends' room is of."""
    return module.split("_", maxsplit=1)[0]


def test_the_plugin_stays_small() -> None:
    assert len((PACKAGE / "plugin.py").read_text().splitlines()) < 250


@pytest.mark.parametrize("name", ["plugin.py", "__init__.py", "errors.py", "options.py"])
def test_the_plugin_imports_only_pytest_and_the_standard_library(name: str) -> None:
    tree = ast.parse((PACKAGE / name).read_text())
    outside = [
        node for node in tree.body if not isinstance(node, ast.If | ast.FunctionDef | ast.ClassDef)
    ]
    imported = {imported.split(".")[0] for part in outside for _, imported in _imports(part)} - set(
        sys.stdlib_module_names
    )
    assert imported <= {"pytest"}


def test_importing_the_plugin_pulls_in_nothing_heavy() -> None:
    code = (
        "import json, sys, pytest; before = set(sys.modules);"
        "import pytest_benchscale.plugin; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    tops = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert not tops & {"pydantic", "pydantic_core", "anyio", "yaml", "asyncio", "asyncssh"}


def test_the_public_names_are_exactly_these() -> None:
    assert set(pytest_benchscale.__all__) == PUBLIC
    assert {*PUBLIC, "__version__"} <= set(dir(pytest_benchscale))
    for name in PUBLIC:
        assert getattr(pytest_benchscale, name).__name__ == name


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Labb'"):
        pytest_benchscale.Labb  # noqa: B018
