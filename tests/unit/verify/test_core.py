"""The verification core: what is demanded, what proves a time, and what each step says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from cryptography import x509

from proxy.errors import EvidenceMalformed
from proxy.settings import Limits
from proxy.verify.core import Proof, Signed, prove_certificate, prove_times
from proxy.verify.roots import Demands, Root
from proxy.verify.tlog import LogEntry
from tests.simulator.signing import Signer
from tests.simulator.sigstore import Fault, PrivateSigstore, Signing
from tests.simulator.sigstore.ca import AFTER
from tests.simulator.sigstore.cases import IMAGE
from tests.simulator.sigstore.rekor import Deed
from tests.unit.verify.pki import Party, authority, pem
from tests.unit.verify.reading import GITHUB, SIGSTORE, read_bundle, read_cosign, root_of

LIMITS = Limits()
SECOND = timedelta(seconds=1)
NOW = SIGSTORE.now
LATER = NOW + timedelta(days=400)
MESSAGE = b"a manifest"
NOTHING = Demands(log=False, sct=False)
MANAGED = Signer.of("p256", "release")
ANOTHER = PrivateSigstore("another")


def message(how: Signing | None = None, fault: Fault | None = None, sigstore: PrivateSigstore = SIGSTORE) -> Signed:
    """A signature over :data:`MESSAGE`."""
    return read_bundle(sigstore.message_bundle(MESSAGE, how, fault=fault), MESSAGE)


def prove(signed: Signed, root: Root | None = None, now: datetime = LATER) -> tuple[Proof, list[str]]:
    """The proof, and what the steps saw."""
    steps: list[str] = []
    return prove_certificate(signed, root or root_of(SIGSTORE), LIMITS, now, steps), steps


def refused(signed: Signed, told: str, root: Root | None = None, now: datetime = LATER) -> list[str]:
    """What the steps saw of a signature that is refused with these words."""
    steps: list[str] = []
    with pytest.raises(EvidenceMalformed, match=told):
        prove_certificate(signed, root or root_of(SIGSTORE), LIMITS, now, steps)
    return steps


# -- what is proven -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        Signing(),
        Signing(rekor=2),
        Signing(timestamps=2),
        Signing(key="ed25519"),
        Signing(key="rsa3072"),
        Signing(key="p384"),
        Signing(key="p384", native_hash=True),
        Signing(key="p521", native_hash=True),
        Signing(key="p384", native_hash=True, rekor=2),
        Signing(san="uri", identity="https://example.test/workflow.yml@refs/tags/v1"),
    ],
    ids=lambda how: f"{how.key}-{how.hashed}-rekor{how.rekor}-{how.san}",
)
def test_proven(how: Signing) -> None:
    """Both logs, every kind of key; years later, since a time is proven."""
    proof, steps = prove(message(how))
    assert proof.times == (NOW,)
    assert proof.valid_until is None
    assert proof.certificate is not None
    assert proof.certificate.identities == (how.identity,)
    assert steps[0].startswith(f"certificate of {how.identity}, issuer https://issuer.example.test, valid from 2025-06-15 11:58")
    assert steps[-1] == "the signature holds by the key of the certificate"


def test_each_step_says_what_it_saw() -> None:
    """One line for each, in order."""
    _, steps = prove(message(Signing(timestamps=1)))
    assert [line.split()[0] for line in steps] == ["certificate", "log", "timestamp", "root", "the", "the"]
    assert "as entry 25580 (hashedrekord 0.0.1) since 2025-06-15 12:00:00 UTC" in steps[1]


def test_a_later_failure_keeps_the_earlier_lines() -> None:
    """Who asks why gets to see how far it went."""
    steps = refused(message(fault="signature broken"), "not made with the key of its certificate")
    assert len(steps) == 4


def test_times_of_log_and_timestamp_must_both_suit() -> None:
    """A second witness of the time is one more that must agree."""
    signed = message(Signing(timestamps=1))
    stamp = SIGSTORE.timestamp_authority.response(signed.signature, NOW + AFTER)
    proof, _ = prove(replace(signed, timestamps=(stamp,)))
    assert proof.times == (NOW, NOW + AFTER)
    stamp = SIGSTORE.timestamp_authority.response(signed.signature, NOW + AFTER + SECOND)
    refused(replace(signed, timestamps=(stamp,)), "does not hold at 2025-06-15 12:08:01")


def test_a_bare_key() -> None:
    """There is nobody whom a root could vouch for."""
    refused(message(Signing(managed=MANAGED)), "made with a bare key")


def test_nobody() -> None:
    """Nor in a certificate without a name."""
    refused(message(fault="no SAN"), "names nobody")


# -- what is demanded -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "demands", "told"),
    [
        ("no log entry", Demands(), "no entry in a transparency log of root private, which is required"),
        ("log entry of another log", Demands(), "no entry in a transparency log"),
        ("no timestamp", Demands(log=False, timestamp=True), "no timestamp by an authority of root private, which is required"),
        ("SCT missing", Demands(), "no certificate transparency log of root private has seen"),
        ("SCT by another log", Demands(), "no certificate transparency log of root private has seen"),
    ],
)
def test_what_the_root_demands(fault: Fault, demands: Demands, told: str) -> None:
    """The root says what must be there; without the demand the same evidence passes."""
    how = Signing(timestamps=1)
    refused(message(how, fault), told, root_of(SIGSTORE, demands=demands))
    prove(message(how, fault), root_of(SIGSTORE, demands=NOTHING))


def test_what_is_there_must_hold_though_nobody_demands_it() -> None:
    """A broken entry, a broken promise: evidence that lies is no evidence."""
    root = root_of(SIGSTORE, demands=NOTHING)
    refused(message(fault="SET broken"), "did not sign", root)
    refused(message(fault="SCT broken"), "did not sign", root)
    refused(message(Signing(rekor=2), "checkpoint broken"), "did not sign", root)
    refused(message(Signing(rekor=None), "timestamp broken"), "timestamp", root)


def test_logs_that_the_root_does_not_know_say_nothing() -> None:
    """An entry of another instance's log is passed over, and said to be."""
    signed = message(Signing(rekor=None))
    strange = replace(signed, entries=message(sigstore=ANOTHER).entries)
    _, steps = prove(strange, root_of(SIGSTORE, demands=NOTHING))
    assert f"log entry 25580 is of log {ANOTHER.rekor_v1.log_id.hex()[:16]}, which root private does not know" in steps
    refused(strange, "no entry in a transparency log")


