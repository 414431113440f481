"""Keep, take-over and reset, as far as they are special to container daemons."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from pytest_benchscale import Lab, LabError
from pytest_benchscale.lab.ledger import Ledger, Standing
from pytest_benchscale.lab.opening import attach
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal
from tests.contract.docker_labs import containers, daemon, topology
from tests.daemons.images import reference

pytestmark = pytest.mark.daemon("docker")

PAIR = "{network: {name: lan}, nodes: [{name: alpha}, {name: beta}]}"


@pytest.fixture(autouse=True)
def _own_ledger(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("BENCHSCALE_STATE_DIR", str(tmp_path / "state"))


@pytest.fixture
def api() -> Iterator[Any]:
    """The daemon, by other means than ours."""
    with daemon() as client:
        yield client


def resettable(text: str, image: str = "debian") -> Any:
    """Bring up a lab that can be led back."""
    options = LabOptions(resettable=True)
    return Lab.open(topology(text, image=image), backend="docker", options=options)


def checkpoints(api: Any, lab: Lab) -> list[str]:
    """Return the images that were committed for a lab."""
    images = api.images(filters={"label": f"benchscale.lab={lab.lab_id}"})
    return sorted(tag for image in images for tag in image["RepoTags"] or ())


async def take_over(lab_id: str | None, portal: Portal, options: LabOptions | None = None) -> Lab:
    """Take a kept lab over."""
    [kept] = [one.kept for one in Ledger().labs() if one.lab_id == lab_id]
    entry = Ledger().take(str(lab_id))
    assert entry is not None
    assert kept is not None
    lab: Lab = await portal.call(attach, entry, kept, portal, options or LabOptions())
    return lab


async def test_only_nodes_in_which_something_ran_are_committed_and_nothing_stays(api):
    text = "nodes: [{name: alpha, setup: ['echo x > /srv/x']}, {name: beta}]"
    async with resettable(text) as lab:
        assert checkpoints(api, lab) == [f"benchscale-checkpoint:{lab.lab_id}-alpha"]
        before = containers(api, lab)
        await lab.reset()
        after = containers(api, lab)
        assert before.keys() == after.keys()
        assert all(before[name]["Id"] != after[name]["Id"] for name in before)
    assert not checkpoints(api, lab)
    assert not containers(api, lab)


async def test_what_was_removed_by_hand_comes_back(api):
    async with resettable(PAIR) as lab:
        api.remove_container(containers(api, lab)["alpha"]["Id"], force=True)
        await lab.reset()
        assert await lab.reachability() == {"alpha": ["beta"], "beta": ["alpha"]}


async def test_published_ports_answer_after_a_reset():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = f"nodes: [{{name: alpha, ports: ['127.0.0.1:{port}:80']}}]"
    async with resettable(text) as lab:
        await lab.reset()
        assert lab["alpha"].ports == {"80/tcp": port}
        async with lab["alpha"].process("python3 -m http.server 80"):
            await lab["alpha"].wait_for_port(80)
            with socket.create_connection(("127.0.0.1", port), timeout=10):
                pass


async def test_a_node_with_a_volume_of_its_image_is_refused_when_it_is_to_be_reset(tmp_path):
    recipe = tmp_path / "db" / "Dockerfile"
    recipe.parent.mkdir()
    recipe.write_text(f"FROM {reference('debian')}\nVOLUME /data\n")
    declared = topology("nodes: [{name: db, image: 'build:./db'}]", tmp_path)
    with pytest.raises(LabError, match="keeps /data in a volume") as caught:
        async with Lab.open(declared, backend="docker", options=LabOptions(resettable=True)):
            pass
    assert caught.value.node == "db"
    assert caught.value.step == "checkpoint"


async def test_a_lab_that_is_kept_can_be_reset_by_who_takes_it_over(api):
    text = "nodes: [{name: alpha, setup: ['echo x > /srv/x']}]"
    async with resettable(text) as lab:
        await lab["alpha"].exec("echo y > /srv/x", check=True)
        await lab.keep(600)
    with Portal() as portal:
        again = await take_over(lab.lab_id, portal, LabOptions(resettable=True))
        try:
            await again.reset()
            assert await again["alpha"].read_text("/srv/x") == "x\n"
        finally:
            await again.down()
    assert not checkpoints(api, lab)


@pytest.mark.parametrize("spoilt", ["removed", "stopped"])
async def test_a_kept_lab_that_is_not_whole_is_left_as_it_is(api, spoilt):
    async with Lab.open(topology(PAIR), backend="docker") as lab:
        await lab.keep(600)
    found = containers(api, lab)
    if spoilt == "removed":
        api.remove_container(found["beta"]["Id"], force=True)
    else:
        api.kill(found["beta"]["Id"])
    with Portal() as portal, pytest.raises(LabError, match="not whole any more") as caught:
        await take_over(lab.lab_id, portal)
    assert "'beta'" in str(caught.value)
    assert "nothing was changed" in str(caught.value)
    assert containers(api, lab)["alpha"]["State"]["Running"]
    assert [one.standing for one in Ledger().labs()] == [Standing.KEPT]
    for one in containers(api, lab).values():
        api.remove_container(one["Id"], force=True)
    for network in api.networks(filters={"label": f"benchscale.lab={lab.lab_id}"}):
        api.remove_network(network["Id"])


async def test_a_paused_node_is_taken_over_as_such(api):
    async with Lab.open(topology(PAIR), backend="docker") as lab:
        await lab["alpha"].pause()
        await lab.keep(600)
    with Portal() as portal:
        again = await take_over(lab.lab_id, portal)
        try:
            assert again["alpha"].status == "paused"
            await again["alpha"].resume()
            assert (await again["alpha"].exec("echo up")).stdout == "up\n"
        finally:
            await again.down()
    assert not containers(api, lab)


async def test_the_images_of_a_kept_lab_are_those_of_its_successor():
    async with Lab.open(topology(PAIR), backend="docker") as lab:
        await lab.keep(600)
    [kept] = [one.kept for one in Ledger().labs()]
    assert kept is not None
    assert set(kept.image_ids) == {"alpha", "beta"}
    assert all(one.startswith("sha256:") for one in kept.image_ids.values())
    with Portal() as portal:
        again = await take_over(lab.lab_id, portal)
        try:
            plan, backend = again._plan, again._context.backend
            assert plan is not None
            assert await portal.call(backend.image_ids, plan) == kept.image_ids
        finally:
            await again.down()
