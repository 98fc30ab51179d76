"""One gate: whatever way is tried to a byte, an unaccepted one does not come out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from storage.records import Event, EventType
from tests.harness import RULES, Proxy, until
from tests.simulator import images, signing, when
from tests.simulator.behaviours import body, cut, endless, flip, gzip, hold, lengthen, redirect, shorten, status
from tests.simulator.registry import Registry
from tests.tools import PATIENCE


async def test_promise_07_a_pull_that_dies_before_its_pin_leaves_none(tmp_path: Path) -> None:
    """Stopped between verdict and pin, the proxy has neither pin nor answer; the next start decides anew."""
    async with Registry() as upstream:
        image = upstream.image("acme/app", "v1")
        proxy = Proxy(tmp_path, upstream, top="limits: {request_timeout: 5s}")
        upstream.sign("acme/app", image.digest, proxy.signer)
        await proxy.start()
        gate = asyncio.Event()
        apply = proxy.application.pins.apply

        async def never(write: object) -> None:
            gate.set()
            await asyncio.Event().wait()

        proxy.application.pins.apply = never  # type: ignore[method-assign]  # the moment between verdict and commit
        pull = asyncio.create_task(proxy.manifest("acme/app", "v1"))
        await asyncio.wait_for(gate.wait(), PATIENCE)
        pull.cancel()
        proxy.application.pins.apply = apply  # type: ignore[method-assign]
        await proxy.stop()
        await proxy.start()
        assert await proxy.pin("acme/app:v1") is None
        assert (await proxy.manifest("acme/app", "v1")).digest == str(image.digest)
        await proxy.stop()


async def test_promise_16_and_18_documents_that_mislead_clients_are_refused(tmp_path: Path) -> None:
    """Layer urls and malformed digests in a manifest refuse the image, and nothing they name is dialled."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", None)
        for change in ({"urls": [f"{upstream.url}/elsewhere"]}, {"digest": "sha256:../../etc"}):
            manifest = json.loads(image.body)
            manifest["layers"][0].update(change)
            upstream.manifest("open/app", json.dumps(manifest).encode(), image.media_type, "bad")
            answer = await proxy.manifest("open/app", "bad")
            assert answer.status == 403
            assert answer.error["code"] == "DENIED"
        assert not upstream.count("GET", "/elsewhere")


@pytest.mark.parametrize("method", ["PUT", "POST", "PATCH", "DELETE", "OPTIONS", "PROPFIND"])
async def test_promise_21_writes_and_unknown_methods_are_405(tmp_path: Path, method: str) -> None:
    """Whatever does not read is 405 UNSUPPORTED, and the upstream hears nothing of it."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        answer = await proxy.ask(method, "/v2/reg.example/open/app/manifests/v1")
        assert (answer.status, answer.error["code"]) == (405, "UNSUPPORTED")
        assert answer.headers["Allow"] == "GET, HEAD"
        assert not upstream.requests


@pytest.mark.parametrize("path", ["blob", "manifest"])
async def test_promise_28_encoded_bodies_are_refused(tmp_path: Path, path: str) -> None:
    """A Content-Encoding that was not asked for ends the pull; nothing of it is stored or served."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", "v1")
        if path == "blob":
            assert (await proxy.manifest("open/app", "v1")).status == 200
            fault = upstream.on(when.blob("GET"), gzip(unless_identity=False))
            answer = await proxy.blob("open/app", image.layers[0].digest)
        else:
            fault = upstream.on(when.manifest("GET"), gzip(unless_identity=False))
            answer = await proxy.manifest("open/app", "v1")
        assert fault.fired
        assert answer.status == 403 or answer.cut
        fault.active = False
        again = await (proxy.blob("open/app", image.layers[0].digest) if path == "blob" else proxy.manifest("open/app", "v1"))
        assert again.status == 200


@pytest.mark.parametrize("how", ["endless", "short", "long", "flipped"])
async def test_promise_29_and_30_a_wrong_body_never_completes(tmp_path: Path, how: str) -> None:
    """Endless, short, long and altered bodies reach the client as an error or a cut, never as a complete 200; nothing is kept."""
    behaviour = {"endless": endless(), "short": shorten(), "long": lengthen(), "flipped": flip()}[how]
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", "v1", layer_size=400_000)
        layer = image.layers[0]
        assert (await proxy.manifest("open/app", "v1")).status == 200
        fault = upstream.on(when.blob("GET", str(layer.digest)), behaviour)
        answer = await proxy.blob("open/app", layer.digest)
        assert fault.fired
        assert answer.status != 200 or answer.cut
        assert len(answer.body) < layer.size or answer.status != 200
        assert not [path for path in proxy.data_dir.rglob(layer.digest.hex) if "blobs" in path.parts]
        fault.active = False
        await asyncio.sleep(0.3)
        again = await proxy.blob("open/app", layer.digest)
        assert again.status in {200, 503}


