"""GHSA-cq38-jh5f-37mq: how many log entries, timestamps and subjects a signature may bring along, as the configuration says."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from proxy.policy.patterns import Pattern
from proxy.policy.rules import AttestationBy, Identity, Question, SignatureBy
from proxy.policy.verdicts import Evidence
from proxy.settings import Limits
from proxy.verify.bundle import SigstoreBundles
from proxy.verify.cosign import CosignAttestations
from proxy.verify.model import Subject, Trusted
from proxy.verify.second import SecondVerdict
from proxy.verify.shapes import DSSE
from proxy.verify.trust import Key
from storage.reference import Repository
from tests.simulator.images import Blob
from tests.simulator.signing import PAYLOAD_TYPE, SIGN_PREDICATE, STATEMENT_V1, CosignSignature, Signer, pae
from tests.simulator.sigstore import Signing
from tests.simulator.sigstore.bundles import envelope_json, layers_image
from tests.simulator.sigstore.cases import IMAGE, PREDICATE_TYPE
from tests.unit.verify.evidence import document
from tests.unit.verify.reading import SIGSTORE, root_of

HOW = Signing(rekor=2)
KEY = Signer.of("p256", "bounds")
SUBJECT = Subject(Repository.of("registry.test", "team/app"), IMAGE.digest, IMAGE.body)
NOW = SIGSTORE.now + timedelta(days=400)
TRUSTED = Trusted({"release": Key.load("release", KEY.public_pem)}, {"private": root_of(SIGSTORE)})
SIGNED = SignatureBy(Identity("private", HOW.issuer, Pattern.compile(HOW.identity)))


def judge(body: bytes, limits: Limits) -> Evidence:
    """A bundle, judged for the one question."""
    (found,) = SigstoreBundles(limits, SecondVerdict()).judge_bytes("a file", body, SUBJECT, [SIGNED], TRUSTED, NOW)
    return found


def with_entries(count: int) -> bytes:
    """A bundle with so many log entries, each of which holds."""
    bundle = json.loads(SIGSTORE.signature_bundle(IMAGE.digest, HOW, fault="33 log entries"))
    del bundle["verificationMaterial"]["tlogEntries"][count:]
    return json.dumps(bundle).encode()


def with_timestamps(count: int) -> bytes:
    """A bundle with so many timestamps, each of which holds."""
    return SIGSTORE.signature_bundle(IMAGE.digest, Signing(rekor=2, timestamps=count))


def statement(count: int, predicate_type: str = SIGN_PREDICATE) -> bytes:
    """About so many subjects, the image last."""
    subjects = [{"name": f"{number}", "digest": {"sha256": f"{number:064x}"}} for number in range(count - 1)]
    subjects.append({"name": "image", "digest": {"sha256": IMAGE.digest.hex}})
    body = {"_type": STATEMENT_V1, "subject": subjects, "predicateType": predicate_type, "predicate": {}}
    return json.dumps(body).encode()


def with_subjects(count: int) -> bytes:
    """A bundle whose statement has so many subjects."""
    return SIGSTORE.dsse_bundle(statement(count), HOW)


MAKE = {"log_entries": with_entries, "timestamps": with_timestamps, "subjects": with_subjects}


@pytest.mark.parametrize(
    ("setting", "limit"),
    [("log_entries", None), ("timestamps", None), ("subjects", None), ("log_entries", 3), ("timestamps", 3), ("subjects", 3)],
)
def test_up_to_the_limit_and_not_beyond(setting: str, limit: int | None) -> None:
    """The default, and a limit that somebody wrote: as many are accepted, one more is refused and says why."""
    limits = Limits() if limit is None else Limits.model_validate({setting: limit})
    most = getattr(limits, setting)
    assert most == (limit or {"log_entries": 32, "timestamps": 32, "subjects": 1024}[setting])
    found = judge(MAKE[setting](most), limits)
    assert found.accepted, found.reason
    found = judge(MAKE[setting](most + 1), limits)
    assert not found.accepted
    assert f"{most + 1} entries" in found.reason
    assert f"the limit is {most}" in found.reason


def test_a_wider_limit_is_not_narrowed_by_the_second_verdict() -> None:
    """sigstore-python bears 32 timestamps; what the configuration allows beyond that, it cannot judge."""
    found = judge(with_timestamps(33), Limits(timestamps=33))
    assert found.accepted, found.reason
    assert "sigstore-python cannot judge this: more than 32 timestamps" in found.steps
    assert "sigstore-python accepts it, too" in judge(with_timestamps(32), Limits(timestamps=33)).steps


@pytest.mark.parametrize(("count", "accepted"), [(3, True), (4, False)])
def test_cosign_attestations_have_as_many_subjects(count: int, accepted: bool) -> None:
    """The same limit for every statement, whatever it comes in."""
    payload = statement(count, PREDICATE_TYPE)
    envelope = envelope_json(payload, PAYLOAD_TYPE, [KEY.sign(pae(PAYLOAD_TYPE, payload))])
    layer = CosignSignature(Blob(DSSE, envelope), {})
    question: Question = AttestationBy(PREDICATE_TYPE, "release")
    verifier = CosignAttestations(Limits(subjects=3), SecondVerdict())
    (found,) = verifier.judge(document(layers_image([layer])), SUBJECT, [question], TRUSTED, NOW)
    assert found.accepted is accepted, found.reason
