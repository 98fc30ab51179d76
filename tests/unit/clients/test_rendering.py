"""What each client is given, read back by the formats' own parsers and held against their documented grammar."""

from __future__ import annotations

import base64
import itertools
import json
import re
import tomllib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.clients.endpoint import Endpoint
from proxy.clients.kinds import Client, Store
from proxy.clients.merging import MARK
from proxy.clients.model import CANARY, File, Rendering, Wish
from proxy.clients.rendering import directory, render_client
from proxy.routing import component
from storage.errors import MalformedName
from storage.reference import DOCKER_HUB, parse_registry, spellings
from tests.unit.clients import grammars
from tests.unit.clients.wishes import PROXY, REGISTRIES, authority, files, rendered, wish

#: By a pattern for the path: how a file is read, and the grammar it must follow.
_GRAMMARS: list[tuple[str, str, grammars.Schema]] = [
    (r".*/hosts\.toml", "toml", grammars.HOSTS_TOML),
    (r"/etc/containerd/config\.toml", "toml", {"oneOf": [grammars.CONFIG_2, grammars.CONFIG_3]}),
    (r"/etc/docker/daemon\.json", "json", grammars.DAEMON_JSON),
    (r"/etc/containers/registries\.conf\.d/.*", "toml", grammars.REGISTRIES_CONF),
    (r"/etc/containers/policy\.json", "json", grammars.POLICY_JSON),
    (r"/etc/buildkit/buildkitd\.toml", "toml", grammars.BUILDKITD_TOML),
    (r"/etc/buildkit/.*\.json", "json", grammars.SOURCE_POLICY),
    (r"/etc/rancher/k3s/registries\.yaml", "yaml", grammars.K3S_REGISTRIES),
    (r"/etc/rancher/k3s/config\.yaml\.d/.*", "yaml", grammars.K3S_CONFIG),
    (r"/etc/tagstone/.*\.yaml", "yaml", grammars.NETWORK_POLICY),
]
#: Every shape that the command line can ask for.
_SHAPES: list[tuple[Client, dict[str, Any]]] = [
    (client, {"release": release, "proxy": proxy, "everything": everything})
    for client, releases in {
        Client.CONTAINERD: (None, "1.6", "1.7", "2.1"),
        Client.NERDCTL: (None,),
        Client.DOCKER: (None, "20.10", "26", "28", "29"),
        Client.PODMAN: (None, "5.4"),
        Client.CRIO: (None,),
        Client.BUILDKIT: (None, "0.17"),
        Client.K3S: (None, "1.31.6"),
        Client.TALOS: (None, "1.9", "1.12"),
    }.items()
    for release, proxy, everything in itertools.product(releases, ("http://10.0.0.5:5000", PROXY), (False, True))
]


def loaded(file: File) -> object:
    """A file as its client reads it, checked against the grammar that the client documents."""
    for pattern, how, grammar in _GRAMMARS:
        if re.fullmatch(pattern, str(file.path)):
            document = _READERS[how](file.content)
            grammars.check(document, grammar)
            return document
    if file.path == PurePosixPath("tagstone-talos.yaml"):
        documents = [each for each in yaml.safe_load_all(file.content) if each is not None]
        for document in documents:
            grammars.check(document, grammars.TALOS_DOCUMENTS if "kind" in document else grammars.TALOS_MACHINE)
        return documents
    assert file.path.suffix in (".nft", ".pem", ".crt"), f"nothing is known about {file.path}"
    return file.content


def strict_json(text: str) -> object:
    """JSON without keys that stand twice: the readers of these files refuse them, or take the last."""

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(found)) == len(found)
        return dict(found)

    return json.loads(text, object_pairs_hook=pairs)


_READERS: dict[str, Callable[[str], object]] = {"toml": tomllib.loads, "json": strict_json, "yaml": yaml.safe_load}


def document(rendering: Rendering, path: str) -> Any:
    """One file, read and checked."""
    return loaded(files(rendering)[path])