async def test_promise_31_a_range_is_exact_and_never_unverified(tmp_path: Path) -> None:
    """A slice of a stored blob is exact, of an arriving one the whole comes as 200, outside of it 416."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", "v1", layer_size=600_000)
        layer = image.layers[0]
        whole = upstream.stored("open/app", layer.digest)
        assert whole is not None
        assert (await proxy.manifest("open/app", "v1")).status == 200
        arriving = await proxy.blob("open/app", layer.digest, Range="bytes=100-199")
        assert (arriving.status, arriving.body) == (200, whole)
        await until(lambda: list((proxy.data_dir / "blobs").rglob(layer.digest.hex)))
        for given, start, stop in (("100-199", 100, 200), ("0-", 0, layer.size), ("-10", layer.size - 10, layer.size)):
            answer = await proxy.blob("open/app", layer.digest, Range=f"bytes={given}")
            assert (answer.status, answer.body) == (206, whole[start:stop])
            assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{layer.size}"
        assert (await proxy.blob("open/app", layer.digest, Range=f"bytes={layer.size}-")).status == 416
        assert upstream.count("GET", f"/blobs/{layer.digest}") == 1


async def test_promise_34_a_cached_blob_belongs_to_its_repository(tmp_path: Path) -> None:
    """A digest that is cached through one repository is not served to another that does not reach it."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/one", "v1")
        upstream.image("open/two", "v1", seed="other")
        layer = image.layers[0].digest
        for name in ("open/one", "open/two"):
            assert (await proxy.manifest(name, "v1")).status == 200
        assert (await proxy.blob("open/one", layer)).status == 200
        for method in ("GET", "HEAD"):
            assert (await proxy.blob("open/two", layer, method)).status == 403
            assert (await proxy.blob("open/two", layer, method, Range="bytes=0-9")).status == 403
        assert (await proxy.manifest("open/two", image.digest)).status == 404


async def test_promise_36_a_blob_of_a_refused_image_is_refused_unless_an_accepted_one_reaches_it(tmp_path: Path) -> None:
    """The layers of an unsigned image stay out of reach; the one it shares with a signed image does not."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        signed = upstream.image("acme/app", "v1", seed="signed", layers=1)
        upstream.sign("acme/app", signed.digest, proxy.signer)
        shared = signed.manifest["layers"][0]
        unsigned = upstream.image("acme/app", None, seed="unsigned", layers=1)
        mixed = json.loads(unsigned.body)
        mixed["layers"].append(shared)
        upstream.manifest("acme/app", json.dumps(mixed).encode(), unsigned.media_type, "mixed")
        assert (await proxy.manifest("acme/app", "mixed")).status == 403
        assert (await proxy.blob("acme/app", shared["digest"])).status == 403
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.blob("acme/app", shared["digest"])).status == 200
        assert (await proxy.blob("acme/app", unsigned.layers[0].digest)).status == 403


async def test_promise_37_a_flipped_bit_is_found_quarantined_and_fetched_again(tmp_path: Path) -> None:
    """A blob that was altered on disk is never served; it is replaced from the upstream, or 5xx while that is gone."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", "v1", layer_size=700_000)
        layer = image.layers[0]
        whole = upstream.stored("open/app", layer.digest)
        assert (await proxy.manifest("open/app", "v1")).status == 200
        assert (await proxy.blob("open/app", layer.digest)).body == whole

        async def stored() -> Path:
            # Until it is put away, the fetch that wrote the file serves it.
            await until(lambda: not proxy.application.ingest.arriving)
            return next(iter((proxy.data_dir / "blobs").rglob(layer.digest.hex)))

        file = await stored()
        file.chmod(0o600)
        with file.open("r+b") as altered:
            altered.seek(1000)
            altered.write(b"!")
        assert (await proxy.blob("open/app", layer.digest)).body == whole
        assert upstream.count("GET", f"/blobs/{layer.digest}") == 2
        await until(lambda: list((proxy.data_dir / "quarantine").rglob("*")))
        assert EventType.BLOB_DAMAGED in {event.type for event in await _events(proxy)}
        file = await stored()
        file.chmod(0o600)
        file.write_bytes(file.read_bytes()[:-1])
        await upstream.stop()
        answer = await proxy.blob("open/app", layer.digest)
        assert answer.status == 503


async def _events(proxy: Proxy) -> list[Event]:
    found: list[Event] = []

    async def some() -> bool:
        found[:] = await proxy.events()
        return bool(found)

    await until(some)
    return found


