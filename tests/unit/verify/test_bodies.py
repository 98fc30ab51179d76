"""What log entries say: each kind is bound to signature, signer and content."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, cast

import pytest

from proxy.errors import EvidenceMalformed
from proxy.verify.bodies import Deed, check_body, kind_of
from tests.simulator import signing
from tests.simulator.signing import Signer
from tests.simulator.sigstore import Signing, rekor
from tests.unit.verify.reading import SIGSTORE

Json = dict[str, Any]
Kind = Literal["hashedrekord 0.0.1", "dsse 0.0.1", "intoto 0.0.1", "intoto 0.0.2", "hashedrekord 0.0.2", "dsse 0.0.2"]
KINDS: tuple[Kind, ...] = (
    "hashedrekord 0.0.1",
    "dsse 0.0.1",
    "intoto 0.0.1",
    "intoto 0.0.2",
    "hashedrekord 0.0.2",
    "dsse 0.0.2",
)
TYPE = signing.PAYLOAD_TYPE
PAYLOAD = b'{"a":1}'
MESSAGE = signing.pae(TYPE, PAYLOAD)
ENVELOPE = b'{"payload":"..."}'
LEAF = SIGSTORE.leaf()
MANAGED = Signer.of("p256")
LOGGED = rekor.Deed(b"signature", MESSAGE, LEAF.certificate, "sha256", PAYLOAD, TYPE, ENVELOPE)
DEED = Deed(b"signature", MESSAGE, PAYLOAD, ENVELOPE, LEAF.der, by_certificate=True)


def body(kind: Kind, logged: rekor.Deed = LOGGED) -> Json:
    """What the log keeps."""
    if kind in rekor.RekorV1.kinds:
        return rekor.v1_body(logged, kind)
    return rekor.v2_body(logged, cast("rekor.V2Kind", kind))


def check(document: Json, deed: Deed = DEED, kind: tuple[str, str] | None = None) -> str:
    """Judge a body."""
    return check_body(json.dumps(document).encode(), kind, deed)


@pytest.mark.parametrize("kind", KINDS)
def test_bound(kind: Kind) -> None:
    """An entry about this very deed, by a certificate or by a key, says which kind it is."""
    assert check(body(kind)) == kind
    assert kind_of(json.dumps(body(kind)).encode()) == tuple(kind.split())
    by_key = replace(DEED, signer=MANAGED.spki, by_certificate=False)
    assert check(body(kind, replace(LOGGED, verifier=MANAGED)), by_key) == kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("deed", "told"),
    [
        (replace(DEED, signature=b"another", envelope=b"another"), "about another signature|about other content"),
        (replace(DEED, signer=SIGSTORE.leaf(Signing(claims={"run": "another"})).der), "about another signer"),
        (replace(DEED, signer=MANAGED.spki, by_certificate=False), "about another signer"),
        (replace(DEED, message=b"other", payload=b"other"), "about other content|of another type"),
    ],
    ids=["another signature", "another certificate of the same key", "a key", "other content"],
)
def test_promise_42_cve_2022_36056_cve_2026_22703_an_entry_about_something_else(kind: Kind, deed: Deed, told: str) -> None:
    """An entry that is about anything else than signature, signer and content proves nothing."""
    if deed.payload == b"other" and kind == "intoto 0.0.1":
        deed = replace(deed, envelope=b"other")
    with pytest.raises(EvidenceMalformed, match=told):
        check(body(kind), deed)


@pytest.mark.parametrize("hashed", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("kind", ["hashedrekord 0.0.1", "hashedrekord 0.0.2"])
def test_hashes(kind: Kind, hashed: Literal["sha256", "sha384", "sha512"]) -> None:
    """A message may be logged by the hash with which it was signed."""
    assert check(body(kind, replace(LOGGED, hashed=hashed))) == kind


def test_an_envelope_as_it_came() -> None:
    """Where the envelope's own bytes are known, the entry's hash is held against them; intoto 0.0.1 is bound by nothing else."""
    unknown = replace(DEED, envelope=None)
    assert check(body("dsse 0.0.1"), unknown) == "dsse 0.0.1"
    with pytest.raises(EvidenceMalformed, match="about other content"):
        check(body("dsse 0.0.1"), replace(DEED, envelope=ENVELOPE + b" "))
    with pytest.raises(EvidenceMalformed, match="cannot be bound"):
        check(body("intoto 0.0.1"), unknown)


@pytest.mark.parametrize("kind", ["dsse 0.0.1", "intoto 0.0.1", "intoto 0.0.2", "dsse 0.0.2"])
def test_an_entry_about_an_envelope_where_there_is_none(kind: Kind) -> None:
    """A plain signature is no envelope's."""
    with pytest.raises(EvidenceMalformed, match="is none"):
        check(body(kind), replace(DEED, payload=None))


