#!/usr/bin/env python3
"""Print what a URL answers: a curl for nodes that have only Python."""

import sys
from urllib.request import urlopen

with urlopen(sys.argv[1], timeout=5) as answer:
    sys.stdout.buffer.write(answer.read())
