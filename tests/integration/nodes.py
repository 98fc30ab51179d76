"""Nodes that ``tagstone doctor`` examines and real clients pull on: files below a folder, daemons of their own.

The upstream that clients fall back to is on ``localhost``, where every client reaches it by its own name (containerd by plain
HTTP, the others by TLS), and counts what it is asked. It holds an image under a name that no Tagstone serves: whoever has that
went around.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trustme
from typer.testing import CliRunner

from proxy.cli.main import app
from proxy.policy import canary
from tests.integration.pictures import picture
from tests.integration.processes import DockerRegistry, Tagstone
from tests.simulator.push import Pusher


class Around(DockerRegistry):
    """The upstream."""

    def __init__(self, folder: Path, *, plain: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.authority = folder / "ca.pem"
        self.plain = plain
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.authority))
        issued = authority.issue_cert("127.0.0.1", "localhost")
        issued.private_key_pem.write_to_path(str(folder / "server.key"))
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(folder / "server.pem"), append=number > 0)
        tls = ssl.create_default_context()
        authority.configure_trust(tls)
        http = "" if plain else f", tls: {{certificate: {folder}/server.pem, key: {folder}/server.key}}"
        super().__init__(folder, "around", http=http, tls=None if plain else tls)
        #: what makes Go's programs believe its certificate
        self.trusting = {"SSL_CERT_FILE": str(self.authority)}

    @property
    def called(self) -> str:
        """The registry, as images carry it."""
        return f"localhost:{self.port}"

    @property
    def bait(self) -> str:
        """An image that is there and that no Tagstone serves."""
        return f"{self.called}/{canary.REPOSITORY}:bait"

    def fill(self) -> None:
        """Put the bait there."""

        async def push() -> None:
            async with Pusher(self.url, tls=self.tls) as pusher:
                await pusher.push(canary.REPOSITORY, picture("bait"), "bait")

        asyncio.run(push())

    def asked(self) -> int:
        """How many requests about the canary it has answered."""
        return sum(self.count(method, f"/v2/{canary.REPOSITORY}/manifests/") for method in ("GET", "HEAD"))


def write(root: Path, files: Mapping[str, str]) -> None:
    """Put files below a root."""
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def doctor(root: Path, proxy: Tagstone, *words: str, env: Mapping[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    """Run ``tagstone doctor --json`` in this process (its clients are processes of their own): exit code and answer."""
    command = ["doctor", "--root", str(root), "--proxy", f"http://{proxy.host}", "--json", *words]
    result = CliRunner().invoke(app, command, env=dict(env or {}))
    assert result.exit_code in {0, 1, 3}, (result.exit_code, result.stdout, result.stderr)
    answer: dict[str, Any] = json.loads(result.stdout)
    return result.exit_code, answer


def podman_env(folder: Path) -> dict[str, str]:
    """Storage of its own for podman, by the environment: ``doctor`` runs it as it is set up."""
    folder.mkdir(parents=True, exist_ok=True)
    storage, containers = folder / "storage.conf", folder / "containers.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/g"\nrunroot = "{folder}/r"\n')
    containers.write_text(f'[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "none"\ntmp_dir = "{folder}/t"\n')
    return {"CONTAINERS_STORAGE_CONF": str(storage), "CONTAINERS_CONF": str(containers)}
