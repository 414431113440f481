"""What the loader makes of YAML itself, and what it refuses to read."""

import os
import stat
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from pytest_benchscale.errors import TopologyError
from pytest_benchscale.topology import source
from pytest_benchscale.topology.loader import load, load_text

CORPUS = Path(__file__).parent / "corpus"

ENV = "nodes:\n  - name: a\n    env: {{X: {}}}\n"


SPELLINGS = (
    "NO yes on 22:22 52:54:00:12:34:56 2024-01-31 1e3 0755 1_000 0x1F 1 -1.50 true True null ~ .inf"
)


@pytest.mark.parametrize("spelling", [*SPELLINGS.split(), "1.0", "007", "9" * 5000])
def test_an_environment_value_keeps_its_spelling(load, spelling):
    assert load(ENV.format(spelling)).nodes[0].env == {"X": spelling}


def test_an_environment_value_left_empty_is_an_empty_text(load):
    assert load("nodes: [{name: a, env: {X: , Y: ''}}]").nodes[0].env == {"X": "", "Y": ""}


@pytest.mark.parametrize(
    ("spelling", "value"),
    [("512", 512), ("0o17", 15), ("0x10", 16), ("1e3", 1000), ("010", 10), ("+5", 5), ("2.0", 2)],
)
def test_a_number_is_read_by_yaml_1_2(load, spelling, value):
    node = load(f"nodes: [{{name: a, memory_mb: {spelling}}}]").nodes[0]
    assert node.memory_mb == value
    assert isinstance(node.memory_mb, int)


@pytest.mark.parametrize(
    "spelling", ["NO", "yes", "22:22", "2024-01-31", "52:54:00:12:34:56", "1_000", "0b1", "=", "<"]
)
def test_what_yaml_1_1_would_change_stays_text(load, spelling):
    metadata = load(f"metadata: {{free: {spelling}}}\nnodes: [{{name: a}}]").metadata
    assert metadata.model_extra == {"free": spelling}


def test_free_metadata_has_numbers_as_numbers(load):
    topology = load(
        "metadata: {limit: 0.5, on: true, none: [~, 1]}\n"
        "nodes: [{name: a, metadata: {cpu_limit: 0.5, deep: {n: [1, {x: 2}]}}}]"
    )
    assert topology.metadata.model_extra == {"limit": 0.5, "on": True, "none": [None, 1]}
    assert topology.nodes[0].metadata == {"cpu_limit": 0.5, "deep": {"n": [1, {"x": 2}]}}


def test_version_tags_mode_ports_and_passwords_keep_their_spelling(load):
    topology = load(
        """
metadata: {name: x, version: 2.0, tags: [NO, 1.10, true]}
nodes:
  - name: a
    ports: [22:22, 8080]
    deploy: [{src: ./x, dest: /x, mode: 0755}]
    cloud_init: {password: 012345, write_files: [{path: /x, permissions: 0644}]}
    ssh: {password: 1e3}
"""
    )
    node = topology.nodes[0]
    assert (topology.metadata.version, topology.metadata.tags) == ("2.0", ("NO", "1.10", "true"))
    assert node.ports == ("22:22", "8080")
    assert node.deploy[0].mode == "0755"
    assert node.cloud_init
    assert node.cloud_init.password == "012345"
    assert node.cloud_init.write_files[0].permissions == "0644"
    assert node.ssh
    assert node.ssh.password == "1e3"


@pytest.mark.parametrize(("tag", "value"), [("!!str 5", "5"), ("! 5", "5"), ("!!int 5", 5)])
def test_the_standard_tags_are_understood(load, tag, value):
    extra = load(f"metadata: {{free: {tag}}}\nnodes: [{{name: a}}]").metadata.model_extra
    assert extra == {"free": value}


@pytest.mark.parametrize("tag", ["!ENV", "!!python/object:os.system", "!!binary", "!!int x"])
def test_any_other_tag_is_an_error(problems, tag):
    (problem,) = problems(f"metadata: {{free: {tag.split()[0]} x}}\nnodes: [{{name: a}}]")
    assert problem.startswith("1:18: the tag ")


def test_a_duplicate_key_is_an_error_with_both_places(problems):
    text = "nodes:\n  - name: a\n    env: {X: 1}\n    memory_mb: 1\n    env: {X: 2}\n"
    assert problems(text) == ["5:5: nodes[0].env: duplicate key; line 3, column 5 has it already"]


def test_a_duplicate_key_does_not_hide_other_problems(problems):
    assert [p.split(":")[0] for p in problems("nodes:\n- name: a\n  name: b\n  x: 1\n")] == [
        "3",
        "4",
    ]


