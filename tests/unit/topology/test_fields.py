"""What each key may hold, and the words when it does not."""

import re
import time
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

EVERYTHING = """
metadata: {name: all, description: every key, version: "2.0", tags: [a, b], owner: {team: x}}
backend: auto
networks:
  - name: lan
    subnet: 10.100.0.0/24
    gateway: 10.100.0.1
    internet: true
    preset: home_lan
    conditions: {latency_ms: 1, jitter_ms: 0.2, packet_loss_percent: 0.1, bandwidth_kbps: 1000000}
  - {name: wan, subnet: "fd00:2::/64"}
presets:
  mine: {description: x, scenario: y, latency_ms: 7, duplicate_percent: 1, corrupt_percent: 2,
         reorder_percent: 3}
nodes:
  - name: db
  - name: server
    image: debian-12
    backend: docker
    networks:
      - lan
      - {name: wan, address: "fd00:2::5", network_conditions: {preset: mine}}
    env: {ROLE: server, ID: 1}
    memory_mb: 512
    vcpus: 0.5
    disk_gb: 10
    command: [sleep, 60]
    platform: linux/arm/v7
    ports: ["8080:80", "127.0.0.1:8443:443/tcp", "53/udp", "[::1]:1:1", "127.0.0.1::80"]
    volumes: ["./data:/srv:ro", "named:/var/lib/x", "/abs:/abs:rw,z"]
    depends_on: [db]
    deploy: [{src: ./bin/app, dest: /usr/local/bin/app, mode: "0755"}, {src: a, dest: /b}]
    setup: [apt-get install -y nginx]
    wait_for:
      - {port: 80}
      - {exec: systemctl is-active app, timeout: 5}
      - {exec: [test, -e, /x]}
      - {file: /run/ready}
      - {log: listening}
  - name: vm
    image: {libvirt: ubuntu, docker: {build: ./image}, local: ./rootfs}
    cloud_init:
      user: iontest
      password: iontest
      ssh_authorized_keys: [ssh-ed25519 AAAA]
      packages: [git]
      runcmd: [echo a, [echo, b]]
      write_files: [{path: /etc/x, content: y, permissions: "0644", owner: "root:root"}]
    metadata: {free: 1}
  - name: iron
    existing: test1
    address: 192.0.2.7
    ssh: {user: iontest, password: iontest, key: ~/.ssh/id_ed25519, port: 2222}
    network_conditions: {preset: satellite, latency_ms: 600}
"""


def test_every_key_of_the_schema_is_understood(load):
    topology = load(EVERYTHING)
    lan, wan = topology.networks
    assert (lan.subnet, lan.gateway) == (IPv4Network("10.100.0.0/24"), IPv4Address("10.100.0.1"))
    assert (lan.internet, lan.preset) == (True, "home_lan")
    assert (wan.subnet, wan.internet) == (IPv6Network("fd00:2::/64"), False)
    db, server, vm, iron = topology.nodes
    assert [item.name for item in db.networks] == ["lan", "wan"]
    assert [item.name for item in server.networks] == ["lan", "wan"]
    assert str(server.networks[1].address) == "fd00:2::5"
    assert server.env == {"ROLE": "server", "ID": "1"}
    assert (server.memory_mb, server.vcpus, server.disk_gb) == (512, 0.5, 10)
    assert server.command == ("sleep", "60")
    assert server.deploy[0].mode == "0755"
    assert [wait.timeout for wait in server.wait_for] == [60, 5, 60, 60, 60]
    assert server.wait_for[2].exec == ("test", "-e", "/x")
    assert vm.image["docker"].build == "./image"
    assert vm.cloud_init.runcmd == ("echo a", ("echo", "b"))
    assert (iron.existing, iron.address, iron.ssh.port) == ("test1", "192.0.2.7", 2222)
    assert topology.presets["mine"].reorder_percent == 3
    assert topology.metadata.model_extra == {"owner": {"team": "x"}}


def test_the_smallest_topology_is_one_name(load):
    topology = load("nodes: [{name: a}]")
    assert [network.name for network in topology.networks] == ["lan"]
    assert [item.name for item in topology.nodes[0].networks] == ["lan"]
    assert topology.backend is None


def test_a_key_without_a_value_counts_as_absent(load):
    topology = load(
        "backend:\nnetwork:\nnodes:\n- name: a\n  env:\n  networks: ~\n  memory_mb:\n  image: null\n"
    )
    assert topology == load("nodes: [{name: a}]")


