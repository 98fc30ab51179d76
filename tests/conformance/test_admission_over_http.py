"""Kubernetes admission: the same gate for workloads as for pulls, over HTTP, with real reviews and simulated upstreams."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from proxy.services.workloads import read_review
from storage.digest import Digest
from storage.errors import DatabaseUnavailable
from tests.conformance.test_access_over_http import users
from tests.conformance.test_tls_over_http import Files
from tests.fuzz.forms import Changer
from tests.harness import Proxy, Reply
from tests.simulator import when
from tests.simulator.behaviours import hold, status
from tests.simulator.kubernetes import UID, USER, Object, patched, pod, pod_spec, response, review, workload
from tests.simulator.registry import Registry
from tests.tools import PATIENCE, SOON

ON = "admission: {}\n"
VALIDATE, MUTATE = "/admission/v1/validate?timeout=10s", "/admission/v1/mutate?timeout=10s"


async def post(
    proxy: Proxy, document: Any, path: str = VALIDATE, headers: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> Reply:
    """Send something as an API server does."""
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    sent = {"Content-Type": "application/json", **(headers or {})}
    connector = aiohttp.TCPConnector(ssl=tls) if tls is not None else None
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(proxy.url + path, data=io.BytesIO(body), headers=sent) as answer,
    ):
        return Reply(answer.status, answer.reason or "", answer.headers, await answer.read())


@asynccontextmanager
async def raw(proxy: Proxy, *headers: str, timeout: int = 1) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which a review begins, whose sender would wait for so many seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
    head = (f"POST /admission/v1/validate?timeout={timeout}s HTTP/1.1", "Host: x", "Content-Type: application/json", *headers)
    writer.write("\r\n".join((*head, "", "")).encode())
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def ask(proxy: Proxy, document: Any, path: str = VALIDATE, headers: dict[str, str] | None = None) -> Object:
    """The response to a review."""
    answer = await post(proxy, document, path, headers)
    assert answer.status == 200, answer.body
    return response(answer.body)


def signed(proxy: Proxy, upstream: Registry, name: str = "acme/app", tag: str = "v1", seed: str = "one") -> Digest:
    """An image that passes."""
    image = upstream.image(name, tag, seed=seed)
    upstream.sign(name, image.digest, proxy.signer)
    return image.digest


# -- what passes, and what it becomes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "Pod",
        "PodTemplate",
        "ReplicationController",
        "Deployment",
        "ReplicaSet",
        "StatefulSet",
        "DaemonSet",
        "Job",
        "CronJob",
    ],
)
async def test_signed_images_pass_and_become_their_digests(tmp_path: Path, kind: str) -> None:
    """In every list of every kind; the tag is pinned by it, as by a pull; what is written passes without another patch."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        digest = signed(proxy, upstream)
        tag, always = "reg.example/acme/app:v1", f"reg.example/acme/app@{digest}"
        thing = workload(kind, pod_spec(tag, always, init=[tag], ephemeral=[tag], volumes=[tag]))
        found = await ask(proxy, review(thing), MUTATE)
        assert found["allowed"]
        after = patched(thing, found)
        assert after == workload(kind, pod_spec(always, always, init=[always], ephemeral=[always], volumes=[always]))
        pin = await proxy.pin("acme/app:v1")
        assert pin is not None
        assert pin.digest == digest
        checked = await ask(proxy, review(after))
        assert checked == {"uid": UID, "allowed": True}
        assert await ask(proxy, review(after), MUTATE) == {"uid": UID, "allowed": True}


async def test_a_tag_passes_with_a_word(tmp_path: Path) -> None:
    """Where nothing was written in its place, the person hears what it means here."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        digest = signed(proxy, upstream)
        found = await ask(proxy, review(pod("reg.example/acme/app:v1")))
        assert found["allowed"]
        (warning,) = found["warnings"]
        assert warning.startswith(f'container "c0": reg.example/acme/app:v1 is a tag, which means {digest.short} here')


async def test_the_short_path_validates(tmp_path: Path) -> None:
    """``/admission/v1`` alone, and without a time."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        digest = signed(proxy, upstream)
        assert (await ask(proxy, review(pod(f"reg.example/acme/app@{digest}")), "/admission/v1"))["allowed"]
        assert not (await ask(proxy, review(pod("reg.example/none/app")), "/admission/v1"))["allowed"]


