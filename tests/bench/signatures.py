"""What a verification costs: CPU time in this process, which does what a worker thread of the proxy does."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

from proxy.content import FetchedManifest
from proxy.manifest import Bounds, parse
from proxy.policy.patterns import Pattern
from proxy.policy.rules import Identity, Question, SignatureBy
from proxy.settings import Limits
from proxy.verify.model import Document, Found, Subject, Trusted
from proxy.verify.pipeline import default_verifiers, judge_documents
from proxy.verify.roots import Demands, Root
from proxy.verify.trust import Key
from storage.reference import Repository
from tests.bench.clients import Wrong
from tests.bench.report import Line, Target
from tests.simulator import images
from tests.simulator.images import Image
from tests.simulator.signing import Signer
from tests.simulator.sigstore import PrivateSigstore, Signing
from tests.simulator.sigstore.bundles import layers_image

_ROUNDS = 15


def signatures() -> list[Line]:
    """Keyed and keyless signatures, with and without sigstore-python's second verdict, and many of them."""
    sigstore, who, image = PrivateSigstore(), Signing(), images.image("app")
    signer = Signer.of("p256", "release")
    trusted = Trusted(
        {"release": Key.load("release", signer.public_pem)},
        {"private": Root.load("private", sigstore.trusted_root(), Demands())},
    )
    by_key = SignatureBy("release")
    keyless = SignatureBy(Identity("private", who.issuer, Pattern.compile(who.identity)))
    keyed = sigstore.signature_image(image.digest, Signing(managed=signer, rekor=None))
    cosign = sigstore.signature_image(image.digest, who)
    bundle = sigstore.signature_referrer(image, who)
    others = [sigstore.cosign_signature(image.digest, Signing(identity=f"{number}@example.test")) for number in range(31)]
    many = layers_image([*others, sigstore.cosign_signature(image.digest, who)])
    subject = Subject(Repository.of("registry.test", "team/app"), image.digest, image.body)

    verifiers = default_verifiers(Limits())

    def judge(document: Document, question: Question) -> None:
        evidence = judge_documents(verifiers, [document], subject, [question], trusted, datetime.now(UTC))
        if not any(piece.accepted for piece in evidence):
            raise Wrong(f"not accepted: {[piece.reason for piece in evidence]}")

    def cost(evidence: Image, question: Question) -> float:
        document = _document(evidence)
        return _milliseconds(lambda: judge(document, question))

    return [
        Line("verify: a signature by key", "ms CPU", cost(keyed, by_key), {}, (Target(5, False),)),
        Line("verify: a keyless signature", "ms CPU", cost(cosign, keyless), {}, (Target(25, False),)),
        Line("verify: a keyless bundle, both verdicts", "ms CPU", cost(bundle, keyless), {}, (Target(25, False),)),
        Line("verify: 32 keyless signatures", "ms CPU", cost(many, keyless), {}, (Target(250, False),)),
    ]


def _document(evidence: Image) -> Document:
    parsed = parse(evidence.body, images.OCI_MANIFEST, Bounds())
    found = FetchedManifest(evidence.body, evidence.digest, images.OCI_MANIFEST)
    data = {blob.digest: blob.data for blob in evidence.blobs}
    layers = tuple((layer.descriptor, layer.annotations, data[layer.descriptor.digest]) for layer in parsed.layers)
    return Document(Found.SIGNATURE_TAG, found, parsed, layers)


def _milliseconds(work: Callable[[], object]) -> float:
    work()  # what is loaded when first needed is not the price of a verification
    took = []
    for _ in range(_ROUNDS):
        began = time.process_time()
        work()
        took.append(1000 * (time.process_time() - began))
    return statistics.median(took)
