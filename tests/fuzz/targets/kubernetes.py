"""What API servers, or whoever says to be one, send to the admission webhooks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import jsonpatch

from proxy.errors import MalformedRequest, ReviewMalformed
from proxy.policy.reviews import Mutation, ReviewPolicy, meaning, renamed
from proxy.routing import Router
from proxy.services.workloads import PODS, patch, read_review
from storage.digest import Digest
from storage.errors import MalformedName
from tests.fuzz.target import Target, fit
from tests.simulator.kubernetes import pod, pod_spec, review, workload

DIGEST = Digest.of(b"decided")
ROUTER = Router(frozenset({"docker.io", "ghcr.io", "corp.example:5443"}), {"hub.mirror.example": "docker.io"}, "docker.io")
POLICY = ReviewPolicy(Mutation.MIRROR, "mirror.example:5000")
MIRRORED = f"mirror.example:5000/ghcr.io/acme/app:v1@{DIGEST}"


def admission(data: bytes) -> bool:
    """A review, and the names in it: each is where it is said to be, what is written instead means the same, and is a patch.

    Of what is read as a pod no image is overlooked: one that nobody would let through is found in it.
    """
    read = read_review(data)
    document: dict[str, Any] = json.loads(data)
    thing = document["request"]["object"] if read.images else None
    changes = []
    for named in read.images:
        fit(named.where)
        if not named.image:
            continue
        assert jsonpatch.JsonPointer(named.pointer).resolve(thing) == named.image
        with suppress(MalformedName, MalformedRequest):
            before = meaning(named.image, POLICY, ROUTER)
            written = renamed(before, DIGEST, POLICY)
            after = meaning(written, POLICY, ROUTER)
            assert after.reference.repository == before.reference.repository
            assert after.reference.digest in {DIGEST, before.reference.digest}
            changes.append((named, written))
    if changes:
        patched = jsonpatch.apply_patch(document["request"]["object"], json.loads(patch(changes)))
        for named, written in changes:
            assert jsonpatch.JsonPointer(named.pointer).resolve(patched) == written
    return bool(read.images)


def _reviews() -> Iterator[bytes]:
    spec = pod_spec("nginx", f"ghcr.io/acme/app@{DIGEST}", init=[MIRRORED], ephemeral=["corp.example:5443/x:1"], volumes=["a/b"])
    for _, kind in PODS:
        yield json.dumps(review(workload(kind, spec))).encode()
    yield json.dumps(review(pod("hub.mirror.example/nginx:1"), "UPDATE", before=pod("nginx"), dry_run=True)).encode()
    yield json.dumps(review(None, "DELETE", before=pod("nginx"))).encode()
    yield json.dumps(review(workload("ReplicaSet", spec, owner="Deployment"), "CREATE", dry_run=None)).encode()


TARGETS = (
    Target(
        "admission",
        admission,
        (ReviewMalformed,),
        tuple(_reviews()),
        words=("ephemeralContainers", "reference", "oldObject", "controller", "UPDATE"),
        told=True,
    ),
)
