"""The 25 ways of real upstreams, one test or more each, over the profiles of the simulator.

The client's part: the right value, or the right error with the right hint. What the whole proxy makes of it stands elsewhere.
"""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from proxy.content import ReferrersSource
from proxy.errors import UpstreamAbsent, UpstreamDenied, UpstreamUnavailable
from tests.conformance.clients import AGENT, NAME, REPOSITORY, Clock, client_of, download
from tests.simulator import images, signing, when
from tests.simulator.behaviours import header, html, status, without
from tests.simulator.profiles import World, profile
from tests.simulator.registry import Registry
from tests.simulator.server import Behaviour, Seen, Site
from tests.simulator.tokens import TokenService


def leaked(*sites: Site) -> list[str]:
    """Requests that carried an Authorization or a Cookie where none should arrive."""
    return [str(seen) for site in sites for seen in site.requests if {"Authorization", "Cookie"} & set(seen.headers)]


def authorized(world: World) -> list[Seen]:
    """Requests that reached the registry with an Authorization header."""
    return [seen for seen in world.registry.requests if seen.authorization]


async def test_scenario_01_hub_anonymous() -> None:
    """One anonymous token serves HEAD, GET and blob of a repository; what is left of the rate limit is exported."""
    async with profile("hub-anonymous") as world, client_of(world) as client:
        assert await client.head(REPOSITORY, world.tag) == world.image.digest
        fetched = await client.manifest(REPOSITORY, world.tag)
        assert (fetched.body, fetched.digest, fetched.media_type) == (world.image.body, world.image.digest, images.OCI_MANIFEST)
        assert await download(client, REPOSITORY, world.image.layers[0]) == world.image.blobs[1].data
        (asked,) = world.tokens.asked()
        assert asked.query.getall("scope") == ["repository:team/app:pull"]
        assert asked.query["service"] == "registry.docker.io"
        assert not leaked(world.tokens.site)
        assert len(authorized(world)) == 3
        (state,) = client.status()
        assert state.remaining == 99
        assert world.faults["ratelimit"].fired == 2
        assert {seen.headers["User-Agent"] for seen in (*world.registry.requests, *world.tokens.site.requests)} == {AGENT}


async def test_scenario_01_concurrent_requests_share_one_token() -> None:
    """Ten requests at once still ask for one token."""
    async with profile("hub-anonymous") as world, client_of(world) as client:
        found = await asyncio.gather(*(client.manifest(REPOSITORY, world.tag) for _ in range(10)))
        assert {each.digest for each in found} == {world.image.digest}
        assert len(world.tokens.asked()) == 1


async def test_scenario_02_hub_missing_repo() -> None:
    """A token that is granted and then not enough means denied or missing, after one more try: neither outage nor absence."""
    async with profile("hub-missing-repo") as world, client_of(world) as client:
        with pytest.raises(UpstreamDenied):
            await client.head(REPOSITORY, world.tag)
        assert 1 <= world.faults["insufficient"].fired <= 2
        assert len(world.tokens.asked()) <= 2
        assert world.registry.count() <= 3


async def test_scenario_03_hub_missing_tag() -> None:
    """A 404 to an authorised request is absence."""
    async with profile("hub-missing-tag") as world, client_of(world) as client:
        with pytest.raises(UpstreamAbsent):
            await client.head(REPOSITORY, world.tag)
        with pytest.raises(UpstreamAbsent):
            await client.manifest(REPOSITORY, world.tag)
        assert world.registry.requests[-1].authorization


async def test_scenario_04_hub_429() -> None:
    """Over the limit, GET is an outage with a hint when to come back; HEAD still answers."""
    async with profile("hub-429") as world, client_of(world, retries=0) as client:
        assert await client.head(REPOSITORY, world.tag) == world.image.digest
        with pytest.raises(UpstreamUnavailable, match="429"):
            await client.manifest(REPOSITORY, world.tag)
        assert world.faults["limit"].fired == 1
        world.faults["limit"].off()
        assert (await client.manifest(REPOSITORY, world.tag)).digest == world.image.digest


