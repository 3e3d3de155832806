"""All local sites behind one port of this machine: the Host header says which site a request is for.

Standard library only. Requests are answered one at a time, so that equal requests in equal order give equal databases.
Files of a read-only folder (the MiniWoB pages) can be served beside the sites.
"""

import mimetypes
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

from rlvr_lib.worlds.sites.site import Answer, Site

OWN_FILES = {"/app.js": "text/javascript", "/app.css": "text/css"}
LARGEST_FORM = 20_000


class SiteServer:
    """Serves sites (exchangeable while it runs: an episode begins with a fresh one) and folders by host name."""

    def __init__(self, folders: Mapping[str, Path] | None = None):
        self.sites: dict[str, Site] = {}
        self.folders = {host: Path(folder).resolve() for host, folder in (folders or {}).items()}
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"owner": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True, name="sites").start()

    @property
    def port(self) -> int:
        return self._server.server_port

    def hosts(self, *names: str) -> dict[str, int]:
        """The table that a browser's fence needs."""
        return {host: self.port for host in (*names, *self.folders)}

    def show(self, site: Site) -> None:
        """Put a site in place of the former one of its name."""
        with self.lock:
            self.sites[site.host] = site

    def answer(self, method: str, host: str, target: str, body: str = "") -> Answer:
        """One request to a site, as a browser would send it."""
        parts = urlsplit(target)
        with self.lock:
            site = self.sites.get(host)
            if site is None:
                return Answer(404, "no such site")
            if method == "POST":
                return site.post(parts.path, dict(parse_qsl(body, keep_blank_values=True)))
            return site.get(parts.path, dict(parse_qsl(parts.query, keep_blank_values=True)))

    def file(self, host: str, target: str) -> tuple[bytes, str] | None:
        """A file of a served folder or of the sites' own two; None outside of them."""
        path = unquote(urlsplit(target).path)
        if host not in self.folders:
            return ((_OWN / path[1:]).read_bytes(), OWN_FILES[path]) if path in OWN_FILES else None
        wanted = (self.folders[host] / path.lstrip("/")).resolve()
        if not wanted.is_relative_to(self.folders[host]) or not wanted.is_file():
            return None
        return wanted.read_bytes(), mimetypes.guess_type(wanted.name)[0] or "application/octet-stream"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> "SiteServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_OWN = Path(__file__).parent


class _Handler(BaseHTTPRequestHandler):
    owner: SiteServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        host = self.headers.get("Host", "").split(":")[0]
        if host in self.owner.folders or self.path in OWN_FILES:
            found = self.owner.file(host, self.path)
            self._send(404, b"no such file", "text/plain") if found is None else self._send(200, *found)
        else:
            self._answer(self.owner.answer("GET", host, self.path))

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > LARGEST_FORM:
            self.close_connection = True
            self._send(413, b"the form is too large", "text/plain")
            return
        body = self.rfile.read(int(length)).decode("utf-8", "replace")
        self._answer(self.owner.answer("POST", self.headers.get("Host", "").split(":")[0], self.path, body))

    def _answer(self, answer: Answer) -> None:
        self._send(answer.status, answer.body.encode(), "text/html; charset=utf-8", answer.location)

    def _send(self, status: int, body: bytes, kind: str, location: str = "") -> None:
        self.send_response(status)
        if location:
            self.send_header("Location", location)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


__all__ = ["SiteServer"]
