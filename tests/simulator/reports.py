"""What kubectl, crictl, docker, podman and ctr print about a container: the keys that they give, shortened where they repeat."""

from __future__ import annotations

import base64
import json
from typing import Any

from storage.digest import Digest

Object = dict[str, Any]
POD_UID = "0b2c4f70-9f6e-4a9e-8d0a-3f8a3f0f6a11"


def digest(what: str) -> Digest:
    """A digest that stands for ``what``."""
    return Digest.of(what.encode())


def encode(document: object) -> bytes:
    """As these programs print it."""
    return json.dumps(document, indent=4).encode()


def status(name: str, image: str, image_id: str, state: str = "running", scheme: str = "containerd") -> Object:
    """One entry of ``containerStatuses``, as Kubernetes 1.30 has it."""
    states = {
        "running": {"running": {"startedAt": "2026-11-01T08:00:02Z"}},
        "waiting": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting failed container"}},
        "terminated": {"terminated": {"exitCode": 0, "reason": "Completed", "finishedAt": "2026-11-01T08:00:01Z"}},
        "": {},
    }
    return {
        "containerID": f"{scheme}://{digest(name).hex}",
        "image": image,
        "imageID": image_id,
        "lastState": {},
        "name": name,
        "ready": state == "running",
        "restartCount": 0,
        "started": state == "running",
        "state": states[state],
    }


def pod(
    name: str,
    containers: dict[str, tuple[str, Object | None]],
    *,
    init: dict[str, tuple[str, Object | None]] | None = None,
    ephemeral: dict[str, tuple[str, Object | None]] | None = None,
    volumes: list[Object] | None = None,
    phase: str = "Running",
    namespace: str = "shop",
) -> Object:
    """``kubectl get pod -o json``, version 1.30: name of each container → the image of its spec, and its status if it has one."""
    lists = {"containers": containers, "initContainers": init or {}, "ephemeralContainers": ephemeral or {}}
    spec: Object = {
        "nodeName": "node-1",
        "restartPolicy": "Always",
        "volumes": [{"name": "tmp", "emptyDir": {}}, *(volumes or [])],
    }
    told: Object = {"phase": phase, "hostIP": "10.0.0.4", "podIP": "10.1.0.9", "qosClass": "BestEffort", "conditions": []}
    for key, listed in lists.items():
        spec[key] = [{"name": each, "image": image, "imagePullPolicy": "IfNotPresent"} for each, (image, _) in listed.items()]
        told[f"{key.removesuffix('s')}Statuses"] = [state for _, state in listed.values() if state is not None]
    metadata = {"name": name, "namespace": namespace, "uid": POD_UID, "creationTimestamp": "2026-11-01T08:00:00Z"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec, "status": told}


def pods(*items: Object) -> Object:
    """``kubectl get pods -A -o json``."""
    return {"apiVersion": "v1", "items": list(items), "kind": "List", "metadata": {"resourceVersion": ""}}


def crictl_ps(*containers: tuple[str, str, str], state: str = "CONTAINER_RUNNING") -> Object:
    """``crictl ps -o json``, version 1.30: name, image as it was asked for, the image's reference."""
    return {
        "containers": [
            {
                "id": digest(name).hex,
                "podSandboxId": digest("sandbox").hex,
                "metadata": {"name": name, "attempt": 0},
                "image": {"image": reference, "annotations": {}, "userSpecifiedImage": image, "runtimeHandler": ""},
                "imageRef": reference,
                "state": state,
                "createdAt": "1761984002000000000",
                "labels": {
                    "io.kubernetes.container.name": name,
                    "io.kubernetes.pod.name": "web-7c",
                    "io.kubernetes.pod.namespace": "shop",
                    "io.kubernetes.pod.uid": POD_UID,
                },
                "annotations": {"io.kubernetes.container.hash": "e1c2a3b4", "io.kubernetes.container.restartCount": "0"},
            }
            for name, image, reference in containers
        ]
    }


def crictl_images(*images: tuple[str, list[str], list[str]]) -> Object:
    """``crictl images -o json``, version 1.30: ID, tags, digests."""
    return {
        "images": [
            {
                "id": identifier,
                "repoTags": tags,
                "repoDigests": digests,
                "size": "71005258",
                "uid": None,
                "username": "",
                "spec": None,
                "pinned": False,
            }
            for identifier, tags, digests in images
        ]
    }