@pytest.mark.parametrize(("client", "wanted"), _SHAPES, ids=lambda value: str(value) if isinstance(value, Client) else "")
def test_every_output_follows_the_documented_grammar(client: Client, wanted: dict[str, Any]) -> None:
    """Of the newer versions, too: each key is known, each value has its type; with certificates and without."""
    for pem in (None, authority()):
        if pem is not None and wanted["proxy"].startswith("http:"):
            continue
        rendering = rendered(client, authority=pem, **wanted)
        assert rendering.files
        assert len(files(rendering)) == len(rendering.files)
        for file in rendering.files:
            loaded(file)


@pytest.mark.parametrize(("client", "wanted"), _SHAPES, ids=lambda value: str(value) if isinstance(value, Client) else "")
def test_every_output_says_what_it_is(client: Client, wanted: dict[str, Any]) -> None:
    """A comment with the command that wrote it, the versions it is for and the proof, in formats that have comments."""
    rendering = rendered(client, **wanted)
    assert CANARY in rendering.proof.command
    assert "went around" in rendering.proof.expect
    assert rendering.covers
    for file in rendering.files:
        if file.path.suffix != ".json":
            head = "".join(itertools.takewhile(lambda line: line.startswith("#"), file.content.splitlines(keepends=True)))
            assert f"{MARK}{client}`: " in head, file.path
            assert "\n# For " in head, file.path
            assert "\n# Proof: " in head, file.path
            assert CANARY in head, file.path


# -- hosts.toml -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [Client.CONTAINERD, Client.NERDCTL])
@pytest.mark.parametrize("release", [None, "1.7", "2.1"])
def test_hosts_toml_has_the_form_that_was_measured(client: Client, release: str | None) -> None:
    """Tagstone resolves and serves, and the [host] table without which 1.6 and 1.7 go upstream is there."""
    rendering = rendered(client, release=release)
    for name in (*spellings(DOCKER_HUB), "ghcr.io", "registry.corp.example_5443_", "proxy.example_5000_"):
        read = document(rendering, f"/etc/containerd/certs.d/{name}/hosts.toml")
        assert read == {"server": PROXY, "capabilities": ["pull", "resolve"], "host": {}}


def test_docker_hub_is_known_by_each_of_its_names() -> None:
    """ctr takes names as they are written: registry-1.docker.io without a file of its own would be asked itself."""
    names = {
        parse_registry(PurePosixPath(path).parent.name)
        for path in files(rendered(Client.CONTAINERD, registries=("docker.io",)))
        if "docker" in path
    }
    assert names == {"docker.io"}
    assert "/etc/containerd/certs.d/registry-1.docker.io/hosts.toml" in files(rendered(Client.CONTAINERD))


def test_all_registries_have_a_default() -> None:
    """Only where it is asked for: it changes where everything else is pulled from, other spellings of a name as well."""
    told = " ".join(rendered(Client.CONTAINERD, registries=("docker.io", "ghcr.io")).warnings)
    assert "by other spellings (GHCR.IO, ghcr.io:443); --all-registries helps" in told
    assert "spellings" not in " ".join(rendered(Client.CONTAINERD, registries=("ghcr.io",), everything=True).warnings)
    default = "/etc/containerd/certs.d/_default/hosts.toml"
    assert default not in files(rendered(Client.CONTAINERD))
    rendering = rendered(Client.CONTAINERD, everything=True, registries=())
    assert document(rendering, default)["server"] == PROXY
    assert rendering.proof.command.endswith(f"docker.io/{CANARY}")


@pytest.mark.parametrize(
    ("registry", "folder"),
    [
        ("docker.io", "docker.io"),
        ("localhost:5000", "localhost_5000_"),
        ("[::1]:5000", "[::1]_5000_"),
        ("[fd00::1]", "[fd00::1]"),
    ],
)
def test_a_port_is_written_as_containerd_looks_for_it(registry: str, folder: str) -> None:
    """The folder that it tries first."""
    assert directory(registry) == folder


def test_a_certificate_authority_lies_beside_and_is_referred_to() -> None:
    """By a path that leads from the hosts.toml to the file, wherever the tree is put."""
    for client, root in ((Client.CONTAINERD, "/etc/containerd/certs.d"), (Client.DOCKER, "/etc/docker/certs.d")):
        rendering = rendered(client, authority=authority(), release="28" if client is Client.DOCKER else None)
        hosts = document(rendering, f"{root}/docker.io/hosts.toml")
        parts: list[str] = []
        for part in (PurePosixPath(root) / "docker.io" / hosts["ca"]).parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        assert files(rendering)[str(PurePosixPath(*parts))].content == authority()


