"""``tagstone client``: printed, as JSON, compared with what is there, installed."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.cli.main import app
from proxy.clients.kinds import Client
from tests.simulator.tls import Authority
from tests.unit.clients.wishes import authority
from tests.unit.configuration.files import RULES, Folder

UPSTREAMS = "upstreams: {docker.io: {}, ghcr.io: {}}\n"
PROXY = ("--proxy", "https://proxy.example:5000")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with two upstreams."""
    return Folder(tmp_path).write(UPSTREAMS + RULES)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """What stands for the client's ``/``."""
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def client(config: Path, *words: str | Path) -> Result:
    """Run ``tagstone client`` with these words."""
    return CliRunner().invoke(app, ["client", *map(str, words), "--config", str(config)])


@pytest.mark.parametrize("name", list(Client))
def test_every_client_is_printed(config: Path, name: Client) -> None:
    """It begins with a comment that says what it is and for which versions, then how it is proven, then the files."""
    result = client(config, name, *PROXY)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"# Configuration of {name} that pulls through Tagstone and through nothing else."
    assert lines[1].startswith("# For ")
    assert any(line.startswith("# Proof: ") for line in lines)
    assert "docker.io" in result.stdout
    assert "ghcr.io" in result.stdout


def test_json_has_files_warnings_and_proof(config: Path) -> None:
    """For scripts: the same as the text; the files can be read as they are."""
    shown = json.loads(client(config, "containerd", *PROXY, "--json").stdout)
    assert shown.keys() == {"client", "covers", "files", "warnings", "steps", "proof"}
    assert shown["proof"].keys() == {"command", "expect"}
    contents = {file["path"]: file["content"] for file in shown["files"]}
    assert tomllib.loads(contents["/etc/containerd/certs.d/ghcr.io/hosts.toml"])["server"] == "https://proxy.example:5000"


def test_registries_can_be_named(config: Path) -> None:
    """As arguments and as options; one that is no upstream is told, for all of its pulls will be refused."""
    shown = json.loads(client(config, "k3s", "quay.io", "--registry", "GHCR.io", *PROXY, "--json").stdout)
    registries = next(file["content"] for file in shown["files"] if file["path"].endswith("registries.yaml"))
    assert '"quay.io"' in registries
    assert '"ghcr.io"' in registries
    assert "docker.io" not in registries
    assert [warning for warning in shown["warnings"] if "quay.io is no upstream" in warning]
    assert not [warning for warning in shown["warnings"] if "ghcr.io is no upstream" in warning]


