"""Somebody on call: receives alerts over HTTP and believes those that are signed (Standard Webhooks 1.0.0)."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass(frozen=True, slots=True)
class Alert:
    """What one alert said."""

    type: str
    subject: str
    severity: str
    message: str
    changed: tuple[str, ...] = ()  #: what an overwrite changes, as far as that is known


class OnCall:
    """An async context manager: it listens while it is entered."""

    def __init__(self) -> None:
        self.secret = f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
        self.alerts: list[Alert] = []
        self.forged = 0
        self._known: set[str] = set()
        self._news = asyncio.Condition()
        self._runner: web.ServerRunner | None = None
        self.port = 0

    async def __aenter__(self) -> Self:
        self._runner = web.ServerRunner(web.Server(self._receive), shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = int(self._runner.addresses[0][1])
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def hears(self, type_: str, subject: str, seconds: float) -> Alert | None:
        """The alert of this type about this subject, waited for; None where it does not come in time."""

        def find() -> Alert | None:
            return next((alert for alert in self.alerts if (alert.type, alert.subject) == (type_, subject)), None)

        try:
            async with asyncio.timeout(seconds), self._news:
                await self._news.wait_for(lambda: find() is not None)
        except TimeoutError:
            return None
        return find()

    async def _receive(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        number, at = request.headers.get("webhook-id", ""), request.headers.get("webhook-timestamp", "")
        signed = b".".join((number.encode(), at.encode(), body))
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        genuine = f"v1,{base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()}"
        if genuine not in request.headers.get("webhook-signature", "").split():
            self.forged += 1
            return web.Response(status=401)
        if number not in self._known:
            self._known.add(number)
            data = json.loads(body)["data"]
            if data["state"] != "resolved":
                async with self._news:
                    self.alerts.append(_alert(data))
                    self._news.notify_all()
        return web.Response(status=204)


def _alert(data: dict[str, Any]) -> Alert:
    kinds = data["details"].get("kinds", ())
    return Alert(data["type"], data["subject"], data["severity"], data["message"], tuple(kinds))
