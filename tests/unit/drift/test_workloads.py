"""What kubectl, crictl, docker and podman print, read."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.drift.workloads import Claim, Inventory, Source, Workload, read
from proxy.errors import WorkloadsMalformed
from tests.fuzz.examples import examples
from tests.simulator.reports import (
    crictl_images,
    crictl_ps,
    digest,
    docker_container,
    docker_image,
    encode,
    pod,
    podman_container,
    podman_image,
    pods,
    status,
)

NGINX = "docker.io/library/nginx"
INDEX, IMAGE, CONFIG = digest("index"), digest("image"), digest("config")


def one(document: object) -> Workload:
    """The only workload of a document."""
    (found,) = read(encode(document)).complete()
    return found


def test_pods_are_read_with_all_their_containers() -> None:
    """Containers, init containers, ephemeral ones and mounted images; the digest of each, and whether it runs."""
    web = pod(
        "web-7c",
        {"nginx": ("nginx:1.27", status("nginx", f"{NGINX}:1.27", f"{NGINX}@{INDEX}"))},
        init={"setup": ("busybox", status("setup", "busybox", str(CONFIG), "terminated"))},
        ephemeral={"shell": ("alpine:3", status("shell", "alpine:3", "docker-pullable://alpine@" + str(IMAGE)))},
        volumes=[{"name": "data", "image": {"reference": f"ghcr.io/acme/data@{INDEX}", "pullPolicy": "IfNotPresent"}}],
    )
    nginx, setup, shell, data = read(encode(pods(web))).complete()
    assert nginx == Workload(
        Source.KUBERNETES,
        "shop",
        "web-7c",
        "nginx",
        "container",
        digest("nginx").hex,
        "nginx:1.27",
        (Claim(NGINX, INDEX),),
    )
    assert nginx.name == "shop/web-7c/nginx"
    assert (setup.kind, setup.claims, setup.running) == ("init container", (Claim("", CONFIG),), False)
    assert (shell.kind, shell.claims) == ("ephemeral container", (Claim("alpine", IMAGE),))
    assert (data.kind, data.claims, data.running) == ("volume", (Claim("ghcr.io/acme/data", INDEX),), True)


@pytest.mark.parametrize(
    ("state", "phase", "running"),
    [
        ("running", "Running", True),
        ("waiting", "Running", True),
        ("terminated", "Running", False),
        ("running", "Failed", False),
        ("", "Running", True),
    ],
)
def test_what_runs_is_told_from_what_does_not(state: str, phase: str, running: bool) -> None:
    """A container between two crashes runs; one that ended, or whose pod is over, does not; without a word it does."""
    found = one(pod("p", {"c": ("nginx", status("c", "nginx", str(CONFIG), state))}, phase=phase))
    assert found.running is running


def test_a_container_that_was_not_begun_does_not_run() -> None:
    """A pod that waits for its image has no status for the container, or one without an image's ID."""
    assert one(pod("p", {"c": ("nginx", None)}, phase="Pending")).running is False
    assert one(pod("p", {"c": ("nginx", status("c", "nginx", "", "waiting"))})).running is False


def test_a_single_pod_and_a_pod_list_are_read_as_well() -> None:
    """``kubectl get pod NAME -o json`` and the answer of the API; whatever else is in a list is counted."""
    web = pod("web", {"c": ("nginx", status("c", "nginx", f"{NGINX}@{INDEX}"))})
    bare = {key: value for key, value in web.items() if key not in {"kind", "apiVersion"}}
    assert read(encode(web)) == read(encode(pods(web))) == read(encode({"kind": "PodList", "items": [bare]}))
    mixed = read(encode(pods(web, {"kind": "Deployment", "metadata": {"name": "web"}})))
    assert (len(mixed.workloads), mixed.skipped) == (1, 1)


def test_crictl_gives_ids_which_its_images_explain() -> None:
    """``crictl ps`` has the image's ID; ``crictl images`` says by which digests that was pulled, in whatever order they come."""
    running = read(encode(crictl_ps(("nginx", "nginx:1.27", str(CONFIG)))))
    images = read(encode(crictl_images((str(CONFIG), [f"{NGINX}:1.27"], [f"{NGINX}@{INDEX}"]), ("<none>", [], []))))
    assert images.skipped == 1
    for both in (running + images, images + running):
        (found,) = both.complete()
        assert found.name == "shop/web-7c/nginx"
        assert found.image == "nginx:1.27"
        assert found.claims == (Claim("", CONFIG), Claim(NGINX, INDEX))
    (alone,) = running.complete()
    assert alone.claims == (Claim("", CONFIG),)