async def test_the_registry_becomes_the_mirror(tmp_path: Path) -> None:
    """With ``mutate: mirror`` nodes are sent here; names that lead here already are understood."""
    top = "admission: {mutate: mirror, mirror: mirror.example:5000}\n"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=top) as proxy:
        digest = signed(proxy, upstream)
        here = f"mirror.example:5000/reg.example/acme/app@{digest}"
        images = (
            "reg.example/acme/app:v1",
            "mirror.example:5000/reg.example/acme/app:v1",
            f"reg.example/acme/app@{digest}",
            here,
        )
        thing = pod(*images)
        assert patched(thing, await ask(proxy, review(thing), MUTATE)) == pod(here, here, here, here)


async def test_nothing_is_written_where_nothing_is_to_be(tmp_path: Path) -> None:
    """``mutate: none``: the mutating webhook only judges."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top="admission: {mutate: none}\n") as proxy:
        signed(proxy, upstream)
        assert await ask(proxy, review(pod("reg.example/acme/app:v1")), MUTATE) == {"uid": UID, "allowed": True}
        assert not (await ask(proxy, review(pod("reg.example/none/app")), MUTATE))["allowed"]


async def test_tags_may_be_refused(tmp_path: Path) -> None:
    """The mutating webhook makes digests of them; the validating one lets nothing else through."""
    top = "admission: {tags: refuse}\n"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=top) as proxy:
        signed(proxy, upstream)
        thing = pod("reg.example/acme/app:v1")
        refused = await ask(proxy, review(thing))
        assert "a tag may name another image tomorrow" in refused["status"]["message"]
        assert (await ask(proxy, review(patched(thing, await ask(proxy, review(thing), MUTATE)))))["allowed"]
        made = workload("ReplicaSet", pod_spec("reg.example/acme/app:v1"), owner="Deployment")
        assert (await ask(proxy, review(made)))["allowed"], "its pods are looked at"


async def test_what_a_controller_made_stays_as_it_is(tmp_path: Path) -> None:
    """A Deployment that finds its ReplicaSet changed makes another, for ever; so only the pods are changed."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        digest = signed(proxy, upstream)
        spec = pod_spec("reg.example/acme/app:v1")
        made = workload("ReplicaSet", spec, owner="Deployment")
        assert await ask(proxy, review(made), MUTATE) == {"uid": UID, "allowed": True}
        own = workload("Pod", spec, owner="ReplicaSet")
        image = patched(own, await ask(proxy, review(own), MUTATE))["spec"]["containers"][0]["image"]
        assert image == f"reg.example/acme/app@{digest}"


# -- what does not --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [VALIDATE, MUTATE])
async def test_one_bad_image_of_two(tmp_path: Path, path: str) -> None:
    """The workload is refused, and the message is about that container, in the words of a refused pull."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        signed(proxy, upstream)
        upstream.image("acme/evil", "v1")
        found = await ask(proxy, review(pod("reg.example/acme/app:v1", "reg.example/acme/evil:v1")), path)
        assert not found["allowed"]
        assert (found["status"]["code"], found["status"]["reason"]) == (403, "Forbidden")
        (line,) = found["status"]["message"].splitlines()
        assert line.startswith('container "c1" (reg.example/acme/evil:v1): ')
        assert "a signature by key release-key is required" in line
        assert await proxy.pin("acme/evil:v1") is None


async def test_one_line_for_each_container(tmp_path: Path) -> None:
    """Whatever is wrong with it, and where it is."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        upstream.image("acme/evil", "v1")
        spec = pod_spec(
            "reg.example/acme/evil:v1",
            "gcr.io/other/app",
            "Not A Name",
            init=["reg.example/acme/none:v1"],
            ephemeral=["0" * 64],
            volumes=["reg.example/denied/app:v1"],
        )
        del spec["containers"][2]["image"]
        found = await ask(proxy, review(workload("CronJob", spec)))
        told = dict(line.split(": ", 1) for line in found["status"]["message"].splitlines())
        expected = {
            'init container "i0" (reg.example/acme/none:v1)': "does not exist upstream",
            'container "c0" (reg.example/acme/evil:v1)': "a signature by key release-key is required",
            'container "c1" (gcr.io/other/app)': "the registry gcr.io is not configured here; an operator can add it",
            'container "c2"': "it names no image",
            f'ephemeral container "e0" ({"0" * 64})': "an image ID",
            'volume "v0" (reg.example/denied/app:v1)': "does not pass",
        }
        assert told.keys() == expected.keys()
        assert all(words in told[where] for where, words in expected.items()), told


