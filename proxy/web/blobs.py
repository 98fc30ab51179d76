"""Blobs: the right to one asked at the gate, then its bytes, whole or a slice (OCI distribution specification 1.1, end-2)."""

from __future__ import annotations

import asyncio
from weakref import WeakKeyDictionary

import structlog
from aiohttp import hdrs, web

from proxy.distribution import Request
from proxy.errors import UpstreamAbsent, UpstreamDenied, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.policy.decision import Answer
from proxy.services.answers import GrantedBlob, Refused, Thing
from proxy.services.gate import Gate
from proxy.services.ingest import Ingest, Source
from proxy.settings import Limits
from proxy.web import replies, responses, streaming
from proxy.web.pulls import MEMORY, STORE, UPSTREAM, Pull
from storage.digest import Digest
from storage.errors import DigestMismatch, StorageError
from storage.reference import Repository

log = structlog.get_logger("tagstone.registry")

#: What a blob is said to be: its manifest knows better.
OCTETS = "application/octet-stream"


class BlobApi:
    """Answers requests for blobs. With ``rehash``, what is stored is hashed again each time that it is sent."""

    def __init__(self, gate: Gate, ingest: Ingest, limits: Limits, *, rehash: bool) -> None:
        self._gate = gate
        self._ingest = ingest
        self._limits = limits
        self._rehash = rehash
        self._wires: WeakKeyDictionary[GrantedBlob, dict[str | None, responses.Wire]] = WeakKeyDictionary()

    async def answer(
        self, request: web.BaseRequest, asked: Request, repository: Repository, pull: Pull, *, head: bool
    ) -> web.StreamResponse:
        """HEAD, GET or Range; a refusal where the gate gives no right to it."""
        if asked.digest is None:
            raise AssertionError("a blob is asked for by digest")
        withdrawals = self._gate.withdrawals
        granted: GrantedBlob | Refused | None = self._gate.recall_blob(repository, asked.digest)
        if granted is None:
            granted = await self._gate.blob(repository, asked.digest)
        else:
            pull.source = MEMORY
        if isinstance(granted, Refused):
            return replies.refused(granted, asked, pull)
        descriptor = granted.descriptor
        pull.reasons = granted.reasons
        if hdrs.IF_NONE_MATCH in request.headers and responses.not_modified(request, descriptor.digest):
            return replies.unmodified(OCTETS, granted, asked)
        if head:
            headers = {
                **responses.content_headers(OCTETS, descriptor.digest, None, replies.namespace(asked)),
                "Accept-Ranges": "bytes",
            }
            response = web.StreamResponse(headers=headers)
            response.content_length = descriptor.size
            return response
        if granted.body is not None and hdrs.RANGE not in request.headers:
            pull.sent = len(granted.body)
            return await self._small(request, asked, granted, granted.body, pull)
        try:
            source = await self._ingest.open(repository, descriptor)
        except (UpstreamError, StorageError) as problem:
            return self._trouble(repository, descriptor.digest, problem, asked, pull)
        try:
            return await self._stream(request, asked, repository, source, pull, withdrawals)
        finally:
            source.close()

    async def _small(
        self, request: web.BaseRequest, asked: Request, granted: GrantedBlob, body: bytes, pull: Pull
    ) -> web.StreamResponse:
        headers = responses.content_headers(OCTETS, granted.descriptor.digest, None, replies.namespace(asked))
        headers["Accept-Ranges"] = "bytes"
        if not responses.fits_prebuilt(request):
            return await replies.whole(request, headers, body, pull, self._limits.client_stall_timeout)
        wires = self._wires.setdefault(granted, {})
        wire = wires.get(asked.ns)
        if wire is None:
            wire = wires[asked.ns] = responses.Wire(headers, len(body), body)
        return responses.Prebuilt(wire.bytes(head=False))

    async def _stream(
        self, request: web.BaseRequest, asked: Request, repository: Repository, source: Source, pull: Pull, withdrawals: int
    ) -> web.StreamResponse:
        """Send a blob, for as long as it is granted: ``withdrawals`` is the gate's count when it was."""
        digest = source.digest
        pull.source = STORE if source.complete else UPSTREAM
        headers = responses.content_headers(OCTETS, digest, None, replies.namespace(asked))
        body: streaming.Source = source

        async def permit() -> None:
            nonlocal withdrawals
            if withdrawals != self._gate.withdrawals:
                withdrawals = self._gate.withdrawals
                if (refusal := await self._gate.withdrawn(repository, digest)) is not None:
                    raise streaming.Withdrawn(refusal)

        try:
            async with asyncio.timeout(self._limits.request_timeout):
                await source.ready()
            if self._rehash and source.complete:
                body = streaming.Rehashed(source, digest)
            span = self._span(request, digest, source.size) if source.complete else None
            if span is not None and isinstance(body, streaming.Rehashed):
                await body.whole()  # a slice shows nothing of the rest: all of it is hashed before any of it goes out
            await permit()
        except streaming.Unsatisfiable:
            headers = {"Content-Range": f"bytes */{source.size}", **replies.namespace(asked)}
            return responses.error(416, "RANGE_INVALID", (f"the blob has {source.size} bytes",), headers)
        except streaming.Withdrawn as problem:
            return replies.refused(problem.refusal, asked, pull)
        except (UpstreamError, StorageError, TimeoutError) as problem:
            return self._trouble(repository, digest, problem, asked, pull)
        start, stop = span or (0, source.size)
        if source.complete:
            headers["Accept-Ranges"] = "bytes"
        if span is not None:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{source.size}"
        response = web.StreamResponse(status=200 if span is None else 206, headers=headers)
        response.content_length = stop - start

        def count(sent: int) -> None:
            pull.sent += sent

        try:
            await streaming.send(request, response, body, start, stop, self._limits.client_stall_timeout, count, permit)
        except (UpstreamError, StorageError, streaming.Withdrawn) as problem:
            # The last bytes were never sent, so the client cannot mistake what it has for the blob.
            log.warning("blob.cut", image=str(repository), digest=str(digest), error=str(problem))
            pull.cut, pull.reasons = True, (str(problem),)
            streaming.cut(request)
        except (OSError, TimeoutError) as problem:
            log.info("client.left", image=str(repository), digest=str(digest), error=str(problem) or type(problem).__name__)
            pull.cut, pull.reasons = True, (replies.LEFT,)
            streaming.cut(request)
        return response

    @staticmethod
    def _span(request: web.BaseRequest, digest: Digest, size: int) -> tuple[int, int] | None:
        """The slice that is asked for, unless ``If-Range`` names other content (RFC 9110 §13.1.5)."""
        condition = request.headers.get(hdrs.IF_RANGE)
        if condition is not None and condition.strip() != f'"{digest}"':
            return None
        return streaming.parse_range(request.headers.get(hdrs.RANGE), size)

    def _trouble(self, repository: Repository, digest: Digest, problem: Exception, asked: Request, pull: Pull) -> web.Response:
        """A blob that is granted but cannot be had now."""
        name = f"{repository}@{digest}"
        log.warning("blob.unavailable", image=str(repository), digest=str(digest), error=str(problem) or type(problem).__name__)
        match problem:
            case UpstreamAbsent():
                refusal = Refused(Answer.ABSENT, (f"{name} does not exist upstream",), Thing.BLOB)
            case UpstreamDenied() | UpstreamMisbehaved() | DigestMismatch():
                refusal = Refused(Answer.DENY, (f"{name}: {problem}",), Thing.BLOB)
            case UpstreamUnavailable():
                refusal = Refused(Answer.UNAVAILABLE, (f"{name}: {problem}",), Thing.BLOB, problem.retry_after)
            case TimeoutError():
                refusal = Refused(Answer.UNAVAILABLE, (f"{name}: the upstream is slow to begin",), Thing.BLOB)
            case _:
                refusal = Refused(Answer.UNAVAILABLE, (f"{name}: {problem}",), Thing.BLOB)
        return replies.refused(refusal, asked, pull)
