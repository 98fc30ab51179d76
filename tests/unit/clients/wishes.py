"""Wishes for tests, and what comes of them, by path."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import NameOID

from proxy.clients.endpoint import Endpoint, Release
from proxy.clients.kinds import Client
from proxy.clients.model import File, Rendering, Wish
from proxy.clients.rendering import render_client

PROXY = "https://proxy.example:5000"
REGISTRIES = ("docker.io", "ghcr.io", "registry.corp.example:5443")


def wish(
    client: Client,
    *,
    proxy: str = PROXY,
    registries: tuple[str, ...] = REGISTRIES,
    release: str | None = None,
    **more: Any,
) -> Wish:
    """A wish with what tests do not care about filled in."""
    return Wish(client, Endpoint.parse(proxy), registries, None if release is None else Release.parse(release), **more)


def rendered(client: Client, **wanted: Any) -> Rendering:
    """What comes of it."""
    return render_client(wish(client, **wanted))


def files(rendering: Rendering) -> dict[str, File]:
    """By path."""
    return {str(file.path): file for file in rendering.files}


@lru_cache(maxsize=1)
def authority() -> str:
    """A certificate in PEM."""
    key = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32))
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    certificate = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, None)
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
