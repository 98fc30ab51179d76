"""What container tools print, and what is made of it."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.cli.drift_container import Runtime, find, of_process, references
from proxy.configuration import Configuration, load
from proxy.drift.containers import Container, ctr_digest, ctr_image, ctr_task, docker_digest, inspected
from proxy.errors import Unexaminable
from storage.digest import Digest

DIGEST = Digest.of(b"image")
IMAGE = "reg.example/acme/app:v1"


def test_what_docker_says() -> None:
    """The process and the name; the digest is asked for apart, of the same repository."""
    answer = json.dumps([{"State": {"Pid": 7}, "Config": {"Image": IMAGE}}]).encode()
    assert inspected("docker", answer) == Container(7, IMAGE)
    known = json.dumps([{"RepoDigests": [f"other/app@{Digest.of(b'x')}", f"reg.example/acme/app@{DIGEST}"]}]).encode()
    assert docker_digest(known, IMAGE) == DIGEST
    assert docker_digest(known, "127.0.0.1:5000/acme/app:v1") is None


def test_what_podman_says() -> None:
    """All of it at once."""
    answer = json.dumps([{"State": {"Pid": 7}, "ImageName": IMAGE, "ImageDigest": str(DIGEST)}]).encode()
    assert inspected("podman", answer) == Container(7, IMAGE, DIGEST)


@pytest.mark.parametrize(
    ("image", "reference", "expected"),
    [
        ({"image": IMAGE}, f"reg.example/acme/app@{DIGEST}", Container(7, IMAGE, DIGEST)),
        ({"image": "sha256:1", "userSpecifiedImage": IMAGE}, "sha256:1", Container(7, IMAGE)),
    ],
    ids=["containerd", "CRI-O"],
)
def test_what_crictl_says(image: dict[str, str], reference: str, expected: Container) -> None:
    """The name that the pod has rather than an ID."""
    answer = json.dumps({"status": {"image": image, "imageRef": reference}, "info": {"pid": 7}}).encode()
    assert inspected("crictl", answer) == expected


def test_what_ctr_says() -> None:
    """Tables, and one document."""
    tasks = b"TASK   PID   STATUS\nc1   77   RUNNING\nc2   78   STOPPED\nc3   " + b"9" * 5000 + b"   RUNNING\n"
    assert [ctr_task(tasks, name) for name in ("c1", "c2", "c3", "c4")] == [77, None, None, None]
    assert ctr_image(json.dumps({"Image": IMAGE}).encode()) == IMAGE
    assert ctr_image(json.dumps({"Image": ""}).encode()) is None
    listed = f"REF TYPE DIGEST SIZE\n{IMAGE} application/x {DIGEST} 7 B\nother x sha256:1\n".encode()
    assert (ctr_digest(listed, IMAGE), ctr_digest(listed, "other"), ctr_digest(listed, "none")) == (DIGEST, None, None)


@pytest.mark.parametrize("tool", ["docker", "podman", "crictl"])
@pytest.mark.parametrize("answer", [b"", b"{}", b"[]", b"[7]", b"null", b"[" * 100_000, b'[{"State": {"Pid": "7"}}]'])
def test_what_cannot_be_read_is_no_answer(tool: str, answer: bytes) -> None:
    """Whatever a tool prints."""
    with pytest.raises(Unexaminable):
        inspected(tool, answer)
    for ask in (lambda: docker_digest(answer, IMAGE), lambda: ctr_image(answer)):
        with pytest.raises(Unexaminable):
            ask()


def test_a_container_that_does_not_run() -> None:
    """Has no process."""
    answer = json.dumps([{"State": {"Pid": 0}, "ImageName": IMAGE}]).encode()
    with pytest.raises(Unexaminable, match="does not run"):
        inspected("podman", answer)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts programs that print something into a PATH of one's own."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("docker", "podman", "crictl", "ctr"):
        hidden = tmp_path / name
        hidden.write_text("#!/bin/sh\necho 'no such container' >&2; exit 1\n")
        hidden.chmod(0o755)

    def put(name: str, **answers: str) -> None:
        lines = [f"*'{word.replace('_', ' ')}'*) cat <<'END'\n{said}\nEND\n;;" for word, said in answers.items()]
        script = tmp_path / name
        script.write_text('#!/bin/sh\ncase "$*" in\n' + "\n".join(lines) + "\n*) echo unexpected: $* >&2; exit 1;;\nesac\n")
        script.chmod(script.stat().st_mode | stat.S_IXUSR)

    return put


def test_every_tool_is_asked_in_turn(tools: Callable[..., None]) -> None:
    """Until one knows the container; where none does, what each said is told."""
    with pytest.raises(Unexaminable, match=r"docker: no such container; podman: .*crictl: .*ctr: .*cgroup: "):
        find("web", Runtime.AUTO)
    tasks, listed = "TASK PID STATUS\nweb 42 RUNNING", f"REF TYPE DIGEST\n{IMAGE} x {DIGEST}"
    tools("ctr", namespaces_ls="k8s.io", tasks_ls=tasks, containers_info=json.dumps({"Image": IMAGE}), images_ls=listed)
    assert find("web", Runtime.AUTO) == Container(42, IMAGE, DIGEST)
    tools("podman", inspect_=json.dumps([{"State": {"Pid": 43}, "ImageName": IMAGE}]))
    assert find("web", Runtime.AUTO) == Container(43, IMAGE)
    assert find("web", Runtime.CTR) == Container(42, IMAGE, DIGEST)
    digests = json.dumps([{"RepoDigests": [f"reg.example/acme/app@{DIGEST}"]}])
    tools("docker", image_inspect=digests, inspect_=json.dumps([{"State": {"Pid": 44}, "Config": {"Image": IMAGE}}]))
    assert find("web", Runtime.AUTO) == Container(44, IMAGE, DIGEST)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b", "$(x)", "a" * 200])
def test_names_that_are_none(name: str) -> None:
    """Never become words of a command."""
    with pytest.raises(Unexaminable, match="is no container's ID or name"):
        find(name, Runtime.AUTO)


def test_control_groups_need_an_id() -> None:
    """A name is not in them; an ID that nobody has is not there."""
    for name, told in (("web", "named after IDs"), ("0" * 64, "named after it")):
        with pytest.raises(Unexaminable, match=told):
            find(name, Runtime.CGROUP)


def test_processes_of_no_container() -> None:
    """There is nobody to ask about them."""
    with pytest.raises(Unexaminable, match="there is no process"):
        of_process(2**22 + 1, Runtime.AUTO)


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    """With a registry, and a host name that stands for it."""
    path = tmp_path / "tagstone.yaml"
    path.write_text(
        "upstreams: {reg.example: {}, docker.io: {}}\nhosts: {mirror.example: reg.example}\n"
        'rules: [{match: "**", require: first-use}]\n'
    )
    return load(path)


@pytest.mark.parametrize(
    ("image", "digest", "expected"),
    [
        (IMAGE, None, [IMAGE]),
        (IMAGE, DIGEST, [f"reg.example/acme/app@{DIGEST}", IMAGE]),
        (f"127.0.0.1:5000/{IMAGE}", None, [IMAGE]),
        ("mirror.example/acme/app:v1", None, [IMAGE]),
        (f"{IMAGE}@{DIGEST}", None, [f"reg.example/acme/app@{DIGEST}", IMAGE]),
        ("nginx", None, ["docker.io/library/nginx:latest"]),
    ],
)
def test_what_an_images_name_means_here(
    configuration: Configuration, image: str, digest: Digest | None, expected: list[str]
) -> None:
    """As a pull by that name would mean it; what was pulled counts before what the tag says today."""
    assert [str(each) for each in references(Container(1, image, digest), configuration)] == expected


@pytest.mark.parametrize("image", [None, "other.example/app:1", "UPPER/case", "127.0.0.1:5000/other.example/app"])
def test_names_that_mean_nothing_here(configuration: Configuration, image: str | None) -> None:
    """Are to be said by whoever asks."""
    with pytest.raises(Unexaminable, match="--image"):
        references(Container(1, image), configuration)
