"""Your own words on top of `lab`: a fixture that starts a site and hands out what the tests need.

The topology comes from Python here, which is good for one that is computed; it is checked as
strictly as a file. A fixture that is not async can serve tests of both kinds.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_benchscale import Lab, Topology

PYTHON = {"local": "host", "docker": "python", "podman": "python", "libvirt": "debian"}
VISITORS = ["near", "far", "farther"]

TOPOLOGY = Topology.from_dict(
    {
        "metadata": {"name": "site"},
        "nodes": [{"name": name, "image": PYTHON} for name in ["site", *VISITORS]],
    }
)

pytestmark = pytest.mark.topology(TOPOLOGY)


class Site:
    """A web site, and those who visit it."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab.sync

    def publish(self, page: str, text: str) -> None:
        """Put a page on the site."""
        self._lab["site"].write_text(f"/srv/site/{page}", text)

    def read(self, visitor: str, page: str) -> str:
        """Return what a visitor sees."""
        get = ["python3", "/srv/get.py", f"http://site/{page}"]
        return self._lab[visitor].exec(get, check=True).stdout


@pytest.fixture(scope="module")
def site(lab: Lab) -> Iterator[Site]:
    """A site that is up, with visitors who can read it."""
    for visitor in VISITORS:
        lab.sync[visitor].put(Path(__file__).parent / "programs" / "get.py", "/srv/get.py")
    node = lab.sync["site"]
    node.write_text("/srv/site/index.html", "welcome")
    with node.process("python3 -m http.server 80 --directory /srv/site"):
        node.wait_for_port(80)
        yield Site(lab)


@pytest.mark.parametrize("visitor", VISITORS)
def test_every_visitor_is_welcome(site: Site, visitor: str) -> None:
    assert site.read(visitor, "") == "welcome"


def test_a_new_page_can_be_read_at_once(site: Site) -> None:
    site.publish("news.txt", "it works")

    assert site.read("near", "news.txt") == "it works"
