"""Keep, take-over and reset, as far as they are special to container daemons."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from pytest_benchscale import Lab, LabError
from pytest_benchscale.backends.docker import successors
from pytest_benchscale.backends.docker.containers import Containers
from pytest_benchscale.backends.docker.shared_machine import kill_inside
from pytest_benchscale.lab.ledger import Ledger, Standing
from pytest_benchscale.lab.opening import attach
from pytest_benchscale.lab.options import LabOptions
from pytest_benchscale.lab.portal import Portal
from pytest_benchscale.testing.base import unique_seconds
from tests.contract.docker_labs import containers, daemon, of_lab, topology
from tests.daemons.images import reference

pytestmark = pytest.mark.daemon("docker")

FORKS = "while :; do (setsid sleep 0.01; sleep 1000 & sleep 1000) & sleep 0.005; done"
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


def programs(api: Any, lab: Lab, node: str) -> list[str]:
    """Return the states of all processes in a node's container, as the daemon tells: R, S, T, Z..."""
    told = api.top(containers(api, lab)[node]["Id"], "-eo stat,pid")
    return [state for state, _pid in told["Processes"]]


def sleeping_here(seconds: str) -> bool:
    """Return whether a process of this machine sleeps for so long, in a container or not."""
    wanted = f"sleep\0{seconds}\0".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if path.read_bytes() == wanted:
                return True
    return False


def breaks_off(function: Any, node: str) -> Any:
    """Return the same, which has done its work for a node when it fails."""

    async def work(self: Containers, of: Any, *arguments: Any, **options: Any) -> None:
        if of.plan.name == node and function.__name__ == "create_again":
            raise LabError("broken off", node=node)
        await function(self, of, *arguments, **options)
        if of.plan.name == node:
            raise LabError("broken off", node=node)

    return work


async def waiting(
    api: Any, lab: Lab, expected: Iterable[str] = frozenset({"beta"})
) -> dict[str, str]:
    """Return the containers that wait to become a node, by node, once they are those that are expected."""
    expected = set(expected)
    async with asyncio.timeout(20):
        while True:
            there = await asyncio.to_thread(of_lab, api, lab)
            names = {one["Id"]: one["Names"][0] for one in there}
            nodes = {one["Id"]: one["Labels"]["benchscale.node"] for one in there}
            found = {
                nodes[one["Id"]]: one["Id"]
                for one in there
                if names[one["Id"]].endswith("_next") and one["State"] == "running"
            }
            if found.keys() == expected and len(there) == len(lab.nodes) + len(expected):
                return found
            await asyncio.sleep(0.05)


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


async def test_a_node_that_waits_for_commands_is_led_back_by_a_container_that_runs_already(api):
    async with resettable(PAIR) as lab:
        for _ in range(3):
            [(name, successor)] = (await waiting(api, lab)).items()
            assert name == "beta"
            await lab["beta"].exec(
                "echo used > /srv/used; echo 10.9.9.9 other >> /etc/hosts", check=True
            )
            await lab.reset()
            assert containers(api, lab)["beta"]["Id"] == successor
            assert not (await lab["beta"].exec("test -e /srv/used || grep other /etc/hosts")).ok
            assert await lab.reachability() == {"alpha": ["beta"], "beta": ["alpha"]}
    assert not of_lab(api, lab)


async def test_everything_but_the_main_process_of_a_container_is_killed(api):
    async with Lab.open(topology(PAIR), backend="docker") as lab:
        beta = lab["beta"]
        await beta.exec("sleep 1001 & setsid sleep 1002 & exit", check=True)
        async with beta.process(FORKS):
            async with asyncio.timeout(20):
                while len(programs(api, lab, "beta")) < 20:
                    await asyncio.sleep(0.02)
            known = containers(api, lab)
            pid, beta_id = known["beta"]["State"]["Pid"], known["beta"]["Id"]
            assert not kill_inside(known["alpha"]["State"]["Pid"], beta_id)
            assert len(programs(api, lab, "beta")) >= 20
            assert kill_inside(pid, beta_id)
            alive = [one for one in programs(api, lab, "beta") if not one.startswith("Z")]
            assert len(alive) == 1
            assert alive[0].startswith("T")
            assert containers(api, lab)["beta"]["State"]["Running"]
            assert (await lab["alpha"].exec("true")).ok


async def test_what_ran_in_a_node_has_ended_when_it_is_led_back(api):
    seconds = unique_seconds()
    async with resettable(PAIR) as lab:
        for _ in range(2):
            await waiting(api, lab)
            await lab["beta"].exec(f"setsid sleep {seconds} & exit", check=True)
            async with asyncio.timeout(20):
                while not sleeping_here(seconds):
                    await asyncio.sleep(0.02)
            await lab.reset()
            assert not sleeping_here(seconds)