@pytest.mark.parametrize(
    ("listen", "url", "told"),
    [
        ("listen: 127.0.0.1:5000\n", "http://127.0.0.1:5000", "only from the machine that Tagstone runs on"),
        ("listen: 0.0.0.0:5000\n", "http://node-1:5000", "plain HTTP"),
    ],
)
def test_without_an_address_it_is_guessed_and_told(
    tmp_path: Path, listen: str, url: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From where Tagstone listens, with a word about what that means elsewhere."""
    monkeypatch.setattr("socket.gethostname", lambda: "node-1")
    shown = json.loads(client(Folder(tmp_path).write(listen + UPSTREAMS + RULES), "podman", "--json").stdout)
    assert f'location = "{url.partition("://")[2]}/ghcr.io"' in shown["files"][0]["content"]
    assert any("is a guess" in warning for warning in shown["warnings"])
    assert any(told in warning for warning in shown["warnings"])


def test_a_node_needs_no_configuration_of_tagstone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    """Where address and registries are named there is nothing to look up; without them, the file is missed."""
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    monkeypatch.delenv("TAGSTONE_CONFIG", raising=False)
    monkeypatch.setattr("proxy.configuration.SYSTEM", empty / "none.yaml")
    for word in ("docker.io", "--all-registries"):
        result = CliRunner().invoke(app, ["client", "containerd", word, *PROXY])
        assert result.exit_code == 0, result.output
        assert "is no upstream" not in result.stdout
    for words in (PROXY, ("docker.io",)):
        assert CliRunner().invoke(app, ["client", "containerd", *words]).exit_code == 2
    monkeypatch.setenv("TAGSTONE_CONFIG", str(config))
    assert "quay.io is no upstream" in CliRunner().invoke(app, ["client", "containerd", "quay.io", *PROXY]).stdout


def test_only_certificates_leave_the_file_that_is_named(config: Path, tmp_path: Path) -> None:
    """A private key that stands in the same file stays where it is."""
    pem = tmp_path / "ca.pem"
    pem.write_text(f"# ours\n{authority()}-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    shown = json.loads(client(config, "containerd", *PROXY, "--ca", pem, "--json").stdout)
    assert shown["files"][0] == {"path": "/etc/containerd/certs.d/tagstone-ca.pem", "content": authority()}


def test_it_is_installed_and_told(config: Path, root: Path) -> None:
    """Each file that was written, with the backup of what was there; the second time there is nothing to do."""
    (root / "etc/containerd").mkdir(parents=True)
    (root / "etc/containerd/config.toml").write_text("version = 2\n")
    result = client(config, "containerd", *PROXY, "--write", root)
    assert result.exit_code == 0, result.output
    assert f"written {root}/etc/containerd/certs.d/docker.io/hosts.toml\n" in result.stdout
    assert f"written {root}/etc/containerd/config.toml (before: {root}/etc/containerd/config.toml." in result.stdout
    assert "config_path" in (root / "etc/containerd/config.toml").read_text()
    again = client(config, "containerd", *PROXY, "--write", root)
    assert again.exit_code == 0
    assert "nothing to change" in again.stdout
    assert "written" not in again.stdout


def test_a_dry_run_shows_and_writes_nothing(config: Path, root: Path) -> None:
    """A unified diff for people; paths and diff for scripts."""
    result = client(config, "podman", *PROXY, "--write", root, "--dry-run")
    assert result.exit_code == 0
    assert f"+++ {root}/etc/containers/policy.json" in result.stdout
    shown = json.loads(client(config, "podman", *PROXY, "--write", root, "--dry-run", "--json").stdout)
    assert shown["changes"] == [f"{root}/etc/containers/registries.conf.d/zz-tagstone.conf", f"{root}/etc/containers/policy.json"]
    assert shown["written"] == []
    assert shown["diff"] in result.stdout
    assert list(root.iterdir()) == []


def test_json_of_an_installation_says_what_was_written(config: Path, root: Path) -> None:
    """Path and backup of each."""
    shown = json.loads(client(config, "podman", *PROXY, "--write", root, "--json").stdout)
    assert [Path(each["path"]).name for each in shown["written"]] == ["zz-tagstone.conf", "policy.json"]
    assert [each["backup"] for each in shown["written"]] == [None, None]


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_file_in_the_way_ends_with_1_and_nothing_written(config: Path, root: Path, dry: tuple[str, ...]) -> None:
    """What to change stands on standard error, with the file."""
    policy = root / "etc/containers/policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "reject"}], "transports": {"docker": {"": [{"type": "insecureAcceptAnything"}]}}}')
    result = client(config, "podman", *PROXY, "--write", root, *dry)
    assert result.exit_code == 1
    assert f'{policy}: transports.docker has a scope ""' in result.stderr
    assert "nothing was written" in result.stderr
    assert [path for path in root.rglob("*") if path.is_file()] == [policy]


def test_a_disk_that_fails_ends_with_1(config: Path, root: Path) -> None:
    """A file where a folder must be: everything is as it was."""
    (root / "etc").write_text("not a folder")
    result = client(config, "podman", *PROXY, "--write", root)
    assert result.exit_code == 1
    assert "Not a directory" in result.stderr
    assert (root / "etc").read_text() == "not a folder"


def test_a_full_disk_ends_with_1(config: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before it was full is taken back."""

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = client(config, "podman", *PROXY, "--write", root)
    assert result.exit_code == 1
    assert "tagstone: No space left on device; everything is as it was before" in result.stderr
    assert [path for path in root.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("podman", "--proxy", "proxy.example"), "has no scheme"),
        (("podman", "not a registry", *PROXY), "is not a registry"),
        (("containerd", *PROXY, "--client-version", "latest"), "is not a version"),
        (("containerd", *PROXY, "--client-version", "1.4"), "reads no hosts.toml"),
        (("podman", *PROXY, "--store", "graph"), "only docker has image stores"),
        (("podman", *PROXY, "--ca", "/nonexistent"), "cannot be read"),
        (("podman", *PROXY, "--ca", "/dev/null"), "holds no certificates"),
        (("podman", *PROXY, "--dry-run"), "--dry-run shows what --write would change"),
        (("podman", *PROXY, "--write", "/nonexistent"), "is no folder"),
        (("rkt",), "is not one of"),
    ],
)
def test_wrong_usage_ends_with_2(config: Path, words: tuple[str, ...], told: str) -> None:
    """With the way out."""
    result = client(config, *words)
    assert result.exit_code == 2
    assert told in result.stderr


def test_mutual_tls_is_told(tmp_path: Path) -> None:
    """Where Tagstone turns away who shows no certificate, the client's own has to be added by hand."""
    ca = Authority()
    certificate, key = ca.client(tmp_path, "proxy")
    tls = f"tls: {{certificate: {certificate}, key: {key}, client_ca: {ca.file(tmp_path)}}}\n"
    shown = json.loads(client(Folder(tmp_path).write(tls + UPSTREAMS + RULES), "podman", "--json").stdout)
    assert "https://127.0.0.1:5000 is a guess" in shown["warnings"][0]
    assert any("turns away clients without a certificate" in warning for warning in shown["warnings"])
