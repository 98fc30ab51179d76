"""``tagstone drift rootfs`` on the data directory of a proxy, with layers that it stored or has to fetch."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from backports import zstd
from jsonschema import Draft202012Validator
from typer.testing import CliRunner, Result

from proxy.cli.main import app
from storage.digest import Digest
from storage.records import EventType
from tests.harness import Proxy, until
from tests.simulator import images
from tests.simulator.images import Blob, Image
from tests.simulator.registry import Registry
from tests.simulator.trees import Put, archive, file, folder, symlink, unpack
from tests.tools import PATIENCE, need

BASE = [
    folder("etc"),
    file("etc/app.conf", b"one"),
    folder("bin"),
    file("bin/app", b"\x7fELF app", 0o755),
    symlink("sh", "bin/app"),
]
TOP = [folder("etc"), file("etc/app.conf", b"two"), file("etc/.wh.gone")]
DOCS = Path(__file__).parents[2] / "docs" / "drift.md"


def image_of(*layers: list[Put], config: dict[str, Any] | None = None, platform: str = "linux/amd64") -> Image:
    """An image of these layers: the first packed with gzip, the second with zstd, the third not at all."""
    plain = [archive(layer) for layer in layers]
    packers: list[Callable[[bytes], bytes]] = [lambda data: gzip.compress(data, mtime=0), zstd.compress, bytes]
    types = ["+gzip", "+zstd", ""]
    blobs = [Blob(f"application/vnd.oci.image.layer.v1.tar{types[n % 3]}", packers[n % 3](data)) for n, data in enumerate(plain)]
    ids = [str(Digest.of(data)) for data in plain]
    document = {**images.platform_of(platform), "rootfs": {"type": "layers", "diff_ids": ids}} | (config or {})
    described = Blob(images.OCI_CONFIG, images.encode(document))
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.OCI_MANIFEST,
        "config": described.entry(),
        "layers": [blob.entry() for blob in blobs],
    }
    return Image(images.OCI_MANIFEST, images.encode(manifest), (described, *blobs))


@pytest.fixture
async def upstream() -> AsyncIterator[Registry]:
    """An upstream."""
    async with Registry() as registry:
        yield registry


@pytest.fixture
async def proxy(tmp_path: Path, upstream: Registry) -> AsyncIterator[Proxy]:
    """A proxy with ``open/app:v1`` pinned."""
    async with Proxy(tmp_path / "proxy", upstream) as running:
        yield running


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where a runtime would have unpacked the image."""
    made = tmp_path / "root"
    made.mkdir()
    unpack(made, BASE, TOP)
    return made


async def tagstone(proxy: Proxy, *words: object) -> Result:
    """Run a command on the proxy's data directory."""
    command = [*map(str, words), "--config", str(proxy.config)]
    return await asyncio.to_thread(CliRunner().invoke, app, command, catch_exceptions=False)


async def drift(proxy: Proxy, root: Path, *words: object, code: int, image: str = "reg.example/open/app:v1") -> dict[str, Any]:
    """``tagstone drift rootfs --json``; what it prints, which is what the documentation says."""
    result = await tagstone(proxy, "drift", "rootfs", image, root, "--json", *words)
    assert result.exit_code == code, (result.stdout, result.stderr)
    answer: dict[str, Any] = json.loads(result.stdout)
    Draft202012Validator(schema()).validate(answer)
    return answer


def schema() -> dict[str, Any]:
    """The schema in the documentation."""
    found: dict[str, Any] = json.loads(re.findall(r"```json schema\n(.*?)```", DOCS.read_text(), re.DOTALL)[0])
    Draft202012Validator.check_schema(found)
    return found


async def publish(proxy: Proxy, upstream: Registry, image: Image, tag: str = "v1", *, pin: bool = True) -> Image:
    """Put an image upstream, and pull it by tag."""
    upstream.add("open/app", image, tag)
    if pin:
        assert (await proxy.manifest("open/app", tag)).status == 200
    return image