async def test_an_overwritten_tag(tmp_path: Path) -> None:
    """It is refused with both digests and the way out; by its digest the pinned image goes on."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        first = signed(proxy, upstream)
        thing = pod("reg.example/acme/app:v1")
        after = patched(thing, await ask(proxy, review(thing), MUTATE))
        second = signed(proxy, upstream, seed="two")
        refused = (await ask(proxy, review(thing), MUTATE))["status"]["message"]
        assert all(text in refused for text in (str(first), str(second), "tagstone pins approve reg.example/acme/app:v1"))
        assert (await ask(proxy, review(after)))["allowed"]
        scaled = workload("Deployment", pod_spec("reg.example/acme/app:v1"))
        before = json.loads(json.dumps(scaled))
        scaled["spec"]["replicas"] = 5
        assert (await ask(proxy, review(scaled, "UPDATE", before=before)))["allowed"]


async def test_an_overwritten_tag_that_is_served_pinned(tmp_path: Path) -> None:
    """It passes with a warning, and becomes the pinned digest."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        first = signed(proxy, upstream, tag="stay-1")
        thing = pod("reg.example/acme/app:stay-1")
        await ask(proxy, review(thing), MUTATE)
        signed(proxy, upstream, tag="stay-1", seed="two")
        found = await ask(proxy, review(thing), MUTATE)
        assert patched(thing, found) == pod(f"reg.example/acme/app@{first}")
        assert any("was overwritten upstream" in warning for warning in found["warnings"])


async def test_an_outage_is_no_verdict(tmp_path: Path) -> None:
    """Other words and another status; what was pinned before passes with a warning."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        signed(proxy, upstream)
        assert (await ask(proxy, review(pod("reg.example/acme/app:v1"))))["allowed"]
        upstream.on(when.registry(), status(503))
        found = await ask(proxy, review(pod("reg.example/acme/other:v1")))
        assert (found["status"]["code"], found["status"]["reason"]) == (503, "ServiceUnavailable")
        assert "cannot be asked now" in found["status"]["message"]
        known = await ask(proxy, review(pod("reg.example/acme/app:v1")))
        assert known["allowed"]
        assert any("could not be asked" in warning for warning in known["warnings"])
        both = await ask(proxy, review(pod("reg.example/acme/other:v1", "gcr.io/x")))
        assert both["status"]["code"] == 403, "one of them is refused for good"


async def test_a_signature_is_not_an_image(tmp_path: Path) -> None:
    """The gate hands it out to verifiers under its name; nothing is to be run of it."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        digest = signed(proxy, upstream)
        name = f"reg.example/acme/app:sha256-{digest.hex}.sig"
        assert "the name of a signature" in (await ask(proxy, review(pod(name))))["status"]["message"]


# -- dry runs, updates, deletions -----------------------------------------------------------------------------------


