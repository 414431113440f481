"""Bringing the test images into a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.daemons.images import IMAGES, reference

__all__ = ["has", "load", "missing", "names"]


def missing(client: Any) -> list[str]:
    """Return the test images that a daemon does not have, by name."""
    there = {tag for image in client.images.list() for tag in image.tags}
    return [name for name in IMAGES if not names(name) & there]


def has(client: Any, name: str) -> bool:
    """Return whether a daemon has a test image."""
    return name not in missing(client)


def names(name: str) -> set[str]:
    """Return what the daemons call a test image: podman shows the registry that it assumes."""
    return {reference(name), f"docker.io/{reference(name)}", f"localhost/{reference(name)}"}


def load(client: Any, name: str, tarball: Path) -> None:
    """Import a test image into a daemon."""
    # The tag as part of the name: podman 4.3 does not see it as a parameter of its own.
    client.api.import_image_from_stream(
        _chunks(tarball), repository=reference(name), changes=list(IMAGES[name].changes)
    )
    assert has(client, name), f"{reference(name)} was imported, but the daemon does not have it"


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk
