"""A backend in memory, for tests of everything above the backends.

No process, no network, no file is made. `Script` says what shall go wrong and remembers what was
done; `make_backend` makes the backend class that follows it:

    script = Script()
    script.fail("create_node b", OSError("disk on fire"))
    registry.register("fake", make_backend(script))
"""

from __future__ import annotations

from tests.fake_backend.backend import FakeBackend, Script, make_backend

__all__ = ["FakeBackend", "Script", "make_backend"]