@pytest.mark.parametrize(
    ("release", "version", "plugin"),
    [
        (None, 2, "io.containerd.grpc.v1.cri"),
        ("1.7", 2, "io.containerd.grpc.v1.cri"),
        ("2.0", 3, "io.containerd.cri.v1.images"),
        ("2.1", 3, "io.containerd.cri.v1.images"),
    ],
)
def test_config_path_has_the_form_of_the_version(release: str | None, version: int, plugin: str) -> None:
    """Version 2 is read by every containerd that is covered, version 3 by 2.x."""
    read = document(rendered(Client.CONTAINERD, release=release), "/etc/containerd/config.toml")
    assert read == {"version": version, "plugins": {plugin: {"registry": {"config_path": "/etc/containerd/certs.d"}}}}


# -- docker ---------------------------------------------------------------------------------------------------------


def test_docker_is_told_that_mirrors_fail_open() -> None:
    """No mirror is configured; what holds is named: prefix names, egress rules, serve-pinned."""
    rendering = rendered(Client.DOCKER, proxy="http://10.0.0.5:5000")
    told = " ".join(rendering.warnings)
    for words in ("cannot fail closed", "10.0.0.5:5000/docker.io/", "egress", "serve-pinned", "--store containerd"):
        assert words in told
    assert document(rendering, "/etc/docker/daemon.json") == {"insecure-registries": ["10.0.0.5:5000"]}
    assert rendering.proof.command == f"docker pull 10.0.0.5:5000/docker.io/{CANARY}"
    assert "name images by Tagstone: 10.0.0.5:5000/ghcr.io/..." in rendering.steps


@pytest.mark.parametrize(
    ("release", "store", "hosts", "switched"),
    [
        ("20.10", None, False, False),
        ("26", None, False, False),
        ("28", None, True, False),
        ("28", Store.CONTAINERD, True, True),
        ("29", None, True, True),
        ("29", Store.GRAPH, True, False),
        (None, None, False, False),
        (None, Store.CONTAINERD, True, True),
    ],
)
def test_docker_by_version_and_store(release: str | None, store: Store | None, hosts: bool, switched: bool) -> None:
    """hosts.toml from 28 on; with the containerd store it is what rules pulls, and the store is made sure."""
    rendering = rendered(Client.DOCKER, release=release, store=store)
    assert ("/etc/docker/certs.d/docker.io/hosts.toml" in files(rendering)) == hosts
    daemon = files(rendering).get("/etc/docker/daemon.json")
    assert (daemon is not None) == switched
    if switched:
        assert document(rendering, "/etc/docker/daemon.json") == {"features": {"containerd-snapshotter": True}}
    assert any("cannot fail closed" in warning for warning in rendering.warnings) != switched
    assert rendering.proof.command.startswith(
        "docker pull docker.io/" if switched else "docker pull proxy.example:5000/docker.io/"
    )


def test_docker_finds_the_certificate_authority_of_prefix_names() -> None:
    """Where the graph store looks: certs.d/host:port/ca.crt."""
    assert (
        files(rendered(Client.DOCKER, authority=authority(), release="20.10"))[
            "/etc/docker/certs.d/proxy.example:5000/ca.crt"
        ].content
        == authority()
    )


