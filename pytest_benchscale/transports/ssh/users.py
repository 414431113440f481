"""Commands as another user than the one who logged in."""

from __future__ import annotations

import shlex
from dataclasses import replace

from pytest_benchscale.transports.base import Command

__all__ = ["switched"]

# What says that it cannot be done says so in the place of the command: the shell's words are its reason.
_SWITCH = """\
u={user}
case $u in *[!0-9]*) ;; *) n=$(id -nu "$u" 2>/dev/null) && u=$n ;; esac
if ! id -u "$u" >/dev/null 2>&1; then echo "unknown user {plain}" >&2; exit 126; fi
if [ "$(id -u)" = "$(id -u "$u")" ]; then exec {command}; fi
if [ "$(id -u)" = 0 ]; then
if command -v runuser >/dev/null; then exec runuser -u "$u" -- {command}; fi
exec su -s /bin/sh "$u" -c {line}
fi
if ! command -v sudo >/dev/null; then echo "only root can be another user: there is no sudo" >&2; exit 126; fi
exec sudo -n -u "$u" -- {command}
"""


def switched(command: Command) -> Command:
    """Return the command that runs this one as its user: by root with runuser or su, else with sudo."""
    if command.user is None:
        return command
    words = shlex.join(command.argv)
    script = _SWITCH.format(
        user=shlex.quote(command.user),
        plain=command.user.replace('"', "'").replace("`", "'").replace("$", "").replace("\\", ""),
        command=words,
        line=shlex.quote(f"exec {words}"),
    )
    return replace(command, argv=("/bin/sh", "-c", script), user=None)
