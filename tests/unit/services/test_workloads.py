"""AdmissionReviews as read: every place where an image is named, and nothing that cannot be read for something without images."""

from __future__ import annotations

import copy
import importlib.resources
import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import jsonpatch
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import ReviewMalformed
from proxy.services.workloads import LISTS, PODS, Named, patch, pointer, read_review
from tests.simulator.kubernetes import UID, USER, Object, pod, pod_spec, review, workload

EVERY = pod_spec("a", "b", init=["c"], ephemeral=["d"], volumes=["e"])


def read(document: Any) -> Any:
    """Read what a test wrote."""
    return read_review(json.dumps(document).encode())


def refused(document: Any) -> ReviewMalformed:
    """Why it cannot be read."""
    with pytest.raises(ReviewMalformed) as caught:
        read(document)
    return caught.value


@pytest.mark.parametrize("kind", [kind for _, kind in PODS])
def test_every_image_of_every_kind_is_found_where_it_is(kind: str) -> None:
    """The pointers lead to the very names, in order, under words that a person can find them by."""
    thing = workload(kind, copy.deepcopy(EVERY))
    found = read(review(thing))
    assert [each.image for each in found.images] == ["c", "a", "b", "d", "e"]
    assert [each.where for each in found.images] == [
        'init container "i0"',
        'container "c0"',
        'container "c1"',
        'ephemeral container "e0"',
        'volume "v0"',
    ]
    for each in found.images:
        assert jsonpatch.JsonPointer(each.pointer).resolve(thing) == each.image
    assert (found.uid, found.user, found.workload, found.dry_run) == (UID, USER, f"{kind} web/shop", False)


# -- against Kubernetes' own schemas --------------------------------------------------------------------------------

POD_SPEC = "io.k8s.api.core.v1.PodSpec"


@cache
def definitions() -> dict[str, Any]:
    """The types of the newest Kubernetes that is known to kubernetes-validate."""
    folders = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema"
    strict = [folder for folder in folders.iterdir() if folder.name.endswith("-local-strict")]
    newest = max(strict, key=lambda folder: [int(part) for part in folder.name[1:].partition("-")[0].split(".")])
    found: dict[str, Any] = json.loads((newest / "_definitions.json").read_text())["$defs"]
    return found


def below(node: Any) -> set[str]:
    """The types that a schema refers to."""
    if isinstance(node, list):
        return set().union(*map(below, node))
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"].rpartition("/")[2]} if isinstance(node.get("$ref"), str) else set()
    return own.union(*map(below, node.values()))


