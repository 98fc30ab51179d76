"""Keyless signatures, attestations and chains of them, through the whole proxy: found, judged, kept, judged again offline."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Proxy, WallClock
from tests.simulator import signing, when
from tests.simulator.behaviours import status
from tests.simulator.images import Image
from tests.simulator.registry import Registry
from tests.simulator.sigstore import SIGNING_TIME, PrivateSigstore, Signing, attestation_tag
from tests.simulator.sigstore.bundles import layers_image

SIGSTORE = PrivateSigstore()
WHO = Signing()
KEYLESS = f"{{root: private, issuer: {WHO.issuer!r}, identity: {WHO.identity!r}}}"
SIGNED = f"{{signature: {{keyless: {KEYLESS}}}}}"
PROVENANCE, SBOM = "https://slsa.dev/provenance/v1", "https://spdx.dev/Document"
SCAN, HARDENING = "https://cosign.sigstore.dev/attestation/vuln/v1", "https://acme.example/hardening/v1"


def attested(kind: str, more: str = "") -> str:
    """A requirement for an attestation by the usual signer."""
    return f"{{attestation: {{type: '{kind}', by: {KEYLESS}{more}}}}}"


def proxy_of(folder: Path, upstream: Registry, require: str, top: str = "") -> Proxy:
    """A proxy that knows the private Sigstore, and one rule."""
    root = SIGSTORE.write_trusted_root(folder / "trusted_root.json")
    rules = f'rules: [{{match: "**", require: {require}}}]\n'
    return Proxy(folder, upstream, rules=rules, top=top, trust=f"roots: {{private: {{file: {root}}}}}")


def sign(upstream: Registry, image: Image, how: Signing = WHO) -> None:
    """As cosign v2 does: under the signature tag."""
    upstream.add("acme/app", SIGSTORE.signature_image(image.digest, how), signing.signature_tag(image.digest))


@pytest.mark.parametrize("way", ["cosign v2", "cosign v3", "message signature", "Rekor v2"])
async def test_a_keyless_signature_admits(tmp_path: Path, way: str) -> None:
    """However it was made: the identity that the rule names passes, and everything below the manifest with it."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, SIGNED) as proxy:
        image = upstream.image("acme/app", "v1")
        match way:
            case "cosign v2":
                sign(upstream, image)
            case "cosign v3":
                upstream.refer("acme/app", SIGSTORE.signature_referrer(image))
            case "message signature":
                upstream.refer("acme/app", SIGSTORE.message_referrer(image))
            case _:
                upstream.refer("acme/app", SIGSTORE.signature_referrer(image, Signing(rekor=2)))
        assert (await proxy.manifest("acme/app", "v1")).body == image.body
        layer = image.blobs[1]
        assert (await proxy.blob("acme/app", layer.digest)).body == layer.data


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (Signing(identity="else@example.test"), "is by another identity: else@example.test"),
        (Signing(issuer="https://other.example.test"), "of another issuer: https://other.example.test"),
        (Signing(identity="a-release@example.test"), "is by another identity"),
        (Signing(identity="release@example.test.evil.example"), "is by another identity"),
    ],
)
async def test_promise_41_another_identity_or_issuer_is_refused(tmp_path: Path, how: Signing, told: str) -> None:
    """A certificate that the root vouches for, but of somebody else; a part of the identity is not the identity."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, SIGNED) as proxy:
        image = upstream.image("acme/app", "v1")
        sign(upstream, image, how)
        answer = await proxy.manifest("acme/app", "v1")
        assert (answer.status, answer.error["code"]) == (403, "DENIED")
        assert told in answer.error["message"]


@pytest.mark.parametrize("fault", ["entry of another signature", "entry of another key", "wrong digest in the entry"])
async def test_promise_42_a_log_entry_about_something_else_is_refused(tmp_path: Path, fault: Any) -> None:
    """CVE-2022-23649, CVE-2022-36056, CVE-2026-22703: the entry must be about this signature, this signer and these bytes."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, SIGNED) as proxy:
        image = upstream.image("acme/app", "v1")
        tag = signing.signature_tag(image.digest)
        upstream.add("acme/app", SIGSTORE.signature_image(image.digest, fault=fault), tag)
        upstream.refer("acme/app", SIGSTORE.signature_referrer(image, fault=fault))
        assert (await proxy.manifest("acme/app", "v1")).status == 403


