"""The ledger as the world sees it: read over real sockets by a reader of its own, watched, forked, and filled by what happens.

The reader here knows C2SP tlog-tiles, tlog-checkpoint and signed-note from their texts, and nothing of how Tagstone does it.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
import struct
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from proxy.configuration import load
from proxy.services.checkpoints import KEY_FILE, signer_of
from proxy.services.monitor import Forked, Monitor
from proxy.services.revision import utc_now
from proxy.upstream.tiledlog import LogUnreachable, TiledLog
from storage import keyring
from storage.checkpoints import Checkpoints
from storage.entries import Entry
from storage.events import EventStore
from storage.ledger import Ledger
from storage.notes import VerifierKey
from storage.watchbook import Watchbook
from tests.harness import RULES, Proxy, until
from tests.simulator.registry import Registry

QUICK = "ledger: {interval: 50ms, origin: test.example/ledger, public: true}"

Get = Callable[[str], Awaitable[bytes]]


# -- an independent reader ---------------------------------------------------------------------------------------------------


def opened(note: str, vkey: str) -> tuple[str, int, bytes]:
    """The origin, size and root of a checkpoint whose signature by ``vkey`` holds."""
    name, key_id, key = vkey.split("+", 2)
    public = base64.b64decode(key)
    assert public[:1] == b"\x01"
    assert hashlib.sha256(name.encode() + b"\n" + public).hexdigest()[:8] == key_id
    text, _, signatures = note.rpartition("\n\n")
    text += "\n"
    prefix = f"— {name} "
    signed = False
    for line in signatures.splitlines():
        assert line.startswith("— ")
        if line.startswith(prefix):
            raw = base64.b64decode(line.removeprefix(prefix), validate=True)
            if raw[:4].hex() == key_id:
                Ed25519PublicKey.from_public_bytes(public[1:]).verify(raw[4:], text.encode())
                signed = True
    assert signed
    origin, size, root, *rest = text.splitlines()
    assert rest == []
    return origin, int(size), base64.b64decode(root, validate=True)


def path_of(number: int) -> str:
    """``x001/x234/067`` for 1234067."""
    groups = [f"{number % 1000:03d}"]
    while number := number // 1000:
        groups.append(f"x{number % 1000:03d}")
    return "/".join(reversed(groups))


def mth(hashes: list[bytes]) -> bytes:
    """The Merkle tree hash over leaf hashes (RFC 6962 §2.1)."""
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while k * 2 < len(hashes):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(hashes[:k]) + mth(hashes[k:])).digest()


async def whole_log(get: Get, vkey: str) -> tuple[int, list[dict[str, Any]]]:
    """Every entry, proven: entries hash to level 0, each level to the one above, and all of it to the signed root."""
    _, size, root = opened((await get("checkpoint")).decode(), vkey)
    level, below, leaves = 0, size, list[bytes]()
    above: list[bytes] | None = None
    while below:
        hashes: list[bytes] = []
        for number in range(-(-below // 256)):
            width = min(256, below - number * 256)
            suffix = "" if width == 256 else f".p/{width}"
            tile = await get(f"tile/{level}/{path_of(number)}{suffix}")
            assert len(tile) == 32 * width
            hashes += [tile[start : start + 32] for start in range(0, len(tile), 32)]
        if above is not None:
            assert hashes == above
        else:
            leaves = hashes
        above = [mth(hashes[start : start + 256]) for start in range(0, below - below % 256, 256)]
        level, below = level + 1, below // 256
    assert mth(leaves) == root
    entries: list[dict[str, Any]] = []
    for number in range(-(-size // 256)):
        width = min(256, size - number * 256)
        suffix = "" if width == 256 else f".p/{width}"
        bundle, position = await get(f"tile/entries/{path_of(number)}{suffix}"), 0
        while position < len(bundle):
            (length,) = struct.unpack_from(">H", bundle, position)
            body = bundle[position + 2 : position + 2 + length]
            assert hashlib.sha256(b"\x00" + body).digest() == leaves[len(entries)]
            entries.append(json.loads(body))
            position += 2 + length
    assert len(entries) == size
    assert [entry["index"] for entry in entries] == list(range(size))
    return size, entries


# -- the tests -----------------------------------------------------------------------------------------------------------------


def vkey_of(proxy: Proxy) -> str:
    """The key that the proxy signs by."""
    ring = keyring.load(proxy.data_dir / KEY_FILE)
    assert ring is not None
    return str(ring.current.verifier)


def getter(proxy: Proxy) -> Get:
    """Read the public ledger."""

    async def get(path: str) -> bytes:
        reply = await proxy.get(f"/ledger/{path}", {"Accept-Encoding": "identity"})
        assert reply.status == 200, path
        return reply.body

    return get


def ledger_of(proxy: Proxy) -> Ledger:
    """The ledger behind it."""
    return Ledger(proxy.application.database)


async def signed(proxy: Proxy) -> int:
    """Wait until everything is signed for; how many entries that are."""

    async def done() -> int:
        reply = await proxy.get("/ledger/checkpoint")
        size = int(reply.body.splitlines()[1]) if reply.status == 200 else -1
        return size if size == await ledger_of(proxy).size() else 0

    await until(done)
    return await done()


async def test_whoever_reads_the_tiles_can_prove_everything_from_entries_to_the_signature(tmp_path: Path) -> None:
    """Seven hundred entries, full and partial tiles on two levels, read by somebody who believes nothing but the key."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=QUICK) as proxy:
        upstream.image("open/app", "v1")
        assert (await proxy.manifest("open/app", "v1")).status == 200
        await ledger_of(proxy).append(*(Entry("import", f"image {each}", utc_now(), "test", "ä" * 40) for each in range(700)))
        count = await signed(proxy)
        size, entries = await whole_log(getter(proxy), vkey_of(proxy))
        assert size == count
        assert {"ledger.key", "policy", "pin.pinned", "import"} == {entry["kind"] for entry in entries}
        [pin] = [entry for entry in entries if entry["kind"] == "pin.pinned"]
        assert pin["subject"] == "reg.example/open/app:v1"
        origin, _, _ = opened((await getter(proxy)("checkpoint")).decode(), vkey_of(proxy))
        assert origin == "test.example/ledger"


