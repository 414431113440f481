"""What the README promises is there: its examples run, its file is valid, its names exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pydantic
import pytest
import yaml

import pytest_benchscale
from pytest_benchscale import Lab, Node, cli, plugin
from pytest_benchscale.lab.process import Process
from pytest_benchscale.results import ExecResult
from pytest_benchscale.topology import loader, model

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOUR = ROOT / "example_topologies"


def blocks(language: str) -> list[str]:
    """Return the code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def section(title: str) -> str:
    """Return a section of the README without its code blocks."""
    text = README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    assert text, f"no section {title!r}"
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def first_cells(text: str) -> str:
    """Return the first column of the tables in a text."""
    return "\n".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE))


def test_every_topology_is_valid() -> None:
    assert len(blocks("yaml")) == 3
    for text in blocks("yaml"):
        loader.load_text(text)


def test_the_reference_has_every_key_and_no_other() -> None:
    everything = yaml.safe_load(blocks("yaml")[1])
    nodes = everything["nodes"]
    attachments = [network for network in nodes[0]["networks"] if isinstance(network, dict)]
    shown: list[tuple[type[pydantic.BaseModel], Iterable[Mapping[str, Any]]]] = [
        (model.Topology, [everything]),
        (model.Metadata, [everything["metadata"]]),
        (model.Network, everything["networks"]),
        (model.Preset, everything["presets"].values()),
        (model.NodeSpec, nodes),
        (model.Attachment, attachments),
        (model.Deploy, nodes[0]["deploy"]),
        (model.WaitFor, nodes[0]["wait_for"]),
        (model.CloudInit, [nodes[1]["cloud_init"]]),
        (model.WriteFile, nodes[1]["cloud_init"]["write_files"]),
        (model.Ssh, [nodes[2]["ssh"]]),
    ]
    for kind, parts in shown:
        assert {key for part in parts for key in part} == set(kind.model_fields), kind


@pytest.mark.skipif(sys.platform != "linux", reason="the embedded backend needs Linux")
def test_the_example_runs_as_it_is_printed(tmp_path: Path) -> None:
    (tmp_path / "simple-lan.yaml").write_text(blocks("yaml")[0])
    (tmp_path / "test_simple_lan.py").write_text(blocks("python")[0])
    environment = {name: value for name, value in os.environ.items() if "PYTEST" not in name}

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--rootdir", tmp_path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed" in run.stdout


def test_the_python_is_python() -> None:
    for text in blocks("python"):
        compile(text, "README.md", "exec")


def test_every_option_and_setting_is_named_and_exists() -> None:
    class Declared:
        """Takes what the plugin declares, as pytest's parser does."""

        def __init__(self) -> None:
            self.names: set[str] = set()

        def getgroup(self, *_: str) -> Declared:
            return self

        def addoption(self, name: str, **_: object) -> None:
            self.names.add(name)

        def addini(self, name: str, *_: object, **__: object) -> None:
            self.names.add(name)

    declared = Declared()
    plugin.pytest_addoption(declared)  # type: ignore[arg-type]  # a stand-in

    options = re.findall(r"`(--benchscale-[a-z-]+)", README)
    settings = re.findall(r"`(benchscale_\w+)`", README)
    assert {*options, *settings} == declared.names


@pytest.mark.parametrize(
    ("kind", "pattern"),
    [
        (Lab, r"`(?:await )?(?:lab\.|Lab\.)?([a-z_]+)(?:\(.*?\))?`"),
        (Node, r"`(?:await |async with )?([a-z_]+)(?:\(.*?\)|\[network\])?(?: as p)?`"),
    ],
)
def test_every_member_of_lab_and_node_exists(kind: type, pattern: str) -> None:
    _, of_lab, of_node = re.split(
        r"^\| (?:Lab|Node) \| \|$", section("Lab and Node"), flags=re.MULTILINE
    )
    names = re.findall(pattern, first_cells(of_lab if kind is Lab else of_node))
    public = {name for name in vars(kind) if not name.startswith("_")}

    assert len(names) > 4
    assert set(names) <= public


def test_every_member_of_process_and_result_exists() -> None:
    text = section("Lab and Node")
    of_process = set(re.findall(r"`p\.(\w+)", text))
    of_result = set(re.findall(r"`(stdout\w*|stderr\w*|returncode|ok|check|duration)", text))

    assert len(of_process) == 9
    assert all(hasattr(Process, name) or name in ("stdout", "stderr") for name in of_process)
    assert all(hasattr(ExecResult, name) for name in of_result)


def test_every_error_is_named() -> None:
    errors = {
        name
        for name in pytest_benchscale.__all__
        if isinstance(value := getattr(pytest_benchscale, name), type)
        and issubclass(value, Exception)
    }
    assert errors <= set(re.findall(r"`(\w+)`", section("Lab and Node")))


def test_every_command_exists(capsys: pytest.CaptureFixture[str]) -> None:
    commands = re.findall(r"`benchscale (\w+)", first_cells(section("The benchscale command")))
    assert len(commands) == 11
    for command in commands:
        with pytest.raises(SystemExit) as caught:
            cli.main([command, "--help"])
        assert caught.value.code == 0
        assert command in capsys.readouterr().out


@pytest.mark.parametrize("page", [ROOT / "README.md", TOUR / "README.md"], ids=["project", "tour"])
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    titles = re.findall(r"^## (.*)$", text, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^a-z -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\((.*?)\)", text):
        assert target in anchors if target.startswith("#") else (page.parent / target).exists()


def test_the_scripts_can_be_run() -> None:
    for script in re.findall(r"^scripts/\w+", "\n".join(blocks("sh")), re.MULTILINE):
        assert os.access(ROOT / script, os.X_OK), script


def test_the_tour_names_every_file() -> None:
    text = (TOUR / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in TOUR.iterdir() if path.suffix in (".py", ".yaml")}
    assert files == set(re.findall(r"\]\((\w+\.(?:py|yaml))\)", text))