def ways(name: str, goal: str, seen: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every way by properties from one type to another."""
    for key, node in definitions()[name].get("properties", {}).items():
        for other in below(node) & definitions().keys():
            if other == goal:
                yield (key,)
            elif other not in seen and other != name:
                yield from ((key, *rest) for rest in ways(other, goal, (*seen, name)))


def test_every_kind_with_a_pod_is_known() -> None:
    """Of all kinds of the newest API, those that hold a pod are in the table, with the way to it; version v1."""
    found = {}
    for name, schema in definitions().items():
        for kind in schema.get("x-kubernetes-group-version-kind", ()):
            if name.endswith("List") or "properties" not in schema or POD_SPEC not in _reachable(name):
                continue
            (way,) = ways(name, POD_SPEC)
            found[kind["group"], kind["kind"]] = way
            assert kind["version"] == "v1"
    assert found == dict(PODS)


@cache
def _reachable(name: str) -> frozenset[str]:
    seen, waiting = {name}, [name]
    while waiting:
        for other in (below(definitions()[waiting.pop()]) & definitions().keys()) - seen:
            seen.add(other)
            waiting.append(other)
    return frozenset(seen)


def test_every_image_of_a_pod_is_known() -> None:
    """All that is called image or reference below a pod's spec is in the table, but for a Ceph volume's: no node runs that."""
    found = set()
    for key, node in definitions()[POD_SPEC]["properties"].items():
        for other in below(node) & definitions().keys():
            for name in _reachable(other):
                found |= {
                    (key, name.rpartition(".")[2], text)
                    for text in definitions()[name].get("properties", {})
                    if text in {"image", "reference"}
                }
    assert found == {
        ("containers", "Container", "image"),
        ("initContainers", "Container", "image"),
        ("ephemeralContainers", "EphemeralContainer", "image"),
        ("volumes", "Volume", "image"),
        ("volumes", "ImageVolumeSource", "reference"),
        ("volumes", "RBDVolumeSource", "image"),
    }
    assert {key for key, *_ in found} == LISTS.keys()


# -- updates, and what brings no image in ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "judged"),
    [
        (pod_spec("a:1", "b:1"), pod_spec("a:1", "b:1"), []),
        (pod_spec("a:1", "b:1"), pod_spec("a:1", "b:2"), ["b:2"]),
        (pod_spec("a:1"), pod_spec("a:1", "a:1"), ["a:1"]),
        (pod_spec("a:1", "b:1"), pod_spec("b:1", "a:1"), ["b:1", "a:1"]),
        (pod_spec("a:1", init=["b:1"]), pod_spec("a:1"), []),
        (pod_spec("a:1"), pod_spec("a:1", ephemeral=["a:1"]), ["a:1"]),
        (pod_spec("a:1", volumes=["v:1"]), pod_spec("a:1", volumes=["v:1", "v:2"]), ["v:2"]),
        ({}, pod_spec("a:1"), ["a:1"]),
        ({"containers": 5}, pod_spec("a:1"), ["a:1"]),
    ],
)
def test_of_an_update_only_what_is_new_is_judged(before: Object, after: Object, judged: list[str]) -> None:
    """A container that keeps its image keeps it; a new one is judged, also with an image that another one had."""
    found = read(review(workload("Deployment", after), "UPDATE", before=workload("Deployment", before)))
    assert [each.image for each in found.images] == judged


@pytest.mark.parametrize("operation", ["DELETE", "CONNECT"])
def test_what_takes_away_brings_nothing_in(operation: str) -> None:
    """Whatever its kind, and whatever it holds."""
    assert read(review(None, operation, before=pod("a"))).images == ()
    assert read(review({"kind": "Gadget", "apiVersion": "x.example/v2", "metadata": {}}, operation)).images == ()


@pytest.mark.parametrize(("kind", "version"), [("Binding", "v1"), ("Eviction", "policy/v1"), ("Scale", "autoscaling/v1")])
def test_what_subresources_are_asked_with_has_no_images(kind: str, version: str) -> None:
    """A webhook for `pods/*` must not keep pods from being placed, evicted and scaled."""
    assert read(review({"kind": kind, "apiVersion": version, "metadata": {"name": "shop"}})).images == ()


def test_what_a_controller_made_is_told_from_what_a_person_wrote() -> None:
    """But a pod is always one's own: its controller does not compare it with anything."""
    spec = pod_spec("a")
    assert read(review(workload("ReplicaSet", spec, owner="Deployment"))).made
    assert not read(review(workload("ReplicaSet", spec))).made
    assert not read(review(workload("Pod", spec, owner="ReplicaSet"))).made


def test_names_that_are_not_there_yet() -> None:
    """``generateName`` stands for them."""
    thing = pod("a")
    thing["metadata"] = {"generateName": "shop-", "namespace": "web"}
    assert read(review(thing)).workload == "Pod web/shop-*"
    thing["metadata"] = {}
    assert read(review(thing, namespace="")).workload == "Pod "


def test_an_image_may_be_missing() -> None:
    """It is one without a name, not none."""
    thing = pod("a")
    del thing["spec"]["containers"][0]["image"]
    thing["spec"]["volumes"] = [{"name": "v", "image": {}}, {"name": "w", "image": None}]
    assert [each.image for each in read(review(thing)).images] == ["", ""]


# -- what is none ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"kind": "AdmissionReview"},
        {"kind": "Pod", "apiVersion": "admission.k8s.io/v1"},
        {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1"},
        {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {}},
        {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"uid": ""}},
        {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"uid": 5}},
        {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": {"uid": "x" * 257}},
        {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": {"uid": "x", "allowed": True}},
    ],
)
def test_what_is_no_review(document: Any) -> None:
    """There is nothing that a verdict could be about."""
    assert refused(document).uid is None


def test_the_old_version_is_told() -> None:
    """With the key of the webhook's configuration that says which one is sent."""
    old = review(pod("a")) | {"apiVersion": "admission.k8s.io/v1beta1"}
    assert str(refused(old)) == "admission.k8s.io/v1beta1 is not served: let admissionReviewVersions of the webhook be [v1]"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"{",
        b'{"kind":"AdmissionReview","kind":"AdmissionReview"}',
        b'{"kind":NaN}',
        b"[" * 100 + b"]" * 100,
        b"[" * 100_000,
        b"[" + b"[]," * 600_000 + b"[]]",
        '{"kind":"AdmissionReview","apiVersion":"\ud800"}'.encode("utf-8", "surrogatepass"),
        b'{"kind":"AdmissionReview","apiVersion":"\\ud800"}',
    ],
)
def test_what_is_not_json_that_means_one_thing(body: bytes) -> None:
    """It is refused in words that fit into a line."""
    with pytest.raises(ReviewMalformed) as caught:
        read_review(body)
    assert caught.value.uid is None
    assert str(caught.value).isprintable()


def changed(thing: Object, path: str, value: Any) -> Object:
    """A copy with another value at a place."""
    copied = copy.deepcopy(thing)
    found: Object = jsonpatch.apply_patch(copied, [{"op": "add", "path": path, "value": value}])
    return found


