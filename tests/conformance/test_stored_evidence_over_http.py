"""Evidence that was stored stays evidence: what the upstream put in its place later takes nothing away."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from pathlib import Path

import pytest

from proxy.services.evidence import StoredEvidence
from storage.digest import Digest
from tests.harness import Proxy
from tests.simulator import images, when
from tests.simulator.behaviours import status
from tests.simulator.images import Blob, Image
from tests.simulator.registry import Registry
from tests.simulator.signing import (
    SIMPLE_SIGNING,
    CosignSignature,
    Signer,
    cosign_signature,
    many_signatures,
    pae,
    signature_manifest,
    signature_tag,
)
from tests.simulator.sigstore import attestation_tag, statement
from tests.simulator.sigstore.bundles import envelope_json, layers_image

ANN, BEN = Signer.of("p256", "release"), Signer.of("p256", "ben")
TYPE = "https://slsa.dev/provenance/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"


def rules(*signers: str, attested: bool = False) -> str:
    """Everything needs a signature, or an attestation, by each of these keys."""
    forms = [
        f"{{attestation: {{type: {TYPE}, by: {{key: {each}}}}}}}" if attested else f"{{signature: {{key: {each}}}}}"
        for each in signers
    ]
    return f'rules: [{{match: "**", require: {{all: [{", ".join(forms)}]}}}}]\n'


def proxy_of(folder: Path, upstream: Registry, top: str = "", *, attested: bool = False) -> Proxy:
    """A proxy that knows both signers, and asks for the first."""
    (folder / "ben.pub").write_bytes(BEN.public_pem)
    first = rules("release-key", attested=attested)
    return Proxy(folder, upstream, signer=ANN, keys=f"ben: {{file: {folder}/ben.pub}}", rules=first, top=top)


@lru_cache
def signature(image: Digest, signer: Signer) -> CosignSignature:
    """The one signature by this signer: ECDSA makes another one each time."""
    return cosign_signature(signer, image)


def signed(image: Image, *signers: Signer) -> Image:
    """What stands under the signature tag."""
    return signature_manifest([signature(image.digest, each) for each in signers])


def attestation(image: Image, signer: Signer) -> Image:
    """What stands under the attestation tag."""
    payload = statement(image.digest, TYPE, {})
    body = envelope_json(payload, PAYLOAD_TYPE, [signer.sign(pae(PAYLOAD_TYPE, payload))])
    return layers_image([CosignSignature(Blob("application/vnd.dsse.envelope.v1+json", body), {})])


@pytest.mark.parametrize("attested", [False, True], ids=["signatures", "attestations"])
@pytest.mark.parametrize("online", [True, False])
async def test_what_was_overwritten_upstream_is_judged_still(tmp_path: Path, online: bool, attested: bool) -> None:
    """Signed by one, stored, overwritten with a signature of another: a rule that asks for both finds both, in the store."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, "check_interval: 1h\n", attested=attested) as proxy:
        image = upstream.image("acme/app", "v1")
        tag = attestation_tag(image.digest) if attested else signature_tag(image.digest)
        make = attestation if attested else signed
        by_ann, by_ben = make(image, ANN), make(image, BEN)
        upstream.add("acme/app", by_ann, tag)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        upstream.add("acme/app", by_ben, tag)
        await proxy.reload(rules("ben", attested=attested))
        assert (await proxy.manifest("acme/app", image.digest)).status == 200
        if not online:
            upstream.on(when.registry(), status(503))
        await proxy.reload(rules("release-key", "ben", attested=attested))
        assert (await proxy.manifest("acme/app", image.digest)).status == 200
        await proxy.restart()
        await proxy.reload(rules("ben", "release-key", attested=attested))
        assert (await proxy.manifest("acme/app", "v1")).body == image.body
        served = await proxy.manifest("acme/app", tag)
        assert served.body == by_ben.body, "the tag itself names what it named last"


async def test_what_is_stored_later_does_not_drown_what_was_stored_first(tmp_path: Path) -> None:
    """Whoever may push could fill the store with signatures of nobody: the first are looked at first, and the limits hold."""
    limits = "check_interval: 1h\nlimits: {signatures: 3}\n"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, limits) as proxy:
        image = upstream.image("acme/app", "v1")
        tag = signature_tag(image.digest)
        upstream.add("acme/app", signed(image, ANN), tag)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        for flood in (2, 3, 4):
            upstream.add("acme/app", many_signatures(ANN, image.digest, flood), tag)
            assert (await proxy.manifest("acme/app", tag)).status == 200  # a client's pull of it stores it
        upstream.add("acme/app", signed(image, BEN), tag)
        assert (await proxy.manifest("acme/app", tag)).status == 200
        upstream.on(when.registry(), status(503))
        await proxy.reload(rules("release-key", "release-key"))
        assert (await proxy.manifest("acme/app", image.digest)).status == 200
        await proxy.reload(rules("ben"))
        answer = await proxy.manifest("acme/app", image.digest)
        assert answer.status == 503, "not looked at, and the upstream cannot be asked: no verdict"


