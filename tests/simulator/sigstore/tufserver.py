"""A TUF repository's folder over HTTP on 127.0.0.1, in a thread of its own, and what a bad day makes of it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.tools import PATIENCE


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered in the place of a file; with ``hangs`` the body never ends."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hangs: bool = False


class TufServer:
    """Serves ``folder``. ``answers`` by path (``/timestamp.json``) come first, then ``all_else``, then the files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.answers: dict[str, Answer] = {}
        self.all_else: Answer | None = None
        self.asked: list[str] = []
        self.headers: list[Mapping[str, str]] = []
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=lambda: self._server.serve_forever(poll_interval=0.01), name="tuf", daemon=True)

    @property
    def url(self) -> str:
        """Where it is, without a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str) -> Answer:
        if (answer := self.answers.get(path, self.all_else)) is not None:
            return answer
        file = self.folder / path.lstrip("/")
        return Answer(body=file.read_bytes()) if file.is_file() else Answer(404, b"not here")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.append(self.path)
                server.headers.append(dict(self.headers))
                answer = server._answer(self.path)
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body) + answer.hangs))
                self.end_headers()
                self.wfile.write(answer.body)
                if answer.hangs:
                    self.wfile.flush()
                    server.released.wait(PATIENCE)

            def log_message(self, *_: object) -> None:
                """Say nothing: a test reads :attr:`TufServer.asked`."""

        return Handler