async def test_what_was_unpacked_is_clean(proxy: Proxy, upstream: Registry, root: Path) -> None:
    """Layers that are not stored yet are fetched; gzip and zstd are understood; nothing differs, and the exit code says so."""
    image = await publish(proxy, upstream, image_of(BASE, TOP))
    found = await drift(proxy, root, code=0)
    assert found["result"] == "clean"
    assert found["findings"] == []
    assert found["image"]["digest"] == str(image.digest)
    assert found["image"]["layers"] == [str(layer.digest) for layer in image.layers]


async def test_added_changed_and_missing_are_found_and_nothing_else(proxy: Proxy, upstream: Registry, root: Path) -> None:
    """An added executable, changed content, a file that is gone; what runtimes write is left out, and said to be."""
    await publish(proxy, upstream, image_of(BASE, TOP))
    (root / "bin/implant").write_bytes(b"#!/bin/sh\n")
    (root / "bin/implant").chmod(0o755)
    (root / "etc/app.conf").write_bytes(b"2wo")
    (root / "sh").unlink()
    (root / "etc/hosts").write_bytes(b"127.0.0.1 localhost\n")
    found = await drift(proxy, root, code=1)
    assert [(each["change"], each["path"]) for each in found["findings"]] == [
        ("added", "/bin/implant"),
        ("changed", "/etc/app.conf"),
        ("missing", "/sh"),
    ]
    assert [each["path"] for each in found["executables"]] == ["/bin/implant"]
    assert [each["pattern"] for each in found["ignored"]] == ["/etc/hosts"]
    shown = await tagstone(proxy, "drift", "rootfs", "reg.example/open/app:v1", root)
    assert shown.exit_code == 1
    for line in (
        "DRIFT",
        "added    /bin/implant  executable file",
        "changed  /etc/app.conf  content (3 → 3 bytes)",
        "missing  /sh",
    ):
        assert line in shown.stdout
    assert "no layer knows  /bin/implant  script" in shown.stdout
    assert (await drift(proxy, root, "--no-default-ignores", code=1))["ignored"] == []


async def test_patterns_leave_out(proxy: Proxy, upstream: Registry, root: Path, tmp_path: Path) -> None:
    """``--ignore`` and ``--ignore-file``: a path and all below it, or a name at any depth."""
    await publish(proxy, upstream, image_of(BASE, TOP))
    (root / "data").mkdir()
    (root / "data/x").write_bytes(b"x")
    (root / "bin/y.pyc").write_bytes(b"y")
    listed = tmp_path / "patterns"
    listed.write_text("# caches\n\n*.pyc\n")
    found = await drift(proxy, root, "--ignore", "/data", "--ignore-file", listed, code=0)
    assert {each["pattern"]: each["count"] for each in found["ignored"]} == {"/data": 1, "*.pyc": 1}


async def test_sboms_are_told_beside_unknown_executables(proxy: Proxy, upstream: Registry, root: Path) -> None:
    """One that the image's own index names, as BuildKit makes it: what it lists stays drift, with the attestation beside it."""
    child = image_of(BASE, TOP)
    tool = b"#!/bin/sh\necho built later\n"
    spdx = {"files": [{"checksums": [{"algorithm": "SHA256", "checksumValue": Digest.of(tool).hex}]}]}
    statement = {
        "_type": "https://in-toto.io/Statement/v0.1",
        "predicateType": "https://spdx.dev/Document",
        "subject": [{"name": "app", "digest": {"sha256": child.digest.hex}}],
        "predicate": spdx,
    }
    attestation = images.artifact("application/x", [(Blob(images.IN_TOTO, images.encode(statement)), None)])
    notes = {"vnd.docker.reference.digest": str(child.digest), "vnd.docker.reference.type": "attestation-manifest"}
    upstream.add("open/app", attestation)
    entry = attestation.entry(platform=images.platform_of("unknown/unknown"), annotations=notes)
    await publish(proxy, upstream, images.index([child], entries=[entry]))
    for name, content in (("listed", tool), ("unlisted", b"#!/bin/sh\n")):
        (root / "bin" / name).write_bytes(content)
    found = await drift(proxy, root, code=1)
    assert [(each["path"], each["sbom"]) for each in found["executables"]] == [
        ("/bin/listed", str(attestation.digest)),
        ("/bin/unlisted", None),
    ]
    assert len(found["findings"]) == 2


