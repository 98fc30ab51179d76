"""Managed keys: what is read, what is refused and how, which signatures hold, and when a key is believed."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from hypothesis import given
from hypothesis import strategies as st

from proxy.verify.trust import Key, outside_window
from tests.simulator.signing import KEY_KINDS, KeyKind, Signer
from tests.unit.verify.evidence import key

START, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 6, 30, 23, 59, 59, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def pem(public: PublicKeyTypes) -> bytes:
    """As a key file."""
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_a_key_verifies_what_it_signed_and_nothing_else(kind: KeyKind) -> None:
    """Each supported type of key accepts its own signature and no other key's, over the signed message only."""
    signer = Signer.of(kind)
    own = key(signer)
    signature = signer.sign(b"message")
    assert own.verify(signature, b"message")
    assert not own.verify(signature, b"massage")
    assert not own.verify(Signer.of(kind, "stranger").sign(b"message"), b"message")
    assert not own.verify(b"", b"message")


@pytest.mark.parametrize(
    ("kind", "digest", "accepted"),
    [
        ("p256", "sha256", True),
        ("p256", "sha384", False),
        ("p384", "sha256", True),
        ("p384", "sha384", True),
        ("p384", "sha512", False),
        ("p521", "sha256", True),
        ("p521", "sha512", True),
        ("p521", "sha384", False),
        ("rsa2048", "sha256", True),
        ("rsa2048", "sha512", False),
    ],
)
def test_hashes(kind: KeyKind, digest: str, accepted: bool) -> None:
    """SHA-256 holds for every type; beyond it only the hash that belongs to the curve."""
    signer = Signer.of(kind)
    assert key(signer).verify(signer.sign(b"message", digest), b"message") is accepted  # type: ignore[arg-type]  # a table of names


def test_rsa_pss_is_not_accepted() -> None:
    """cosign signs with PKCS#1 v1.5; another padding is another scheme."""
    signer = Signer.of("rsa2048")
    assert isinstance(signer.private, rsa.RSAPrivateKey)
    pss = signer.private.sign(b"message", padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256())
    assert not key(signer).verify(pss, b"message")


@given(signature=st.binary(max_size=600), message=st.binary(max_size=100), kind=st.sampled_from(KEY_KINDS))
def test_arbitrary_signatures_are_just_not_ours(signature: bytes, message: bytes, kind: KeyKind) -> None:
    """No bytes make a key raise, and none that it did not sign are accepted."""
    assert key(Signer.of(kind)).verify(signature, message) is False


@pytest.mark.parametrize("kind", KEY_KINDS)
def test_names_of_a_key(kind: KeyKind) -> None:
    """Fingerprint and hint are the SHA-256 of the SubjectPublicKeyInfo, in hex and in base64."""
    signer = Signer.of(kind)
    loaded = key(signer)
    assert loaded.name == signer.name
    assert loaded.fingerprint == hashlib.sha256(signer.spki).hexdigest() == signer.fingerprint


def test_pkcs1_public_keys_are_read() -> None:
    """A key in the older RSA form is the same key."""
    private = Signer.of("rsa2048").private
    old = private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.PKCS1)
    assert b"BEGIN RSA PUBLIC KEY" in old
    assert Key.load("old", old).fingerprint == Signer.of("rsa2048").fingerprint


def test_text_around_the_key_is_tolerated() -> None:
    """Comments and other line ends do not make another key of it."""
    signer = Signer.of("p256")
    assert key(signer) == Key.load(signer.name, b"# release key\r\n" + signer.public_pem.replace(b"\n", b"\r\n"))


def test_identity_changes_with_key_and_window_only() -> None:
    """The identity, on which verdicts hang, tells keys and windows apart, but neither names nor spellings of a time."""
    signer, other = Signer.of("p256"), Signer.of("p256", "other")
    same = [key(signer), Key.load("renamed", signer.public_pem)]
    assert len({each.identity for each in same}) == 1
    windows = [(None, None), (START, None), (None, START), (START, END)]
    assert len({key(signer, *window).identity for window in windows} | {key(other).identity}) == 5
    elsewhere = START.astimezone(timezone(timedelta(hours=9)))
    assert key(signer, START).identity == key(signer, elsewhere).identity


PRIVATE = Signer.of("p256").private.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)
P256 = Signer.of("p256").public_pem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (PRIVATE, "this is a private key"),
        (P256 + PRIVATE, "this is a private key"),
        (b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "private key"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "this is a certificate"),
        (b"-----BEGIN PGP PUBLIC KEY BLOCK-----\nAAAA\n", 'PEM "PGP PUBLIC KEY BLOCK"'),
        (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA someone@example", "no PEM public key"),
        (Signer.of("p256").spki, "no PEM public key"),
        (b"", "no PEM public key"),
        (P256 * 2, "2 PEM blocks"),
        (b"x" * 70_000, "70000 bytes"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "cannot be read"),
        (P256.replace(b"-----END", b"----END"), "cannot be read"),
        (pem(ec.generate_private_key(ec.SECP256K1()).public_key()), "curve secp256k1"),
        (pem(rsa.generate_private_key(65537, 1024).public_key()), "1024 bits"),
        (pem(x25519.X25519PrivateKey.generate().public_key()), "a key of another kind"),
        (pem(dsa.generate_private_key(1024).public_key()), "a key of another kind"),
    ],
)
def test_what_is_no_usable_public_key_is_refused_with_words(text: bytes, words: str) -> None:
    """Every mistake in a key file is named for the person who made it."""
    with pytest.raises(ValueError, match=r"^(this|there)") as caught:
        Key.load("release", text)
    assert words in str(caught.value)


@given(
    st.binary(max_size=300)
    | st.binary(max_size=200).map(lambda body: b"-----BEGIN PUBLIC KEY-----\n%b\n-----END PUBLIC KEY-----" % body)
)
def test_arbitrary_files_raise_nothing_but_value_error(text: bytes) -> None:
    """Whatever a key file holds, the answer is a key or a ValueError."""
    with pytest.raises(ValueError):
        Key.load("release", text)


def test_windows_are_checked_at_load() -> None:
    """A window that ends before it begins, or whose times are ambiguous, is a mistake."""
    with pytest.raises(ValueError, match=r"ends .* before it begins"):
        key(valid_from=END, valid_until=START)
    with pytest.raises(ValueError, match="time zone"):
        key(valid_from=datetime(2026, 1, 1))  # noqa: DTZ001 (naive on purpose)


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (START - SECOND, "key release is valid from 2026-01-01 00:00:00 UTC only"),
        (START, None),
        (END, None),
        (END + SECOND, "key release was valid until 2026-06-30 23:59:59 UTC"),
    ],
)
def test_the_window_is_closed(now: datetime, words: str | None) -> None:
    """Both ends belong to the window; a second beyond either does not, and the words say which end."""
    assert outside_window(key(valid_from=START, valid_until=END), now) == words


def test_without_a_window_a_key_is_always_believed() -> None:
    """No window, no end."""
    assert outside_window(key(), datetime.min.replace(tzinfo=UTC)) is None
    assert outside_window(key(), datetime.max.replace(tzinfo=UTC)) is None
