"""The contract, on the embedded backend."""

from __future__ import annotations

import os
import sys

import pytest

from pytest_benchscale.backends.base import Capability
from pytest_benchscale.testing import BackendContract

IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
class TestLocal(BackendContract):
    backend = "local"
    # In an ordinary user's namespace there is no user but this one, and no remounting.
    lacking = frozenset() if IS_ROOT else frozenset({Capability.USERS, Capability.FULL_DISK})
