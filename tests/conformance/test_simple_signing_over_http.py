"""GPG simple signing through the whole proxy: found in a lookaside, judged, kept, judged again with the lookaside gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.digest import Digest
from tests.harness import Proxy, Reply
from tests.simulator import when
from tests.simulator.behaviours import endless, header, html, redirect, silence, status
from tests.simulator.images import Image
from tests.simulator.lookaside import Shelf, give_signature_api
from tests.simulator.openpgp import Keyring, packet, text
from tests.simulator.registry import Registry
from tests.simulator.server import Behaviour
from tests.tools import need

ACME, BEN = "Acme <acme@acme.test>", "Ben <ben@acme.test>"
SIGNED = "{signature: {key: redhat}}"
QUICK = "limits: {evidence_timeout: 1s}"


@pytest.fixture(scope="module")
def keyring() -> Iterator[Keyring]:
    """Two signers."""
    with Keyring(need("gpg")) as found:
        found.make(ACME)
        found.make(BEN)
        yield found


def rules(require: str = SIGNED) -> str:
    """One rule for everything."""
    return f'rules: [{{match: "**", require: {require}}}]\n'


def proxy_of(
    folder: Path, upstream: Registry, keyring: Keyring, shelf: Shelf | None, top: str = "", *, require: str = SIGNED
) -> Proxy:
    """A proxy that knows both signers, and asks for the first; without a shelf the registry has the signatures."""
    entries = []
    for name, user in (("redhat", ACME), ("ben", BEN)):
        (folder / f"{name}.asc").write_bytes(keyring.export(user))
        where = "" if shelf is None else f", lookaside: {shelf.base}, allow_private: true"
        entries.append(f"{name}: {{gpg: {folder}/{name}.asc{where}}}")
    return Proxy(folder, upstream, keys="\n".join(entries), rules=rules(require), top=top)


def sign(keyring: Keyring, image: Image, *users: str, name: str = "reg.example/acme/app:v1") -> bytes:
    """As ``skopeo copy --sign-by`` does."""
    return keyring.sign(text(image.digest, name), *(users or (ACME,)))


def reason(answer: Reply, status: int = 403) -> str:
    """Why a pull was refused."""
    assert answer.status == status, answer.body
    return str(answer.error["message"])


async def test_a_signature_from_a_lookaside_admits(scratch: Path, keyring: Keyring) -> None:
    """Asked for by repository and digest, without the registry's name, until the first that is not there, and nowhere else."""
    async with Registry() as upstream, Shelf() as shelf, proxy_of(scratch, upstream, keyring, shelf) as proxy:
        image = upstream.image("acme/app", "v1")
        shelf.put("acme/app", image.digest, sign(keyring, image, BEN), sign(keyring, image))
        assert (await proxy.manifest("acme/app", "v1")).body == image.body
        layer = image.blobs[-1]
        assert (await proxy.blob("acme/app", layer.digest)).body == layer.data
        folder = f"/sigstore/acme/app@sha256={image.digest.hex}"
        assert [seen.target for seen in shelf.seen()] == [f"{folder}/signature-{number}" for number in (1, 2, 3)]
        assert all(seen.authorization is None for seen in shelf.seen())
        assert upstream.count(kind="referrers") == 0
        assert not [seen for seen in upstream.seen(kind="manifest") if seen.reference.endswith(".sig")]


async def test_it_is_judged_again_with_the_lookaside_gone(scratch: Path, keyring: Keyring) -> None:
    """Its evidence is kept: a changed rule, a restart and an outage of everything leave the image served; nothing new gets in."""
    async with Registry() as upstream, Shelf() as shelf, proxy_of(scratch, upstream, keyring, shelf) as proxy:
        image = upstream.image("acme/app", "v1")
        other = upstream.image("acme/app", "v2", seed="other")
        shelf.put("acme/app", image.digest, sign(keyring, image), sign(keyring, image, BEN))
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        shelf.on(when.method("GET"), status(503))
        upstream.on(when.manifest(reference="v1"), status(503))
        await proxy.reload(rules("{all: [{signature: {key: redhat}}, {signature: {key: ben}}]}"))
        assert (await proxy.manifest("acme/app", "v1")).body == image.body
        await proxy.restart()
        assert (await proxy.manifest("acme/app", image.digest)).body == image.body
        assert "lookaside" in reason(await proxy.manifest("acme/app", other.digest), 503)


