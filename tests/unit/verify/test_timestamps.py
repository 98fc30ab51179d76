"""Timestamps: what proves a time, and each thing that keeps it from doing so."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.errors import EvidenceMalformed
from proxy.verify import der as reader
from proxy.verify.chains import foreign
from proxy.verify.roots import Authority, Window
from proxy.verify.timestamps import Timestamp, verify_timestamp
from tests.simulator.signing import Signer
from tests.simulator.sigstore import der
from tests.simulator.sigstore.ca import key_usage
from tests.simulator.sigstore.faults import TimestampFault
from tests.simulator.sigstore.tsa import TimestampAuthority

AT = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
STAMPED = b"a signature"
TSA = TimestampAuthority("stamps")
ROOT = Authority(TSA.chain(AT)[1:], Window(), "https://tsa.test")
#: With the leaf first, as trusted roots list it.
PINNED = Authority(TSA.chain(AT), Window(), "https://tsa.test")


def judged(token: bytes, *authorities: Authority, stamped: bytes = STAMPED) -> Timestamp:
    """By the usual root, unless others are given."""
    return verify_timestamp(token, stamped, authorities or (ROOT,))


def refused(token: bytes, words: str, *authorities: Authority, stamped: bytes = STAMPED) -> None:
    """It is refused with these words, fit for a header."""
    with pytest.raises(EvidenceMalformed, match=words) as caught:
        judged(token, *authorities, stamped=stamped)
    assert str(caught.value).isascii()
    assert len(str(caught.value)) < 1000


# -- what passes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authority", [ROOT, PINNED], ids=["root", "pinned leaf"])
@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_a_timestamp_proves_its_time(algorithm: Literal["sha256", "sha384", "sha512"], bare: bool, authority: Authority) -> None:
    """A response and a bare token, by each hash: time, accuracy, authority and chain are told."""
    stamp = TSA.token if bare else TSA.response
    token = stamp(STAMPED, AT, algorithm=algorithm, accuracy=timedelta(seconds=2, milliseconds=5))
    assert judged(token, authority) == Timestamp(AT, timedelta(seconds=2, milliseconds=5), authority, TSA.chain(AT))


def test_fractions_of_a_second_are_kept() -> None:
    """They decide at the edge of a window."""
    moment = AT.replace(microsecond=250_000)
    assert judged(TSA.token(STAMPED, moment)).time == moment
    closing = Authority(ROOT.chain, Window(None, AT))
    refused(TSA.token(STAMPED, moment), "outside the time in which its authority is trusted", closing)
    assert judged(TSA.token(STAMPED, AT), closing).time == AT


def test_a_token_without_certificates_needs_a_pinned_leaf() -> None:
    """Sigstore's trusted roots name it."""
    token = TSA.response(STAMPED, AT, certificates=False)
    assert judged(token, PINNED).time == AT
    refused(token, "its certificate is not there")


def test_granted_with_modifications_is_granted() -> None:
    """RFC 3161, section 2.4.2: such a response holds a token, too."""
    status = der.sequence(der.integer(1), der.sequence(der.utf8("otherwise")))
    assert judged(der.sequence(status, TSA.token(STAMPED, AT))).time == AT


def test_certificates_in_any_order_pass() -> None:
    """Real authorities write that set, which nobody signs, in an order that is not DER's."""
    token = TSA.token(STAMPED, AT)
    first, second = sorted(each.public_bytes(serialization.Encoding.DER) for each in TSA.chain(AT))
    assert first + second in token
    swapped = token.replace(first + second, second + first)
    assert swapped != token
    assert judged(swapped).time == AT