async def test_a_node_with_volumes_finds_in_them_what_is_there_when_it_is_led_back(api, tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    text = f"""
        network: {{name: lan}}
        nodes: [{{name: alpha}}, {{name: beta, volumes: ['{shared}:/shared']}}, {{name: gamma}}]
    """
    async with resettable(text) as lab:
        await waiting(api, lab, {"gamma"})
        shared.rename(tmp_path / "moved")
        shared.mkdir()
        (shared / "new").touch()
        await lab.reset()
        assert (await lab["beta"].exec("ls /shared")).stdout == "new\n"


@pytest.mark.parametrize("harm", ["remove", "stop", "pause"])
async def test_a_node_is_led_back_when_what_was_to_take_its_place_cannot(api, harm):
    async with resettable(PAIR) as lab:
        [(_, successor)] = (await waiting(api, lab)).items()
        if harm == "remove":
            api.remove_container(successor, force=True)
        elif harm == "stop":
            api.kill(successor)
        else:
            api.pause(successor)
        await lab["beta"].exec("echo used > /srv/used", check=True)
        await lab.reset()
        assert not (await lab["beta"].exec("test -e /srv/used")).ok
        assert containers(api, lab)["beta"]["Id"] != successor
        assert (await waiting(api, lab)).keys() == {"beta"}
    assert not of_lab(api, lab)


@pytest.mark.parametrize("state", ["paused", "stopped", "killed", "dead", "removed"])
async def test_a_node_in_any_state_is_led_back_by_what_waits(api, state):
    async with resettable(PAIR) as lab:
        [(_, successor)] = (await waiting(api, lab)).items()
        beta, own = lab["beta"], containers(api, lab)["beta"]["Id"]
        await beta.exec("echo used > /srv/used", check=True)
        if state == "paused":
            await beta.pause()
        elif state == "stopped":
            await beta.stop()
        elif state == "killed":
            await beta.kill()
        elif state == "dead":
            api.kill(own)
        else:
            api.remove_container(own, force=True)
        await lab.reset()
        assert beta.status == "running"
        assert not (await beta.exec("test -e /srv/used")).ok
        assert containers(api, lab)["beta"]["Id"] == successor
        assert await lab.reachability() == {"alpha": ["beta"], "beta": ["alpha"]}
    assert not of_lab(api, lab)


@pytest.mark.parametrize("step", ["remove", "rename", "connect"])
async def test_a_reset_that_was_cut_off_is_repeated(api, monkeypatch, step):
    async with resettable(PAIR) as lab:
        await waiting(api, lab)
        await lab["beta"].exec("echo used > /srv/used", check=True)
        with monkeypatch.context() as patch:
            patch.setattr(successors, "kill_inside", lambda *_: step != "remove")
            patch.setattr(Containers, step, breaks_off(getattr(Containers, step), "beta"))
            with pytest.raises(LabError, match="broken off"):
                await lab.reset()
        await lab.reset()
        assert not (await lab["beta"].exec("test -e /srv/used")).ok
        assert await lab.reachability() == {"alpha": ["beta"], "beta": ["alpha"]}
        await waiting(api, lab)
    assert not of_lab(api, lab)


async def test_a_node_whose_reset_failed_is_started_by_another_reset_only(api, monkeypatch):
    async with resettable(PAIR) as lab:
        with monkeypatch.context() as patch:
            again = breaks_off(Containers.create_again, "alpha")
            patch.setattr(Containers, "create_again", again)
            with pytest.raises(LabError, match="broken off"):
                await lab.reset()
        with pytest.raises(LabError, match="its reset failed"):
            await lab["alpha"].start()
        await lab.reset()
        assert (await lab["alpha"].exec("true")).ok
    assert not of_lab(api, lab)


async def test_a_lab_without_reset_has_nothing_that_waits(api):
    async with Lab.open(topology(PAIR), backend="docker") as lab:
        await asyncio.sleep(1)
        assert len(of_lab(api, lab)) == 2


async def test_nothing_waits_for_the_nodes_of_a_lab_that_is_kept(api):
    async with resettable(PAIR) as lab:
        await waiting(api, lab)
        await lab.reset()
        await waiting(api, lab)
        await lab.keep(600)
    assert len(of_lab(api, lab)) == 2
    with Portal() as portal:
        again = await take_over(lab.lab_id, portal, LabOptions(resettable=True))
        try:
            await again["beta"].exec("echo used > /srv/used", check=True)
            await again.reset()
            assert not (await again["beta"].exec("test -e /srv/used")).ok
        finally:
            await again.down()
    assert not of_lab(api, lab)


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
