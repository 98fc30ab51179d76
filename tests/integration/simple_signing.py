"""Signatures that skopeo and podman write with gpg: ``copy --sign-by`` and ``push --sign-by``, into a folder for a web server."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.integration.processes import DockerRegistry
from tests.simulator.openpgp import Keyring
from tests.tools import PATIENCE, need


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name is the base's
        """Nobody reads it."""


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serve a folder's files; its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Containers:
    """skopeo and podman with a keyring, a registry, and the folder where their signatures go."""

    def __init__(self, folder: Path, registry: DockerRegistry, keyring: Keyring) -> None:
        self.lookaside = folder / "lookaside"
        self._folder = folder
        self._registry = registry
        self._keyring = keyring
        self.lookaside.mkdir(parents=True)
        # Both look into the user's own folder first.
        settings = folder / ".config" / "containers"
        (settings / "registries.d").mkdir(parents=True)
        (settings / "registries.d" / "lookaside.yaml").write_text(
            f'docker: {{"{registry.host}": {{lookaside-staging: "file://{self.lookaside}"}}}}\n'
        )
        (settings / "registries.conf").write_text("unqualified-search-registries = []\n")
        (settings / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')

    def copy(self, source: Path, name: str, by: str) -> None:
        """``skopeo copy --sign-by``: a ``dir:`` image, all of it, into the registry."""
        self._run(
            *(need("skopeo"), "copy", "--all", "--preserve-digests", "--dest-tls-verify=false", "--sign-by", by),
            *(f"dir:{source}", f"docker://{self._registry.host}/{name}"),
        )

    def push(self, archive: Path, name: str, by: str) -> None:
        """``podman push --sign-by``: an image of one layer, made here, into the registry."""
        podman = (
            *(need("podman"), "--root", str(self._folder / "g"), "--runroot", str(self._folder / "r")),
            *("--tmpdir", str(self._folder / "t"), "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"),
            *("--events-backend", "none"),
        )
        self._run(*podman, "import", str(archive), "localhost/signed:1")
        self._run(*podman, "push", "--tls-verify=false", "--sign-by", by, "localhost/signed:1", f"{self._registry.host}/{name}")

    def _run(self, *command: str) -> None:
        environment = {"PATH": os.environ["PATH"], "GNUPGHOME": str(self._keyring.home), "HOME": str(self._folder)}
        done = subprocess.run(
            command, cwd=self._folder, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stderr
