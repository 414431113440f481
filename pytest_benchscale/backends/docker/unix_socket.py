"""The SDK's way over a Unix socket, except that a connection that fails is closed, too.

The SDK leaves that to the garbage collector, whose warning may fail whatever test runs at that moment.
"""

from __future__ import annotations

import socket

from docker.transport import unixconn

__all__ = ["UnixAdapter"]


class _Connection(unixconn.UnixHTTPConnection):  # type: ignore[misc]  # the SDK has no types
    def connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(self.timeout)
            connection.connect(self.unix_socket)
        except BaseException:
            connection.close()
            raise
        self.sock = connection


class _Pool(unixconn.UnixHTTPConnectionPool):  # type: ignore[misc]
    def _new_conn(self) -> _Connection:
        return _Connection(self.base_url, self.socket_path, self.timeout)


class UnixAdapter(unixconn.UnixHTTPAdapter):  # type: ignore[misc]
    """What `requests` sends requests with."""

    def get_connection(self, url: str, proxies: object = None) -> _Pool:
        """Return the pool of connections, of which there is one."""
        with self.pools.lock:
            pool: _Pool | None = self.pools.get(url)
            if pool is None:
                pool = _Pool(url, self.socket_path, self.timeout, maxsize=self.max_pool_size)
                self.pools[url] = pool
            return pool
