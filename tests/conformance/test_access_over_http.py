"""Who may pull: passwords, tokens, issuers, networks; manifests, blobs, HEAD, Range, referrers and tags alike, cached or not."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import bcrypt
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from structlog.testing import capture_logs

from proxy.configuration import load
from proxy.policy import canary
from proxy.services.passwords import WRONG
from storage.reference import Repository
from tests.conformance.wire import request
from tests.harness import Proxy, Reply, until
from tests.simulator.images import Image
from tests.simulator.registry import Registry

RULES = 'rules: [{match: "**", require: first-use}]\n'
REPOSITORY = Repository.of("reg.example", "team/app")
TOKEN = "tagstone_" + "a" * 43
HASH = hashlib.sha256(TOKEN.encode()).hexdigest()
#: As in "the right to a public repository is everybody's, that to a private one its team's".
MIXED = """access:
  htpasswd: users
  tokens: {ci: {sha256: %s}}
  rules:
    - {who: [anyone], pull: ["reg.example/open/**"]}
    - {who: ["user:alice", "token:ci"], pull: ["reg.example/team/**"]}
"""


def users(folder: Path, **passwords: str) -> None:
    """Write the password file, at the cheapest cost."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{user}:{bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()}" for user, password in passwords.items()]
    (folder / "users").write_text("\n".join(lines) + "\n")


def basic(user: str, password: str) -> dict[str, str]:
    """The header of somebody with a password."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    """The header of somebody with a token."""
    return {"Authorization": f"Bearer {token}"}


def proxy_of(folder: Path, upstream: Registry, top: str = MIXED % HASH) -> Proxy:
    """A proxy with alice and bob, and everything on first use."""
    users(folder, alice="right", bob="also right")
    return Proxy(folder, upstream, rules=RULES, top=top)


def challenge(reply: Reply) -> dict[str, str]:
    """The parts of the challenge."""
    scheme, _, rest = reply.headers["WWW-Authenticate"].partition(" ")
    assert scheme == "Bearer"
    return {name: value.strip('"') for name, _, value in (part.partition("=") for part in rest.split(","))}


async def session_of(proxy: Proxy, headers: dict[str, str], query: str = "?service=tagstone") -> str:
    """A token of the token endpoint."""
    reply = await proxy.get(f"/token{query}", headers)
    assert reply.status == 200, reply.body
    token: str = json.loads(reply.body)["token"]
    return token


def every_way(image: Image, repository: str = "team/app") -> list[tuple[str, str, dict[str, str]]]:
    """Every request by which something of an image could be had."""
    at = f"/v2/reg.example/{repository}"
    layer = image.blobs[1].digest
    return [
        ("GET", f"{at}/manifests/v1", {}),
        ("HEAD", f"{at}/manifests/v1", {}),
        ("GET", f"{at}/manifests/{image.digest}", {}),
        ("HEAD", f"{at}/manifests/{image.digest}", {}),
        ("GET", f"{at}/manifests/v1", {"If-None-Match": f'"{image.digest}"'}),
        ("GET", f"{at}/blobs/{layer}", {}),
        ("HEAD", f"{at}/blobs/{layer}", {}),
        ("GET", f"{at}/blobs/{layer}", {"Range": "bytes=0-9"}),
        ("GET", f"{at}/referrers/{image.digest}", {}),
        ("GET", f"{at}/tags/list", {}),
        ("GET", f"/v2/{repository}/manifests/v1?ns=reg.example", {}),
    ]


async def test_promise_35_every_path_asks_who_and_cached_bytes_too(tmp_path: Path) -> None:
    """What one principal may pull, another gets 403 for and nobody 401, before and after it is cached, in every form."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        image = upstream.image("team/app", "v1")
        alice, bob = basic("alice", "right"), basic("bob", "also right")
        for cached in (False, True):
            for method, path, headers in every_way(image):
                before = len(upstream.requests)
                denied = await proxy.ask(method, path, {**headers, **bob})
                assert (denied.status, len(upstream.requests)) == (403, before), (method, path, cached)
                unknown = await proxy.ask(method, path, headers)
                assert (unknown.status, len(upstream.requests)) == (401, before), (method, path, cached)
                assert image.blobs[1].data[:10] not in denied.body + unknown.body
                if method == "GET":
                    assert denied.error["code"] == "DENIED"
                    assert unknown.error["code"] == "UNAUTHORIZED"
            for method, path, headers in every_way(image):
                allowed = await proxy.ask(method, path, {**headers, **alice})
                assert allowed.status in {200, 206, 304}, (method, path, cached)


