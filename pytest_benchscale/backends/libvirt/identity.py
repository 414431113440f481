"""What a guest is made of, in so few words that two of them can be compared."""

from __future__ import annotations

import hashlib
import json

from pytest_benchscale.backends.base import LabPlan, NodePlan
from pytest_benchscale.backends.libvirt import direct_boot, images

__all__ = ["image_id"]


async def image_id(plan: LabPlan, node: NodePlan) -> str:
    """Return what changes when the content of a node's image does, or of what it is started with.

    Raises:
        LabError: the image cannot be had.
    """
    reference, boot = direct_boot.split(node.image)
    image = await images.fetch(
        reference,
        directory=plan.directory,
        cache=images.cache_directory(),
        progress=plan.progress,
    )
    if boot is None:
        return image.sha256
    parts = [image.sha256, *await direct_boot.contents(boot, plan.directory)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
