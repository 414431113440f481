"""Say by HTTP who this is, over IPv4 and IPv6."""

import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Greeter(BaseHTTPRequestHandler):
    """Answers every GET."""

    def do_GET(self) -> None:
        """Greet."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"this is {socket.gethostname()}".encode())


class Server(ThreadingHTTPServer):
    """On Linux a socket of IPv6 takes IPv4 connections as well."""

    address_family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET


Server(("", 8000), Greeter).serve_forever()