async def test_everybody_may_pull_what_is_everybodys(tmp_path: Path) -> None:
    """Nobody is challenged for it: clients that serve a mirror would send their credentials for the upstream."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", "v1")
        for method, path, headers in every_way(image, "open/app"):
            assert (await proxy.ask(method, path, headers)).status in {200, 206, 304}
            assert (await proxy.ask(method, path, {**headers, **basic("bob", "also right")})).status in {200, 206, 304}


async def test_everybody_is_refused_the_canary_in_its_own_words(tmp_path: Path) -> None:
    """A node can prove whom it asks, whatever it may pull; nothing is served, and no upstream is asked."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        image = upstream.image(canary.REPOSITORY, "t1")
        for headers in ({}, basic("alice", "right"), basic("bob", "also right")):
            for method, path, more in every_way(image, canary.REPOSITORY):
                reply = await proxy.ask(method, path.replace("/v1", "/t1"), {**headers, **more})
                assert reply.status == 403, (method, path)
                assert image.blobs[1].data[:10] not in reply.body
            told = await proxy.get(f"/v2/reg.example/{canary.REPOSITORY}/manifests/t1", headers)
            assert canary.token("t1") in told.reason
        assert (await proxy.get(f"/v2/reg.example/{canary.REPOSITORY}/manifests/t1", basic("bob", "wrong"))).status == 401
        assert upstream.requests == []


async def test_wrong_credentials_are_not_taken_for_none(tmp_path: Path) -> None:
    """Also where nobody would have needed any; the answer says to ask for a new token."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        upstream.image("open/app", "v1")
        wrong = [
            basic("alice", "wrong"),
            basic("alice", ""),
            basic("nobody", "right"),
            basic("ci", "tagstone_" + "b" * 43),
            basic("other", TOKEN),
            basic("alice", "x" * 100),
            bearer("nonsense"),
            bearer("tagstone_" + "b" * 43),
            {"Authorization": "Basic !!!"},
            {"Authorization": "Basic " + base64.b64encode(b"no colon").decode()},
            {"Authorization": "Digest whatever"},
            {"Authorization": ""},
        ]
        for headers in wrong:
            reply = await proxy.get("/v2/reg.example/open/app/manifests/v1", headers)
            assert reply.status == 401, headers
            assert challenge(reply)["error"] == "invalid_token"
            assert "right" not in reply.body.decode()


async def test_the_token_flow(tmp_path: Path) -> None:
    """Challenge, token for Basic credentials, pull with it: Docker's way, by GET and by POST."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        image = upstream.image("team/app", "v1")
        path = "/v2/reg.example/team/app/manifests/v1"
        asked = challenge(await proxy.get(path))
        assert asked == {"realm": f"{proxy.url}/token", "service": "tagstone", "scope": "repository:reg.example/team/app:pull"}
        token = await session_of(proxy, basic("alice", "right"), f"?service={asked['service']}&scope={asked['scope']}")
        assert (await proxy.get(path, bearer(token))).body == image.body
        assert (await proxy.get(path, bearer(await session_of(proxy, basic("bob", "also right"))))).status == 403
        refused = await proxy.get("/token", basic("alice", "wrong"))
        assert (refused.status, refused.error["code"]) == (401, "UNAUTHORIZED")
        form = {"grant_type": "password", "username": "alice", "password": "right", "service": "tagstone", "client_id": "x"}
        async with aiohttp.ClientSession() as session, session.post(f"{proxy.url}/token", data=form) as reply:
            assert reply.status == 200
            answer = await reply.json()
        assert (await proxy.get(path, bearer(answer["access_token"]))).status == 200
        assert 0 < answer["expires_in"] <= 300
        many = {f"x{number}": "" for number in range(40)}
        for bad, reason in (
            ({**form, "password": "wrong"}, WRONG),
            ({**form, "grant_type": "refresh_token"}, "grant_type='refresh_token' is not served"),
            ({**form, "client_id": "y" * 40_000}, "the form has more than 32768 bytes"),
            ({**form, **many}, "the form has more than 32 fields"),
        ):
            async with aiohttp.ClientSession() as session, session.post(f"{proxy.url}/token", data=bad) as reply:
                assert reply.status == 401
                assert reason in await reply.text()


