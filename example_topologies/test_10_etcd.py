"""A cluster that people run for real: its leader is cut off, or hangs, in the middle of writes.

What etcd promises, and what is checked here:

- A write that was acknowledged is there for ever, whatever happens to one of the three members.
- A member that reaches no other one neither acknowledges a write nor answers a read, since the others
  may have gone on without it. A write that it refuses is one of which nothing is known: it can have
  been done.
- Only who asks for it (`--consistency=s`, a "serializable" read) gets what that one member has, which
  may be old.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import pytest

from pytest_benchscale import Lab, Node

ON_LOCAL_WITHOUT_IMAGE = (
    "config.getoption('benchscale_backend') == 'local'"
    " and 'coreos/etcd' not in str(config.getoption('benchscale_image'))"
)

pytestmark = [
    pytest.mark.topology("10_etcd.yaml"),
    pytest.mark.skipif(
        ON_LOCAL_WITHOUT_IMAGE,
        reason="a container image; for local, where this machine has etcd and etcdctl, "
        "--benchscale-image quay.io/coreos/etcd:v3.4.20=host",
    ),
]

# Key after key, without a pause; those that were acknowledged are written down.
WRITE_ENTRIES = """
    number=0
    while number=$((number + 1)); do
        if etcdctl --command-timeout=1s put "entry/$$/$number" written >/dev/null 2>&1; then
            echo "entry/$$/$number" >>/tmp/acknowledged
        fi
    done
"""


def members_of(lab: Lab) -> list[Node]:
    """Return the three members of the cluster."""
    return [node for node in lab.nodes.values() if node.name != "client"]


async def agreed_leader(members: Collection[Node]) -> Node:
    """Wait until these members follow the same one of them, and return it."""
    async with asyncio.timeout(20):
        while True:
            views = await asyncio.gather(*(id_and_leader(member) for member in members))
            by_id = {own: member for member, (own, _) in zip(members, views, strict=True)}
            leaders = {leader for _, leader in views}
            if len(leaders) == 1 and leaders <= set(by_id):
                return by_id[leaders.pop()]
            await asyncio.sleep(0.1)


async def id_and_leader(member: Node) -> tuple[int, int]:
    """Return a member's id, and that of whom it follows: 0 is nobody."""
    status = ["etcdctl", "endpoint", "status", "--write-out=json"]
    answer = json.loads((await member.exec(status, check=True)).stdout)[0]["Status"]
    return answer["header"]["member_id"], answer.get("leader", 0)


async def read(node: Node, key: str, *options: str) -> str | None:
    """Return the value of a key as a node is told it; None when it gets no answer."""
    etcdctl = ["etcdctl", "--command-timeout=1s", "get", "--print-value-only"]
    result = await node.exec([*etcdctl, *options, key])
    return result.stdout.strip() if result.ok else None


async def write(node: Node, key: str, value: str) -> bool:
    """Write from a node; return whether that was acknowledged."""
    return (await node.exec(["etcdctl", "--command-timeout=1s", "put", key, value])).ok


async def acknowledged(client: Node) -> set[str]:
    """Return the keys whose writes were acknowledged so far."""
    return set((await client.read_text("/tmp/acknowledged")).split())


async def more_are_acknowledged(client: Node) -> None:
    """Wait for five more acknowledged writes."""
    enough = len(await acknowledged(client)) + 5
    await client.wait_for_exec(f"test $(wc -l </tmp/acknowledged) -ge {enough}")


@asynccontextmanager
async def writing(lab: Lab) -> AsyncIterator[None]:
    """Write for as long as the block runs; after it, every member has what was acknowledged."""
    client = lab["client"]
    async with client.process(WRITE_ENTRIES):
        await client.wait_for_file("/tmp/acknowledged")
        await more_are_acknowledged(client)
        yield
        await more_are_acknowledged(client)

    written = await acknowledged(client)
    for member in members_of(lab):
        # It answers once it has everything that was acknowledged before it was asked.
        entries = await member.wait_for_exec("etcdctl get --prefix entry/ --keys-only")
        assert written <= set(entries.stdout.split()), member.name


async def test_a_leader_that_is_cut_off_serves_nobody_until_it_is_back(lab: Lab) -> None:
    client, old = lab["client"], await agreed_leader(members_of(lab))
    others = [member for member in members_of(lab) if member is not old]
    assert await write(old, "color", "red")  # it has that itself now

    async with writing(lab):
        async with lab.partition({old.name}, {client.name, *(member.name for member in others)}):
            refused = asyncio.gather(write(old, "color", "green"), read(old, "color"))
            assert list(await refused) == [False, None]
            await agreed_leader(others)  # one of them
            await client.wait_for_exec("etcdctl put color blue")
            await more_are_acknowledged(client)
            assert await read(old, "color") is None
            assert await read(old, "color", "--consistency=s") == "red"  # as it was
        await old.wait_for_exec("etcdctl get color")
        assert await read(old, "color", "--consistency=s") == "blue"


async def test_a_leader_that_hears_nobody_gives_up(lab: Lab) -> None:
    client, old = lab["client"], await agreed_leader(members_of(lab))
    others = [member for member in members_of(lab) if member is not old]

    everybody_else = {name for name in lab.nodes if name != old.name}

    # Its heartbeats still arrive, which must not keep the others from choosing a new one.
    async with writing(lab), lab.partition(everybody_else, {old.name}, one_way=True):
        await agreed_leader(others)
        await more_are_acknowledged(client)
        assert await read(old, "color") is None


async def test_a_broken_link_between_two_members_stops_nothing(lab: Lab) -> None:
    leader = await agreed_leader(members_of(lab))
    follower = next(member for member in members_of(lab) if member is not leader)

    async with writing(lab), lab.partition({leader.name}, {follower.name}):
        await more_are_acknowledged(lab["client"])  # each of the three still sees a majority


async def test_a_leader_that_hangs_is_replaced_and_does_not_answer_from_its_past(lab: Lab) -> None:
    client, old = lab["client"], await agreed_leader(members_of(lab))
    others = [member for member in members_of(lab) if member is not old]
    await client.wait_for_exec("etcdctl put color red")

    async with writing(lab):
        await old.pause()
        try:
            await agreed_leader(others)  # one of them
            await client.wait_for_exec("etcdctl put color blue")
            await more_are_acknowledged(client)
        finally:
            await old.resume()
        # It may still take itself for the leader: it asks the others before it answers.
        assert await read(old, "color") in ("blue", None)

    await agreed_leader(members_of(lab))
