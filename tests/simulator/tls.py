"""Certificates for simulated hosts, from an authority that lives for one test."""

from __future__ import annotations

import ssl
from pathlib import Path

import trustme


class Authority:
    """A certificate authority. ``Registry(tls=authority.server())``, ``Upstream(ca=authority.file(tmp_path))``."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    def server(self, *names: str) -> ssl.SSLContext:
        """A server context for these host names (by default those of the loopback)."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(*(names or ("127.0.0.1", "127.0.0.2", "localhost"))).configure_cert(context)
        return context

    def demanding(self, *names: str) -> ssl.SSLContext:
        """The same for a server that demands a client certificate of this authority."""
        context = self.server(*names)
        context.verify_mode = ssl.CERT_REQUIRED
        self._ca.configure_trust(context)
        return context

    def file(self, folder: Path) -> Path:
        """The authority's certificate as a PEM file."""
        path = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(path))
        return path

    def client(self, folder: Path, name: str = "tagstone") -> tuple[Path, Path]:
        """A client certificate and its key as PEM files."""
        issued = self._ca.issue_cert(f"{name}@test.example")
        certificate, key = folder / "client.pem", folder / "client.key"
        for number, blob in enumerate(issued.cert_chain_pems):
            blob.write_to_path(str(certificate), append=number > 0)
        issued.private_key_pem.write_to_path(str(key))
        return certificate, key

    def trust(self) -> ssl.SSLContext:
        """A client context that trusts this authority."""
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        return context