@pytest.mark.parametrize("path", ["/v2/", "/token", "/v2/reg.example/open/app/manifests/v1"])
async def test_two_authorization_headers_are_none_that_holds(tmp_path: Path, path: str) -> None:
    """Whichever of them were taken, something before this proxy might have taken the other; also where both are the same."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        upstream.image("open/app", "v1")
        right = basic("alice", "right")["Authorization"]
        for second in (right, basic("bob", "also right")["Authorization"], ""):
            answer = await request(proxy, path, "GET", f"Authorization: {right}", f"Authorization: {second}")
            assert answer.status == 401
            assert b"two Authorization headers" in answer.body


async def test_the_ping_tells_clients_how_to_log_in(tmp_path: Path) -> None:
    """Docker and podman learn it there; those who are anonymous get a token of their own, that is worth what nobody's is."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        upstream.image("open/app", "v1")
        upstream.image("team/app", "v1")
        assert "realm" in challenge(await proxy.get("/v2/"))
        assert (await proxy.get("/v2/", basic("alice", "right"))).status == 200
        assert (await proxy.get("/v2/", basic("alice", "wrong"))).status == 401
        nobody = await session_of(proxy, {})
        assert (await proxy.get("/v2/", bearer(nobody))).status == 200
        assert (await proxy.get("/v2/reg.example/open/app/manifests/v1", bearer(nobody))).status == 200
        assert (await proxy.get("/v2/reg.example/team/app/manifests/v1", bearer(nobody))).status == 403


async def test_nobody_gets_a_token_where_nobody_may_pull(tmp_path: Path) -> None:
    """Without a rule for them, those without credentials are turned away at the token endpoint."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, "access: {htpasswd: users}\n") as proxy:
        image = upstream.image("team/app", "v1")
        reply = await proxy.get("/token?service=tagstone")
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, 'Basic realm="Tagstone"')
        token = await session_of(proxy, basic("bob", "also right"))
        assert (await proxy.get("/v2/reg.example/team/app/manifests/v1", bearer(token))).body == image.body


async def test_static_tokens(tmp_path: Path) -> None:
    """As Bearer, or as a password under their name; over when they expire."""
    past = (datetime.now(UTC) - timedelta(days=1)).date()
    old = hashlib.sha256(b"tagstone_old").hexdigest()
    top = (MIXED % HASH).replace("tokens: {", f"tokens: {{old: {{sha256: {old}, expires: {past}}}, ")
    async with Registry() as upstream, proxy_of(tmp_path, upstream, top.replace('"token:ci"', '"token:*"')) as proxy:
        upstream.image("team/app", "v1")
        path = "/v2/reg.example/team/app/manifests/v1"
        for headers in (bearer(TOKEN), basic("ci", TOKEN), bearer(await session_of(proxy, basic("ci", TOKEN)))):
            assert (await proxy.get(path, headers)).status == 200
        for headers in (bearer("tagstone_old"), basic("old", "tagstone_old")):
            assert (await proxy.get(path, headers)).status == 401


async def test_a_changed_password_file_counts_within_seconds(tmp_path: Path) -> None:
    """A user who is taken out has no access any more: by password, by remembered password, or by a token got before."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        upstream.image("team/app", "v1")
        path = "/v2/reg.example/team/app/manifests/v1"
        token = await session_of(proxy, basic("alice", "right"))
        assert (await proxy.get(path, bearer(token))).status == 200
        users(tmp_path, alice="new one", bob="also right")

        async def refused() -> bool:
            return (await proxy.get(path, bearer(token))).status == 401

        async with asyncio.timeout(30):
            while not await refused():
                await asyncio.sleep(0.1)
        assert (await proxy.get(path, basic("alice", "right"))).status == 401
        assert (await proxy.get(path, basic("alice", "new one"))).status == 200
        (tmp_path / "users").write_text("broken\n")
        with capture_logs() as logs:
            await asyncio.sleep(0)
            await until(lambda: [line for line in logs if line["event"] == "htpasswd.unreadable"])
        assert (await proxy.get(path, basic("alice", "new one"))).status == 200


