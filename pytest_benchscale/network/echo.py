"""Probes between nodes: who reaches whom, how fast, and how much is lost on the way."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Echoes"]


class Echoes(Protocol):
    """The way to send and answer probes from within one running node's network."""