async def test_scenario_05_hub_abuse() -> None:
    """A token host that says 429 in text is an outage; after some of them it is left alone, and asked again later."""
    clock = Clock()
    breaker: dict[str, Any] = {"breaker_failures": 2, "breaker_cooldown": 30.0}
    async with profile("hub-abuse") as world, client_of(world, clock=clock, retries=0, **breaker) as client:
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable, match="429"):
                await client.head(REPOSITORY, world.tag)
        clock.now += 10
        for _ in range(3):
            with pytest.raises(UpstreamUnavailable) as caught:
                await client.head(REPOSITORY, world.tag)
            assert caught.value.retry_after == 20
        assert world.faults["abuse"].fired == 2
        world.faults["abuse"].off()
        clock.now += 21
        assert await client.head(REPOSITORY, world.tag) == world.image.digest
        assert [state.breaker for state in client.status()] == ["closed"]


async def test_scenario_06_hub_accept() -> None:
    """All four manifest types are accepted in one request, and the ``unknown/unknown`` entry arrives with the rest."""
    async with profile("hub-accept") as world, client_of(world) as client:
        assert await client.head(REPOSITORY, world.tag) == world.image.digest
        fetched = await client.manifest(REPOSITORY, world.tag)
        assert (fetched.body, fetched.media_type) == (world.image.body, images.OCI_INDEX)
        attestation = world.image.images[1]
        assert (await client.manifest(REPOSITORY, attestation.digest)).body == attestation.body
        assert world.traps() == {}
        accepts = [seen.headers.getall("Accept") for seen in world.registry.seen(kind="manifest")]
        assert all(len(each) == 1 for each in accepts)


async def test_scenario_07_r2_authorization() -> None:
    """The registry's token never arrives at the storage."""
    async with profile("r2-authorization") as world, client_of(world) as client:
        assert await download(client, REPOSITORY, world.image.layers[0]) == world.image.blobs[1].data
        assert world.faults["redirect"].fired == 1
        assert world.traps() == {}
        assert not leaked(world.storage)
        assert world.storage.count("GET") == 1


async def test_scenario_08_exact_url() -> None:
    """A signed URL is followed byte for byte."""
    async with profile("exact-url") as world, client_of(world) as client:
        assert await download(client, REPOSITORY, world.image.layers[0]) == world.image.blobs[1].data
        (seen,) = world.storage.requests
        assert "sig=a%2Bb%2F%3D" in seen.target
        assert "/a%2Fb/(c)+d/" in seen.target


async def test_scenario_09_url_expired() -> None:
    """A blob that was cut is resumed by Range from the registry's URL; an expired URL leads back there once more."""
    async with profile("url-expired") as world, client_of(world) as client:
        layer = world.image.layers[0]
        assert await download(client, REPOSITORY, layer, attempts=2) == world.image.blobs[1].data
        assert (world.faults["cut"].fired, world.faults["expired"].fired, world.faults["redirect"].fired) == (1, 1, 3)
        ranges = [seen.headers.get("Range") for seen in world.storage.requests]
        assert ranges == [None, *[f"bytes={layer.size // 2}-"] * 2]
        assert [seen.status for seen in world.storage.requests] == [200, 403, 206]


async def test_scenario_10_range_ignored() -> None:
    """A whole body in answer to a Range is no continuation: the prefix is skipped and the bytes are right."""
    async with profile("range-ignored") as world, client_of(world) as client:
        layer = world.image.layers[0]
        data = await download(client, REPOSITORY, layer, attempts=2)
        assert layer.digest.matches(data)
        assert (world.faults["cut"].fired, world.faults["range"].fired) == (1, 1)


async def test_scenario_11_ghcr_placeholder() -> None:
    """The scope comes from the request, never from the ping's placeholder."""
    async with profile("ghcr-placeholder") as world, client_of(world) as client:
        assert await client.head(REPOSITORY, world.tag) == world.image.digest
        assert {seen.query["scope"] for seen in world.tokens.asked()} == {"repository:team/app:pull"}


