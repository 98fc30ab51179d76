"""The whole proxy in this process, against simulated upstreams, asked over real sockets.

::

    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", image.digest, proxy.signer)
        answer = await proxy.get("/v2/reg.example/acme/app/manifests/v1")
        assert answer.status == 200

The default configuration has ``reg.example`` (the simulator) with ``acme/**`` signed by ``release-key``, ``stay-*`` tags served
pinned, ``open/**`` on first use, everything else denied, and checks the upstream at every pull (``check_interval: 0s``).
A profile (:mod:`tests.simulator.profiles`) may stand in the place of the registry.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from textwrap import indent
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from proxy.app import Application
from proxy.configuration import load
from proxy.worker import Worker
from storage.records import Event, Pin
from storage.reference import Reference
from tests.simulator.images import MANIFEST_TYPES
from tests.simulator.profiles import World
from tests.simulator.registry import Registry
from tests.simulator.signing import Signer
from tests.tools import PATIENCE

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

    ``top`` is YAML put before the rules (``limits: {…}``, ``check_interval: …``). ``name`` is the registry's; a ``World`` brings
    the settings that it needs. ``upstream_options`` go into its entry, ``key_options`` into that of ``release-key``, both as
    YAML flow text; ``upstreams`` and ``keys`` are further entries (``b.example: {…}``), one a line, and ``trust`` further
    sections beside the keys (``roots: {…}``). With ``tls`` clients use this context, and ``top`` has the server's half.
    """

    def __init__(
        self,
        folder: Path,
        upstream: Registry | World,
        *,
        rules: str = RULES,
        top: str = "",
        signer: Signer | None = None,
        upstream_options: str = "retries: 0",
        data_dir: Path | None = None,
        name: str = "reg.example",
        upstreams: str = "",
        keys: str = "",
        key_options: str = "",
        trust: str = "",
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.folder = folder
        self.upstream = upstream.registry if isinstance(upstream, World) else upstream
        self.signer = signer or Signer.of("p256", "release")
        self.data_dir = data_dir or folder / "data"
        self.name = name
        self._rules = rules
        self._top = top
        needed = {key: json.dumps(value) for key, value in upstream.settings.items()} if isinstance(upstream, World) else {}
        self._options = _flow(*(f"{key}: {value}" for key, value in needed.items()), upstream_options)
        self._upstreams = upstreams
        self._keys = keys
        self._key_options = _flow(key_options)
        self._trust = trust
        self._client_tls = tls
        self._session: aiohttp.ClientSession | None = None
        self.worker: Worker

    @property
    def application(self) -> Application:
        """What runs behind the listeners."""
        return self.worker.application

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.folder / "tagstone.yaml"

    def write(self, rules: str | None = None) -> None:
        """Write the configuration file (with other rules)."""
        self._rules = self._rules if rules is None else rules
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "release.pub").write_bytes(self.signer.public_pem)
        interval = "" if "check_interval" in self._top else "check_interval: 0s\n"
        admin = "" if "admin:" in self._top else "admin: {listen: 127.0.0.1:0}\n"
        # Nobody asks the upstream but the test.
        watch = "" if "watch:" in self._top else "watch: {interval: never, tags_interval: never}\n"
        watch += "" if "verification:" in self._top else "verification: {interval: never}\n"
        self.config.write_text(
            f"listen: 127.0.0.1:0\n{admin}{watch}data_dir: {self.data_dir}\n{interval}{self._top}\n"
            f"upstreams:\n  {self.name}: {{url: {self.upstream.url}, allow_private: true{self._options}}}\n"
            f"{indent(self._upstreams, '  ')}\n"
            f"trust:\n  keys:\n    release-key: {{file: {self.folder}/release.pub{self._key_options}}}\n"
            f"{indent(self._keys, '    ')}\n{indent(self._trust, '  ')}\n{self._rules}"
        )

    async def start(self) -> None:
        """Write the configuration and start."""
        self.write()
        self.worker = Worker(load(self.config), self.data_dir)
        await self.worker.start()
        port, admin = self.worker.ports
        scheme = "http" if self._client_tls is None else "https"
        self.url, self.admin = f"{scheme}://127.0.0.1:{port}", f"http://127.0.0.1:{admin}"
        connector = None if self._client_tls is None else aiohttp.TCPConnector(ssl=self._client_tls)
        self._session = aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=aiohttp.ClientTimeout(total=60))

    async def stop(self) -> None:
        """Stop; the data directory stays."""
        if self._session is not None:
            await self._session.close()
            self._session = None
        await self.worker.close()

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
        return await self.ask(method, f"/v2/{self.name}/{name}/manifests/{reference}", headers)

    async def blob(self, name: str, digest: object, method: str = "GET", **headers: str) -> Reply:
        """A blob of the simulated upstream, by prefix name."""
        return await self.ask(method, f"/v2/{self.name}/{name}/blobs/{digest}", headers)

    async def pin(self, name: str) -> Pin | None:
        """The pin of ``repository:tag`` of the simulated upstream."""
        reference = Reference.parse(f"{self.name}/{name}")
        return await self.application.pins.get(reference.repository, reference.tag or "latest")

    async def metrics(self) -> str:
        """What the admin listener exposes to Prometheus."""
        if self._session is None:
            raise RuntimeError("the proxy is not running")
        async with self._session.get(f"{self.admin}/metrics") as response:
            return await response.text()

    async def events(self, *, open_only: bool = False) -> list[Event]:
        """The events recorded so far."""
        return await self.application.events.list(open_only=open_only)


class WallClock:
    """The real wall clock, moved by :attr:`ahead`: ``monkeypatch.setattr("proxy.app.utc_now", WallClock())``."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.ahead


def _flow(*parts: str) -> str:
    """Further entries of a YAML flow mapping that has some already."""
    return "".join(f", {part}" for part in parts if part)


async def until(holds: Any, seconds: float = PATIENCE) -> None:
    """Wait until ``holds()`` (plain or awaitable) is true; fail after ``seconds``."""
    async with asyncio.timeout(seconds):
        while True:
            value = holds()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return
            await asyncio.sleep(0.02)
