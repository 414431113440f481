"""What this machine's kernel can do with network traffic."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from pytest_benchscale.network.traffic import TrafficControl
from pytest_benchscale.transports.namespace import linux

__all__ = ["NETEM_ADVICE", "has_netem"]

NETEM_ADVICE = (
    "load the kernel module sch_netem (`modprobe sch_netem`); where it is missing, install the package that "
    "has it: linux-image-amd64 on Debian, linux-modules-extra-$(uname -r) on Ubuntu, kernel-modules-extra on "
    "Fedora; or run the labs in a virtual machine with such a kernel; or run without conditions, with "
    "--benchscale-conditions=off. Rates and partitions work without it"
)


def has_netem() -> bool:
    """Try whether the kernel can delay and lose packets, in a network namespace made for that. Blocks.

    Raises:
        OSError: no namespace may be made, or traffic control may not be changed.
    """
    with ThreadPoolExecutor(1) as threads:  # the namespace is the thread's, and ends with it
        return threads.submit(_try).result()


def _try() -> bool:
    linux.unshare(linux.CLONE_NEWNET)
    traffic = TrafficControl()
    try:
        return traffic.has_netem()
    finally:
        traffic.close()