async def test_scenario_11_a_challenge_without_scope_asks_for_the_real_one() -> None:
    """Where the request's own challenge has no scope, it is built from the name, not taken from the ping."""
    async with profile("ghcr-placeholder") as world, client_of(world) as client:
        bare = when.manifest() & ~when.header("Authorization")
        fault = world.registry.on(bare, without("WWW-Authenticate"), guard=True)
        assert await client.head(REPOSITORY, world.tag) == world.image.digest
        assert fault.fired == 1
        assert world.registry.count(kind="ping") == 1
        assert {seen.query["scope"] for seen in world.tokens.asked()} == {"repository:team/app:pull"}


async def test_scenario_12_ghcr_denied() -> None:
    """A token endpoint that says DENIED means denied or missing, not an outage."""
    async with profile("ghcr-denied") as world, client_of(world) as client:
        with pytest.raises(UpstreamDenied):
            await client.head(REPOSITORY, world.tag)
        assert len(world.tokens.asked()) == 1


async def test_scenario_13_ghcr_referrers() -> None:
    """A referrers API that redirects to a web page is no API: the page is not fetched, the fallback tag is."""
    async with profile("ghcr-referrers") as world, client_of(world) as client:
        none = await client.referrers(REPOSITORY, world.image.digest)
        assert (none.source, none.entries) == (ReferrersSource.NONE, ())
        bundle = world.registry.attach("team/app", world.image, signing.Signer.of())
        found = await client.referrers(REPOSITORY, world.image.digest)
        assert found.source is ReferrersSource.TAG
        assert [entry.descriptor.digest for entry in found.entries] == [bundle.digest]
        assert world.faults["redirect"].fired >= 1
        assert world.traps() == {}


@pytest.mark.parametrize(
    "behaviour",
    [
        status(400),
        status(404),
        status(404, "404 page not found"),
        status(405),
        status(406),
        html(),
        status(200, {"manifests": []}),
    ],
    ids=["400", "404", "404 text", "405", "406", "login page", "another type"],
)
async def test_scenario_13_answers_that_are_no_referrers_api(behaviour: Behaviour) -> None:
    """Only a 200 with the OCI index type is the API; these lead to the fallback tag."""
    async with profile("ghcr-referrers") as world, client_of(world) as client:
        fault = world.registry.on(when.referrers(), behaviour)
        bundle = world.registry.attach("team/app", world.image, signing.Signer.of())
        found = await client.referrers(REPOSITORY, world.image.digest)
        assert (found.source, [entry.descriptor.digest for entry in found.entries]) == (ReferrersSource.TAG, [bundle.digest])
        assert fault.fired == 1


async def test_scenario_13_the_api_where_it_is_honest() -> None:
    """The twin: a registry with the API is asked there and nowhere else, and an empty list is nobody."""
    async with Registry() as registry, client_of(registry) as client:
        image = registry.image("team/app", "1.0")
        nobody = await client.referrers(REPOSITORY, image.digest)
        assert nobody.entries == ()
        bundles = [registry.attach("team/app", image, signing.Signer.of("p256", name)) for name in ("alice", "bob")]
        found = await client.referrers(REPOSITORY, image.digest)
        assert found.source is ReferrersSource.API
        assert [entry.descriptor.digest for entry in found.entries] == [bundle.digest for bundle in bundles]
        assert {entry.artifact_type for entry in found.entries} == {signing.BUNDLE_TYPE}
        assert registry.count(kind="manifest") == 0


async def test_scenario_14_quay_redirect() -> None:
    """A redirect is never remembered, whatever its Cache-Control says."""
    async with profile("quay-redirect") as world, client_of(world) as client:
        for _ in range(2):
            assert await download(client, REPOSITORY, world.image.layers[0]) == world.image.blobs[1].data
        assert world.faults["redirect"].fired == 2
        assert [seen.status for seen in world.storage.requests] == [200, 200]


async def test_scenario_15_quay_gzip() -> None:
    """Identity is asked for and raw bytes arrive; closed connections are opened again without a word."""
    async with profile("quay-gzip") as world, client_of(world, retries=0) as client:
        for descriptor, blob in zip((world.image.config, *world.image.layers), world.image.blobs, strict=True):
            assert await download(client, REPOSITORY, descriptor) == blob.data
        assert world.faults["gzip"].fired == 2
        assert world.faults["close"].fired == world.registry.connections == 2
        assert {seen.headers["Accept-Encoding"] for seen in world.registry.requests} == {"identity"}


