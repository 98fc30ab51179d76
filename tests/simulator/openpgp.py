"""OpenPGP as others make it: keys and signatures by the real gpg, GPG simple signing's text, packets put together by hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from storage.digest import Digest

TYPE = "atomic container signature"


def text(digest: Digest | str, reference: str, *, critical: Mapping[str, Any] | None = None, **others: Any) -> bytes:
    """The JSON that ``skopeo copy --sign-by`` signs; ``critical`` and ``others`` replace or add members."""
    inner = {
        "type": TYPE,
        "image": {"docker-manifest-digest": str(digest)},
        "identity": {"docker-reference": reference},
        **(critical or {}),
    }
    document = {"critical": inner, "optional": {"creator": "atomic 5.36.1", "timestamp": 1780000000}, **others}
    return json.dumps({key: value for key, value in document.items() if value is not ...}).encode()


def packet(tag: int, body: bytes) -> bytes:
    """A packet with a header of the new format (RFC 9580, section 4.2.1)."""
    return bytes((0xC0 | tag, 0xFF)) + len(body).to_bytes(4, "big") + body


class Keyring:
    """A home of gpg's own, with keys that have no passphrase. Its agent ends with it."""

    def __init__(self, gpg: str) -> None:
        self._gpg = gpg
        # Sockets have short names: pytest's own folders are too deep for the agent's.
        self.home = Path(tempfile.mkdtemp(prefix="gpg-"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if (conf := shutil.which("gpgconf")) is not None:
            subprocess.run((conf, "--homedir", str(self.home), "--kill", "all"), check=False, capture_output=True)
        shutil.rmtree(self.home, ignore_errors=True)

    def run(self, *arguments: str, stdin: bytes = b"", at: str | None = None) -> bytes:
        """What gpg answers; ``at``: as if it were then (``20240101T000000``)."""
        clock = () if at is None else ("--faked-system-time", at)
        done = subprocess.run(
            (
                self._gpg,
                "--batch",
                "--yes",
                "--quiet",
                "--no-tty",
                "--pinentry-mode",
                "loopback",
                "--passphrase",
                "",
                *clock,
                *arguments,
            ),
            input=stdin,
            capture_output=True,
            check=False,
            env={"PATH": os.environ.get("PATH", os.defpath), "GNUPGHOME": str(self.home), "LC_ALL": "C"},
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout

    def make(
        self, user: str, *, usage: str = "sign", expires: str = "never", at: str | None = None, kind: str = "ed25519"
    ) -> str:
        """Make a key; its fingerprint in lower case."""
        self.run("--quick-generate-key", user, kind, usage, expires, at=at)
        return self.fingerprints(user)[0]

    def fingerprints(self, user: str) -> list[str]:
        """Of the primary key and its subkeys."""
        lines = self.run("--with-colons", "--with-subkey-fingerprint", "--list-keys", user).decode().splitlines()
        return [line.split(":")[9].lower() for line in lines if line.startswith("fpr:")]

    def export(self, *users: str, armor: bool = True) -> bytes:
        """Public keys."""
        return self.run(*(("--armor",) if armor else ()), "--export", *users)

    def sign(
        self, content: bytes, *users: str, how: str = "--sign", options: tuple[str, ...] = (), at: str | None = None
    ) -> bytes:
        """A signature as ``skopeo copy --sign-by`` has it made: an inline signed message."""
        who = [word for user in users for word in ("--local-user", user)]
        return self.run(*who, *options, "--output", "-", how, stdin=content, at=at)

    def revoke(self, fingerprint: str) -> None:
        """Revoke a key by the certificate that gpg made along with it."""
        whole = (self.home / "openpgp-revocs.d" / f"{fingerprint.upper()}.rev").read_text()
        self.run("--import", stdin=whole.replace("\n:-----BEGIN", "\n-----BEGIN").encode())