async def test_a_dry_run_leaves_nothing_behind(tmp_path: Path) -> None:
    """The same answer and the same patch, but no pin, no event and nothing stored."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        digest = signed(proxy, upstream)
        upstream.image("acme/evil", "v1")
        tag, always = "reg.example/acme/app:v1", f"reg.example/acme/app@{digest}"
        for path in (MUTATE, VALIDATE):
            found = await ask(proxy, review(pod(tag, always), dry_run=True), path)
            assert found["allowed"]
            assert (patched(pod(tag, always), found) == pod(always, always)) == (path == MUTATE)
        refused = await ask(proxy, review(pod("reg.example/acme/evil:v1"), dry_run=True))
        assert "a signature by key release-key is required" in refused["status"]["message"]
        assert await proxy.pin("acme/app:v1") is None
        assert await proxy.application.pins.list() == []
        assert not [path for path in (proxy.data_dir / "blobs").rglob("*") if path.is_file()]
        assert (await ask(proxy, review(pod(tag)), MUTATE))["allowed"]
        before = await proxy.pin("acme/app:v1")
        signed(proxy, upstream, seed="two")
        assert not (await ask(proxy, review(pod(tag), dry_run=True)))["allowed"]
        assert await proxy.pin("acme/app:v1") == before
        assert await proxy.events() == []


async def test_dry_runs_do_not_use_up_the_upstream(tmp_path: Path) -> None:
    """Many at the same time are one look, and for a moment afterwards none; a refusal too."""
    top = ON + "check_interval: 1h\nlimits: {refusal_ttl: 1h}\n"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=top) as proxy:
        upstream.image("acme/evil", "v1")
        thing = review(pod("reg.example/acme/evil:v1"), dry_run=True)
        await asyncio.gather(*(ask(proxy, thing) for _ in range(5)))
        asked = len([each for each in upstream.requests if each.path.endswith("/manifests/v1")])
        assert asked == 1
        assert not (await ask(proxy, thing))["allowed"]
        assert len([each for each in upstream.requests if each.path.endswith("/manifests/v1")]) == 1
        upstream.sign("acme/evil", upstream.tags("acme/evil")["v1"], proxy.signer)
        await proxy.reload(proxy._rules)
        assert (await ask(proxy, thing))["allowed"], "other rules, another look"


async def test_a_slow_upstream_is_no_verdict(tmp_path: Path) -> None:
    """Nor is it waited for without end, when nobody is there any more."""
    top = ON + "limits: {request_timeout: 500ms}\n"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=top) as proxy:
        awake = asyncio.Event()
        upstream.on(when.path("/v2/acme/slow/manifests/v1"), hold(awake))
        for dry_run in (True, False):
            found = await ask(proxy, review(pod("reg.example/acme/slow:v1"), dry_run=dry_run))
            assert found["status"]["code"] == 503
            assert "no decision within 0.5 s; the upstream is slow" in found["status"]["message"]
        awake.set()


@pytest.mark.parametrize("dry_run", [True, False])
async def test_trouble_of_our_own_is_no_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool) -> None:
    """A database that cannot be asked lets nothing in, and says so."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        signed(proxy, upstream)

        async def broken(*_: object) -> None:
            raise DatabaseUnavailable("the database is locked")

        monkeypatch.setattr(proxy.application.pins, "get", broken)
        found = await ask(proxy, review(pod("reg.example/acme/app:v1"), dry_run=dry_run))
        assert found["status"]["code"] == 503
        assert "Tagstone's own storage cannot answer: the database is locked" in found["status"]["message"]


async def test_a_dry_run_follows_the_rules_as_they_are_now(tmp_path: Path) -> None:
    """After a reload too."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        upstream.image("free/app", "v1")
        assert not (await ask(proxy, review(pod("reg.example/free/app:v1"), dry_run=True)))["allowed"]
        await proxy.reload('rules: [{match: "**", require: first-use}]\n')
        assert (await ask(proxy, review(pod("reg.example/free/app:v1"), dry_run=True)))["allowed"]


async def test_what_runs_already_may_be_changed_otherwise(tmp_path: Path) -> None:
    """Labels, replicas and finalizers of a workload whose image does not pass any more; a new image of it must pass."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        upstream.image("acme/evil", "v1")
        before, after = (workload("Deployment", pod_spec("reg.example/acme/evil:v1")) for _ in range(2))
        after["metadata"]["finalizers"] = []
        asked = len(upstream.requests)
        for path in (VALIDATE, MUTATE):
            assert await ask(proxy, review(after, "UPDATE", before=before), path) == {"uid": UID, "allowed": True}
        assert len(upstream.requests) == asked
        digest = signed(proxy, upstream)
        better = workload("Deployment", pod_spec("reg.example/acme/evil:v1", "reg.example/acme/app:v1"))
        found = await ask(proxy, review(better, "UPDATE", before=before), MUTATE)
        images = [each["image"] for each in patched(better, found)["spec"]["template"]["spec"]["containers"]]
        assert images == ["reg.example/acme/evil:v1", f"reg.example/acme/app@{digest}"]
        worse = workload("Deployment", pod_spec("reg.example/acme/evil:v1", "reg.example/acme/evil:v1"))
        assert not (await ask(proxy, review(worse, "UPDATE", before=before)))["allowed"]


