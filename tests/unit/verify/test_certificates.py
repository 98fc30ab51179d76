"""Signers' certificates: what they say, and who vouches for them at which moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ObjectIdentifier

from proxy.errors import EvidenceMalformed
from proxy.policy.rules import EXTENSIONS
from proxy.verify.certificates import SignerCertificate, verify_chain
from proxy.verify.roots import Demands, Root
from tests.simulator.sigstore import Fault, PrivateSigstore, Signing
from tests.simulator.sigstore.ca import AFTER, BEFORE, CLAIMS
from tests.simulator.sigstore.der import utf8
from tests.unit.verify.pki import BEGIN, END, Party, authority, pem
from tests.unit.verify.reading import GITHUB, SIGSTORE, root_of

SECOND = timedelta(seconds=1)
FULCIO = "1.3.6.1.4.1.57264.1"
NOW = SIGSTORE.now


def leaf(how: Signing | None = None, fault: Fault | None = None, sigstore: PrivateSigstore = SIGSTORE) -> SignerCertificate:
    """A certificate of the private Sigstore."""
    return SignerCertificate.parse(sigstore.leaf(how, fault=fault).der)


def of(party: Party) -> SignerCertificate:
    """A certificate of one's own."""
    return SignerCertificate.parse(party.der)


# -- what a certificate says ----------------------------------------------------------------------------------------


def test_claims_by_name() -> None:
    """Every extension that is a claim about the build has its name, those among them that rules may name."""
    claims = {name: f"the {name}" for name in CLAIMS}
    certificate = leaf(Signing(claims=claims))
    del claims["build_config_digest"]  # which nobody asks for
    assert dict(certificate.claims) == claims
    assert set(EXTENSIONS) <= set(claims)
    assert certificate.issuer == "https://issuer.example.test"
    assert certificate.spki_sha256 == SIGSTORE.signer("p256").fingerprint


@pytest.mark.parametrize(
    ("how", "identity"),
    [
        (Signing(identity="someone@example.test"), "someone@example.test"),
        (Signing(san="uri", identity="https://example.test/a.yml@refs/heads/b"), "https://example.test/a.yml@refs/heads/b"),
        (Signing(san="other name", identity="someone!example.test"), "someone!example.test"),
    ],
    ids=["e-mail", "URI", "user name"],
)
def test_identities(how: Signing, identity: str) -> None:
    """An e-mail address, a URI, or Fulcio's form of user names."""
    assert leaf(how).identities == (identity,)


def test_names_of_machines_are_no_identities() -> None:
    """A DNS name is nobody's word for a signer."""
    names = (x509.DNSName("example.test"), x509.OtherName(ObjectIdentifier("1.2.3"), utf8("x")))
    assert of(Party("signer", names=names)).identities == ()
    assert of(Party("signer", names=())).identities == ()


@pytest.mark.parametrize(
    ("extensions", "issuer"),
    [
        ({1: b"https://a"}, "https://a"),
        ({8: utf8("https://a")}, "https://a"),
        ({1: b"https://a", 8: utf8("https://a")}, "https://a"),
        ({}, None),
    ],
)
def test_the_issuer_in_either_form(extensions: Mapping[int, bytes], issuer: str | None) -> None:
    """Older certificates have the bare text, newer ones both."""
    more = [(f"{FULCIO}.{arc}", value, False) for arc, value in extensions.items()]
    assert of(Party("signer", more=more)).issuer == issuer


@pytest.mark.parametrize(
    ("extensions", "told"),
    [
        ({1: b"https://a", 8: utf8("https://b")}, "two issuers"),
        ({8: b"https://a"}, "issuer"),
        ({8: utf8("https://a") + b"x"}, "something behind it"),
        ({1: b"\xff"}, "issuer is no text"),
        ({12: b"\x13\x01a"}, "source_repository"),
        ({12: utf8("a" * 9000)}, "source_repository has 9004 bytes"),
        ({1: b"a" * 9000}, "issuer has 9000 bytes"),
    ],
)
def test_claims_that_are_none(extensions: Mapping[int, bytes], told: str) -> None:
    """A claim that can be read in two ways, or in none, refuses the certificate."""
    more = [(f"{FULCIO}.{arc}", value, False) for arc, value in extensions.items()]
    with pytest.raises(EvidenceMalformed, match=told):
        of(Party("signer", more=more))


