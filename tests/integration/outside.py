"""Everything beyond this machine, as a client meets it that goes around Tagstone.

Programs written in Go send what is not for loopback to the HTTP proxy that their environment names. That proxy is
:class:`Outside`: it ends TLS itself, with certificates that the same environment makes them trust, and answers for every host as
a registry that has one image, the impostor, under every name and tag. It writes down what it was asked. So a client that goes
around Tagstone is seen, and succeeds with the wrong image; no name is resolved, and nothing leaves the machine.
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

from storage.digest import Digest
from tests.simulator.images import Image
from tests.tools import PATIENCE

_PATH = re.compile(r"(?:https?://[^/]+)?/v2/(?P<name>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/?]+)(?:\?.*)?")
#: Where clients look for images, by the names that they look them up under.
_HOSTS = (
    "docker.io",
    "index.docker.io",
    "registry-1.docker.io",
    "registry.hub.docker.com",
    "ghcr.io",
    "quay.io",
    "trap.example",
    "second.trap.example",
)


class Outside:
    """The world, while it is entered."""

    def __init__(self, folder: Path, impostor: Image) -> None:
        folder.mkdir(parents=True)
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "outside.pem"))
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*_HOSTS).configure_cert(tls)
        self.asked: list[str] = []  #: method, host and path of every request, tunnels too
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self.asked, _contents(impostor), tls))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        proxies = {"HTTP_PROXY": url, "HTTPS_PROXY": url, "NO_PROXY": "127.0.0.1"}
        #: what makes a client meet it
        self.env = {
            **proxies,
            **{name.lower(): value for name, value in proxies.items()},
            "SSL_CERT_FILE": str(folder / "outside.pem"),
        }

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(PATIENCE)


def _contents(impostor: Image) -> dict[str, tuple[str, bytes]]:
    """Media type and bytes by digest; under ``""`` what every tag names."""
    found = {"": (impostor.media_type, impostor.body)}
    for image in (impostor, *impostor.images):
        found[str(image.digest)] = (image.media_type, image.body)
        found |= {str(blob.digest): ("application/octet-stream", blob.data) for blob in image.blobs}
    return found


def _handler(asked: list[str], contents: dict[str, tuple[str, bytes]], tls: ssl.SSLContext) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = PATIENCE
        disable_nagle_algorithm = True

        def do_CONNECT(self) -> None:
            self._note()
            self.send_response(200)
            self.end_headers()
            try:
                self.connection = tls.wrap_socket(self.connection, server_side=True)
            except OSError:  # the client does not trust the certificate, or has gone
                self.close_connection = True
                return
            self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb")
            self.close_connection = False

        def do_GET(self) -> None:
            self._note()
            found = _PATH.fullmatch(self.path)
            reference = found["reference"] if found else None
            if reference is None:
                self._answer(200, "application/json", b"{}")
            elif (there := contents.get(reference if ":" in reference else "")) is not None:
                self._answer(200, *there)
            else:
                self._answer(404, "application/json", json.dumps({"errors": [{"code": "NOT_FOUND"}]}).encode())

        def do_HEAD(self) -> None:
            self.do_GET()

        def finish(self) -> None:
            try:
                super().finish()
            finally:
                self.connection.close()

        def _note(self) -> None:
            asked.append(f"{self.command} {self.headers.get('Host', '')} {self.path}")

        def _answer(self, status: int, media_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Docker-Content-Digest", str(Digest.of(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.wfile.flush()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the parent's name
            """Say nothing."""

    return Handler
