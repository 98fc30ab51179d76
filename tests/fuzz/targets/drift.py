"""What upstreams give as layers, and what container tools print."""

from __future__ import annotations

import base64
import gzip
import json
import tarfile
from collections.abc import Iterator

from backports import zstd

from proxy.drift.containers import ctr_digest, ctr_image, ctr_task, docker_digest, inspected
from proxy.drift.model import Bounds, Kind
from proxy.drift.names import absolute, clean
from proxy.drift.sbom import listed
from proxy.drift.tar import members
from proxy.drift.tree import assemble
from proxy.drift.unpacking import Budget, Plain, unpacked
from proxy.errors import EvidenceMalformed, LayerRefused, Unexaminable
from storage.digest import Digest
from tests.fuzz.target import Target
from tests.simulator.trees import CAPABILITY, Put, archive, file, folder, hardlink, symlink

#: Small enough that what unfolds costs no second, large enough that all else fits.
BOUNDS = Bounds(unpacked=8 << 20, entries=5000, free=1 << 20)
_BLOCK = 512
DIGEST = "sha256:" + "ab" * 32


def layer(data: bytes) -> bool:
    """A layer, laid over another one in both ways: names stay below the root, files have contents, and all can be shown."""
    budget = Budget(BOUNDS)
    entries = list(members(Plain(unpacked(iter([data[:100], data[100:]]), budget)), budget))
    below = [each for each in entries if each.link is None]
    for follow in (False, True):
        files = assemble([below, entries], follow=follow)
        for path, node in files:
            assert path
            assert clean(path) == path
            assert absolute(path).isprintable()
            if node.inode is not None and node.inode.facts.kind is Kind.FILE:
                assert node.inode.facts.sha256 in files.contents
                assert node.inode.facts.size >= 0
            assert node.is_directory or not node.children
    return bool(entries)


def resummed(data: bytes) -> bytes:
    """An archive whose headers have right checksums again."""
    blocks = [data[start : start + _BLOCK] for start in range(0, len(data), _BLOCK)]
    for number, block in enumerate(blocks):
        if len(block) == _BLOCK and block[257:262] == b"ustar":
            bare = block[:148] + b" " * 8 + block[156:]
            blocks[number] = bare[:148] + b"%06o\0 " % sum(bare) + bare[156:]
    return b"".join(blocks)


def container(data: bytes) -> bool:
    """What each tool might have printed: a process that can be one, a digest that is one."""
    read = 0
    for tool in ("docker", "podman", "crictl"):
        try:
            found = inspected(tool, data)
        except Unexaminable:
            continue
        assert found.pid > 0
        read += 1
    for ask in (lambda: docker_digest(data, "reg.example/app:1"), lambda: ctr_image(data)):
        try:
            read += ask() is not None
        except Unexaminable:
            continue
    task = ctr_task(data, "c1")
    assert task is None or task >= 0
    read += task is not None
    read += ctr_digest(data, "reg.example/app:1") is not None
    return bool(read)


def sbom(data: bytes) -> bool:
    """An attestation of files: hashes, or nothing."""
    found = listed(data, [Digest.parse(DIGEST)])
    assert all(len(each) == 32 for each in found)
    return bool(found)


def _sboms() -> Iterator[bytes]:
    checksums = [{"algorithm": "SHA256", "checksumValue": "11" * 32}]
    spdx = {"files": [{"fileName": "a", "checksums": checksums}]}
    cyclonedx = {"components": [{"hashes": [{"alg": "SHA-256", "content": "11" * 32}], "components": [{"hashes": []}]}]}
    for kind, predicate in (("https://spdx.dev/Document", spdx), ("https://cyclonedx.org/bom", {"Data": json.dumps(cyclonedx)})):
        subject = [{"name": "x", "digest": {"sha256": "ab" * 32}}]
        statement = json.dumps({"predicateType": kind, "subject": subject, "predicate": predicate}).encode()
        yield statement
        yield json.dumps({"dsseEnvelope": {"payload": base64.b64encode(statement).decode(), "signatures": []}}).encode()


def _layers() -> Iterator[bytes]:
    entries = [
        folder("etc", 0o1777),
        file("etc/passwd", b"root\n", 0o4755),
        file("d" * 90 + "/" + "e" * 90, b"long"),
        symlink("lib", "etc/../etc"),
        file("lib/x", b"x"),
        hardlink("again", "etc/passwd"),
        file("etc/.wh.gone"),
        file("lib/.wh..wh..opq"),
        Put("null", tarfile.CHRTYPE, device=(1, 3)),
        file("cap", b"c", capability=CAPABILITY),
        file("caf\udce9", b"latin"),
    ]
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        yield archive(entries, form)
    plain = archive(entries[:4])
    yield gzip.compress(plain, mtime=0)
    yield zstd.compress(plain)
    sparse = Put("GNUSparseFile.0/s", content=b"3\n0\n1\n600\n2\n1000\n0\n".ljust(512, b"\0") + b"abc")
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "s", "GNU.sparse.realsize": "1000"}
    yield archive([sparse], records=records)


def _answers() -> Iterator[bytes]:
    yield json.dumps([{"State": {"Pid": 7}, "Config": {"Image": "reg.example/app:1"}}]).encode()
    yield json.dumps([{"State": {"Pid": 7}, "ImageName": "reg.example/app:1", "ImageDigest": DIGEST}]).encode()
    status = {"image": {"image": "sha256:1", "userSpecifiedImage": "app"}, "imageRef": f"reg.example/app@{DIGEST}"}
    yield json.dumps({"status": status, "info": {"pid": 7}}).encode()
    yield json.dumps([{"RepoDigests": [f"reg.example/app@{DIGEST}"]}]).encode()
    yield json.dumps({"Image": "reg.example/app:1"}).encode()
    yield b"TASK    PID     STATUS    \nc1      77      RUNNING\n"
    yield f"REF TYPE DIGEST SIZE\nreg.example/app:1 application/x {DIGEST} 7 B\n".encode()


TARGETS = (
    Target(
        "layer",
        layer,
        (LayerRefused,),
        tuple(_layers()),
        repair=resummed,
        longest=24 << 10,
        largest=1 << 20,
        words=("ustar  ", "GNU.sparse.map", "linkpath", "SCHILY.xattr.security.capability", ".wh."),
        told=False,
    ),
    Target(
        "container",
        container,
        (),
        tuple(_answers()),
        largest=1 << 20,
        seconds=1,
        words=("userSpecifiedImage", "RepoDigests"),
        told=False,
    ),
    Target(
        "sbom",
        sbom,
        (EvidenceMalformed,),
        tuple(_sboms()),
        largest=1 << 20,
        seconds=1,
        words=("verifiedUsing", "@graph", "Data", "predicateType"),
        told=False,
    ),
)
