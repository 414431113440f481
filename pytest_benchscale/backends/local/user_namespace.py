"""The user namespace of nodes that the machine's root makes."""

from __future__ import annotations

import os

from pytest_benchscale.transports.namespace import linux


def make_user_namespace() -> int:
    """Return a user namespace with the machine's own ids, for nodes that the machine's root makes.

    In it a node's root is root over the node's files and networks, and nobody over the machine. The
    holder moves into a network namespace that belongs to it, so that nodes may add links there.
    """
    told, tell = os.pipe2(os.O_CLOEXEC)
    wait, done = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.close(done)
            linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNET)
            os.write(tell, b"y")
            os.read(wait, 1)
        except OSError as error:
            os.write(tell, str(error.errno).encode())
        finally:
            os._exit(0)
    os.close(tell)
    os.close(wait)
    try:
        answer = os.read(told, 16)
        if answer != b"y":
            number = int(answer or b"0")
            raise OSError(number, os.strerror(number), "user namespace")
        for kind in ("uid_map", "gid_map"):
            with open(f"/proc/self/{kind}", encoding="ascii") as file:
                ranges = [line.split() for line in file]
            with open(f"/proc/{pid}/{kind}", "w", encoding="ascii") as file:
                file.write("".join(f"{inside} {inside} {count}\n" for inside, _, count in ranges))
        namespace = os.open(f"/proc/{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        network = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        linux.setns(network, linux.CLONE_NEWNET)
        os.close(network)
    finally:
        os.close(done)
        os.close(told)
        os.waitpid(pid, 0)
    return namespace
