"""Labs from the command line: `up`, `down`, `exec`, `logs`, `cp`."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pytest_benchscale.backends import registry
from pytest_benchscale.backends.base import Capability
from pytest_benchscale.cli import main
from pytest_benchscale.lab.ledger import Ledger, Standing
from tests.fake_backend import Script, make_backend

LAN = "network: {name: lan, subnet: 10.1.0.0/24}\nnodes: [{name: a}, {name: b}]\n"


@pytest.fixture(autouse=True)
def script(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCHSCALE_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    Path("lan.yaml").write_text(LAN)
    script = Script()
    registry.register("fake", make_backend(script, capabilities=frozenset(Capability)))
    registry.register("frail", make_backend(script, "frail"))
    yield script
    registry.unregister("fake")
    registry.unregister("frail")


@pytest.fixture
def run(capfd):
    """Run the command; return its status, what it printed, and what it complained of."""

    def run(*words):
        if words[0] == "up" and "--backend" not in words:
            words = (*words, "--backend", "fake")
        status = main([str(word) for word in words])
        said = capfd.readouterr()
        return status, said.out, said.err

    return run


def up(run, *words):
    status, out, err = run("up", "lan.yaml", "--json", *words)
    assert status == 0, err
    return json.loads(out)["lab"]


class TestUp:
    def test_it_tells_the_lab_its_nodes_and_what_can_be_done_next(self, run):
        status, out, _ = run("up", "lan.yaml", "--name", "mine")
        (found,) = Ledger().labs()
        assert status == 0
        assert found.standing is Standing.KEPT
        assert out.startswith(f"lab {found.lab_id}: 'mine', 'lan' on fake, until ")
        assert "a     lan 10.1.0.2" in out
        for line in ("exec mine a -- COMMAND", "shell mine a", "down mine"):
            assert f"  benchscale {line}\n" in out

    def test_for_programs_it_is_json(self, run):
        _, out, _ = run("up", "lan.yaml", "--json", "--for", "30m")
        facts = json.loads(out)
        assert (facts["topology"], facts["backend"], facts["name"]) == ("lan", "fake", None)
        assert facts["until"] == pytest.approx(time.time() + 1800, abs=60)
        assert facts["nodes"]["b"]["addresses"] == {"lan": "10.1.0.3"}
        (found,) = Ledger().labs()
        assert found.kept
        assert found.kept.until == pytest.approx(facts["until"], abs=60)
        assert not found.kept.reuse

    def test_ctrl_c_rolls_back(self, run, script):
        script.delay("create_node", 30)
        main_thread = threading.main_thread().ident
        threading.Timer(0.3, signal.pthread_kill, (main_thread, signal.SIGINT)).start()
        status, _, err = run("up", "lan.yaml")
        assert (status, err) == (130, "benchscale: interrupted; nothing is left of the lab\n")
        assert script.is_clean
        assert [*Ledger().labs()] == []

    def test_a_lab_that_cannot_be_kept_is_taken_down(self, run, script):
        script.fail("keep", OSError(28, "no room"))
        status, _, err = run("up", "lan.yaml")
        assert status == 1
        assert "keep failed: [Errno 28] no room" in err
        assert script.is_clean
        assert [*Ledger().labs()] == []

    @pytest.mark.parametrize(
        ("words", "complaint"),
        [
            (["--backend", "frail"], "backend 'frail' does not support keeping a lab"),
            (["--for", "8"], "--for: '8' is not a time"),
            (["--image", "x"], "--image: 'x' is not NAME=VALUE"),
            (["--name", "a:b"], "--name: 'a:b' cannot be the name of a lab"),
        ],
    )
    def test_what_cannot_be_is_said(self, run, script, words, complaint):
        status, _, err = run("up", "lan.yaml", *words)
        assert status == 1
        assert complaint in err
        assert "open" not in script.journal

    def test_a_name_is_given_once(self, run):
        up(run, "--name", "mine")
        status, _, err = run("up", "lan.yaml", "--name", "mine")
        assert status == 1
        assert "there is a lab 'mine' already" in err


class TestDown:
    @pytest.mark.parametrize("how", ["id", "beginning", "name", "topology"])
    def test_it_is_named_by_its_id_or_its_names(self, run, script, how):
        lab = up(run, "--name", "mine")
        word = {"id": lab, "beginning": lab[:5], "name": "mine", "topology": "lan"}[how]
        assert run("down", word) == (0, f"{lab}: taken down\n", "")
        assert script.is_clean
        assert [*Ledger().labs()] == []

    def test_all_are_all(self, run, script):
        labs = {up(run), up(run)}
        status, out, _ = run("down", "--all", "--json")
        assert status == 0
        assert {one["lab"] for one in json.loads(out)} == labs
        assert script.is_clean

    def test_one_that_is_used_stays(self, run):
        lab = up(run)
        entry = Ledger().take(lab)
        assert entry
        status, _, err = run("down", lab)
        entry.let_go()
        assert status == 1
        assert "in use" in err

    def test_one_that_cannot_be_removed_stays_in_the_ledger_and_the_rest_goes(self, run, script):
        first, second = up(run), up(run)
        script.fail(f"delete_owned {first}", OSError(16, "stuck"))
        status, out, err = run("down", first, second)
        assert status == 1
        assert out == f"{second}: taken down\n"
        assert f"benchscale: {first}: lab {first} was not removed: [Errno 16] stuck" in err
        assert [found.lab_id for found in Ledger().labs()] == [first]

    def test_a_name_that_is_none_or_several_is_said_with_what_there_is(self, run):
        first, second = up(run, "--name", "mine"), up(run)
        _, _, err = run("down", "lan")
        assert f"{first}  mine (lan)" in err
        assert f"{second}  lan" in err
        _, _, err = run("down", "mime")
        assert "there is no kept lab 'mime'; did you mean 'mine'?" in err
        status, _, err = run("down")
        assert status == 1
        assert "name the labs to take down, or give --all" in err


class TestExec:
    def test_its_streams_and_its_exit_code_are_the_commands(self, run):
        lab = up(run)
        script = "echo out; echo err >&2; exit 7"
        assert run("exec", lab, "a", "--", "sh", "-c", script) == (7, "out\n", "err\n")
        assert run("exec", lab, "a", "echo", "--", "-x") == (0, "-- -x\n", "")
        assert run("exec", lab, "a", "--", "sh", "-c", "kill -TERM $$")[0] == 128 + 15

    def test_the_standard_input_reaches_it(self, run):
        lab = up(run)
        ours, its = os.pipe()
        kept = os.dup(0)
        try:
            os.dup2(ours, 0)
            os.write(its, b"hello\n")
            os.close(its)
            assert run("exec", lab, "a", "cat") == (0, "hello\n", "")
        finally:
            os.dup2(kept, 0)
            os.close(ours)
            os.close(kept)

    def test_the_lab_stays_kept_and_what_was_done_stays(self, run, script):
        lab = up(run)
        run("exec", lab, "a", "touch", "/tmp/x")
        assert run("exec", lab, "a", "test", "-e", "/tmp/x")[0] == 0
        assert [found.standing for found in Ledger().labs()] == [Standing.KEPT]
        assert len(script.nodes) == 2

    def test_for_programs_it_is_json(self, run):
        lab = up(run)
        _, out, _ = run("exec", "--json", "--env", "X=1", lab, "a", "--", "sh", "-c", "echo $X")
        assert json.loads(out) | {"seconds": 0} == {
            "returncode": 0,
            "stdout": "1\n",
            "stderr": "",
            "seconds": 0,
        }

    def test_an_unknown_node_and_no_command_are_said(self, run):
        lab = up(run)
        status, _, err = run("exec", lab, "aa", "true")
        assert status == 1
        assert "has no node 'aa'; did you mean 'a'?" in err
        assert "exec needs a command" in run("exec", lab, "a")[2]


def test_logs_shows_what_a_node_has_said(run):
    lab = up(run)
    run("exec", lab, "a", "log", "hello")
    assert run("logs", lab, "a") == (0, "hello\n", "")
    assert json.loads(run("logs", "--json", lab, "a")[1]) == {"node": "a", "log": "hello\n"}


class TestCp:
    def test_it_copies_both_ways(self, run, tmp_path):
        lab = up(run)
        Path("here").write_text("hello")
        assert run("cp", "here", f"{lab}:a:/tmp/there")[0] == 0
        assert run("cp", f"{lab}:a:/tmp/there", "back")[0] == 0
        assert Path("back").read_text() == "hello"

    @pytest.mark.parametrize(
        ("places", "complaint"),
        [
            (("here", "there"), "neither place is in a node"),
            (("{}:a:/x", "{}:b:/x"), "not from node to node"),
            (("{}:a:/none", "there"), "No such file"),
            (("none", "{}:a:/x"), "none"),
        ],
    )
    def test_what_cannot_be_copied_is_said(self, run, places, complaint):
        lab = up(run)
        status, _, err = run("cp", *(place.format(lab) for place in places))
        assert status == 1
        assert complaint in err
