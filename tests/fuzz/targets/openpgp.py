"""Simple signing by OpenPGP: messages of packets."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime

import pysequoia

from proxy.content import Lookaside
from proxy.policy.rules import OpenPgp, SignatureBy
from proxy.settings import Limits
from proxy.verify.model import Trusted
from proxy.verify.openpgp import OpenPgpKey
from proxy.verify.simple import SimpleSignatures
from tests.fuzz.target import Target, told
from tests.simulator.openpgp import packet, text
from tests.unit.verify.evidence import IMAGE, REPOSITORY, subject

LIMITS = Limits()
VERIFIER = SimpleSignatures(LIMITS)
ASKED = SignatureBy(OpenPgp("acme"))
PRIVATE = pysequoia.Tsk.generate("Acme <acme@acme.test>")
PUBLIC = bytes(PRIVATE.extract_certificate())
TRUSTED = Trusted(openpgp={"acme": OpenPgpKey.load("acme", PUBLIC, Lookaside())})
TEXT = text(IMAGE.digest, f"{REPOSITORY}:1.0")
WHOLE = pysequoia.sign(PRIVATE.signer(), TEXT, armor=False)
NOW = datetime.now(UTC)


def openpgp(data: bytes) -> bool:
    """A message, or a JSON text, which is then properly signed. Damage may hit what is not signed: packets' own lengths."""
    of_ours = data[:1] == b"{"
    message = pysequoia.sign(PRIVATE.signer(), data, armor=False) if of_ours else data
    if not told(VERIFIER.judge_bytes("fuzz", message, subject(), [ASKED], TRUSTED, NOW)):
        return False
    if of_ours:
        document, right = json.loads(data), json.loads(TEXT)
        assert set(document) == {"critical", "optional"}
        assert all(document["critical"][key] == right["critical"][key] for key in ("image", "type"))
    else:
        assert TRUSTED.openpgp["acme"].open(message, LIMITS.signature_size).payload == TEXT
    return True


def compressed(data: bytes) -> bytes:
    """The message in a packet of its own, as GnuPG writes it."""
    return data if data[:1] == b"{" else packet(8, b"\1" + zlib.compress(data, wbits=-15))


def _messages() -> Iterator[bytes]:
    yield WHOLE
    yield compressed(WHOLE)
    yield TEXT
    yield packet(8, b"\2" + zlib.compress(WHOLE))
    yield packet(11, b"b\0\0\0\0\0" + TEXT)
    yield WHOLE + WHOLE
    yield PUBLIC


TARGETS = (Target("openpgp", openpgp, (), tuple(_messages()), compressed, longest=8 << 10, seconds=1),)
