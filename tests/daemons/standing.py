"""A virtual machine that is there before the tests and without the plugin, as a user of theirs may have one.

libvirt-python alone makes it, of the cached guest: with a pool, a network and a seed of its own, and with
the service of the example of a remote desktop. Everything is found again by its UUID, and removed when the
command ends that it was made for.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import sys
import tarfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncssh
import yaml

from tests.daemons import virtual
from tests.daemons.commands import leave_on_signals, run_command
from tests.daemons.endpoints import Unreachable
from tests.daemons.guests import GuestDisk, cached_guest

__all__ = ["with_machine"]

USER = PASSWORD = "iontest"
_PACKAGE = Path(__file__).parents[2] / "example_topologies" / "remote_desktop" / "package"
_SECONDS_TO_BOOT = 300.0  # under emulation it takes one
_POLL = 0.2
_LINES_SHOWN = 20
_POOLS = Path("/var/lib/libvirt/images")

_POOL = """
<pool type="dir"><name>{name}</name><uuid>{uuid}</uuid><target><path>{directory}</path></target></pool>
"""
_VOLUME = """
<volume><name>{name}</name><capacity>{size}</capacity><target><format type="{kind}"/></target></volume>
"""
# RFC 5737: an address for examples, so that nobody has it. libvirt leases it, and finds it by that.
_NETWORK = """
<network>
  <name>{name}</name><uuid>{uuid}</uuid><bridge stp="off" delay="0"/>
  <ip address="198.51.100.1" prefix="24">
    <dhcp><range start="198.51.100.10" end="198.51.100.99"/></dhcp>
  </ip>
</network>
"""
# Emulated, which works everywhere; as `boot_reference` tells, without the boot loader.
_DOMAIN = """
<domain type="qemu">
  <name>{name}</name><uuid>{uuid}</uuid>
  <memory unit="MiB">512</memory><vcpu>2</vcpu><cpu mode="maximum"/>
  <os>
    <type>hvm</type><kernel>{directory}/kernel</kernel><initrd>{directory}/initramfs</initrd>
    <cmdline>{command_line}</cmdline>
  </os>
  <features><acpi/><apic/></features>
  <devices>
    <disk type="file" device="disk">
      <driver name="qemu" type="qcow2" cache="unsafe"/>
      <source file="{directory}/disk"/><target dev="vda" bus="virtio"/>
    </disk>
    <disk type="file" device="disk">
      <driver name="qemu" type="raw"/><source file="{directory}/seed"/><target dev="vdb" bus="virtio"/>
      <readonly/>
    </disk>
    <interface type="network">
      <mac address="{mac}"/><source network="{name}"/><model type="virtio"/><rom enabled="no"/>
    </interface>
    <serial type="file"><source path="{directory}/console"/></serial>
    <rng model="virtio"><backend model="random">/dev/urandom</backend></rng>
    <memballoon model="none"/>
  </devices>
