"""A cluster that people run for real: the primary of a database dies in the middle of writes.

The promise to check: whatever was acknowledged is still there once the replica has taken over. Where
the cluster comes from, how its parts find each other and when it is ready is in the topology file.
"""

import pytest

from pytest_benchscale import Lab, Node

ON_LOCAL_WITHOUT_IMAGE = (
    "config.getoption('benchscale_backend') == 'local'"
    " and 'postgres:15=' not in str(config.getoption('benchscale_image'))"
)

pytestmark = [
    pytest.mark.topology("09_postgresql.yaml"),
    pytest.mark.skipif(
        ON_LOCAL_WITHOUT_IMAGE,
        reason="postgres:15 is a container image; for local, --benchscale-image postgres:15=ROOTFS",
    ),
]

# Row after row, each in a transaction of its own. psql prints what a statement returns when the
# server has acknowledged it, and gives up when the server has not answered for two seconds.
WRITE_ROWS = """
    seq 1000000 |
    sed 's/.*/INSERT INTO entry VALUES (&) RETURNING number;/' |
    psql 'host=primary tcp_user_timeout=2000' --no-align --tuples-only --quiet
"""


async def query(client: Node, server: str, statement: str) -> list[str]:
    """Ask a database server something; return the lines of its answer."""
    psql = ["psql", "--host", server, "--no-align", "--tuples-only", "--quiet"]
    return (await client.exec([*psql, "--command", statement], check=True)).stdout.splitlines()


async def test_no_acknowledged_row_is_lost_when_the_primary_dies(lab: Lab) -> None:
    primary, replica, client = lab["primary"], lab["replica"], lab["client"]

    async with client.process(WRITE_ROWS) as writer:
        await writer.wait_for_line("^500$", timeout=60)
        await primary.kill()
        acknowledged = [line async for line in writer.stdout]

    await replica.exec("pg_ctl promote", user="postgres", check=True)

    assert len(acknowledged) >= 500
    assert set(acknowledged) <= set(await query(client, "replica", "SELECT number FROM entry"))
    # The replica is a primary now.
    assert await query(client, "replica", "INSERT INTO entry VALUES (0) RETURNING number") == ["0"]
