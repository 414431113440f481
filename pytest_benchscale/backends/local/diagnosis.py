"""What an errno of the kernel means for somebody who wants a lab, and what to do about it."""

from __future__ import annotations

import errno
from pathlib import Path

__all__ = ["explain"]

_REFUSALS = frozenset({errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSPC})
_IN_A_CONTAINER = (
    "inside a container, start it with the capability SYS_ADMIN and a seccomp profile that allows "
    "unshare (`--privileged`, or `--cap-add SYS_ADMIN --security-opt seccomp=unconfined`); "
    "otherwise look at the limits in /proc/sys/user"
)
_MASKED_PROC = (
    "a surrounding container hides parts of /proc or forbids mounts: start it with `--privileged`, "
    "or with `--security-opt systempaths=unconfined`"
)
_MORE_NAMESPACES = (
    "raise the values in /proc/sys/user, such as `sudo sysctl -w user.max_net_namespaces=15000`"
)

# What switches user namespaces off, and the value that does. The first is the kernel's, the second
# Debian's and Ubuntu's, the third Ubuntu's since 23.10.
_SWITCHES = (
    ("user.max_user_namespaces", "0", "15000"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
)


def explain(step: str, number: int, text: str) -> tuple[str, str]:
    """Return the reason and the resolution for an errno that came up in a step."""
    if number == errno.EAGAIN or step == "fork":
        return (
            f"this user can start no further process ({text})",
            "raise the limit (`ulimit -u`, or the container's pids limit) or end other processes",
        )
    if step in ("namespaces", "mounts") and number in _REFUSALS:
        return _refused(step, number, text)
    if number == errno.EBADMSG:
        return (
            text,
            "give a directory, or a tarball (.tar, .tar.gz, .tar.xz), of a root file system",
        )
    return f"{step}: {text}", "see the kernel's log (`dmesg`) for more"


def _refused(step: str, number: int, text: str) -> tuple[str, str]:
    for name, off, on in _SWITCHES:
        if _sysctl(name) == off:
            return (
                f"user namespaces are switched off ({name} = {off})",
                f"switch them on: `sudo sysctl -w {name}={on}`",
            )
    if number == errno.ENOSPC:
        return f"a limit on namespaces is reached ({text})", _MORE_NAMESPACES
    if step == "mounts":
        return f"mounting is refused ({text})", _MASKED_PROC
    return f"the kernel refuses new namespaces ({text})", _IN_A_CONTAINER


def _sysctl(name: str) -> str | None:
    try:
        return Path("/proc/sys", name.replace(".", "/")).read_text(encoding="ascii").strip()
    except OSError:
        return None
