"""The processes: the upstream, docker-registry as its proxy, nginx with the same bytes as files, Tagstone."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.simulator.images import Image
from tests.tools import find, free_port

#: Longest that any of them may take to answer ``/v2/``.
_READY_TIMEOUT = 20.0
_STOP_TIMEOUT = 40.0


@dataclass(slots=True)
class Server:
    """One child process that listens on 127.0.0.1, ended by its own pid."""

    name: str
    port: int
    command: tuple[str, ...]
    folder: Path  #: holds its configuration, state and log
    prefix: str = ""  #: what stands before the repository in its paths
    #: seconds from start to the first 200 on ``/v2/``
    ready_after: float = 0.0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def log(self) -> Path:
        """Everything that the process printed."""
        return self.folder / "log"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        if self._process is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._process.pid

    def manifest_path(self, repository: str, reference: str) -> str:
        """Path of a manifest at this server."""
        return f"/v2/{self.prefix}{repository}/manifests/{reference}"

    def blob_path(self, repository: str, digest: str) -> str:
        """Path of a blob at this server."""
        return f"/v2/{self.prefix}{repository}/blobs/{digest}"

    def __enter__(self) -> Self:
        """Start it and wait until it answers."""
        with self.log.open("ab") as log:
            began = time.perf_counter()
            self._process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT, cwd=self.folder)
        try:
            self._wait_until_ready(began)
        except BaseException:
            self.__exit__()
            raise
        self.ready_after = time.perf_counter() - began
        return self

    def __exit__(self, *_: object) -> None:
        """End it: politely, then for certain."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.terminate()
        try:
            process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _wait_until_ready(self, began: float) -> None:
        while time.perf_counter() - began < _READY_TIMEOUT:
            if self._process is not None and self._process.poll() is not None:
                break
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_READY_TIMEOUT)
            try:
                connection.request("GET", "/v2/")
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                time.sleep(0.002)
            finally:
                connection.close()
        raise RuntimeError(f"{self.name} did not answer /v2/; its log ends with:\n{self.log.read_text()[-2000:]}")

    def peak_memory(self) -> int:
        """Largest resident set so far, in bytes, of the process and its children together."""
        return sum(_peak(pid) for pid in (self.pid, *_descendants(self.pid)))


def _peak(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return 0


def _descendants(pid: int) -> tuple[int, ...]:
    children = [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return tuple(found for child in children for found in (child, *_descendants(child)))


def _program(name: str) -> str:
    path = find(name)
    if path is None:
        raise SystemExit(f"{name} is not installed; as root, make bench installs it")
    return path


def _folder(base: Path, name: str) -> Path:
    folder = base / name
    folder.mkdir(parents=True)
    return folder


def upstream(base: Path) -> Server:
    """A docker-registry that holds the images; its access log counts what is fetched."""
    return _registry(base, "upstream", "")


def registry_proxy(base: Path, name: str, upstream_port: int) -> Server:
    """A docker-registry in proxy mode, with an empty cache."""
    return _registry(base, name, f"proxy: {{remoteurl: 'http://127.0.0.1:{upstream_port}'}}\n")


def wait_until_stored(registry: Server, digest: str) -> None:
    """Return when docker-registry has verified and stored a blob, which it does after it has answered."""
    algorithm, _, value = digest.partition(":")
    data = registry.folder / "state/docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"
    until = time.perf_counter() + _READY_TIMEOUT
    while not data.exists():
        if time.perf_counter() > until:
            raise RuntimeError(f"{registry.name} has not stored {digest}")
        time.sleep(0.002)


def _registry(base: Path, name: str, more: str) -> Server:
    folder, port = _folder(base, name), free_port()
    (folder / "config.yml").write_text(
        "version: 0.1\n"
        "log: {level: error}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/state, maxthreads: 1000}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n{more}"
    )
    return Server(name, port, (_program("docker-registry"), "serve", "config.yml"), folder)


def nginx(base: Path, files: Path, media_type: str) -> Server:
    """One nginx worker over the static copy, set up as one sets it up for static files that do not change."""
    files.mkdir(exist_ok=True)
    return _nginx(base, "nginx", files, f"location ~ /manifests/ {{ default_type {media_type}; }}")


def every_tag(base: Path, manifest: Image, listed: Sequence[str]) -> Server:
    """An upstream that has every tag of every repository: each names ``manifest``, and each repository lists ``listed``.

    A registry with 100,000 tags takes minutes to fill; and this one takes next to nothing of the machine that is measured.
    """
    files = base / "every-tag-files"
    files.mkdir()
    (files / "manifest").write_bytes(manifest.body)
    (files / "tags").write_text(json.dumps({"tags": listed}))
    return _nginx(
        base,
        "every-tag",
        files,
        f"location ~ /manifests/ {{ default_type {manifest.media_type}; "
        f"add_header Docker-Content-Digest {manifest.digest}; rewrite ^ /manifest break; }}",
        "location ~ /tags/list$ { default_type application/json; rewrite ^ /tags break; }",
    )


def _nginx(base: Path, name: str, files: Path, *locations: str) -> Server:
    folder, port = _folder(base, name), free_port()
    temporary = "".join(
        f"    {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;\n" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"{user}worker_processes 1;\ndaemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
        "events { worker_connections 2048; }\n"
        "http {\n"
        f"{temporary}"
        "    access_log off;\n    sendfile on;\n    tcp_nopush on;\n"
        "    keepalive_requests 1000000000;\n    open_file_cache max=1000;\n"
        "    server {\n"
        f"        listen 127.0.0.1:{port};\n        root {files};\n        default_type application/octet-stream;\n"
        "        location = /v2/ { return 200; }\n" + "".join(f"        {location}\n" for location in locations) + "    }\n}\n"
    )
    command = (_program("nginx"), "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf"))
    return Server(name, port, command, folder)


def tagstone(base: Path, name: str, upstream_port: int, key: bytes, more: str = "") -> Server:
    """``tagstone serve`` with one worker and an empty data directory, everything else as shipped but for ``more``.

    Without a ``key`` nothing that is signed passes.
    """
    folder, port = _folder(base, name), free_port()
    (folder / "bench.pub").write_bytes(key)
    (folder / "tagstone.yaml").write_text(
        f"listen: 127.0.0.1:{port}\n"
        f"admin: {{listen: 127.0.0.1:{free_port()}}}\n"
        f"data_dir: {folder}/data\n"
        f"upstreams:\n  reg.example: {{url: http://127.0.0.1:{upstream_port}, allow_private: true}}\n"
        + (f"trust:\n  keys:\n    bench: {{file: {folder}/bench.pub}}\n" if key else "")
        + f"{more}rules:\n"
        + ("  - match: reg.example/signed/**\n    require: {signature: {key: bench}}\n" if key else "")
        + "  - match: reg.example/unsigned/**\n    require: first-use\n"
    )
    command = (str(Path(sys.executable).parent / "tagstone"), "serve", "--config", "tagstone.yaml")
    return Server(name, port, command, folder, "reg.example/")
