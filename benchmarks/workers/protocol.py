"""What every contestant speaks: a request a line in, a JSON list of seconds out.

`up 50` is answered with `[0.31]`. A worker that fails simply ends, with its traceback on standard
error. `floor.c` speaks the same.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Awaitable, Callable

Verb = Callable[..., Awaitable[list[float]]]


async def serve(*verbs: Verb) -> None:
    """Answer requests, one after the other and all in one task, until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")  # whatever else prints goes to standard error
    os.dup2(2, 1)
    by_name = {verb.__name__: verb for verb in verbs}
    for line in sys.stdin:
        verb, *arguments = line.split()
        print(json.dumps(await by_name[verb](*arguments)), file=answers, flush=True)
