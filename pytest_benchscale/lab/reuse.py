"""Labs that one session has left clean, and the next one goes on with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread

from pytest_benchscale import __version__
from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Backend
from pytest_benchscale.errors import BenchscaleError, SubnetTaken
from pytest_benchscale.lab.lab import Lab
from pytest_benchscale.lab.ledger import Found, Ledger, Standing
from pytest_benchscale.lab.opening import attach
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.lab.record import FORMAT, Kept, LabRecord
from pytest_benchscale.lab.removal import remove
from pytest_benchscale.topology.addressing import overlap
from pytest_benchscale.topology.model import Topology

__all__ = ["Reuse", "fingerprint_of"]

_CHUNK = 1 << 20  # bytes


def fingerprint_of(topology: Topology, backend: str, options: LabOptions) -> str:
    """Return what labs have in common that one may stand in for the other.

    What is deployed counts by its content. What an image holds is asked of the backend, not here.
    """
    facts = {
        "version": __version__,
        "backend": backend,
        "declared": topology.model_dump(mode="json"),
        "directory": str(topology.directory),
        "images": dict(sorted(options.images.items())),
        "conditions": options.conditions,
        "resettable": options.resettable,
        "deployed": {
            item.src: _content(topology.directory / item.src)
            for node in topology.nodes
            for item in node.deploy
        },
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Candidate:
    lab_id: str
    record: LabRecord
    kept: Kept
    expired: bool


class Reuse:
    """Finds the lab of an earlier session that is as good as a new one.

    `notes` tells of what was reused, and why something was not. Works in the loop of the labs, and on
    nothing but labs that were left for this: unlocked, clean, and marked so.
    """

    def __init__(self, portal: Portal) -> None:
        self._portal = portal
        self._ledger = Ledger()
        self.notes: list[str] = []

    async def find(
        self,
        topology: Topology,
        backend: str,
        options: LabOptions,
        fingerprint: str,
        found: Callable[[Lab], None],
    ) -> bool:
        """Take over a kept lab and tell `found` of it at once; False: one must be built.

        What an edit of the topology has made useless is taken down.
        """
        candidates = await to_thread.run_sync(lambda: [*self._candidates(backend)])
        if not candidates:
            return False
        place = await _place(registry.get(backend)())
        near = [one for one in candidates if one.record.place == place]
        fitting = [one for one in near if one.kept.fingerprint == fingerprint and not one.expired]
        taken_over = False
        for one in reversed(fitting):  # the newest first: it has the most time left
            if await self._take_over(one, options, found):
                taken_over = True
                break
        for one in near:
            if one not in fitting and _is_older(one, topology, options):
                await self._end(one, "its topology is another now, or its time is over")
        return taken_over

    async def make_room(self, backend: str, taken: SubnetTaken, fingerprint: str | None) -> bool:
        """Remove what was left for reuse and has a subnet that a new lab needs; say whether to try again.

        That is so, too, when there is now a lab with this fingerprint to be taken over. Of a lab that is
        kept for its user, the error tells.
        """
        place = await _place(registry.get(backend)())
        again = False
        for found in await to_thread.run_sync(lambda: [*self._ledger.labs()]):
            record = found.record
            if record is None or (record.backend, record.place) != (backend, place):
                continue
            if found.kept is None or not any(
                overlap(ip_network(one), taken.subnet) for one in record.subnets.values()
            ):
                continue
            one = _candidate(found, backend)
            if one is None:
                taken.resolution = (
                    f"lab {found.lab_id} ({record.title or record.name}) is kept and has it; to end "
                    f"that: benchscale down {found.lab_id}"
                )
            elif one.kept.fingerprint == fingerprint and not one.expired:
                again = True
            else:
                again |= await self._end(one, f"it had the subnet {taken.subnet}")
        return again

    def _candidates(self, backend: str) -> Iterator[_Candidate]:
        standings = (Standing.KEPT, Standing.EXPIRED)
        for one in self._ledger.labs():
            if one.standing in standings and (candidate := _candidate(one, backend)):
                yield candidate

    async def _take_over(
        self, one: _Candidate, options: LabOptions, found: Callable[[Lab], None]
    ) -> bool:
        entry = await to_thread.run_sync(self._ledger.take, one.lab_id)
        if entry is None:
            return False  # another session was faster
        try:
            lab = await attach(entry, one.kept, self._portal, options)
        except BenchscaleError as error:
            self._tell(one, f"was not reused: {error}")
            await self._end(one, None)
            return False
        found(lab)  # from now on it is given up like any other
        try:
            why = await _why_not(lab, one.kept)
        except BenchscaleError as error:
            why = str(error)
        if why is None:
            self._tell(one, "was reused")
            return True
        self._tell(one, f"was not reused: {why}")
        try:
            await lab.down()
        except BenchscaleError as error:
            self._tell(one, f"was not taken down cleanly: {error}")
        return False

    def _tell(self, one: _Candidate, what: str) -> None:
        name = f"lab {one.record.name!r} on {one.record.backend!r} ({one.lab_id})"
        self.notes.append(f"{name} {'; '.join(what.splitlines())}")

    async def _end(self, one: _Candidate, why: str | None) -> bool:
        """Remove a lab, unless somebody has it; `why` is told."""
        entry = await to_thread.run_sync(self._ledger.take, one.lab_id)
        if entry is None:
            return False
        try:
            with anyio.CancelScope(shield=True):
                await remove(entry)
        except BenchscaleError as error:
            self._tell(one, f"was not removed: {error}")
            return False
        if why is not None:
            self._tell(one, f"was taken down: {why}")
        return True


async def _why_not(lab: Lab, kept: Kept) -> str | None:
    """Return why a lab that is whole is of no use, None when it is; lead it back where tests rely on that.

    Raises:
        BenchscaleError: it could not be led back.
    """
    if await lab.image_ids() != kept.image_ids:
        return "an image has changed since"
    if lab.options.resettable:
        await lab.reset()
    return None


def _candidate(found: Found, backend: str) -> _Candidate | None:
    record, kept = found.record, found.kept
    if record is None or kept is None or not kept.reuse or kept.dirty:
        return None
    if record.backend != backend or record.format != FORMAT:
        return None
    return _Candidate(found.lab_id, record, kept, found.standing is Standing.EXPIRED)


async def _place(backend: Backend) -> Mapping[str, str]:
    """Return where new labs are made.

    Raises:
        BackendUnavailable: nowhere.
    """
    try:
        await backend.probe()
        return dict(backend.place())
    finally:
        await backend.close()


def _is_older(one: _Candidate, topology: Topology, options: LabOptions) -> bool:
    """Whether a lab is of the same file, as it was before or for longer than it may be."""
    source = str(topology.source) if topology.source else None
    return (
        source is not None
        and one.record.source == source
        and one.record.resettable == options.resettable
    )


def _content(path: Path) -> Any:
    """Return what tells whether a file or a directory tree is the same."""
    if path.is_symlink():
        return ["link", str(path.readlink())]
    if path.is_dir():
        return {child.name: _content(child) for child in sorted(path.iterdir())}
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return [digest, path.stat().st_mode]
    except OSError:
        return None
