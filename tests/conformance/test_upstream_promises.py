"""Promises of the upstream client about answers: digests, sizes, slowness, refusals that differ.

Numbered as in the project's checklist. Both ways wherever there are two: what is wrong is refused, its honest twin is accepted,
and the fault is seen to have fired.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from multidict import CIMultiDict

from proxy.errors import UpstreamAbsent, UpstreamDenied, UpstreamError, UpstreamMisbehaved, UpstreamUnavailable
from proxy.settings import Limits
from storage.digest import Digest
from tests.conformance.clients import REPOSITORY, SECRET, client_of, download
from tests.simulator import behaviours, images, when
from tests.simulator.registry import Registry
from tests.simulator.server import Answer, Behaviour, Next, Seen
from tests.simulator.tls import Authority
from tests.simulator.tokens import TokenService, credentials
from tests.tools import SOON

# -- 9: digests ----------------------------------------------------------------------------------------------------


async def test_promise_09_a_lying_digest_header_is_refused() -> None:
    """The digest of a manifest is computed over its bytes; a header that says something else is misbehaviour, also by tag."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.manifest("GET"), behaviours.lie(Digest.of(b"another")))
        with pytest.raises(UpstreamMisbehaved, match="hash to"):
            await client.manifest(REPOSITORY, "1.0")
        fault.off()
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert fault.fired == 1


async def test_promise_09_another_manifest_under_the_asked_digest_is_refused() -> None:
    """GET by digest gives exactly these bytes or nothing, however the answer is labelled; the honest one passes."""
    async with Registry() as registry, client_of(registry) as client:
        image, other = registry.image("team/app", "1.0"), images.image("other")
        assert (await client.manifest(REPOSITORY, image.digest)).body == image.body
        registry.forge("team/app", image.digest, other.body)
        with pytest.raises(UpstreamMisbehaved):
            await client.manifest(REPOSITORY, image.digest)
        assert registry.requests[-1].finished


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
async def test_promise_09_both_algorithms_are_computed(algorithm: str) -> None:
    """A manifest asked by sha512 is checked by sha512, one by sha256 by sha256; a flipped bit is refused."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.add("team/app", images.image("x", algorithm=algorithm))
        fetched = await client.manifest(REPOSITORY, image.digest)
        assert (fetched.digest, fetched.body) == (image.digest, image.body)
        fault = registry.on(when.manifest("GET"), behaviours.flip())
        with pytest.raises(UpstreamMisbehaved):
            await client.manifest(REPOSITORY, image.digest)
        assert fault.fired == 1


@pytest.mark.parametrize("text", ["sha256:abc", "md5:" + "0" * 32, "sha256:" + "A" * 64, "x" * 5000, "sha256:" + "0" * 63 + "\t"])
async def test_promise_09_a_malformed_digest_header_is_no_hint(text: str) -> None:
    """HEAD gives no digest when the header holds none."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.manifest("HEAD"), behaviours.lie(text))
        assert await client.head(REPOSITORY, "1.0") is None
        fault.off()
        assert await client.head(REPOSITORY, "1.0") == image.digest
        assert fault.fired == 1


# -- 14: sizes of manifests ----------------------------------------------------------------------------------------

LIMIT = Limits(manifest_size=4096)


def padded(size: int) -> bytes:
    """A manifest of exactly so many bytes."""
    body = images.image("padded").body
    return body + b" " * (size - len(body))


async def test_promise_14_a_manifest_at_the_limit_passes() -> None:
    """The limit itself is allowed."""
    async with Registry() as registry, client_of(registry, limits=LIMIT) as client:
        registry.manifest("team/app", padded(4096), tag="1.0")
        assert len((await client.manifest(REPOSITORY, "1.0")).body) == 4096


async def test_promise_14_an_announced_excess_is_refused_before_it_is_read() -> None:
    """A Content-Length above the limit ends it: the body, which never comes, is not waited for."""
    async with Registry() as registry, client_of(registry, limits=LIMIT) as client:
        registry.manifest("team/app", padded(4097), tag="1.0")
        fault = registry.on(when.manifest("GET"), behaviours.stall(0))
        with pytest.raises(UpstreamMisbehaved, match="4096"):
            await asyncio.wait_for(client.manifest(REPOSITORY, "1.0"), SOON)
        assert fault.fired == 1


