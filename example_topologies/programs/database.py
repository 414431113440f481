"""The database of the three tiers: counters in files. POST /NAME adds one and returns the sum."""

from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

DATA = Path("/srv/counters")


class Database(BaseHTTPRequestHandler):
    """Answers one request after the other, so that no count is lost."""

    def do_GET(self) -> None:
        """GET /health: the database answers."""
        self.answer("well")

    def do_POST(self) -> None:
        """POST /NAME: count."""
        counter = DATA / self.path.strip("/")
        count = int(counter.read_text()) + 1 if counter.exists() else 1
        counter.write_text(str(count))
        print(f"{counter.name} is {count} now")
        self.answer(str(count))

    def answer(self, text: str) -> None:
        """Send a text."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(text.encode())


DATA.mkdir(exist_ok=True)
HTTPServer(("", 8000), Database).serve_forever()
