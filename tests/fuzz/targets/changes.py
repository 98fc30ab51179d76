"""What images say of themselves, for the classification of overwrites: their configs, and their attestations' provenance."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

from proxy.errors import ConfigMalformed
from proxy.policy.changes import (
    Child,
    Config,
    Image,
    Snapshot,
    change_of,
    classify,
    details_of,
    document_of,
    read_config,
    read_provenance,
)
from proxy.policy.changes.provenance import V02, V1
from storage.digest import Digest
from tests.fuzz.target import Target
from tests.simulator.builds import nginx

_BUILT = nginx().image()
_OTHER = read_config(nginx("2026-06-01").image().blobs[0].data)


def _snapshot(config: Config, what: str) -> Snapshot:
    read = Image(_BUILT.config, tuple(_BUILT.layers), config.labels, read=config)
    child = Child("linux/amd64", Digest.of(what.encode()), 3, read)
    return Snapshot(Digest.of(what.encode()), "x", config.labels, (child,), (), (), ())


def config(data: bytes) -> bool:
    """However odd: it differs from nothing as much as from itself, from another one in printable words, and is kept whole."""
    read = read_config(data)
    assert read.platform.isprintable()
    assert len(read.platform) < 100
    one, other = _snapshot(read, "one"), _snapshot(_OTHER, "other")
    assert classify(one, one).severity is None
    for change in (classify(one, other), classify(other, one)):
        assert change.kinds
        assert change_of(json.loads(json.dumps(document_of(change)))) == change
        shown = [change.summary, *change.lines, *details_of(change)["lines"]]
        for each in change.platforms:
            shown += [part or "" for row in each.differences for part in (row.name, row.before, row.after)]
            shown += [line.command for line in each.layers]
        assert all(text.isprintable() for text in shown)
        assert all(len(text) < 50_000 for text in shown)
    return True


def provenance(data: bytes) -> bool:
    """Whatever a predicate says, it is one of texts, or nothing."""
    with suppress(ValueError, RecursionError):
        predicate = json.loads(data)
        found = [read_provenance(kind, predicate) for kind in (V1, V02)]
        assert all(each is None or isinstance(each.source + each.ref + each.builder, str) for each in found)
        return any(found)
    return False


def _configs() -> Iterator[bytes]:
    yield _BUILT.blobs[0].data
    yield nginx("2026-06-01").image().blobs[0].data
    yield json.dumps(
        {
            "architecture": "arm64",
            "os": "linux",
            "variant": "v8",
            "created": "2026-05-01T10:00:00.123456789+02:00",
            "config": {
                "env": ["A=b", "LD_PRELOAD=/x", "TOKEN=x"],
                "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1},
                "Volumes": {"/x": {}},
                "OnBuild": ["RUN x"],
                "Shell": ["/bin/sh"],
            },
            "rootfs": {"diff_ids": ["sha256:x"]},
            "history": [{"created_by": "x", "empty_layer": True}, {"created": None}],
        }
    ).encode()


def _predicates() -> Iterator[bytes]:
    yield json.dumps(
        {
            "buildDefinition": {
                "externalParameters": {"workflow": {"ref": "r", "repository": "https://a/b"}, "source": {"uri": "git+x://y/z@r"}},
                "resolvedDependencies": [{"uri": "git+https://a/b@c"}],
            },
            "runDetails": {"builder": {"id": "x"}},
        }
    ).encode()
    yield json.dumps(
        {"builder": {"id": "x"}, "invocation": {"configSource": {"uri": "https://a/b.git#c"}}, "materials": [{"uri": "git+x"}]}
    ).encode()


TARGETS = (
    Target(
        "config",
        config,
        (ConfigMalformed,),
        tuple(_configs()),
        largest=4 << 20,
        words=("Entrypoint", "Healthcheck", "empty_layer", "diff_ids", "password="),
        seconds=1,
        told=False,
    ),
    Target(
        "provenance",
        provenance,
        (),
        tuple(_predicates()),
        largest=1 << 20,
        words=("configSource", "materials"),
        seconds=1,
        told=False,
    ),
)