async def test_an_ephemeral_container_is_judged(tmp_path: Path) -> None:
    """``kubectl debug`` brings an image into a pod that runs: its subresource brings the whole pod."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        digest = signed(proxy, upstream)
        upstream.image("acme/evil", "v1")
        before = pod(f"reg.example/acme/app@{digest}")
        for name, allowed in (("evil", False), ("app", True)):
            after = pod(f"reg.example/acme/app@{digest}", ephemeral=[f"reg.example/acme/{name}:v1"])
            found = await ask(proxy, review(after, "UPDATE", before=before, subresource="ephemeralcontainers"), MUTATE)
            assert found["allowed"] is allowed


@pytest.mark.parametrize("operation", ["DELETE", "CONNECT"])
async def test_what_brings_nothing_in_is_let_through(tmp_path: Path, operation: str) -> None:
    """Nothing is asked upstream for it."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        found = await ask(proxy, review(None, operation, before=pod("reg.example/acme/evil:v1")), MUTATE)
        assert found == {"uid": UID, "allowed": True}
        assert upstream.requests == []


# -- requests that are none, or too much ----------------------------------------------------------------------------


async def test_what_is_no_review_is_an_http_error(tmp_path: Path) -> None:
    """With a Status for a body, which API servers repeat to the person who asked."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        good = review(pod("reg.example/acme/app:v1"))
        cases: list[tuple[Any, dict[str, str], int, str]] = [
            (b"", {}, 400, "no AdmissionReview"),
            (b"nonsense", {}, 400, "not valid JSON"),
            ({"kind": "Pod"}, {}, 400, "no AdmissionReview"),
            (good | {"apiVersion": "admission.k8s.io/v1beta1"}, {}, 400, "admissionReviewVersions"),
            (good, {"Content-Type": "text/plain"}, 415, "application/json"),
            (good, {"Content-Type": "application/vnd.kubernetes.protobuf"}, 415, "application/json"),
            (good, {"Content-Encoding": "gzip"}, 415, "Content-Encoding"),
        ]
        for document, headers, code, words in cases:
            answer = await post(proxy, document, headers=headers)
            body = json.loads(answer.body)
            assert (answer.status, body["kind"], body["status"], body["code"]) == (code, "Status", "Failure", code)
            assert words in body["message"]
        assert upstream.requests == []


async def test_what_cannot_be_read_is_refused_to_whoever_asked(tmp_path: Path) -> None:
    """A review with a uid gets a verdict, also when nothing else of it makes sense."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        found = await ask(proxy, review({"kind": "Rollout", "apiVersion": "argoproj.io/v1alpha1", "metadata": {}}))
        assert (found["allowed"], found["status"]["code"]) == (False, 400)
        assert "take it out of the webhook's rules" in found["status"]["message"]


async def test_it_is_not_there_unless_it_is_wanted(tmp_path: Path) -> None:
    """Without the section a POST is a POST to a registry that takes none; other paths and methods never lead there."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        assert (await post(proxy, review(pod("reg.example/acme/app:v1")))).status == 405
    async with Registry() as upstream, Proxy(tmp_path / "on", upstream, top=ON) as proxy:
        assert (await post(proxy, review(pod("reg.example/acme/app:v1")), "/admission/v2/validate")).status == 405
        assert (await post(proxy, review(pod("reg.example/acme/app:v1")), "/v2/")).status == 405
        assert (await proxy.get("/admission/v1/validate")).status == 404
        assert (await proxy.ask("PUT", "/admission/v1/validate")).status == 405


async def test_it_can_be_turned_off_and_on_while_it_runs(tmp_path: Path) -> None:
    """A reload is enough, for its settings too."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        signed(proxy, upstream)
        thing = review(pod("reg.example/acme/app:v1"))
        assert (await ask(proxy, thing))["allowed"]
        for top, status_, allowed in (("", 405, None), ("admission: {tags: refuse}\n", 200, False), (ON, 200, True)):
            proxy._top = top
            await proxy.reload(proxy._rules)
            answer = await post(proxy, thing)
            assert answer.status == status_
            if allowed is not None:
                assert response(answer.body)["allowed"] is allowed


