"""What a helper container is told, and what its end means."""

from __future__ import annotations

import errno
import subprocess

import pytest

from pytest_benchscale.backends.docker import helper
from pytest_benchscale.network.tc_text import Batch


def run(commands: list[Batch]) -> subprocess.CompletedProcess[str]:
    """Run what a helper would, here."""
    return subprocess.run(
        helper._command(commands), capture_output=True, text=True, check=False, timeout=60
    )


def test_every_command_reads_its_own_text_and_they_run_in_order() -> None:
    result = run([(("cat", "-"), "one 'a' \"$b\" %s \\n\n"), (("tr", "a-z", "A-Z"), "two\n")])
    assert result.stdout == "one 'a' \"$b\" %s \\n\nTWO\n"
    assert result.returncode == 0


def test_a_text_may_be_longer_than_an_argument_of_a_program() -> None:
    text = "".join(f"{number}\n" for number in range(100_000))
    result = run([(("cat",), text), (("echo", "end"), "x")])
    assert result.stdout == f"{text}end\n"


def test_after_a_failure_nothing_is_run() -> None:
    result = run([(("false",), "x\n"), (("echo", "more"), "x\n")])
    assert result.returncode == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("RTNETLINK answers: Operation not permitted\nCommand failed -:1", errno.EPERM),
        ("RTNETLINK answers: File exists\nCommand failed -:3", errno.EEXIST),
        ("Error: Specified qdisc kind is unknown.\nCommand failed -:1", errno.ENOENT),
        ('Cannot find device "eth7"\nCommand failed -:1', errno.ENODEV),
        ("something else", errno.EIO),
        ("", errno.EIO),
    ],
)
def test_what_iproute2_says_becomes_the_kernels_number(words: str, number: int) -> None:
    error = helper._error("image", 1, words)
    assert error.errno == number
    assert (words or "exit code 1") in str(error)


def test_an_image_without_tools_is_not_a_kernel_without_netem() -> None:
    error = helper._error("image", 127, "tc: not found")
    assert error.errno == errno.ENOPKG
    assert "image lacks" in str(error)
