"""Fetching the public keys of token issuers (OpenID Connect Discovery 1.0 §4, JSON Web Key Set RFC 7517 §5).

The addresses come from the operator, so private ones may be dialled; what is answered is bounded, and redirects are not followed.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from proxy.errors import LoginUnavailable

_MAX_BODY = 256 << 10
_MAX_BEARER = 16 << 10
_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class KeySetPlace:
    """Where an issuer's keys are. Without ``jwks`` the issuer's discovery document says it."""

    issuer: str
    jwks: str | None = None
    ca: Path | None = None  #: PEM file; the system's authorities where None
    bearer_file: Path | None = None  #: a token to show, as a Kubernetes API server wants one


async def fetch_key_set(place: KeySetPlace) -> Mapping[str, Any]:
    """The key set, as a JSON object. Raises :class:`proxy.errors.LoginUnavailable`."""
    try:
        async with asyncio.timeout(_TIMEOUT):
            return await _fetch(place)
    except LoginUnavailable:
        raise
    except TimeoutError:
        raise LoginUnavailable(f"the keys of {place.issuer} could not be fetched within {_TIMEOUT:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise LoginUnavailable(f"the keys of {place.issuer} could not be fetched: {type(error).__name__}") from error


async def _fetch(place: KeySetPlace) -> Mapping[str, Any]:
    context, bearer = await asyncio.to_thread(_files, place)
    headers = {"Accept": "application/json"} | ({} if bearer is None else {"Authorization": f"Bearer {bearer}"})
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector, headers=headers, trust_env=True) as session:
        address = place.jwks
        if address is None:
            document = await _object(session, place, place.issuer.rstrip("/") + "/.well-known/openid-configuration")
            if document.get("issuer") != place.issuer:
                raise LoginUnavailable(f"the discovery document of {place.issuer} is of another issuer")
            address = document.get("jwks_uri")
            if not isinstance(address, str) or urlsplit(address).scheme != urlsplit(place.issuer).scheme:
                raise LoginUnavailable(f"the discovery document of {place.issuer} names no key set")
            if bearer is not None and urlsplit(address).netloc != urlsplit(place.issuer).netloc:
                # Whoever writes that document must not have the token sent anywhere.
                raise LoginUnavailable(f"the keys of {place.issuer} are on another host; name it in `jwks`")
        return await _object(session, place, address)


def _files(place: KeySetPlace) -> tuple[ssl.SSLContext, str | None]:
    context = ssl.create_default_context(cafile=None if place.ca is None else str(place.ca))
    if place.bearer_file is None:
        return context, None
    with place.bearer_file.open("rb") as file:  # read each time: Kubernetes writes it anew every hour
        return context, file.read(_MAX_BEARER).decode("ascii").strip()


async def _object(session: aiohttp.ClientSession, place: KeySetPlace, address: str) -> Mapping[str, Any]:
    async with session.get(address, allow_redirects=False) as response:
        if response.status != 200:
            raise LoginUnavailable(f"the keys of {place.issuer} could not be fetched: status {response.status}")
        body = bytearray()
        async for piece in response.content.iter_chunked(16 << 10):
            body += piece
            if len(body) > _MAX_BODY:
                raise LoginUnavailable(f"the keys of {place.issuer} are more than {_MAX_BODY} bytes")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise LoginUnavailable(f"the keys of {place.issuer} cannot be read")
    return document