async def test_no_change_of_a_review_lets_a_denied_image_in(tmp_path: Path) -> None:
    """Whatever is done to its bytes: what is allowed has no image that would be judged, and nothing breaks."""
    random = Random(7)
    changer = Changer(random)
    spec = pod_spec("reg.example/acme/app:v1", init=["reg.example/acme/app:v1"], volumes=["reg.example/acme/app:v1"])
    seeds = [json.dumps(review(workload(kind, spec))).encode() for kind in ("Pod", "Deployment", "CronJob")]
    seeds.append(json.dumps(review(pod("gcr.io/x"), "UPDATE", before=pod("gcr.io/y"))).encode())
    rules = 'rules: [{match: "**", require: deny}]\n'
    allowed = refused = 0
    async with Registry() as upstream, Proxy(tmp_path, upstream, rules=rules, top=ON) as proxy:
        for _ in range(400):
            body = random.choice(seeds)
            for _ in range(random.randint(1, 3)):
                body = changer.change(body)
            answer = await post(proxy, body, random.choice((VALIDATE, MUTATE)))
            assert answer.status in {200, 400}, body
            if answer.status == 400:
                assert json.loads(answer.body)["status"] == "Failure"
                continue
            found = json.loads(answer.body)["response"]
            assert found.get("status", {}).get("code") != 500, body
            if found["allowed"]:
                assert read_review(body).images == (), body
                allowed += 1
            else:
                refused += 1
        assert upstream.requests == []
    assert refused > 50
    assert allowed > 0, "what was made a deletion, say"


async def test_huge_reviews_are_not_read(tmp_path: Path) -> None:
    """As little as reviews that never end; a large one is, without holding up anybody."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        digest = signed(proxy, upstream)
        thing = pod(f"reg.example/acme/app@{digest}")
        thing["metadata"]["annotations"] = {"note": "x" * (1 << 20)}
        assert (await ask(proxy, review(thing)))["allowed"]
        thing["metadata"]["annotations"] = {"note": "x" * (8 << 20)}
        assert (await post(proxy, review(thing))).status == 413

        async with raw(proxy, "Transfer-Encoding: chunked") as (reader, writer):
            for _ in range(130):
                writer.write(b"10000\r\n" + b"[" * (1 << 16) + b"\r\n")
            await writer.drain()
            async with asyncio.timeout(SOON):
                assert b" 413 " in await reader.readline()


async def test_slow_reviews_are_not_waited_for(tmp_path: Path) -> None:
    """Longer than their sender would wait for the answer."""
    async with (
        Registry() as upstream,
        Proxy(tmp_path, upstream, top=ON) as proxy,
        raw(proxy, "Content-Length: 100") as (reader, writer),
    ):
        writer.write(b"{")
        async with asyncio.timeout(SOON):
            assert b" 408 " in await reader.readline()


async def test_who_sends_slowly_holds_up_nobody_else(tmp_path: Path) -> None:
    """One address may have so many reviews on their way, and more wait; another one's come through meanwhile."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy, AsyncExitStack() as slow:
        signed(proxy, upstream)
        for _ in range(16):
            await slow.enter_async_context(raw(proxy, "Content-Length: 100", timeout=20))
        thing = review(pod("reg.example/acme/app:v1"))
        late = await post(proxy, thing, "/admission/v1/validate?timeout=1s")
        assert late.status == 408
        connector = aiohttp.TCPConnector(local_addr=("127.0.0.2", 0))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(proxy.url + VALIDATE, json=thing) as answer,
        ):
            assert response(await answer.read())["allowed"]


