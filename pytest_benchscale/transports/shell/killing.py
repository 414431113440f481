"""Ending a command with all it started, from inside its node."""

from __future__ import annotations

from pytest_benchscale.transports.shell.agent import MARKER

__all__ = ["DENIED", "KILL"]

_MOST_LOOKS = 500
DENIED = 3
"""The exit code of `KILL` when a process is left that its user may not kill."""

# Needs nothing but a shell's builtins; grep makes it faster. A process belongs to the command when it is
# the command, or its parent belongs, or it writes to one of the session's outputs, or has the command's
# mark in its environment. An sshd that reads these outputs is none of it, nor is a parent of the session's
# shell, such as sudo. Everything found is stopped first, so that no child can lose its parent, and killed
# when a look finds no more; all over again until there is nothing to be found.
KILL = f"""\
root=$1 shell=$2 agent=$3 mark=$4
writes() {{
while read -r k v; do
case $k$v in flags:*[12]) return 0 ;; flags:*) return 1 ;; esac
done <"/proc/$p/fdinfo/${{f##*/}}"
return 1
}}
try() {{
case $family$apart in *" $p "*) return ;; esac
if ! IFS= read -r s <"/proc/$p/stat"; then
case $marked in *"/proc/$p/environ"*) more=1 ;; esac  # gone, and may have left a child
return
fi
s=${{s##*) }}
set -- $s
case $1 in Z|X) return ;; esac
mine=
case "$family" in *" $2 "*) mine=1 ;; esac
[ "$p" = "$root" ] && mine=1
if [ -z "$mine" ]; then
for f in /proc/$p/fd/*; do
if [ "$f" -ef "/proc/$agent/fd/4" ] || [ "$f" -ef "/proc/$agent/fd/5" ]; then writes && mine=1 && break; fi
done
fi
if [ -z "$mine" ] && [ -n "$quick" ]; then
case $marked in *"/proc/$p/environ"*) mine=1 ;; esac
elif [ -z "$mine" ]; then
while IFS= read -r e || [ -n "$e" ]; do
case $e in *"{MARKER}=$mark"*) mine=1; break ;; esac
done <"/proc/$p/environ"
fi
[ -n "$mine" ] || return
kill -s STOP "$p" || denied=1
family="$family$p " more=1
}}
exec 2>/dev/null
apart=" 1 $$ $PPID $shell $agent "
p=$agent
while IFS= read -r s <"/proc/$p/stat"; do
s=${{s##*) }}
set -- $s
p=$2 apart="$apart$2 "
done
quick=$(command -v grep) looks=0
while :; do
family=' ' denied=
more=1
while [ -n "$more" ]; do
more= marked=
looks=$((looks + 1))
[ $looks -gt {_MOST_LOOKS} ] && exit 1
[ -n "$quick" ] && marked=$(grep -lsF -- "{MARKER}=$mark" /proc/[0-9]*/environ)
for d in /proc/[0-9]*; do p=${{d#/proc/}}; try; done
done
[ "$family" = ' ' ] && exit 0
for p in $family; do kill -s KILL "$p"; done
[ -n "$denied" ] && exit {DENIED}
done
"""
