"""What ctr prints, read."""

from __future__ import annotations

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.drift.containerd import chain, config, container, images, manifests, parent, rows, running, words
from proxy.drift.workloads import Claim, Source
from proxy.errors import WorkloadsMalformed
from tests.fuzz.examples import examples
from tests.simulator.reports import CTR_IMAGES, CTR_TASKS, ctr_cri, ctr_info, digest, encode


def test_tables_are_read() -> None:
    """Which containers have a task that runs, and what names mean; a type may be missing, a line broken."""
    assert running(CTR_TASKS.encode()) == {"runs", "paused"}
    assert images(CTR_IMAGES.encode()) == {"docker.io/library/demo:1": digest("index"), "docker.io/library/old:1": digest("old")}
    assert words(b"one\ntwo\n") == ["one", "two"]
    assert rows(b"") == []


def test_a_container_of_ctr_has_a_name_and_no_digest() -> None:
    """It claims one where its snapshot was made of what the name means now, and says else what is missing."""
    found = container(ctr_info(), "default", frozenset({"runs"}))
    workload = found.workload
    assert (workload.source, workload.name, workload.running) == (Source.CONTAINERD, "default/runs", True)
    assert (workload.image, workload.claims, found.snapshotter, found.snapshot) == (
        "docker.io/library/demo:1",
        (),
        "overlayfs",
        "runs",
    )
    made = found.made_of(digest("index"), "sha256:chain", frozenset({"sha256:other", "sha256:chain"}))
    assert made.claims == (Claim("docker.io/library/demo:1", digest("index")),)
    for parent_, chains in (
        ("sha256:chain", frozenset({"sha256:other"})),
        ("", frozenset({"sha256:other"})),
        ("", frozenset[str]()),
    ):
        other = found.made_of(digest("index"), parent_, chains)
        assert other.claims == ()
        assert "is not what its snapshot was made of" in other.missing
    assert "has no image docker.io/library/demo:1 any more" in found.made_of(None, "", frozenset()).missing
    assert container(ctr_info(), "default", frozenset()).workload.running is False


def test_a_container_of_kubernetes_has_its_images_id() -> None:
    """And its pod's name; what was asked for stands beside it in newer versions."""
    labels = {
        "io.cri-containerd.kind": "container",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.name": "web-7c",
        "io.kubernetes.container.name": "nginx",
    }
    asked = {"image": str(digest("config")), "user_specified_image": "nginx:1.27"}
    found = container(ctr_info(ctr_cri(str(digest("config")), asked), **labels), "k8s.io", frozenset()).workload
    assert (found.name, found.kind, found.image) == ("shop/web-7c/nginx", "container", "nginx:1.27")
    assert found.claims == (Claim("", digest("config")),)
    older = container(ctr_info(ctr_cri(str(digest("config")), {}), **labels), "k8s.io", frozenset()).workload
    assert older.image == "docker.io/library/demo:1"
    sandbox = container(ctr_info(None, **labels | {"io.cri-containerd.kind": "sandbox"}), "k8s.io", frozenset()).workload
    assert (sandbox.kind, sandbox.claims) == ("sandbox", ())


@pytest.mark.parametrize("value", ["", "%", base64.b64encode(b"[]").decode(), base64.b64encode(b'{"Metadata": {}}').decode(), 7])
def test_another_versions_extension_is_no_claim(value: object) -> None:
    """Then the container is as any other."""
    extensions = {"io.cri-containerd.container.metadata": {"value": value}}
    assert container(ctr_info(extensions), "k8s.io", frozenset()).workload.claims == ()


def test_layers_become_a_chain() -> None:
    """As the OCI image specification computes it; of a config without layers nothing."""
    ids = [str(digest(name)) for name in "abc"]
    two = "sha256:" + hashlib.sha256(f"{ids[0]} {ids[1]}".encode()).hexdigest()
    three = "sha256:" + hashlib.sha256(f"{two} {ids[2]}".encode()).hexdigest()
    found = [chain(encode({"rootfs": {"type": "layers", "diff_ids": ids[:count]}})) for count in range(4)]
    assert found == ["", ids[0], two, three]
    assert chain(encode({"rootfs": {"diff_ids": [ids[0], 7]}})) == ""


def test_documents_lead_to_configs() -> None:
    """An index to its manifests, a manifest to its config; neither to what is no digest."""
    listed = [{"digest": str(digest("image"))}, {"digest": "sha256:x"}, {"digest": 7}, 7]
    assert manifests(encode({"manifests": listed})) == (digest("image"),)
    assert manifests(encode({"config": {}})) == ()
    assert config(encode({"config": {"digest": str(digest("config"))}})) == digest("config")
    assert config(encode({"config": {}})) is None
    assert parent(encode({"Kind": "Active", "Parent": "sha256:chain"})) == "sha256:chain"


@examples(200)
@given(body=st.binary() | st.recursive(st.none() | st.text(), lambda x: st.dictionaries(st.text(), x) | st.lists(x)).map(encode))
def test_nothing_else_comes_out(body: bytes) -> None:
    """Whatever ctr prints: values, or an error in words."""
    running(body)
    images(body)
    for reader in (lambda data: container(data, "n", frozenset()), manifests, config, chain, parent):
        try:
            reader(body)
        except WorkloadsMalformed:
            continue
