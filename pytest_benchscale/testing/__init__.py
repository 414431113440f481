"""The contract that every backend passes, as tests to inherit.

For a backend `mine`, registered under the entry-point group `pytest_benchscale.backends`:

    from pytest_benchscale.testing import BackendContract

    class TestMine(BackendContract):
        backend = "mine"

Class attributes say what the suite cannot know:

    backend         the entry point's name; or override the class-scoped fixture `backend_name`
    image           what the nodes run; None (the default): the image catalogue's `default`
    python          the Python in that image, for the tests of traffic ("python3");
                    None: it has none, and these tests are skipped
    lacking         capabilities that the backend declares but does not have on this machine
    side_by_side    how many nodes come up at the same time at least (4)
    slack           how many seconds there may be between the first and the last of these (2)
    known_failures  test name, or `name[case]`, -> reason. Such a test is expected to fail, and
                    one that begins to pass fails the run until it is taken off the list

What a backend cannot do at all belongs into its `capabilities`: the tests of a capability that is
missing there prove that asking for it raises `NotSupported`, naming backend and capability.

Besides that Python the image needs a POSIX shell, the usual small tools (cat, head, sleep, stat,
setsid, stty, tty, ...) and `getent`. The suite is asynchronous and brings the marks for pytest-asyncio; its
labs are class-scoped and shared by all tests that leave them as they were.

The parts, in the order in which a new backend can be made to pass them:

    commands    exec: streams, input, exit codes, arguments, many at once
    deadlines   what a timeout and a cancellation end
    processes   background processes
    terminals   commands and shells on terminals: sizes, job control, ends
    files       copying, reading and writing
    isolation   what a node cannot see and reach
    networks    names, addresses, reach
    probing     measuring between nodes
    faults      partitions and network conditions
    node_faults nodes frozen, without power, full or under pressure for a while
    lifecycle   start, stop, kill, pause, death
    waits       wait_for_port, wait_for_exec, wait_for_file, wait_for_log
    upkeep      reset, keep and take over
    bringup     deploy, setup, dependencies, failures, what is left behind

Each part is a class of its own, for a first try of a part.
"""

from __future__ import annotations

import pytest

_PARTS = (
    *("base", "bringup", "commands", "deadlines", "faults", "files"),
    *("isolation", "lifecycle", "networks", "node_faults", "probing", "processes", "rates"),
    *("terminals", "upkeep", "waits"),
)
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))

from pytest_benchscale.testing.bringup import BringUpContract  # noqa: E402  rewritten from here on
from pytest_benchscale.testing.commands import CommandContract  # noqa: E402
from pytest_benchscale.testing.deadlines import DeadlineContract  # noqa: E402
from pytest_benchscale.testing.faults import FaultContract  # noqa: E402
from pytest_benchscale.testing.files import FileContract  # noqa: E402
from pytest_benchscale.testing.isolation import IsolationContract  # noqa: E402
from pytest_benchscale.testing.lifecycle import LifecycleContract  # noqa: E402
from pytest_benchscale.testing.networks import NetworkContract  # noqa: E402
from pytest_benchscale.testing.node_faults import NodeFaultContract  # noqa: E402
from pytest_benchscale.testing.probing import ProbeContract  # noqa: E402
from pytest_benchscale.testing.processes import ProcessContract  # noqa: E402
from pytest_benchscale.testing.terminals import TerminalContract  # noqa: E402
from pytest_benchscale.testing.upkeep import UpkeepContract  # noqa: E402
from pytest_benchscale.testing.waits import WaitContract  # noqa: E402

__all__ = [
    "BackendContract",
    "BringUpContract",
    "CommandContract",
    "DeadlineContract",
    "FaultContract",
    "FileContract",
    "IsolationContract",
    "LifecycleContract",
    "NetworkContract",
    "NodeFaultContract",
    "ProbeContract",
    "ProcessContract",
    "TerminalContract",
    "UpkeepContract",
    "WaitContract",
]


# pytest runs inherited tests from the last base to the first: commands first, bring-up last.
class BackendContract(
    BringUpContract,
    UpkeepContract,
    WaitContract,
    LifecycleContract,
    NodeFaultContract,
    FaultContract,
    ProbeContract,
    NetworkContract,
    IsolationContract,
    FileContract,
    TerminalContract,
    ProcessContract,
    DeadlineContract,
    CommandContract,
):
    """The whole contract, to be inherited by a test class that sets `backend`."""
