"""The second verdict: sigstore-python's, wherever it can judge; and what it cannot, one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import sigstore.verify
from cryptography import x509

from proxy.errors import EvidenceMalformed
from proxy.settings import Limits
from proxy.verify import second
from proxy.verify.core import Signed, prove_certificate, prove_times
from proxy.verify.roots import Demands, Root
from proxy.verify.second import LIMITS, UNREADABLE_ROOT, SecondVerdict
from tests.simulator.signing import Signer
from tests.simulator.sigstore import Fault, Signing, statement
from tests.simulator.sigstore.cases import IMAGE
from tests.simulator.sigstore.rekor import Deed, b64
from tests.unit.verify.reading import GITHUB, SIGSTORE, read_bundle, read_cosign, root_of

NOW = SIGSTORE.now
LATER = NOW + timedelta(days=400)
#: Wider than the library bears.
BOUNDS = Limits(timestamps=64)
NOTHING = Demands(log=False, sct=False)
AGREES = "sigstore-python accepts it, too"
MANAGED = Signer.of("p256", "release")


def message(how: Signing | None = None, fault: Fault | None = None) -> Signed:
    """A message signature."""
    return read_bundle(SIGSTORE.message_bundle(IMAGE.body, how, fault=fault), IMAGE.body)


def envelope(how: Signing | None = None, fault: Fault | None = None) -> Signed:
    """A signed statement."""
    return read_bundle(SIGSTORE.dsse_bundle(statement(IMAGE.digest), how, fault=fault))


def rewritten(signed: Signed, change: Callable[[Any], None]) -> Signed:
    """The same with another bundle."""
    assert signed.bundle is not None
    bundle = json.loads(signed.bundle)
    change(bundle)
    return replace(signed, bundle=json.dumps(bundle).encode())


@pytest.mark.parametrize("make", [message, envelope])
@pytest.mark.parametrize(
    "how",
    [
        Signing(),
        Signing(rekor=2),
        Signing(timestamps=2),
        Signing(version="0.1"),
        Signing(version="0.2"),
        Signing(key="p384"),
        Signing(key="p521"),
    ],
    ids=lambda how: f"v{how.version}-rekor{how.rekor}-{how.timestamps}-{how.key}",
)
def test_it_agrees(make: Callable[[Signing], Signed], how: Signing) -> None:
    """What the core accepts and the library can judge, the library accepts."""
    assert SecondVerdict().check(make(how), root_of(SIGSTORE)) == AGREES


@pytest.mark.parametrize(
    ("make", "fault", "told"),
    [
        (message, "signature broken", "refused by sigstore-python, whose verdict is required, too: Signature is invalid"),
        (envelope, "SET broken", "refused by sigstore-python"),
        (envelope, "checkpoint by another key", "refused by sigstore-python"),
        (message, "wrong EKU", "refused by sigstore-python"),
    ],
)
def test_it_is_really_asked(make: Callable[[Signing | None, Fault], Signed], fault: Fault, told: str) -> None:
    """Handed what the core would have refused, the library refuses it by itself."""
    with pytest.raises(EvidenceMalformed, match=told):
        SecondVerdict().check(make(None, fault), root_of(SIGSTORE))


@pytest.mark.parametrize(
    ("signed", "told"),
    [
        (replace(message(), signature=b"another"), "as another signature"),
        (replace(message(), chain=(SIGSTORE.leaf(Signing(claims={"run": "another"})).der,)), "as another signature"),
        (replace(envelope(), payload=b"another"), "as another payload"),
        (replace(message(), message=b"another"), "refused by sigstore-python"),
        (rewritten(message(), lambda bundle: bundle.update(mediaType="application/json")), "refused by sigstore-python"),
        (replace(message(), bundle=b"[]"), "not a JSON object"),
    ],
)
def test_both_must_speak_of_the_same(signed: Signed, told: str) -> None:
    """Two readers that read two things are no second opinion."""
    with pytest.raises(EvidenceMalformed, match=told):
        SecondVerdict().check(signed, root_of(SIGSTORE))


# -- what it cannot judge -------------------------------------------------------------------------------------------


def two_entries() -> Signed:
    """Entered in both logs."""
    signed = message(Signing(timestamps=1))
    leaf = x509.load_der_x509_certificate(signed.chain[0])
    entry = SIGSTORE.rekor_v2.enter(Deed(signed.signature, IMAGE.body, leaf), "hashedrekord 0.0.2", NOW).of_bundle()
    more = rewritten(signed, lambda bundle: bundle["verificationMaterial"]["tlogEntries"].append(entry))
    assert more.bundle is not None
    return read_bundle(more.bundle, IMAGE.body)


def two_signatures() -> Signed:
    """A bundle whose envelope says its signature twice."""
    return rewritten(
        envelope(), lambda bundle: bundle["dsseEnvelope"].update(signatures=2 * bundle["dsseEnvelope"]["signatures"])
    )


def other_digest() -> Signed:
    """A bundle that names its message by SHA-512."""
    digest = {"algorithm": "SHA2_512", "digest": b64(b"0" * 64)}
    return rewritten(message(), lambda bundle: bundle["messageSignature"].update(messageDigest=digest))


def bare_token() -> Signed:
    """A timestamp as notation keeps them: the token without the response around it."""
    signed = message(Signing(rekor=2))
    token = SIGSTORE.timestamp_authority.token(signed.signature, NOW)
    stamps = {"rfc3161Timestamps": [{"signedTimestamp": b64(token)}]}
    bundle = rewritten(signed, lambda each: each["verificationMaterial"].update(timestampVerificationData=stamps)).bundle
    assert bundle is not None
    return read_bundle(bundle, IMAGE.body)


def edited_root(change: Callable[[Any], object], demands: Demands | None = None) -> Root:
    """The private root, changed."""
    document = json.loads(SIGSTORE.trusted_root())
    change(document)
    return Root.load("private", json.dumps(document).encode(), demands or Demands())


def without_tsa_leaf(document: Any) -> None:
    """A root that names the timestamp authority's issuers only."""
    del document["timestampAuthorities"][0]["certChain"]["certificates"][0]


