"""The web front of the three tiers: passes every request on to the application at $APPLICATION."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.request import urlopen

APPLICATION = os.environ["APPLICATION"]


class Web(BaseHTTPRequestHandler):
    """Puts a frame around what the application says."""

    def do_GET(self) -> None:
        """Pass the request on, and the answer back."""
        try:
            with urlopen(APPLICATION + self.path, timeout=10) as answer:
                status, text = answer.status, answer.read().decode()
        except HTTPError as error:
            status, text = error.code, error.read().decode()
        self.send_response(status)
        self.end_headers()
        self.wfile.write(f"<h1>{text}</h1>\n".encode())


ThreadingHTTPServer(("", 80), Web).serve_forever()
