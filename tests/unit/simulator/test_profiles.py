"""The profiles: each misbehaves in its way when a plain client asks; traps spring for a careless one."""

from __future__ import annotations

import json

import pytest

from tests.simulator import images, signing
from tests.simulator.profiles import World, names, profile
from tests.unit.simulator.conftest import Ask, Got

NAMES = [
    "hub-anonymous",
    "hub-missing-repo",
    "hub-missing-tag",
    "hub-429",
    "hub-abuse",
    "hub-accept",
    "r2-authorization",
    "exact-url",
    "url-expired",
    "range-ignored",
    "ghcr-placeholder",
    "ghcr-denied",
    "ghcr-referrers",
    "quay-redirect",
    "quay-gzip",
    "quay-expired-tag",
    "k8s-hop",
    "k8s-signature",
    "ar-relative",
    "ecr-public",
    "ecr-private",
    "acr-token",
    "gitlab-fallback",
    "redhat-no-digest",
    "harbor-artifactory",
]
ALL = ", ".join(images.MANIFEST_TYPES)


async def pull(world: World, ask: Ask, method: str, path: str, *, basic: str | None = None, **headers: str) -> Got:
    """One request below the repository, with a token where one is asked for."""
    url = f"{world.registry.url}/v2/{world.repository}/{path}"
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if basic:
        sent["Authorization"] = basic
    got = await ask(method, url, headers=sent)
    if got.status == 401 and "realm=" in got.headers.get("WWW-Authenticate", "") and world.token_service is not None:
        service = world.token_service
        scope = service.scope(world.registry.requests[-1])
        query = f"?scope={scope}" if scope else ""
        answer = await ask("GET", f"{service.site.url}{service.path}{query}", headers={"Authorization": basic} if basic else {})
        if answer.status != 200:
            return answer
        (token, *_) = (value for name, value in json.loads(answer.body).items() if "token" in name)
        got = await ask(method, url, headers=sent | {"Authorization": f"Bearer {token}"})
    return got


def test_there_is_a_profile_for_every_scenario() -> None:
    """All 25 are there, in their order."""
    assert list(names()) == NAMES


@pytest.mark.parametrize("name", NAMES)
async def test_every_profile_starts_and_ends(name: str) -> None:
    """Each holds its image and gives settings that are accepted."""
    async with profile(name) as world:
        assert world.registry.stored(world.repository, world.image.digest) == world.image.body
        assert world.upstream(retries=0).url == world.registry.url
        assert world.traps() == {}


@pytest.mark.parametrize(
    ("name", "method", "path", "status", "code"),
    [
        ("hub-missing-repo", "HEAD", "manifests/1.0", 401, None),
        ("hub-missing-tag", "GET", "manifests/1.0", 404, "MANIFEST_UNKNOWN"),
        ("hub-429", "GET", "manifests/1.0", 429, "TOOMANYREQUESTS"),
        ("hub-abuse", "GET", "manifests/1.0", 429, None),
        ("ghcr-denied", "GET", "manifests/1.0", 403, "DENIED"),
        ("quay-expired-tag", "GET", "manifests/1.0", 404, "TAG_EXPIRED"),
        ("harbor-artifactory", "GET", "manifests/1.0", 401, "UNAUTHORIZED"),
        ("acr-token", "GET", "manifests/1.0", 401, "UNAUTHORIZED"),
    ],
)
async def test_refusals(ask: Ask, name: str, method: str, path: str, status: int, code: str | None) -> None:
    """Profiles that refuse do so with their status and code."""
    async with profile(name) as world:
        got = await pull(world, ask, method, path, Accept=ALL)
        assert got.status == status
        if code is not None:
            assert json.loads(got.body)["errors"][0]["code"] == code


async def test_hub(ask: Ask) -> None:
    """Docker Hub: a token from the other host, rate limit headers; HEAD is free while GET is limited."""
    async with profile("hub-anonymous") as world:
        got = await pull(world, ask, "HEAD", "manifests/1.0", Accept=ALL)
        assert (got.status, got.headers["ratelimit-remaining"]) == (200, "99;w=21600")
        assert len(world.tokens.asked()) == 1
    async with profile("hub-429") as world:
        assert (await pull(world, ask, "HEAD", "manifests/1.0", Accept=ALL)).status == 200


