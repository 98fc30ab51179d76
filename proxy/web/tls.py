"""TLS on a listener: a context whose certificate can be replaced while connections are open."""

from __future__ import annotations

import ssl
from pathlib import Path

from proxy.settings import Tls

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_MAX_FILE = 1 << 20


def context_of(settings: Tls) -> ssl.SSLContext:
    """A server context of these files. Raises :class:`ValueError`, with the file and the way out, when they do not fit."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[settings.min_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["http/1.1"])
    for path in (settings.certificate, settings.key, *([settings.client_ca] if settings.client_ca else [])):
        try:
            size = path.stat().st_size
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
        if size > _MAX_FILE:
            raise ValueError(f"{path} has more than {_MAX_FILE} bytes")
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=_no_passphrase)
    except (ssl.SSLError, OSError, ValueError) as error:
        why = getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{settings.certificate} and {settings.key} are no PEM certificate with its key: {why}") from error
    if settings.client_ca is not None:
        try:
            context.load_verify_locations(settings.client_ca)
        except (ssl.SSLError, OSError) as error:
            raise ValueError(f"{settings.client_ca} has no PEM certificates of authorities") from error
        context.verify_mode = ssl.CERT_REQUIRED if settings.client_certificates == "required" else ssl.CERT_OPTIONAL
        # A resumed session is not verified again: an authority that was taken out would go on counting. Without tickets there is
        # none in TLS 1.3; those of TLS 1.2 that go by an id are refused in the handshake (:class:`ServerTls`).
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    return context


def _no_passphrase() -> str:
    raise ValueError("the key has a passphrase; give it without one, readable by Tagstone alone")


class ServerTls:
    """The context of a listener, and what new connections are to use."""

    def __init__(self, settings: Tls) -> None:
        """Raises :class:`ValueError` when the files do not fit."""
        self._settings = settings
        self._current = context_of(settings)
        #: What the listener holds for ever; each handshake goes on with the newest files.
        self.context = context_of(settings)
        self.context.sni_callback = self._choose  # called for every handshake, with or without a name

    @property
    def files(self) -> tuple[Path, ...]:
        """What is read."""
        settings = self._settings
        return (settings.certificate, settings.key, *([settings.client_ca] if settings.client_ca else []))

    def reload(self) -> bool:
        """Read the files again, for connections from now on; whether other authorities vouch for clients than before.

        Raises :class:`ValueError`; then the old ones stay.
        """
        fresh = context_of(self._settings)
        changed = fresh.get_ca_certs(binary_form=True) != self._current.get_ca_certs(binary_form=True)
        self._current = fresh
        return changed

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> int | None:
        if self._settings.client_ca is not None and connection.session_reused:
            return int(ssl.AlertDescription.ALERT_DESCRIPTION_HANDSHAKE_FAILURE)
        connection.context = self._current
        return None