async def test_a_changed_rule_counts_at_once(tmp_path: Path) -> None:
    """Reloading takes a right away from the next request on, cached or not."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        image = upstream.image("team/app", "v1")
        headers = bearer(TOKEN)
        path = "/v2/reg.example/team/app/manifests/v1"
        assert (await proxy.get(path, headers)).status == 200
        text = proxy.config.read_text().replace('"user:alice", "token:ci"', '"user:alice"')
        proxy.config.write_text(text)
        proxy.application.adopt(load(proxy.config))
        for method, where, more in every_way(image):
            assert (await proxy.ask(method, where, {**more, **headers})).status == 403


async def test_networks(tmp_path: Path) -> None:
    """A right that holds only from elsewhere is no right here, and nobody is asked to log in where no login would help."""
    top = 'access: {rules: [{who: [anyone], networks: [10.0.0.0/8], pull: ["**"]}]}\n'
    async with Registry() as upstream, proxy_of(tmp_path, upstream, top) as proxy:
        upstream.image("team/app", "v1")
        assert (await proxy.get("/v2/")).status == 200
        reply = await proxy.get("/v2/reg.example/team/app/manifests/v1")
        assert (reply.status, "WWW-Authenticate" in reply.headers) == (403, False)
        assert "anonymous may not pull from reg.example/team/app from 127.0.0.1" in reply.reason
        assert (await proxy.get("/token")).status == 404


async def test_guessing_passwords_is_slowed_down(tmp_path: Path) -> None:
    """After ten wrong ones nobody from there may try a new one for a while; who is known already goes on."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        upstream.image("team/app", "v1")
        path = "/v2/reg.example/team/app/manifests/v1"
        assert (await proxy.get(path, basic("alice", "right"))).status == 200
        for guess in range(10):
            assert (await proxy.get(path, basic("bob", f"guess {guess}"))).status == 401
        reply = await proxy.get(path, basic("bob", "also right"))
        assert (reply.status, int(reply.headers["Retry-After"]) > 0) == (503, True)
        assert (await proxy.get(path, basic("alice", "right"))).status == 200


async def test_a_token_that_is_changed_ends_its_sessions(tmp_path: Path) -> None:
    """Taking it away, or moving its end: what was got by it before is worth nothing."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        upstream.image("team/app", "v1")
        path = "/v2/reg.example/team/app/manifests/v1"
        session = bearer(await session_of(proxy, basic("ci", TOKEN)))
        assert (await proxy.get(path, session)).status == 200
        written = proxy.config.read_text()
        for change in (f"sha256: {HASH}, expires: 2020-01-01", f"sha256: {'0' * 64}"):
            proxy.config.write_text(written.replace(f"sha256: {HASH}", change))
            proxy.application.adopt(load(proxy.config))
            assert (await proxy.get(path, session)).status == 401
        proxy.config.write_text(written)
        proxy.application.adopt(load(proxy.config))
        assert (await proxy.get(path, session)).status == 200


async def test_sessions_are_shared_and_survive_a_restart(tmp_path: Path) -> None:
    """Workers and lives on one data directory take each other's tokens; the key is nobody else's to read."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        upstream.image("team/app", "v1")
        token = await session_of(proxy, basic("alice", "right"))
        await proxy.restart()
        assert (await proxy.get("/v2/reg.example/team/app/manifests/v1", bearer(token))).status == 200
        key = proxy.data_dir / "session.key"
        assert (key.stat().st_mode & 0o777, key.stat().st_size) == (0o600, 32)