def test_a_topology_may_have_no_network(load):
    topology = load("networks: []\nnodes: [{name: a}]")
    assert (topology.networks, topology.nodes[0].networks) == ((), ())


def test_a_node_may_be_on_no_network(load):
    assert load("nodes: [{name: a, networks: []}]").nodes[0].networks == ()


def test_a_main_command_given_as_a_line_goes_through_the_shell(load):
    node = load("nodes: [{name: a, command: sleep 1 && echo}]").nodes[0]
    assert node.command == ("/bin/sh", "-c", "sleep 1 && echo")


def test_a_preset_beside_the_conditions_is_the_preset_of_the_conditions(load, problems):
    short = "nodes: [{name: a, network_conditions_preset: satellite}]"
    long = "nodes: [{name: a, network_conditions: {preset: satellite}}]"
    assert load(short) == load(long)
    (problem,) = problems(short.replace("satellite", "satelite"))
    assert problem.startswith("1:46: nodes[0].network_conditions_preset: unknown preset 'satelite'")
    (problem,) = problems(
        "nodes: [{name: a, network_conditions_preset: x, network_conditions: {preset: y}}]"
    )
    assert "give the preset in network_conditions only" in problem


@pytest.mark.parametrize("name", ["a", "node-1", "a.b", "_x", "A_b-c.d9", "n" * 300, "1a", "a-"])
def test_a_name_may_be(load, name):
    assert load(f"nodes: [{{name: {name}}}]").node(name).name == name


BAD_NAMES = (
    r"""'' ' ' 'a b' a/b -a . .. .a a. ä 'a#b' 'a:b' "a\nb" "a\0" [a] {} localhost LocalHost"""
)
ADDRESS_LIKE_NAMES = ["5", "1.2", "10.0.0.1", "0x10"]


@pytest.mark.parametrize(
    "name", [*re.findall(r"'[^']*'|\"[^\"]*\"|\S+", BAD_NAMES), *ADDRESS_LIKE_NAMES]
)
def test_a_name_may_not_be(problems, name):
    (problem,) = problems(f"nodes:\n- name: {name}\n")
    assert problem.startswith("2:9: nodes[0].name: ")


