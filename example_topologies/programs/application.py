"""The application of the three tiers: counts its visitors in the database at $DATABASE."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import URLError
from urllib.request import urlopen

DATABASE = os.environ["DATABASE"]


class Application(BaseHTTPRequestHandler):
    """GET / is a visit, everything else is not."""

    def do_GET(self) -> None:
        """Answer, or say that the database does not."""
        status, text = 200, "well"
        if self.path == "/":
            try:
                with urlopen(f"{DATABASE}/visits", data=b"", timeout=5) as count:
                    text = f"visitor number {count.read().decode()}"
            except URLError as error:
                status, text = 503, f"no database: {error.reason}"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())


ThreadingHTTPServer(("", 8000), Application).serve_forever()
