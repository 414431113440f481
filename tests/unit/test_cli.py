"""The `benchscale` command."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pytest_benchscale import BackendUnavailable, __version__
from pytest_benchscale.backends import registry
from pytest_benchscale.cli import main

LAN = "nodes: [{name: a}, {name: b}, {name: c}]\nnetworks: [{name: x}, {name: y}]\n"


class Present:
    name = "present"

    async def probe(self) -> str:
        return "Present 1.2"


class Absent:
    name = "absent"

    async def probe(self) -> str:
        raise BackendUnavailable(
            "absent", "its daemon\ndoes not answer", resolution="start the daemon"
        )


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> None:
    classes = {"present": Present, "absent": Absent}
    monkeypatch.setattr(registry, "names", lambda: ("present", "absent", "broken"))

    def get(name: str) -> type:
        if name not in classes:
            raise BackendUnavailable(name, "it cannot be imported: ImportError: no docker")
        return classes[name]

    monkeypatch.setattr(registry, "get", get)


class TestValidate:
    def test_a_right_file_is_ok_with_the_number_of_nodes_and_networks(self, tmp_path, capsys):
        path = tmp_path / "lan.yaml"
        path.write_text(LAN)
        assert main(["validate", str(path)]) == 0
        assert capsys.readouterr().out == f"{path}: ok (3 nodes, 2 networks)\n"

    def test_one_is_not_several(self, tmp_path, capsys):
        path = tmp_path / "one.yaml"
        path.write_text("nodes: [{name: a}]\n")
        assert main(["validate", str(path)]) == 0
        assert capsys.readouterr().out == f"{path}: ok (1 node, 1 network)\n"

    def test_every_error_of_every_file_is_printed_and_the_exit_code_is_1(self, tmp_path, capsys):
        first, right, second = (tmp_path / name for name in ("1.yaml", "2.yaml", "3.yaml"))
        first.write_text("nodes:\n  - name: a\n    memroy: 1\n    vcpus: x\n")
        right.write_text(LAN)
        second.write_text("nodes: []\n")
        assert main(["validate", *map(str, (first, right, second))]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert [line.partition(": ")[0] for line in lines] == [
            f"{first}:3:5",
            f"{first}:4:12",
            str(right),
            f"{second}:1:8",
        ]
        assert "did you mean memory_mb?" in lines[0]

    def test_a_missing_file_is_one_of_the_errors(self, tmp_path, capsys):
        assert main(["validate", str(tmp_path / "none.yaml")]) == 1
        assert "none.yaml" in capsys.readouterr().out

    def test_a_preset_library_is_recognised(self, tmp_path, capsys):
        path = tmp_path / "presets.yaml"
        path.write_text("presets: {moon: {latency_ms: 1300}}\n")
        assert main(["validate", str(path)]) == 0
        assert capsys.readouterr().out == f"{path}: ok (1 preset)\n"

    def test_a_wrong_preset_library_is_an_error_about_its_presets(self, tmp_path, capsys):
        path = tmp_path / "presets.yaml"
        path.write_text("presets: {moon: {latency_ms: -1}}\n")
        assert main(["validate", str(path)]) == 1
        assert "latency_ms" in capsys.readouterr().out

    def test_a_topology_may_use_the_presets_of_libraries(self, tmp_path, capsys):
        library, path = tmp_path / "presets.yaml", tmp_path / "far.yaml"
        library.write_text("presets: {moon: {latency_ms: 1300}}\n")
        path.write_text("network: {name: lan, preset: moon}\nnodes: [{name: a}]\n")
        assert main(["validate", str(path)]) == 1
        assert "moon" in capsys.readouterr().out
        assert main(["validate", "--presets", str(library), str(path)]) == 0


class TestSchema:
    def test_the_schema_is_json(self, capsys):
        assert main(["schema"]) == 0
        schema = json.loads(capsys.readouterr().out)
        assert schema["$schema"].startswith("https://json-schema.org/")


@pytest.mark.usefixtures("backends")
class TestBackends:
    def test_each_says_whether_it_can_be_used_its_version_why_not_and_what_to_do(self, capsys):
        assert main(["backends"]) == 0
        head, *rows = capsys.readouterr().out.splitlines()
        assert re.split("  +", head) == ["name", "usable", "version", "why not", "what to do"]
        assert [row.split()[:2] for row in rows] == [
            ["present", "yes"],
            ["absent", "no"],
            ["broken", "no"],
        ]
        assert "Present 1.2" in rows[0]
        assert re.search(r"its daemon does not answer +start the daemon$", rows[1])
        assert "cannot be imported" in rows[2]

    def test_the_columns_are_aligned(self, capsys):
        main(["backends"])
        lines = capsys.readouterr().out.splitlines()
        assert (
            len(
                {
                    line.index(word)
                    for line, word in zip(lines, ("usable", "yes", "no", "no"), strict=True)
                }
            )
            == 1
        )


class TestCommandLine:
    def test_help_names_every_command(self, capsys):
        with pytest.raises(SystemExit, match="0"):
            main(["--help"])
        out = capsys.readouterr().out
        assert all(name in out for name in ("validate", "schema", "backends"))

    def test_version_is_the_packages(self, capsys):
        with pytest.raises(SystemExit, match="0"):
            main(["--version"])
        assert __version__ in capsys.readouterr().out

    @pytest.mark.parametrize("arguments", [[], ["validate"], ["frobnicate"], ["schema", "x"]])
    def test_misuse_is_exit_code_2(self, arguments, capsys):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert "usage:" in capsys.readouterr().err

    def test_a_reader_that_stops_early_is_no_error_message(self):
        script = "import sys; from pytest_benchscale.cli import main; sys.exit(main(['schema']))"
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(timeout=30) == 1

    def test_help_imports_neither_pydantic_nor_yaml(self):
        script = (
            "import sys; from pytest_benchscale.cli import main\n"
            "try: main(['--help'])\n"
            "except SystemExit: pass\n"
            "assert not {'pydantic', 'yaml', 'anyio'} & set(sys.modules)"
        )
        subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
        )
