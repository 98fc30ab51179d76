"""``refusal: tombstone``: a refused tag resolves to the refusal's own digest, which is nowhere to be had."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from storage.digest import Digest
from tests.harness import Proxy
from tests.simulator import when
from tests.simulator.behaviours import status
from tests.simulator.registry import Registry

TOP = "refusal: tombstone\nlog: {pulls: all}\n"


async def test_a_refused_head_leads_to_the_refusal(tmp_path: Path) -> None:
    """HEAD is 200 with a digest that is no manifest's; GET of it says why, also by tag; nothing of the image goes out."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        image = upstream.image("acme/app", "v1")
        with capture_logs() as logs:
            head = await proxy.manifest("acme/app", "v1", "HEAD")
        assert head.status == 200
        assert head.digest not in {None, str(image.digest)}
        assert head.body == b""
        refused = await proxy.manifest("acme/app", head.digest)
        assert (refused.status, refused.error["code"]) == (403, "DENIED")
        assert "a signature by key release-key is required" in refused.error["message"]
        assert str(Digest.of(refused.body)) == head.digest
        assert int(head.headers["Content-Length"]) == len(refused.body)
        assert (await proxy.manifest("acme/app", "v1")).status == 403
        assert (await proxy.manifest("acme/app", head.digest, "HEAD")).status == 403
        assert (await proxy.manifest("acme/other", head.digest)).status in {403, 404}
        (line,) = [line for line in logs if line["event"] == "pull"]
        assert (line["verdict"], line["status"], bool(line["why"])) == ("tombstone", 200, True)


async def test_an_outage_leads_nowhere_as_well(tmp_path: Path) -> None:
    """Else a client would ask the upstream itself as soon as that is back."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        upstream.image("acme/app", "v1")
        upstream.on(when.registry(), status(503))
        head = await proxy.manifest("acme/app", "v1", "HEAD")
        assert head.status == 200
        assert (await proxy.manifest("acme/app", head.digest)).status == 503


async def test_who_may_not_is_led_nowhere_either(tmp_path: Path) -> None:
    """Nor who asks for too much at once, or for a registry that is not configured; a demand to log in stays one."""
    tokens = {name: {"sha256": hashlib.sha256(f"tagstone_{name}".encode()).hexdigest()} for name in ("ci", "web")}
    rules = [{"who": [f"token:{name}"], "pull": [f"reg.example/{where}/**"]} for name, where in (("ci", "acme"), ("web", "web"))]
    access = f"access: {json.dumps({'tokens': tokens, 'rules': rules})}\n"
    access += "limits: {client_requests: 1, request_timeout: 300ms}\n"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP + access) as proxy:
        upstream.image("acme/app", "v1")
        path = "/v2/reg.example/acme/app/manifests"

        async def led_nowhere(path: str, name: str, status: int, reason: str) -> None:
            headers = {"Authorization": f"Bearer tagstone_{name}"}
            with capture_logs() as logs:
                head = await proxy.head(f"{path}/v1", headers)
            refused = await proxy.get(f"{path}/v1", headers)
            assert (head.status, refused.status) == (200, status)
            assert head.digest == str(Digest.of(refused.body))
            assert reason in refused.error["message"]
            assert [line["verdict"] for line in logs if line["event"] == "pull"] == ["tombstone"]  # others may have their say
            assert (await proxy.get(f"{path}/{head.digest}", headers)).status == status

        await led_nowhere(path, "web", 403, "token:web may not pull")
        await led_nowhere("/v2/nowhere.example/acme/app/manifests", "ci", 403, "is not configured here")
        share = proxy.application._api._fairness.enter("token:ci")
        assert share is not None
        await led_nowhere(path, "ci", 503, "asks for more at a time")
        assert not upstream.requests
        for headers in ({}, {"Authorization": "Bearer tagstone_other"}):
            assert (await proxy.head(f"{path}/v1", headers)).status == 401
        assert (await proxy.head(f"{path}/{Digest.of(b'')}", {"Authorization": "Bearer tagstone_web"})).status == 403


async def test_what_is_not_there_is_not_there(tmp_path: Path) -> None:
    """The upstream itself said 404: there is nothing to go around for."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        upstream.image("acme/app", "v1")
        assert (await proxy.manifest("acme/app", "none", "HEAD")).status == 404


async def test_what_passes_is_served_as_ever(tmp_path: Path) -> None:
    """A signed image's HEAD has the image's digest."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=TOP) as proxy:
        image = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", image.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1", "HEAD")).digest == str(image.digest)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
async def test_by_default_a_refusal_is_a_refusal(tmp_path: Path, method: str) -> None:
    """403, for HEAD and GET."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        upstream.image("acme/app", "v1")
        assert (await proxy.manifest("acme/app", "v1", method)).status == 403
