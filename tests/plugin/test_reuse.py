"""`--benchscale-reuse`: the next session goes on with what this one has left clean."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from pytest_benchscale.backends import registry
from pytest_benchscale.lab.ledger import Ledger, Standing
from tests.plugin import recording

COUNTING = """
    import pytest

    @pytest.mark.topology("lan.yaml", backend="{backend}"{more})
    def test_it(lab):
        done = lab.sync["server"].exec("test -e /tmp/done").ok
        lab.sync["server"].write_text("/tmp/done", "")
        assert {claim}
"""
REUSED = [
    *("open lan", "keep lan"),
    *("adopt lan", "keep lan"),
]


class Sessions:
    """Several runs over the same backends in memory, one after the other."""

    def __init__(self, suite):
        self._suite = suite
        suite.makeconftest("")  # the backends stay what they are
        recording.register(suite.path / "events.log")

    def write(self, claim="True", backend="lasting", more=""):
        path = self._suite.path / "test_counting.py"
        path.unlink(missing_ok=True)
        self._suite.makepyfile(
            test_counting=COUNTING.format(claim=claim, backend=backend, more=more)
        )

    def run(self, *options, **outcomes):
        result = self._suite.run("--benchscale-reuse", "-p", "no:cacheprovider", *options)
        result.assert_outcomes(**(outcomes or {"passed": 1}))
        return result

    def events(self):
        return self._suite.events("open", "keep", "adopt", "close", "remove")


@pytest.fixture
def sessions(suite):
    return Sessions(suite)


def kept():
    return [found for found in Ledger().labs() if found.standing is Standing.KEPT]


def test_the_second_session_goes_on_with_the_lab_of_the_first(sessions):
    sessions.write(claim="not done")
    first = sessions.run()
    (left,) = kept()
    first.stdout.fnmatch_lines(
        [
            f"lab 'lan' on 'lasting' waits for the next session until *: benchscale down {left.lab_id}"
        ]
    )
    sessions.write(claim="done")
    second = sessions.run()
    second.stdout.fnmatch_lines([f"lab 'lan' on 'lasting' ({left.lab_id}) was reused"])
    assert sessions.events() == REUSED
    assert [found.lab_id for found in kept()] == [left.lab_id]


def test_without_the_option_nothing_is_left_or_taken(sessions, suite):
    sessions.write()
    suite.run().assert_outcomes(passed=1)
    assert sessions.events() == ["open lan", "close lan"]
    sessions.run()
    suite.run().assert_outcomes(passed=1)
    assert sessions.events()[2:] == ["open lan", "keep lan", "open lan", "close lan"]


def test_what_a_failed_test_has_touched_is_not_left(sessions):
    sessions.write(claim="False")
    sessions.run(failed=1)
    assert kept() == []
    assert sessions.events() == ["open lan", "close lan"]


def test_a_reused_lab_in_which_a_test_fails_is_taken_down(sessions):
    sessions.write()
    sessions.run()
    sessions.write(claim="False")
    sessions.run(failed=1)
    assert sessions.events() == ["open lan", "keep lan", "adopt lan", "close lan"]
    assert [*Ledger().labs()] == []


def test_what_is_kept_for_its_user_after_a_failure_is_not_reused(sessions):
    sessions.write(claim="False")
    sessions.run("--benchscale-keep=failed", failed=1)
    sessions.write(claim="not done")
    sessions.run()
    assert sessions.events() == ["open lan", "keep lan"] * 2


def test_a_topology_edited_since_is_built_anew_and_the_old_one_goes(sessions, suite):
    sessions.write(claim="not done")
    sessions.run()
    (old,) = kept()
    path = suite.path / "lan.yaml"
    path.write_text(path.read_text() + "  # a comment\n")
    sessions.write(claim="done")
    sessions.run()
    path.write_text(path.read_text().replace("{name: client}", "{name: client, env: {A: 1}}"))
    sessions.write(claim="not done")
    sessions.run()
    assert sessions.events()[4:] == [f"remove {old.lab_id}", "open lan", "keep lan"]
    assert old.lab_id not in {found.lab_id for found in kept()}


def test_a_deployed_file_that_has_changed_is_a_change(sessions, suite):
    (suite.path / "app").write_text("one")
    path = suite.path / "lan.yaml"
    path.write_text(
        path.read_text().replace(
            "{name: client}", "{name: client, deploy: [{src: app, dest: /srv/app}]}"
        )
    )
    sessions.write(claim="lab.sync['client'].read_text('/srv/app') == 'one'")
    sessions.run()
    (suite.path / "app").write_text("two")
    sessions.write(claim="lab.sync['client'].read_text('/srv/app') == 'two'")
    sessions.run()


def test_a_lab_that_is_not_whole_any_more_is_removed_and_built_anew(sessions):
    sessions.write(claim="not done")
    sessions.run()
    (old,) = kept()
    backend: Any = registry.get("lasting")
    script = backend.script
    script.fail("adopt", OSError(2, "server is gone"))
    result = sessions.run()
    result.stdout.fnmatch_lines(
        [f"lab 'lan' on 'lasting' ({old.lab_id}) was not reused: adopt failed: *server is gone"]
    )
    assert old.lab_id not in {found.lab_id for found in kept()}
    assert {lab for lab, _ in script.nodes} == {kept()[0].lab_id}


def test_an_image_that_has_changed_since_is_a_change(sessions, monkeypatch):
    sessions.write(claim="not done")
    sessions.run()

    async def image_ids(self, plan):
        return {node.name: "another" for node in plan.nodes}

    monkeypatch.setattr(registry.get("lasting"), "image_ids", image_ids)
    result = sessions.run()
    result.stdout.fnmatch_lines(["*was not reused: an image has changed since"])
    assert len(kept()) == 1


def test_a_lab_at_another_place_is_left_there(sessions, monkeypatch):
    sessions.write(claim="not done")
    sessions.run()
    monkeypatch.setattr(registry.get("lasting"), "place", lambda self: {"THERE": "1"})
    sessions.run()
    assert len(kept()) == 2
    assert "adopt lan" not in sessions.events()


def test_one_that_another_session_has_is_left_to_it(sessions):
    sessions.write(claim="not done")
    sessions.run()
    (theirs,) = kept()
    entry = Ledger().take(theirs.lab_id)
    assert entry
    try:
        sessions.run()
    finally:
        entry.let_go()
    assert len(kept()) == 2


def test_where_tests_reset_a_reused_lab_is_as_it_was_when_first_ready(sessions):
    sessions.write(claim="not done")
    sessions.run()
    sessions.write(claim="not done", more=', reset="test"')
    sessions.run()  # the one there is has no checkpoint
    sessions.run()
    assert sessions.events() == [
        "open lan",
        "keep lan",
        "open lan",
        "keep lan",
        "adopt lan",
        "keep lan",
    ]


def test_where_addresses_are_shared_another_lab_makes_room(sessions, suite):
    sessions.write(claim="not done", backend="sharing")
    sessions.run()
    (old,) = kept()
    sessions.write(claim="not done", backend="sharing", more=', reset="test"')
    sessions.run()
    assert sessions.events()[2:] == [
        *("open lan", "close lan"),
        f"remove {old.lab_id}",
        *("open lan", "keep lan"),
    ]


def test_what_is_kept_for_its_user_is_not_removed_but_named(sessions):
    sessions.write(claim="False", backend="sharing")
    sessions.run("--benchscale-keep=failed", failed=1)
    (theirs,) = kept()
    sessions.write(backend="sharing")
    result = sessions.run(errors=1)
    result.stdout.fnmatch_lines([f"*benchscale down {theirs.lab_id}*"])
    assert [found.lab_id for found in kept()] == [theirs.lab_id]


def test_a_session_that_is_interrupted_leaves_nothing_to_the_next(sessions):
    sessions.write(claim="exec('raise KeyboardInterrupt')")
    with suppress(KeyboardInterrupt):
        sessions.run()
    assert kept() == []
    assert sessions.events() == ["open lan", "close lan"]