def test_anchors_aliases_and_merge_keys_work(load):
    topology = load(
        """
metadata:
  base: &base {image: alpine, env: &env {A: 1, B: 2}, memory_mb: 64}
  more: &more {vcpus: 2, memory_mb: 1}
nodes:
  - {name: a, <<: *base}
  - <<: [*base, *more]
    name: b
    env: {<<: *env, B: 3}
  - {name: c, env: *env}
"""
    )
    a, b, c = topology.nodes
    assert (a.image, a.env, a.memory_mb) == ("alpine", {"A": "1", "B": "2"}, 64)
    assert (b.image, b.env, b.memory_mb, b.vcpus) == ("alpine", {"A": "1", "B": "3"}, 64, 2)
    assert c.env == {"A": "1", "B": "2"}


def test_an_error_that_an_alias_repeats_is_reported_once_where_it_is_written(problems):
    text = """
metadata:
  base: &base
    memroy: 1
nodes:
  - {name: a, <<: *base}
  - {name: b, <<: *base}
"""
    assert problems(text) == ["4:5: nodes[0].memroy: unknown key; did you mean memory_mb?"]


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("nodes: [*x]", "1:9", "no anchor &x"),
        ("nodes: &x [*x]", "1:12", "stands inside what it repeats"),
        ("a: &x 1\nnodes: &x [*x]", "2:12", "stands inside what it repeats"),
        ("nodes: [{name: a, <<: 5}]", "1:23", "<< must name a mapping"),
        ("nodes: [{[1]: a}]", "1:10", "a key must be a text"),
    ],
)
def test_a_wrong_use_of_yaml_is_an_error_with_its_place(problems, text, place, message):
    (problem,) = problems(text)
    assert problem.startswith(f"{place}: ")
    assert message in problem


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("nodes: [{name: a}", "2:1", "while parsing a flow sequence"),
        ("nodes:\n\t- name: a\n", "2:1", "a tab character; YAML is indented with spaces"),
        ("nodes:\n- name: 'a\n", "3:1", "while scanning a quoted scalar that begins at line 2"),
        ("nodes: a: b", "1:9", "mapping values are not allowed"),
        ("%YAML 2.0\n---\nnodes: []", "1:1", "incompatible YAML document"),
        ('a: "\\ud800"', "1:7", "invalid Unicode"),
        ("a: \x07", "1:4", "the character U+0007 is not allowed"),
        ("a: \ud800", "1:4", "the character U+D800 is not allowed"),
        ("nodes: []\n---\nnodes: []", "2:1", "a second document starts here"),
        ("", "1:1", "is empty"),
        ("# nothing\n", "1:1", "is empty"),
        ("---\n~\n", "1:1", "is empty"),
        ("- a\n", "1:1", "must be a mapping, is a list"),
        ("just text", "1:1", "must be a mapping, is the text 'just text'"),
    ],
)
def test_what_is_not_a_yaml_mapping_is_one_clear_error(problems, text, place, message):
    (problem,) = problems(text)
    assert problem.startswith(f"{place}: ")
    assert message in problem


@pytest.mark.parametrize("marker", ["\ufeff", ""])
def test_a_byte_order_mark_is_fine(tmp_path, marker):
    file = tmp_path / "t.yaml"
    file.write_text(f"{marker}nodes: [{{name: a}}]", encoding="utf-8")
    assert load(file).nodes[0].name == "a"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"nodes: []\n\xff\xfe", ":2:1: is not UTF-8: byte 0xff at byte offset 10"),
        (b"\xef\xbb\xbfa: \xff", ":1:7: is not UTF-8: byte 0xff at byte offset 6"),
        ("nodes: []".encode("utf-16"), ":1:4: is not a text file: NUL byte at byte offset 3"),
        (b"\x7fELF\x02\x01\x01\0\0\0", ":1:8: is not a text file: NUL byte at byte offset 7"),
        (b"", ":1:1: is empty"),
    ],
)
def test_a_file_that_is_not_utf_8_text_names_the_byte(tmp_path, data, message):
    file = tmp_path / "t.yaml"
    file.write_bytes(data)
    with pytest.raises(TopologyError) as caught:
        load(file)
    assert message in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_file_of_two_mebibytes_is_refused_by_its_size(tmp_path):
    file = tmp_path / "t.yaml"
    file.write_bytes(b"# a comment\n" * 180_000)
    with pytest.raises(TopologyError, match=r"t\.yaml: is larger than 1 MiB"):
        load(file)
    with pytest.raises(TopologyError, match="larger than 1 MiB"):
        load_text("#" * (source.MAX_BYTES + 1))


