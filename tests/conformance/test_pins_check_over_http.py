"""``tagstone pins check``: what became of pinned tags, asked by an operator beside a running server."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from storage.records import EventType, PinState
from tests.harness import Proxy
from tests.simulator import when
from tests.simulator.behaviours import lie, status
from tests.simulator.registry import Registry
from tests.tools import PATIENCE

_TAGSTONE = Path(sys.executable).parent / "tagstone"


async def check(proxy: Proxy, *arguments: str) -> tuple[int, str]:
    """Run the command; its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        _TAGSTONE, "pins", "check", *arguments, "--config", proxy.config, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode is not None
    return process.returncode, out.decode()


async def results(proxy: Proxy, *arguments: str) -> tuple[int, dict[str, str]]:
    """The exit code, and what became of each tag."""
    code, out = await check(proxy, "--json", *arguments)
    document: dict[str, Any] = json.loads(out)
    found = {each["name"].removeprefix("reg.example/"): each["result"] for each in document["checks"]}
    assert document["counts"] == {result: list(found.values()).count(result) for result in found.values()}
    return code, found


async def test_each_tag_is_told_by_what_became_of_it(tmp_path: Path) -> None:
    """Unchanged, overwritten, deleted, reverted: told apart, written down for the server, with an exit code for scripts."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", None, seed="one")
        other = upstream.image("open/app", None, seed="two")
        for tag in ("back", "gone", "moved", "same"):
            upstream.tag("open/app", tag, image.digest)
            assert (await proxy.manifest("open/app", tag)).status == 200
        assert await results(proxy) == (0, {f"open/app:{tag}": "unchanged" for tag in ("back", "gone", "moved", "same")})
        upstream.untag("open/app", "gone")
        for tag in ("back", "moved"):
            upstream.tag("open/app", tag, other.digest)
        assert (await results(proxy, "**:back"))[0] == 1
        upstream.tag("open/app", "back", image.digest)
        expected = {"back": "reverted", "gone": "deleted", "moved": "overwritten", "same": "unchanged"}
        assert await results(proxy) == (1, {f"open/app:{tag}": result for tag, result in expected.items()})
        code, out = await check(proxy, "**:moved")
        assert code == 1
        assert out.splitlines()[0] == "overwritten reg.example/open/app:moved"
        assert str(other.digest) in out.splitlines()[1]
        assert out.splitlines()[-1] == "1 checked: 1 overwritten"
        assert (await proxy.manifest("open/app", "moved")).status == 403
        pin = await proxy.pin("open/app:moved")
        assert pin is not None
        assert (pin.state, pin.candidate) == (PinState.OVERWRITTEN, other.digest)
        kinds = [event.type for event in await proxy.events()]
        assert kinds.count(EventType.TAG_OVERWRITTEN) == 2, "one for each tag, however often it is asked about"


async def test_what_cannot_be_told_is_no_change(tmp_path: Path) -> None:
    """Exit code 3, each with its reason, and nothing is written; but what did change counts for more."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", None, seed="one")
        other = upstream.image("open/app", None, seed="two")
        faults = {"denied": status(403), "misbehaved": lie(other.digest), "unreachable": status(500)}
        for tag in (*faults, "unchanged"):
            upstream.tag("open/app", tag, image.digest)
            assert (await proxy.manifest("open/app", tag)).status == 200
        for tag, behaviour in faults.items():
            upstream.on(when.manifest(reference=tag), behaviour)
        assert await results(proxy) == (3, {f"open/app:{result}": result for result in (*faults, "unchanged")})
        assert await proxy.events() == []
        upstream.tag("open/app", "unchanged", other.digest)
        assert (await results(proxy))[0] == 1


async def test_an_upstream_that_wants_a_moment_is_given_it(tmp_path: Path) -> None:
    """After a 429 the rest waits for as long as it says, and the tag that got it is asked about again."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        image = upstream.image("open/app", None, seed="one")
        for tag in ("one", "two"):
            upstream.tag("open/app", tag, image.digest)
            assert (await proxy.manifest("open/app", tag)).status == 200
        busy = upstream.on(when.manifest(), status(429, headers={"Retry-After": "1"}), times=1)
        assert await results(proxy) == (0, {"open/app:one": "unchanged", "open/app:two": "unchanged"})
        assert busy.fired == 1


async def test_a_registry_that_is_no_upstream_any_more_is_not_asked(tmp_path: Path) -> None:
    """Its pins are told as those to which there is no access."""
    async with Registry() as upstream, Proxy(tmp_path, upstream) as proxy:
        upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        proxy.name = "elsewhere.example"
        proxy.write()
        upstream.requests.clear()
        code, out = await check(proxy)
        assert (code, out.splitlines()[0]) == (3, "denied      reg.example/open/app:v1")
        assert upstream.requests == []