async def test_more_signatures_than_are_judged_are_kept_as_far_as_they_were(tmp_path: Path) -> None:
    """The first of many signatures suffices, and suffices again without the upstream."""
    limits = "check_interval: 1h\nlimits: {signatures: 3}\n"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, limits) as proxy:
        image = upstream.image("acme/app", "v1")
        others = [Signer.of("p256", f"other {number}") for number in range(4)]
        upstream.add("acme/app", signed(image, ANN, *others), signature_tag(image.digest))
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        fault = upstream.on(when.registry(), status(503))
        await proxy.reload(rules("release-key", "release-key"))
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        fault.off()
        assert (await proxy.manifest("acme/app", signature_tag(image.digest))).status == 200


async def test_what_nobody_looked_at_is_not_let_through_with_what_was(tmp_path: Path) -> None:
    """A layer that could be unpacked hides behind signatures, in a manifest with an image's config: it stays out of reach."""
    limits = "check_interval: 1h\nlimits: {signatures: 2}\n"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, limits) as proxy:
        image = upstream.image("acme/app", "v1")
        hidden = Blob(SIMPLE_SIGNING, images.layer("hidden").data)
        fillers = [signature(image.digest, each) for each in (ANN, BEN)]
        sneaky = signature_manifest([*fillers, CosignSignature(hidden, fillers[0].annotations)])
        upstream.add("acme/app", sneaky, signature_tag(image.digest))
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        for lost in (False, True):
            if lost:  # the disk loses it: it is fetched again, and reaches no more than before
                (proxy.data_dir / "blobs" / "sha256" / sneaky.digest.hex[:2] / sneaky.digest.hex).unlink()
                await proxy.restart()
            asked = upstream.count("GET", f"/v2/acme/app/manifests/{sneaky.digest}")
            assert (await proxy.manifest("acme/app", sneaky.digest)).status == 200
            assert (upstream.count("GET", f"/v2/acme/app/manifests/{sneaky.digest}") > asked) is lost
            assert (await proxy.blob("acme/app", fillers[0].blob.digest)).status == 200
            assert (await proxy.blob("acme/app", hidden.digest)).status == 403
            assert (await proxy.manifest("acme/app", signature_tag(image.digest))).status == 403


async def test_signatures_that_are_kept_beside_each_other_count_once(tmp_path: Path) -> None:
    """cosign adds to what stands under the tag: manifests that repeat it do not use up what may be looked at."""
    limits = "check_interval: 1h\nlimits: {signatures: 3}\n"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, limits) as proxy:
        image = upstream.image("acme/app", "v1")
        tag = signature_tag(image.digest)
        others = [Signer.of("p256", name) for name in ("one", "two")]
        for count in (0, 1, 2):
            upstream.add("acme/app", signed(image, ANN, *others[:count]), tag)
            assert (await proxy.manifest("acme/app", "v1")).status == 200
            assert (await proxy.manifest("acme/app", tag)).status == 200
        upstream.add("acme/app", signed(image, others[1], BEN), tag)
        assert (await proxy.manifest("acme/app", tag)).status == 200
        upstream.on(when.registry(), status(503))
        await proxy.reload(rules("release-key", "ben"))
        assert (await proxy.manifest("acme/app", image.digest)).status == 503, "a fourth signature is beyond the limit"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, limits) as proxy:
        image = upstream.image("acme/other", "v1", seed="other")
        tag = signature_tag(image.digest)
        for signers in ((ANN,), (ANN, others[0]), (ANN, others[0], BEN)):
            upstream.add("acme/other", signed(image, *signers), tag)
            assert (await proxy.manifest("acme/other", "v1")).status == 200
            assert (await proxy.manifest("acme/other", tag)).status == 200
        upstream.on(when.registry(), status(503))
        await proxy.reload(rules("release-key", "ben"))
        assert (await proxy.manifest("acme/other", image.digest)).status == 200


async def test_promise_46_a_store_that_does_not_answer_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The upstream has another's signature by now; whether the first one is kept cannot be told: 503, and 200 afterwards."""
    limits = "check_interval: 1h\nlimits: {evidence_timeout: 500ms, refusal_ttl: 0s}\n"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, limits) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.add("acme/app", signed(image, ANN), signature_tag(image.digest))
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        upstream.add("acme/app", signed(image, BEN), signature_tag(image.digest))

        async def slow(*_: object) -> None:
            await asyncio.sleep(60)

        twice = "{signature: {key: release-key}}, {signature: {key: release-key}}"
        with monkeypatch.context() as patched:
            patched.setattr(StoredEvidence, "tagged", slow)
            await proxy.reload(f'rules: [{{match: "**", require: {{any: [{twice}]}}}}]\n')
            answer = await proxy.manifest("acme/app", "v1")
            assert (answer.status, answer.error["code"]) == (503, "UNAVAILABLE")
        assert (await proxy.manifest("acme/app", "v1")).status == 200
