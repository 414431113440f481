"""One test, several topologies: it runs once for each, and its id says on which.

The same goes for backends: `pytest --benchscale-backend=local,docker` runs every test once on each.
"""

import pytest

from pytest_benchscale import Lab


@pytest.mark.topology("06_one_switch.yaml", "06_ipv6.yaml", "06_routed.yaml")
async def test_every_node_reaches_every_other_by_its_name(lab: Lab) -> None:
    for name in lab.nodes:
        get = ["python3", "/srv/programs/get.py", f"http://{name}:8000/"]
        answers = await lab.exec(get)  # from every node at once

        assert {answer.stdout for answer in answers.values()} == {f"this is {name}"}, answers