def test_windows_are_closed() -> None:
    """Of the authority, and of its certificates, whatever the library makes of the last second."""
    for window in (Window(AT, None), Window(None, AT), Window(AT, AT)):
        assert judged(TSA.token(STAMPED, AT), Authority(ROOT.chain, window)).time == AT
    for window in (Window(AT + SECOND, None), Window(None, AT - SECOND)):
        refused(TSA.token(STAMPED, AT), "outside the time in which its authority", Authority(ROOT.chain, window))
    begins, ends = TSA.chain(AT)[0].not_valid_before_utc, TSA.chain(AT)[0].not_valid_after_utc
    assert judged(TSA.token(STAMPED, begins)).time == begins
    assert judged(TSA.token(STAMPED, ends)).time == ends
    refused(TSA.token(STAMPED, begins - SECOND), "does not hold at the time of its timestamp")
    refused(TSA.token(STAMPED, ends + SECOND), "does not hold at the time of its timestamp")
    last = TSA.token(STAMPED, ends)
    refused(last[:-1] + bytes([last[-1] ^ 1]), "a timestamp whose signature does not hold")


def test_one_of_several_authorities_suffices() -> None:
    """It is the one that is told; of refusals, the one with most to say."""
    other = Authority(TimestampAuthority("other").chain(AT)[1:], Window())
    assert judged(TSA.token(STAMPED, AT), other, ROOT).authority is ROOT
    closed = Authority(ROOT.chain, Window(None, AT - SECOND))
    refused(TSA.token(STAMPED, AT), "outside the time in which", other, closed)
    refused(TSA.token(STAMPED, AT), "not trusted", other)


# -- what does not --------------------------------------------------------------------------------------------------

FAULTS: dict[TimestampFault, str] = {
    "timestamp over other bytes": "over something else",
    "timestamp by another TSA": "an authority that is not trusted",
    "timestamp broken": "a timestamp whose signature does not hold",
    "timestamp altered": "a timestamp whose signature does not hold",
    "timestamp rejected": "was not granted",
    "timestamp without a certificate id": "does not name its certificate",
    "TSA leaf without EKU": "not for timestamps alone",
    "TSA leaf EKU not critical": "not for timestamps alone",
    "TSA leaf expired": "does not hold at the time of its timestamp",
    "TSA leaf by another CA": "an authority that is not trusted",
}


@pytest.mark.parametrize(("fault", "words"), FAULTS.items())
def test_a_faulty_timestamp_is_refused(fault: TimestampFault, words: str) -> None:
    """Each for its own reason."""
    refused(TSA.response(STAMPED, AT, fault=fault), words)


@pytest.mark.parametrize("fault", ["TSA leaf without EKU", "TSA leaf EKU not critical", "TSA leaf expired"])
def test_a_faulty_leaf_is_refused_where_the_root_lists_it(fault: TimestampFault) -> None:
    """A trusted root does not make a certificate what it is not."""
    listed = Authority(TSA.chain(AT, fault), Window())
    refused(TSA.response(STAMPED, AT, fault=fault), FAULTS[fault], listed)


def test_a_pinned_leaf_is_the_only_one() -> None:
    """Another leaf by the same root is another authority."""
    _, root = TSA.chain(AT)
    other_leaf = TSA.chain(AT, "TSA leaf expired")[0]
    refused(TSA.token(STAMPED, AT), "not trusted", Authority((other_leaf, root), Window()))


def test_no_authority_no_timestamp() -> None:
    """Nor one without certificates."""
    with pytest.raises(EvidenceMalformed, match="no timestamp authority is trusted here"):
        verify_timestamp(TSA.token(STAMPED, AT), STAMPED, ())
    refused(TSA.token(STAMPED, AT), "the authority has no certificates", Authority((), Window()))