@pytest.mark.parametrize("behaviour", [behaviours.chunked(), behaviours.endless()], ids=["chunked one byte too many", "endless"])
async def test_promise_14_an_unannounced_excess_is_cut_off(behaviour: Behaviour) -> None:
    """Without a Content-Length reading stops at the limit."""
    async with Registry() as registry, client_of(registry, limits=LIMIT) as client:
        registry.manifest("team/app", padded(4097), tag="1.0")
        fault = registry.on(when.manifest("GET"), behaviour)
        with pytest.raises(UpstreamMisbehaved, match="4096"):
            await asyncio.wait_for(client.manifest(REPOSITORY, "1.0"), SOON)
        assert fault.fired == 1


async def test_promise_14_a_limit_of_the_callers_own() -> None:
    """A caller may set a lower limit for what it expects to be small."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        assert (await client.manifest(REPOSITORY, "1.0", limit=len(image.body))).digest == image.digest
        with pytest.raises(UpstreamMisbehaved):
            await client.manifest(REPOSITORY, "1.0", limit=len(image.body) - 1)


@pytest.mark.parametrize("number", ["-1", "1e3", "0x10", "5, 6", "99999999999999999999999999"])
async def test_promise_14_a_nonsensical_length_is_refused(number: str) -> None:
    """A Content-Length that is no plain number gives no manifest."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        registry.image("team/app", "1.0")
        raw = f"HTTP/1.1 200 OK\r\nContent-Type: {images.OCI_MANIFEST}\r\nContent-Length: {number}\r\n\r\n{{}}".encode()
        fault = registry.on(when.manifest("GET"), behaviours.verbatim(raw), times=1)
        with pytest.raises((UpstreamMisbehaved, UpstreamUnavailable)):
            await client.manifest(REPOSITORY, "1.0")
        assert fault.fired == 1


# -- 32: slowness --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "behaviour", [behaviours.silence(), behaviours.stall(0), behaviours.stall(100)], ids=["no head", "no body", "half a body"]
)
async def test_promise_32_a_stalled_manifest_times_out(behaviour: Behaviour) -> None:
    """Silence before the head or within the body is an outage after the set time."""
    async with Registry() as registry, client_of(registry, retries=0, header_timeout=0.5, stall_timeout=0.5) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.manifest("GET"), behaviour, times=1)
        started = time.monotonic()
        with pytest.raises(UpstreamUnavailable):
            await client.manifest(REPOSITORY, "1.0")
        assert time.monotonic() - started < SOON
        assert fault.fired == 1
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest


async def test_promise_32_a_dripping_manifest_ends_with_the_request_timeout() -> None:
    """An upstream that sends a byte now and then, never silent for long, does not hold a request beyond its time."""
    async with Registry() as registry, client_of(registry, limits=Limits(request_timeout=0.5), retries=0) as client:
        registry.image("team/app", "1.0")
        fault = registry.on(when.manifest("GET"), behaviours.drip(1, 0.05))
        with pytest.raises(UpstreamUnavailable):
            await asyncio.wait_for(client.manifest(REPOSITORY, "1.0"), SOON)
        assert fault.fired == 1


async def test_promise_32_a_stalled_token_endpoint_times_out() -> None:
    """The token endpoint is bound by the same times."""
    async with Registry() as registry, client_of(registry, retries=0, header_timeout=0.5) as client:
        image = registry.image("team/app", "1.0")
        TokenService(registry).guard(registry)
        fault = registry.on(when.path("/token"), behaviours.silence(), times=1)
        with pytest.raises(UpstreamUnavailable):
            await asyncio.wait_for(client.manifest(REPOSITORY, "1.0"), SOON)
        assert fault.fired == 1
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest


async def test_promise_32_a_stalled_blob_leaves_others_unaffected() -> None:
    """While blobs hang, manifests and other blobs of the same upstream are answered."""
    async with Registry() as registry, client_of(registry, connections=4, retries=0) as client:
        image = registry.image("team/app", "1.0", layers=2)
        event = asyncio.Event()
        slow = registry.on(when.blob("GET", image.layers[0].digest), behaviours.stall(10, event))
        waiting = [asyncio.create_task(download(client, REPOSITORY, image.layers[0])) for _ in range(2)]
        while slow.fired < 2:
            await asyncio.sleep(0.001)
        assert (await asyncio.wait_for(client.manifest(REPOSITORY, "1.0"), SOON)).digest == image.digest
        assert await asyncio.wait_for(download(client, REPOSITORY, image.layers[1]), SOON) == image.blobs[2].data
        assert not any(task.done() for task in waiting)
        event.set()
        assert await asyncio.gather(*waiting) == [image.blobs[1].data] * 2


# -- 33: refusals that differ --------------------------------------------------------------------------------------

