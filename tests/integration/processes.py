"""Real processes on free ports of 127.0.0.1, each ended by its own pid, and what tests ask of them over HTTP."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from tests.simulator.images import MANIFEST_TYPES
from tests.tools import PATIENCE, free_port, need

_T = TypeVar("_T")


def until(ask: Callable[[], _T], seconds: float = PATIENCE) -> _T:
    """Ask until the answer is true, and return it; fail with the last answer after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s; the last answer was {answer!r}")
        time.sleep(0.02)
    return answer


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer over HTTP. ``cut`` says that the connection ended before the whole body was there."""

    status: int
    reason: str
    headers: Mapping[str, str]  #: names in lower case
    body: bytes
    cut: bool = False

    @property
    def digest(self) -> str | None:
        """``Docker-Content-Digest``."""
        return self.headers.get("docker-content-digest")

    @property
    def error(self) -> dict[str, Any]:
        """The first OCI error of the body."""
        found: dict[str, Any] = json.loads(self.body)["errors"][0]
        return found


def ask_on(connection: http.client.HTTPConnection, method: str, path: str, **headers: str) -> Reply:
    """One exchange on a connection that stays open."""
    sent = {"Accept": ", ".join(MANIFEST_TYPES), **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request(method, path, headers=sent)
    answer = connection.getresponse()
    cut = False
    try:
        body = answer.read()
    except http.client.IncompleteRead as error:
        body, cut = error.partial, True
    except ConnectionError:
        body, cut = b"", True
    return Reply(answer.status, answer.reason, {name.lower(): value for name, value in answer.getheaders()}, body, cut)


class Process:
    """One child process in a folder that holds its configuration, its state and its log."""

    def __init__(self, name: str, command: Sequence[str], folder: Path, *, env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.command = tuple(command)
        self.folder = folder
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> str:
        """Everything it printed, over all its lives."""
        path = self.folder / f"{self.name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    def start(self) -> Self:
        """Start it, and wait until it answers."""
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder, env=self._env
            )
        deadline = time.monotonic() + PATIENCE
        while not self.ready():
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                self.stop()
                raise AssertionError(f"{self.name} did not come up (exit code {ended}); its log ends with:\n{self.log[-3000:]}")
            time.sleep(0.02)
        return self

    def ready(self) -> bool:
        """Whether it answers."""
        raise NotImplementedError

    def signal(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end, and return its exit code. Raises subprocess.TimeoutExpired."""
        assert self._process is not None, f"{self.name} is not running"
        code = self._process.wait(seconds)
        self._process = None
        return code

    def stop(self) -> int | None:
        """End it, politely and then for certain; the exit code, or None where it was not running."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class Server(Process):
    """A process that speaks the registry API."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(name, command, folder, env=env)
        self.port = port
        self.tls = tls

    @property
    def host(self) -> str:
        """Host and port, as image names and configurations have it."""
        return f"127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        """A connection of one's own."""
        if self.tls is not None:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def ask(self, method: str, path: str, **headers: str) -> Reply:
        """One exchange on a connection of its own. Raises OSError and http.client.HTTPException."""
        connection = self.connect()
        try:
            return ask_on(connection, method, path, **headers)
        finally:
            connection.close()

    def ready(self) -> bool:
        """Whether ``/v2/`` answers; a demand for credentials is an answer, too."""
        try:
            return self.ask("GET", "/v2/").status in {200, 401}
        except (OSError, http.client.HTTPException):
            return False


