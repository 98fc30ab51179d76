"""Certificate transparency timestamps inside certificates."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509

from proxy.errors import EvidenceMalformed
from proxy.verify.certificates import SignerCertificate, verify_chain
from proxy.verify.roots import Demands, public_good
from proxy.verify.roots import Root as TrustRoot
from proxy.verify.sct import verify_scts
from tests.simulator.sigstore import Fault
from tests.simulator.sigstore.der import octets
from tests.unit.verify.pki import Party
from tests.unit.verify.reading import SIGSTORE, root_of


def seen(fault: Fault | None = None) -> tuple[datetime, ...]:
    """When the logs of the root saw a certificate."""
    root = root_of(SIGSTORE, fault)
    leaf = SignerCertificate.parse(SIGSTORE.leaf(fault=fault).der)
    chain = verify_chain(leaf, (), root, SIGSTORE.now)
    return verify_scts(leaf.certificate, chain.issuers[0], root)


@pytest.mark.parametrize("fault", [None, "CT window ends at signing", "CT window starts at signing"])
def test_a_promise_that_holds(fault: Fault | None) -> None:
    """Its time is the log's word; the log's window is closed."""
    assert seen(fault) == (SIGSTORE.now,)


@pytest.mark.parametrize("fault", ["SCT missing", "SCT by another log"])
def test_no_promise_by_a_log_that_is_known(fault: Fault) -> None:
    """Whether that is enough, the root's demands say."""
    assert seen(fault) == ()


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("SCT broken", "did not sign"),
        ("SCT of another certificate", "did not sign"),
        ("CT window ends before", "when root private did not trust its log"),
        ("CT window starts after", "when root private did not trust its log"),
    ],
)
def test_promises_that_do_not_hold(fault: Fault, told: str) -> None:
    """One by a log that is known must hold, and the log must have been trusted then."""
    with pytest.raises(EvidenceMalformed, match=told):
        seen(fault)


def test_a_promise_for_another_issuer() -> None:
    """The log saw the certificate as one of its real issuer."""
    root = root_of(SIGSTORE)
    leaf = x509.load_der_x509_certificate(SIGSTORE.leaf().der)
    with pytest.raises(EvidenceMalformed, match="did not sign"):
        verify_scts(leaf, root.authorities[0].chain[-1], root)


def test_lists_that_are_none() -> None:
    """Bytes that are no list of promises refuse the certificate, when it is read or here."""
    party = Party("signer", more=[("1.3.6.1.4.1.11129.2.4.2", b"\x04\x04\x00\x09\x00\x00", False)])
    with pytest.raises(EvidenceMalformed):
        verify_scts(SignerCertificate.parse(party.der).certificate, party.certificate, root_of(SIGSTORE))


def test_the_public_good_root_names_logs() -> None:
    """Each by the hash of its key, with the window in which it was used."""
    root = TrustRoot.load("sigstore", public_good(), Demands())
    assert all(log.spki_sha256 == name for name, log in root.ct_logs.items())
    assert all(log.window.holds(datetime(2022, 10, 25, tzinfo=UTC)) for log in root.ct_logs.values())


def test_promises_are_bounded() -> None:
    """A certificate with very many of them is not worth the work."""
    one = b"\x00" + b"0" * 32 + b"0" * 8 + b"\x00\x00" + b"\x04\x03\x00\x01x"
    promises = (len(one).to_bytes(2, "big") + one) * 33
    listed = octets(len(promises).to_bytes(2, "big") + promises)
    party = Party("signer", more=[("1.3.6.1.4.1.11129.2.4.2", listed, False)])
    with pytest.raises(EvidenceMalformed, match="33 certificate timestamps; the limit is 32"):
        verify_scts(party.certificate, party.certificate, root_of(SIGSTORE))
