"""Notary Project signatures through the whole proxy: found either way, judged by stores, kept, judged again offline."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from tests.harness import Proxy
from tests.simulator import when
from tests.simulator.behaviours import status
from tests.simulator.images import Family
from tests.simulator.notation import Form, Issued, issue, notation_signature
from tests.simulator.registry import Registry
from tests.simulator.sigstore.tsa import TimestampAuthority

ACME, OTHER = issue(), issue(name="other")
ENDED = datetime(2026, 5, 20, 12, tzinfo=UTC)
OLD = issue(name="old", ends=ENDED)
TSA = TimestampAuthority("conformance")
SIGNED = "{signature: {notation: {store: acme}}}"


def rules(require: str = SIGNED) -> str:
    """One rule for everything."""
    return f'rules: [{{match: "**", require: {require}}}]\n'


def proxy_of(
    folder: Path, upstream: Registry, trusted: Issued = ACME, *, tsa: bool = False, identities: Sequence[str] = (), top: str = ""
) -> Proxy:
    """A proxy whose store ``acme`` trusts a signer's root, and ``other`` the root of somebody else."""
    for name, pem in (
        ("acme", trusted.root_pem),
        ("other", OTHER.root_pem),
        ("tsa", TSA.chain(ENDED)[-1].public_bytes(serialization.Encoding.PEM)),
    ):
        (folder / f"{name}.pem").write_bytes(pem)
    stamps = f", tsa: [{folder}/tsa.pem]" if tsa else ""
    named = f", identities: {list(identities)}" if identities else ""
    trust = f"notation:\n  acme: {{ca: [{folder}/acme.pem]{stamps}{named}}}\n  other: {{ca: [{folder}/other.pem]}}"
    return Proxy(folder, upstream, rules=rules(), trust=trust, top=top)


@pytest.mark.parametrize("api", [True, False], ids=["referrers API", "referrers tag"])
@pytest.mark.parametrize("form", ["jws", "cose"])
@pytest.mark.parametrize("media", ["oci", "docker"])
async def test_a_notation_signature_admits(tmp_path: Path, form: Form, api: bool, media: Family) -> None:
    """Both envelopes, both ways to find them, both families of manifests: the image passes, and the signature itself with it."""
    async with Registry(referrers_api=api) as upstream, proxy_of(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1", media=media)
        signature = upstream.refer("acme/app", notation_signature(ACME, image, form))
        assert (await proxy.manifest("acme/app", "v1")).body == image.body
        assert (await proxy.manifest("acme/app", signature.digest)).body == signature.body
        envelope = signature.blobs[-1]
        assert (await proxy.blob("acme/app", envelope.digest)).body == envelope.data


async def test_an_index_is_signed_as_a_whole(tmp_path: Path) -> None:
    """Its media type and size are what the signature must claim; its children are admitted with it."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        child = upstream.image("acme/app")
        index = upstream.index("acme/app", "v1", images=[child])
        upstream.refer("acme/app", notation_signature(ACME, index))
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.manifest("acme/app", child.digest)).status == 200


async def test_refusals_name_the_store_and_the_signer(tmp_path: Path) -> None:
    """No signature, one by somebody else, one over another image: each is told in words."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        for tag, told in (
            ("none", "a signature by notation store acme"),
            ("stranger", "has no certificate of notation store acme"),
            ("another", "signed another image"),
            ("broken", "does not hold over what it signs"),
        ):
            image = upstream.image("acme/app", tag, seed=tag)
            match tag:
                case "stranger":
                    upstream.refer("acme/app", notation_signature(OTHER, image))
                case "another":
                    upstream.refer("acme/app", notation_signature(ACME, image, fault="another digest"))
                case "broken":
                    upstream.refer("acme/app", notation_signature(ACME, image, fault="signature broken"))
            answer = await proxy.manifest("acme/app", tag)
            assert (answer.status, answer.error["code"]) == (403, "DENIED")
            assert told in answer.error["message"]


async def test_a_timestamp_carries_a_signature_past_its_certificate(tmp_path: Path) -> None:
    """With an authority in the store the expired signer's stamped signature passes; without one it does not."""
    for number, (tsa, stamped, expected) in enumerate(((True, True, 200), (True, False, 403), (False, True, 403))):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with Registry() as upstream, proxy_of(folder, upstream, OLD, tsa=tsa) as proxy:
            image = upstream.image("acme/app", "v1")
            stamp = (lambda signature: TSA.token(signature, ENDED - timedelta(days=1))) if stamped else None
            upstream.refer("acme/app", notation_signature(OLD, image, stamp=stamp))
            answer = await proxy.manifest("acme/app", "v1")
            assert answer.status == expected, answer.body


async def test_two_stores_are_two_authorities(tmp_path: Path) -> None:
    """A threshold of two is met by two signers, and not by one that is asked for twice."""
    two = "{at_least: 2, of: [{signature: {notation: {store: acme}}}, {signature: {notation: {store: other}}}]}"
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        await proxy.reload(rules(two))
        one, both = (upstream.image("acme/app", tag, seed=tag) for tag in ("one", "both"))
        for image in (one, both):
            upstream.refer("acme/app", notation_signature(ACME, image))
        upstream.refer("acme/app", notation_signature(OTHER, both))
        assert (await proxy.manifest("acme/app", "one")).status == 403
        assert (await proxy.manifest("acme/app", "both")).status == 200


async def test_identities_narrow_a_store(tmp_path: Path) -> None:
    """The same root, another subject."""
    for number, (identity, expected) in enumerate(
        (("x509.subject: C=DE, ST=BE, O=acme", 200), ("x509.subject: C=DE, ST=BE, O=other", 403))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        async with Registry() as upstream, proxy_of(folder, upstream, identities=[identity]) as proxy:
            image = upstream.image("acme/app", "v1")
            upstream.refer("acme/app", notation_signature(ACME, image))
            assert (await proxy.manifest("acme/app", "v1")).status == expected


async def test_what_was_verified_is_verified_again_without_the_upstream(tmp_path: Path) -> None:
    """The envelope is stored with the verdict, so another rule is answered with the upstream gone; outages are no refusals."""
    either = "{any: [{signature: {notation: {store: other}}}, {signature: {notation: {store: acme}}}]}"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, top="check_interval: 1h\n") as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.refer("acme/app", notation_signature(ACME, image))
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        upstream.on(when.registry(), status(503))
        await proxy.reload(rules(either))
        assert (await proxy.manifest("acme/app", image.digest)).status == 200
        await proxy.reload(rules("{signature: {notation: {store: other}}}"))
        assert (await proxy.manifest("acme/app", image.digest)).status == 503
