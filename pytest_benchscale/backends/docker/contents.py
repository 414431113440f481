"""What is in a container, also in one that does not run."""

from __future__ import annotations

from pytest_benchscale.backends.docker.engine import Engine

__all__ = ["has_one_of"]


def has_one_of(engine: Engine, container: str, paths: tuple[str, ...]) -> bool:
    """Return whether a container has any of these files. Blocks."""
    client = engine.client
    url = f"{client.base_url}/v{client.api_version}/containers/{container}/archive"
    return any(client.head(url, params={"path": path}).ok for path in paths)