async def test_what_nobody_approved_is_not_compared(proxy: Proxy, upstream: Registry, root: Path) -> None:
    """A tag without a pin, a digest that is denied, a platform that is not there, a root that is not there: exit code 3."""
    await publish(proxy, upstream, images.index([image_of(BASE), image_of(TOP, platform="linux/arm64")]))
    foreign = image_of(BASE, TOP)
    upstream.add("acme/app", foreign, "v1")
    for image, words, told in (
        ("reg.example/open/app:other", (), "is not pinned"),
        (f"reg.example/acme/app@{foreign.digest}", (), "is not admitted"),
        ("reg.example/open/app:v1", ("--platform", "linux/s390x"), "it has: linux/amd64, linux/arm64"),
    ):
        result = await tagstone(proxy, "drift", "rootfs", image, root, *words)
        assert result.exit_code == 3
        assert told in result.stderr
    nowhere = await tagstone(proxy, "drift", "rootfs", "reg.example/open/app:v1", root / "nowhere")
    assert nowhere.exit_code == 3
    assert "cannot be opened" in nowhere.stderr


async def test_platforms_and_digests(proxy: Proxy, upstream: Registry, tmp_path: Path) -> None:
    """Of an index the image for the platform is taken; a digest that is admitted will do, the child's, too."""
    child = image_of(BASE, platform="linux/arm64/v8")
    image = await publish(proxy, upstream, images.index([image_of(TOP), child]))
    root = tmp_path / "arm"
    root.mkdir()
    unpack(root, BASE)
    for name in (f"@{image.digest}", f"@{child.digest}", ":v1"):
        found = await drift(proxy, root, "--platform", "linux/arm64", image=f"reg.example/open/app{name}", code=0)
        assert found["image"]["manifest"] == str(child.digest)


async def test_layers_that_cannot_be_had_are_no_verdict(proxy: Proxy, upstream: Registry, root: Path) -> None:
    """The upstream is gone and a layer is not stored; or a layer is not what the config promises: exit code 3, with the layer."""
    await publish(proxy, upstream, image_of(BASE, TOP))
    lying = image_of(BASE, TOP, config={"rootfs": {"type": "layers", "diff_ids": [str(Digest.of(b"other"))] * 2}})
    await publish(proxy, upstream, lying, "lying")
    result = await tagstone(proxy, "drift", "rootfs", "reg.example/open/app:lying", root)
    assert result.exit_code == 3
    assert "does not unpack to" in result.stderr
    await publish(proxy, upstream, image_of([file("only-here", b"x")]), "later")
    await upstream.stop()
    result = await tagstone(proxy, "drift", "rootfs", "reg.example/open/app:later", root)
    assert result.exit_code == 3
    assert "refuses connections" in result.stderr


async def test_watching_tells_what_changed_and_raises_the_event(proxy: Proxy, upstream: Registry, root: Path) -> None:
    """Only changes are told; the event is open while there is drift, told anew when that changes, and ends with it."""
    await publish(proxy, upstream, image_of(BASE, TOP))
    words = ("drift", "rootfs", "reg.example/open/app:v1", root, "--watch", "0.1", "--looks", "1", "--json")
    subject = f"reg.example/open/app:v1@{root}"

    async def open_events() -> list[Any]:
        return [each for each in await proxy.events(open_only=True) if each.type is EventType.RUNTIME_DRIFT]

    (root / "bin/new").write_bytes(b"x")
    for _ in range(2):
        result = await tagstone(proxy, *words)
        assert result.exit_code == 1
        assert [each["path"] for each in json.loads(result.stdout)["appeared"]] == ["/bin/new"]
    (event,) = await open_events()
    assert event.subject == subject
    assert event.details["findings"] == ["added /bin/new file"]
    assert len([each for each in await proxy.events() if each.type is EventType.RUNTIME_DRIFT]) == 1
    os.unlink(root / "bin/new")
    assert (await tagstone(proxy, *words)).exit_code == 0
    assert await open_events() == []


