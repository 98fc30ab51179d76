"""Replies to pulls, and what they leave for the line in the log."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType

from aiohttp import web

from proxy.distribution import Request
from proxy.services.answers import GrantedBlob, Refused, ServedManifest
from proxy.web import responses, streaming
from proxy.web.pulls import Pull

NO_NAMESPACE: Mapping[str, str] = MappingProxyType({})
#: Why an answer ended before its end.
LEFT = "the client left, or took nothing for too long"


def namespace(asked: Request) -> Mapping[str, str]:
    """``OCI-Namespace`` echoes the registry that ``ns`` named ("Registry Proxying")."""
    return NO_NAMESPACE if asked.ns is None else {"OCI-Namespace": asked.ns}


def refused(refusal: Refused, asked: Request, pull: Pull) -> web.Response:
    """A refusal, with its reasons."""
    pull.reasons = refusal.reasons
    return responses.refused(refusal, namespace(asked))


def unmodified(media_type: str, served: ServedManifest | GrantedBlob, asked: Request) -> web.Response:
    """304: the client has it already."""
    warning = served.warning if isinstance(served, ServedManifest) else None
    headers = responses.content_headers(media_type, served.descriptor.digest, warning, namespace(asked))
    del headers["Content-Type"]
    return web.Response(status=304, headers=headers)


async def whole(
    request: web.BaseRequest, headers: Mapping[str, str], body: bytes, pull: Pull, stall_timeout: float
) -> web.StreamResponse:
    """A small answer in the ordinary way, to a client that must not take for ever."""
    response = web.Response(body=body, headers=headers)
    try:
        async with asyncio.timeout(stall_timeout):
            await response.prepare(request)
            await response.write_eof()
    except TimeoutError:
        left = 0 if request.transport is None else request.transport.get_write_buffer_size()
        pull.sent = max(0, pull.sent - left)
        pull.cut, pull.reasons = True, (LEFT,)
        streaming.cut(request)
    return response