def stamped_with_certificate() -> Signed:
    """A timestamp that brings its certificate along."""
    return message(Signing(rekor=2))


@dataclass(frozen=True)
class Row:
    """Something right that the library cannot judge, and the root under which it is right."""

    limit: str
    signed: Callable[[], Signed]
    root: Callable[[], Root] = lambda: root_of(SIGSTORE)
    at_signing: bool = False  #: proven by nothing but the present


def usual() -> Root:
    """The private root."""
    return root_of(SIGSTORE)


def lenient() -> Root:
    """The private root without demands."""
    return root_of(SIGSTORE, demands=NOTHING)


OWN_HASH = "a signature by the curve's own hash, where that is not SHA-256"
ROWS = (
    Row("a managed key", lambda: message(Signing(managed=MANAGED))),
    Row("a signature that is no Sigstore bundle", lambda: read_cosign(SIGSTORE.cosign_signature(IMAGE.digest))),
    Row(
        "a root that is certificates of one's own",
        lambda: message(Signing(version="0.2", rekor=None, timestamps=1)),
        lambda: Root.of_ca("own", [SIGSTORE.own_ca()], NOTHING, [SIGSTORE.own_tsa()]),
    ),
    Row("a certificate with an RSA or Ed25519 key", lambda: message(Signing(key="rsa2048"))),
    Row("a certificate with an RSA or Ed25519 key", lambda: envelope(Signing(key="ed25519"))),
    Row(OWN_HASH, lambda: message(Signing(key="p384", native_hash=True))),
    Row(OWN_HASH, lambda: envelope(Signing(key="p521", native_hash=True, rekor=2))),
    Row("an entry of Rekor v2 about a key on P-384 or P-521", lambda: message(Signing(key="p384", rekor=2))),
    Row("an entry of Rekor v2 about a key on P-384 or P-521", lambda: envelope(Signing(key="p521", rekor=2))),
    Row("a bundle without exactly one log entry", lambda: message(Signing(rekor=None)), lenient),
    Row("a bundle without exactly one log entry", two_entries),
    Row("more than 32 timestamps", lambda: message(Signing(timestamps=33))),
    Row("more than 32 timestamps", lambda: envelope(Signing(rekor=2, timestamps=33))),
    Row(
        "an entry of a log that the root does not name",
        lambda: message(Signing(timestamps=1), "log entry of another log"),
        lenient,
    ),
    Row("a log entry without inclusion proof and checkpoint", lambda: message(Signing(version="0.1"), "inclusion proof missing")),
    Row("a log entry without inclusion proof and checkpoint", lambda: message(Signing(version="0.1"), "checkpoint missing")),
    Row("a log entry of this kind (intoto, or dsse 0.0.2)", lambda: envelope(Signing(kind="intoto 0.0.2"))),
    Row("a log entry of this kind (intoto, or dsse 0.0.2)", lambda: envelope(Signing(rekor=2, kind="dsse 0.0.2"))),
    Row("a signature whose time nothing proves", lambda: message(Signing(rekor=2, timestamps=0)), usual, at_signing=True),
    Row(
        "a certificate without exactly one certificate timestamp by a log of the root",
        lambda: message(fault="SCT missing"),
        lenient,
    ),
    Row(
        "a certificate without exactly one certificate timestamp by a log of the root",
        lambda: message(fault="SCT by another log"),
        lenient,
    ),
    Row("an envelope without exactly one signature", two_signatures),
    Row("a message digest by another hash than SHA-256", other_digest),
    Row(
        "a timestamp under a root without timestamp authorities",
        lambda: message(Signing(timestamps=1)),
        lambda: root_of(SIGSTORE, "no TSA"),
    ),
    Row(
        "a timestamp authority whose own certificate, or whose root, the trusted root does not hold",
        stamped_with_certificate,
        lambda: edited_root(without_tsa_leaf),
    ),
    Row("a timestamp whose certificates are not in the order of DER", bare_token),
    Row(
        "a timestamp of the last moment in which its authority is trusted",
        lambda: message(Signing(rekor=2)),
        lambda: root_of(SIGSTORE, "TSA window ends at signing"),
    ),
    Row(
        UNREADABLE_ROOT,
        message,
        lambda: edited_root(lambda document: document["certificateAuthorities"][0]["subject"].pop("commonName")),
    ),
    Row(
        UNREADABLE_ROOT,
        message,
        lambda: edited_root(lambda document: document.update(mediaType="application/vnd.dev.sigstore.trustedroot.v0.2+json")),
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.limit)
def test_limits(row: Row) -> None:
    """The core accepts it, and the library is passed over with these words."""
    signed, root = row.signed(), row.root()
    if signed.chain:
        prove_certificate(signed, root, BOUNDS, NOW if row.at_signing else LATER, [])
    else:
        prove_times(signed, MANAGED.spki, root, BOUNDS, LATER, [])
    assert SecondVerdict().check(signed, root) == f"sigstore-python cannot judge this: {row.limit}"


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row.signed().bundle is not None and row.root().document is not None], ids=lambda row: row.limit
)
def test_limits_are_limits(row: Row) -> None:
    """The library really does not accept it: a version that does is noticed here, and the limit can go."""
    signed, root = row.signed(), row.root()
    with pytest.raises(EvidenceMalformed):
        _asked(signed, root)


