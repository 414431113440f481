"""Kept states: what makes one fit, what is kept of it, and which give way."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("libvirt")

from pytest_benchscale.backends.libvirt import prepared
from pytest_benchscale.backends.libvirt.connection import Connection
from pytest_benchscale.backends.libvirt.domain_xml import Disk, DomainSpec, Link
from pytest_benchscale.backends.libvirt.keys import GuestKeys, LabKeys
from pytest_benchscale.backends.libvirt.prepared import Prepared, Shelf, TooLarge, key_of
from pytest_benchscale.backends.libvirt.storage import Storage, locked

SPEC = DomainSpec(
    name="benchscale-0a-alpha-0",
    accelerator="qemu",
    memory_mb=512,
    vcpus=1,
    disks=[Disk("/pool/disk", "qcow2")],
    links=[Link("benchscale-0a-management", "52:54:00:00:00:01", "bt0a000000", isolated=True)],
    console="/pool/console",
    labels={"benchscale.lab": "0a"},
)
DOCUMENTS = {"user-data": b"#cloud-config\nhostname: alpha\n", "meta-data": b"{}"}
STATE = Prepared(b"seed", GuestKeys(b"login", "ssh-ed25519 AAAA"), b"console")
MIB = 1 << 20


def key(spec: DomainSpec = SPEC, **changes: object) -> str:
    values: dict[str, Any] = {"image": "00ff", "disk": 3 * MIB, "made_by": "1.0", **changes}
    documents = {**DOCUMENTS, **values.pop("documents", {})}
    return key_of(spec, documents, **values)


class TestKey:
    def test_is_the_same_in_another_lab(self) -> None:
        other = replace(
            SPEC,
            name="benchscale-0b-alpha-0",
            disks=[Disk("/pool/other", "qcow2")],
            links=[SPEC.links[0]._replace(network="benchscale-0b-management", tap="bt0b000000")],
            console="/pool/other",
            labels={"benchscale.lab": "0b"},
        )
        assert key(other) == key()

    @pytest.mark.parametrize(
        "changes",
        [
            {"memory_mb": 513},
            {"vcpus": 2},
            {"accelerator": "kvm"},
            {"links": [SPEC.links[0]._replace(mac="52:54:00:00:00:02")]},
            {"links": [*SPEC.links, *SPEC.links]},
            {"kernel": "/pool/vmlinuz"},
            {"command_line": "quiet"},
        ],
    )
    def test_differs_when_the_machine_does(self, changes: dict[str, Any]) -> None:
        assert key(replace(SPEC, **changes)) != key()

    @pytest.mark.parametrize(
        "changes",
        [
            {"image": "00fe"},
            {"disk": 4 * MIB},
            {"made_by": "1.1"},
            {"documents": {"user-data": b"#cloud-config\nhostname: beta\n"}},
            {"documents": {"network-config": b"{}"}},
        ],
    )
    def test_differs_when_image_size_versions_or_seed_do(self, changes: dict[str, Any]) -> None:
        assert key(**changes) != key()


class Pool:
    """A storage pool in memory, and the one domain of its daemon."""

    def __init__(self) -> None:
        self.volumes = {"disk": 300 * MIB}
        self.calls: list[str] = []
        self.fails: Exception | None = None

    def copy(self, name: str, of: str) -> None:
        if self.fails:
            raise self.fails
        self.volumes[name] = self.volumes[of]

    def bytes_of(self, name: str) -> int | None:
        return self.volumes.get(name)

    def remove(self, name: str) -> None:
        self.volumes.pop(name, None)

    def names(self) -> list[str]:
        return list(self.volumes)

    # of the domain

    def suspend(self) -> None:
        self.calls.append("suspend")

    def resume(self) -> None:
        self.calls.append("resume")

    def snapshotCreateXML(self, xml: str, flags: int) -> None:  # noqa: N802  libvirt's name
        assert f"<name>{prepared.SNAPSHOT}<" in xml
        self.calls.append("snapshot")


class Daemon:
    def __init__(self, pool: Pool) -> None:
        self.raw = SimpleNamespace(lookupByName=lambda _: pool)

    async def call(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.to_thread(function, *arguments)


@pytest.fixture
def pool() -> Pool:
    return Pool()


def shelf_of(pool: Pool, cache: Path, machine: str = "here") -> Shelf:
    return Shelf(cast("Connection", Daemon(pool)), cast("Storage", pool), cache, machine)


@pytest.mark.asyncio
class TestShelf:
    async def test_what_is_kept_is_there_the_next_time(self, pool: Pool, tmp_path: Path) -> None:
        await shelf_of(pool, tmp_path).keep("aa", STATE, "domain", "disk")
        assert pool.calls == ["suspend", "snapshot", "resume"]
        assert await shelf_of(pool, tmp_path).take("aa", "mine") == STATE
        assert pool.volumes["mine"] == pool.volumes["disk"]
        assert await shelf_of(pool, tmp_path).take("ab", "other") is None
        assert "other" not in pool.volumes

    async def test_what_has_secrets_in_it_is_for_its_user_alone(
        self, pool: Pool, tmp_path: Path
    ) -> None:
        await shelf_of(pool, tmp_path).keep("aa", STATE, "domain", "disk")
        assert (tmp_path / "prepared").stat().st_mode & 0o077 == 0

    async def test_a_state_whose_disk_is_gone_or_elsewhere_is_none(
        self, pool: Pool, tmp_path: Path
    ) -> None:
        await shelf_of(pool, tmp_path).keep("aa", STATE, "domain", "disk")
        assert await shelf_of(pool, tmp_path, "elsewhere").take("aa", "mine") is None
        (kept,) = (name for name in pool.volumes if name.startswith(prepared.PREFIX))
        pool.remove(kept)
        assert await shelf_of(pool, tmp_path).take("aa", "mine") is None
        await shelf_of(pool, tmp_path).keep("aa", STATE, "domain", "disk")  # in its place
        assert await shelf_of(pool, tmp_path).take("aa", "mine") == STATE

    async def test_the_second_of_two_that_keep_the_same_leaves_it(
        self, pool: Pool, tmp_path: Path
    ) -> None:
        for _ in range(2):
            await shelf_of(pool, tmp_path).keep("aa", STATE, "domain", "disk")
        assert len(pool.volumes) == 2
        assert pool.calls == ["suspend", "snapshot", "resume"]

    async def test_a_machine_goes_on_when_its_state_cannot_be_kept(
        self, pool: Pool, tmp_path: Path
    ) -> None:
        pool.fails = OSError(28, "no room")
        with pytest.raises(OSError, match="no room"):
            await shelf_of(pool, tmp_path).keep("aa", STATE, "domain", "disk")
        assert pool.calls[-1] == "resume"
        assert await shelf_of(pool, tmp_path).take("aa", "mine") is None

    async def test_a_state_that_cannot_be_noted_leaves_no_disk(
        self, pool: Pool, tmp_path: Path
    ) -> None:
        (tmp_path / "prepared").write_text("in the way")
        with pytest.raises(OSError, match="exists"):
            await shelf_of(pool, tmp_path).keep("aa", STATE, "domain", "disk")
        assert list(pool.volumes) == ["disk"]

    async def test_one_that_takes_too_much_room_is_not_kept(
        self, pool: Pool, tmp_path: Path
    ) -> None:
        pool.volumes["disk"] = 5 << 30
        with pytest.raises(TooLarge, match="5,120 MiB"):
            await shelf_of(pool, tmp_path).keep("aa", STATE, "domain", "disk")
        assert pool.calls[-1] == "resume"
        assert list(pool.volumes) == ["disk"]

    async def test_those_that_were_not_used_for_longest_give_way(
        self, pool: Pool, tmp_path: Path
    ) -> None:
        shelf, names = shelf_of(pool, tmp_path), ("aa", "bb", "cc", "dd")
        pool.volumes["disk"] = 2 << 30
        for age, name in enumerate(reversed(names)):
            await shelf.keep(name, STATE, "domain", "disk")
            long_ago = 1_000_000 - age
            os.utime(tmp_path / "prepared" / name, (long_ago, long_ago))
        assert await shelf.take("aa", "mine") == STATE  # which is its use
        await shelf.keep("ee", STATE, "domain", "disk")
        await shelf.keep("ff", STATE, "domain", "disk")
        kept = {place.name for place in (tmp_path / "prepared").iterdir()}
        assert kept == {"aa", "cc", "dd", "ee", "ff"}
        assert sum(name.startswith(prepared.PREFIX) for name in pool.volumes) == 5

    async def test_one_that_is_forgotten_is_gone(self, pool: Pool, tmp_path: Path) -> None:
        shelf = shelf_of(pool, tmp_path)
        await shelf.keep("aa", STATE, "domain", "disk")
        await shelf.forget("aa")
        await shelf.forget("aa")
        assert list(pool.volumes) == ["disk"]
        assert list((tmp_path / "prepared").iterdir()) == []

    async def test_what_was_cut_short_is_swept_away_and_nothing_else(
        self, pool: Pool, tmp_path: Path
    ) -> None:
        shelf = shelf_of(pool, tmp_path)
        await shelf.keep("aa", STATE, "domain", "disk")
        (volume,) = (name for name in pool.volumes if name.startswith(prepared.PREFIX))
        others = [f"{volume[:-2]}dd", f"{prepared.PREFIX}00000000-bb", "benchscale-base-bb"]
        pool.volumes |= dict.fromkeys([f"{volume[:-2]}bb", *others], MIB)
        unfinished = tmp_path / "prepared" / "unfinished-cc"
        unfinished.mkdir()
        (unfinished / "login").write_text("secret")
        with locked(tmp_path / "locks" / "prepared-dd.lock"):  # somebody is about to make it
            await shelf.sweep()
        assert set(pool.volumes) == {"disk", volume, *others}
        assert [place.name for place in (tmp_path / "prepared").iterdir()] == ["aa"]


def test_keys_lie_in_the_labs_own_directory(tmp_path: Path) -> None:
    keys = LabKeys("0a", tmp_path)
    file = keys.login_file("alpha")
    assert [file] == list(tmp_path.rglob("key-*"))
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    other = LabKeys("0a", tmp_path)  # of who takes the lab over
    other.find("alpha", file.name, keys.of("alpha").host)
    assert other.of("alpha") == keys.of("alpha")
    assert other.login_file("alpha") == file
    assert [file] == list(tmp_path.rglob("key-*"))
    keys.close()
    assert not list(tmp_path.iterdir())


def test_a_node_is_reached_with_the_keys_that_it_has() -> None:
    keys = LabKeys("0a")
    try:
        own = keys.of("alpha")
        assert keys.login_file("alpha").read_bytes() == own.login
        assert own.host == keys.host_key("alpha").public != keys.host_key("beta").public
        keys.take_over("alpha", STATE.keys)
        assert keys.of("alpha") == STATE.keys
        assert keys.login_file("alpha").read_bytes() == b"login"
        assert keys.login_file("alpha").stat().st_mode & 0o077 == 0
        assert keys.of("beta").login == own.login
        keys.take_over("beta", GuestKeys(b"beta's", "ssh-ed25519 BBBB"))
        keys.make_anew("alpha")
        assert keys.of("alpha") == own
        keys.take_over("gamma", STATE.keys)
        assert keys.login_file("beta").read_bytes() == b"beta's"
    finally:
        keys.close()
    assert not keys.login_file("alpha").exists()
