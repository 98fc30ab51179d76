"""What belongs to others is added to without a loss, or left alone with words about what to do."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.clients.kinds import Client, Store
from proxy.clients.merging import CannotMerge, merge
from proxy.clients.model import File
from tests.unit.clients import grammars
from tests.unit.clients.wishes import files, rendered

PLAIN = "http://10.0.0.5:5000"


def of(client: Client, path: str, **wanted: Any) -> File:
    """A rendered file."""
    return files(rendered(client, **wanted))[path]


DAEMON = of(Client.DOCKER, "/etc/docker/daemon.json", proxy=PLAIN, store=Store.CONTAINERD)
POLICY = of(Client.PODMAN, "/etc/containers/policy.json", registries=("ghcr.io",))
CONFIG = of(Client.CONTAINERD, "/etc/containerd/config.toml")
BUILDKITD = of(Client.BUILDKIT, "/etc/buildkit/buildkitd.toml", proxy=PLAIN)
K3S = of(Client.K3S, "/etc/rancher/k3s/registries.yaml")
_ACCEPT = [{"type": "insecureAcceptAnything"}]
_REJECT = [{"type": "reject"}]


def refusal(file: File, existing: str) -> str:
    """Why it cannot be merged."""
    with pytest.raises(CannotMerge) as caught:
        merge(file, existing)
    return str(caught.value)


# -- daemon.json ----------------------------------------------------------------------------------------------------


def test_daemon_json_keeps_every_other_key() -> None:
    """Lists are added to, tables too; the indentation stays."""
    existing = (
        '{\n    "log-driver": "journald",\n    "insecure-registries": ["old:5000"],\n    "features": {"buildkit": true}\n}\n'
    )
    text, warnings = merge(DAEMON, existing)
    assert json.loads(text) == {
        "log-driver": "journald",
        "insecure-registries": ["old:5000", "10.0.0.5:5000"],
        "features": {"buildkit": True, "containerd-snapshotter": True},
    }
    assert '\n    "log-driver"' in text
    assert warnings == ()
    assert merge(DAEMON, text) == (text, ())


@given(
    existing=st.dictionaries(
        st.sampled_from(["log-driver", "labels", "mtu", "dns", "insecure-registries", "registry-mirrors"]),
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=3),
    )
)
def test_merging_loses_nothing_and_settles(existing: dict[str, list[str]]) -> None:
    """Whatever is there stays there, ours is added once, and the second time nothing changes."""
    text, _ = merge(DAEMON, json.dumps(existing))
    merged = json.loads(text)
    for key, value in existing.items():
        assert merged[key][: len(value)] == value
    assert merged["insecure-registries"].count("10.0.0.5:5000") == 1
    assert merge(DAEMON, text)[0] == text


def test_mirrors_of_docker_are_told() -> None:
    """They are not ours to remove, but they fail open."""
    text, warnings = merge(DAEMON, '{"registry-mirrors": ["https://mirror.example"]}')
    assert json.loads(text)["registry-mirrors"] == ["https://mirror.example"]
    assert "remove the key" in warnings[0]


@pytest.mark.parametrize(
    ("existing", "told"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"mtu": 1, "mtu": 2}', "twice"),
        ('{"insecure-registries": "old:5000"}', "is no list"),
        ('{"features": []}', "is no object"),
        ('{"features": {"containerd-snapshotter": false}}', "features.containerd-snapshotter is false; it must be true"),
    ],
)
def test_a_daemon_json_that_stands_in_the_way_is_left_alone(existing: str, told: str) -> None:
    """With the key and the value that it must have."""
    assert told in refusal(DAEMON, existing)


# -- policy.json ----------------------------------------------------------------------------------------------------


def test_policy_json_rejects_by_default_afterwards() -> None:
    """What Debian ships becomes strict; scopes of others stay and are told; a scope of ours that asks for more stays as it is."""
    signed = [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/key.gpg"}]
    existing = {
        "default": _ACCEPT,
        "transports": {"docker-daemon": {"": _ACCEPT}, "docker": {"registry.redhat.io": signed, "ghcr.io": signed}},
    }
    text, warnings = merge(POLICY, json.dumps(existing, indent=4))
    docker = {"registry.redhat.io": signed, "ghcr.io": signed, "proxy.example:5000": _ACCEPT}
    assert json.loads(text) == {"default": _REJECT, "transports": {"docker-daemon": {"": _ACCEPT}, "docker": docker}}
    assert "registry.redhat.io" in warnings[0]
    assert merge(POLICY, text)[0] == text


@pytest.mark.parametrize(
    ("existing", "told"),
    [
        ({"default": [{"type": "sigstoreSigned", "keyPath": "/k"}]}, "asks for something of every image"),
        ({"default": _REJECT, "transports": {"docker": {"": _ACCEPT}}}, 'scope ""'),
        ({"default": _REJECT, "transports": {"docker": []}}, "no objects"),
        ({"default": _REJECT, "transports": []}, "no objects"),
    ],
)
def test_a_policy_that_stands_in_the_way_is_left_alone(existing: dict[str, Any], told: str) -> None:
    """Nobody's demands are weakened, and nothing that allows everything is overlooked."""
    assert told in refusal(POLICY, json.dumps(existing))


