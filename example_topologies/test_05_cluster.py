"""A cluster of ten that elects a leader, and what it does when machines fail.

Elections take a moment and end differently each time. So the tests wait, with a deadline, for what
must become true, and never for a guessed time; and they check what must hold whoever wins.
"""

import asyncio
import re
from collections import Counter
from collections.abc import Collection

import pytest

from pytest_benchscale import Lab, Node

pytestmark = pytest.mark.topology("05_cluster.yaml")


async def agreed_leader(members: Collection[Node]) -> str:
    """Wait until these members follow the same one of them, and return its name."""
    names = {member.name for member in members}
    async with asyncio.timeout(20):
        while True:
            views = await leaders_seen_by(members)
            if len(views) == 1 and views <= names:
                return views.pop()
            await asyncio.sleep(0.1)


async def leaders_seen_by(members: Collection[Node]) -> set[str]:
    """Return whom these members take for the leader; an empty name is nobody."""
    results = await asyncio.gather(*(member.exec("cat /run/leader") for member in members))
    return {result.stdout for result in results}


async def test_all_members_agree_on_one_leader(lab: Lab) -> None:
    assert await agreed_leader(lab.nodes.values()) in lab.nodes


async def test_when_the_leader_dies_the_others_elect_a_new_one(lab: Lab) -> None:
    leader = lab[await agreed_leader(lab.nodes.values())]
    others = [node for node in lab.nodes.values() if node is not leader]

    await leader.kill()
    try:
        assert await agreed_leader(others) != leader.name
    finally:
        await leader.start()  # its main command starts again with it ...

    await agreed_leader(lab.nodes.values())  # ... and it finds its place in the cluster


async def test_a_minority_elects_nobody(lab: Lab) -> None:
    minority, majority = list(lab.nodes.values())[:4], list(lab.nodes.values())[4:]
    await agreed_leader(lab.nodes.values())

    await asyncio.gather(*(node.pause() for node in majority))  # they hang, all at once
    try:
        nobody_leads = "test ! -s /run/leader"
        await asyncio.gather(*(node.wait_for_exec(nobody_leads) for node in minority))
    finally:
        await asyncio.gather(*(node.resume() for node in majority))

    await agreed_leader(lab.nodes.values())


async def test_no_term_ever_had_two_leaders(lab: Lab) -> None:
    await agreed_leader(lab.nodes.values())

    logs = [await node.logs() for node in lab.nodes.values()]
    elections = Counter(term for log in logs for term in re.findall(r"term (\d+): elected", log))

    assert elections
    assert set(elections.values()) == {1}
