"""What the scripts call: commands with what they need, and the images that stand in for the examples'."""

from __future__ import annotations

import os
import sys
from shutil import which

from tests.daemons import provide
from tests.daemons.guests import guest_path
from tests.daemons.images import reference
from tests.daemons.standing import with_machine

# Names of the catalogue that the example topologies use for containers, and what stands in.
_STAND_INS = {
    "default": "debian",
    "python": "debian",
    "postgres:15": "postgres",
    "quay.io/coreos/etcd:v3.4.20": "etcd",
}

# Those for which this machine does, on `local`, and the program that it must have: in CI it is installed.
_ON_THIS_MACHINE = {"quay.io/coreos/etcd:v3.4.20": "etcd"}

_GUEST = "debian-12"  # what they use for virtual machines


def main() -> int:
    """Do what the arguments say; return the exit code."""
    match sys.argv[1:]:
        case ["run", *command] if command:
            return provide.run(command)
        case ["with-machine", name, *command] if command:
            return with_machine(name, command)
        case ["image-options"]:
            print(
                *(f"--benchscale-image={name}={reference(it)}" for name, it in _STAND_INS.items())
            )
            return 0
        case ["host-options"]:
            there = [
                name for name, it in _ON_THIS_MACHINE.items() if os.environ.get("CI") or which(it)
            ]
            print(*(f"--benchscale-image={name}=host" for name in there))
            return 0
        case ["guest-options"]:
            print(f"--benchscale-image={_GUEST}={guest_path()}")
            return 0
        case _:
            usage = "run COMMAND... | with-machine NAME COMMAND... | {image,host,guest}-options"
            print(f"usage: python -m tests.daemons {usage}", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
