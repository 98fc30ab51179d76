"""What a Kubernetes API server sends to admission webhooks, and what it makes of the answers."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jsonpatch

Object = dict[str, Any]
UID = "705ab4f5-6393-11e8-b7cc-42010a800002"
USER = "system:serviceaccount:kube-system:replicaset-controller"


def pod_spec(*images: str, init: Sequence[str] = (), ephemeral: Sequence[str] = (), volumes: Sequence[str] = ()) -> Object:
    """A pod's ``spec``; containers are called ``c0``, ``c1`` …, the others ``i0``, ``e0``, ``v0``."""
    spec: Object = {"containers": [{"name": f"c{number}", "image": image} for number, image in enumerate(images)]}
    if init:
        spec["initContainers"] = [{"name": f"i{number}", "image": image} for number, image in enumerate(init)]
    if ephemeral:
        spec["ephemeralContainers"] = [{"name": f"e{number}", "image": image} for number, image in enumerate(ephemeral)]
    if volumes:
        spec["volumes"] = [
            {"name": "scratch", "emptyDir": {}},
            *({"name": f"v{number}", "image": {"reference": image}} for number, image in enumerate(volumes)),
        ]
    return spec


def pod(*images: str, **more: Sequence[str]) -> Object:
    """A pod."""
    return workload("Pod", pod_spec(*images, **more))


def workload(kind: str, spec: Object, *, name: str = "shop", version: str | None = None, owner: str | None = None) -> Object:
    """An object of a kind that has a pod, around this ``spec`` of a pod. ``owner``: the kind of the controller above it."""
    metadata: Object = {"name": name, "namespace": "web"}
    if owner is not None:
        metadata["ownerReferences"] = [{"kind": owner, "name": "above", "uid": "1", "controller": True}]
    made: Object = {"metadata": metadata, "kind": kind}
    template = {"metadata": {"labels": {"app": "shop"}}, "spec": spec}
    match kind:
        case "Pod":
            return made | {"apiVersion": "v1", "spec": spec}
        case "PodTemplate":
            return made | {"apiVersion": "v1", "template": template}
        case "ReplicationController":
            return made | {"apiVersion": "v1", "spec": {"template": template}}
        case "Job":
            return made | {"apiVersion": "batch/v1", "spec": {"template": template}}
        case "CronJob":
            return made | {
                "apiVersion": "batch/v1",
                "spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": template}}},
            }
        case _:
            return made | {"apiVersion": version or "apps/v1", "spec": {"replicas": 2, "template": template}}


def review(
    thing: Object | None,
    operation: str = "CREATE",
    *,
    before: Object | None = None,
    dry_run: bool | None = False,
    subresource: str = "",
    **more: Any,
) -> Object:
    """An AdmissionReview as an API server writes it; ``more`` replaces keys of its ``request``."""
    shown = thing or before or {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop", "namespace": "web"}}
    group, slash, version = str(shown["apiVersion"]).rpartition("/")
    kind = {"group": group if slash else "", "version": version, "kind": shown["kind"]}
    resource = {"group": kind["group"], "version": version, "resource": str(shown["kind"]).lower() + "s"}
    request: Object = {
        "uid": UID,
        "kind": kind,
        "resource": resource,
        "requestKind": kind,
        "requestResource": resource,
        "name": shown["metadata"].get("name", ""),
        "namespace": "web",
        "operation": operation,
        "userInfo": {"username": USER, "groups": ["system:authenticated"]},
        "object": thing,
        "oldObject": before,
        "options": {"apiVersion": "meta.k8s.io/v1", "kind": "CreateOptions"},
    }
    if dry_run is not None:
        request["dryRun"] = dry_run
    if subresource:
        request["subResource"] = request["requestSubResource"] = subresource
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request | more}


def response(answer: bytes, uid: str = UID) -> Object:
    """The response in an answer, held against what API servers check before they believe it."""
    document = json.loads(answer)
    assert (document["kind"], document["apiVersion"]) == ("AdmissionReview", "admission.k8s.io/v1")
    found: Object = document["response"]
    assert found["uid"] == uid
    assert isinstance(found["allowed"], bool)
    assert ("patch" in found) == ("patchType" in found)
    assert found.get("patchType", "JSONPatch") == "JSONPatch"
    if not found["allowed"]:
        assert found["status"]["code"] >= 400
        assert found["status"]["message"]
        assert "patch" not in found
    for warning in found.get("warnings", ()):
        assert warning.isprintable()
        assert 0 < len(warning) <= 256
    return found


def patched(thing: Object, found: Mapping[str, Any]) -> Object:
    """The object as the API server goes on with it."""
    if "patch" not in found:
        return copy.deepcopy(thing)
    changed: Object = jsonpatch.apply_patch(thing, json.loads(base64.b64decode(found["patch"], validate=True)))
    return changed
