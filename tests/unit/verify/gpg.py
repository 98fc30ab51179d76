"""Keys and signatures by the real gpg for the tests of this folder: made once, since gpg takes its time."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

from proxy.content import Lookaside
from proxy.verify.openpgp import OpenPgpKey
from tests.simulator.openpgp import Keyring, text
from tests.tools import need
from tests.unit.verify.evidence import IMAGE, REPOSITORY

LOOKASIDE = Lookaside("https://lookaside.test/sigs")
TEXT = text(IMAGE.digest, f"{REPOSITORY}:1.0")
EARLY, THEN = "20240101T000000", "20240201T000000"


class Material:
    """A keyring with a key for each case."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self.acme = keyring.make("Acme <release@acme.test>")
        self.other = keyring.make("Other <other@acme.test>", kind="rsa2048")

    def key(self, *users: str, name: str = "acme", armor: bool = True) -> OpenPgpKey:
        """The public keys of ``users`` as an entry of trust."""
        return OpenPgpKey.load(name, self.keyring.export(*(users or (self.acme,)), armor=armor), LOOKASIDE)

    @cached_property
    def signature(self) -> bytes:
        """By Acme, over the image."""
        return self.keyring.sign(TEXT, self.acme)

    @cached_property
    def expired(self) -> tuple[OpenPgpKey, bytes]:
        """A key that has expired since, and what it signed in time."""
        fingerprint = self.keyring.make("Late <late@acme.test>", at=EARLY, expires="2024-06-01")
        return self.key(fingerprint), self.keyring.sign(TEXT, fingerprint, at=THEN)

    @cached_property
    def expired_subkey(self) -> tuple[OpenPgpKey, bytes]:
        """The same for a subkey of a certificate that goes on."""
        fingerprint = self.keyring.make("Sub <sub@acme.test>", at=EARLY, usage="cert")
        self.keyring.run("--quick-add-key", fingerprint, "ed25519", "sign", "2024-06-01", at=EARLY)
        return self.key(fingerprint), self.keyring.sign(TEXT, fingerprint, at=THEN)

    @cached_property
    def prolonged_subkey(self) -> tuple[OpenPgpKey, bytes]:
        """A subkey that would have expired, but was given more time; both exports are in the file."""
        fingerprint = self.keyring.make("Long <long@acme.test>", at=EARLY, usage="cert")
        self.keyring.run("--quick-add-key", fingerprint, "ed25519", "sign", "2024-06-01", at=EARLY)
        signature = self.keyring.sign(TEXT, fingerprint, at=THEN)
        before = self.keyring.export(fingerprint)
        self.keyring.run("--quick-set-expire", fingerprint, "2090-01-01", "*", at="20240515T000000")
        return OpenPgpKey.load("acme", before + self.keyring.export(fingerprint), LOOKASIDE), signature

    @cached_property
    def revoked_subkey(self) -> tuple[OpenPgpKey, bytes]:
        """A subkey that was retired after it signed."""
        fingerprint = self.keyring.make("Back <back@acme.test>", at=EARLY, usage="cert")
        self.keyring.run("--quick-add-key", fingerprint, "ed25519", "sign", "never", at=EARLY)
        signature = self.keyring.sign(TEXT, fingerprint, at=THEN)
        answers = b"key 1\nrevkey\ny\n3\n\ny\nsave\n"  # 3: no longer used
        self.keyring.run("--command-fd", "0", "--no-batch", "--edit-key", fingerprint, stdin=answers)
        return self.key(fingerprint), signature

    @cached_property
    def revoked(self) -> tuple[OpenPgpKey, bytes]:
        """A key that was revoked after it signed."""
        fingerprint = self.keyring.make("Gone <gone@acme.test>")
        signature = self.keyring.sign(TEXT, fingerprint)
        self.keyring.revoke(fingerprint)
        return self.key(fingerprint), signature


def material() -> Iterator[Material]:
    """To be made a fixture."""
    with Keyring(need("gpg")) as keyring:
        yield Material(keyring)
