"""The marks `topology` and `benchscale`: which tests carry one, and which lab that gives them.

Imported for every run, so only the standard library and pytest are imported here.
"""

from __future__ import annotations

import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pytest_benchscale.lab.request import LabRequest
    from pytest_benchscale.lab.session import LabSession

__all__ = [
    "HELP",
    "begin_test",
    "mark_of",
    "request_of",
    "use_lab",
    "wants_asyncio",
    "what_is_missing",
    "why_without_lab",
]

HELP = (
    (
        "topology(*sources, backend=None, reset=None): run the test in a lab of these topologies, "
        "each a .yaml file or a Topology; several run the test once for each. The lab is the fixture "
        '`lab`; with reset="test" each test gets it as it was when first ready.'
    ),
    "benchscale(*sources, backend=None, reset=None): the same as topology, under a name of our own.",
)
"""How `pytest --markers` explains them."""

_NO_MARK = (
    "the fixture `lab` needs a topology: mark the test, its class or its module, "
    'as in @pytest.mark.topology("simple-lan.yaml")'
)
_FOREIGN_MARK = (
    "\nIts `topology` mark is not ours, which takes only .yaml files and Topology objects. "
    "@pytest.mark.benchscale is the same mark under a name that no other plugin uses."
)
_LATE_MARK = (
    "this test has a topology mark, but it cannot be given a lab: the mark works on a function, its "
    "class or its module; not on unittest.TestCase, not inside pytest.param, and not when it is "
    "added after collection"
)


def _is_ours(mark: pytest.Mark) -> bool:
    """Tell our mark from a `topology` mark of another plugin: by its arguments."""
    if mark.name == "benchscale":
        return True
    return mark.name == "topology" and bool(mark.args) and all(map(_is_source, mark.args))


def _is_source(value: object) -> bool:
    if isinstance(value, (str, os.PathLike)):
        return str(value).endswith((".yaml", ".yml"))
    model = sys.modules.get(
        "pytest_benchscale.topology.model"
    )  # who has a Topology has imported it
    return model is not None and isinstance(value, model.Topology)


def mark_of(node: pytest.Item) -> pytest.Mark | None:
    """Return the closest of our marks: the function's, else its class's, else its module's.

    Raises:
        pytest.Collector.CollectError: there are several in one place.
    """
    for parent in reversed(node.listchain()):
        marks = [mark for mark in parent.own_markers if _is_ours(mark)]
        if isinstance(parent, pytest.Class):
            marks = marks[-1:]  # those of its base classes come first
        if len(marks) > 1:
            raise pytest.Collector.CollectError(
                f"{parent.nodeid}: {len(marks)} topology marks on one place; "
                "one mark takes several sources"
            )
        if marks:
            return marks[0]
    return None


def request_of(item: pytest.Item) -> LabRequest | None:
    """Return the lab that the item was parametrised with."""
    callspec = getattr(item, "callspec", None)
    if callspec is None or "lab" not in callspec.params:
        return None
    from pytest_benchscale.lab.request import LabRequest  # noqa: PLC0415  it is there by now

    request = callspec.params["lab"]
    return request if isinstance(request, LabRequest) else None


def begin_test(item: pytest.Item, labs: LabSession | None) -> None:
    """Let the item ask for the lab that it shall have: maybe another one than was planned."""
    callspec = getattr(item, "callspec", None)
    request = labs.begin_test(request_of(item)) if labs else None
    if request is not None and callspec is not None:
        callspec.params["lab"] = request  # pytest sets the fixture up anew when that is another


def why_without_lab(item: pytest.Item) -> str | None:
    """Return why an item that has our mark has no lab, None when all is well."""
    alone = isinstance(item, pytest.Function) and request_of(item) is None
    return _LATE_MARK if alone and any(map(_is_ours, item.iter_markers())) else None


def what_is_missing(item: pytest.Item) -> str:
    """Return what an item lacks that asks for the fixture `lab` without our mark."""
    foreign = item.get_closest_marker("topology") is not None
    return _NO_MARK + (_FOREIGN_MARK if foreign else "")


def use_lab(collector: pytest.Collector, function: Any) -> None:
    """Let a marked function, or one in a marked class or module, use the fixture `lab`.

    The fixture is added where the mark is, since a class without one may inherit the function.
    """
    added = pytest.mark.usefixtures("lab")
    function = getattr(function, "__func__", function)  # of a static method
    marks = getattr(function, "pytestmark", None)
    if isinstance(marks, list) and any(map(_is_ours, marks)):
        if added.mark not in marks:
            added(function)
        return
    for node, mark in collector.iter_markers_with_node():
        if _is_ours(mark):
            if added.mark not in node.own_markers:
                node.add_marker(added)
            return


def wants_asyncio(function: pytest.Function) -> bool:
    """Whether an async test with our mark was left to nobody, so that pytest-asyncio shall run it."""
    test = getattr(getattr(function.obj, "hypothesis", None), "inner_test", function.obj)
    plugins = function.config.pluginmanager
    return (
        inspect.iscoroutinefunction(test)
        and mark_of(function) is not None
        and plugins.has_plugin("asyncio")
        and not any(function.get_closest_marker(name) for name in ("asyncio", "anyio", "trio"))
        and "anyio_backend" not in function.fixturenames
        and not (plugins.has_plugin("trio") and function.config.getini("trio_mode"))
    )