class DockerRegistry(Server):
    """Debian's ``docker-registry`` over a folder of files; several may share one. Its access log counts what was asked."""

    def __init__(
        self, folder: Path, name: str = "registry", *, storage: Path | None = None, http: str = "", more: str = "", **tls: Any
    ) -> None:
        port = free_port()
        super().__init__(name, (need("docker-registry"), "serve", f"{name}.yml"), folder, port, **tls)
        (folder / f"{name}.yml").write_text(
            "version: 0.1\n"
            "log: {level: error}\n"
            f"storage: {{filesystem: {{rootdirectory: {storage or folder / 'registry'}}}, delete: {{enabled: true}}}}\n"
            f"http: {{addr: '127.0.0.1:{port}'{http}}}\n{more}"
        )

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http{'s' if self.tls else ''}://{self.host}"

    def count(self, method: str, path: str = "") -> int:
        """How many requests with this method it has answered whose path contains ``path``."""
        return len(re.findall(rf'"{method} [^" ]*{re.escape(path)}[^" ]* HTTP', self.log))


def tagstone() -> str:
    """The installed command."""
    return str(Path(sys.executable).parent / "tagstone")


class Tagstone(Server):
    """The installed ``tagstone serve`` with a configuration file of its own, and the operator's commands on the same file."""

    def __init__(
        self, folder: Path, config: str, *, workers: int = 1, name: str = "tagstone", env: Mapping[str, str] | None = None
    ) -> None:
        port = free_port()
        self.admin_port = free_port()
        self.config = folder / f"{name}.yaml"
        self.data = folder / f"{name}-data"
        command = (tagstone(), "serve", "--config", str(self.config), "--workers", str(workers))
        super().__init__(name, command, folder, port, env=env)
        self.configure(config)

    def configure(self, config: str) -> None:
        """Write the configuration file: ``config`` with what belongs to this process before it."""
        self.config.write_text(
            f"listen: 127.0.0.1:{self.port}\nadmin: {{listen: 127.0.0.1:{self.admin_port}}}\ndata_dir: {self.data}\n{config}"
        )

    def manifest(self, name: str, reference: object, method: str = "GET") -> Reply:
        """A manifest by prefix name: ``reg.example/acme/app``."""
        return self.ask(method, f"/v2/{name}/manifests/{reference}")

    def blob(self, name: str, digest: object) -> Reply:
        """A blob by prefix name."""
        return self.ask("GET", f"/v2/{name}/blobs/{digest}")

    def workers(self) -> list[int]:
        """The pids of its worker processes (none where it has but one worker, which is itself)."""
        return children(self.pid)

    @contextmanager
    def by_worker(self) -> Iterator[dict[int, http.client.HTTPConnection]]:
        """An open connection to each of its workers, by pid."""
        with ExitStack() as exits:
            found: dict[int, http.client.HTTPConnection] = {}
            deadline = time.monotonic() + PATIENCE
            while len(found) < max(1, len(self.workers())):
                assert time.monotonic() < deadline, f"connections reach only {sorted(found)} of {self.workers()}"
                connection = self.connect()
                exits.callback(connection.close)
                try:
                    ask_on(connection, "GET", "/v2/")
                except ConnectionRefusedError:  # all were replaced, and none of the new ones listens yet
                    time.sleep(0.05)
                    continue
                if (owner := self._owner(connection.sock)) is not None:
                    found.setdefault(owner, connection)
            yield found

    def _owner(self, client: socket.socket) -> int | None:
        """Which worker holds the other end of a connection, by way of /proc."""
        mine, theirs = client.getsockname()[1], self.port
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            local, remote = (int(address.split(":")[1], 16) for address in fields[1:3])
            if (local, remote) == (theirs, mine):
                return next((pid for pid in self.workers() if _holds(pid, int(fields[9]))), None)
        return None

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run ``tagstone WORDS --config FILE``."""
        return subprocess.run(
            (tagstone(), *words, "--config", str(self.config)),
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=self._env,
            timeout=PATIENCE,
            check=False,
        )

    def json(self, *words: str, code: int = 0) -> Any:
        """What a command prints with ``--json``; it must end with ``code``."""
        done = self.run(*words, "--json")
        assert done.returncode == code, (done.args, done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)


def children(pid: int) -> list[int]:
    """The pids of a process's children."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _holds(pid: int, inode: int) -> bool:
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if os.readlink(entry) == f"socket:[{inode}]":
                return True
        except FileNotFoundError:  # closed meanwhile
            continue
    return False