@pytest.mark.parametrize(
    ("der", "told"),
    [
        (b"", "cannot be read"),
        (b"0" * 100, "cannot be read"),
        (b"0" * 70_000, "70000 bytes"),
        (Party("signer", curve=ec.SECP256K1()).der, "a key on the curve secp256k1"),
        (Party("signer", key=rsa.generate_private_key(65537, 1024)).der, "an RSA key of 1024 bits"),
        (Party("signer", names=[x509.RFC822Name(f"{each}@a.test") for each in range(65)]).der, "65 names"),
    ],
)
def test_certificates_that_are_none(der: bytes, told: str) -> None:
    """Whatever the bytes, what comes out is a refusal."""
    with pytest.raises(EvidenceMalformed, match=told):
        SignerCertificate.parse(der)


# -- what it is for -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "party",
    [
        Party("signer"),
        Party("signer", usage=("digital_signature",)),
        Party("signer", key=ed25519.Ed25519PrivateKey.generate()),
        Party("signer", key=rsa.generate_private_key(65537, 2048)),
        Party("signer", curve=ec.SECP521R1(), purposes=("server", "code")),
        Party("signer", more=[(f"{FULCIO}.99", b"", True)]),
    ],
)
def test_certificates_for_code(party: Party) -> None:
    """Of every kind of key that is accepted; what Fulcio may add one day does not matter."""
    of(party).check_purpose()


@pytest.mark.parametrize(
    ("party", "told"),
    [
        (authority("signer", purposes=("code",)), "the certificate of an authority"),
        (Party("signer", usage=("key_encipherment",)), "not for signatures"),
        (Party("signer", purposes=()), "not for signing code"),
        (Party("signer", purposes=("server",)), "not for signing code"),
        (Party("signer", purposes=("any",)), "not for signing code"),
        (Party("signer", more=[("1.2.3.4", b"", True)]), r"critical extension that is not known: 1\.2\.3\.4"),
        (Party("signer", more=[("1.3.6.1.4.1.11129.2.4.3", b"\x05\x00", True)]), "critical extension"),  # a precertificate
    ],
)
def test_certificates_for_something_else(party: Party, told: str) -> None:
    """An authority's, a server's, or one that says something nobody here understands."""
    with pytest.raises(EvidenceMalformed, match=told):
        of(party).check_purpose()


# -- who vouches for it ---------------------------------------------------------------------------------------------


def test_a_chain_to_a_trusted_root() -> None:
    """From the issuer to the root, and until when all of it is believed."""
    root = root_of(SIGSTORE)
    chain = verify_chain(leaf(), (), root, NOW)
    assert chain.issuers == root.authorities[0].chain
    assert chain.until == root.authorities[0].chain[-1].not_valid_after_utc
    assert len(verify_chain(leaf(sigstore=GITHUB), (), root_of(GITHUB), NOW).issuers) == 3


def test_another_root() -> None:
    """Nobody there issued it."""
    with pytest.raises(EvidenceMalformed, match="no authority of root github issued"):
        verify_chain(leaf(), (), root_of(GITHUB), NOW)


@pytest.mark.parametrize(
    ("at", "held"),
    [(NOW - BEFORE - SECOND, False), (NOW - BEFORE, True), (NOW + AFTER, True), (NOW + AFTER + SECOND, False)],
)
def test_the_window_of_a_leaf_is_closed(at: datetime, held: bool) -> None:
    """Both ends belong to it."""
    if held:
        verify_chain(leaf(), (), root_of(SIGSTORE), at)
    else:
        with pytest.raises(EvidenceMalformed, match="does not hold at"):
            verify_chain(leaf(), (), root_of(SIGSTORE), at)


@pytest.mark.parametrize(
    "fault", ["CA expired at signing time", "CA not yet valid at signing time", "CA root expired at signing time"]
)
def test_cve_2026_24122_an_issuer_that_had_expired(fault: Fault) -> None:
    """A leaf within its own window does not help when an authority above it was not within its own."""
    with pytest.raises(EvidenceMalformed, match="does not hold at 2025-06-15 12:00:00 UTC: CN=private"):
        verify_chain(leaf(fault=fault), (), root_of(SIGSTORE, fault), NOW)


@pytest.mark.parametrize("fault", ["CA window ends before", "CA window starts after"])
def test_the_window_of_an_authority(fault: Fault) -> None:
    """The root's own entry may say less than its certificates do."""
    with pytest.raises(EvidenceMalformed, match="which root private does not trust at"):
        verify_chain(leaf(), (), root_of(SIGSTORE, fault), NOW)


@pytest.mark.parametrize("fault", ["CA window ends at signing", "CA window starts at signing"])
def test_the_window_of_an_authority_is_closed(fault: Fault) -> None:
    """Both ends belong to it, and it bounds how long the chain is believed."""
    root = root_of(SIGSTORE, fault)
    chain = verify_chain(leaf(), (), root, NOW)
    assert chain.until == min(root.authorities[0].window.end or chain.until, chain.until)