# Each: what stands after `nodes: [{name: a, `, and the problem.
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory_mb: lots", "memory_mb: must be a number, is the text 'lots'"),
        ("memory_mb: '512'", "is the text '512'; write it without quotes"),
        ("memory_mb: 512M", "must be a number, is the text '512M'"),
        ("memory_mb: 0", "must be more than 0, is 0"),
        ("memory_mb: -1", "must be more than 0, is -1"),
        ("memory_mb: 1.5", "must be a whole number, is 1.5"),
        ("memory_mb: .inf", "must be more than 0, is .inf"),
        ("memory_mb: .nan", "must be more than 0, is .nan"),
        ("memory_mb: true", "must be a number, is true"),
        (f"memory_mb: {'9' * 400}", "must be more than 0"),
        ("memory_mb: [1]", "must be a number, is a list"),
        ("vcpus: 0", "vcpus: must be more than 0, is 0"),
        ("disk_gb: {}", "disk_gb: must be a number, is a mapping"),
        ("env: [A=1]", "env: must be a mapping, KEY: VALUE, is a list"),
        ("env: {A: [1]}", "env.A: must be a text, is a list"),
        ("env: {A=B: 1}", "env.'A=B': is no name of an environment variable"),
        ("env: {'': 1}", "is no name of an environment variable"),
        ('env: {A: "\\0"}', "env.A: must not contain a NUL character"),
        ("command: []", "command: must not be empty"),
        ("command: {}", "command: must be a command line or a list of its words, is a mapping"),
        ("command: ''", "command: must not be empty"),
        ("image: ''", "image: must be an image or a mapping"),
        ("image: []", "image: must be an image or a mapping from backend to image, is a list"),
        ("image: {}", "image: must not be empty"),
        ("image: {docker: {biuld: x}}", "image: for docker, a mapping must be {build: DIRECTORY}"),
        ("image: {docker: [x]}", "image: for docker, must be an image, is a list"),
        ("platform: arm64", "platform: 'arm64' is not a platform: write OS/ARCHITECTURE"),
        ("platform: linux/ARM64", "'linux/ARM64' is not a platform"),
        ("platform: [linux, arm64]", "platform: must be a text, is a list"),
        ("ports: '80:80'", "ports: must be a list, is the text '80:80'; put it in brackets"),
        ("ports: {80: 80}", "ports: must be a list, is a mapping"),
        ("ports: ['80:0']", "ports[0]: '80:0' is not a published port"),
        ("ports: ['70000:80']", "is not a published port"),
        ("ports: [x]", "is not a published port"),
        ("ports: ['80:80/xyz']", "is not a published port"),
        ("ports: ['300.1.1.1:80:80']", "ports[0]: '300.1.1.1' is not an IP address"),
        ("ports: ['']", "is not a published port"),
        ("volumes: [/srv]", "volumes[0]: '/srv' is not a volume: write SOURCE:TARGET"),
        ("volumes: ['./a:b']", "the target an absolute path"),
        ("volumes: ['./a:/b:rx']", "a volume's mode is 'ro' or 'rw', not 'rx'"),
        ("deploy: [{src: a, dest: b}]", "deploy[0].dest: 'b' must be an absolute path in the node"),
        ("deploy: [{src: a, dest: /b, mode: 999}]", "deploy[0].mode: '999' is not a file mode"),
        ("deploy: [{src: a, dest: /b, mode: rwx}]", "'rwx' is not a file mode"),
        ("deploy: [{src: a}]", "deploy[0]: the required key 'dest' is missing"),
        ("deploy: [a]", "deploy[0]: must be a mapping, KEY: VALUE, is the text 'a'"),
        ("setup: apt-get update", "setup: must be a list, is the text 'apt-get update'"),
        ("setup: ['']", "setup[0]: must not be empty"),
        ("wait_for: {port: 80}", "wait_for: must be a list, is a mapping"),
        ("wait_for: [{}]", "wait_for[0]: needs exactly one of port, exec, file and log"),
        ("wait_for: [{port: 1, log: x}]", "needs exactly one of port, exec, file and log"),
        ("wait_for: [{port: 0}]", "wait_for[0].port: must be a port number, 1 to 65535, is 0"),
        ("wait_for: [{port: 1, timeout: 0}]", "wait_for[0].timeout: must be more than 0"),
        ("wait_for: [{file: x}]", "wait_for[0].file: 'x' must be an absolute path"),
        ("wait_for: [{prot: 80}]", "wait_for[0].prot: unknown key; did you mean port?"),
        ("cloud_init: {write_files: [{}]}", "write_files[0]: the required key 'path' is missing"),
        ("cloud_init: {usr: x}", "cloud_init.usr: unknown key; did you mean user?"),
        ("existing: x, ssh: {port: 99999}", "ssh.port: must be a port number, 1 to 65535"),
        ("existing: x, address: 10.0.0.300", "address: '10.0.0.300' is not an IP address"),
        ("existing: x, address: 'a b'", "'a b' is neither an IP address nor a host name"),
        ("metadata: x", "metadata: must be a mapping"),
        ("networks: lan", "networks: must be a list, is the text 'lan'"),
        ("networks: [{name: lan, address: 10.0.0.5/24}]", "an address without a prefix length"),
        ("networks: [{address: 10.0.0.5}]", "networks[0]: the required key 'name' is missing"),
        ("networks: [a b]", "networks[0]: 'a b' cannot be used as a name"),
        ("network_conditions: {latency_ms: 60001}", "must be between 0 and 60,000 ms, is 60001"),
        ("network_conditions: {latency_ms: -1}", "must be between 0 and 60,000 ms, is -1"),
        ("network_conditions: {latency_ms: .nan}", "must be between 0 and 60,000 ms, is .nan"),
        ("network_conditions: {latency_ms: 5ms}", "must be a number, is the text '5ms'"),
        ("network_conditions: {packet_loss_percent: 100.1}", "must be between 0 and 100 %"),
        ("network_conditions: {packet_loss_percent: 1%}", "must be a number, is the text '1%'"),
        ("network_conditions: {bandwidth_kbps: -1}", "between 0 and 1,000,000,000 kbit/s, is -1"),
        ("network_conditions: {jitter_ms: true}", "jitter_ms: must be a number, is true"),
        ("network_conditions: satellite", "network_conditions: must be a mapping"),
    ],
)
def test_a_wrong_value_of_a_node_is_one_problem(problems, text, message):
    (problem,) = problems(f"nodes: [{{name: a, {text}}}]")
    assert problem.startswith("1:")
    assert ": nodes[0]." in problem
    assert message in problem