def test_crictl_inspect_and_cri_o_are_understood() -> None:
    """A status names the digest; older versions name the image where newer ones say what was asked for; CRI-O has bare hex."""
    entry = crictl_ps(("nginx", "", f"{NGINX}@{INDEX}"))["containers"][0]
    entry["image"] = {"image": f"{NGINX}:1.27"}
    found = one({"status": entry, "info": {"pid": 4711}})
    assert (found.image, found.claims, found.running) == (f"{NGINX}:1.27", (Claim(NGINX, INDEX),), True)
    assert one(crictl_ps(("x", "nginx", CONFIG.hex))).claims == (Claim("", CONFIG),)
    assert one(crictl_ps(("x", "nginx", CONFIG.hex), state="CONTAINER_EXITED")).running is False
    assert one(crictl_ps(("x", "nginx", CONFIG.hex), state="CONTAINER_UNKNOWN")).running is True
    states: tuple[object, ...] = ([], {}, None, "?")  # what is not known to have ended runs
    for odd in states:
        strange = {**entry, "state": odd}
        assert one({"containers": [strange]}).running is True


def test_docker_inspect_is_read() -> None:
    """The graph store's ID is the config's digest; the containerd image store's that of the index, the manifest beside it."""
    plain = one([docker_container("web", "nginx:1.27", str(CONFIG))])
    assert (plain.source, plain.name, plain.image) == (Source.DOCKER, "web", "nginx:1.27")
    assert plain.claims == (Claim("", CONFIG),)
    stored = one([docker_container("web", "nginx:1.27", str(INDEX), descriptor=str(IMAGE))])
    assert stored.claims == (Claim("", INDEX), Claim("", IMAGE))
    assert one([docker_container("web", "nginx", str(CONFIG), status="exited")]).running is False
    for status_ in ("paused", "restarting", "heard of by nobody"):
        assert one(docker_container("web", "nginx", str(CONFIG), status=status_)).running is True
    odd = docker_container("web", "nginx", str(CONFIG))
    assert one({**odd, "State": {"Running": False}}).running is False
    assert one({**odd, "State": []}).running is True


def test_docker_images_explain_the_ids_of_containers() -> None:
    """Inspected together: what the image was pulled by, and its name where the container was started by its ID."""
    image = docker_image(str(CONFIG), ["nginx:1.27"], [f"nginx@{INDEX}"])
    assert one([docker_container("web", "nginx:1.27", str(CONFIG)), image]).claims == (Claim("", CONFIG), Claim("nginx", INDEX))
    for name in (CONFIG.hex[:12], CONFIG.hex, str(CONFIG)):
        assert one([image, docker_container("web", name, str(CONFIG))]).image == "nginx:1.27"
    two = docker_image(str(CONFIG), ["nginx:1.27", "nginx:stable"], [])
    assert one([two, docker_container("web", str(CONFIG), str(CONFIG))]).image == str(CONFIG)


def test_podman_inspect_is_read() -> None:
    """The ID is bare hex; the digest beside it came with 4.3; what was made of no image says so."""
    newer = one([podman_container("web", f"{NGINX}:1.27", CONFIG.hex, str(IMAGE))])
    assert (newer.source, newer.image) == (Source.PODMAN, f"{NGINX}:1.27")
    assert newer.claims == (Claim("", CONFIG), Claim("", IMAGE))
    older = [podman_container("web", f"{NGINX}:1.27", CONFIG.hex, None)]
    assert one(older).claims == (Claim("", CONFIG),)
    image = podman_image(CONFIG.hex, str(IMAGE), [f"{NGINX}:1.27"], [f"{NGINX}@{INDEX}"])
    assert one([*older, image]).claims == (Claim("", CONFIG), Claim(NGINX, INDEX), Claim("", IMAGE))
    infra = one([podman_container("infra", "", "", "")])
    assert (infra.claims, infra.missing) == ((), "it was not made from an image, or its Image holds no ID")


