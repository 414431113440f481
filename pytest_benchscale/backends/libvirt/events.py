"""libvirt's event loop, one for the process, and what it tells of domains.

It has to run before the first connection is opened, and as long as there is one: by it the daemon
learns that we are still there, too.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import libvirt

__all__ = ["DomainEvent", "Listener", "run_event_loop"]

_SHUT_DOWN = "it was shut down from inside"
_ENDED_BY_SOMEBODY = "its domain was ended by somebody"
_ENDS = {
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN: _SHUT_DOWN,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_DESTROYED: _ENDED_BY_SOMEBODY,
    libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED: "it crashed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED: "its QEMU process ended unexpectedly",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_SAVED: "its state was saved and it was stopped by somebody",
    libvirt.VIR_DOMAIN_EVENT_STOPPED_MIGRATED: "it was moved to another machine",
}
_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 3


@dataclass(frozen=True, slots=True)
class DomainEvent:
    """A change of a domain's state; `end` says in words how it ended, None when it did not."""

    name: str
    uuid: str
    paused: bool | None  # None: it says nothing about that
    end: str | None


@functools.cache
def run_event_loop() -> None:
    """Start the event loop, in a thread that ends with the process."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # no texts on standard error
    libvirt.virEventRegisterDefaultImpl()
    # Something must be due now and then, or the loop does not see that the process is ending.
    libvirt.virEventAddTimeout(1000, lambda _timer, _opaque: None, None)
    threading.Thread(target=_run, name="benchscale-libvirt", daemon=True).start()


def _run() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


class Listener:
    """What a connection tells, in libvirt's thread: `on_event` of domains, `on_close` of its own end."""

    def __init__(
        self,
        connection: Any,
        on_event: Callable[[DomainEvent], None],
        on_close: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._on_event = on_event
        self._on_close = on_close
        self._number: int | None = None
        # libvirt keeps these until they are taken back, and compares nothing.
        connection.registerCloseCallback(self._closed, None)
        connection.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
        self._number = connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._changed, None
        )

    def close(self) -> None:
        """Stop listening."""
        number, self._number = self._number, None
        with suppress(libvirt.libvirtError):  # the connection is gone, and its callbacks with it
            self._connection.unregisterCloseCallback()
            if number is not None:
                self._connection.domainEventDeregisterAny(number)

    def _changed(self, _: Any, domain: Any, event: int, detail: int, __: Any) -> None:
        paused: bool | None = None
        end: str | None = None
        if event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED:
            paused = True
        elif event in (libvirt.VIR_DOMAIN_EVENT_RESUMED, libvirt.VIR_DOMAIN_EVENT_STARTED):
            paused = False
        elif event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            end = _ENDS.get(detail, "its domain ended")
        elif event == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN:
            told = detail == libvirt.VIR_DOMAIN_EVENT_SHUTDOWN_HOST
            end = _ENDED_BY_SOMEBODY if told else _SHUT_DOWN
        elif event == libvirt.VIR_DOMAIN_EVENT_CRASHED:
            end = "its kernel panicked"
        else:
            return
        self._on_event(DomainEvent(domain.name(), domain.UUIDString(), paused, end))

    def _closed(self, _: Any, reason: int, __: Any) -> None:
        self._on_close(
            "the daemon did not answer any more"
            if reason == libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE
            else "the connection to the daemon broke"
        )
