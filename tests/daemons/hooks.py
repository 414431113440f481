"""What the conftest files of tests that use daemons import: the mark, and the count.

`@pytest.mark.daemon("docker")`, on a test, a class or a module, says that it needs that daemon and
the test image `debian`; `images=[...]` names others.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest

from tests.daemons import objects
from tests.daemons.needs import needs_daemon

__all__ = ["nothing_left_in_daemons", "pytest_configure", "pytest_runtest_setup"]


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known."""
    config.addinivalue_line(
        "markers", "daemon(name, images=['debian']): needs a container daemon, with test images"
    )


@pytest.hookimpl(tryfirst=True)  # before the fixtures of the test
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a marked test whose daemon is missing; in CI, fail it."""
    for mark in item.iter_markers("daemon"):
        needs_daemon(*mark.args, **mark.kwargs)


@functools.cache
def _before() -> tuple[dict[str, str], frozenset[objects.Thing]]:
    addresses = objects.reachable()
    return addresses, objects.everything(addresses)


@pytest.fixture(scope="session", autouse=True)
def nothing_left_in_daemons() -> Iterator[None]:
    """Count what the daemons have before the tests, and fail when there is more after them."""
    addresses, before = _before()
    yield
    left = objects.wait_until_as_before(before, addresses)
    assert not left, "\n".join(["the tests left in the daemons:", *left])
