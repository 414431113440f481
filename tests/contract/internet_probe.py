"""Run in a fresh network namespace: a server there is the internet, and nodes try to reach it."""

from __future__ import annotations

import socket
import threading

from pytest_benchscale import BenchscaleError, Lab, Topology
from pytest_benchscale.network.netlink import Netlink

OUTSIDE = "198.51.100.1"
ATTEMPT = f"""
import socket
try:
    print(socket.create_connection(("{OUTSIDE}", 8099), 3).recv(10).decode())
except OSError as error:
    print("unreachable")
"""


def serve(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        connection.sendall(b"outside")
        connection.close()


def main() -> None:
    links = Netlink()
    links.set_up("lo")
    links.add_address(socket.if_nametoindex("lo"), f"{OUTSIDE}/32")
    links.flush()
    server = socket.create_server((OUTSIDE, 8099))
    threading.Thread(target=serve, args=(server,), daemon=True).start()
    networks: list[dict[str, object]] = [{"name": "open", "internet": True}, {"name": "closed"}]
    nodes = [{"name": network["name"], "networks": [network["name"]]} for network in networks]
    topology = Topology.from_dict({"metadata": {"name": "x"}, "networks": networks, "nodes": nodes})
    try:
        with Lab.open_sync(topology, backend="local") as lab:
            for name in ("open", "closed"):
                print(f"{name}:", lab.sync[name].exec(["python3", "-c", ATTEMPT]).stdout.strip())
    except BenchscaleError as error:
        print(error)


if __name__ == "__main__":
    main()
