"""The advisories of others' verifiers that are about the whole way of a pull, each by its name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from multidict import CIMultiDict

from proxy.configuration import load
from proxy.errors import ConfigurationError
from tests.conformance import test_advisories
from tests.conformance.test_notation_over_http import ACME, OTHER, proxy_of
from tests.harness import Proxy
from tests.simulator import images, when
from tests.simulator.behaviours import body, first
from tests.simulator.notation import issue, notation_signature
from tests.simulator.registry import Registry
from tests.simulator.server import Answer, Behaviour, Next, Seen

#: Every advisory that a test must be named after, here or in :mod:`tests.conformance.test_advisories`.
ADVISORIES = (
    "CVE-2022-23649", "CVE-2022-36056", "CVE-2026-22703", "CVE-2022-35929", "CVE-2022-35930", "CVE-2026-39395",
    "CVE-2023-46737", "CVE-2024-29902", "GHSA-cq38-jh5f-37mq", "GHSA-9vcr-p3rj-q5q6", "GHSA-wqqc-jjcq-vfxm",
    "CVE-2026-24122", "CVE-2025-25204", "CVE-2022-47633", "CVE-2023-47630", "CVE-2023-33957", "CVE-2023-33958",
    "CVE-2023-33959", "CVE-2024-23332",
)  # fmt: skip


@pytest.mark.parametrize("advisory", ADVISORIES)
def test_each_advisory_has_a_test_of_its_name(advisory: str) -> None:
    """Whoever looks for an advisory finds what holds it."""
    name = re.compile(rf"test_\w*{advisory.replace('-', '_').lower()}(_\w+)?")
    assert any(name.fullmatch(each) for module in (test_advisories.__dict__, globals()) for each in module)


# -- a tag is resolved once, and what was verified is what is served ------------------------------------------------


async def test_cve_2022_47633_cve_2023_47630_what_was_verified_is_what_is_served(tmp_path: Path) -> None:
    """A registry answered with the signed image, and then with another: here each request moves the tag, to no avail."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        good, evil = upstream.image("acme/app", "v1"), upstream.image("acme/app", "evil", seed="evil")
        upstream.sign("acme/app", good.digest, proxy.signer)
        lie = upstream.on(when.manifest(reference=good.digest), body(evil.body))
        answer = await proxy.manifest("acme/app", good.digest)
        assert answer.status == 403
        assert evil.digest.hex in answer.error["message"]  # by digest, what comes must hash to it
        lie.off()
        turn = count()
        flip = first(lambda _: upstream.tag("acme/app", "v1", (good, evil)[next(turn) % 2].digest))
        upstream.on(when.manifest(reference="v1"), flip)
        for odd in (0, 1):  # whether the first or the second request of a pull sees the other image
            next(turn)
            for method in ("GET", "HEAD") * 3:
                answer = await proxy.manifest("acme/app", "v1", method)
                assert (answer.status, answer.digest) in {(200, str(good.digest)), (403, None)}, odd
                assert answer.status == 403 or answer.body == (good.body if method == "GET" else b"")
        assert next(turn) > 10
        for blob in evil.blobs:
            assert (await proxy.blob("acme/app", blob.digest)).status == 403


# -- notation -------------------------------------------------------------------------------------------------------


async def test_cve_2023_33957_the_number_of_signatures_has_an_end(tmp_path: Path) -> None:
    """A flood of signatures kept a verifier busy; here so many are judged as the limit says, in the registry's order."""
    limits = "limits: {signatures: 4}\n"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, top=limits) as proxy:
        for tag, flood, expected in (("few", 3, 200), ("many", 4, 403)):
            image = upstream.image("acme/app", tag, seed=tag)
            for number in range(flood):
                upstream.refer("acme/app", notation_signature(OTHER, image, annotations={"number": str(number)}))
            last = upstream.refer("acme/app", notation_signature(ACME, image))
            assert (await proxy.manifest("acme/app", tag)).status == expected
            assert upstream.count("GET", str(last.blobs[-1].digest), kind="blob") == (expected == 200)