</domain>
"""

_INSTALL = """
mkdir /run/seed
mount -o ro LABEL=cidata /run/seed
tar -xf /run/seed/package.tar -C /tmp
umount /run/seed
dpkg-deb --root-owner-group --build /tmp/package /tmp/remote-desk.deb
dpkg --install /tmp/remote-desk.deb
"""
_CONFIGURATION = {"path": "/etc/remote-desk.conf", "content": "port = 21118\n"}


class NoMachine(Exception):
    """The machine cannot be had; the text says why."""


@dataclass(frozen=True)
class _Plan:
    """What is made: the name that all of it has, and what tells it from others of that name."""

    name: str
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))

    @property
    def directory(self) -> Path:
        return _POOLS / f"{self.name}-{self.uuid[:8]}"

    @property
    def mac(self) -> str:
        return ":".join(["52:54:00", *(self.uuid[place : place + 2] for place in (0, 2, 4))])


def with_machine(name: str, command: Sequence[str]) -> int:
    """Run a command while a machine of that name is there; return its exit code.

    Without the machine when it cannot be had: the tests tell.
    """
    leave_on_signals()
    with contextlib.ExitStack() as ends:
        try:
            ends.enter_context(_machine(name))
        except (NoMachine, Unreachable) as error:
            _say(f"no machine {name}: {error}")
        try:
            return run_command(command, os.environ)
        except OSError as error:
            _say(f"{command[0]}: {error.strerror}")
            return 127


def _say(text: str) -> None:
    print(f"with-machine: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _machine(name: str) -> Iterator[None]:
    """Make the machine, and remove it in the end; one that is there already stays.

    Raises:
        NoMachine: it cannot be made.
    """
    guest = cached_guest()
    if guest is None:
        raise NoMachine("no guest was made for virtual machines")
    plan = _Plan(name)
    with virtual.connection(virtual.find()) as libvirtd, contextlib.ExitStack() as ends:
        if name in {domain.name() for domain in libvirtd.listAllDomains()}:
            _say(f"there is a machine {name} already, which stays as it is")
            yield
            return
        import libvirt  # noqa: PLC0415  it is not always there; here it is

        begun = time.monotonic()
        try:
            domain = _make(libvirtd, plan, guest, ends)
            asyncio.run(_until_ready(libvirtd, domain, plan))
        except libvirt.libvirtError as error:
            raise NoMachine(str(error)) from error
        _say(f"machine {name} is there after {time.monotonic() - begun:.0f} s")
        yield


def _make(libvirtd: Any, plan: _Plan, guest: GuestDisk, ends: contextlib.ExitStack) -> Any:
    """Make pool, network and domain; each is removed by its UUID, also when this is cut short."""
    import libvirt  # noqa: PLC0415  as above

    words = {"name": plan.name, "uuid": plan.uuid, "directory": plan.directory}
    ends.callback(_remove, lambda: libvirtd.storagePoolLookupByUUIDString(plan.uuid), _end_pool)
    pool = libvirtd.storagePoolDefineXML(_POOL.format(**words), 0)
    pool.build(0)
    pool.create(0)
    for name, kind, content in (
        ("disk", "qcow2", guest.disk.read_bytes()),
        ("kernel", "raw", guest.kernel.read_bytes()),
        ("initramfs", "raw", guest.initramfs.read_bytes()),
        ("seed", "raw", _seed(plan)),
    ):
        _upload(libvirtd, pool, name, kind, content)
    ends.callback(
        _remove, lambda: libvirtd.networkLookupByUUIDString(plan.uuid), lambda one: one.destroy()
    )
    libvirtd.networkCreateXML(_NETWORK.format(**words))
    ends.callback(_remove, lambda: libvirtd.lookupByUUIDString(plan.uuid), _end_domain)
    described = _DOMAIN.format(**words, mac=plan.mac, command_line=guest.command_line)
    domain = libvirtd.defineXML(described)
    domain.createWithFlags(libvirt.VIR_DOMAIN_START_AUTODESTROY)  # should this process be killed
    return domain


def _upload(libvirtd: Any, pool: Any, name: str, kind: str, content: bytes) -> None:
    volume = pool.createXML(_VOLUME.format(name=name, size=len(content), kind=kind), 0)
    stream = libvirtd.newStream(0)
    volume.upload(stream, 0, len(content), 0)
    file = io.BytesIO(content)
    stream.sendAll(lambda _stream, size, _: file.read(size), None)
    stream.finish()


def _remove(find: Callable[[], Any], end: Callable[[Any], None]) -> None:
    """Remove what was made, if it came to that."""
    import libvirt  # noqa: PLC0415  as above

    absent = {
        libvirt.VIR_ERR_NO_DOMAIN,
        libvirt.VIR_ERR_NO_NETWORK,
        libvirt.VIR_ERR_NO_STORAGE_POOL,
    }
    try:
        end(find())
    except libvirt.libvirtError as error:
        if error.get_error_code() not in absent:
            _say(f"something is left: {error}")


def _end_domain(domain: Any) -> None:
    if domain.isActive():
        domain.destroy()
    domain.undefine()


def _end_pool(pool: Any) -> None:
    try:
        if pool.isActive():
            pool.refresh(0)  # the console came by another way
            for volume in pool.listAllVolumes():
                volume.delete(0)
            pool.destroy()
        pool.delete(0)  # its directory
    finally:
        pool.undefine()


def _seed(plan: _Plan) -> bytes:
    """Return a disk by which cloud-init makes the user and installs the service."""
    from pytest_benchscale.backends.libvirt.seed import seed_image  # noqa: PLC0415  as libvirt

    user = {
        "name": USER,
        "shell": "/bin/bash",
        "sudo": "ALL=(ALL) NOPASSWD:ALL",
        "lock_passwd": False,
        "plain_text_passwd": PASSWORD,
    }
    told = {
        "hostname": plan.name,
        "ssh_pwauth": True,
        "ssh": {"emit_keys_to_console": False},
        "ssh_genkeytypes": ["ed25519"],  # the others take their time
        "no_ssh_fingerprints": True,
        "users": [user],
        "write_files": [_CONFIGURATION],
        "runcmd": [["sh", "-euc", _INSTALL]],
    }
    device = {"match": {"macaddress": plan.mac}, "dhcp4": True}
    package = io.BytesIO()
    with tarfile.open(fileobj=package, mode="w") as archive:
        archive.add(_PACKAGE, "package")
    return seed_image(
        {
            "user-data": f"#cloud-config\n{yaml.safe_dump(told)}".encode(),
            "meta-data": yaml.safe_dump({"instance-id": plan.uuid}).encode(),
            "network-config": yaml.safe_dump(
                {"version": 2, "ethernets": {"net0": device}}
            ).encode(),
            "package.tar": package.getvalue(),
        }
    )


async def _until_ready(libvirtd: Any, domain: Any, plan: _Plan) -> None:
    """Wait until the user can log in and cloud-init has finished.

    Raises:
        NoMachine: that does not happen.
    """
    last = "it has no address"
    try:
        async with asyncio.timeout(_SECONDS_TO_BOOT):
            network = libvirtd.networkLookupByUUIDString(plan.uuid)
            while True:
                if not domain.isActive():
                    raise _not_ready(plan, "it ended")
                for lease in network.DHCPLeases(plan.mac):
                    try:
                        return await _set_up(lease["ipaddr"], plan)
                    except (OSError, asyncssh.Error) as error:
                        last = str(error)
                await asyncio.sleep(_POLL)
    except TimeoutError:
        reason = f"it was not ready after {_SECONDS_TO_BOOT:.0f} s: {last}"
        raise _not_ready(plan, reason) from None


async def _set_up(host: str, plan: _Plan) -> None:
    """Log in, and wait for the end of cloud-init."""
    login = asyncssh.connect(
        host,
        username=USER,
        password=PASSWORD,
        known_hosts=None,
        client_keys=None,
        agent_path=None,
        config=None,
    )
    async with login as connection:
        result = await connection.run("cloud-init status --wait --long")
    if result.exit_status is None:
        raise ConnectionError(
            "the connection ended"
        )  # cloud-init has the sshd read its settings anew
    if result.exit_status != 0:
        raise _not_ready(plan, f"cloud-init failed: {result.stdout!s}")


def _not_ready(plan: _Plan, reason: str) -> NoMachine:
    console = plan.directory / "console"
    with contextlib.suppress(OSError):  # another user's
        lines = console.read_text(errors="replace").splitlines()[-_LINES_SHOWN:]
        reason = "\n".join([reason, "its console's end:", *lines])
    return NoMachine(reason)