@pytest.mark.parametrize("address", ["nuc", "nuc.local", "nuc.local.", "192.0.2.7", "2001:db8::7"])
def test_a_machine_is_reached_by_address_or_host_name(load, address):
    node = load(f"nodes: [{{name: a, existing: x, address: '{address}'}}]").nodes[0]
    assert node.address == address


def test_a_long_text_that_is_no_host_name_is_refused_quickly(problems):
    started = time.process_time()
    (problem,) = problems(f"nodes: [{{name: a, existing: x, address: {'a' * 100_000}!}}]")
    assert "is neither an IP address nor a host name" in problem
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subnet: 10.300.0.0/24", "'10.300.0.0/24' is not a subnet: octet 300 (> 255)"),
        ("subnet: 10.0.0.0", "'10.0.0.0' is not a subnet: the prefix length is missing"),
        ("subnet: 10.0.0.0/33", "'10.0.0.0/33' is not a subnet: the prefix length is at most 32"),
        ("subnet: 10.0.0.0/255.0.0.0", "the prefix length is missing"),
        ("subnet: 10.0.0.5/24", "has host bits set; did you mean 10.0.0.0/24?"),
        ("subnet: 10.0.0/24", "is not a subnet"),
        ("subnet: fd00::/129", "is not a subnet: the prefix length is at most 128"),
        ("subnet: 'fe80::%eth0/64'", "a scope, %..., is not allowed"),
        ("subnet: 'fd00::1/64'", "did you mean fd00::/64?"),
        ("subnet: /24", "is not a subnet"),
        ("subnet: invalid", "'invalid' is not a subnet"),
        ("subnet: ''", "'' is not a subnet"),
        ("subnet: 10", "'10' is not a subnet"),
        ("subnet: [10.0.0.0/24]", "must be a text, is a list"),
        ("subnet: 127.0.0.0/8", "cannot be used by nodes: it is reserved"),
        ("subnet: 224.0.0.0/24", "cannot be used by nodes: it is reserved"),
        ("subnet: 0.0.0.0/0", "cannot be used by nodes: it is reserved"),
        ("internet: yes", "internet: must be true or false, is the text 'yes'"),
        ("internet: 1", "internet: must be true or false, is 1"),
        ("subnet: 10.0.0.0/24, gateway: 10.0.0.256", "gateway: '10.0.0.256' is not an IP address"),
        ("cidr: 10.0.0.0/24", "cidr: unknown key; did you mean subnet?"),
        ("conditions: {delay: 5}", "conditions.delay: unknown key; did you mean latency_ms?"),
    ],
)
@pytest.mark.parametrize("shape", ["network: {%s}", "networks: [{%s}]"])
def test_a_wrong_value_of_a_network_is_one_problem(problems, shape, text, message):
    (problem,) = problems(f"{shape % f'name: lan, {text}'}\nnodes: [{{name: a}}]")
    part = "network." if shape.startswith("network:") else "networks[0]."
    assert problem.startswith("1:")
    assert f": {part}" in problem
    assert message in problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nodes: []", "1:8: nodes: must not be empty; a topology needs at least one node"),
        ("nodes:", "1:7: nodes: must not be empty"),
        ("metadata: {name: x}", "1:1: the required key 'nodes' is missing"),
        ("nodes: {a: {}}", "1:8: nodes: must be a list, is a mapping"),
        ("nodes: [a]", "1:9: nodes[0]: must be a mapping, KEY: VALUE, is the text 'a'"),
        ("nodes: [{}]", "1:9: nodes[0]: the required key 'name' is missing"),
        ("nodes: [{name: }]", "1:16: nodes[0].name: must not be empty"),
        (
            "network: {subnet: 10.0.0.0/24}\nnodes: [{name: a}]",
            "1:10: network: the required key 'name' is missing",
        ),
        ("networks: {name: x}\nnodes: [{name: a}]", "1:11: networks: must be a list, is a mapping"),
        (
            "network: {name: x}\nnetworks: [{name: y}]\nnodes: [{name: a}]",
            "2:1: networks: give either `network` or `networks`, not both",
        ),
        ("metadata: [x]\nnodes: [{name: a}]", "1:11: metadata: must be a mapping"),
        ("metadata: {tags: a}\nnodes: [{name: a}]", "1:18: metadata.tags: must be a list"),
        ("presets: [x]\nnodes: [{name: a}]", "1:10: presets: must be a mapping"),
        ("presets: {a b: {}}\nnodes: [{name: a}]", "1:11: presets.'a b': 'a b' cannot be used"),
        (
            "presets: {x: {latency_ms: -1}}\nnodes: [{name: a}]",
            "1:27: presets.x.latency_ms: must be between 0 and 60,000 ms, is -1",
        ),
    ],
)
def test_a_wrong_top_level_is_one_problem(problems, text, expected):
    (problem,) = problems(text)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "nodes:\n- name: a\n- name: b\n- name: c\n  memroy: 1",
            "5:3: nodes[2].memroy: unknown key; did you mean memory_mb?",
        ),
        ("nodes: [{name: a, memory: 1}]", "did you mean memory_mb, a number of MiB?"),
        ("nodes: [{name: a, cpus: 1}]", "did you mean vcpus?"),
        ("nodes: [{name: a, ip: 10.0.0.1}]", "write networks: [{name: ..., address: ...}]"),
        ("nodes: [{name: a, environment: {}}]", "did you mean env?"),
        ("nodes: [{name: a, depend_on: []}]", "did you mean depends_on?"),
        ("nodes: [{name: a, role: x}]", "free data goes under metadata"),
        ("nodes: [{name: a, latency_ms: 5}]", "it goes under network_conditions"),
        ("name: x\nnodes: [{name: a}]", "1:1: name: unknown key; it goes under metadata"),
        ("network_presets: {}\nnodes: [{name: a}]", "did you mean presets?"),
        ("nodes: [{name: a}]\nspec: {}", "2:1: spec: unknown key; known are "),
        ("nodes: [{name: a, xyzzy: 1}]", "1:19: nodes[0].xyzzy: unknown key"),
        ("nodes: [{name: a, 5: 1}]", "1:19: nodes[0].5: unknown key"),
    ],
)
def test_an_unknown_key_is_an_error_that_guesses_what_was_meant(problems, text, expected):
    (problem,) = problems(text)
    assert expected in problem