async def test_tiles_are_served_as_the_specification_says(tmp_path: Path) -> None:
    """Content types, caching, compression of bundles, HEAD; and what is not there is 404, whoever asks how."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=QUICK) as proxy:
        await ledger_of(proxy).append(*(Entry("import", f"image {each}", utc_now(), "test", "") for each in range(300)))
        size = await signed(proxy)
        checkpoint = await proxy.get("/ledger/checkpoint")
        assert checkpoint.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert checkpoint.headers["Cache-Control"] == "no-cache"
        tile = await proxy.get("/ledger/tile/0/000")
        assert (len(tile.body), tile.headers["Content-Type"]) == (8192, "application/octet-stream")
        assert "immutable" in tile.headers["Cache-Control"]
        head = await proxy.head("/ledger/tile/0/000")
        assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "8192")
        narrow = await proxy.get("/ledger/tile/0/000.p/7")
        assert narrow.body == tile.body[: 7 * 32], "whatever width a checkpoint had before"
        plain = await proxy.get("/ledger/tile/entries/000", {"Accept-Encoding": "identity"})
        zipped = await proxy.get("/ledger/tile/entries/000", {"Accept-Encoding": "gzip, identity"})
        assert zipped.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(zipped.body) == plain.body
        for path in (
            "",
            "tile/0/001",
            f"tile/0/001.p/{size - 255}",
            "tile/1/000",
            "tile/2/000.p/1",
            "tile/0/x000/000",
            "tile/00/000",
            "tile/entries/001",
            "tile/entries/../../checkpoint",
            "checkpoint/",
        ):
            assert (await proxy.get(f"/ledger/{path}")).status == 404, path
        assert (await proxy.ask("POST", "/ledger/checkpoint")).status == 405


async def test_the_registry_listener_has_no_ledger_unless_it_is_public(tmp_path: Path) -> None:
    """By default it is on the admin listener alone, and there it is behind that one's tokens."""
    token = "tagstone_" + "t" * 43
    hashed = hashlib.sha256(token.encode()).hexdigest()
    top = f"admin: {{listen: 127.0.0.1:0, tokens: {{ops: {{sha256: {hashed}}}}}}}\nledger: {{interval: 50ms}}"
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=top) as proxy:
        assert (await proxy.get("/ledger/checkpoint")).status == 404
        async with aiohttp.ClientSession() as session:

            async def status(**headers: str) -> int:
                async with session.get(f"{proxy.admin}/ledger/checkpoint", headers=headers) as response:
                    return response.status

            async def signed_for_those_who_may() -> bool:
                return await status(Authorization=f"Bearer {token}") == 200

            await until(signed_for_those_who_may)
            assert await status() == 401