async def test_promise_43_a_time_that_nobody_signed_is_not_believed(tmp_path: Path) -> None:
    """A log entry without its log's promise proves no time, so the certificate would have to be valid now."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, SIGNED) as proxy:
        image = upstream.image("acme/app", "v1")
        bundle = SIGSTORE.signature_referrer(image, fault="SET missing")
        upstream.refer("acme/app", bundle)
        assert (await proxy.manifest("acme/app", "v1")).status == 403


async def test_promise_44_an_attestation_is_no_signature(tmp_path: Path) -> None:
    """CVE-2022-35929, CVE-2026-39395: what the same signer attests is not a signature, and not another attestation either."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, SIGNED) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.refer("acme/app", SIGSTORE.attestation_referrer(image, PROVENANCE, {}))
        upstream.add("acme/app", SIGSTORE.attestation_image(image.digest, PROVENANCE, {}), attestation_tag(image.digest))
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == 403
        await proxy.reload(f'rules: [{{match: "**", require: {attested(SBOM)}}}]\n')
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == 403
        assert f"an attestation {SBOM}" in answer.error["message"]
        await proxy.reload(f'rules: [{{match: "**", require: {attested(PROVENANCE)}}}]\n')
        assert (await proxy.manifest("acme/app", "v1")).status == 200


CHAIN: dict[str, tuple[str, dict[str, Any]]] = {
    "provenance": (PROVENANCE, {"runDetails": {"builder": {"id": "https://builder.example.test/v1"}}}),
    "SBOM": (SBOM, {"packages": [{"name": "busybox"}]}),
    "scan": (SCAN, {"scanner": {"result": {"summary": {"critical": 0}}}}),
    "hardening": (HARDENING, {"user": "65532"}),
}
CONDITIONS = {
    "provenance": "predicate.runDetails.builder.id.startsWith('https://builder.example.test/')",
    "SBOM": "size(predicate.packages) > 0",
    "scan": "predicate.scanner.result.summary.critical == 0",
    "hardening": "predicate.user != '0'",
}


def chain() -> str:
    """The whole chain as one rule."""
    items = [SIGNED]
    for name, (kind, _) in CHAIN.items():
        age = ", max_age: 3d" if name == "scan" else ""
        items.append(attested(kind, f', when: "{CONDITIONS[name]}"{age}'))
    return f"{{all: [{', '.join(items)}]}}"