def test_an_authority_under_two_windows() -> None:
    """The same certificates may be trusted twice, at different times."""
    earlier, later = root_of(SIGSTORE, "CA window ends before"), root_of(SIGSTORE)
    both = Root("both", earlier.authorities + later.authorities, {}, {}, (), Demands(log=False, sct=False), "", b"")
    assert verify_chain(leaf(), (), both, NOW).authority == later.authorities[0]


ROOT = authority("root")
MIDDLE = authority("middle", ROOT, path_length=1)
ISSUER = authority("issuer", MIDDLE, usage=("key_cert_sign",), purposes=("code",))
SIGNER = Party("signer", ISSUER)
AT = BEGIN + timedelta(days=1)


def own(*parties: Party) -> Root:
    """A root of certificates of one's own."""
    return Root.of_ca("legacy", [pem(each) for each in parties], Demands(log=False, sct=False))


@pytest.mark.parametrize(
    ("trusted", "offered"),
    [
        ((ROOT, MIDDLE, ISSUER), ()),
        ((ISSUER,), ()),
        ((ROOT,), (ISSUER, MIDDLE)),
        ((ROOT,), (MIDDLE, ROOT, ISSUER)),
        ((ROOT, MIDDLE), (ISSUER,)),
    ],
    ids=["all are known", "the issuer is known", "offered", "offered in any order", "one offered"],
)
def test_chains_of_ones_own(trusted: Sequence[Party], offered: Sequence[Party]) -> None:
    """Intermediates are known or come along; the root is known in any case."""
    chain = verify_chain(of(SIGNER), [each.der for each in offered], own(*trusted), AT)
    assert chain.issuers[0] == ISSUER.certificate
    assert chain.issuers[-1] == trusted[0].certificate
    assert chain.until == END


def branch(middle: Party, *between: Party) -> tuple[Party, tuple[Party, ...]]:
    """A signer below ``middle``, and what the signature offers."""
    return Party("signer", between[-1] if between else middle), (middle, *between)


NO_CA = Party("no authority", ROOT)
SHORT = authority("short", ROOT, path_length=0)
EXPIRED = authority("expired", ROOT, end=BEGIN + timedelta(hours=1))
FOR_SERVERS = authority("for servers", ROOT, purposes=("server",))
NOT_FOR_CERTIFICATES = authority("no bit", ROOT, usage=("digital_signature",))
WEAK = authority("weak", ROOT, key=rsa.generate_private_key(65537, 1024))
ODD = authority("odd", ROOT, more=[("1.2.3.4", b"", True)])
BOUND = authority("bound", ROOT, name_constraints=True)
STRANGER = authority("stranger")


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (branch(NO_CA), "no authority of root legacy issued|is not a certificate authority"),
        (branch(SHORT, authority("below", SHORT)), "may not have 1 authorities below it"),
        (branch(EXPIRED), "CN=expired is valid"),
        (branch(FOR_SERVERS), "may not vouch for code: CN=for servers"),
        (branch(NOT_FOR_CERTIFICATES), "may not sign certificates"),
        (branch(WEAK), "an RSA key of 1024 bits"),
        (branch(ODD), "critical extension"),
        (branch(BOUND), "name constraints, which are not supported: CN=bound"),
        (branch(STRANGER), "no authority of root legacy issued"),
        ((Party("signer"), ()), "no authority of root legacy issued"),
        ((SIGNER, (ISSUER,)), "no authority of root legacy issued"),
        ((SIGNER, (ISSUER,) * 11), "11 certificates in its chain"),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value[:20],
)
def test_chains_that_do_not_hold(made: tuple[Party, Sequence[Party]], told: str) -> None:
    """What is offered is held to every rule for authorities."""
    signer, offered = made
    with pytest.raises(EvidenceMalformed, match=told):
        verify_chain(of(signer), [each.der for each in offered], own(ROOT), AT)


def test_a_trusted_root_names_its_authorities_itself() -> None:
    """An intermediate that a signature brings along is not looked at, though the root did issue it."""
    root = own(ROOT)
    trusted = Root("private", root.authorities, {}, {}, (), root.demands, "", b"{}")
    with pytest.raises(EvidenceMalformed, match="no authority of root private issued"):
        verify_chain(of(SIGNER), [ISSUER.der, MIDDLE.der], trusted, AT)


def test_an_authority_of_the_same_name() -> None:
    """A name is not a key."""
    with pytest.raises(EvidenceMalformed, match="no authority of root legacy issued"):
        verify_chain(of(Party("signer", authority("root"))), (), own(ROOT), AT)
