"""Something between two processes: a relay that stops in the middle of an answer, and a way out that leads nowhere."""

from __future__ import annotations

import selectors
import socket
import threading
from types import TracebackType
from typing import Self

from tests.tools import PATIENCE

_PIECE = 16 << 10


class Relay:
    """Passes connections on to a port of 127.0.0.1, and stops answers that grow too long until it is told to go on.

    ``hold_after`` is the number of bytes of one connection's answers after which nothing more is passed on; while nothing
    is held it has no effect that anybody could see.
    """

    def __init__(self, target: int, *, hold_after: int) -> None:
        self._target = target
        self._hold_after = hold_after
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.held = threading.Event()  #: set once an answer stands still
        self.release = threading.Event()  #: set it to let everything through
        self._ending = threading.Event()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._spawn(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ending.set()
        self.release.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _spawn(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]  # checked by its callers
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the end
                return
            self._spawn(self._carry, client)

    def _carry(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._target)) as server, selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            answered = 0
            while not self._ending.is_set():
                for key, _ in ready.select(0.1):
                    source, sink = key.fileobj, key.data
                    assert isinstance(source, socket.socket)
                    try:
                        data = source.recv(_PIECE)
                        if not data:
                            return
                        if source is server:
                            answered += len(data)
                            if answered > self._hold_after and not self.release.is_set():
                                self.held.set()
                                self.release.wait(PATIENCE)
                        sink.sendall(data)
                    except OSError:  # one of the two has gone
                        return


class DeadEnd:
    """An HTTP proxy that counts who asks it and lets nobody through: where it stands, nothing leaves the machine."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[str] = []  #: the first lines of the requests
        self._thread = threading.Thread(target=self._refuse, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(PATIENCE)

    def _refuse(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the end
                return
            with client:
                client.settimeout(PATIENCE)
                try:
                    self.asked.append(client.recv(_PIECE).split(b"\r\n")[0].decode("latin-1"))
                    client.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                except OSError:  # gone already; it asked all the same
                    self.asked.append("")
