"""Services for people (Slack, Teams, mail, PagerDuty, …), by apprise, an extra: ``pip install 'tagstone[apprise]'``.

Apprise blocks, so each attempt runs in a thread of its own; one that hangs keeps further attempts of this sink away, and nothing
else. Its URLs hold the secrets of the services, and so may what it logs: of both nothing is ever told but the names of services
and HTTP statuses.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

from proxy.policy.alerts import Apprise
from proxy.sinks import words
from proxy.sinks.model import Answer, Kind
from proxy.sinks.secrets import SecretUnreadable, read
from storage.records import Event, Message, Severity

#: Messages in one digest, and URLs in one sink.
DIGEST, URLS = 5000, 32
#: Messages of which it is remembered who has taken them, where not all URLs did.
REMEMBERED = 1000
#: Seconds for which apprise may be waited for beyond the time that it keeps itself.
PATIENCE = 1.0
_STATUS = re.compile(r"\berror[=: ]+(\d{3})\b")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._/+()-]{0,59}")
_TYPES = {Severity.INFO: "info", Severity.WARNING: "warning", Severity.CRITICAL: "failure"}


def parse_urls(text: str) -> tuple[str, ...]:
    """The URLs in a file or a variable: one a line, or apart by blanks; ``#`` begins a comment line. Raises ValueError."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    urls = tuple(dict.fromkeys(word for line in lines for word in line.split()))
    if not urls or len(urls) > URLS:
        raise ValueError(f"holds {len(urls)} apprise URLs: write 1 to {URLS}")
    if not all(re.match(r"[A-Za-z][A-Za-z0-9+-]*://", url) for url in urls):
        raise ValueError("holds something else than apprise URLs, such as mailto://… or slack://…")
    return urls


class PeopleSink:
    """Sends one message each for an event, or one page for many (``digest``). ``timeout`` is for all URLs together."""

    resend: float | None = None

    def __init__(self, target: Apprise, timeout: float, *, digest: bool) -> None:
        self._target = target
        self._timeout = timeout
        self._digest = digest
        self.batch = DIGEST if digest else 1
        self._busy = False  #: a thread is at work, one that nobody waits for any more perhaps
        #: Which URLs have taken what is being tried: where one of them fails, the others are not sent it again. By message ids,
        #: of which there are several while one URL is down.
        self._taken: dict[tuple[str, ...], set[str]] = {}

    async def send(self, messages: Sequence[Message]) -> Answer:
        """Send to every URL."""
        if self._busy:
            return Answer(Kind.FAILED, "an earlier attempt has still not ended")
        try:
            urls = parse_urls(await read(self._target.urls))
        except ValueError as error:
            return Answer(Kind.FAILED, f"{self._target.urls} {error}")
        except SecretUnreadable as error:
            return Answer(Kind.FAILED, str(error))
        ids = tuple(message.id for message in messages)
        taken = self._taken.pop(ids, set())
        told = self._words(messages)
        try:
            failed = await self._in_thread(lambda: _notify([url for url in urls if url not in taken], told, self._timeout, taken))
        except TimeoutError:
            self._remember(ids, taken)
            return Answer(Kind.FAILED, f"no answer within {self._timeout:g} s")
        if failed:
            self._remember(ids, taken)
            return Answer(Kind.FAILED, "; ".join(failed))
        return Answer(Kind.TAKEN, f"{len(urls)} service{'' if len(urls) == 1 else 's'} took it")

    def _remember(self, ids: tuple[str, ...], taken: set[str]) -> None:
        """``taken`` may still grow by a thread that nobody waits for."""
        self._taken[ids] = taken
        if len(self._taken) > REMEMBERED:
            del self._taken[next(iter(self._taken))]

    async def remind(self, events: Sequence[Event]) -> Answer:
        """Never asked."""
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing to close: apprise connects anew each time."""

    def _words(self, messages: Sequence[Message]) -> dict[str, Any]:
        if self._digest:
            page = {"title": words.digest_title(messages), "body": words.digest_page(messages), "body_format": "html"}
            return page | {"notify_type": "info"}
        (message,) = messages
        kind = "success" if message.resolved else _TYPES[message.event.severity or Severity.WARNING]
        return {
            "title": words.title(message),
            "body": words.text(message),
            "body_format": "text",
            "notify_type": kind,
        }

    async def _in_thread(self, work: Callable[[], list[str]]) -> list[str]:
        """Run ``work`` in a thread of its own. Raises TimeoutError; the thread is then left to end when it can."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[str]] = loop.create_future()

        def finish(result: list[str]) -> None:
            if not done.done():
                done.set_result(result)

        def run() -> None:
            try:
                result = work()
            except Exception as error:  # any plugin may raise anything, with the URL in its words
                result = [f"apprise failed ({type(error).__name__})"]
            self._busy = False
            try:
                loop.call_soon_threadsafe(finish, result)
            except RuntimeError:
                return  # the loop has ended meanwhile; nobody waits

        self._busy = True
        threading.Thread(target=run, name="apprise", daemon=True).start()
        async with asyncio.timeout(self._timeout + PATIENCE):
            return await done


def _notify(urls: Sequence[str], told: dict[str, Any], timeout: float, taken: set[str]) -> list[str]:
    """Send to each, in this thread; add those that took it to ``taken``, return why the others did not."""
    import apprise

    _silence()
    failed: list[str] = []
    asset = apprise.AppriseAsset(http_redirects=False, storage_mode="memory", app_id="Tagstone", app_desc="Tagstone alerts")
    share = timeout / max(1, len(urls))
    for number, url in enumerate(urls, 1):
        service = apprise.Apprise.instantiate(url, asset=asset, suppress_exceptions=True)
        if service is None:
            failed.append(f"URL {number} is none that apprise knows")
            continue
        one = apprise.Apprise(asset=asset)
        one.add(service)
        result = one.notify(timeout=share, **told)
        if result:
            taken.add(url)
        else:
            failed.append(_failure(service, result, number))
    return failed


def _failure(service: Any, result: Any, number: int) -> str:
    """Why a service did not take it: its kind and an HTTP status, of all that apprise says."""
    kind = str(getattr(service, "service_name", "") or "")
    kind = kind if _NAME.fullmatch(kind) else f"URL {number}"
    statuses = [found[1] for entry in result.logs() if (found := _STATUS.search(str(entry.message)))]
    if statuses:
        return f"{kind} answered {statuses[-1]}"
    timed_out = getattr(result.status, "name", "") == "TIMEOUT"
    return f"{kind} did not answer in time" if timed_out else f"{kind} did not take it"


def _silence() -> None:
    """What apprise and its HTTP library log may hold secrets: none of it comes into our log."""
    for name in ("apprise", "urllib3", "requests"):
        logger = logging.getLogger(name)
        logger.propagate = False
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