@pytest.mark.parametrize(
    ("proxy", "rule", "cidr"),
    [
        ("http://10.0.0.5:5000", "ip daddr 10.0.0.5 tcp dport 5000 accept", "10.0.0.5/32"),
        ("https://[fd00::1]", "ip6 daddr fd00::1 tcp dport 443 accept", "fd00::1/128"),
        ("https://proxy.example:5000", "ip daddr proxy.example tcp dport 5000 accept", None),
    ],
)
@pytest.mark.parametrize("client", [Client.DOCKER, Client.BUILDKIT])
def test_egress_rules_let_through_tagstone_and_no_other_host(client: Client, proxy: str, rule: str, cidr: str | None) -> None:
    """For the daemon by nftables, for pods by a NetworkPolicy; everything else is rejected."""
    rendering = rendered(client, proxy=proxy)
    rules = files(rendering)[f"/etc/tagstone/egress-{client}.nft"].content
    assert f'"system.slice/{client}.service" jump {client}' in rules
    accepted = [line.strip() for line in rules.splitlines() if line.strip().endswith("accept")]
    assert accepted == ['oifname { "lo", "docker0", "br-*" } accept', "meta l4proto { tcp, udp } th dport 53 accept", rule]
    assert "counter reject" in rules
    to = document(rendering, "/etc/tagstone/egress-pods.yaml")["spec"]["egress"][0]["to"][0]
    assert to.get("ipBlock", {}).get("cidr") == cidr
    assert ("podSelector" in to) == (cidr is None)


# -- podman and CRI-O -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", [Client.PODMAN, Client.CRIO])
@pytest.mark.parametrize("proxy", ["http://10.0.0.5:5000", PROXY])
def test_podman_goes_to_the_location_alone(client: Client, proxy: str) -> None:
    """Tagstone is each registry's location: there is no mirror table, so nothing is left to fall back to."""
    host = proxy.partition("://")[2]
    rendering = rendered(client, proxy=proxy)
    read = document(rendering, "/etc/containers/registries.conf.d/zz-tagstone.conf")
    assert [each["prefix"] for each in read["registry"]] == [
        *spellings("docker.io"),
        "ghcr.io",
        "registry.corp.example:5443",
        host,
    ]
    for each in read["registry"]:
        assert each["location"] == (host if each["prefix"] == host else f"{host}/{component(each['prefix'])}")
        assert each["insecure"] == proxy.startswith("http:")


def test_podman_rejects_what_comes_from_elsewhere() -> None:
    """Only the registries that are sent to Tagstone, and Tagstone's own name, are allowed."""
    accept = [{"type": "insecureAcceptAnything"}]
    read = document(rendered(Client.PODMAN), "/etc/containers/policy.json")
    scopes = (*spellings("docker.io"), "ghcr.io", "registry.corp.example:5443", "proxy.example:5000")
    assert read == {"default": [{"type": "reject"}], "transports": {"docker": dict.fromkeys(scopes, accept)}}


# -- BuildKit, k3s, Talos -------------------------------------------------------------------------------------------


def source_policy(read: Any, image: str) -> str | None:
    """What BuildKit makes of an image: rules in order, the last verdict counts, a conversion starts anew."""
    identifier = f"docker-image://{image}"
    for _ in range(20):
        denied = False
        for rule in read["rules"]:
            expression = re.escape(rule["selector"]["identifier"]).replace(r"\*", "(.*)")
            if (found := re.fullmatch(expression, identifier)) is None:
                continue
            if rule["action"] == "CONVERT":
                identifier = rule["updates"]["identifier"].replace("${1}", found[1])
                break
            denied = rule["action"] == "DENY"
        else:
            return None if denied else identifier.removeprefix("docker-image://")
    raise AssertionError("it never ends")


@pytest.mark.parametrize(
    ("image", "becomes"),
    [
        ("docker.io/library/alpine:3", "proxy.example:5000/docker.io/library/alpine:3"),
        ("registry.corp.example:5443/a/b@sha256:0", "proxy.example:5000/registry.corp.example__5443/a/b@sha256:0"),
        ("proxy.example:5000/ghcr.io/a/b:1", "proxy.example:5000/ghcr.io/a/b:1"),
        ("quay.io/a/b:1", None),
        ("docker.io.evil.example/a:1", None),
    ],
)
def test_the_source_policy_leads_to_tagstone_or_nowhere(image: str, becomes: str | None) -> None:
    """Dockerfiles stay as they are: images are renamed, and whatever is left is denied."""
    rendering = rendered(Client.BUILDKIT)
    assert source_policy(document(rendering, "/etc/buildkit/tagstone-source-policy.json"), image) == becomes