async def test_what_is_refused_is_entered_once_and_names_that_are_made_up_never(tmp_path: Path) -> None:
    """A digest without its signature and an overwrite are entered at their first refusal; what no rule allows leaves nothing."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=QUICK) as proxy:
        bad = upstream.image("acme/app", "bad", seed="bad")
        good = upstream.image("acme/app", "v1")
        upstream.sign("acme/app", good.digest, proxy.signer)
        assert (await proxy.manifest("acme/app", "v1")).status == 200
        for _ in range(3):
            assert (await proxy.manifest("acme/app", "bad")).status == 403
            assert (await proxy.manifest("acme/app", bad.digest)).status == 403
            for name in ("other/a", "other/b", "acme/none"):
                assert (await proxy.manifest(name, "v1")).status in {403, 404}
            assert (await proxy.blob("acme/app", "sha256:" + "0" * 64)).status in {403, 404}
        other = upstream.image("acme/app", "v1", seed="other")
        upstream.sign("acme/app", other.digest, proxy.signer)
        for _ in range(2):
            assert (await proxy.manifest("acme/app", "v1")).status == 403

        async def refusals() -> list[tuple[str, str | None, object]]:
            found = [each.read() for each in await ledger_of(proxy).find(kinds=("refusal",))]
            return [(entry.subject, entry.to, entry.facts["cause"]) for entry in found]

        async def three() -> bool:
            return len(await refusals()) == 3

        await until(three)
        expected = [
            ("reg.example/acme/app:bad", str(bad.digest), "verdict"),
            (f"reg.example/acme/app@{bad.digest}", str(bad.digest), "verdict"),
            ("reg.example/acme/app:v1", str(other.digest), "overwritten"),
        ]
        assert await refusals() == expected
        await proxy.restart()
        assert (await proxy.manifest("acme/app", "bad")).status == 403
        await signed(proxy)
        assert await refusals() == expected, "another process, and it is known still"


async def test_a_policy_is_entered_when_it_is_another_one(tmp_path: Path) -> None:
    """At the first start, and at a reload that changes a rule; a restart, and the same file again, leave no entry."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=QUICK) as proxy:

        async def policies() -> list[tuple[str | None, str | None]]:
            return [(each.read().from_, each.read().to) for each in await ledger_of(proxy).find(kinds=("policy",))]

        async def entered(count: int) -> bool:
            return len(await policies()) == count

        await until(lambda: entered(1))
        await proxy.restart()
        await proxy.reload(RULES)
        await proxy.reload(RULES.replace("open/**", "free/**"))
        await until(lambda: entered(2))
        first, second = await policies()
        assert first[0] is None
        assert second[0] == first[1] != second[1]
        await proxy.reload(RULES)
        await until(lambda: entered(3))
        assert (await policies())[2] == (second[1], first[1])


async def watched(proxy: Proxy, state: Path, **options: Any) -> tuple[int | None, int]:
    """Look once: the size before, and the size now."""
    async with TiledLog(f"{proxy.url}/ledger/") as log:
        with Watchbook(state) as book:
            book.trust(VerifierKey.parse(vkey_of(proxy)), utc_now()) if not book.keys else None
            look = await Monitor(log, book, utc_now, **options).look()
            return None if look.before is None else look.before.size, look.now.size


