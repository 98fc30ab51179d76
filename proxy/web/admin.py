"""The admin listener: health, readiness, metrics. Loopback only; nothing here leads to image content."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import web

from proxy.services.metrics import Metrics


class AdminApi:
    """``/healthz`` says that the process answers, ``/readyz`` that it can decide pulls, ``/metrics`` counts (Prometheus text)."""

    def __init__(self, ready: Callable[[], Awaitable[dict[str, str]]], metrics: Metrics) -> None:
        self._ready = ready
        self._metrics = metrics

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        match request.path:
            case "/healthz":
                return web.Response(text="ok\n")
            case "/readyz":
                trouble = await self._ready()
                body = json.dumps({"ready": not trouble, "trouble": trouble}) + "\n"
                return web.Response(text=body, status=503 if trouble else 200, content_type="application/json")
            case "/metrics":
                text, content_type = self._metrics.exposition()
                return web.Response(body=text, headers={"Content-Type": content_type})
            case _:
                return web.Response(status=404, text="here are /healthz, /readyz and /metrics\n")