async def test_forged_sessions_are_refused(tmp_path: Path) -> None:
    """Another key, no signature, another service, a time that is over, a principal that is gone: none of these is a session."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream) as proxy:
        upstream.image("team/app", "v1")
        token = await session_of(proxy, basic("alice", "right"))
        key = (proxy.data_dir / "session.key").read_bytes()
        claims = jwt.decode(token, options={"verify_signature": False})
        now = int(datetime.now(UTC).timestamp())
        forged = [
            jwt.encode(claims, b"k" * 32, "HS256"),
            jwt.encode(claims, "", "none"),
            jwt.encode({**claims, "aud": "other"}, key, "HS256"),
            jwt.encode({**claims, "iss": "other"}, key, "HS256"),
            jwt.encode({**claims, "exp": now - 1}, key, "HS256"),
            jwt.encode({**claims, "iat": now + 3600, "exp": now + 7200}, key, "HS256"),
            jwt.encode({**claims, "sub": "mallory"}, key, "HS256"),
            jwt.encode({**claims, "stamp": "0" * 16}, key, "HS256"),
            jwt.encode({**claims, "kind": "god"}, key, "HS256"),
            jwt.encode({name: value for name, value in claims.items() if name != "exp"}, key, "HS256"),
        ]
        path = "/v2/reg.example/team/app/manifests/v1"
        assert (await proxy.get(path, bearer(jwt.encode(claims, key, "HS256")))).status == 200
        for number, text in enumerate(forged):
            assert (await proxy.get(path, bearer(text))).status == 401, number


# -- tokens of others ---------------------------------------------------------------------------------------------------


ISSUER = "https://kubernetes.default.svc"
SUBJECT = "system:serviceaccount:web:app"
KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OTHER_KEY = ec.generate_private_key(ec.SECP256R1())


def key_set() -> dict[str, Any]:
    """The issuer's public keys."""
    first = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEY.public_key()))
    second = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(OTHER_KEY.public_key()))
    return {
        "keys": [{**first, "kid": "one", "use": "sig"}, {**second, "kid": "two"}, {"kty": "oct", "k": "AAAA", "kid": "three"}]
    }


def signed(claims: dict[str, Any] | None = None, key: Any = KEY, algorithm: str = "RS256", kid: str | None = "one") -> str:
    """A service account's token, with other claims where given (None takes one out)."""
    now = int(datetime.now(UTC).timestamp())
    whole = {"iss": ISSUER, "aud": ["tagstone"], "sub": SUBJECT, "exp": now + 600, "iat": now, **(claims or {})}
    kept = {name: value for name, value in whole.items() if value is not None}
    return jwt.encode(kept, key, algorithm, headers={} if kid is None else {"kid": kid})


def oidc_proxy(folder: Path, upstream: Registry) -> Proxy:
    """A proxy that believes a cluster's service accounts."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "keys.json").write_text(json.dumps(key_set()))
    top = f"""access:
  oidc: {{k8s: {{issuer: {ISSUER}, audience: [tagstone], jwks_file: keys.json}}}}
  rules: [{{who: ["oidc:k8s:system:serviceaccount:web:*"], pull: ["reg.example/team/**"]}}]
