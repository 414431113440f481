"""Three tiers on two networks, brought up in order by the topology file alone.

When a test gets the lab, all of `deploy`, `setup` and `wait_for` has happened: the services are
there. The tests ask what one wants to know of such a system: does a request go all the way, is
the database out of reach for the front, does it keep its data when the machine restarts?
"""

import pytest

from pytest_benchscale import Lab

pytestmark = pytest.mark.topology("03_three_tiers.yaml")


async def visit(lab: Lab) -> int:
    """Visit the site and return the visitor's number."""
    page = await lab["web"].exec("/srv/get http://localhost/", check=True)
    return int(page.stdout.removeprefix("<h1>visitor number ").removesuffix("</h1>\n"))


async def test_a_visit_goes_through_all_tiers(lab: Lab) -> None:
    number = await visit(lab)

    assert f"visits is {number} now" in await lab["db"].logs()


async def test_every_visitor_gets_a_number_of_his_own(lab: Lab) -> None:
    numbers = [await visit(lab) for _ in range(3)]

    assert numbers == list(range(numbers[0], numbers[0] + 3))


async def test_the_web_front_cannot_reach_the_database(lab: Lab) -> None:
    health = f"/srv/get http://{lab['db'].address}:8000/health"

    assert (await lab["app"].exec(health)).stdout == "well"
    assert not (await lab["web"].exec(health)).ok


async def test_the_application_is_the_only_one_on_both_networks(lab: Lab) -> None:
    assert list(lab["web"].addresses) == ["front"]
    assert list(lab["app"].addresses) == ["front", "back"]
    assert list(lab["db"].addresses) == ["back"]


async def test_the_database_keeps_its_data_over_a_restart(lab: Lab) -> None:
    before = await visit(lab)

    await lab["db"].restart()
    await lab["db"].wait_for_port(8000)

    assert await visit(lab) == before + 1
