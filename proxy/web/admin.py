"""The admin listener: health, readiness, metrics, the ledger. Nothing here leads to image content.

Where tokens are configured, one of them must be shown. Only that the process is alive, and ready or not, is told to anybody:
those who look after processes have no tokens.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from aiohttp import hdrs, web

from proxy.errors import LoginError
from proxy.services.authentication import Authenticator
from proxy.services.metrics import Metrics
from proxy.web.ledger import LedgerApi


class AdminApi:
    """``/healthz`` says that the process answers, ``/readyz`` that it can decide pulls, ``/metrics`` counts (Prometheus text),
    and below ``/ledger/`` is the ledger.

    ``authenticator`` None: whoever reaches the listener may ask.
    ``look`` is called before metrics are shown: it reads what is not kept in this process.
    """

    def __init__(
        self,
        ready: Callable[[], Awaitable[dict[str, str]]],
        metrics: Metrics,
        authenticator: Authenticator | None = None,
        look: Callable[[], Awaitable[None]] | None = None,
        ledger: LedgerApi | None = None,
    ) -> None:
        self._ledger = ledger
        self._ready = ready
        self._metrics = metrics
        self._authenticator = authenticator
        self._look = look

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.method not in {"GET", "HEAD"}:
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        if request.path not in {"/healthz", "/readyz"} and not await self._known(request):
            headers = {"WWW-Authenticate": 'Bearer realm="Tagstone admin"'}
            return web.Response(text="show one of admin.tokens\n", status=401, headers=headers)
        if self._ledger is not None and self._ledger.serves(request):
            return await self._ledger.handle(request)
        match request.path:
            case "/healthz":
                return web.Response(text="ok\n")
            case "/readyz":
                trouble = await self._ready()
                if not await self._known(request):
                    return web.Response(text="not ready\n" if trouble else "ready\n", status=503 if trouble else 200)
                body = json.dumps({"ready": not trouble, "trouble": trouble}) + "\n"
                return web.Response(text=body, status=503 if trouble else 200, content_type="application/json")
            case "/metrics":
                if self._look is not None:
                    await self._look()
                text, content_type = self._metrics.exposition()
                return web.Response(body=text, headers={"Content-Type": content_type})
            case _:
                return web.Response(status=404, text="here are /healthz, /readyz, /metrics and /ledger/\n")

    async def _known(self, request: web.BaseRequest) -> bool:
        if self._authenticator is None:
            return True
        given = request.headers.getall(hdrs.AUTHORIZATION, ())
        if len(given) != 1:
            return False
        try:
            return (await self._authenticator.identify(given[0], None, request.remote)).principal.known
        except LoginError:
            return False