@pytest.mark.parametrize(
    ("token", "words"),
    [
        (b"", "not DER"),
        (b"0\x80\0\0", "not DER"),
        (b"0\x81\x01\0", "not DER"),
        (b"0\x82\0\x01\0", "not DER"),
        (b"\x1f\x01\0", "not DER"),
        (b"0\x03\x02\x01\x00\x00", "something behind it"),
        (b"0\x05\x02\x01\x00", "ends too early"),
        (b"1\x03\x02\x01\x00", "not the DER that it should be"),
        (b"0\x03\x02\x01\x00", "not the DER that it should be"),
        (b"0\x00", "too few parts"),
        (der.sequence(*[der.integer(1)] * 5), "too many parts"),
        (der.sequence(der.sequence(der.integer(0))), "without a token"),
        (der.sequence(der.sequence(der.octets(b"\0")), der.sequence(der.integer(1))), "was not granted"),
        (der.sequence(der.oid("1.2.840.113549.1.7.1"), der.explicit(0, der.sequence(der.integer(1)))), "no CMS signed data"),
        (der.sequence(der.oid("1.2.840.113549.1.7.2"), der.explicit(0, der.sequence(der.integer(1)))), "no CMS signed data"),
        (b"0" * (64 << 10) + b"0", "the limit is 65536"),
    ],
)
def test_what_is_no_token(token: bytes, words: str) -> None:
    """Neither lengths nor types are guessed."""
    refused(token, words)


# -- tokens that are put together by hand ---------------------------------------------------------------------------


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@lru_cache
def certificate(role: str, by: str, *, ca: bool, pathlen: int | None = None) -> x509.Certificate:
    """A certificate of some chain of timestamps."""
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.TIME_STAMPING])
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(role))
        .issuer_name(_name(by))
        .public_key(Signer.of("p256", f"tsa {role}").private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(AT - timedelta(days=1))
        .not_valid_after(AT + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca, pathlen), critical=True)
        .add_extension(key_usage("key_cert_sign" if ca else "digital_signature"), critical=True)
    )
    builder = builder if ca else builder.add_extension(purposes, critical=True)
    return builder.sign(Signer.of("p256", f"tsa {by}").private, hashes.SHA256())


def token_by(
    leaf: x509.Certificate,
    role: str,
    *others: x509.Certificate,
    named: bytes | None = None,
    policy: str = "0.4.0.2023.1.1",
    signers: int = 1,
    content: str = "1.2.840.113549.1.9.16.1.4",
    imprint: tuple[str, bytes] = ("2.16.840.1.101.3.4.2.1", hashlib.sha256(STAMPED).digest()),
    time: bytes | None = None,
) -> bytes:
    """A token by this leaf; ``named`` is the value of the attribute ``signingCertificate``, of whatever version."""
    encoded = leaf.public_bytes(serialization.Encoding.DER)
    sha256 = der.sequence(der.oid("2.16.840.1.101.3.4.2.1"))
    stamp = der.sequence(der.sequence(der.oid(imprint[0])), der.octets(imprint[1]))
    info = der.sequence(der.integer(1), der.oid(policy), stamp, der.integer(7), time or der.generalized_time(AT))
    if named is None:
        named = v2(hashlib.sha256(encoded).digest())
    attributes = [
        der.sequence(der.oid("1.2.840.113549.1.9.3"), der.set_of(der.oid(content))),
        der.sequence(der.oid("1.2.840.113549.1.9.4"), der.set_of(der.octets(hashlib.sha256(info).digest()))),
        *([named] if named else []),
    ]
    signature = Signer.of("p256", f"tsa {role}").sign(der.set_of(*attributes))
    identifier = der.sequence(leaf.issuer.public_bytes(), der.integer(leaf.serial_number))
    ecdsa = der.sequence(der.oid("1.2.840.10045.4.3.2"))
    signed = der.explicit(0, *sorted(attributes))
    signer = der.sequence(der.integer(1), identifier, sha256, signed, ecdsa, der.octets(signature))
    certificates = sorted([encoded, *(each.public_bytes(serialization.Encoding.DER) for each in others)])
    data = der.sequence(
        der.integer(3),
        der.set_of(sha256),
        der.sequence(der.oid(content), der.explicit(0, der.octets(info))),
        der.explicit(0, *certificates),
        der.set_of(*[signer] * signers),
    )
    return der.sequence(der.oid("1.2.840.113549.1.7.2"), der.explicit(0, data))