async def test_what_cannot_be_told_in_time_is_refused(tmp_path: Path) -> None:
    """Before the API server gives up; what was begun goes on, so that the next try may pass."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        digest = signed(proxy, upstream)
        upstream.image("acme/slow", "v1")
        upstream.sign("acme/slow", upstream.tags("acme/slow")["v1"], proxy.signer)
        awake = asyncio.Event()
        upstream.on(when.path("/v2/acme/slow/manifests/v1"), hold(awake))
        known = f"reg.example/acme/app@{digest}"
        assert (await ask(proxy, review(pod(known))))["allowed"]
        thing = pod(known, "reg.example/acme/slow:v1")
        async with asyncio.timeout(SOON):  # or nine seconds, if nobody said how long
            found = await ask(proxy, review(thing), "/admission/v1/mutate?timeout=1s")
        assert found["status"]["code"] == 503
        (line,) = found["status"]["message"].splitlines()
        assert line.startswith('container "c1"')
        assert "could not be told in time; try again" in line
        awake.set()
        assert (await ask(proxy, review(thing), MUTATE))["allowed"]
        assert len([each for each in upstream.requests if "acme/slow/manifests/v1" in each.path]) == 1


async def test_the_number_of_images_is_bounded(tmp_path: Path) -> None:
    """The same image many times is one."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top="admission: {images: 2}\n") as proxy:
        signed(proxy, upstream)
        tag = "reg.example/acme/app:v1"
        assert (await ask(proxy, review(pod(*[tag] * 20))))["allowed"]
        asked = len(upstream.requests)
        with capture_logs() as logs:
            many = await ask(proxy, review(pod(*(f"reg.example/acme/app{number}:v1" for number in range(3)))))
        assert "names more than 2 images (admission.images)" in many["status"]["message"]
        assert len(upstream.requests) == asked
        assert [line["reason"] for line in logs if line["event"] == "review.refused"] == [many["status"]["message"]]


async def test_each_image_takes_a_turn(tmp_path: Path) -> None:
    """A client's share holds for reviews as it does for pulls: what would have to wait for too long is put off."""
    top = ON + "limits: {client_rate: 1, request_timeout: 2s}\n"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=top) as proxy:
        names = [f"acme/app{number}" for number in range(5)]
        for name in names:
            signed(proxy, upstream, name)
        found = await ask(proxy, review(pod(*(f"reg.example/{name}:v1" for name in names))))
        assert found["status"]["code"] == 503
        assert "asks for more at a time than one client may" in found["status"]["message"]


async def test_pulls_and_reviews_share_the_turns_of_a_client(tmp_path: Path) -> None:
    """While the only turn of an address is taken by a pull, a review from there is not judged; afterwards it is."""
    top = ON + "limits: {client_requests: 1}\n"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=top) as proxy:
        digest = signed(proxy, upstream)
        signed(proxy, upstream, "acme/slow")
        awake = asyncio.Event()
        upstream.on(when.path("/v2/acme/slow/manifests/v1"), hold(awake))
        pull = asyncio.create_task(proxy.get("/v2/reg.example/acme/slow/manifests/v1"))
        async with asyncio.timeout(PATIENCE):
            while not any("acme/slow/manifests/v1" in each.path for each in upstream.requests):
                await asyncio.sleep(0.01)
        thing = review(pod(f"reg.example/acme/app@{digest}"))
        waiting = await ask(proxy, thing, f"{VALIDATE}?timeout=3s")
        assert waiting["status"]["code"] == 503
        awake.set()
        assert (await pull).status == 200
        assert (await ask(proxy, thing))["allowed"]


async def test_what_was_not_foreseen_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An HTTP error would be a yes where the webhook's failurePolicy is Ignore."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:

        async def broken(*_: object, **__: object) -> None:
            raise RuntimeError("secret detail")

        monkeypatch.setattr(proxy.application._reviewer, "judge", broken)
        with capture_logs() as logs:
            found = await ask(proxy, review(pod("reg.example/acme/app:v1")))
        assert (found["allowed"], found["status"]["code"]) == (False, 500)
        assert "secret" not in found["status"]["message"]
        assert [line["event"] for line in logs if line["log_level"] == "error"] == ["review.failed"]


# -- who may ask ----------------------------------------------------------------------------------------------------

TOKEN = "tagstone_" + "k" * 43
OTHER = "tagstone_" + "o" * 43
ACCESS = f"""access:
  tokens:
    apiserver: {{sha256: {hashlib.sha256(TOKEN.encode()).hexdigest()}}}
    team: {{sha256: {hashlib.sha256(OTHER.encode()).hexdigest()}}}
  rules:
    - {{who: ["token:team"], pull: ["reg.example/acme/**"]}}
admission: {{who: ["token:apiserver"]}}
"""


def bearer(token: str) -> dict[str, str]:
    """The header of somebody with a token."""
    return {"Authorization": f"Bearer {token}"}


