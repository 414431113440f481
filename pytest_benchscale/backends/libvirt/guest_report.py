"""What is asked inside a guest about its boot, with no more than a shell, and what it answers.

cloud-init keeps the state of its stages in /run/cloud-init/status.json, written at the beginning and at the
end of each, and writes result.json when the last one is over (cloudinit/cmd/main.py, status_wrapper).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pytest_benchscale.topology.addressing import IpAddress
from pytest_benchscale.transports.base import Command

__all__ = ["Diagnosis", "Status", "diagnosis_command", "waiting_command"]

# A stage that failed to begin with may have left nothing but the journal.
_DIAGNOSE = """\
df -Pk / | { read -r _; read -r _ size _ free _; echo "$size $free"; }
if [ -s /var/log/cloud-init-output.log ]; then
    echo "the end of /var/log/cloud-init-output.log:"
    sed '/^ci-info: /d' /var/log/cloud-init-output.log | tail -n 30
elif command -v journalctl >/dev/null; then
    echo "the end of its journal about cloud-init:"
    journalctl --no-pager -o cat -n 30 -u 'cloud-*'
fi 2>&1
"""

# One command waits for all: an emulated guest pays dearly for each one that starts, up to 0.1 s for a
# `sleep` and 0.3 s for a `systemctl`. So in the loop nothing is started where there is bash, which can wait
# by itself; but systemctl, seldom, and when a stage has no process any more and has not said how it ended.
_IN_THE_BEST_SHELL = """\
if command -v bash >/dev/null && [ -e /dev/fd ]; then exec bash -c "$@"; fi
exec /bin/sh -c "$@"
"""
_WAIT = """\
looks=$1; shift
never=
if [ "$BASH_VERSION" ]; then eval 'exec 9<> <(:)' && never=1; fi
at=/run/cloud-init
read -r id </proc/sys/kernel/random/boot_id
echo "boot $id"
pause() {
    looks=$((looks - 1))
    [ $looks -gt 0 ] || exit 1
    if [ "$never" ]; then read -rt 0.2 _ <&9; else sleep 0.2; fi
}
status() {
    echo status
    [ ! -r $at/status.json ] || cat $at/status.json
    echo
    echo end
}
look() {
    doing=
    while IFS= read -r line; do
        case $line in
        *'"errors": ['*']'*) ;;
        *'"errors": ['*) finding=error;;
        *'"stage": "'*)
            now=${line#*'"stage": "'}; now=${now%%\\"*}
            [ "$now" = "$stage" ] || echo "stage $now"
            doing=1 stage=$now;;
        esac
    done <$at/status.json
}
going_down() {
    [ ! -e /run/systemd/shutdown/scheduled ] || return 0
    command -v systemctl >/dev/null || return 1
    case $(systemctl is-system-running 2>/dev/null) in
    stopping|unknown) return 0;;
    esac
    return 1
}
await_reboot() {
    going_down || return 0
    echo stopping
    while going_down; do pause; done
}
is_at_work() {
    for group in /sys/fs/cgroup/system.slice/cloud-*.service \
        /sys/fs/cgroup/systemd/system.slice/cloud-*.service; do
        if [ -d "$group" ]; then return 0; fi
    done
    return 1
}
may_have_crashed() {
    [ $((looks % 7)) = 0 ] || return 1
    [ $((looks % 49)) = 0 ] || { [ "$doing" ] && ! is_at_work; }
}
crashed() {
    command -v systemctl >/dev/null || return 1
    for unit in cloud-init-local cloud-init cloud-init-network cloud-init-main cloud-config cloud-final; do
        set -- "$@" $unit.service
    done
    systemctl --quiet is-failed "$@"
}
has() {
    case $1 in
    *.*)
        while read -r sign one kind; do
            case $sign in
            '|--') leaf=$one;;
            /32) if [ "$leaf $one $kind" = "$1 host LOCAL" ]; then return 0; fi;;
            esac
        done </proc/net/fib_trie;;
    *)
        [ -r /proc/net/if_inet6 ] || return 1
        while read -r one _ _ _ flags _; do
            if [ "$one" = "$1" ] && [ $((0x$flags & 0x40)) = 0 ]; then return 0; fi
        done </proc/net/if_inet6;;
    esac
    return 1
}
fail() {
    status
    echo $finding
    diagnose
    exit 0
}
# What the boot has written, such as sshd's keys, is to be there also when the power is cut just now.
end() {
    ! command -v sync >/dev/null || sync
    echo $1
    exit 0
}
stage= doing=
if [ -e $at/disabled ]; then end disabled; fi
if [ ! -d $at ] && ! command -v cloud-init >/dev/null; then end none; fi
while [ ! -e $at/result.json ]; do
    finding=
    [ ! -r $at/status.json ] || look
    if may_have_crashed && [ ! -e $at/result.json ] && crashed; then finding=crashed; fi
    # A machine that goes down ends cloud-init, which is no failure of its.
    if [ "$finding" ] && ! going_down; then fail; fi
    [ -z "$finding" ] || await_reboot
    pause
