"""What can be known of topologies and backends without a lab: `validate`, `schema`, `backends`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pytest_benchscale.commands.output import count, print_table
from pytest_benchscale.errors import BackendUnavailable, TopologyError

__all__ = ["add_to"]


def add_to(commands: Any) -> None:
    """Add the commands to the subparsers of the command line."""
    validate = commands.add_parser("validate", help="check topology files and preset libraries")
    validate.add_argument("files", nargs="+", type=Path, metavar="FILE")
    validate.add_argument(
        "--presets",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a preset library that the topologies may use; may be repeated",
    )
    validate.set_defaults(run=_validate)

    schema = commands.add_parser("schema", help="print the JSON Schema of topology files")
    schema.set_defaults(run=_schema)

    backends = commands.add_parser("backends", help="show which backends can be used here")
    backends.set_defaults(run=_backends)


def _validate(options: argparse.Namespace) -> int:
    wrong = False
    for path in options.files:
        try:
            print(f"{path}: ok ({_describe(path, options.presets)})")
        except TopologyError as error:
            wrong = True
            print(error)
    return int(wrong)


def _describe(path: Path, presets: Sequence[Path]) -> str:
    """Return what a valid file holds.

    Raises:
        TopologyError: it is not valid.
    """
    from pytest_benchscale.topology import loader, source  # noqa: PLC0415  --help needs neither

    root, _ = source.parse(source.read(path), path)
    if isinstance(root, Mapping) and "presets" in root and "nodes" not in root:
        return count(len(loader.load_presets(path)), "preset")
    topology = loader.load(path, presets=presets)
    nodes, networks = len(topology.nodes), len(topology.networks)
    return f"{count(nodes, 'node')}, {count(networks, 'network')}"


def _schema(_: argparse.Namespace) -> int:
    from pytest_benchscale.topology.schema import json_schema  # noqa: PLC0415

    print(json.dumps(json_schema(), indent=2))
    return 0


def _backends(_: argparse.Namespace) -> int:
    import anyio  # noqa: PLC0415

    from pytest_benchscale.backends import registry  # noqa: PLC0415

    async def probe(name: str) -> tuple[str, ...]:
        try:
            version = await registry.get(name)().probe()
        except BackendUnavailable as error:
            return name, "no", "", error.reason, error.resolution or ""
        return name, "yes", version, "", ""

    async def probe_all() -> list[tuple[str, ...]]:
        return [await probe(name) for name in registry.names()]

    print_table(("name", "usable", "version", "why not", "what to do"), anyio.run(probe_all))
    return 0