def v1(*digests: bytes) -> bytes:
    """The attribute of RFC 2634."""
    named = der.sequence(*(der.sequence(der.octets(digest)) for digest in digests))
    return der.sequence(der.oid("1.2.840.113549.1.9.16.2.12"), der.set_of(der.sequence(named)))


def v2(digest: bytes, algorithm: str | None = None) -> bytes:
    """The attribute of RFC 5035."""
    hashed = der.sequence(der.oid(algorithm)) if algorithm else b""
    named = der.sequence(der.sequence(der.sequence(hashed, der.octets(digest))))
    return der.sequence(der.oid("1.2.840.113549.1.9.16.2.47"), der.set_of(named))


BASE = certificate("base", "base", ca=True)
MIDDLE = certificate("middle", "base", ca=True, pathlen=0)
LEAF = certificate("leaf", "middle", ca=False)
CHAIN = Authority((BASE,), Window())
ENCODED = LEAF.public_bytes(serialization.Encoding.DER)


def test_intermediates_come_with_the_token_or_with_the_authority() -> None:
    """Either way the chain is whole; without them it is not."""
    assert judged(token_by(LEAF, "leaf", MIDDLE), CHAIN).time == AT
    assert judged(token_by(LEAF, "leaf", MIDDLE, BASE), CHAIN).time == AT
    assert judged(token_by(LEAF, "leaf"), Authority((MIDDLE, BASE), Window())).time == AT
    refused(token_by(LEAF, "leaf"), "not trusted: CN=leaf", CHAIN)


def test_an_authority_that_starts_below_the_root_is_that_one_alone() -> None:
    """A sibling by the same root is not it."""
    sibling = certificate("sibling", "base", ca=True)
    refused(token_by(LEAF, "leaf", MIDDLE), "not trusted", Authority((sibling, BASE), Window()))


def test_path_lengths_count() -> None:
    """No authority below one that may have none."""
    below = certificate("below", "middle", ca=True)
    leaf = certificate("deep", "below", ca=False)
    refused(token_by(leaf, "deep", below, MIDDLE), "may not have 1 authorities below it", CHAIN)


def test_a_leaf_issues_nothing() -> None:
    """A certificate that is no authority is no link of a chain."""
    leaf = certificate("bastard", "leaf", ca=False)
    refused(token_by(leaf, "bastard", LEAF, MIDDLE), "CN=leaf is not a certificate authority", CHAIN)


@pytest.mark.parametrize(
    "named",
    [
        v1(hashlib.sha1(ENCODED).digest()),
        v2(hashlib.sha512(ENCODED).digest(), "2.16.840.1.101.3.4.2.3"),
        v1(hashlib.sha1(ENCODED).digest(), b"x" * 20),
    ],
    ids=["v1", "v2 by SHA-512", "v1 of several"],
)
def test_the_certificate_may_be_named_in_each_form(named: bytes) -> None:
    """By SHA-1, which is all that the older attribute has, or by another hash."""
    assert judged(token_by(LEAF, "leaf", MIDDLE, named=named), CHAIN).time == AT


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (v1(b"x" * 20), "signed for another certificate than it shows"),
        (v2(b"x" * 32), "signed for another certificate than it shows"),
        (v2(b"x" * 16, "1.2.840.113549.2.5"), "named by an unknown hash"),
        (b"", "does not name its certificate"),
    ],
)
def test_the_certificate_must_be_the_named_one(named: bytes, words: str) -> None:
    """The identifier beside the signature is not signed; this attribute is."""
    refused(token_by(LEAF, "leaf", MIDDLE, named=named), words, CHAIN)


def test_accuracy_that_is_not_told() -> None:
    """One second under the baseline policy of RFC 3628, else none."""
    assert judged(token_by(LEAF, "leaf", MIDDLE), CHAIN).accuracy == SECOND
    assert judged(token_by(LEAF, "leaf", MIDDLE, policy="1.2.3.4"), CHAIN).accuracy == timedelta(0)