async def test_a_watch_tells_changes_and_nothing_else(proxy: Proxy, upstream: Registry, root: Path) -> None:
    """One line for the first look, one for each change, none for looks that saw nothing new; Ctrl-C is no verdict."""
    await publish(proxy, upstream, image_of(BASE, TOP))
    words = ("drift", "rootfs", "reg.example/open/app:v1", str(root), "--watch", "0.1", "--json", "--config", str(proxy.config))
    child = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "tagstone"), *words, stdout=PIPE, stderr=DEVNULL, limit=1 << 20
    )

    async def line() -> dict[str, Any]:
        assert child.stdout is not None
        async with asyncio.timeout(PATIENCE):
            document: dict[str, Any] = json.loads(await child.stdout.readline())
        Draft202012Validator(schema()).validate(document)
        return document

    try:
        first = await line()
        assert (first["result"], first["appeared"], first["ended"]) == ("clean", [], [])
        (root / "new").symlink_to("x")
        second = await line()
        assert (second["result"], [each["path"] for each in second["appeared"]], second["ended"]) == ("drift", ["/new"], [])
        (root / "new").unlink()
        third = await line()
        assert (third["result"], third["appeared"], [each["path"] for each in third["ended"]]) == ("clean", [], ["/new"])
        assert not [each for each in await proxy.events(open_only=True) if each.type is EventType.RUNTIME_DRIFT]
        assert [each for each in await proxy.events() if each.type is EventType.RUNTIME_DRIFT]
    finally:
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 130


async def test_processes_are_held_against_layers(proxy: Proxy, upstream: Registry, tmp_path: Path) -> None:
    """A program that a layer has at its path is clean; deleted, it is found; the document is what the documentation says."""
    program = tmp_path / "busybox"
    program.write_bytes(Path(need("busybox")).read_bytes())
    program.chmod(0o755)
    await publish(proxy, upstream, image_of([file(str(program), program.read_bytes(), 0o755)]))
    child = await asyncio.create_subprocess_exec(program, "sleep", "1000")
    words = ("drift", "processes", "--pid", child.pid, "--image", "reg.example/open/app:v1")
    try:
        await until(lambda: os.readlink(f"/proc/{child.pid}/exe") == str(program))
        clean = await tagstone(proxy, *words, "--json")
        assert clean.exit_code == 0, clean.stdout
        Draft202012Validator(schema()).validate(json.loads(clean.stdout))
        program.unlink()
        found = await tagstone(proxy, *words, "--json", "--record")
        assert found.exit_code == 1
        document = json.loads(found.stdout)
        Draft202012Validator(schema()).validate(document)
        assert [(each["wrong"], each["path"]) for each in document["findings"]] == [("deleted", str(program))]
        (event,) = [each for each in await proxy.events(open_only=True) if each.type is EventType.RUNTIME_DRIFT]
        assert event.subject == f"reg.example/open/app:v1@pid {child.pid}"
        assert f"deleted  {child.pid} busybox" in (await tagstone(proxy, *words)).stdout
    finally:
        child.kill()
        await child.wait()
    ended = await tagstone(proxy, *words)
    assert ended.exit_code == 3
    assert f"there is no process {child.pid}" in ended.stderr


async def test_which_container_is_to_be_said(proxy: Proxy) -> None:
    """One of both; and of a process that is in no container, the image."""
    for words, code, told in (
        ((), 2, "--pid P, or --container ID"),
        (("--pid", 1, "--container", "x"), 2, "--pid P, or --container ID"),
        (("--pid", os.getpid()), 3, "--image"),
        (("--container", "no-such-container"), 3, "no running container"),
    ):
        result = await tagstone(proxy, "drift", "processes", *words)
        assert (result.exit_code, told in result.stderr) == (code, True), result.stderr


async def test_the_group_says_what_there_is() -> None:
    """The commands of the group."""
    result = await asyncio.to_thread(CliRunner().invoke, app, ["drift", "--help"])
    assert result.exit_code == 0
    assert "rootfs" in result.stdout
    assert "processes" in result.stdout
