"""Two machines and a service: a background process, waiting for its port, names on the network.

`process` runs a command while its `async with` block lasts, and ends it with all its children.
The `wait_for_...` methods have a deadline, and give up at once when the node is dead.
"""

import pytest

from pytest_benchscale import Lab

pytestmark = pytest.mark.topology("02_two_nodes.yaml")

WEB_SERVER = "python3 -m http.server 80 --directory /srv/site"


async def test_the_client_reads_a_page_of_the_server(lab: Lab) -> None:
    server, client = lab["server"], lab["client"]
    await server.write_text("/srv/site/index.html", "hello from the server")

    async with server.process(WEB_SERVER):
        await server.wait_for_port(80)
        page = await client.exec("/srv/get http://server/", check=True)

    assert page.stdout == "hello from the server"


async def test_a_process_is_gone_when_its_block_ends(lab: Lab) -> None:
    async with lab["server"].process(WEB_SERVER):
        await lab["server"].wait_for_port(80)

    assert not (await lab["client"].exec("/srv/get http://server/")).ok


async def test_what_a_process_prints_can_be_waited_for(lab: Lab) -> None:
    server, client = lab["server"], lab["client"]
    await server.write_text("/srv/site/index.html", "")

    async with server.process(WEB_SERVER) as web_server:
        await server.wait_for_port(80)
        await client.exec("/srv/get http://server/", check=True)
        request = await web_server.wait_for_line(r'^(\S+) .* "GET / HTTP')

    assert request[1] == str(client.address)


async def test_every_name_resolves_to_the_address_on_the_network(lab: Lab) -> None:
    resolve = "import socket; print(socket.gethostbyname('server'))"
    answers = await lab.exec(["python3", "-c", resolve])  # on every node at once

    assert {answer.stdout.strip() for answer in answers.values()} == {"10.20.0.2"}
    assert str(lab["server"].address) == "10.20.0.2"  # .1 is kept for a gateway
