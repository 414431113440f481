"""First steps: a mark names a topology file, the fixture `lab` is that topology, running.

`lab["box"]` is a machine. `exec` runs a command on it and returns what the command left behind;
files go in and out. What happens in the machine stays there: this host is not touched.
"""

from pathlib import Path

import pytest

from pytest_benchscale import CommandFailed, CommandTimeout, Lab

pytestmark = pytest.mark.topology("01_one_node.yaml")  # for every test of this file


async def test_a_command_leaves_its_output_and_exit_code(lab: Lab) -> None:
    result = await lab["box"].exec("echo out; echo err >&2; exit 3")

    assert result.stdout == "out\n"
    assert result.stderr == "err\n"
    assert result.returncode == 3
    assert not result.ok


async def test_text_goes_through_the_shell_and_a_list_does_not(lab: Lab) -> None:
    box = lab["box"]

    assert (await box.exec("echo $((6 * 7))")).stdout == "42\n"
    assert (await box.exec(["echo", "$((6 * 7))"])).stdout == "$((6 * 7))\n"


async def test_the_environment_comes_from_the_file_and_the_call(lab: Lab) -> None:
    result = await lab["box"].exec('echo "$GREETING, $NAME"', env={"NAME": "world"})

    assert result.stdout == "hello, world\n"


async def test_a_command_reads_its_standard_input(lab: Lab) -> None:
    assert (await lab["box"].exec("tr a-z A-Z", input="louder")).stdout == "LOUDER"


async def test_a_checked_command_must_succeed(lab: Lab) -> None:
    with pytest.raises(CommandFailed, match="exit code 7"):
        await lab["box"].exec("exit 7", check=True)


async def test_a_command_that_takes_too_long_is_killed(lab: Lab) -> None:
    with pytest.raises(CommandTimeout) as caught:
        await lab["box"].exec("echo started; sleep 600", timeout=0.5)

    assert caught.value.result.stdout == "started\n"


async def test_files_are_written_and_read(lab: Lab) -> None:
    box = lab["box"]
    await box.write_text("/srv/notes/first.txt", "remember the milk\n")

    assert await box.read_text("/srv/notes/first.txt") == "remember the milk\n"
    assert (await box.exec("wc -w < /srv/notes/first.txt")).stdout.strip() == "3"


async def test_whole_directories_go_in_and_out(lab: Lab, tmp_path: Path) -> None:
    box = lab["box"]
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("A")

    await box.put(tmp_path / "letters", "/srv")  # a directory, so it becomes /srv/letters
    await box.exec("cp a.txt b.txt", cwd="/srv/letters", check=True)
    await box.get("/srv/letters", tmp_path / "answers")

    assert (tmp_path / "answers" / "b.txt").read_text() == "A"


async def test_the_machine_is_not_this_host(lab: Lab) -> None:
    box = lab["box"]
    await box.write_text("/etc/only-in-the-box", "")

    assert not Path("/etc/only-in-the-box").exists()
    assert (await box.exec("uname -n")).stdout == "box\n"
