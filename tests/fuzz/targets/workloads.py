"""What programs print about containers that run: kubectl, crictl, docker, podman and ctr."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from proxy.drift.containerd import chain, config, container, images, manifests, parent, running
from proxy.drift.standings import Names, Status, judge, question
from proxy.drift.workloads import read
from proxy.errors import WorkloadsMalformed
from proxy.policy.patterns import Pattern
from proxy.policy.rules import FirstUse, Rule
from proxy.routing import Router
from storage.digest import Digest
from storage.records import Known, Lineage, Picture
from tests.fuzz.target import Target
from tests.simulator.reports import (
    CTR_IMAGES,
    CTR_TASKS,
    crictl_images,
    crictl_ps,
    ctr_cri,
    ctr_info,
    docker_container,
    docker_image,
    encode,
    pod,
    podman_container,
    podman_image,
    pods,
    status,
)

DIGEST = Digest.of(b"runs")
AT = datetime(2026, 1, 2, tzinfo=UTC)
NAMES = Names(
    Router(frozenset({"docker.io", "ghcr.io", "corp.example:5443"}), {"hub.mirror.example": "docker.io"}, "docker.io"),
    ("mirror.example:5000",),
)
RULE = Rule(Pattern.compile("**"), FirstUse(), (), "f")


def workloads(data: bytes) -> bool:
    """Nobody is approved of whom nothing is known; whoever claims no digest cannot be told; no text is longer than it may be."""
    found = read(data).complete()
    for workload in found:
        assert all(
            len(text) <= 1024 for text in (workload.namespace, workload.pod, workload.container, workload.image, workload.id)
        )
        asked = question(workload, NAMES, {})
        nothing = {pair: (Known(Lineage(*pair, None, None, (), (), ())),) for pair in asked.pairs}
        said = judge(asked, Picture(nothing), lambda _: RULE, AT).status
        assert said in {Status.UNKNOWN, Status.NEVER_SEEN}
        assert workload.claims or said is Status.UNKNOWN
    return bool(found)


def ctr(data: bytes) -> bool:
    """Tables, containers, snapshots and documents, as ``ctr`` prints them."""
    images(data)
    active = running(data)
    for reader in (manifests, config, chain, parent):
        try:
            reader(data)
        except WorkloadsMalformed:
            continue
    found = container(data, "default", active)
    assert found.workload.claims or found.workload.missing
    assert found.workload.claims or not found.made_of(DIGEST, "", frozenset()).claims
    return True


def _printed() -> Iterator[bytes]:
    nginx = "docker.io/library/nginx"
    mounted = {"name": "data", "image": {"reference": f"ghcr.io/acme/data@{DIGEST}"}}
    ran = status("c", "nginx", f"{nginx}@{DIGEST}")
    mirrored = ("mirror.example:5000/ghcr.io/acme/app:v1", status("m", "x", "docker-pullable://x@" + str(DIGEST), "waiting"))
    whole = pod("p", {"c": ("nginx", ran)}, init={"i": ("x", None)}, ephemeral={"m": mirrored}, volumes=[mounted])
    yield encode(pods(whole, {"kind": "Deployment"}))
    yield encode(whole)
    yield encode(crictl_ps(("nginx", "nginx:1", str(DIGEST))))
    yield encode(crictl_images((str(DIGEST), ["nginx:1"], [f"nginx@{DIGEST}"])))
    image = docker_image(str(DIGEST), ["nginx:1"], [f"nginx@{DIGEST}"])
    yield encode([docker_container("web", DIGEST.hex[:12], str(DIGEST), descriptor=str(DIGEST)), image])
    held = podman_image(DIGEST.hex, str(DIGEST), [f"{nginx}:1"], [f"{nginx}@{DIGEST}"])
    yield encode([podman_container("web", f"{nginx}:1", DIGEST.hex, str(DIGEST)), held])
    yield encode(
        [{"Id": DIGEST.hex, "Image": "nginx", "ImageID": DIGEST.hex, "Names": ["web"], "State": "running", "PodName": ""}]
    )


TARGETS = (
    Target(
        "workloads",
        workloads,
        (WorkloadsMalformed,),
        tuple(_printed()),
        largest=4 << 20,  # of what may be sixty times as much
        words=("ephemeralContainerStatuses", "docker-pullable://", "RepoDigests", "ImageDigest", "userSpecifiedImage", "<none>"),
        seconds=1,
        told=False,
    ),
    Target(
        "ctr",
        ctr,
        (WorkloadsMalformed,),
        (ctr_info(), ctr_info(ctr_cri(str(DIGEST), {"user_specified_image": "nginx"})), CTR_IMAGES.encode(), CTR_TASKS.encode()),
        largest=4 << 20,
        words=("io.cri-containerd.container.metadata", "ImageRef", "SnapshotKey", "diff_ids"),
        seconds=1,
        told=False,
    ),
)