async def test_scenario_16_quay_expired_tag() -> None:
    """An expired tag is absent; its digest still answers."""
    async with profile("quay-expired-tag") as world, client_of(world) as client:
        with pytest.raises(UpstreamAbsent):
            await client.head(REPOSITORY, world.tag)
        assert world.faults["expired"].fired >= 1
        assert (await client.manifest(REPOSITORY, world.image.digest)).body == world.image.body


async def test_scenario_17_k8s_hop() -> None:
    """Redirects to a second and a third host are followed, for HEAD and GET, without the registry's token."""
    async with profile("k8s-hop") as world, client_of(world) as client:
        assert await client.head(REPOSITORY, world.tag) == world.image.digest
        assert (await client.manifest(REPOSITORY, world.tag)).body == world.image.body
        assert await download(client, REPOSITORY, world.image.layers[0]) == world.image.blobs[1].data
        second = world.hosts["second"]
        assert [seen.method for seen in second.requests] == ["HEAD", "GET", "GET"]
        assert world.storage.count("GET") == 1
        assert not leaked(second, world.storage)
        assert (world.faults["hop"].fired, world.faults["blob hop"].fired) == (3, 1)
        assert authorized(world)


async def test_scenario_17_a_target_with_a_challenge_of_its_own() -> None:
    """A second host that asks for a token gets an anonymous one of its own, and never the credentials of the first."""
    async with profile("k8s-hop") as world:
        second = world.hosts["second"]
        own = TokenService(second, service="second.test").guard(second)
        world.tokens.users, world.tokens.anonymous = {"user": "secret"}, False
        async with client_of(world, auth={"username": "user", "password": "secret"}) as client:
            assert (await client.manifest(REPOSITORY, world.tag)).body == world.image.body
        assert [token.account for token in own.issued] == [None]
        given = {token.value for token in world.tokens.issued}
        assert given
        assert not [seen for seen in second.requests if (seen.authorization or "").removeprefix("Bearer ") in given]
        assert not [seen for seen in second.requests if (seen.authorization or "").startswith("Basic")]


async def test_scenario_18_k8s_signature() -> None:
    """A signature manifest that is there by tag only is had by its tag, hashed by ourselves."""
    async with profile("k8s-signature") as world, client_of(world) as client:
        signature = world.registry.sign("team/app", world.image.digest, signing.Signer.of())
        fetched = await client.manifest(REPOSITORY, signing.signature_tag(world.image.digest))
        assert (fetched.body, fetched.digest) == (signature.body, signature.digest)
        with pytest.raises(UpstreamAbsent):
            await client.manifest(REPOSITORY, signature.digest)
        assert world.faults["by digest"].fired >= 1


async def test_scenario_19_ar_relative() -> None:
    """A relative redirect is resolved against the registry, its escapes untouched."""
    async with profile("ar-relative") as world, client_of(world) as client:
        assert await download(client, REPOSITORY, world.image.layers[0]) == world.image.blobs[1].data
        assert (world.faults["redirect"].fired, world.faults["download"].fired) == (1, 1)
        assert "/namespaces/a%2Fb+c/" in world.registry.requests[-1].target


async def test_scenario_20_ecr_public() -> None:
    """The scope is the challenge's ``aws``, manifests are hashed, blobs not HEADed, and a 400 about the token renews it once."""
    async with profile("ecr-public") as world, client_of(world) as client:
        fetched = await client.manifest(REPOSITORY, world.tag)
        assert fetched.digest == world.image.digest
        assert await download(client, REPOSITORY, world.image.layers[0]) == world.image.blobs[1].data
        assert {seen.query["scope"] for seen in world.tokens.asked()} == {"aws"}
        before = len(world.tokens.asked())
        world.faults["invalid"].again()
        assert (await client.manifest(REPOSITORY, world.tag)).digest == world.image.digest
        assert world.faults["invalid"].fired == 1
        assert len(world.tokens.asked()) == before + 1
        assert world.traps() == {}
        assert world.faults["no digest"].fired == 2


