"""The registry API: request in, gate asked, bytes or a refusal out (OCI distribution specification 1.1, pull and discovery).

aiohttp's low-level server calls :meth:`RegistryApi.handle` for every request; there is no routing table besides
:func:`proxy.distribution.parse`, and no way to content besides :class:`proxy.services.gate.Gate`.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from urllib.parse import quote
from weakref import WeakKeyDictionary

import structlog
from aiohttp import hdrs, web

from proxy.distribution import MAX_TAGS, Endpoint, Request, parse
from proxy.errors import (
    MalformedRequest,
)
from proxy.manifest import OCI_INDEX
from proxy.policy.access import ANONYMOUS
from proxy.policy.decision import Answer
from proxy.routing import Router
from proxy.services.answers import Refused, ServedManifest
from proxy.services.gate import Gate
from proxy.services.ingest import Ingest
from proxy.services.metrics import Metrics
from proxy.services.recorder import Recorder
from proxy.settings import Limits
from proxy.web import replies, responses
from proxy.web.admission import AdmissionApi
from proxy.web.blobs import BlobApi
from proxy.web.fairness import Client, Crowded, Fairness
from proxy.web.ledger import LedgerApi
from proxy.web.login import OPEN, TOKEN_PATH, Door, TurnedAway
from proxy.web.pulls import MEMORY, Pull, PullLog
from proxy.web.tombstones import Tombstones
from storage.reference import MAX_NAME, Repository, parse_registry

log = structlog.get_logger("tagstone.registry")

#: What the door says besides a challenge, as an answer of the gate.
_TURNED_AWAY: Mapping[int, Answer] = MappingProxyType({403: Answer.DENY, 503: Answer.UNAVAILABLE})
_ANONYMOUS = str(ANONYMOUS)
_MAX_TARGETS = 8192


class RegistryApi:
    """The handler of the registry listener."""

    def __init__(
        self,
        gate: Gate,
        router: Router,
        ingest: Ingest,
        limits: Limits,
        metrics: Metrics,
        door: Door,
        pulls: PullLog,
        recorder: Recorder,
        reviews: AdmissionApi,
        fairness: Fairness,
        *,
        rehash: bool = False,
        tombstones: bool = False,
        ledger: LedgerApi | None = None,
    ) -> None:
        self._ledger = ledger
        self._gate = gate
        self._tombstones = Tombstones(wanted=tombstones)
        self._door = door
        self._pulls = pulls
        self._recorder = recorder
        self._reviews = reviews
        self._metrics = metrics
        self._router = router
        self._blobs = BlobApi(gate, ingest, limits, rehash=rehash)
        self._limits = limits
        self._fairness = fairness
        self._targets: dict[tuple[str, str | None], tuple[Request, Repository]] = {}
        self._wires: WeakKeyDictionary[ServedManifest, dict[str | None, responses.Wire]] = WeakKeyDictionary()

    def adopt(self, router: Router) -> None:
        """Route by this table from now on."""
        self._router = router
        self._targets.clear()

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, count it, and tell of it."""
        pull = Pull()
        response = await self._answer(request, pull)
        self._metrics.answered(response.status)
        self._pulls.write(request, pull, response.status)
        return response

    async def _answer(self, request: web.BaseRequest, pull: Pull) -> web.StreamResponse:
        if request.raw_path.partition("?")[0] == TOKEN_PATH and request.method in {hdrs.METH_GET, hdrs.METH_POST}:
            return await self._token(request)
        head = request.method == hdrs.METH_HEAD
        if not head and request.method != hdrs.METH_GET:
            if request.method == hdrs.METH_POST and self._reviews.serves(request.path):
                return await self._reviews.handle(request)
            reason = f"{request.method[:20]} is not served: this proxy hands out images, it does not take any"
            return responses.error(405, "UNSUPPORTED", (reason,), {"Allow": "GET, HEAD"})
        if self._ledger is not None and self._ledger.serves(request):
            return await self._published(request, self._ledger)
        try:
            asked, repository = self._target(request)
        except MalformedRequest as problem:
            return self._malformed(request, problem, pull, head=head)
        pull.asked, pull.repository = asked, repository
        if not self._door.open:
            guest = await self._door.admit(request, repository, asked.name)
            if isinstance(guest, TurnedAway):
                return self._turned_away(guest, asked, repository, pull, head=head)
            pull.guest = guest
        client = request.remote or "nobody" if pull.guest is OPEN else pull.guest.name
        share = self._fairness.enter(client) or await self._share(client)
        if isinstance(share, Refused):
            return self._withheld(share, asked, repository, pull, head=head)
        try:
            if repository is None:
                return responses.ping()
            return await self._of(request, asked, repository, pull, head=head)
        finally:
            self._fairness.leave(share)

    async def _published(self, request: web.BaseRequest, ledger: LedgerApi) -> web.StreamResponse:
        """The ledger, which is for everybody, in the turn of the address that asks."""
        client = request.remote or "nobody"
        share = self._fairness.enter(client) or await self._share(client)
        if isinstance(share, Refused):
            return responses.refused(share, replies.NO_NAMESPACE)
        try:
            return await ledger.handle(request)
        finally:
            self._fairness.leave(share)

    async def _share(self, client: str) -> Client | Refused:
        """A turn of this client, waited for."""
        try:
            return await self._fairness.wait(client)
        except Crowded as problem:
            return Refused(Answer.UNAVAILABLE, (str(problem),), retry_after=problem.retry_after)

    async def _token(self, request: web.BaseRequest) -> web.StreamResponse:
        """The token endpoint, in its turn: who asks is known by the address alone until the credentials are checked."""
        client = request.remote or "nobody"
        share = self._fairness.enter(client) or await self._share(client)
        if isinstance(share, Refused):
            return responses.refused(share, replies.NO_NAMESPACE)
        try:
            return await self._door.token(request)
        finally:
            self._fairness.leave(share)

    def _turned_away(
        self, turned: TurnedAway, asked: Request, repository: Repository | None, pull: Pull, *, head: bool
    ) -> web.Response:
        """The door's answer. A challenge is answered by logging in; whatever else it says is a refusal like any other."""
        pull.guest, pull.routine, pull.reasons = turned.guest, turned.routine, (turned.reason,)
        if repository is None and not turned.routine:  # of what is no pull there is no other line
            log.info("login.refused", address=turned.guest.address, reason=turned.reason)
        answer = _TURNED_AWAY.get(turned.response.status)
        if answer is None or not self._tombstones.fit(asked, head=head):
            return turned.response
        return self._bury(Refused(answer, pull.reasons), asked, repository, pull)

    def _malformed(self, request: web.BaseRequest, problem: MalformedRequest, pull: Pull, *, head: bool) -> web.Response:
        """What has no meaning is said so; a registry that is not configured is refused."""
        if problem.status == 403:
            asked = pull.asked = replace(parse(request.raw_path), ns=None)
            return self._withheld(Refused(Answer.DENY, (str(problem),)), asked, None, pull, head=head)
        return responses.malformed(problem)

    async def _of(
        self, request: web.BaseRequest, asked: Request, repository: Repository, pull: Pull, *, head: bool
    ) -> web.StreamResponse:
        match asked.endpoint:
            case Endpoint.MANIFEST:
                return await self._manifest(request, asked, repository, pull, head=head)
            case Endpoint.BLOB:
                return await self._blobs.answer(request, asked, repository, pull, head=head)
            case Endpoint.TAGS:
                response = await self._tags(asked, repository, pull)
            case _:
                response = await self._referrers(asked, repository, pull)
        if response.status == 200 and not head and isinstance(response.body, bytes):
            pull.sent = len(response.body)
        return response

    def _target(self, request: web.BaseRequest) -> tuple[Request, Repository | None]:
        """What the request line and the Host header mean; remembered, because clients ask the same few things."""
        host = request.headers.get(hdrs.HOST) if self._router.hosts else None
        if host is not None and len(host) > MAX_NAME:
            raise MalformedRequest(400, "NAME_INVALID", f"the Host header is longer than {MAX_NAME} characters")
        key = (request.raw_path, host)
        known = self._targets.get(key)
        if known is not None:
            return known
        asked = parse(request.raw_path)
        if asked.endpoint is Endpoint.PING:
            return asked, None
        repository = self._router.route(asked.name, asked.ns, host)
        if asked.ns is not None:
            # One name has many spellings; from here on there is one, by which answers can be remembered.
            asked = replace(asked, ns=parse_registry(asked.ns))
        target = asked, repository
        if len(self._targets) >= _MAX_TARGETS:
            self._targets.clear()
        self._targets[key] = target
        return target

    # -- manifests ------------------------------------------------------------------------------------------------------

    async def _manifest(
        self, request: web.BaseRequest, asked: Request, repository: Repository, pull: Pull, *, head: bool
    ) -> web.StreamResponse:
        served: ServedManifest | Refused | None
        if asked.tag is not None:
            served = self._gate.recall_tag(repository, asked.tag)
            if served is None:
                served = await self._gate.tag(repository, asked.tag)
            else:
                pull.source = MEMORY
        elif asked.digest is not None:
            served = self._gate.recall_manifest(repository, asked.digest) or self._tombstones.find(repository, asked.digest)
            if served is None:
                served = await self._gate.manifest(repository, asked.digest)
            else:
                pull.source = MEMORY
        else:
            raise AssertionError("a manifest is asked for by tag or by digest")
        if isinstance(served, Refused):
            return self._withheld(served, asked, repository, pull, head=head)
        pull.digest, pull.reasons = served.descriptor.digest, served.reasons
        unmodified = hdrs.IF_NONE_MATCH in request.headers and responses.not_modified(request, served.descriptor.digest)
        guest, agent = pull.guest, request.headers.get(hdrs.USER_AGENT, "")
        who, address = (_ANONYMOUS, request.remote) if guest is OPEN else (str(guest.principal), guest.address)
        self._recorder.note(served, repository, asked.tag, who, address, agent, resolved=head or unmodified)
        if unmodified:
            return replies.unmodified(served.descriptor.media_type, served, asked)
        pull.sent = 0 if head else len(served.body)
        wires = self._wires.setdefault(served, {})
        wire = wires.get(asked.ns)
        if wire is None:
            wire = wires[asked.ns] = responses.Wire(self._manifest_headers(served, asked), len(served.body), served.body)
        if responses.fits_prebuilt(request):
            return responses.Prebuilt(wire.bytes(head=head))
        return await replies.whole(
            request, self._manifest_headers(served, asked), served.body, pull, self._limits.client_stall_timeout
        )

    def _withheld(
        self, refusal: Refused, asked: Request, repository: Repository | None, pull: Pull, *, head: bool
    ) -> web.Response:
        """A refusal of something that is there, or may be."""
        if refusal.answer is not Answer.ABSENT and self._tombstones.fit(asked, head=head):
            return self._bury(refusal, asked, repository, pull)
        return replies.refused(refusal, asked, pull)

    def _bury(self, refusal: Refused, asked: Request, repository: Repository | None, pull: Pull) -> web.Response:
        pull.refused, pull.reasons = True, refusal.reasons
        pull.digest, response = self._tombstones.bury(refusal, repository, replies.namespace(asked))
        return response

    def _manifest_headers(self, served: ServedManifest, asked: Request) -> dict[str, str]:
        descriptor = served.descriptor
        return responses.content_headers(descriptor.media_type, descriptor.digest, served.warning, replies.namespace(asked))

    # -- discovery ------------------------------------------------------------------------------------------------------

    async def _tags(self, asked: Request, repository: Repository, pull: Pull) -> web.Response:
        served = await self._gate.tags(repository)
        if isinstance(served, Refused):
            return replies.refused(served, asked, pull)
        start = 0 if asked.last is None else bisect_right(served.tags, asked.last)
        count = MAX_TAGS if asked.n is None else asked.n
        page = served.tags[start : start + count]
        headers = {**responses.API_VERSION, **replies.namespace(asked)}
        if page and start + count < len(served.tags):
            # The path stays as the client wrote it, so that the next page comes through here again.
            ns = "" if asked.ns is None else f"&ns={quote(asked.ns, safe='')}"
            headers["Link"] = f'<{asked.path}?n={count}&last={page[-1]}{ns}>; rel="next"'
        if not served.complete:
            headers["Warning"] = responses.warn("the upstream lists more tags than limits.tag_pages allows; the list is cut")
        body = json.dumps({"name": asked.name, "tags": list(page)}).encode()
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def _referrers(self, asked: Request, repository: Repository, pull: Pull) -> web.Response:
        if asked.digest is None:
            raise AssertionError("referrers are asked for by digest")
        served = await self._gate.referrers(repository, asked.digest, asked.artifact_type)
        if isinstance(served, Refused):
            return replies.refused(served, asked, pull)
        headers = {"Content-Type": OCI_INDEX, **responses.API_VERSION, **replies.namespace(asked)}
        if served.filtered:
            headers["OCI-Filters-Applied"] = "artifactType"
        if served.warning is not None:
            headers["Warning"] = responses.warn(served.warning)
        return web.Response(body=served.body, headers=headers)