# -- TOML -----------------------------------------------------------------------------------------------------------

_DEBIAN = """version = 2 # kept

[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    [plugins."io.containerd.grpc.v1.cri".cni]
      bin_dir = "/usr/lib/cni"
"""
_DUMPED = """version = 2
[plugins]
  [plugins."io.containerd.other"]
    config_path = ""
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "registry.k8s.io/pause:3.6"
    [plugins."io.containerd.grpc.v1.cri".registry]
      config_path = "" # none
      [plugins."io.containerd.grpc.v1.cri".registry.mirrors]
"""
_TABLE = """version = 2
[plugins."io.containerd.grpc.v1.cri".registry.headers]
a = ["b"]
[plugins."io.containerd.grpc.v1.cri".registry] # here
"""
_VERSION_3 = "version = 3\n[plugins.'io.containerd.cri.v1.images']\n  snapshotter = 'overlayfs'"


@pytest.mark.parametrize(
    ("existing", "plugin"),
    [
        (_DEBIAN, "io.containerd.grpc.v1.cri"),
        (_DUMPED, "io.containerd.grpc.v1.cri"),
        (_TABLE, "io.containerd.grpc.v1.cri"),
        (_VERSION_3, "io.containerd.cri.v1.images"),
        ("version = 4\n", "io.containerd.cri.v1.images"),
    ],
    ids=["Debian's", "containerd config default", "an empty table", "version 3", "version 4"],
)
def test_config_path_is_added_and_nothing_else_changes(existing: str, plugin: str) -> None:
    """In the plugin of the file's own version; comments stay, and every other setting."""
    text, _ = merge(CONFIG, existing)
    before, after = tomllib.loads(existing), tomllib.loads(text)
    assert after["plugins"][plugin]["registry"].pop("config_path") == "/etc/containerd/certs.d"
    before.setdefault("plugins", {}).setdefault(plugin, {}).setdefault("registry", {}).pop("config_path", None)
    assert after == before
    assert [line for line in existing.splitlines() if "#" in line and "config_path" not in line] == [
        line for line in text.splitlines() if "#" in line and "config_path" not in line
    ]
    assert merge(CONFIG, text)[0] == text


@pytest.mark.parametrize(
    ("existing", "told"),
    [
        ("version = ", "no TOML"),
        ("[plugins.cri]\n", "it has version 1"),
        ("version = 2\ndisabled_plugins = 1\nplugins = 1\n", "is no table"),
        ('version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/other"\n', "is '/other'; it must be"),
        ('version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\nendpoint = []\n', "remove it"),
        ('version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nregistry = "x"\n', "is no table"),
        ('version = 2\nplugins = {"io.containerd.grpc.v1.cri" = {registry = {headers = {a = "b"}}}}\n', "take over by hand"),
    ],
)
def test_a_config_toml_that_stands_in_the_way_is_left_alone(existing: str, told: str) -> None:
    """With what to write, and where."""
    message = refusal(CONFIG, existing)
    assert told in message
    if told == "take over by hand":
        assert 'config_path = "/etc/containerd/certs.d"' in message


@pytest.mark.parametrize(
    "existing", ['disabled_plugins = ["cri"]\n', 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n']
)
def test_where_cri_is_disabled_it_gets_no_config_path(existing: str) -> None:
    """As in Docker's package of containerd: there is nobody to read it, and nothing to refuse for its sake."""
    text, (told,) = merge(CONFIG, existing)
    assert text == existing
    assert "disables the CRI plugin" in told


def test_an_empty_file_is_no_file() -> None:
    """The form for no file is written."""
    assert merge(CONFIG, "\n") == (CONFIG.content, ())
    assert merge(K3S, "\n") == (K3S.content, ())


def test_buildkitd_toml_gets_a_table_more() -> None:
    """Other registries and settings stay."""
    existing = 'debug = true\n[registry."docker.io"]\n  mirrors = ["m"] # mine\n'
    text, _ = merge(BUILDKITD, existing)
    read = tomllib.loads(text)
    grammars.check(read, grammars.BUILDKITD_TOML)
    assert read == {"debug": True, "registry": {"docker.io": {"mirrors": ["m"]}, "10.0.0.5:5000": {"http": True}}}
    assert text.startswith(existing)


# -- files without a safe way ---------------------------------------------------------------------------------------


def test_what_cannot_be_merged_is_written_over_our_own_alone() -> None:
    """Somebody else's registries.yaml is printed to be taken over by hand; one that Tagstone wrote is renewed."""
    assert "registry.corp.example:5443" in refusal(K3S, "mirrors:\n  docker.io: {}\n")
    older = of(Client.K3S, "/etc/rancher/k3s/registries.yaml", registries=("ghcr.io",))
    assert merge(K3S, older.content) == (K3S.content, ())