async def test_scenario_20_a_token_that_stays_invalid_is_not_asked_for_for_ever() -> None:
    """One renewal per request, then it is denied."""
    async with profile("ecr-public") as world, client_of(world) as client:
        assert (await client.manifest(REPOSITORY, world.tag)).digest == world.image.digest
        world.faults["invalid"].times = None
        world.faults["invalid"].again()
        with pytest.raises(UpstreamDenied):
            await client.manifest(REPOSITORY, world.tag)
        assert world.faults["invalid"].fired == 2
        assert len(world.tokens.asked()) == 2


def helper(folder: Path, *passwords: str) -> Path:
    """A Docker credential helper that gives the passwords one after the other, the last again and again; returns its log."""
    log = folder / "asked"
    log.touch()
    program = folder / "docker-credential-test"
    choices = " ".join(passwords)
    program.write_text(
        "#!/bin/sh\n"
        f"cat >> {log}; echo >> {log}\n"
        f"set -- {choices}\n"
        f"asked=$(wc -l < {log})\n"
        '[ "$asked" -gt $# ] && asked=$#\n'
        "shift $((asked - 1))\n"
        'printf \'{"ServerURL":"x","Username":"AWS","Secret":"%s"}\' "$1"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return log


async def test_scenario_21_ecr_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that expired is asked of the helper once more; tags follow the opaque Link to their end."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    log = helper(tmp_path, "first", "second")
    async with profile("ecr-private") as world, client_of(world, auth={"helper": "test"}) as client:
        fetched = await client.manifest(REPOSITORY, world.tag)
        assert fetched.digest == world.image.digest
        assert log.read_text().split() == [NAME] * 2
        assert world.faults["expired"].fired == 1
        listed = await client.tags(REPOSITORY)
        assert (sorted(listed.tags), listed.complete) == (["1.0", "t0", "t1", "t2"], True)
        assert [seen.status for seen in world.registry.seen(kind="tags")] == [200, 200]
        assert world.faults["tags"].fired == 2
        assert log.read_text().split() == [NAME] * 2


async def test_scenario_21_a_helper_with_nothing_new_is_asked_once_more_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the helper has the same expired password again, the answer is denied, and nothing goes on anonymously."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    log = helper(tmp_path, "first")
    async with profile("ecr-private") as world, client_of(world, auth={"helper": "test"}) as client:
        with pytest.raises(UpstreamDenied):
            await client.manifest(REPOSITORY, world.tag)
        assert log.read_text().split() == [NAME] * 2
        assert world.faults["expired"].fired >= 1


@pytest.mark.parametrize("expires_in", [None, 1, 60], ids=["unsaid", "too short to believe", "a minute"])
async def test_scenario_22_acr_token(expires_in: int | None) -> None:
    """``access_token`` alone is enough; it lives for sixty seconds on our own clock, also where nothing or less is said."""
    clock, auth = Clock(), {"username": "user", "password": "secret"}
    async with profile("acr-token") as world, client_of(world, clock=clock, auth=auth) as client:
        world.tokens.expires_in, world.tokens.really = expires_in, 3600
        for _ in range(3):
            assert await client.head(REPOSITORY, world.tag) == world.image.digest
            clock.now += 19
        (asked,) = world.tokens.asked()
        assert asked.method == "GET"
        assert world.tokens.issued[0].account == "user"
        clock.now += 4
        assert await client.head(REPOSITORY, world.tag) == world.image.digest
        assert len(world.tokens.asked()) == 2


async def test_scenario_22_an_identity_token_falls_back_from_post_to_get(tmp_path: Path) -> None:
    """An identity token is offered by POST; a 400 to that leads to a GET."""
    (tmp_path / "identity").write_text("identity\n")
    auth = {"identity_token_file": str(tmp_path / "identity")}
    async with profile("acr-token") as world, client_of(world, auth=auth) as client:
        assert await client.head(REPOSITORY, world.tag) == world.image.digest
        assert [(seen.method, seen.status) for seen in world.tokens.asked()] == [("POST", 400), ("GET", 200)]
        assert world.tokens.asked()[0].form["refresh_token"] == "identity"


async def test_scenario_22_an_identity_token_by_post(tmp_path: Path) -> None:
    """Where POST is understood, the identity token is exchanged there and nowhere else."""
    (tmp_path / "identity").write_text("refresh")
    auth = {"identity_token_file": str(tmp_path / "identity")}
    async with profile("acr-token") as world, client_of(world, auth=auth) as client:
        world.tokens.methods, world.tokens.identity_tokens = ("POST",), {"refresh": "user"}
        assert await client.head(REPOSITORY, world.tag) == world.image.digest
        assert [(seen.method, seen.form["scope"]) for seen in world.tokens.asked()] == [("POST", "repository:team/app:pull")]
        assert world.tokens.issued[0].account == "user"


async def test_scenario_23_gitlab_fallback() -> None:
    """A fallback tag that answers with the subject itself lists nothing."""
    async with profile("gitlab-fallback") as world, client_of(world) as client:
        found = await client.referrers(REPOSITORY, world.image.digest)
        assert (found.source, found.entries) == (ReferrersSource.NONE, ())
        assert world.faults["subject"].fired >= 1
        assert world.registry.count("GET", "/referrers/") == 1


async def test_scenario_23_an_index_as_its_own_fallback_tag() -> None:
    """The same when the subject is an index: its children are no referrers."""
    async with profile("gitlab-fallback") as world, client_of(world) as client:
        index = world.registry.index("team/app", "2.0", images=[world.image])
        world.registry.tag("team/app", images.referrers_tag(index.digest), index.digest)
        found = await client.referrers(REPOSITORY, index.digest)
        assert (found.source, found.entries) == (ReferrersSource.NONE, ())


async def test_scenario_24_redhat_no_digest() -> None:
    """Without a digest in the headers HEAD says nothing, and an ETag is not taken for one; GET is hashed."""
    async with profile("redhat-no-digest") as world, client_of(world) as client:
        assert await client.head(REPOSITORY, world.tag) is None
        assert (await client.manifest(REPOSITORY, world.tag)).digest == world.image.digest
        assert world.faults["no digest"].fired >= 2
        scopes = {tuple(seen.query.getall("scope", [])) for seen in world.tokens.asked()}
        assert scopes <= {("repository:team/app:pull",), ()}


async def test_scenario_25_harbor_artifactory() -> None:
    """The challenge's scope is used though it differs from the path; a stale token that earns a Basic challenge is replaced."""
    auth = {"username": "user", "password": "secret"}
    async with profile("harbor-artifactory") as world, client_of(world, auth=auth) as client:
        assert (await client.manifest(REPOSITORY, world.tag)).digest == world.image.digest
        assert [seen.query["scope"] for seen in world.tokens.asked()] == ["repository:app:pull"]
        world.tokens.expire()
        assert (await client.manifest(REPOSITORY, world.tag)).digest == world.image.digest
        assert world.faults["basic"].fired == 1


@pytest.mark.parametrize("challenge", ["", "Bearer", "Negotiate", "Basic realm="], ids=["empty", "bare", "unknown", "broken"])
async def test_scenario_25_an_empty_challenge(challenge: str) -> None:
    """A 401 that does not say what to do is denied or missing, after one retry at most."""
    async with profile("harbor-artifactory") as world, client_of(world) as client:
        fault = world.registry.on(when.registry(), header("WWW-Authenticate", challenge), guard=True)
        with pytest.raises(UpstreamDenied):
            await client.manifest(REPOSITORY, world.tag)
        assert fault.fired >= 1
        assert world.registry.count("GET", "/manifests/") <= 2


async def test_scenario_25_credentials_that_are_refused() -> None:
    """Wrong credentials are said to be wrong, and nothing goes on anonymously."""
    auth = {"username": "user", "password": "wrong"}
    async with profile("harbor-artifactory") as world, client_of(world, auth=auth) as client:
        with pytest.raises(UpstreamDenied, match="credentials") as caught:
            await client.manifest(REPOSITORY, world.tag)
        assert "wrong" not in str(caught.value)
        assert all(seen.authorization for seen in world.tokens.asked())
        assert world.tokens.issued == []
