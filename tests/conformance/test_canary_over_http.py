"""The canary's name: whatever the rules, the pins and the upstream say, nothing under it is served, or asked for upstream."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.policy import canary
from storage.digest import Digest
from tests.harness import Proxy
from tests.simulator.registry import Registry

#: Rules that would let it through, the most specific ones that anybody can write.
RULES = """
rules:
  - match: reg.example/tagstone-canary/refused
    require: first-use
  - match: reg.example/acme/tagstone-canary
    require: first-use
  - match: "**"
    require: first-use
"""
NAMES = (canary.REPOSITORY, "acme/tagstone-canary", "tagstone-canary", "a/tagstone-canary/b/c")


@pytest.mark.parametrize("name", NAMES)
async def test_no_rule_serves_the_canary(tmp_path: Path, name: str) -> None:
    """Tag, digest, blob, signature tag, referrers and tag list, by HEAD, GET and Range, twice: refused, and no upstream asked."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, rules=RULES) as proxy:
        image = upstream.image(name, "v1")
        paths = [
            f"manifests/{reference}"
            for reference in ("v1", image.digest, f"sha256-{image.digest.hex}.sig", f"sha256-{image.digest.hex}")
        ]
        paths += [f"blobs/{image.layers[0].digest}", f"referrers/{image.digest}", "tags/list"]
        for path in paths * 2:
            for method in ("HEAD", "GET"):
                for prefix, more in (("reg.example/", ""), ("", "?ns=reg.example")):
                    answer = await proxy.ask(method, f"/v2/{prefix}{name}/{path}{more}", {"Range": "bytes=0-1"})
                    assert answer.status == 403, (method, path)
        assert await proxy.pin(f"{name}:v1") is None
        assert not upstream.requests


async def test_a_name_that_only_resembles_the_canary_is_served(tmp_path: Path) -> None:
    """The reservation is one component of the name, not a pattern over it."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, rules=RULES) as proxy:
        for name in ("acme/tagstone-canary-2", "my-tagstone-canary/app"):
            upstream.image(name, "v1")
            assert (await proxy.manifest(name, "v1")).status == 200


async def test_the_refusal_carries_what_the_tag_alone_does_not_tell(tmp_path: Path) -> None:
    """The token is in the body and in the reason phrase, is another for each tag, and never a part of the tag."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, rules=RULES) as proxy:
        seen = set()
        for tag in ("a1", "a2"):
            answer = await proxy.manifest(canary.REPOSITORY, tag)
            assert (answer.status, answer.error["code"]) == (403, "DENIED")
            assert canary.token(tag) in answer.reason
            assert canary.token(tag) in answer.error["message"]
            seen.add(canary.token(tag))
        assert len(seen) == 2


async def test_a_tag_that_says_absent_is_not_found(tmp_path: Path) -> None:
    """404 instead of 403, for clients that tell of the first refusal but pass over a 404; nothing is asked upstream either."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, rules=RULES) as proxy:
        upstream.image(canary.REPOSITORY, "absent-1")
        answer = await proxy.manifest(canary.REPOSITORY, "absent-1")
        assert (answer.status, answer.error["code"]) == (404, "MANIFEST_UNKNOWN")
        assert not upstream.requests


async def test_a_canary_that_was_pinned_before_is_not_served(tmp_path: Path) -> None:
    """What an older version had pinned and stored under the name is as little served as anything else."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, rules=RULES) as proxy:
        image = upstream.image("open/app", "v1")
        upstream.image("acme/tagstone-canary", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        layer = image.layers[0].digest
        assert (await proxy.blob("open/app", layer)).status == 200
        before = len(upstream.requests)
        for answer in (
            await proxy.blob("acme/tagstone-canary", layer),
            await proxy.manifest("acme/tagstone-canary", str(image.digest)),
            await proxy.manifest("acme/tagstone-canary", str(Digest.of(b"x"))),
        ):
            assert answer.status == 403
        assert len(upstream.requests) == before


async def test_a_tombstone_of_the_canary_carries_its_words(tmp_path: Path) -> None:
    """Where a refused HEAD leads to the refusal's own digest, that digest answers with the token."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, rules=RULES, top="refusal: tombstone") as proxy:
        head = await proxy.manifest(canary.REPOSITORY, "t1", "HEAD")
        assert head.status == 200
        answer = await proxy.manifest(canary.REPOSITORY, head.digest)
        assert answer.status == 403
        assert canary.token("t1") in answer.error["message"]
        assert (await proxy.manifest(canary.REPOSITORY, "absent-1", "HEAD")).status == 404
        assert not upstream.requests