"""
    return Proxy(folder, upstream, rules=RULES, top=top)


async def test_service_accounts_pull_with_their_own_tokens(tmp_path: Path) -> None:
    """As Bearer, as a password, and by the token endpoint, whose token lives no longer than theirs."""
    async with Registry() as upstream, oidc_proxy(tmp_path, upstream) as proxy:
        image = upstream.image("team/app", "v1")
        path = "/v2/reg.example/team/app/manifests/v1"
        short = signed({"exp": int(datetime.now(UTC).timestamp()) + 60})
        reply = await proxy.get("/token", basic("whoever", short))
        assert 0 < json.loads(reply.body)["expires_in"] <= 60
        session = json.loads(reply.body)["token"]
        second = signed(key=OTHER_KEY, algorithm="ES256", kid="two")
        for headers in (bearer(signed()), basic("x", signed()), bearer(session), bearer(second)):
            assert (await proxy.get(path, headers)).body == image.body
        stranger = bearer(signed({"sub": "system:serviceaccount:other:app"}))
        assert (await proxy.get(path, stranger)).status == 403


@pytest.mark.parametrize(
    "token",
    [
        signed({"iss": "https://other.example"}),
        signed({"aud": ["other"]}),
        signed({"aud": None}),
        signed({"exp": 1}),
        signed({"exp": None}),
        signed({"sub": None}),
        signed({"sub": ""}),
        signed({"sub": "a\nb"}),
        signed(key=rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        signed(kid="four"),
        signed(kid="two"),
        signed(kid="three", key=b"\0" * 32, algorithm="HS256"),
        signed(kid="one", key=b"public key as a secret, padded to 32", algorithm="HS256"),
        jwt.encode({"iss": ISSUER, "aud": "tagstone", "sub": SUBJECT, "exp": 4102444800}, "", "none"),
        "a.b.c",
        "e30.e30.e30",
        "." * 7000,
    ],
)
async def test_tokens_that_do_not_hold_are_refused(tmp_path: Path, token: str) -> None:
    """Another issuer, audience, key, algorithm or time; no name; no token at all."""
    async with Registry() as upstream, oidc_proxy(tmp_path, upstream) as proxy:
        upstream.image("team/app", "v1")
        reply = await proxy.get("/v2/reg.example/team/app/manifests/v1", bearer(token))
        assert reply.status == 401
        assert len(token) < 20 or token[:40] not in reply.body.decode()


# -- one line for each decision -----------------------------------------------------------------------------------------


async def test_promise_40_the_log_tells_who_and_why_and_no_secret(tmp_path: Path) -> None:
    """One line for each request, with who, what, rule, answer, reason, bytes, time and source; nothing that could be used."""
    top = (MIXED % HASH) + "log: {pulls: all}\ncheck_interval: 1h\n"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, top) as proxy:
        image = upstream.image("team/app", "v1")
        layer = image.blobs[1]
        token = await session_of(proxy, basic("alice", "right"))
        with capture_logs() as logs:

            async def remembered() -> bool:
                await proxy.get("/v2/reg.example/team/app/manifests/v1", {**bearer(token), "User-Agent": "containerd/2.1"})
                return any(line.get("source") == "memory" for line in logs)

            await until(remembered)  # nothing is while the news of the first one's pin is under way
            await proxy.blob("team/app", layer.digest, **bearer(TOKEN))
            await proxy.get("/v2/reg.example/team/app/manifests/none", bearer(TOKEN))
            await proxy.get("/v2/reg.example/team/app/manifests/v1", basic("bob", "also right"))
            await proxy.get("/v2/reg.example/team/app/manifests/v1", basic("bob", "a guess"))
        pulls = [line for line in logs if line["event"] == "pull"]
        first, *again, blob, missing, denied, guessed = pulls
        assert (first["who"], first["agent"], first["address"]) == ("user:alice", "containerd/2.1", "127.0.0.1")
        assert (first["image"], first["digest"]) == ("reg.example/team/app:v1", str(image.digest))
        assert (first["rule"], first["verdict"], first["status"]) == ('rule "**"', "served", 200)
        assert (first["source"], again[-1]["source"], first["bytes"]) == ("decided", "memory", len(image.body))
        assert first["why"]
        assert first["ms"] >= 0
        assert (blob["who"], blob["bytes"]) == ("token:ci", len(layer.data))
        assert (missing["verdict"], missing["status"]) == ("absent", 404)
        assert (denied["who"], denied["image"]) == ("user:bob", "reg.example/team/app:v1")
        assert (denied["verdict"], denied["status"], denied["method"]) == ("denied", 403, "GET")
        assert "no access rule allows it" in denied["why"][0]
        assert (guessed["who"], guessed["verdict"], guessed["status"]) == ("anonymous", "login", 401)
        assert [line for line in logs if "address" in line] == pulls, "one line for each request"
        written = json.dumps(logs, default=str)
        for secret in ("right", token, TOKEN, "a guess", base64.b64encode(b"alice:right").decode()):
            assert secret not in written.replace("copyright", "")


@pytest.mark.parametrize("path", ["/v2/nowhere.example/acme/app/manifests/v1", "/v2/acme/app/manifests/v1?ns=nowhere.example"])
async def test_a_registry_that_is_not_configured_is_told_in_the_log(tmp_path: Path, path: str) -> None:
    """Its refusal is a decision like any other, without a rule, and before anybody is asked who they are."""
    async with Registry() as upstream, proxy_of(tmp_path, upstream, "log: {pulls: none}\n" + MIXED % HASH) as proxy:
        with capture_logs() as logs:
            assert (await proxy.get(path)).status == 403
        (line,) = [line for line in logs if line["event"] == "pull"]
        assert (line["verdict"], line["status"], line["what"], line["address"]) == ("denied", 403, "manifest", "127.0.0.1")
        assert line["image"].endswith("acme/app:v1")
        assert "the registry nowhere.example is not configured here" in line["why"][0]
        assert not {"who", "rule"} & line.keys()


@pytest.mark.parametrize(("level", "expected"), [("all", ["login", "login"]), ("decided", ["login"]), ("none", ["login"])])
async def test_a_challenge_that_every_login_begins_with_is_no_refusal(tmp_path: Path, level: str, expected: list[str]) -> None:
    """Without credentials it is only told by ``all``; with wrong ones always."""
    top = (MIXED % HASH) + f"log: {{pulls: {level}}}\n"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, top) as proxy:
        with capture_logs() as logs:
            for headers in ({}, basic("alice", "wrong")):
                assert (await proxy.get("/v2/reg.example/team/app/manifests/v1", headers)).status == 401
            assert (await proxy.get("/v2/")).status == 401
            assert (await proxy.get("/v2/", basic("alice", "wrong"))).status == 401
        assert [line["verdict"] for line in logs if line["event"] == "pull"] == expected
        assert [line["reason"] for line in logs if line["event"] == "login.refused"] == [WRONG]


async def test_the_log_has_the_bytes_of_every_answer(tmp_path: Path) -> None:
    """Of lists as well; none of what a HEAD or a 304 leaves out."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, rules=RULES, top="log: {pulls: all}\n") as proxy:
        image = upstream.image("team/app", "v1")
        at = "/v2/reg.example/team/app"
        condition = {"If-None-Match": f'"{image.digest}"'}
        with capture_logs() as logs:
            tags = await proxy.get(f"{at}/tags/list")
            referrers = await proxy.get(f"{at}/referrers/{image.digest}")
            for method, path, headers in (
                ("HEAD", f"{at}/tags/list", {}),
                ("HEAD", f"{at}/manifests/v1", {}),
                ("GET", f"{at}/manifests/v1", condition),
                ("GET", f"{at}/blobs/{image.blobs[1].digest}", {"Range": "bytes=5-9"}),
            ):
                await proxy.ask(method, path, headers)
            await until(lambda: len([line for line in logs if line["event"] == "pull"]) == 6)  # a blob's when all of it is out
        assert (tags.status, referrers.status) == (200, 200)
        assert [line["bytes"] for line in logs if line["event"] == "pull"] == [len(tags.body), len(referrers.body), 0, 0, 0, 5]


