"""The whole proxy in this process, against simulated upstreams, asked over real sockets.

::

    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", image.digest, proxy.signer)
        answer = await proxy.get("/v2/reg.example/acme/app/manifests/v1")
        assert answer.status == 200

The default configuration has ``reg.example`` (the simulator) with ``acme/**`` signed by ``release-key``, ``stay-*`` tags served
pinned, ``open/**`` on first use, everything else denied, and checks the upstream at every pull (``check_interval: 0s``).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from proxy.app import Application
from proxy.configuration import load
from storage.records import Event, Pin
from storage.reference import Reference
from tests.simulator.images import MANIFEST_TYPES
from tests.simulator.registry import Registry
from tests.simulator.signing import Signer

RULES = """
rules:
  - match: reg.example/acme/**
    require: {signature: {key: release-key}}
    tags:
      - {match: "stay-*", on_overwrite: serve-pinned}
  - match: reg.example/open/**
    require: first-use
  - match: "**"
    require: deny
"""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of the proxy. ``body`` is what arrived; ``cut`` that the connection ended before all of it did."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    cut: bool = False

    @property
    def error(self) -> dict[str, Any]:
        """The first OCI error of the body."""
        found: dict[str, Any] = json.loads(self.body)["errors"][0]
        return found

    @property
    def digest(self) -> str | None:
        """``Docker-Content-Digest``."""
        return self.headers.get("Docker-Content-Digest")


class Proxy:
    """A running :class:`proxy.app.Application` with its configuration file and data directory below ``folder``.

    ``top`` is YAML put before the rules (``limits: {…}``, ``check_interval: …``); ``upstream_options`` go into the
    upstream's entry as YAML flow text.
    """

    def __init__(
        self,
        folder: Path,
        upstream: Registry,
        *,
        rules: str = RULES,
        top: str = "",
        signer: Signer | None = None,
        upstream_options: str = "retries: 0",
        data_dir: Path | None = None,
    ) -> None:
        self.folder = folder
        self.upstream = upstream
        self.signer = signer or Signer.of("p256", "release")
        self.data_dir = data_dir or folder / "data"
        self._rules = rules
        self._top = top
        self._options = upstream_options
        self._session: aiohttp.ClientSession | None = None
        self.application: Application

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "tagstone.yaml"

    def write(self, rules: str | None = None) -> None:
        """Write the configuration file (with other rules)."""
        self._rules = self._rules if rules is None else rules
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "release.pub").write_bytes(self.signer.public_pem)
        options = f", {self._options}" if self._options else ""
        interval = "" if "check_interval" in self._top else "check_interval: 0s\n"
        self.config.write_text(
            f"listen: 127.0.0.1:0\nadmin: {{listen: 127.0.0.1:0}}\ndata_dir: {self.data_dir}\n{interval}{self._top}\n"
            f"upstreams:\n  reg.example: {{url: {self.upstream.url}, allow_private: true{options}}}\n"
            f"trust: {{keys: {{release-key: {{file: {self.folder}/release.pub}}}}}}\n{self._rules}"
        )

    async def start(self) -> None:
        """Write the configuration and start."""
        self.write()
        self.application = Application(load(self.config), self.data_dir)
        await self.application.start()
        port, admin = self.application.ports
        self.url, self.admin = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"
        self._session = aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60))

    async def stop(self) -> None:
        """Stop; the data directory stays."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        await self.application.close()

    async def restart(self) -> None:
        """Stop and start again on the same data."""
        await self.stop()
        await self.start()

    async def reload(self, rules: str) -> None:
        """Take other rules over, as SIGHUP does."""
        self.write(rules)
        self.application.adopt(load(self.config))

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    async def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """One request; ``path`` goes out byte for byte."""
        if self._session is None:
            raise RuntimeError("the proxy is not running")
        sent = {"Accept": ", ".join(MANIFEST_TYPES), **(headers or {})}
        url = URL(self.url + path, encoded=True)
        async with self._session.request(method, url, headers=sent, allow_redirects=False) as response:
            body, cut = bytearray(), False
            try:
                async for piece in response.content.iter_any():
                    body += piece
            except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
                cut = True
            return Reply(response.status, response.reason or "", response.headers, bytes(body), cut)

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """GET."""
        return await self.ask("GET", path, headers)

    async def head(self, path: str, headers: Mapping[str, str] | None = None) -> Reply:
        """HEAD."""
        return await self.ask("HEAD", path, headers)

    async def manifest(self, name: str, reference: object, method: str = "GET", **headers: str) -> Reply:
        """A manifest of the simulated upstream, by prefix name."""
        return await self.ask(method, f"/v2/reg.example/{name}/manifests/{reference}", headers)

    async def blob(self, name: str, digest: object, method: str = "GET", **headers: str) -> Reply:
        """A blob of the simulated upstream, by prefix name."""
        return await self.ask(method, f"/v2/reg.example/{name}/blobs/{digest}", headers)

    async def pin(self, name: str) -> Pin | None:
        """The pin of ``repository:tag`` of the simulated upstream."""
        reference = Reference.parse(f"reg.example/{name}")
        return await self.application.pins.get(reference.repository, reference.tag or "latest")

    async def events(self, *, open_only: bool = False) -> list[Event]:
        """The events recorded so far."""
        return await self.application.pins.events(open_only=open_only)


async def until(holds: Any, seconds: float = 5.0) -> None:
    """Wait until ``holds()`` (plain or awaitable) is true; fail after ``seconds``."""
    async with asyncio.timeout(seconds):
        while True:
            value = holds()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.02)