async def test_an_observer_follows_growth_and_new_keys(tmp_path: Path) -> None:
    """From checkpoint to checkpoint, every new entry seen and proven, and on by a key that the old one handed over to."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=QUICK) as proxy:
        state = tmp_path / "watch" / "ledger.watch"
        ledger = ledger_of(proxy)
        size = await signed(proxy)
        assert await watched(proxy, state) == (None, size)
        assert await watched(proxy, state) == (size, size)
        await ledger.append(*(Entry("import", f"image {each}", utc_now(), "test", "") for each in range(600)))
        seen: list[tuple[int, str | None]] = []
        grown = await signed(proxy)
        looked = await watched(
            proxy, state, on_entry=lambda index, body, entry: seen.append((index, None if entry is None else entry.kind))
        )
        assert looked == (size, grown)
        assert seen[0][0] == size
        assert [index for index, _ in seen] == list(range(size, grown))
        # A new key, by the same way as the command goes.
        database = proxy.application.database
        signer = signer_of(
            load(proxy.config).settings.ledger, proxy.data_dir, ledger, Checkpoints(database), EventStore(database), utc_now
        )
        old = vkey_of(proxy)
        await signer.rotate(by="olga", reason="yearly", overlap=timedelta(hours=1))
        assert vkey_of(proxy) != old
        await signed(proxy)
        before, now = await watched(proxy, state)
        assert now > (before or 0)
        second = tmp_path / "watch" / "second"
        await watched(proxy, second)
        await signer.rotate(by="olga", reason="lost", overlap=timedelta())
        await ledger.append(Entry("import", "one more", utc_now(), "test", ""))
        await signed(proxy)
        for book_of in (state, second):
            with pytest.raises(Forked, match="no key that is known"):
                await watched(proxy, book_of)  # whoever knew only keys that are lost has to be told the new one by people
            with Watchbook(book_of) as book:
                book.trust(VerifierKey.parse(vkey_of(proxy)), utc_now())
            await watched(proxy, book_of)
        _, entries = await whole_log(getter(proxy), vkey_of(proxy))
        assert [entry["by"] for entry in entries if entry["kind"] == "ledger.key"] == ["server", "olga", "olga"]


async def test_an_observer_cries_out_at_a_fork_and_at_a_rollback(tmp_path: Path) -> None:
    """A database that went back and lived on otherwise is consistent in itself: who remembers can tell, and keeps the proof."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top=QUICK) as proxy:
        state, backup = tmp_path / "ledger.watch", tmp_path / "backup"
        await signed(proxy)
        await proxy.stop()
        shutil.copytree(proxy.data_dir, backup)
        await proxy.start()
        await ledger_of(proxy).append(*(Entry("import", f"image {each}", utc_now(), "test", "") for each in range(3)))
        size = await signed(proxy)
        await watched(proxy, state)
        await proxy.stop()
        shutil.rmtree(proxy.data_dir)
        shutil.copytree(backup, proxy.data_dir)
        await proxy.start()
        await signed(proxy)
        with pytest.raises(Forked, match=f"rolled back: a checkpoint over {size} entries was signed"):
            await watched(proxy, state)
        await ledger_of(proxy).append(*(Entry("import", f"other {each}", utc_now(), "test", "") for each in range(3)))
        await signed(proxy)
        with pytest.raises(Forked, match=f"another tree of {size} entries"):
            await watched(proxy, state)
        await ledger_of(proxy).append(*(Entry("import", f"other {each}", utc_now(), "test", "") for each in range(3)))
        await signed(proxy)
        with pytest.raises(Forked, match=f"does not begin with the {size} that were signed"):
            await watched(proxy, state)
        lines = [json.loads(line) for line in state.read_text().splitlines()]
        kept = [line for line in lines if "checkpoint" in line]
        forks = [line for line in lines if "fork" in line]
        assert (len(kept), len(forks)) == (1, 3)
        key = vkey_of(proxy)
        assert opened(kept[0]["checkpoint"], key)[1] == opened(forks[1]["fork"], key)[1] == size
        assert opened(kept[0]["checkpoint"], key)[2] != opened(forks[1]["fork"], key)[2], "both signed: that is the proof"


async def test_a_log_that_does_not_answer_is_an_outage_and_no_fork(tmp_path: Path) -> None:
    """Not there, something else there, or nobody listening."""
    async with Registry() as upstream, Proxy(tmp_path, upstream, top="ledger: {interval: 1h}") as proxy:
        for url in (proxy.url, proxy.admin, "http://127.0.0.1:1/ledger"):
            async with TiledLog(url, timeout=10) as log:
                with pytest.raises(LogUnreachable):
                    await log.checkpoint()