async def test_the_token_endpoint_and_the_ping_take_turns_as_well(tmp_path: Path) -> None:
    """Where a client's turns are taken they wait, and are told to come back; another client is not concerned."""
    top = (MIXED % HASH) + "limits: {client_requests: 1, request_timeout: 300ms}\n"
    async with Registry() as upstream, proxy_of(tmp_path, upstream, top) as proxy:
        fairness = proxy.application._api._fairness
        address, alice = fairness.enter("127.0.0.1"), fairness.enter("user:alice")
        assert address is not None
        assert alice is not None
        for path, headers in (("/token", basic("bob", "also right")), ("/v2/", basic("alice", "right"))):
            crowded = await proxy.get(path, headers)
            assert (crowded.status, crowded.headers["Retry-After"]) == (503, "1"), path
        assert (await proxy.get("/v2/", basic("bob", "also right"))).status == 200
        fairness.leave(address)
        fairness.leave(alice)
        assert (await proxy.get("/token", basic("bob", "also right"))).status == 200
        assert (await proxy.get("/v2/", basic("alice", "right"))).status == 200


@pytest.mark.parametrize(("level", "expected"), [("all", 4), ("decided", 2), ("none", 1)])
async def test_the_log_has_as_much_as_is_wanted(tmp_path: Path, level: str, expected: int) -> None:
    """All requests, those that were decided anew, or refusals alone."""
    top = f"log: {{pulls: {level}}}\ncheck_interval: 1h\n"
    async with Registry() as upstream, Proxy(tmp_path, upstream, rules=RULES, top=top) as proxy:
        upstream.image("team/app", "v1")
        with capture_logs() as logs:
            await proxy.manifest("team/app", "none")
            while proxy.application.gate.recall_tag(REPOSITORY, "v1") is None:
                await proxy.manifest("team/app", "v1")
            logs[:] = [line for line in logs if line.get("status") == 404]
            await proxy.manifest("team/app", "v1")
            image = await proxy.manifest("team/app", "v1")
            await proxy.manifest("team/app", image.digest)
        assert len([line for line in logs if line["event"] == "pull"]) == expected