async def test_the_whole_chain_is_one_rule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Provenance, SBOM, a young scan without critical findings, hardening record and signature; without any one of them, 403."""
    clock = WallClock()
    monkeypatch.setattr("proxy.app.utc_now", clock)
    sigstore = PrivateSigstore(now=clock())
    root = sigstore.write_trusted_root(tmp_path / "trusted_root.json")
    rules = f'rules: [{{match: "**", require: {chain()}}}]\n'
    async with (
        Registry() as upstream,
        Proxy(tmp_path, upstream, rules=rules, trust=f"roots: {{private: {{file: {root}}}}}") as proxy,
    ):
        for missing in (None, "signature", *CHAIN):
            image = upstream.image("acme/app", f"without-{missing or 'nothing'}".lower(), seed=str(missing))
            if missing != "signature":
                tag = signing.signature_tag(image.digest)
                upstream.add("acme/app", sigstore.signature_image(image.digest), tag)
            statements = {name: said for name, said in CHAIN.items() if name != missing}
            layers = [sigstore.cosign_attestation(image.digest, *said) for said in statements.values()]
            upstream.add("acme/app", layers_image(layers), attestation_tag(image.digest))
            answer = await proxy.manifest("acme/app", f"without-{missing or 'nothing'}".lower())
            assert answer.status == (200 if missing is None else 403), missing
        clock.ahead = timedelta(days=4)
        answer = await proxy.manifest("acme/app", "without-nothing")
        assert answer.status == 403
        assert "is too old" in answer.error["message"]


async def test_a_scan_with_findings_is_refused(tmp_path: Path) -> None:
    """A condition that does not hold, and one over what is not there, are refusals in words."""
    require = attested(SCAN, f', when: "{CONDITIONS["scan"]}"')
    async with Registry() as upstream, proxy_of(tmp_path, upstream, require) as proxy:
        for tag, predicate in (("bad", {"scanner": {"result": {"summary": {"critical": 2}}}}), ("odd", {"scanner": "none"})):
            image = upstream.image("acme/app", tag, seed=tag)
            upstream.refer("acme/app", SIGSTORE.attestation_referrer(image, SCAN, predicate))
            answer = await proxy.manifest("acme/app", tag)
            assert answer.status == 403
            assert "does not meet predicate.scanner" in answer.error["message"]


async def test_what_was_verified_is_verified_again_without_the_upstream(tmp_path: Path) -> None:
    """Evidence is stored with the verdict: another rule is answered with the upstream gone; what it cannot meet stays unknown."""
    both = f"{{all: [{SIGNED}, {attested(PROVENANCE)}]}}"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, both, "check_interval: 1h\n") as proxy:
        image = upstream.image("acme/app", "v1")
        sign(upstream, image)
        upstream.add("acme/app", SIGSTORE.attestation_image(image.digest, PROVENANCE, {"a": 1}), attestation_tag(image.digest))
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        upstream.on(when.registry(), status(503))
        for require, expected in (
            (attested(PROVENANCE, ', when: "predicate.a == 1"'), 200),
            (SIGNED, 200),
            (attested(PROVENANCE, ', when: "predicate.a == 2"'), 503),
        ):
            await proxy.reload(f'rules: [{{match: "**", require: {require}}}]\n')
            assert (await proxy.manifest("acme/app", image.digest)).status == expected, require


async def test_promise_46_an_attestation_tag_that_is_down_is_not_missing(tmp_path: Path) -> None:
    """503 while it cannot be asked, 403 once the upstream says that there is none."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, attested(PROVENANCE)) as proxy:
        image = upstream.image("acme/app", "v1")
        fault = upstream.on(when.manifest("GET", attestation_tag(image.digest)), status(503))
        answer = await proxy.manifest("acme/app", "v1")
        assert (answer.status, answer.error["code"]) == (503, "UNAVAILABLE")
        fault.off()
        answer = await proxy.manifest("acme/app", "v1")
        assert (answer.status, answer.error["code"]) == (403, "DENIED")
        assert "no attestation at all" in answer.error["message"]


async def test_a_key_out_of_its_window_counts_at_the_proven_time(tmp_path: Path) -> None:
    """GHSA-wqqc-jjcq-vfxm: a key is believed when it signed, if its root proves when that was; else now."""
    signer = signing.Signer.of("p256", "release")
    until = (SIGNING_TIME + timedelta(days=1)).date()
    root = SIGSTORE.write_trusted_root(tmp_path / "trusted_root.json")
    for number, (options, expected) in enumerate(((f"valid_until: {until}, root: private", 200), (f"valid_until: {until}", 403))):
        trust = f"roots: {{private: {{file: {root}}}}}"
        async with (
            Registry() as upstream,
            Proxy(tmp_path / str(number), upstream, signer=signer, key_options=options, trust=trust) as proxy,
        ):
            image = upstream.image("acme/app", "v1")
            upstream.refer("acme/app", SIGSTORE.signature_referrer(image, Signing(managed=signer)))
            assert (await proxy.manifest("acme/app", "v1")).status == expected