async def test_clients_do_not_see_what_it_is_kept_as(scratch: Path, keyring: Keyring) -> None:
    """No list names it; by its own digest it is bytes, in its own repository alone."""
    async with Registry() as upstream, Shelf() as shelf, proxy_of(scratch, upstream, keyring, shelf) as proxy:
        image = upstream.image("acme/app", "v1")
        signature = sign(keyring, image)
        shelf.put("acme/app", image.digest, signature)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        for outage in (False, True):
            if outage:
                upstream.on(when.referrers(), status(503))
                upstream.on(when.manifest(), status(503))
            listed = await proxy.get(f"/v2/reg.example/acme/app/referrers/{image.digest}")
            assert b"tagstone" not in listed.body
            tagged = await proxy.manifest("acme/app", f"sha256-{image.digest.hex}.sig")
            assert tagged.status != 200
        assert (await proxy.blob("acme/app", Digest.of(signature))).body == signature
        assert (await proxy.blob("acme/other", Digest.of(signature))).status == 403


async def test_refusals_say_what_was_found(scratch: Path, keyring: Keyring) -> None:
    """No signature, somebody else's, another image's, another repository's, two in one, what is no signature at all."""
    async with Registry() as upstream, Shelf() as shelf, proxy_of(scratch, upstream, keyring, shelf) as proxy:
        image = upstream.image("acme/app", "v1")
        other = upstream.image("acme/app", "v2", seed="other")
        cases: dict[str, tuple[bytes, ...]] = {
            "a signature by key redhat is required; found: no signature at all": (),
            "is not made by key redhat, but by OpenPGP key": (sign(keyring, image, BEN),),
            "made by key redhat, but it is about another image": (sign(keyring, other),),
            "names another repository: reg.example/acme/app2:v1": (sign(keyring, image, name="reg.example/acme/app2:v1"),),
            "has 2 OpenPGP signatures; exactly one is expected": (sign(keyring, image, ACME, BEN),),
            "is a detached OpenPGP signature": (keyring.sign(text(image.digest, "x"), ACME, how="--detach-sign"),),
            "is no OpenPGP message": (b"nonsense",),
            "is empty": (b"",),
            "has more than 1048576 bytes when it is unpacked": (keyring.sign(bytes(8 << 20), ACME),),
            "is broken": (packet(8, b"\1nonsense"),),
        }
        for told, signatures in cases.items():
            shelf.put("acme/app", image.digest, *signatures)
            await proxy.restart()
            assert told in reason(await proxy.manifest("acme/app", "v1"))


async def test_promise_45_a_huge_signature_hides_none_behind_it(scratch: Path, keyring: Keyring) -> None:
    """It is refused by itself; the valid one after it suffices, up to the cap on their number."""
    limits = "limits: {signatures: 3}\n"
    async with Registry() as upstream, Shelf() as shelf, proxy_of(scratch, upstream, keyring, shelf, limits) as proxy:
        for number, status_code in ((2, 200), (3, 403)):
            image = upstream.image("acme/app", f"v{number}", seed=str(number))
            shelf.put("acme/app", image.digest, *([bytes((1 << 20) + 1)] * number), sign(keyring, image))
            assert (await proxy.manifest("acme/app", f"v{number}")).status == status_code


OUTAGES: dict[str, tuple[Behaviour, int, str]] = {
    "down": (status(500), 503, "answered 500"),
    "busy": (status(429), 503, "answered 429"),
    "forbidden": (status(403), 503, "denies access to signature 1"),
    "wants a login": (status(401, headers={"WWW-Authenticate": 'Basic realm="x"'}), 503, "denies access to signature 1"),
    "a login page": (html(), 503, "sent a web page instead of a signature"),
    "silent": (silence(), 503, "did not answer in time"),
    "elsewhere, by http": (redirect("http://127.0.0.2:1/x"), 503, ""),
    "in circles": (redirect("{target}"), 403, "redirects in a circle"),
    "huge": (endless(), 403, "sent more than the 1048576 bytes that are allowed"),
    "announces much": (header("Content-Length", "9999999"), 403, "announced 9999999 bytes"),
    "compressed": (header("Content-Encoding", "gzip"), 403, "sent an encoded body"),
}


@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_is_no_absence(scratch: Path, keyring: Keyring, outage: str) -> None:
    """Only 404 says that there is no signature; what breaks a promise is refused."""
    behaviour, code, told = OUTAGES[outage]
    async with Registry() as upstream, Shelf() as shelf, proxy_of(scratch, upstream, keyring, shelf, QUICK) as proxy:
        image = upstream.image("acme/app", "v1")
        shelf.put("acme/app", image.digest, sign(keyring, image))
        fault = shelf.on(when.method("GET"), behaviour)
        answer = await proxy.manifest("acme/app", "v1")
        assert told in reason(answer, code)
        assert (code == 503) == ("Retry-After" in answer.headers)
        assert fault.fired