done
await_reboot
finding=
[ ! -r $at/status.json ] || look
[ -z "$finding" ] || fail
status
for address; do
    if ! has $address; then
        echo "address $address"
        until has $address; do pause; done
    fi
done
end done
"""
_LOOKS_PER_SECOND = 5


def waiting_command(seconds: float, addresses: Iterable[IpAddress]) -> Command:
    """Return what waits until cloud-init is through and the addresses are there, `seconds` at the most.

    It writes lines: `boot ID`; `stage NAME` for each stage that it sees; `address ADDRESS` for the one
    that it waits for; the content of status.json between `status` and `end`; and at last `done`, `none`,
    `disabled`, `error` or `crashed`, these two followed by what `Diagnosis` reads. `stopping` means that
    the guest goes down; nothing comes after it.
    """
    looks = max(1, round(seconds * _LOOKS_PER_SECOND))
    written = [_as_the_kernel_writes(one) for one in addresses]
    whole = f"diagnose() {{\n{_DIAGNOSE}}}\n{_WAIT}"
    script = (whole, "benchscale-ready", str(looks), *written)
    return Command(("/bin/sh", "-c", _IN_THE_BEST_SHELL, "benchscale-ready", *script))


def _as_the_kernel_writes(address: IpAddress) -> str:
    return str(address) if address.version == 4 else address.packed.hex()


def diagnosis_command() -> Command:
    """Return what tells why cloud-init failed; see `Diagnosis`."""
    return Command(("/bin/sh", "-c", _DIAGNOSE))


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """How full the guest's disk is, in MiB (None: not known), and the end of cloud-init's output."""

    size: int | None
    free: int | None
    output: str

    @classmethod
    def parse(cls, text: str) -> Diagnosis:
        """Read what `diagnosis_command` wrote."""
        first, _, rest = text.partition("\n")
        words = first.split()
        if len(words) == 2 and all(word.isdecimal() for word in words):
            size, free = (int(word) // 1024 for word in words)
            return cls(size, free, rest.strip())
        return cls(None, None, text.strip())

    @property
    def is_disk_full(self) -> bool:
        """Whether nothing fits on the disk any more."""
        return self.free == 0 or "No space left on device" in self.output


@dataclass(frozen=True, slots=True)
class Status:
    """What cloud-init says of itself: (stage, what went wrong), fatal and not."""

    errors: tuple[tuple[str, str], ...] = ()
    warnings: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Status:
        """Read status.json, which may be missing or cut off."""
        try:
            stages = json.loads(text)["v1"]
            return cls(tuple(_errors(stages)), tuple(_warnings(stages)))
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls()


def _errors(stages: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for name, stage in stages.items():
        if isinstance(stage, dict):
            for error in stage.get("errors") or ():
                yield name, str(error)


def _warnings(stages: dict[str, Any]) -> Iterable[tuple[str, str]]:
    for name, stage in stages.items():
        if isinstance(stage, dict):
            for level, messages in (stage.get("recoverable_errors") or {}).items():
                for message in messages:
                    yield name, f"{level}: {message}"