POD = review(workload("Pod", copy.deepcopy(EVERY)))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("/request/operation", "PATCH", "no operation"),
        ("/request/operation", 5, "operation is not text"),
        ("/request/kind", "Pod", "of which kind"),
        ("/request/kind", {"group": "", "version": "v2", "kind": "Pod"}, "v2/Pod is no kind whose images are known here"),
        ("/request/kind", {"group": "argoproj.io", "version": "v1", "kind": "Rollout"}, "argoproj.io/v1/Rollout is no kind"),
        ("/request/kind", {"group": "apps", "version": "v1", "kind": "Pod"}, "is no kind"),
        ("/request/kind/kind", "PodTemplate", "brings no PodTemplate"),
        ("/request/kind/kind", {}, "kind is not text"),
        ("/request/dryRun", "true", "dryRun"),
        ("/request/dryRun", 1, "dryRun"),
        ("/request/namespace", [], "namespace is not text"),
        ("/request/userInfo/username", 7, "username is not text"),
        ("/request/object", None, "brings no Pod"),
        ("/request/object", [], "brings no Pod"),
        ("/request/object/spec", None, "no pod at spec"),
        ("/request/object/spec", [], "no pod at spec"),
        ("/request/object/spec/containers", {}, "containers is not a list"),
        ("/request/object/spec/containers/0", "a", r"containers[0] is not an object"),
        ("/request/object/spec/containers/0/name", 1, "name is not text"),
        ("/request/object/spec/containers/0/image", ["a"], "containers[0].image is not text"),
        ("/request/object/spec/containers/0/image", False, "containers[0].image is not text"),
        ("/request/object/spec/initContainers", "x", "initContainers is not a list"),
        ("/request/object/spec/ephemeralContainers", 1, "ephemeralContainers is not a list"),
        ("/request/object/spec/volumes/1/image", "x", "volumes[1].image is not an object"),
        ("/request/object/spec/volumes/1/image/reference", 5, "volumes[1].image.reference is not text"),
    ],
)
def test_what_is_not_as_it_must_be_is_refused_to_whoever_asked(path: str, value: Any, words: str) -> None:
    """Never read as something without images: the review's sender gets a verdict, with words."""
    if path.endswith("/containers/0"):
        document = copy.deepcopy(POD)
        document["request"]["object"]["spec"]["containers"][0] = value
    else:
        document = changed(POD, path, value)
    problem = refused(document)
    assert problem.uid == UID
    assert words in str(problem)


def test_an_update_without_what_was_before() -> None:
    """What is new in it cannot be told."""
    assert "before" in str(refused(review(pod("a"), "UPDATE")))


def test_the_number_of_places_is_bounded() -> None:
    """Each is a line in the log, also where all of them name the same image."""
    assert len(read(review(pod(*["a"] * 1000))).images) == 1000
    assert "more than 1000 places" in str(refused(review(pod(*["a"] * 1001))))


# -- patches --------------------------------------------------------------------------------------------------------


def test_pointers_are_escaped() -> None:
    """RFC 6901, section 3: the tilde first."""
    assert pointer(("a/b", "m~n", "~1", "0")) == "/a~1b/m~0n/~01/0"
    assert pointer(()) == ""


@pytest.mark.parametrize("kind", [kind for _, kind in PODS])
def test_a_patch_changes_names_and_nothing_else(kind: str) -> None:
    """Applied by somebody else's implementation of RFC 6902, it leaves the rest as it was."""
    thing = workload(kind, copy.deepcopy(EVERY))
    found = read(review(thing))
    changes = [(each, f"{each.image}@new") for each in found.images if each.image != "b"]
    after = jsonpatch.apply_patch(thing, json.loads(patch(changes)))
    other = pod_spec("a@new", "b", init=["c@new"], ephemeral=["d@new"], volumes=["e@new"])
    assert after == workload(kind, other)


# -- anything -------------------------------------------------------------------------------------------------------

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["spec", "template", "containers", "image", "name", "kind", "volumes", "reference", "metadata"])
            | st.text(max_size=5),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(ANYTHING)
def test_any_object_is_read_or_refused(thing: Any) -> None:
    """Nothing but ReviewMalformed comes out, and what is read as a pod is one."""
    document = copy.deepcopy(POD)
    document["request"]["object"] = thing
    try:
        found = read(document)
    except ReviewMalformed:
        return
    assert isinstance(thing["spec"], dict)
    for named in found.images:
        assert isinstance(named, Named)
        if named.image:
            assert jsonpatch.JsonPointer(named.pointer).resolve(thing) == named.image


@given(st.binary(max_size=200) | ANYTHING.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_refused(body: bytes) -> None:
    """No bytes but those of a review are one."""
    with pytest.raises(ReviewMalformed):
        read_review(body)
