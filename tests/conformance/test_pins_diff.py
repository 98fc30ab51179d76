"""``tagstone pins diff`` and ``pins show``, on what a server noted, with and without the upstream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.cli.main import app
from storage.digest import Digest
from tests.conformance.test_classification_over_http import NEW, OLD, TROJAN, overwritten
from tests.harness import Proxy
from tests.simulator.builds import Build
from tests.simulator.images import Image, index
from tests.simulator.registry import Registry

NAME = "reg.example/acme/app:v1"
BEFORE, AFTER = OLD.image(), TROJAN.image()


async def pins(proxy: Proxy, *words: object) -> Result:
    """Run ``tagstone pins`` on the data of a proxy."""
    command = ["pins", str(words[0]), "--config", str(proxy.config), *map(str, words[1:])]
    return await asyncio.to_thread(CliRunner(env={"COLUMNS": "160"}).invoke, app, command)


def platforms(build: Build) -> Image:
    """An index for two platforms."""
    return index([replace(build, platform=each).image() for each in ("linux/amd64", "linux/arm64")])


@asynccontextmanager
async def noted(folder: Path, before: Image = BEFORE, after: Image = AFTER) -> AsyncIterator[tuple[Registry, Proxy]]:
    """An upstream with an overwritten tag, and a proxy that noted it, and has stopped."""
    async with Registry() as upstream:
        proxy = Proxy(folder, upstream)
        await proxy.start()
        try:
            await overwritten(upstream, proxy, before, after, signed=(True, False))
        finally:
            await proxy.stop()
        yield upstream, proxy


async def test_side_by_side(tmp_path: Path) -> None:
    """Severity and kinds on top, then what differs, who signed, and the layers with what made them. Exit 1: something does."""
    async with noted(tmp_path) as (_, proxy):
        result = await pins(proxy, "diff", NAME)
        assert result.exit_code == 1, result.output
        lines = result.stdout.splitlines()
        assert lines[0] == NAME
        assert lines[1].split() == ["pinned", str(BEFORE.digest)]
        assert lines[2].split() == ["upstream", str(AFTER.digest)]
        assert lines[3].strip().startswith("critical: ")
        assert "no longer signed by key release-key" in result.stdout
        assert '["/usr/local/bin/xmrig", "/docker-entrypoint.sh"]' in result.stdout
        layers = [line.split() for line in lines if ("sha256:" in line and "KiB" in line) or " B " in line]
        assert [words[0] == "+" for words in layers] == [False, False, False, True]
        assert layers[-1][2:] == ["3.2", "KiB", *["COPY", "xmrig", "/usr/local/bin/", "#", "buildkit"]]


async def test_it_is_told_offline(tmp_path: Path) -> None:
    """What was classified is known without the upstream, also in one line of ``pins show``; scripts get all of it."""
    async with noted(tmp_path) as (upstream, proxy):
        await upstream.stop()
        result = await pins(proxy, "diff", NAME, "--json")
        assert result.exit_code == 1, result.output
        document = json.loads(result.stdout)
        assert set(document["kinds"]) == {"entrypoint", "layers-added", "signature-lost"}
        assert document["severity"] == "critical"
        shown = await pins(proxy, "show", NAME)
        assert f"changed     {document['summary']}; tagstone pins diff {NAME}" in shown.stdout
        changed = json.loads((await pins(proxy, "show", NAME, "--json")).stdout)["changed"]
        assert (changed["severity"], changed["change"]) == ("critical", document["summary"])


async def test_any_two_digests(tmp_path: Path) -> None:
    """Also of a tag that is not overwritten, and of none; what is not to be had is told: exit 3."""
    third = NEW.image()
    async with noted(tmp_path) as (upstream, proxy):
        upstream.add("acme/app", third)
        result = await pins(proxy, "diff", "reg.example/acme/app", "--from", BEFORE.digest, "--to", third.digest, "--json")
        assert result.exit_code == 1, result.output
        assert "base-rebuilt" in json.loads(result.stdout)["kinds"]
        by_name = await pins(proxy, "diff", f"reg.example/acme/app@{third.digest}", "--from", BEFORE.digest)
        assert by_name.exit_code == 1
        assert by_name.stdout.splitlines()[1].split() == ["from", str(BEFORE.digest)]
        missing = await pins(proxy, "diff", NAME, "--to", Digest.of(b"x"))
        assert missing.exit_code == 3, missing.output
        assert "not known yet: " in missing.stdout
        await upstream.stop()
        offline = await pins(proxy, "diff", NAME, "--to", third.digest, "--json")
        assert offline.exit_code == 3
        assert json.loads(offline.stdout)["kinds"] == ["not-known-yet"]


async def test_what_is_the_same(tmp_path: Path) -> None:
    """A pin that the upstream still names: exit 0, and nothing is written."""
    async with Registry() as upstream:
        proxy = Proxy(tmp_path, upstream)
        await proxy.start()
        upstream.add("acme/app", BEFORE, "v1")
        upstream.sign("acme/app", BEFORE.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        await proxy.stop()
        result = await pins(proxy, "diff", NAME)
        assert (result.exit_code, result.stdout) == (0, f"{NAME}: nothing differs; {BEFORE.digest} on both sides\n")
        assert json.loads((await pins(proxy, "diff", NAME, "--json")).stdout)["severity"] is None
        upstream.untag("acme/app", "v1")
        gone = await pins(proxy, "diff", NAME)
        assert (gone.exit_code, "does not exist upstream" in gone.output) == (3, True)
        await upstream.stop()
        down = await pins(proxy, "diff", NAME)
        assert (down.exit_code, "cannot be told now" in down.output) == (3, True)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["diff", "reg.example/acme/app:other"], "is not pinned"),
        (["diff", NAME, "--from", "sha256:x"], "is not a digest"),
        (["diff", NAME, "--platform", "linux/s390x"], "they have linux/amd64"),
        (["diff", "elsewhere.example/app:v1", "--from", f"sha256:{'0' * 64}"], "is not configured"),
    ],
)
async def test_wrong_usage(tmp_path: Path, words: list[str], told: str) -> None:
    """Exit 2, with the way out."""
    async with noted(tmp_path) as (_, proxy):
        result = await pins(proxy, *words)
        assert result.exit_code == 2, result.output
        assert told in result.output


async def test_one_platform_of_many(tmp_path: Path) -> None:
    """An index is compared platform by platform; one of them can be looked at alone. Severity stays that of the whole."""
    before, after = platforms(OLD), index([OLD.image(), replace(TROJAN, platform="linux/arm64").image()])
    async with noted(tmp_path, before, after) as (_, proxy):
        result = await pins(proxy, "diff", NAME)
        assert "linux/arm64: " in result.stdout
        assert "the same on both sides: linux/amd64" in result.stdout
        one = json.loads((await pins(proxy, "diff", NAME, "--platform", "linux/arm64/v8", "--json")).stdout)
        assert [each["platform"] for each in one["platforms"]] == ["linux/arm64"]
        same = json.loads((await pins(proxy, "diff", NAME, "--platform", "linux/amd64", "--json")).stdout)
        assert (same["platforms"], same["same"], same["severity"]) == ([], ["linux/amd64"], "critical")


async def test_the_files_that_differ(tmp_path: Path) -> None:
    """Layers that are not stored are fetched for it, and are not stored by it; what cannot be had is told: exit 3."""
    async with noted(tmp_path) as (upstream, proxy):
        result = await pins(proxy, "diff", NAME, "--files")
        assert result.exit_code == 1, result.output
        assert "linux/amd64: 2 files differ" in result.stdout
        assert "  ~ /seed  content: " in result.stdout
        found = json.loads((await pins(proxy, "diff", NAME, "--files", "--json")).stdout)["files"]
        assert [(each["change"], each["path"]) for each in found["changes"]] == [("changed", "/data"), ("changed", "/seed")]
        kept = {path.name for path in (proxy.data_dir / "blobs").rglob("*")}
        assert not kept & {layer.digest.hex for layer in AFTER.layers}
        forged = AFTER.layers[-1]
        upstream.forge("acme/app", forged.digest, b"x" * forged.size)
        broken = await pins(proxy, "diff", NAME, "--files")
        assert broken.exit_code == 3
        assert "files: cannot be told: the layers of " in broken.stdout
        await upstream.stop()
        offline = json.loads((await pins(proxy, "diff", NAME, "--files", "--json")).stdout)["files"]
        assert "cannot be fetched" in offline["trouble"]


async def test_the_files_of_one_platform(tmp_path: Path) -> None:
    """Of many platforms it is the one that is named; of one that is not on both sides there is nothing to tell."""
    before, after = platforms(OLD), platforms(TROJAN)
    more = index([*before.images, replace(OLD, platform="linux/s390x").image()])
    async with noted(tmp_path, before, after) as (upstream, proxy):
        named = json.loads((await pins(proxy, "diff", NAME, "--files", "--platform", "linux/arm64", "--json")).stdout)["files"]
        assert (named["platform"], len(named["changes"])) == ("linux/arm64", 2)
        upstream.add("acme/app", more)
        added = await pins(proxy, "diff", NAME, "--to", more.digest, "--files")
        assert added.exit_code == 3
        assert "say which platform's: --platform (linux/s390x)" in added.stdout


async def test_layers_that_are_too_large_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a bound for both images together."""
    monkeypatch.setattr("proxy.cli.pins_files.MOST", 10)
    async with noted(tmp_path) as (_, proxy):
        result = await pins(proxy, "diff", NAME, "--files")
        assert result.exit_code == 3
        assert "are fetched in all" in result.stdout