@pytest.mark.parametrize("state", ["empty", "down"])
async def test_promise_46_unavailable_is_not_unsigned(tmp_path: Path, state: str) -> None:
    """No signature and unreachable signatures both refuse, with different words and statuses."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        upstream.image("acme/app", "v1")
        if state == "down":
            upstream.on(when.referrers() | when.manifest(None, None) & when.path(".sig"), status(500))
        answer = await proxy.manifest("acme/app", "v1")
        if state == "empty":
            assert (answer.status, "no signature" in answer.error["message"]) == (403, True)
        else:
            assert (answer.status, "could not ask" in answer.error["message"]) == (503, True)
            assert "Retry-After" in answer.headers


async def test_promise_47_a_signature_stripped_after_acceptance_changes_nothing(tmp_path: Path) -> None:
    """The pin is served on, over a restart and under a changed rule that the stored signature still meets."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", image.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        upstream.untag("acme/app", signing.signature_tag(image.digest))
        await proxy.restart()
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        await proxy.reload(RULES.replace("signature: {key: release-key}", "all: [{signature: {key: release-key}}]"))
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        await upstream.stop()
        await proxy.reload(RULES)
        assert (await proxy.manifest("acme/app", "v1")).status == 200


async def test_promise_48_a_child_passes_through_its_signed_index_only(tmp_path: Path) -> None:
    """A child of a signed index is served once the index was accepted, also after a restart; a stranger is not."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        children = [upstream.image("acme/app", None, seed=arch) for arch in ("amd64", "arm64")]
        stranger = upstream.image("acme/app", None, seed="stranger")
        index = upstream.index("acme/app", "v1", images=children)
        upstream.sign("acme/app", index.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", children[0].digest)).status == 403, "its index was not accepted yet"
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        await proxy.restart()
        for child in children:
            assert (await proxy.manifest("acme/app", child.digest)).body == child.body
            assert (await proxy.blob("acme/app", child.layers[0].digest)).status == 200
        assert (await proxy.manifest("acme/app", stranger.digest)).status == 403


async def test_promise_50_a_reload_in_mid_pull_is_decided_by_one_revision(tmp_path: Path) -> None:
    """A pull that began under the old rules ends under them; the next one is judged by the new."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", "v1")
        release = asyncio.Event()
        upstream.on(when.manifest("GET", "v1"), hold(release), times=1)
        pull = asyncio.create_task(proxy.manifest("open/app", "v1"))
        await until(lambda: upstream.count("GET", "/manifests/v1"))
        await proxy.reload('rules: [{match: "**", require: deny}]\n')
        release.set()
        assert (await pull).digest == str(image.digest)
        assert (await proxy.manifest("open/app", "v1")).status == 403
        assert (await proxy.manifest("open/app", image.digest)).status == 403
        assert (await proxy.blob("open/app", image.layers[0].digest)).status == 403


async def test_promise_56_two_hundred_first_pulls_are_one_fetch(tmp_path: Path) -> None:
    """200 clients at once cost one fetch a blob and one verification, though the first of them leaves."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1", layer_size=500_000)
        upstream.sign("acme/app", image.digest, proxy.signer)
        layer = image.layers[0]
        leaver = asyncio.create_task(proxy.manifest("acme/app", "v1"))
        await until(lambda: upstream.count("GET", "/manifests/v1"))
        leaver.cancel()
        answers = await asyncio.gather(*(proxy.manifest("acme/app", "v1") for _ in range(200)))
        assert {answer.status for answer in answers} == {200}
        assert upstream.count("GET", "/manifests/v1") == 1
        assert upstream.count("GET", f"{signing.signature_tag(image.digest)}") == 1
        blobs = await asyncio.gather(*(proxy.blob("acme/app", layer.digest) for _ in range(200)))
        assert {len(answer.body) for answer in blobs} == {layer.size}
        assert upstream.count("GET", f"/blobs/{layer.digest}") == 1


async def test_a_signature_tag_passes_by_shape_not_by_name(tmp_path: Path) -> None:
    """Real signatures of an admitted image are served under their tag and digest; a runnable image under such a tag is not."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        signature = upstream.sign("acme/app", image.digest, proxy.signer)
        tag = signing.signature_tag(image.digest)
        answer = await proxy.manifest("acme/app", tag)
        assert (answer.status, answer.digest) == (200, str(signature.digest))
        assert (await proxy.manifest("acme/app", signature.digest)).status == 200
        assert (await proxy.blob("acme/app", signature.layers[0].digest)).status == 200
        runnable = upstream.image("acme/app", tag, seed="runnable")
        assert (await proxy.manifest("acme/app", tag)).status == 403
        assert (await proxy.manifest("acme/app", runnable.digest)).status == 403
        await upstream.stop()
        assert (await proxy.manifest("acme/app", tag)).digest == str(signature.digest), "the stored one, with the upstream gone"