DENIED, ABSENT, OUTAGE = UpstreamDenied, UpstreamAbsent, UpstreamUnavailable


@pytest.mark.parametrize(
    ("behaviour", "expected"),
    [
        (behaviours.refuse(401, "UNAUTHORIZED", "authentication required"), DENIED),
        (behaviours.refuse(403, "DENIED", "requested access to the resource is denied"), DENIED),
        (behaviours.status(403, b""), DENIED),
        (behaviours.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown"), ABSENT),
        (behaviours.refuse(404, "NAME_UNKNOWN", "repository unknown"), ABSENT),
        (behaviours.status(404, "manifest for x not found"), ABSENT),
        (behaviours.status(404, b""), ABSENT),
        (behaviours.refuse(429, "TOOMANYREQUESTS", "slow down"), OUTAGE),
        (behaviours.html(429), OUTAGE),
        (behaviours.status(429, "Ref A: 123"), OUTAGE),
        (behaviours.status(500, b""), OUTAGE),
        (behaviours.html(502), OUTAGE),
        (behaviours.status(503, b""), OUTAGE),
        (behaviours.status(504, b""), OUTAGE),
        (behaviours.hang_up(), OUTAGE),
        (behaviours.reset(), OUTAGE),
    ],
    ids=lambda value: None,
)
async def test_promise_33_statuses_have_distinct_meanings(behaviour: Behaviour, expected: type[UpstreamError]) -> None:
    """Denied, absent and outage are told apart by the status, whatever the body; afterwards the upstream answers as before."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.manifest(), behaviour)
        with pytest.raises(expected) as caught:
            await client.manifest(REPOSITORY, "1.0")
        assert str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(expected):
            await client.manifest(REPOSITORY, image.digest)
        fault.off()
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert fault.fired >= 2


async def test_promise_33_an_upstream_that_is_down_is_an_outage() -> None:
    """Refused connections and names that do not resolve are outages; when it is back, it answers."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        image = registry.image("team/app", "1.0")
        await registry.stop()
        with pytest.raises(UpstreamUnavailable, match="refuses"):
            await client.head(REPOSITORY, "1.0")
        await registry.start()
        assert await client.head(REPOSITORY, "1.0") == image.digest


async def test_promise_33_tls_failures_are_outages(authority: Authority, tmp_path: Path) -> None:
    """An unknown authority, a certificate for another name, plain HTTP on an https port: outages, nothing is sent."""
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    ca = str(authority.file(tmp_path))
    async with (
        Registry(tls=authority.server()) as registry,
        Registry(tls=authority.server("other.test")) as misnamed,
        Registry() as plain,
    ):
        image = registry.image("team/app", "1.0")
        broken: list[tuple[Registry, dict[str, Any]]] = [
            (registry, {"ca": str(Authority().file(stranger))}),
            (misnamed, {"ca": ca}),
            (plain, {"ca": ca, "url": plain.url.replace("http:", "https:")}),
        ]
        for target, settings in broken:
            async with client_of(target, retries=0, **settings) as client:
                with pytest.raises(UpstreamUnavailable, match="TLS"):
                    await client.manifest(REPOSITORY, "1.0")
            assert target.requests == []
        async with client_of(registry, ca=ca) as client:
            assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest


async def test_promise_33_a_client_certificate_is_shown(authority: Authority, tmp_path: Path) -> None:
    """A registry that demands a certificate gets it; without one it is an outage."""
    ca = str(authority.file(tmp_path))
    certificate, key = authority.client(tmp_path)
    async with Registry(tls=authority.demanding()) as registry:
        image = registry.image("team/app", "1.0")
        async with client_of(registry, ca=ca, retries=0) as client:
            with pytest.raises(UpstreamUnavailable):
                await client.manifest(REPOSITORY, "1.0")
        async with client_of(registry, ca=ca, client_certificate={"cert": str(certificate), "key": str(key)}) as client:
            assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest


def in_seconds(seconds: int) -> str:
    """An HTTP date."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        (lambda: "17", 17, 17),
        (lambda: "100000", 60, 60),
        (lambda: in_seconds(30), 25, 31),
        (lambda: in_seconds(-30), 0, 0),
        (lambda: "Wed, 21 Oct 2099 07:28:00 GMT", 60, 60),
    ],
    ids=["seconds", "above the cap", "date", "past date", "far date"],
)
async def test_promise_33_retry_after_is_honoured(status: int, value: Callable[[], str], least: float, most: float) -> None:
    """The hint is passed on, in seconds or as a date, up to the cap, and the request is not repeated before."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        registry.image("team/app", "1.0")
        fault = registry.on(when.manifest(), behaviours.status(status, headers={"Retry-After": value()}))
        with pytest.raises(UpstreamUnavailable) as caught:
            await client.manifest(REPOSITORY, "1.0")
        assert caught.value.retry_after is not None
        assert least <= caught.value.retry_after <= most
        assert fault.fired == 1


@pytest.mark.parametrize("value", ["-5", "soon", "10.3ms", "", "1e9", "9" * 400])
async def test_promise_33_a_nonsensical_retry_after_is_no_hint(value: str) -> None:
    """What is neither seconds nor a date is ignored."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        registry.image("team/app", "1.0")
        fault = registry.on(when.manifest(), behaviours.status(429, headers={"Retry-After": value}))
        with pytest.raises(UpstreamUnavailable) as caught:
            await client.manifest(REPOSITORY, "1.0")
        assert caught.value.retry_after is None or 0 <= caught.value.retry_after <= 60
        assert fault.fired == 1


async def test_promise_33_a_short_retry_after_is_waited_for() -> None:
    """A hint that fits into the request's time is obeyed, and the retry succeeds."""
    async with Registry() as registry, client_of(registry, retries=2) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.manifest(), behaviours.status(429, headers={"Retry-After": "1"}), times=1)
        started = time.monotonic()
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert time.monotonic() - started >= 1
        assert fault.fired == 1