def test_an_entry_of_each_log() -> None:
    """Two logs may have it, and each entry must be about it."""
    signed = message(Signing(timestamps=1))
    leaf = SIGSTORE.leaf(Signing(claims={"run": "another"})).certificate
    foreign = SIGSTORE.rekor_v2.enter(Deed(signed.signature, MESSAGE, leaf), "hashedrekord 0.0.2", NOW)
    refused(replace(signed, entries=(*signed.entries, LogEntry.of_bundle(foreign.of_bundle()))), "about another signer")
    leaf = x509.load_der_x509_certificate(signed.chain[0])
    own = SIGSTORE.rekor_v2.enter(Deed(signed.signature, MESSAGE, leaf), "hashedrekord 0.0.2", NOW)
    _, steps = prove(replace(signed, entries=(*signed.entries, LogEntry.of_bundle(own.of_bundle()))))
    assert sum(line.startswith("log ") for line in steps) == 2


# -- which time -----------------------------------------------------------------------------------------------------


def test_promise_43_without_a_proven_time_the_certificate_must_be_valid_now() -> None:
    """An unsigned time does not help: the proof leans on the present, and ends with the certificate."""
    signed = message(fault="SET missing")
    assert signed.entries[0].integrated_time == NOW
    for now in (NOW, NOW + AFTER):
        proof, steps = prove(signed, now=now)
        assert proof.times == ()
        assert proof.valid_until == NOW + AFTER
        assert any("since no time is proven" in line for line in steps)
    refused(signed, r"\(judged now: no time of signing is proven\)", now=NOW + AFTER + SECOND)


def test_the_proof_ends_with_the_authority_if_that_ends_first() -> None:
    """Whatever it leans on must still be believed."""
    until = NOW + timedelta(minutes=1)
    root = Root.load("private", SIGSTORE.trusted_root(windows={"CA": (NOW, until)}), Demands())
    assert prove(message(fault="SET missing"), root, NOW)[0].valid_until == until


@pytest.mark.parametrize("how", [Signing(), Signing(rekor=2)], ids=["its own time", "the timestamp's"])
@pytest.mark.parametrize("fault", ["log window ends before", "log window starts after"])
def test_the_window_of_a_log(how: Signing, fault: Fault) -> None:
    """A log is held to its window at the time that it promised, else at the time that a timestamp proves."""
    refused(message(how), "in a log that root private does not trust at 2025-06-15 12:00:00 UTC", root_of(SIGSTORE, fault))


def test_the_window_of_a_log_without_any_time() -> None:
    """Then it must be trusted now."""
    root = Root.load("private", SIGSTORE.trusted_root(windows={"log": (NOW, NOW + SECOND)}), Demands())
    signed = message(Signing(rekor=2), "no timestamp")
    assert prove(signed, root, NOW + SECOND)[0].times == ()
    refused(signed, "does not trust at 2025-06-15 12:00:02", root, NOW + 2 * SECOND)