def test_buildkit_gets_no_mirror() -> None:
    """It would ask the registry itself for whatever the mirror refuses; the output says so, and what holds."""
    rendering = rendered(Client.BUILDKIT, authority=authority())
    read = document(rendering, "/etc/buildkit/buildkitd.toml")
    assert read == {"registry": {"proxy.example:5000": {"ca": ["/etc/buildkit/tagstone-ca.pem"]}}}
    assert "cannot fail closed" in " ".join(rendering.warnings)
    assert "/etc/buildkit/buildkitd.toml" not in files(rendered(Client.BUILDKIT))
    plain = rendered(Client.BUILDKIT, proxy="http://10.0.0.5:5000")
    assert document(plain, "/etc/buildkit/buildkitd.toml") == {"registry": {"10.0.0.5:5000": {"http": True}}}


def test_k3s_turns_the_default_endpoint_off() -> None:
    """In a drop-in of its configuration, beside the mirrors."""
    rendering = rendered(Client.K3S, authority=authority(), everything=True)
    assert document(rendering, "/etc/rancher/k3s/config.yaml.d/tagstone.yaml") == {"disable-default-registry-endpoint": True}
    read = document(rendering, "/etc/rancher/k3s/registries.yaml")
    names = (*spellings("docker.io"), "ghcr.io", "registry.corp.example:5443", "*")
    assert read["mirrors"] == {name: {"endpoint": [PROXY]} for name in names}
    assert read["configs"] == {"proxy.example:5000": {"tls": {"ca_file": "/etc/rancher/k3s/tagstone-ca.pem"}}}


@pytest.mark.parametrize("release", ["1.9", "1.12", None])
def test_talos_skips_the_fallback(release: str | None) -> None:
    """In both forms of the machine configuration, for every registry; the certificate authority comes along."""
    documents = document(rendered(Client.TALOS, release=release, everything=True, authority=authority()), "tagstone-talos.yaml")
    names = {*spellings("docker.io"), "ghcr.io", "registry.corp.example:5443", "*"}
    if release == "1.12":
        mirrors = [each for each in documents if each["kind"] == "RegistryMirrorConfig"]
        assert {each["name"] for each in mirrors} == names
        assert all(each["skipFallback"] is True and each["endpoints"] == [{"url": PROXY}] for each in mirrors)
        assert documents[-1]["ca"] == authority()
    else:
        (patch,) = documents
        registries = patch["machine"]["registries"]
        assert registries["mirrors"] == {name: {"endpoints": [PROXY], "skipFallback": True} for name in names}
        assert base64.b64decode(registries["config"]["proxy.example:5000"]["tls"]["ca"]).decode() == authority()


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("client", "release", "told"),
    [
        (Client.CONTAINERD, "1.4.12", "reads no hosts.toml"),
        (Client.BUILDKIT, "0.10.6", "knows no source policy"),
        (Client.K3S, "1.26.12", "disable-default-registry-endpoint"),
        (Client.K3S, "1.29.0", "disable-default-registry-endpoint"),
        (Client.K3S, "1.25.16", "disable-default-registry-endpoint"),
        (Client.TALOS, "1.8.4", "skipFallback"),
    ],
)
def test_a_version_that_cannot_is_refused(client: Client, release: str, told: str) -> None:
    """A configuration that such a client would read as something else is worse than none."""
    with pytest.raises(ValueError, match=told):
        rendered(client, release=release)


@pytest.mark.parametrize("release", ["1.26.13", "1.29.1", "1.30.0", "1.33.4", "2.0"])
def test_every_later_k3s_can(release: str) -> None:
    """The switch came to four minor versions at once."""
    assert rendered(Client.K3S, release=release).files


def test_what_makes_no_sense_is_refused() -> None:
    """Stores of other clients, a docker that is too old for the store, certificates without TLS, nothing to write."""
    with pytest.raises(ValueError, match="only docker has image stores"):
        wish(Client.PODMAN, store=Store.GRAPH)
    with pytest.raises(ValueError, match=r"reads no hosts\.toml"):
        rendered(Client.DOCKER, release="26", store=Store.CONTAINERD)
    with pytest.raises(ValueError, match="speaks no TLS"):
        wish(Client.PODMAN, proxy="http://10.0.0.5:5000", authority=authority())
    with pytest.raises(ValueError, match="nothing to write"):
        wish(Client.PODMAN, registries=())
    with pytest.raises(ValueError, match="is where Tagstone is"):
        wish(Client.PODMAN, proxy="https://ghcr.io")