def _asked(signed: Signed, root: Root) -> None:
    """Ask the library without looking at its limits."""
    verifier = second.guarded(lambda: second.build(root))
    if verifier is None:
        raise EvidenceMalformed("is judged by a root that the library does not read")
    second.guarded(lambda: second.ask(verifier, signed))


def test_every_limit_has_a_row() -> None:
    """Nothing stands in the table that nobody has seen."""
    assert {limit.name for limit in LIMITS} | {UNREADABLE_ROOT} == {row.limit for row in ROWS}
    assert len({limit.name for limit in LIMITS}) == len(LIMITS)


@pytest.mark.parametrize("root", [lambda: root_of(SIGSTORE, "TSA window ends at signing"), lambda: edited_root(without_tsa_leaf)])
def test_a_promise_makes_up_for_timestamps(root: Callable[[], Root]) -> None:
    """Where the log proves the time, timestamps that the library cannot judge are no reason to pass it over."""
    signed = message(Signing(timestamps=1))
    prove_certificate(signed, root(), BOUNDS, LATER, [])
    assert SecondVerdict().check(signed, root()) == AGREES


# -- what goes wrong ------------------------------------------------------------------------------------------------


class PanicException(BaseException):
    """What Rust code raises under this name when it panics."""


@pytest.mark.parametrize("error", [TypeError("bytes"), RuntimeError(), RecursionError(), PanicException()])
def test_whatever_it_raises_is_a_refusal(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that the library raises escapes, and nothing becomes a yes."""

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(sigstore.verify.Verifier, "verify_artifact", broken)
    with pytest.raises(EvidenceMalformed, match="broke sigstore-python"):
        SecondVerdict().check(message(), root_of(SIGSTORE))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError()])
def test_what_is_not_about_the_signature_goes_on(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """An interrupt is no verdict."""

    def broken(*_: object) -> None:
        raise error

    monkeypatch.setattr(sigstore.verify.Verifier, "verify_artifact", broken)
    with pytest.raises(type(error)):
        SecondVerdict().check(message(), root_of(SIGSTORE))


def test_one_verifier_for_each_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that ask at once share it; the least used goes when there are too many."""
    built: list[str] = []
    really = second.build

    def counted(root: Root) -> sigstore.verify.Verifier | None:
        built.append(root.identity)
        return really(root)

    monkeypatch.setattr(second, "build", counted)
    monkeypatch.setattr(second, "_MOST_ROOTS", 2)
    asked, signed = SecondVerdict(), message()
    roots = [edited_root(partial(_until, year)) for year in (2040, 2041, 2042)]
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: asked.check(signed, roots[0]), range(16))) == {AGREES}
    assert built == [roots[0].identity]
    for root in (roots[1], roots[0], roots[2], roots[0], roots[1]):
        assert asked.check(signed, root) == AGREES
    assert built == [roots[each].identity for each in (0, 1, 2, 1)]


def _until(year: int, document: Any) -> None:
    document["certificateAuthorities"][0]["validFor"]["end"] = f"{year}-01-01T00:00:00Z"


def test_github_is_not_its_business() -> None:
    """A root without logs: the private profile has one verifier, and the step says so."""
    signed = read_bundle(GITHUB.dsse_bundle(statement(IMAGE.digest)))
    prove_certificate(signed, root_of(GITHUB), BOUNDS, LATER, [])
    told = SecondVerdict().check(signed, root_of(GITHUB))
    assert told == "sigstore-python cannot judge this: a bundle without exactly one log entry"
