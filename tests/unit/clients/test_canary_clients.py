"""How clients are driven, and how the proxy itself is asked."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from proxy.clients.canary import Driver, Tells
from proxy.clients.canary_clients import NAMESPACE, ProxyItself, Subprocesses, drivers
from proxy.clients.traps.node import Expected, Node, Target
from proxy.policy import canary

RUN = Subprocesses(dict(os.environ), timeout=20.0)


def _programs(root: Path, **scripts: str) -> Node:
    """A node with these programs."""
    folder = root / "usr/bin"
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return Node(root)


def _driver(root: Path, kind: str, **scripts: str) -> Driver:
    node = _programs(root, **scripts)
    (driver,) = drivers(node, node, RUN, [kind])
    return driver


def test_ctr_reads_the_folder_of_cri_in_a_namespace_of_its_own(tmp_path: Path) -> None:
    """With its requests in the trace; where the daemon would resolve the name, it is told not to."""
    driver = _driver(tmp_path, "containerd", ctr="echo --local")
    assert driver.tells is Tells.TRACE
    assert driver.pull[1:] == (
        *("--debug", "--namespace", NAMESPACE, "images", "pull"),
        *("--hosts-dir", str(tmp_path / "etc/containerd/certs.d"), "--local"),
    )
    assert driver.after[1:] == ("namespaces", "remove", NAMESPACE)
    (tmp_path / "etc/containerd").mkdir(parents=True)
    (tmp_path / "etc/containerd/config.toml").write_text(
        'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/x"\n'
    )
    driver = _driver(tmp_path, "containerd", ctr="true")
    assert driver.pull[-2:] == ("--hosts-dir", str(tmp_path / "x"))


def test_every_program_of_containerd_is_driven(tmp_path: Path) -> None:
    """crictl tells its first error, nerdctl every request."""
    node = _programs(tmp_path, ctr="true", nerdctl="true", crictl="true")
    found = {driver.name: driver.tells for driver in drivers(node, node, RUN, ["nerdctl"])}
    assert found == {"ctr": Tells.TRACE, "nerdctl": Tells.TRACE, "crictl": Tells.FIRST}
    assert list(drivers(node, node, RUN, ["k3s"])) == []
    (tmp_path / "etc/rancher/k3s").mkdir(parents=True)
    ctr, _, crictl = drivers(node, node, RUN, ["k3s"])
    assert str(tmp_path / "var/lib/rancher/k3s/agent/etc/containerd/certs.d") in ctr.pull
    assert ctr.env["CONTAINERD_ADDRESS"] == "/run/k3s/containerd/containerd.sock"
    assert crictl.env["CONTAINER_RUNTIME_ENDPOINT"] == "unix:///run/k3s/containerd/containerd.sock"
    own = Subprocesses({**os.environ, "CONTAINERD_ADDRESS": "/mine"}, timeout=20.0)
    assert "CONTAINERD_ADDRESS" not in next(drivers(node, node, own, ["k3s"])).env
    assert list(drivers(node, node, RUN, ["podman", "docker", "talos"])) == []


@pytest.mark.parametrize(
    ("says", "tells"),
    [
        ('echo \'[["Backing Filesystem","extfs"]]\'', Tells.LAST),
        ('echo \'[["driver-type","io.containerd.snapshotter.v1"]]\'', Tells.FIRST),
        ("exit 1", Tells.FIRST),
    ],
    ids=["graph", "containerd", "unknown"],
)
def test_docker_is_believed_as_far_as_its_store_allows(tmp_path: Path, says: str, tells: Tells) -> None:
    """Where nobody can tell the store, its words are worth the least that they may be."""
    driver = _driver(tmp_path, "docker", docker=says)
    assert driver.tells is tells
    assert driver.daemon[1:] == ("version", "--format", "{{.Server.Version}}")


def test_podman_is_asked_for_its_trace(tmp_path: Path) -> None:
    """Its debug log names every request."""
    driver = _driver(tmp_path, "podman", podman="true")
    assert (driver.tells, driver.pull[1:]) == (Tells.TRACE, ("--log-level=debug", "pull"))


def test_programs_run_within_bounds(tmp_path: Path) -> None:
    """Their output and exit code are told; what cannot run, or does not end, is nothing."""
    node = _programs(tmp_path, good="echo $X; echo err >&2", bad="exit 3", slow="exec sleep 60")
    good, bad, slow = (str(node.program(name)) for name in ("good", "bad", "slow"))
    outcome = RUN((good,), {"X": "hello"})
    assert outcome is not None
    assert (outcome.ok, outcome.output) == (True, "hello\nerr\n")
    outcome = RUN((bad,), {})
    assert outcome is not None
    assert not outcome.ok
    assert RUN((str(tmp_path / "none"),), {}) is None
    assert Subprocesses(dict(os.environ), timeout=0.2)((slow,), {}) is None


class _Answer(BaseHTTPRequestHandler):
    status = 403
    body = b""

    def do_GET(self) -> None:
        self.server.seen.append(self.path)  # type: ignore[attr-defined]  # set below
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    """Something that answers as :class:`_Answer` says."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as listening:
        listening.seen = []  # type: ignore[attr-defined]  # what it was asked
        thread = threading.Thread(target=listening.serve_forever)
        thread.start()
        yield listening
        listening.shutdown()
        thread.join()


REFERENCE = f"docker.io/{canary.REPOSITORY}:t1"


@pytest.mark.parametrize(
    ("status", "body", "token", "word"),
    [
        (403, canary.refusal("t1"), canary.token("t1"), None),
        (403, "denied", canary.token("t1"), "does not answer as a Tagstone"),
        (404, '{"errors": [{"message": "no such thing"}]}', canary.token("t1"), "no such thing"),
        (200, "{}", canary.token("t1"), "serves"),
        (401, "", canary.token("t1"), "login"),
        (403, "{}", "", None),
        (404, "{}", "", "does not refuse"),
        (200, "{}", "", "serves"),
    ],
)
def test_the_proxy_itself_is_asked_first(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, status: int, body: str, token: str, word: str | None
) -> None:
    """Only its own refusal makes the pull of a client mean anything."""
    monkeypatch.setattr(_Answer, "status", status)
    monkeypatch.setattr(_Answer, "body", body.encode())
    proxy = Target("http", f"127.0.0.1:{server.server_address[1]}", "")
    trouble = ProxyItself(proxy, Expected((proxy,)))(REFERENCE, token)
    assert (trouble is None) if word is None else (trouble is not None and word in trouble)
    assert server.seen == [f"/v2/docker.io/{canary.REPOSITORY}/manifests/t1"]  # type: ignore[attr-defined]  # set above


def test_a_proxy_that_is_not_there_is_told() -> None:
    """Neither over plain HTTP nor over TLS is silence a refusal."""
    for scheme in ("http", "https"):
        proxy = Target(scheme, "127.0.0.1:1", "")
        trouble = ProxyItself(proxy, Expected((proxy,)))(REFERENCE, "x")
        assert trouble is not None
        assert "cannot be asked" in trouble
