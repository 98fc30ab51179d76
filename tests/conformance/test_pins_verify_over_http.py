"""``tagstone pins verify``: whether what is pinned still passes, judged by an operator beside a running server."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from storage.records import EventType, PinState
from tests.harness import RULES, Proxy
from tests.simulator import when
from tests.simulator.behaviours import status
from tests.simulator.images import Image
from tests.simulator.registry import Registry
from tests.simulator.signing import Signer, signature_tag
from tests.tools import PATIENCE

_TAGSTONE = Path(sys.executable).parent / "tagstone"


async def verify(proxy: Proxy, *arguments: str) -> tuple[int, str]:
    """Run the command; its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        _TAGSTONE, "pins", "verify", *arguments, "--config", proxy.config, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode is not None
    return process.returncode, out.decode()


async def results(proxy: Proxy, *arguments: str) -> tuple[int, dict[str, str]]:
    """The exit code, and how each pin stands."""
    code, out = await verify(proxy, "--json", *arguments)
    document: dict[str, Any] = json.loads(out)
    found = {each["name"].removeprefix("reg.example/"): each["result"] for each in document["pins"]}
    assert document["counts"] == {result: list(found.values()).count(result) for result in found.values()}
    return code, found


async def pinned(proxy: Proxy, upstream: Registry, tag: str) -> Image:
    """A signed image that was pulled."""
    image = upstream.image("acme/app", tag, seed=tag)
    upstream.sign("acme/app", image.digest, proxy.signer)
    assert (await proxy.manifest("acme/app", tag)).status == 200
    return image


async def test_each_pin_is_told_by_how_it_stands(tmp_path: Path) -> None:
    """Passes, lost, refused, unknown: told apart, written down for the server, with an exit code for scripts."""
    (tmp_path / "other.pub").write_bytes(Signer.of("p256", "other").public_pem)
    keys = f"other-key: {{file: {tmp_path}/other.pub}}"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top="check_interval: 1h", keys=keys) as proxy:
        image = await pinned(proxy, upstream, "kept")
        await pinned(proxy, upstream, "same")
        upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        names = ("acme/app:kept", "acme/app:same", "open/app:v1")
        assert await results(proxy) == (0, dict.fromkeys(names, "passes"))
        upstream.untag("acme/app", signature_tag(image.digest))
        assert await results(proxy) == (1, dict.fromkeys(names, "passes") | {"acme/app:kept": "lost"})
        assert [event.type for event in await proxy.events()] == [EventType.SIGNATURE_LOST]
        code, out = await verify(proxy, "**:kept")
        assert code == 1
        lines = out.splitlines()
        assert lines[0] == "lost      reg.example/acme/app:kept"
        assert "a signature by key release-key is required; found: no signature at all" in lines[1]
        assert lines[-1] == "1 judged: 1 lost"
        assert (await proxy.manifest("acme/app", "kept")).status == 200
        proxy.write(RULES.replace("release-key", "other-key"))
        refused = dict.fromkeys(names, "refused") | {"open/app:v1": "passes"}
        assert await results(proxy) == (1, refused)
        pin = await proxy.pin("acme/app:same")
        assert pin is not None
        assert pin.state is PinState.REVOKED
        assert EventType.SIGNATURE_LOST not in {event.type for event in await proxy.events(open_only=True)}


async def test_what_cannot_be_told_changes_nothing(tmp_path: Path) -> None:
    """Exit code 3, with the reason; what passes without evidence is told all the same."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top="check_interval: 1h") as proxy:
        await pinned(proxy, upstream, "v1")
        upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        upstream.on(when.always, status(503))
        code, out = await verify(proxy)
        assert code == 3
        assert "passes by the evidence that was kept; whether the upstream has that still cannot be told" in out
        assert out.splitlines()[-1] == "2 judged: 1 unknown, 1 passes"
        assert await proxy.events() == []
        assert await results(proxy, "reg.example/open/**") == (0, {"open/app:v1": "passes"})