def test_all_problems_are_reported_at_once_in_the_order_of_the_file(problems):
    found = problems(
        """\
backend: dokcer
networks:
  - {name: lan, subnet: 10.300.0.0/24}
  - {name: wan, subnet: 10.2.0.0/24, gateway: 10.3.0.1}
nodes:
  - name: a
    memroy: 512
    networks: [lan, {name: wan, address: 10.9.0.1}]
    depends_on: [b]
  - name: b
    memory_mb: lots
    depends_on: [a, cc]
  - name: a
"""
    )
    assert [problem.split(": ")[0:2] for problem in found] == [
        ["1:10", "backend"],
        ["3:25", "networks[0].subnet"],
        ["4:47", "networks[1].gateway"],
        ["7:5", "nodes[0].memroy"],
        ["8:42", "nodes[0].networks[1].address"],
        ["11:16", "nodes[1].memory_mb"],
        ["12:18", "nodes[1].depends_on[0]"],
        ["12:21", "nodes[1].depends_on[1]"],
        ["13:11", "nodes[2].name"],
    ]


@pytest.mark.parametrize(
    "text",
    [
        # What is lost with a mistake is not missed elsewhere.
        "network: {name: 'l n'}\nnodes: [{name: a, networks: [lan]}]",
        "netwroks: [{name: wan}]\nnodes: [{name: a, networks: [wan]}]",
        "networks: wan\nnodes: [{name: a, networks: [wan]}]",
        "networks: [wan]\nnodes: [{name: a, networks: [wan]}]",
        "network: {name: lan, subnet: x}\nnodes: [{name: a, networks: [{name: lan, address: 10.0.0.5}]}]",
        "network: {name: lan, subnett: 10.0.0.0/24, gateway: 10.0.0.1}\nnodes: [{name: a}]",
        "nodes: [{name: a, depends_on: [b]}, {name: 'b b'}]",
        "nodes: [{name: a, depends_on: [b]}, b]",
        "nodes: [{name: a, existign: x, address: 10.0.0.5}]",
        "presets: [mine]\nnodes: [{name: a, network_conditions: {preset: mine}}]",
        "network_presets: {mine: {}}\nnodes: [{name: a, network_conditions: {preset: mine}}]",
        "nodes: [{name: a, wait_for: [{prot: 80}]}]",
        "backend: [x]\nnodes: [{name: a}]",
        "nodes: [{name: a, deploy: [{src: x, dets: /y}]}]".replace("dets", "dest: /y, mod"),
    ],
)  # fmt: skip
def test_a_mistake_has_no_consequences_in_the_report(problems, text):
    assert len(problems(text)) == 1