def test_a_missing_file_a_directory_a_pipe_and_an_impossible_path_say_so(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name, message in [
        ("missing.yaml", "missing.yaml: cannot be read: No such file or directory"),
        ("", "is a directory, not a topology file"),
        ("pipe", "is not a regular file"),
        ("a\0b", "cannot be read: embedded null"),
        ("x" * 300, "cannot be read: File name too long"),
    ]:
        with pytest.raises(TopologyError) as caught:
            load(tmp_path / name)
        assert message in str(caught.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file_says_so_to_a_user(tmp_path):
    file = tmp_path / "t.yaml"
    file.touch(mode=stat.S_IWUSR)
    with pytest.raises(TopologyError, match="cannot be read: Permission denied"):
        load(file)


def test_an_unreadable_file_says_so(tmp_path, monkeypatch):
    def refuse(self, *args):
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "t.yaml"
    file.touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(TopologyError, match=r"t\.yaml: cannot be read: Permission denied"):
        load(file)


def _laughs(levels: int) -> str:
    start = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]"
    more = (f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, levels))
    return "\n".join([start, *more])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_laughs(30), "holds more than 100,000 values, aliases expanded"),
        ("x: [" + "1," * 200_000 + "1]", "holds more than 100,000 values"),
        ("[" * 500_000, "nested more than 100 levels deep"),
        ("a: " + "{a: " * 5000, "nested more than 100 levels deep"),
        ("".join(" " * i + "a:\n" for i in range(1000)), "nested more than 100 levels deep"),
        (
            "a0: &a0 [[[x]]]\n" + "\n".join(f"a{i}: &a{i} [[[*a{i - 1}]]]" for i in range(1, 5000)),
            "nested more than 100 levels deep by the alias",
        ),
        ("? " * 5000, "nested more than 100 levels deep"),
        ("- " * 5000, "nested more than 100 levels deep"),
    ],
    ids=["laughs", "long-list", "brackets", "braces", "indent", "alias-depth", "keys", "dashes"],
)
def test_a_bomb_is_refused_quickly(problems, text, message):
    started = time.process_time()
    (problem,) = problems(text)
    assert message in problem
    assert time.process_time() - started < 2


def test_a_hundred_levels_are_fine(load):
    text = "metadata: {deep: " + "[" * 98 + "]" * 98 + "}\nnodes: [{name: a}]"
    assert load(text).name == "topology"


def test_thousands_of_mistakes_end_in_a_report_of_bounded_size(problems):
    started = time.process_time()
    text = "nodes: [{name: a}]\n" + "\n".join(f"key{i}: 1" for i in range(5_000))
    assert len(problems(text)) == 1000
    assert time.process_time() - started < 10


def test_a_huge_value_is_cut_in_the_message(problems):
    (problem,) = problems(f"nodes: [{{name: a, memory_mb: {'x' * 100_000}}}]")
    assert len(problem) < 200
    (problem,) = problems(f"nodes: [{{name: a, {'x' * 900}: 1}}]")
    assert len(problem) < 300


def _loads_or_is_a_clear_error(text):
    with suppress(TopologyError):
        load_text(text)


@pytest.mark.parametrize("name", ["simple-lan", "ionChannel-rustdesk-test", "nuc-validation"])
def test_every_truncation_of_a_file_loads_or_is_a_clear_error(name):
    text = (CORPUS / f"{name}.yaml").read_text("utf-8")[:4000]
    for end in range(0, len(text), 13):
        _loads_or_is_a_clear_error(text[:end])


@pytest.mark.parametrize("junk", ["\t", ": ", "- ", "{", "]", "&a ", "*a ", "? ", "!!x ", "|", "'"])
def test_junk_anywhere_in_a_file_loads_or_is_a_clear_error(junk):
    text = (CORPUS / "simple-lan.yaml").read_text("utf-8")
    for position in range(0, len(text), 11):
        _loads_or_is_a_clear_error(text[:position] + junk + text[position:])


def test_the_parser_in_python_gives_the_same(monkeypatch, problems):
    texts = [
        (CORPUS / "ionChannel-rustdesk-test.yaml").read_text("utf-8"),
        "nodes: [{name: a, env: {A: 1, B: 22:22}}]",
    ]
    fast = [load_text(text) for text in texts]
    wrong = "nodes:\n- name: a\n  memroy: 1\n  name: b\n"
    expected = problems(wrong)
    monkeypatch.setattr(source, "_LOADER", yaml.SafeLoader)
    assert [load_text(text) for text in texts] == fast
    assert problems(wrong) == expected
    assert problems("[" * 500_000)[0].endswith("nested more than 100 levels deep")


def test_two_hundred_nodes_load_in_well_under_a_fifth_of_a_second(load):
    node = (
        "  - name: node-{0}\n    image: ubuntu\n    env: {{ROLE: x, ID: {0}}}\n    memory_mb: 64\n"
    )
    text = "network: {name: lan, subnet: 10.0.0.0/16}\nnodes:\n"
    text += "".join(node.format(i) for i in range(200))
    load(text)
    best = min(_seconds(lambda: load(text)) for _ in range(3))
    assert best < 0.2


def _seconds(action):
    started = time.process_time()
    action()
    return time.process_time() - started