async def test_layers_in_the_clothes_of_signatures_are_refused(tmp_path: Path) -> None:
    """An image whose real layers claim to be signature payloads is not served under a signature tag, nor are its layers."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", image.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        disguised = json.loads(upstream.image("acme/app", None, seed="runnable").body)
        for layer in disguised["layers"]:
            layer["mediaType"] = signing.SIMPLE_SIGNING
        tag = signing.signature_tag(image.digest)
        digest = upstream.manifest("acme/app", json.dumps(disguised).encode(), images.OCI_MANIFEST, tag)
        answer = await proxy.manifest("acme/app", tag)
        assert (answer.status, "not text" in answer.error["message"]) == (403, True)
        assert (await proxy.manifest("acme/app", digest)).status == 403
        assert (await proxy.blob("acme/app", disguised["layers"][0]["digest"])).status == 403


async def test_evidence_does_not_pass_as_an_image(tmp_path: Path) -> None:
    """A referrer of an admitted image is served by digest, but no tag can be pinned to it without a signature of its own."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        bundle = upstream.attach("acme/app", image, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        assert (await proxy.manifest("acme/app", bundle.digest)).status == 200
        upstream.tag("acme/app", "v2", bundle.digest)
        assert (await proxy.manifest("acme/app", "v2")).status == 403


@pytest.mark.parametrize("api", [True, False])
async def test_referrers_are_listed_and_filtered(tmp_path: Path, api: bool) -> None:
    """The referrers of an admitted image come as an index, through the API or the fallback tag, filtered on demand."""
    async with Registry(referrers_api=api) as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("acme/app", "v1")
        bundle = upstream.attach("acme/app", image, proxy.signer)
        path = f"/v2/reg.example/acme/app/referrers/{image.digest}"
        answer = await proxy.get(path)
        assert answer.headers["Content-Type"] == images.OCI_INDEX
        assert [entry["digest"] for entry in json.loads(answer.body)["manifests"]] == [str(bundle.digest)]
        filtered = await proxy.get(path + "?artifactType=application/spdx%2Bjson")
        assert json.loads(filtered.body)["manifests"] == []
        assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
        stranger = upstream.image("acme/app", None, seed="stranger")
        assert (await proxy.get(f"/v2/reg.example/acme/app/referrers/{stranger.digest}")).status == 403
        await upstream.stop()
        offline = await proxy.get(path)
        assert [entry["digest"] for entry in json.loads(offline.body)["manifests"]] == [str(bundle.digest)]
        assert "299" in offline.headers["Warning"]


async def test_tags_are_listed_in_pages(tmp_path: Path) -> None:
    """All tags come sorted; ``n`` and ``last`` cut pages whose Link leads on through the proxy."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", None)
        names = sorted(f"v{number}" for number in range(250))
        for name in names:
            upstream.tag("open/app", name, image.digest)
        assert json.loads((await proxy.get("/v2/reg.example/open/app/tags/list")).body)["tags"] == names
        seen: list[str] = []
        path = "/v2/open/app/tags/list?ns=reg.example&n=100"
        answer = await proxy.get(path)
        while True:
            seen += json.loads(answer.body)["tags"]
            assert answer.headers["OCI-Namespace"] == "reg.example"
            link = answer.headers.get("Link")
            if link is None:
                break
            assert link.endswith('rel="next"')
            answer = await proxy.get(link.partition(">")[0].removeprefix("<"))
        assert seen == names
        assert json.loads((await proxy.get("/v2/reg.example/open/app/tags/list?n=0")).body)["tags"] == []
        assert (await proxy.get("/v2/reg.example/other/app/tags/list")).status == 403


async def test_conditional_requests_save_the_body(tmp_path: Path) -> None:
    """If-None-Match with the digest answers 304 for manifests and blobs, after the gate has agreed."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).headers["ETag"] == f'"{image.digest}"'
        for answer in (
            await proxy.manifest("open/app", "v1", **{"If-None-Match": f'"{image.digest}"'}),
            await proxy.blob("open/app", image.layers[0].digest, **{"If-None-Match": f'W/"x", "{image.layers[0].digest}"'}),
        ):
            assert (answer.status, answer.body) == (304, b"")


async def test_redirects_to_private_addresses_and_bodies_that_lie_are_not_followed(tmp_path: Path) -> None:
    """A cut, a redirect loop and a wrong body instead of a manifest all refuse."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        upstream.image("open/app", "v1")
        for behaviour in (cut(10), redirect("/v2/open/app/manifests/v1"), body(b"{}")):
            fault = upstream.on(when.manifest("GET", "v1"), behaviour)
            answer = await proxy.manifest("open/app", "v1")
            assert answer.status in {403, 503}
            assert fault.fired
            fault.active = False
        assert (await proxy.manifest("open/app", "v1")).status == 200
