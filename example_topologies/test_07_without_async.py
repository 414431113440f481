"""The same without `await`: `lab.sync` has all names of `lab`, as ordinary calls.

The topology is that of the second example, and so is the lab: it is built once, and pytest runs all
tests that share it one after the other.
"""

import pytest

from pytest_benchscale import Lab

pytestmark = pytest.mark.topology("02_two_nodes.yaml")


def test_a_command(lab: Lab) -> None:
    assert lab.sync["client"].exec("uname -n").stdout == "client\n"


def test_the_client_reads_a_page_of_the_server(lab: Lab) -> None:
    server, client = lab.sync["server"], lab.sync["client"]
    server.write_text("/srv/site/index.html", "hello without await")

    with server.process("python3 -m http.server 80 --directory /srv/site"):
        server.wait_for_port(80)
        page = client.exec("/srv/get http://server/", check=True)

    assert page.stdout == "hello without await"


def test_the_lines_of_a_process(lab: Lab) -> None:
    with lab.sync["server"].process("for i in 1 2 3; do echo line $i; done") as process:
        lines = list(process.stdout)
        assert process.wait() == 0

    assert lines == ["line 1", "line 2", "line 3"]
