"""The seed of a guest: a small disk on which cloud-init finds its configuration (data source NoCloud)."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["LABEL", "seed_image"]

LABEL = "cidata"
"""What cloud-init looks for: the volume's label."""


def seed_image(files: Mapping[str, bytes]) -> bytes:
    """Return an ISO 9660 image with these files; equal files make equal images."""
    raise NotImplementedError