async def test_promise_33_outages_are_tried_again_and_refusals_are_not() -> None:
    """A 503 that passes is not noticed; 403 and 404 are asked once."""
    async with Registry() as registry, client_of(registry, retries=3) as client:
        image = registry.image("team/app", "1.0")
        outage = registry.on(when.manifest(), behaviours.status(503), times=2)
        assert (await client.manifest(REPOSITORY, "1.0")).digest == image.digest
        assert outage.fired == 2
        for code in (403, 404):
            fault = registry.on(when.manifest(), behaviours.status(code), times=5)
            with pytest.raises((UpstreamDenied, UpstreamAbsent)):
                await client.manifest(REPOSITORY, "1.0")
            assert fault.fired == 1
            fault.off()


@pytest.mark.parametrize("code", [401, 429, 500, 503])
async def test_promise_33_referrers_that_cannot_be_asked_are_not_none(code: int) -> None:
    """An outage or refusal of the referrers API is an error, never an empty list."""
    async with Registry() as registry, client_of(registry, retries=0) as client:
        image = registry.image("team/app", "1.0")
        fault = registry.on(when.referrers(), behaviours.status(code))
        with pytest.raises((UpstreamUnavailable, UpstreamDenied)):
            await client.referrers(REPOSITORY, image.digest)
        fault.off()
        assert (await client.referrers(REPOSITORY, image.digest)).entries == ()
        assert fault.fired >= 1


@pytest.mark.parametrize(
    "behaviour", [behaviours.status(500), behaviours.hang_up(), behaviours.html()], ids=["500", "hang up", "html"]
)
async def test_promise_33_a_fallback_tag_that_cannot_be_asked_is_not_none(behaviour: Behaviour) -> None:
    """Without the API an outage at the fallback tag is an error, too."""
    async with Registry(referrers_api=False) as registry, client_of(registry, retries=0) as client:
        image = registry.image("team/app", "1.0")
        tag = images.referrers_tag(image.digest)
        fault = registry.on(when.manifest(None, tag), behaviour)
        with pytest.raises((UpstreamUnavailable, UpstreamMisbehaved)):
            await client.referrers(REPOSITORY, image.digest)
        assert fault.fired >= 1


async def test_promise_33_secrets_stay_out_of_messages() -> None:
    """An upstream that repeats the credentials in its error body does not get them into our message."""
    async with Registry() as registry, client_of(registry, auth=SECRET, retries=0) as client:
        registry.image("team/app", "1.0")

        async def echo(seen: Seen, following: Next) -> Answer:
            if credentials(seen) is None:
                return Answer(401, CIMultiDict({"WWW-Authenticate": 'Basic realm="x"'}))
            return Answer(403, body=f"you sent {seen.authorization} to https://u:p@h/x?sig=1".encode())

        fault = registry.on(when.manifest(), echo)
        with pytest.raises(UpstreamDenied) as caught:
            await client.manifest(REPOSITORY, "1.0")
        assert "dXNlcjpzZWNyZXQ" not in str(caught.value)
        assert "sig=1" not in str(caught.value)
        assert fault.fired >= 2