async def test_who_may_ask_where_access_is_configured(tmp_path: Path) -> None:
    """Those who may pull an image, and those who are named; the latter get no byte for it."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ACCESS) as proxy:
        digest = signed(proxy, upstream)
        upstream.image("open/app", "v1")
        both = review(pod("reg.example/acme/app:v1", "reg.example/open/app:v1"))
        nobody = await post(proxy, both)
        assert (nobody.status, json.loads(nobody.body)["reason"]) == (403, "Forbidden")
        assert "admission.who" in json.loads(nobody.body)["message"]
        wrong = await post(proxy, both, headers=bearer("tagstone_wrong"))
        assert (wrong.status, json.loads(wrong.body)["reason"]) == (401, "Unauthorized")
        assert upstream.requests == []
        assert (await ask(proxy, both, headers=bearer(TOKEN)))["allowed"]
        partly = await ask(proxy, both, headers=bearer(OTHER))
        (line,) = partly["status"]["message"].splitlines()
        assert 'container "c1"' in line
        assert "token:team may not ask about reg.example/open/app" in line
        assert (await ask(proxy, review(pod(f"reg.example/acme/app@{digest}")), headers=bearer(OTHER)))["allowed"]
        for path in (f"/v2/reg.example/acme/app/manifests/{digest}", "/v2/reg.example/acme/app/manifests/v1"):
            assert (await proxy.get(path, bearer(TOKEN))).status == 403, "to ask is not to pull"


async def test_an_api_server_with_a_certificate(tmp_path: Path) -> None:
    """Over TLS, by the name in the certificate that its kubeconfig for webhooks has."""
    files = Files(tmp_path)
    top = (
        "tls: {certificate: tls.crt, key: tls.key, client_ca: clients.pem, client_certificates: optional}\n"
        "access: {rules: [{who: ['certificate:dns:node-*.example']}]}\n"
        "admission: {who: ['certificate:dns:apiserver.example']}\n"
    )
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=top, tls=files.client()) as proxy:
        signed(proxy, upstream)
        thing = review(pod("reg.example/acme/app:v1"))
        answer = await post(proxy, thing, tls=files.client("apiserver.example"))
        assert response(answer.body)["allowed"]
        assert (await post(proxy, thing, tls=files.client("stranger.example"))).status == 403
        assert (await post(proxy, thing, tls=files.client())).status == 403


async def test_too_many_wrong_logins(tmp_path: Path) -> None:
    """What cannot be told is no verdict, and no yes."""
    users(tmp_path, alice="right")
    top = ACCESS.replace("access:\n", "access:\n  htpasswd: users\n")
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=top) as proxy:
        wrong = {"Authorization": "Basic " + base64.b64encode(b"alice:wrong").decode()}
        codes = [(await post(proxy, review(pod("reg.example/acme/app:v1")), headers=wrong)).status for _ in range(12)]
        assert codes[0] == 401
        assert codes[-1] == 503


# -- the log --------------------------------------------------------------------------------------------------------


async def test_one_line_for_each_image(tmp_path: Path) -> None:
    """Who asked for which workload's container, by which rule, what was answered and why."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=ON) as proxy:
        digest = signed(proxy, upstream)
        with capture_logs() as logs:
            await ask(proxy, review(workload("Job", pod_spec("reg.example/acme/app:v1", "gcr.io/x")), dry_run=True), MUTATE)
        first, second = [line for line in logs if line["event"] == "review"]
        assert first["what"] == second["what"] == "admission"
        assert first["user"] == USER
        assert (first["workload"], first["where"]) == ("Job web/shop", 'container "c0"')
        assert (first["image"], first["digest"], first["verdict"]) == ("reg.example/acme/app:v1", str(digest), "admitted")
        assert "reg.example/acme/**" in first["rule"]
        assert (first["dry_run"], first["operation"], first["way"]) == (True, "CREATE", "mutate")
        assert (second["written"], second["verdict"]) == ("gcr.io/x", "denied")
        assert "is not configured here" in second["why"][0]
        assert second["ms"] >= 0


async def test_lines_that_nobody_wants_are_not_written(tmp_path: Path) -> None:
    """``log.pulls`` is for both."""
    top = ON + "log: {pulls: none}\n"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=top) as proxy:
        signed(proxy, upstream)
        with capture_logs() as logs:
            await ask(proxy, review(pod("reg.example/acme/app:v1", "reg.example/acme/none:v1")))
        assert [line["verdict"] for line in logs if line["event"] == "review"] == ["denied"]