async def test_traps_spring(ask: Ask) -> None:
    """A client that does it wrong is caught: too narrow an Accept, an Authorization at the storage, a HEAD of a blob."""
    async with profile("hub-accept") as world:
        assert (await pull(world, ask, "GET", "manifests/1.0", Accept=images.OCI_INDEX)).status == 404
        assert world.traps() == {"trap:accept": 1}
        assert (await pull(world, ask, "GET", "manifests/1.0", Accept=ALL)).status == 200
    async with profile("r2-authorization") as world:
        where = (await pull(world, ask, "GET", f"blobs/{world.image.layers[0].digest}")).headers["Location"]
        assert (await ask("GET", where, headers={"Authorization": "Bearer x"})).status == 400
        assert world.traps() == {"trap:authorization": 1}
        assert (await ask("GET", where)).body == world.image.blobs[1].data
    async with profile("ecr-public") as world:
        assert (await pull(world, ask, "HEAD", f"blobs/{world.image.config.digest}")).status == 401
        assert world.traps() == {"trap:head": 1}
    async with profile("ghcr-referrers") as world:
        got = await pull(world, ask, "GET", f"referrers/{world.image.digest}")
        assert got.status == 303
        assert b"Sign in" in (await ask("GET", got.headers["Location"])).body
        assert world.traps() == {"trap:followed": 1}