def test_listings_of_podman_and_docker_are_read() -> None:
    """``podman ps --format json``, and what docker's API answers to ``/containers/json``."""
    listed = {"Id": digest("web").hex, "Image": f"{NGINX}:1.27", "ImageID": CONFIG.hex, "Names": ["web"], "State": "running"}
    found = one([{**listed, "PodName": "shop"}])
    assert (found.source, found.name, found.claims) == (Source.PODMAN, "shop/web", (Claim("", CONFIG),))
    found = one([{**listed, "ImageID": str(CONFIG), "Names": ["/web"], "State": "exited"}])
    assert (found.source, found.name, found.running) == (Source.DOCKER, "web", False)


def test_nothing_inspected_is_nothing_running() -> None:
    """An empty list is one; networks and volumes in it are counted."""
    assert read(b"[]") == Inventory()
    assert read(encode([{"Name": "bridge", "Driver": "bridge"}, 7])).skipped == 2


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "nothing that"),
        (b"{}", "nothing that"),
        (b'{"kind": "List"}', "nothing that"),
        (b'{"kind": "Deployment", "items": []}', "nothing that"),
        (b"error: You must be logged in to the server", "not valid JSON"),
        (b'{"kind": "List", "kind": "List", "items": []}', "List|twice|duplicate"),
        (b"[" * 100_000, "nested|values"),
        (b"\xff\xfe[]", "UTF-8"),
    ],
)
def test_anything_else_is_an_error_in_words(body: bytes, why: str) -> None:
    """What is no account of what runs is not taken for one in which nothing runs."""
    with pytest.raises(WorkloadsMalformed, match=why):
        read(body)


@pytest.mark.parametrize(
    "image_id",
    ["", "nginx:1.27", f"{NGINX}@sha256:abc", "docker://x", "sha256:" + "G" * 64, "md5:" + "0" * 32, "<none>@" + str(INDEX)],
)
def test_what_holds_no_digest_claims_none(image_id: str) -> None:
    """The workload stays, and says what is missing."""
    found = one(pod("p", {"c": ("nginx", status("c", "nginx", image_id))}))
    assert found.claims == ()
    assert "imageID" in found.missing


def test_texts_are_cut() -> None:
    """A name of a megabyte does not travel inwards."""
    found = one(pod("p" * 10_000, {"c": ("n" * 1_000_000, None)}))
    assert max(len(found.pod), len(found.image)) == 1024


DOCUMENTS = (
    pods(pod("p", {"c": ("nginx", status("c", "nginx", f"{NGINX}@{INDEX}"))}, init={"i": ("x", None)})),
    crictl_ps(("nginx", "nginx", str(CONFIG))),
    crictl_images((str(CONFIG), ["nginx:1"], [f"nginx@{INDEX}"])),
    [docker_container("web", "nginx", str(CONFIG), descriptor=str(IMAGE)), docker_image(str(CONFIG), ["nginx:1"], [])],
    [podman_container("web", "nginx", CONFIG.hex, str(IMAGE)), podman_image(CONFIG.hex, str(IMAGE), [], [])],
)


def _made(text: str) -> object:
    """A value of its own each time: they are put into one another."""
    return json.loads(text) if text else text


_VALUES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(("", "[]", "{}", "[{}]", '{"running": {}}')).map(_made)
)


@st.composite
def _changed(draw: st.DrawFn) -> Any:
    """One of these documents with something else at any of its places."""
    document: Any = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(1, 4))):
        node = document
        while isinstance(node, (dict, list)) and node:
            key: Any = draw(st.sampled_from(sorted(node))) if isinstance(node, dict) else draw(st.integers(0, len(node) - 1))
            if not isinstance(node[key], (dict, list)) or not node[key] or draw(st.integers(0, 3)) == 0:
                node[key] = draw(_VALUES)
                break
            node = node[key]
    return document


@examples(300)
@given(
    document=_changed() | st.recursive(_VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
)
def test_the_reader_raises_nothing_but_its_own_error(document: Any) -> None:
    """Whatever stands wherever: it is read into values that know whether they claim a digest, or refused in words."""
    found = Inventory()
    with suppress(WorkloadsMalformed):
        found = read(json.dumps(document).encode())
    for workload in found.complete():
        assert workload.claims or workload.missing
        assert all(len(text) <= 1024 for text in (workload.name, workload.image, workload.id, workload.container))