def test_timestamps_of_others_say_nothing_beside_one_that_holds() -> None:
    """Who stamps twice may be known for one of the two, and who is in the log needs no stamp."""
    signed = message(Signing(rekor=2))
    strange = ANOTHER.timestamp_authority.response(signed.signature, NOW)
    proof, steps = prove(replace(signed, timestamps=(strange, *signed.timestamps)))
    assert proof.times == (NOW,)
    assert any(line.startswith("a timestamp says nothing: it ") for line in steps)
    refused(replace(signed, timestamps=(strange,)), "no time of signing is proven")
    logged = message()
    strange = ANOTHER.timestamp_authority.response(logged.signature, NOW)
    assert prove(replace(logged, timestamps=(strange,)))[0].times == prove(logged)[0].times


def test_timestamps_under_a_root_without_authorities_for_them() -> None:
    """The log's time is enough, as it is without any timestamp."""
    proof, steps = prove(message(Signing(timestamps=1)), root_of(SIGSTORE, "no TSA"))
    assert proof.times == (NOW,)
    assert "1 timestamps, but root private has no timestamp authority" in steps


# -- bounds ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("33 log entries", "has 33 log entries; the limit is 32"),
        ("duplicate log entry", "has the same log entry twice"),
        ("33 timestamps", "has 33 timestamps; the limit is 32"),
        ("duplicate timestamp", "has the same timestamp twice"),
    ],
)
def test_ghsa_cq38_jh5f_37mq_bounds(fault: Fault, told: str) -> None:
    """Before anything else is looked at, for keys and for certificates."""
    signed = message(Signing(rekor=2), fault)
    assert refused(signed, told) == []
    with pytest.raises(EvidenceMalformed, match=told):
        prove_times(signed, MANAGED.spki, root_of(SIGSTORE), LIMITS, LATER, [])


# -- formats, roots of one's own, keys ------------------------------------------------------------------------------


def test_cosign_signatures_and_attestations() -> None:
    """Version 2: a promise beside the layer, an envelope that the log hashed as it was."""
    digest = IMAGE.digest
    assert prove(read_cosign(SIGSTORE.cosign_signature(digest)))[0].times == (NOW,)
    for how in (Signing(kind="dsse 0.0.1"), Signing(kind="intoto 0.0.1"), Signing(kind="intoto 0.0.2")):
        signed = read_cosign(SIGSTORE.cosign_attestation(digest, "https://slsa.dev/provenance/v1", {}, how))
        assert prove(signed)[0].times == (NOW,)
    stamped = read_cosign(GITHUB.cosign_attestation(digest, "https://slsa.dev/provenance/v1", {}, Signing(rekor=None)))
    assert prove(stamped, root_of(GITHUB))[0].times == (NOW,)
    refused(replace(stamped, stamped=stamped.signature), "over something else", root_of(GITHUB))


def test_certificates_of_ones_own() -> None:
    """No log, no transparency: valid now, over an intermediate that came along."""
    top = authority("root")
    middle = authority("middle", top)
    key = Signer.of("p256", "own signer")
    signer = Party("signer", middle, key=key.private)
    root = Root.of_ca("legacy", [pem(top)], NOTHING)
    signature = key.sign(MESSAGE)
    signed = Signed(signature, MESSAGE, None, None, (signer.der, middle.der), (), (), signature, None)
    proof, _ = prove(signed, root)
    assert proof.times == ()
    assert proof.valid_until == signer.certificate.not_valid_after_utc
    refused(replace(signed, chain=(signer.der,)), "no authority of root legacy issued", root)
    refused(replace(signed, message=b"another"), "not made with the key of its certificate", root)


def managed(how: Signing, fault: Fault | None = None) -> Signed:
    """A signature by a managed key."""
    return message(replace(how, managed=MANAGED), fault)


def times(signed: Signed, root: Root | None = None, steps: Sequence[str] = ()) -> tuple[datetime, ...]:
    """When a managed key's signature is proven to have been there."""
    return prove_times(signed, MANAGED.spki, root or root_of(SIGSTORE), LIMITS, LATER, list(steps))


@pytest.mark.parametrize(
    ("how", "proven"),
    [
        (Signing(), True),
        (Signing(rekor=2), True),
        (Signing(rekor=None, timestamps=1), True),
        (Signing(rekor=2, timestamps=0), False),
        (Signing(rekor=None, timestamps=0), False),
    ],
)
def test_the_time_of_a_managed_key(how: Signing, proven: bool) -> None:
    """A log's promise or a timestamp proves it; neither is demanded."""
    assert times(managed(how)) == ((NOW,) if proven else ())


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("SET broken", "did not sign"),
        ("entry of another key", "about another signer"),
        ("swapped entry", "about another signature"),
        ("checkpoint broken", "did not sign"),
        ("log window ends before", "does not trust at"),
    ],
)
def test_what_a_managed_key_brings_along_must_hold(fault: Fault, told: str) -> None:
    """A time is only proven by what is about this signature by this key."""
    with pytest.raises(EvidenceMalformed, match=told):
        times(managed(Signing(), fault), root_of(SIGSTORE, fault))