@pytest.mark.parametrize("accuracy", [timedelta(days=1, seconds=1), timedelta(days=999_999_999)])
def test_accuracy_that_proves_nothing(accuracy: timedelta) -> None:
    """More than a day is no time at all."""
    refused(TSA.token(STAMPED, AT, accuracy=accuracy), "only accurate to")


def test_the_signature_of_an_anchor_is_nobodys_business() -> None:
    """An anchor is trusted for its key; old roots signed themselves with SHA-1, which is no longer looked at."""
    encoded = BASE.public_bytes(serialization.Encoding.DER)
    anchor = x509.load_der_x509_certificate(encoded[:-1] + bytes([encoded[-1] ^ 1]))
    assert judged(token_by(LEAF, "leaf", MIDDLE), Authority((anchor,), Window())).time == AT


def test_two_signers_are_one_too_many() -> None:
    """It would not be clear whose word it is."""
    refused(token_by(LEAF, "leaf", MIDDLE, signers=2), "2 signers; one is expected", CHAIN)


def test_something_else_that_was_signed_is_no_time() -> None:
    """The content's type is looked at, and so is the hash of the imprint."""
    refused(token_by(LEAF, "leaf", MIDDLE, content="1.2.840.113549.1.7.1"), "signs something else than a time", CHAIN)
    sha1 = ("1.3.14.3.2.26", hashlib.sha1(STAMPED).digest())
    refused(token_by(LEAF, "leaf", MIDDLE, imprint=sha1), "another hash than SHA-256", CHAIN)


@pytest.mark.parametrize("time", [der.tlv(0x18, b"20260601120000+0000"), der.tlv(0x18, b"20260601120000.Z"), der.integer(1)])
def test_a_time_of_another_form(time: bytes) -> None:
    """RFC 3161 knows one form."""
    refused(token_by(LEAF, "leaf", MIDDLE, time=time), "time", CHAIN)


# -- whatever the bytes ---------------------------------------------------------------------------------------------

GOOD = TSA.response(STAMPED, AT, accuracy=SECOND)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_judged(token: bytes) -> None:
    """Nothing but the one exception comes out."""
    with pytest.raises(EvidenceMalformed):
        judged(token)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_change_is_judged(data: st.DataObject) -> None:
    """Mutated tokens are refused, or tell the same time: only what is not signed may differ."""
    body = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(body) - 1))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    with suppress(EvidenceMalformed):
        assert judged(bytes(body)) == Timestamp(AT, SECOND, ROOT, TSA.chain(AT))


@given(st.binary(max_size=40))
def test_der_is_read_in_one_form_only(data: bytes) -> None:
    """What is read is what would be written."""
    with suppress(EvidenceMalformed):
        node = reader.only(data, reader.SEQUENCE, "x")
        assert reader.encode(node.tag, node.content) == data


@pytest.mark.parametrize("oid", ["1.2.840.113549.1.9.16.1.4", "2.16.840.1.101.3.4.2.1", "0.4.0.2023.1.1", "2.999.1"])
def test_object_identifiers(oid: str) -> None:
    """As they are written with dots."""
    first, second, *rest = map(int, oid.split("."))
    encoded = der.oid(oid) if first < 2 or second < 40 else b"\x06\x03\x88\x37\x01"
    assert reader.only(encoded, reader.OID, "x").oid() == oid
    assert reader.only(b"\x06\0", reader.OID, "x").oid() == ""
    assert rest


def test_a_library_that_panics_is_caught() -> None:
    """A panic in Rust is no Exception; what ends the process still does."""
    panic = type("PanicException", (BaseException,), {})
    with pytest.raises(EvidenceMalformed, match="the library broke on it"), foreign("a thing"):
        raise panic
    with pytest.raises(KeyboardInterrupt), foreign("a thing"):
        raise KeyboardInterrupt
    with pytest.raises(MemoryError), foreign("a thing"):
        raise MemoryError
