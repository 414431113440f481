"""The tests of network conditions, run where the kernel has netem: in a virtual machine of Debian's.

The machine is brought up by the libvirt backend, the project is installed in it from its wheel, and the
embedded backend makes labs there.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from pytest_benchscale import Lab, Node
from pytest_benchscale.topology.loader import load_text
from tests.daemons.guests import one_machine
from tests.in_a_vm.wheelhouse import ROOT, wheelhouse

pytestmark = [pytest.mark.daemon("libvirt"), pytest.mark.asyncio]

MINUTES = 12  # for the tests there; all told it must be less than 15
PLACE = "/srv/project"
SITE = "/srv/site"
WHEELS = "/srv/wheels"
INSTALL = (
    f"python3 $(ls {WHEELS}/pip-*.whl)/pip --no-color install --quiet --root-user-action=ignore --no-index "
    f"--no-deps --no-compile --target {SITE} $(ls {WHEELS}/*.whl | grep -v /pip-)"
)
TESTS = (
    f"cd {PLACE} && PYTHONPATH={SITE} BENCHSCALE_TEST_NETEM=required timeout {MINUTES * 60} "
    "python3 -um pytest -v -p no:cacheprovider --junitxml=report.xml --durations=10 tests/netem 2>&1"
)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """Have the machine. It is gone before the end of the session, where what is left is counted."""
    async with Lab.open(load_text(one_machine()), backend="libvirt") as lab:
        yield lab["machine"]


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the project's wheel, and have those that it needs."""
    target = tmp_path_factory.mktemp("wheels")
    wheelhouse(target)
    return target


async def install(node: Node, wheels: Path) -> None:
    """Install the project and bring the tests, its own sources not."""
    await node.put(wheels, WHEELS)
    await node.exec(INSTALL, timeout=300, check=True)
    await node.exec(["mkdir", "-p", f"{PLACE}/tests"], check=True)
    await node.put(ROOT / "pyproject.toml", f"{PLACE}/pyproject.toml")
    await node.put(ROOT / "tests" / "netem", f"{PLACE}/tests/netem")


async def test_conditions_measured_by_a_kernel_with_netem_are_as_declared(
    node: Node, wheels: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    begun = time.monotonic()
    await install(node, wheels)
    shown: list[str] = [f"the project is installed after {time.monotonic() - begun:.0f} s"]
    with capfd.disabled():
        print(f"\n[vm] {shown[0]}", flush=True)
        async with node.process(TESTS) as run:
            async for line in run.stdout:
                shown.append(line)
                print(f"[vm] {line}", flush=True)
            code = await run.wait(60)
        print(f"[vm] ended with {code} after {time.monotonic() - begun:.0f} s", flush=True)
    if code != 0:
        failed = [line for line in shown if line.startswith(("FAILED", "ERROR"))] or shown[-20:]
        pytest.fail(
            "\n".join([f"pytest in the machine ended with {code}:", *failed]), pytrace=False
        )
    await node.get(f"{PLACE}/report.xml", tmp_path / "report.xml")
    (suite,) = ElementTree.parse(tmp_path / "report.xml").getroot().iter("testsuite")
    assert int(suite.attrib["tests"]) > 10
    assert suite.attrib["skipped"] == "0"