async def test_cve_2023_33958_a_list_without_end_has_one(tmp_path: Path) -> None:
    """A registry that never stopped listing signatures was followed for ever; here until there are enough."""
    limits = "limits: {referrers: 20}\n"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, top=limits) as proxy:
        image = upstream.image("acme/app", "v1")
        flood = (notation_signature(OTHER, image, annotations={"number": str(number)}) for number in count())
        upstream.on(when.referrers(), _without_end(flood))
        answer = await proxy.manifest("acme/app", "v1")
        assert (answer.status, answer.error["code"]) == (403, "DENIED")
        assert "only the first 20 were looked at" in answer.error["message"]
        assert upstream.count(kind="referrers") == 20
        assert len(upstream.requests) < 100


def _without_end(signatures: Iterator[images.Image]) -> Behaviour:
    """A referrers API with one signature on each page, and always another page."""
    pages = count(1)

    async def behave(seen: Seen, following: Next) -> Answer:
        link = f'</v2/{seen.repository}/referrers/{seen.reference}?page={next(pages)}>; rel="next"'
        entry = images.referrers_entry(next(signatures))
        return Answer(200, CIMultiDict({"Content-Type": images.OCI_INDEX, "Link": link}), images.referrers_index([entry]).body)

    return behave


@pytest.mark.parametrize("fault", ["another digest", "another size", "another media type"])
async def test_cve_2023_33959_a_signature_holds_for_what_was_fetched(tmp_path: Path, fault: str) -> None:
    """A registry made a verifier judge a signature of another artifact than the one it went on to use: all three must agree."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.refer("acme/app", notation_signature(ACME, image, fault=fault))
        answer = await proxy.manifest("acme/app", "v1")
        assert (answer.status, answer.error["code"]) == (403, "DENIED")
        # A good signature, shown for an image that it does not sign.
        evil = upstream.image("acme/app", "evil", seed="evil")
        shown = notation_signature(ACME, image)
        forged = images.artifact("application/vnd.cncf.notary.signature", [(shown.blobs[-1], None)], subject=evil.descriptor)
        upstream.refer("acme/app", forged)
        answer = await proxy.manifest("acme/app", "evil")
        assert answer.status == 403
        assert "signed another image" in answer.error["message"]


async def test_cve_2024_23332_no_level_lets_outdated_signatures_pass(tmp_path: Path) -> None:
    """A permissive level accepted what had expired, and so a rollback; here there is no level, and time is always judged."""
    past = datetime.now(UTC) - timedelta(days=1)
    ended = issue(name="ended", ends=past)
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.refer("acme/app", notation_signature(ACME, image, expiry=past))
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == 403
        assert "expired at" in answer.error["message"]
        text = proxy.config.read_text()
    (tmp_path / "ended").mkdir()
    async with Registry() as upstream, proxy_of(tmp_path / "ended", upstream, ended) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.refer("acme/app", notation_signature(ended, image))
        answer = await proxy.manifest("acme/app", "v1")
        assert answer.status == 403
        assert "has a certificate that does not hold now" in answer.error["message"]
    for level in ("permissive", "audit", "skip"):
        for key in ("level", "signature_verification"):
            proxy.config.write_text(text.replace("acme: {", f"acme: {{{key}: {level}, "))
            with pytest.raises(ConfigurationError, match="unknown"):
                load(proxy.config)


async def test_cve_2024_23332_a_rollback_is_an_overwrite(tmp_path: Path) -> None:
    """An older image whose signature still holds is not what the tag means, whoever moved the tag back."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        older, newer = (upstream.image("acme/app", None, seed=seed) for seed in ("older", "newer"))
        for image in (older, newer):
            upstream.refer("acme/app", notation_signature(ACME, image))
        upstream.tag("acme/app", "v1", newer.digest)
        assert (await proxy.manifest("acme/app", "v1")).body == newer.body
        upstream.tag("acme/app", "v1", older.digest)
        answer = await proxy.manifest("acme/app", "v1")
        assert (answer.status, answer.error["code"]) == (403, "DENIED")
        assert str(older.digest) in answer.error["message"]