async def test_what_came_before_an_outage_counts(scratch: Path, keyring: Keyring) -> None:
    """The first signature suffices, whatever happens to the second."""
    async with Registry() as upstream, Shelf() as shelf, proxy_of(scratch, upstream, keyring, shelf, QUICK) as proxy:
        image = upstream.image("acme/app", "v1")
        shelf.put("acme/app", image.digest, sign(keyring, image))
        shelf.on(when.When(lambda seen: seen.path.endswith("signature-2")), status(500))
        assert (await proxy.manifest("acme/app", "v1")).status == 200


async def test_a_redirect_is_followed_where_it_may_lead(scratch: Path, keyring: Keyring) -> None:
    """Signatures may be on another host."""
    async with Registry() as upstream, Shelf() as real, Shelf() as front, proxy_of(scratch, upstream, keyring, front) as proxy:
        image = upstream.image("acme/app", "v1")
        real.put("acme/app", image.digest, sign(keyring, image))
        front.on(when.method("GET"), redirect(f"{real.url}{{target}}"))
        assert (await proxy.manifest("acme/app", "v1")).status == 200


async def test_65_signatures_are_64(scratch: Path, keyring: Keyring) -> None:
    """The 65th is never judged, though it is the right one, and the refusal says that there are more."""
    async with Registry() as upstream, Shelf() as shelf, proxy_of(scratch, upstream, keyring, shelf) as proxy:
        image = upstream.image("acme/app", "v1")
        right, wrong = sign(keyring, image), sign(keyring, image, BEN)
        shelf.put("acme/app", image.digest, *[wrong] * 64, right)
        told = reason(await proxy.manifest("acme/app", "v1"))
        assert "more than 64 signatures are there; only the first 64 were judged" in told
        assert shelf.count() == 65
        shelf.put("acme/app", image.digest, *[wrong] * 63, right)
        await proxy.restart()
        assert (await proxy.manifest("acme/app", "v1")).status == 200


async def test_two_keys_count_as_two_and_one_as_one(scratch: Path, keyring: Keyring) -> None:
    """By their primary fingerprints."""
    both = "{at_least: 2, of: [{signature: {key: redhat}}, {signature: {key: ben}}]}"
    async with Registry() as upstream, Shelf() as shelf, proxy_of(scratch, upstream, keyring, shelf, require=both) as proxy:
        image = upstream.image("acme/app", "v1")
        shelf.put("acme/app", image.digest, sign(keyring, image), sign(keyring, image))
        assert "by distinct signers; 1 met" in reason(await proxy.manifest("acme/app", "v1"))
        shelf.put("acme/app", image.digest, sign(keyring, image), sign(keyring, image, BEN))
        await proxy.restart()
        assert (await proxy.manifest("acme/app", "v1")).status == 200


async def test_the_registry_itself_may_have_the_signatures(scratch: Path, keyring: Keyring) -> None:
    """Without a lookaside its signature API is asked, if it says that it has one; a registry without has no signatures."""
    async with Registry() as upstream, proxy_of(scratch, upstream, keyring, None) as proxy:
        image = upstream.image("acme/app", "v1")
        assert "no signature at all" in reason(await proxy.manifest("acme/app", "v1"))
        give_signature_api(upstream, "acme/app", image.digest, sign(keyring, image, BEN), sign(keyring, image))
        await proxy.restart()
        assert (await proxy.manifest("acme/app", "v1")).status == 200


async def test_the_registrys_signatures_may_be_out_of_reach(scratch: Path, keyring: Keyring) -> None:
    """An outage of the API is no absence, and an answer in another form is refused."""
    async with Registry() as upstream, proxy_of(scratch, upstream, keyring, None) as proxy:
        image = upstream.image("acme/app", "v1")
        give_signature_api(upstream, "acme/app", image.digest, sign(keyring, image))
        api = when.path(f"/extensions/v2/acme/app/signatures/{image.digest}")
        for behaviour, code, told in (
            (status(500), 503, "answered 500"),
            (status(403), 503, "denies access"),
            (html(), 503, "sent a web page"),
            (status(200, b"[]", content_type="application/json"), 403, "in a form that cannot be read"),
            (status(200, {"signatures": [{"schemaVersion": 2, "type": "atomic", "content": "?"}]}), 403, "not base64"),
            (status(200, {"signatures": "x"}), 403, "`signatures` is not a list"),
            (status(200, {"signatures": [{"schemaVersion": 1, "type": "atomic"}, {}, "x"]}), 403, "no signature at all"),
            (status(200, {"signatures": None}), 403, "no signature at all"),
            (status(404), 403, "no signature at all"),
        ):
            fault = upstream.on(api, behaviour)
            await proxy.restart()
            assert told in reason(await proxy.manifest("acme/app", "v1"), code)
            fault.off()
        upstream.on(when.ping(), status(503))
        await proxy.restart()
        assert "503" in reason(await proxy.manifest("acme/app", "v1"), 503)
