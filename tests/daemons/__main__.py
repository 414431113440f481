"""What the scripts call: `run COMMAND...`, and `image-options`."""

from __future__ import annotations

import sys

from tests.daemons import provide
from tests.daemons.images import reference

# Names of the catalogue that the example topologies use for containers, and what stands in.
_STAND_INS = {"default": "debian", "python": "debian", "postgres:15": "postgres"}


def main() -> int:
    """Do what the arguments say; return the exit code."""
    match sys.argv[1:]:
        case ["run", *command] if command:
            return provide.run(command)
        case ["image-options"]:
            print(
                *(f"--benchscale-image={name}={reference(it)}" for name, it in _STAND_INS.items())
            )
            return 0
        case _:
            print("usage: python -m tests.daemons run COMMAND... | image-options", file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(main())