# -- the admin listener -------------------------------------------------------------------------------------------------


async def test_neither_listener_says_by_what_software_it_answers(tmp_path: Path) -> None:
    """Pulls, refusals and what is no request, and health, metrics and what is not there: without a ``Server`` header."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy, aiohttp.ClientSession() as session:
        image = upstream.image("open/app", "v1")
        manifest, blob = "/v2/reg.example/open/app/manifests/", f"/v2/reg.example/open/app/blobs/{image.blobs[0].digest}"
        targets = (
            "/v2/",
            manifest + "v1",
            manifest + "v1",
            manifest + "none",
            blob,
            blob,
            "/v2/other.example/a/manifests/v1",
            "/no",
        )
        admin = ("/healthz", "/readyz", "/metrics", "/nothing")
        for url in (*(proxy.url + target for target in targets), *(proxy.admin + target for target in admin)):
            for method in ("GET", "HEAD", "DELETE"):
                async with session.request(method, url) as reply:
                    await reply.read()
                    assert "Server" not in reply.headers, (method, url)


async def test_promise_40_admin_tokens(tmp_path: Path) -> None:
    """With tokens, metrics are for those who show one; everybody else learns alive and ready, and no more."""
    top = f"admin: {{listen: 127.0.0.1:0, tokens: {{ops: {{sha256: {HASH}}}}}}}\n"
    async with (
        Registry() as upstream,
        Proxy(tmp_path, upstream, rules=RULES, top=top) as proxy,
        aiohttp.ClientSession() as session,
    ):

        async def ask(path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
            async with session.get(proxy.admin + path, headers=headers) as reply:
                return reply.status, await reply.text()

        assert await ask("/healthz") == (200, "ok\n")
        assert await ask("/readyz") == (200, "ready\n")
        assert (await ask("/metrics"))[0] == 401
        assert (await ask("/metrics", bearer("tagstone_wrong")))[0] == 401
        assert (await ask("/nothing"))[0] == 401
        for headers in (bearer(TOKEN), basic("ops", TOKEN)):
            assert "tagstone_responses" in (await ask("/metrics", headers))[1]
            assert json.loads((await ask("/readyz", headers))[1]) == {"ready": True, "trouble": {}}
