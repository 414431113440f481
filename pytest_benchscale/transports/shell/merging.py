"""Whether a tree can be merged into one that is in a node: asked before anything is changed.

A tar would put a directory in the place of a file, or of a symlink to a directory, without a word.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from shlex import quote

__all__ = ["Question", "questions"]

_LONGEST = 48 << 10  # characters of names in one script; Linux takes arguments of up to 128 KiB

# Prints the number of the first entry that cannot be merged, and whether it should be a directory.
_SCRIPT = """\
cd {directory} || exit 1
i=0
d() {{
for p; do
if [ -L "$p" ] || {{ [ -e "$p" ] && ! [ -d "$p" ]; }}; then echo "$i d"; exit; fi
i=$((i+1))
done
}}
f() {{
for p; do
if [ -d "$p" ] && ! [ -L "$p" ]; then echo "$i f"; exit; fi
i=$((i+1))
done
}}
d {directories}
f {files}
"""


class Question:
    """Some entries of a tree, and the script that looks for what is in their way."""

    def __init__(self, directories: list[str], files: list[str]) -> None:
        self._names = directories + files
        self._directories = directories
        self._files = files

    def script(self, directory: str) -> str:
        """Return the script; `directory` is a word of a shell."""
        return _SCRIPT.format(
            directory=directory,
            directories=" ".join(map(quote, self._directories)),
            files=" ".join(map(quote, self._files)),
        )

    def conflict(self, answer: str) -> tuple[str, bool] | None:
        """Return what cannot be merged, and whether a directory was to go there."""
        if not answer.strip():
            return None
        number, kind = answer.split()
        return self._names[int(number)].removeprefix("./"), kind == "d"


def questions(source: str) -> Iterator[Question]:
    """Yield questions about all entries below a directory."""
    directories: list[str] = []
    files: list[str] = []
    length = 0
    for name, is_directory in _entries(source):
        (directories if is_directory else files).append(name)
        length += len(quote(name)) + 1
        if length > _LONGEST:
            yield Question(directories, files)
            directories, files, length = [], [], 0
    if directories or files:
        yield Question(directories, files)


def _entries(source: str) -> Iterator[tuple[str, bool]]:
    todo = ["."]
    while todo:
        directory = todo.pop()
        with os.scandir(f"{source}/{directory}") as entries:
            for entry in entries:
                name = f"{directory}/{entry.name}"
                is_directory = entry.is_dir(follow_symlinks=False)
                if is_directory:
                    todo.append(name)
                yield name, is_directory