@pytest.mark.parametrize("name", ["exact-url", "quay-redirect", "ar-relative", "k8s-hop", "url-expired"])
async def test_redirected_blobs_are_there(ask: Ask, name: str) -> None:
    """Following the redirects by hand leads to the blob (or to its first half)."""
    async with profile(name) as world:
        layer = world.image.blobs[1]
        got, where = await pull(world, ask, "GET", f"blobs/{layer.digest}"), ""
        while got.status in (302, 307):
            where = got.headers["Location"]
            got = await ask("GET", where if "://" in where else world.registry.url + where)
        assert got.status == 200
        assert got.body == (layer.data if name != "url-expired" else layer.data[: len(layer.data) // 2])
        if name == "quay-redirect":
            assert (await ask("GET", where)).status == 403


async def test_interrupted_blobs(ask: Ask) -> None:
    """The first answer breaks off; what resumes is refused once, or gets the whole again."""
    async with profile("url-expired") as world:
        blob = f"blobs/{world.image.layers[0].digest}"
        where = [(await pull(world, ask, "GET", blob)).headers["Location"] for _ in range(2)]
        assert (await ask("GET", where[0])).error is not None
        statuses = [(await ask("GET", url, headers={"Range": "bytes=9-"})).status for url in where]
        assert statuses == [403, 206]
    async with profile("range-ignored") as world:
        assert (await pull(world, ask, "GET", f"blobs/{world.image.layers[0].digest}")).error is not None
        again = await pull(world, ask, "GET", f"blobs/{world.image.layers[0].digest}", Range="bytes=9-")
        assert (again.status, again.body) == (200, world.image.blobs[1].data)


async def test_ghcr_placeholder(ask: Ask) -> None:
    """The scope of the ping's challenge is refused, the real one is granted."""
    async with profile("ghcr-placeholder") as world:
        ping = await ask("GET", f"{world.registry.url}/v2/")
        assert 'scope="repository:user/image:pull"' in ping.headers["WWW-Authenticate"]
        assert (await ask("GET", f"{world.registry.url}/token?scope=repository:user/image:pull")).status == 403
        assert (await pull(world, ask, "GET", "manifests/1.0", Accept=ALL)).status == 200


async def test_quay_gzip(ask: Ask) -> None:
    """Blobs are gzipped for those who do not say identity, and connections end."""
    async with profile("quay-gzip") as world:
        path = f"blobs/{world.image.config.digest}"
        encoded, plain = await pull(world, ask, "GET", path), await pull(world, ask, "GET", path, Accept_Encoding="identity")
        assert (encoded.headers["Content-Encoding"], "Content-Encoding" in plain.headers) == ("gzip", False)
        assert world.registry.connections == 2


async def test_k8s_signatures_are_found_by_tag_only(ask: Ask) -> None:
    """The signature's tag answers, its digest does not, the image's digest does."""
    async with profile("k8s-signature") as world:
        signature = world.registry.sign(world.repository, world.image.digest, signing.Signer.of())
        references = (signing.signature_tag(world.image.digest), signature.digest, world.image.digest)
        assert [(await pull(world, ask, "GET", f"manifests/{each}")).status for each in references] == [200, 404, 200]


async def test_ecr(ask: Ask) -> None:
    """Public: no digest on GET, and a token that becomes invalid. Private: an expired password, opaque pages."""
    async with profile("ecr-public") as world:
        assert "Docker-Content-Digest" not in (await pull(world, ask, "GET", "manifests/1.0")).headers
        assert "Docker-Content-Digest" in (await pull(world, ask, "HEAD", "manifests/1.0")).headers
        assert world.tokens.issued[0].scope == "aws"
        world.faults["invalid"].again()
        assert [(await pull(world, ask, "GET", "manifests/1.0")).status for _ in range(2)] == [400, 200]
    async with profile("ecr-private") as world:
        first, second = "Basic QVdTOmZpcnN0", "Basic QVdTOnNlY29uZA=="
        assert (await pull(world, ask, "GET", "manifests/1.0", basic=first)).status == 403
        page = await pull(world, ask, "GET", "tags/list", basic=second)
        assert json.loads(page.body)["tags"] == ["t2", "t1"]
        where = page.headers["Link"].partition(">")[0].lstrip("<")
        rest = await ask("GET", where, headers={"Authorization": second})
        assert json.loads(rest.body)["tags"] == ["t0", "1.0"]
        for query in ("n=1001", "last=t1", "next_token=x"):
            assert (await pull(world, ask, "GET", f"tags/list?{query}", basic=second)).status == 405


async def test_acr_gives_only_an_access_token(ask: Ask) -> None:
    """One field, no expiry; POST is refused."""
    async with profile("acr-token") as world:
        got = await ask("GET", f"{world.registry.url}/oauth2/token", headers={"Authorization": "Basic dXNlcjpzZWNyZXQ="})
        assert list(json.loads(got.body)) == ["access_token"]
        assert (await ask("POST", f"{world.registry.url}/oauth2/token", data={})).status == 400


async def test_gitlab_answers_the_fallback_tag_with_the_subject(ask: Ask) -> None:
    """No API, and the tag names the image itself."""
    async with profile("gitlab-fallback") as world:
        assert (await pull(world, ask, "GET", f"referrers/{world.image.digest}")).status == 404
        assert (await pull(world, ask, "GET", f"manifests/{images.referrers_tag(world.image.digest)}")).body == world.image.body


async def test_redhat_has_no_digest_and_no_scope(ask: Ask) -> None:
    """Neither the header nor the ETag tells the digest; the challenge has no scope."""
    async with profile("redhat-no-digest") as world:
        challenge = (await ask("HEAD", f"{world.registry.url}/v2/{world.repository}/manifests/1.0")).headers["WWW-Authenticate"]
        assert "scope" not in challenge
        got = await pull(world, ask, "HEAD", "manifests/1.0")
        assert (got.status, got.headers["ETag"], "Docker-Content-Digest" in got.headers) == (200, '"abc"', False)


async def test_harbor_changes_the_scheme(ask: Ask) -> None:
    """A stale token turns the challenge into Basic; Basic is accepted; the scope is not the path's."""
    async with profile("harbor-artifactory") as world:
        url = f"{world.registry.url}/v2/{world.repository}/manifests/1.0"
        assert 'scope="repository:app:pull"' in (await ask("GET", url)).headers["WWW-Authenticate"]
        stale = await ask("GET", url, headers={"Authorization": "Bearer stale"})
        assert stale.headers["WWW-Authenticate"] == 'Basic realm="harbor"'
        assert (await ask("GET", url, headers={"Authorization": "Basic dXNlcjpzZWNyZXQ="})).status == 200