def test_several_signatures_in_an_entry() -> None:
    """An entry may be about more signatures than this one, as long as it is about this one."""
    other = replace(LOGGED, signature=b"another")
    for kind, path in (
        ("dsse 0.0.1", ("spec", "signatures")),
        ("intoto 0.0.2", ("spec", "content", "envelope", "signatures")),
        ("dsse 0.0.2", ("spec", "dsseV002", "signatures")),
    ):
        first, second = body(cast("Kind", kind), other), body(cast("Kind", kind))
        target, source = first, second
        for key in path[:-1]:
            target, source = target[key], source[key]
        target[path[-1]] += source[path[-1]]
        assert check(first) == kind
        target[path[-1]][0] = "text"
        with pytest.raises(EvidenceMalformed, match="no object"):
            check(first)


def set_in(*path: str, to: object) -> Callable[[Json], None]:
    """Set something deep in a body."""

    def apply(document: Json) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return apply


PEM = ("spec", "signature", "publicKey", "content")
VERIFIER = ("spec", "hashedRekordV002", "signature", "verifier")


@pytest.mark.parametrize(
    ("kind", "edit", "told"),
    [
        ("hashedrekord 0.0.1", set_in("kind", to="rpm"), "unknown kind: rpm 0.0.1"),
        ("hashedrekord 0.0.1", set_in("apiVersion", to="0.0.9"), "unknown kind: hashedrekord 0.0.9"),
        ("hashedrekord 0.0.1", set_in("kind", to=None), "no text 'kind'"),
        ("hashedrekord 0.0.1", set_in("spec", to=[]), "no object 'spec'"),
        ("hashedrekord 0.0.1", set_in(*PEM, to="AAAA"), "neither a certificate nor a key"),
        ("hashedrekord 0.0.1", set_in(*PEM, to=rekor.b64(LEAF.pem + LEAF.pem)), "neither a certificate nor a key"),
        ("hashedrekord 0.0.1", set_in("spec", "data", "hash", "algorithm", to="md5"), "about other content"),
        ("hashedrekord 0.0.1", set_in("spec", "data", "hash", "value", to="00"), "about other content"),
        ("hashedrekord 0.0.2", set_in(*VERIFIER, to={}), "not one certificate or key"),
        ("hashedrekord 0.0.2", set_in(*VERIFIER, "publicKey", to={}), "not one certificate or key"),
        ("hashedrekord 0.0.2", set_in("spec", "hashedRekordV002", "data", "algorithm", to="SHA1"), "about other content"),
        ("intoto 0.0.2", set_in("spec", "content", "envelope", "payloadType", to="text/plain"), "of another type"),
        (
            "intoto 0.0.2",
            set_in("spec", "content", "envelope", "signatures", to=[{"sig": rekor.b64(b"signature")}]),
            "about another signature",
        ),
        ("dsse 0.0.1", set_in("spec", "signatures", to=[]), "about another signature"),
        ("dsse 0.0.2", set_in("spec", "dsseV002", "signatures", to=[]), "about another signature"),
        ("dsse 0.0.1", set_in("spec", "signatures", to=[{}] * 33), "the limit is 32"),
    ],
)
def test_bodies_that_are_none(kind: Kind, edit: Callable[[Json], None], told: str) -> None:
    """Whatever stands there, what comes out is a refusal."""
    document = body(kind)
    edit(document)
    with pytest.raises(EvidenceMalformed, match=told):
        check(document)


def test_bytes_that_are_none() -> None:
    """Nor are these a body."""
    for raw, told in ((b"", "cannot be read"), (b"[]", "not a JSON object"), (b" " * (1 << 20) + b"{}", "1048578 bytes")):
        with pytest.raises(EvidenceMalformed, match=told):
            check_body(raw, None, DEED)


def test_a_kind_that_the_body_does_not_have() -> None:
    """What is said beside the body must be what the body says."""
    assert check(body("dsse 0.0.1"), kind=("dsse", "0.0.1"))
    with pytest.raises(EvidenceMalformed, match="not of the kind"):
        check(body("dsse 0.0.1"), kind=("hashedrekord", "0.0.1"))


def test_what_is_hashed() -> None:
    """An entry of Rekor v2 about an envelope holds the hash of its pre-authentication encoding."""
    digest = body("hashedrekord 0.0.2")["spec"]["hashedRekordV002"]["data"]["digest"]
    assert base64.b64decode(digest) == hashlib.sha256(MESSAGE).digest()