def docker_container(name: str, image: str, image_id: str, *, status: str = "running", descriptor: str | None = None) -> Object:
    """One entry of ``docker inspect``; with ``descriptor`` as docker 28 and its containerd image store have it."""
    found: Object = {
        "Id": digest(name).hex,
        "Created": "2026-11-01T08:00:00.123456789Z",
        "Path": "/docker-entrypoint.sh",
        "Args": ["nginx", "-g", "daemon off;"],
        "State": {"Status": status, "Running": status == "running", "Paused": False, "Restarting": False, "Pid": 4711},
        "Image": image_id,
        "Name": f"/{name}",
        "RestartCount": 0,
        "Driver": "overlay2",
        "Platform": "linux",
        "HostConfig": {"NetworkMode": "bridge"},
        "Mounts": [],
        "Config": {"Hostname": digest(name).hex[:12], "Image": image, "Labels": {"maintainer": "x"}, "Cmd": ["nginx"]},
    }
    if descriptor is not None:
        kind = "application/vnd.oci.image.manifest.v1+json"
        found["ImageManifestDescriptor"] = {"mediaType": kind, "digest": descriptor, "size": 2290}
    return found


def docker_image(identifier: str, tags: list[str], digests: list[str]) -> Object:
    """One entry of ``docker image inspect``."""
    return {
        "Id": identifier,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Parent": "",
        "Comment": "buildkit.dockerfile.v0",
        "Created": "2026-10-01T00:00:00Z",
        "Architecture": "amd64",
        "Os": "linux",
        "Size": 192004242,
        "RootFS": {"Type": "layers", "Layers": [str(digest("layer"))]},
        "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
    }


def podman_container(name: str, image: str, image_id: str, image_digest: str | None, *, status: str = "running") -> Object:
    """One entry of ``podman inspect`` of a container; the digest stands there since 4.3."""
    found: Object = {
        "Id": digest(name).hex,
        "Created": "2026-11-01T08:00:00.123456789+01:00",
        "Path": "nginx",
        "Args": ["-g", "daemon off;"],
        "State": {"OciVersion": "1.1.0", "Status": status, "Running": status == "running", "Paused": False, "Pid": 4711},
        "Image": image_id,
        "ImageName": image,
        "Rootfs": "" if image else "/run/user/1000/libpod/tmp/infra-container",
        "Pod": "",
        "Name": name,
        "OCIRuntime": "crun",
        "Config": {"Hostname": digest(name).hex[:12], "Image": image, "Labels": None},
        "HostConfig": {"Binds": []},
    }
    if image_digest is not None:
        found["ImageDigest"] = image_digest
    return found


def podman_image(identifier: str, image_digest: str, tags: list[str], digests: list[str]) -> Object:
    """One entry of ``podman image inspect``."""
    return {
        "Id": identifier,
        "Digest": image_digest,
        "RepoTags": tags,
        "RepoDigests": digests,
        "Parent": "",
        "Architecture": "amd64",
        "Os": "linux",
        "NamesHistory": tags,
        "ManifestType": "application/vnd.oci.image.manifest.v1+json",
    }


CTR_IMAGES = f"""REF                      TYPE                                    DIGEST            SIZE    PLATFORMS    LABELS
docker.io/library/demo:1 application/vnd.oci.image.index.v1+json {digest("index")} 1.1 MiB linux/amd64,linux/arm64 -
docker.io/library/old:1  {digest("old")} 3.0 MiB - -
broken
"""
CTR_TASKS = """TASK     PID     STATUS
runs     4711    RUNNING
paused   4712    PAUSED
ended    4713    STOPPED
made     4714    CREATED
"""


def ctr_info(extensions: dict[str, Any] | None = None, **labels: str) -> bytes:
    """``ctr containers info``, version 1.6."""
    return encode(
        {
            "ID": "runs",
            "Labels": {"io.containerd.image.config.stop-signal": "SIGTERM", **labels},
            "Image": "docker.io/library/demo:1",
            "Runtime": {"Name": "io.containerd.runc.v2", "Options": {"type_url": "containerd.runc.v1.Options"}},
            "SnapshotKey": "runs",
            "Snapshotter": "overlayfs",
            "CreatedAt": "2026-11-22T13:16:22.659917436Z",
            "UpdatedAt": "2026-11-22T13:16:22.659917436Z",
            "Extensions": extensions,
            "Spec": {"ociVersion": "1.0.2-dev", "process": {"args": ["sleep", "100"]}},
        }
    )


def ctr_cri(reference: str, image: dict[str, str]) -> dict[str, Any]:
    """What containerd's CRI keeps with a container."""
    metadata = {"ID": "runs", "Name": "nginx", "SandboxID": "s", "Config": {"image": image}, "ImageRef": reference}
    value = base64.b64encode(json.dumps({"Version": "v1", "Metadata": metadata}).encode()).decode()
    url = "github.com/containerd/cri/pkg/store/container/Metadata"
    return {"io.cri-containerd.container.metadata": {"type_url": url, "value": value}}
