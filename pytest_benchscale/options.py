"""The options of the command line and the ini settings: their names, and what was given.

Only the standard library and pytest are imported, as in the plugin; `lab.settings` knows what they may hold.
"""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["add_to", "given"]

_OPTIONS = (
    ("backend", "NAME[,NAME...]", "run all labs on this backend; with several, once on each"),
    ("missing", "fail|skip", "whether a missing backend or machine fails its tests (default)"),
    ("keep", "never|failed|always", "which labs stay up after the session (default: never)"),
    ("keep-for", "TIME", "how long such labs are kept, as in 30m, 8h or 2d (default: 8h)"),
    ("reuse", None, "take over labs that the last session left clean, and leave ours to the next"),
    ("artifacts", "DIR", "leave each lab's topology, node logs and commands in this directory"),
    ("timeout-scale", "N", "multiply the deadlines of labs, on a slow machine (default: 1)"),
    ("conditions", "enforce|off", "whether network conditions are applied (default: enforce)"),
    ("prepared", "use|off", "whether machines go on from an earlier one's first boot (default)"),
    ("image", "NAME=REF", "run images of this name as the backend's own REF; may be repeated"),
)
_INI_SETTINGS = (
    ("backend", "string", "backend of the topologies that name none (default: auto)"),
    ("topology_path", "paths", "where topology files are looked for that are not beside the test"),
    ("presets", "paths", "files with further presets of network conditions"),
)


def add_to(parser: pytest.Parser) -> None:
    """Declare the options and the ini settings."""
    group = parser.getgroup("benchscale", "labs of real machines (pytest-benchscale)")
    for name, metavar, text in _OPTIONS:
        if metavar is None:
            group.addoption(f"--benchscale-{name}", action="store_true", help=text)
            continue
        action = "append" if name == "image" else "store"
        group.addoption(f"--benchscale-{name}", metavar=metavar, action=action, help=text)
    for name, kind, text in _INI_SETTINGS:
        parser.addini(f"benchscale_{name}", text, type=kind)  # type: ignore[arg-type]  # a Literal


def given(config: pytest.Config) -> dict[str, Any]:
    """Return what was given, by the names that `Settings.parse` has for it."""
    names = [name.replace("-", "_") for name, *_ in _OPTIONS]
    options = {name: config.getoption(f"benchscale_{name}") for name in names}
    settings = {f"ini_{name}": config.getini(f"benchscale_{name}") for name, *_ in _INI_SETTINGS}
    return options | settings