@pytest.mark.parametrize(
    ("proxy", "told"),
    [("http://127.0.0.1:5000", "only from the machine"), ("http://10.0.0.5:5000", "plain HTTP"), (PROXY, None)],
)
def test_an_address_that_is_of_little_use_is_told(proxy: str, told: str | None) -> None:
    """Loopback in a file for another node, and HTTP that anybody between can answer."""
    warnings = rendered(Client.CONTAINERD, proxy=proxy, everything=True).warnings
    assert any(told in warning for warning in warnings) if told else not any("http" in warning for warning in warnings)


_REGISTRIES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{1,5}){0,2}(:[1-9][0-9]{0,3})?", fullmatch=True)


@given(text=st.one_of(st.text(), st.from_regex(r"[a-z.]{1,8}[\"'\]\n\\{}$*#:/\x00-\x20]{1,6}[a-z=]{0,6}", fullmatch=True)))
@example(text='docker.io"\n[host."https://evil.example"]')
@example(text="../../../etc/cron.d")
@example(text="..")
@example(text="docker.io/library")
@example(text="_default")
@example(text="*")
def test_hostile_registry_names_do_not_get_into_a_file(text: str) -> None:
    """A wish is made of registries, or it is not made; no path leaves its folder."""
    try:
        asked = wish(Client.CONTAINERD, registries=(text,))
    except MalformedName:
        return
    for file in render_client(asked).files:
        assert ".." not in file.path.parts
        assert len(file.path.parts) <= 6
        loaded(file)


@given(registries=st.lists(_REGISTRIES, min_size=1, max_size=4), host=_REGISTRIES, client=st.sampled_from(list(Client)))
def test_every_set_of_registries_is_read_back(registries: list[str], host: str, client: Client) -> None:
    """Whatever the names: the files parse, follow their grammar, and no two are for the same path."""
    try:
        asked = Wish(client, Endpoint.parse(f"http://{host}"), tuple(registries))
    except (MalformedName, ValueError):  # a port beyond the last, or a registry that is Tagstone itself
        return
    rendering = render_client(asked)
    assert len(files(rendering)) == len(rendering.files)
    for file in rendering.files:
        loaded(file)


def test_the_grammars_are_strict() -> None:
    """They refuse what the clients would refuse or ignore: a wrong key, a wrong type, a missing table."""
    good = {"server": PROXY, "capabilities": ["pull", "resolve"], "host": {}}
    grammars.check(good, grammars.HOSTS_TOML)
    bad: list[tuple[object, grammars.Schema]] = [
        ({**good, "capability": ["pull"]}, grammars.HOSTS_TOML),
        ({**good, "capabilities": ["pull", "referrers"]}, grammars.HOSTS_TOML),
        ({**good, "server": "proxy.example"}, grammars.HOSTS_TOML),
        ({"server": PROXY, "capabilities": ["pull"]}, grammars.HOSTS_TOML),
        ({"insecure-registries": "x"}, grammars.DAEMON_JSON),
        ({"insecure-registry": ["x"]}, grammars.DAEMON_JSON),
        ({"default": [{"type": "allow"}]}, grammars.POLICY_JSON),
        ({"version": 2, "plugins": {"cri": {}}}, grammars.CONFIG_2),
        ({"version": 3, "plugins": {"io.containerd.cri.v1.images": {"registry": {"config_paths": "x"}}}}, grammars.CONFIG_3),
        ({"mirrors": {"docker.io": {"endpoints": [PROXY]}}}, grammars.K3S_REGISTRIES),
    ]
    for document_, grammar in bad:
        with pytest.raises(jsonschema.ValidationError):
            grammars.check(document_, grammar)


def test_registries_of_the_tests_are_what_they_seem() -> None:
    """One with other names, one plain, one with a port."""
    assert [len(spellings(each)) for each in REGISTRIES] == [4, 1, 1]
