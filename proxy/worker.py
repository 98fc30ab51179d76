"""One worker process: it listens at once, and loads and opens everything else behind the listeners.

``GET /v2/`` depends on nothing and is answered from the first moment, unless people have to log in; what needs the services
waits until they are there. The
heavy imports (database, verification) happen in a thread meanwhile.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web

from proxy import __version__
from proxy.configuration import Configuration
from proxy.policy.decision import Answer
from proxy.services.answers import Refused
from proxy.settings import Log, Tls
from proxy.web import responses
from proxy.web.listener import Listener
from proxy.web.tls import ServerTls

if TYPE_CHECKING:
    from proxy.app import Application

_PINGS = frozenset({"/v2/", "/v2"})


class Worker:
    """``reuse_port`` lets several workers share the listening ports; they may share one data directory, too.

    ``current`` is by what it decides from the first request on, where the file was reloaded since the others of its kind were
    started with ``configuration``.
    """

    application: Application  #: there once :meth:`start` has returned

    def __init__(
        self, configuration: Configuration, data_dir: Path, current: Configuration | None = None, *, reuse_port: bool = False
    ) -> None:
        limits = configuration.settings.limits
        listen, admin = configuration.listen, configuration.admin_listen
        self._configuration = configuration
        self._current = current or configuration
        self._data_dir = data_dir
        self._patience = limits.request_timeout
        self._opened = asyncio.Event()
        self._started = False
        settings = configuration.settings
        tls, admin_tls = _tls(settings.tls), _tls(settings.admin.tls)
        self._registry = Listener(self._early, listen.host, listen.port, limits, reuse_port=reuse_port, tls=tls)
        self._admin = Listener(self._early_admin, admin.host, admin.port, limits, reuse_port=reuse_port, tls=admin_tls)

    @property
    def ports(self) -> tuple[int, int]:
        """The ports of the registry and the admin listener (useful where 0 was configured)."""
        return self._registry.port, self._admin.port

    async def start(self) -> None:
        """Listen, then open everything. Raises StorageError or OSError; what was opened is closed again."""
        try:
            await self._registry.start()
            await self._admin.start()
            application = (await asyncio.to_thread(_load, self._configuration.settings.log))(self._configuration, self._data_dir)
            await application.start()
            if self._current is not self._configuration:
                application.adopt(self._current)
        except BaseException:
            await self._admin.close()
            await self._registry.close()
            raise
        self.application = application
        self._started = True
        self._registry.adopt(application.handle)
        self._admin.adopt(application.handle_admin)
        self._opened.set()
        registry, admin = self.ports
        application.log.info(
            "serving", host=self._configuration.listen.host, port=registry, admin_port=admin, version=__version__
        )

    async def close(self) -> None:
        """Stop listening, let what is in flight end (``limits.drain_timeout``), close everything behind it."""
        await self._registry.close()
        await self._admin.close()
        if self._started:
            await self.application.close()

    async def _early(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path in _PINGS and request.method in {"GET", "HEAD"} and self._current.access.rules is None:
            return responses.ping()
        try:
            async with asyncio.timeout(self._patience):
                await self._opened.wait()
        except TimeoutError:
            return responses.refused(Refused(Answer.UNAVAILABLE, ("Tagstone is still starting",)), {})
        return await self.application.handle(request)

    async def _early_admin(self, request: web.BaseRequest) -> web.StreamResponse:
        if self._started:
            return await self.application.handle_admin(request)
        return web.Response(status=503, text="starting\n")


def _tls(settings: Tls | None) -> ServerTls | None:
    """Raises OSError where the files do not fit any more: when the configuration was read they did."""
    try:
        return None if settings is None else ServerTls(settings)
    except ValueError as error:
        raise OSError(str(error)) from error


def _load(settings: Log) -> type[Application]:
    """The heavy imports, in a thread."""
    from proxy.app import Application
    from proxy.log import configure

    configure(settings)
    return Application
