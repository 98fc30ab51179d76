"""One line in the log for each request: who asked for what, by which rule, what was answered and why, and what it cost.

It is written when the answer has gone out, so that bytes and milliseconds are what they were. Of the headers only the user
agent is in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from aiohttp import web

from proxy.distribution import Endpoint, Request
from proxy.web.login import OPEN, Guest
from storage.digest import Digest
from storage.reference import Repository

_log = structlog.get_logger("tagstone.pulls")

#: Where an answer came from.
MEMORY, STORE, UPSTREAM, DECIDED = "memory", "store", "upstream", "decided"
_VERDICTS = {200: "served", 206: "served", 304: "served", 403: "denied", 401: "login", 404: "absent", 503: "unavailable"}


@dataclass(slots=True)
class Pull:
    """What becomes known of one request while it is answered."""

    began: float = field(default_factory=time.perf_counter)
    guest: Guest = OPEN
    asked: Request | None = None
    repository: Repository | None = None
    source: str = DECIDED
    digest: Digest | None = None
    reasons: tuple[str, ...] = ()
    sent: int = 0
    cut: bool = False
    routine: bool = False  #: a challenge to somebody who showed no credentials: how every login begins
    refused: bool = False  #: whatever the status says: a tombstone is no image


class PullLog:
    """Writes the lines. ``level`` is ``all``, ``decided`` or ``none`` (``log.pulls``); refusals are always written.

    A challenge to somebody who showed no credentials is none: every login begins with one, and there would be two lines for each
    pull.
    """

    def __init__(self, level: str, rule_of: Callable[[Repository], str]) -> None:
        self._all = level == "all"
        self._decided = level != "none"
        self.rule_of = rule_of  #: the rule that holds for a repository, for people

    def wants(self, source: str, *, refused: bool) -> bool:
        """Whether a line about something from ``source`` is to be written."""
        return refused or self._all or (self._decided and source != MEMORY)

    def write(self, request: web.BaseRequest, pull: Pull, status: int) -> None:
        """Write the line of one request, if it is one that is to be written."""
        asked = pull.asked
        if asked is None or asked.endpoint is Endpoint.PING or (pull.routine and not self._all):
            return
        refused = status >= 400 or pull.cut or pull.refused
        if not self.wants(pull.source, refused=refused):
            return
        reference = f":{asked.tag}" if asked.tag else f"@{asked.digest}" if asked.digest else ""
        line: dict[str, object] = {
            "address": pull.guest.address or request.remote,
            "agent": request.headers.get("User-Agent", "")[:200],
            "method": request.method,
            "what": asked.endpoint.value,
            "image": f"{pull.repository or asked.name}{reference}",
            "verdict": "cut" if pull.cut else "tombstone" if pull.refused and status < 400 else _VERDICTS.get(status, "failed"),
            "status": status,
            "source": pull.source,
            "bytes": pull.sent,
            "ms": round((time.perf_counter() - pull.began) * 1000, 1),
        }
        if pull.repository is not None:  # else its registry is not configured: nobody was asked who they are, nor any rule
            line |= {"who": str(pull.guest.principal), "rule": self.rule_of(pull.repository)}
        if pull.digest is not None and asked.digest is None:
            line["digest"] = str(pull.digest)
        if pull.reasons:
            line["why"] = list(pull.reasons)
        _log.info("pull", **line)
