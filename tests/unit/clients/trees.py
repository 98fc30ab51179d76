"""File trees of nodes: for every kind of client sound ones, and for every trap at least one that has this trap and no other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from proxy.clients.traps.examine import Examination, examine
from proxy.clients.traps.node import Expected, Node, Target, parse_version

PROXY = "https://proxy.example:5000"
HOST = "proxy.example:5000"


@dataclass(frozen=True, slots=True)
class Tree:
    """What a node has, and what is found there: (trap, file, line) in order of the files."""

    name: str
    client: str
    files: Mapping[str, str]  #: path → text; a path that ends in ``/`` is an empty folder
    found: tuple[tuple[str, str, int], ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    proxy: str = PROXY
    registries: tuple[str, ...] = ("docker.io",)

    def write(self, root: Path) -> None:
        """Put it below a folder."""
        for name, text in self.files.items():
            path = root / name.lstrip("/")
            if name.endswith("/"):
                path.mkdir(parents=True, exist_ok=True)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")

    def examine(self, root: Path) -> Examination:
        """Write it and examine it."""
        self.write(root)
        proxy = Target.parse(self.proxy)
        assert proxy is not None
        versions = {name: version for name, text in self.versions.items() if (version := parse_version(text)) is not None}
        return examine(Node(root, versions), Expected((proxy,), self.registries), (self.client,), talos="/talos.yaml")


def places(examination: Examination) -> list[tuple[str, str, int]]:
    """What was found, for comparison."""
    return [(finding.id, finding.file, finding.line) for finding in examination.findings]


# -- containerd ----------------------------------------------------------------------------------------------------------

C = "/etc/containerd/config.toml"
H = "/etc/containerd/certs.d/docker.io/hosts.toml"
CONFIG_2 = 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "/etc/containerd/certs.d"\n'
CONFIG_3 = "version = 3\n[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/etc/containerd/certs.d'\n"
CLOSED = f'server = "{PROXY}"\ncapabilities = ["pull", "resolve"]\n[host]\n'
V16, V17, V21, V22 = ({"containerd": each} for each in ("1.6.20", "1.7.24", "2.1.9", "2.2.1"))


def _hosts(name: str, text: str, trap: str, line: int, versions: Mapping[str, str] = V17, **more: str) -> Tree:
    return Tree(f"containerd-{name}", "containerd", {C: CONFIG_2, H: text}, ((trap, H, line),), versions, **more)  # type: ignore[arg-type]  # proxy alone


CONTAINERD = (
    _hosts("no-host", f'server = "{PROXY}"\ncapabilities = ["pull", "resolve"]\n', "containerd-no-host-table", 2, V16),
    _hosts("no-host-unknown-version", f'server = "{PROXY}"\n', "containerd-no-host-table", 1, {}),
    _hosts("not-toml", f'server = "{PROXY}"\nserver == 1\n', "containerd-undecodable", 2, V21),
    _hosts("unknown-capability", f'server = "{PROXY}"\n[host."{PROXY}"]\ncapabilities = ["pul"]\n', "containerd-undecodable", 3),
    _hosts("wrong-type", f'server = "{PROXY}"\nskip_verify = "yes"\n[host]\n', "containerd-undecodable", 2),
    _hosts("server-no-text", "server = 5\n[host]\n", "containerd-undecodable", 1),
    _hosts("host-no-table", f'server = "{PROXY}"\nhost = "x"\n', "containerd-undecodable", 2),
    _hosts(
        "referrers",
        f'server = "{PROXY}"\n[host]\n[host."{PROXY}"]\n\ncapabilities = [\n"pull", "referrers"]\n',
        "containerd-referrers",
        5,
        V21,
    ),
    _hosts("no-server", f'[host."{PROXY}"]\n', "containerd-no-server", 1, V21),
    _hosts("empty-server", f'\nserver = ""\n[host."{PROXY}"]\n', "containerd-no-server", 2, V21),
    _hosts("upstream", f'# c\nserver = "https://registry-1.docker.io"\n[host."{PROXY}"]\n', "containerd-server-elsewhere", 2),
    _hosts("other-host", f'server = "{PROXY}"\n[host."https://cache.example"]\n', "containerd-other-host", 2),
    _hosts(
        "pull-only",
        f'server = "https://registry-1.docker.io"\n[host."{PROXY}"]\n  capabilities = ["pull"]\n',
        "containerd-pull-only",
        3,
    ),
    _hosts("path", f'server = "{PROXY}/v2/docker.io"\n[host]\n', "containerd-path", 1),
    _hosts("path-without-v2", f'server = "{PROXY}/mirror"\n[host]\n', "containerd-path", 1),
    _hosts("other-path", f'server = "{PROXY}/v2/quay.io"\noverride_path = true\n[host]\n', "containerd-path", 1),
    _hosts("scheme", 'server = "http://proxy.example:5000"\n[host]\n', "wrong-scheme", 1),
    _hosts("skip-verify", f'server = "{PROXY}"\nskip_verify = true\n[host]\n', "unproven-proxy", 2),
    _hosts(
        "plain-http", 'server = "http://proxy.example:5000"\n[host]\n', "unproven-proxy", 1, proxy="http://proxy.example:5000"
    ),
    Tree(
        "containerd-empty-folder",
        "containerd",
        {
            C: CONFIG_2,
            "/etc/containerd/certs.d/_default/hosts.toml": CLOSED,
            "/etc/containerd/certs.d/docker.io/": "",
        },
        (("containerd-empty-directory", "/etc/containerd/certs.d/docker.io", 0),),
        V17,
    ),
    Tree(
        "containerd-empty-file",
        "containerd",
        {C: CONFIG_2, "/etc/containerd/certs.d/docker.io/hosts.toml": ""},
        (("containerd-empty-directory", H, 0),),
        V21,
    ),
    Tree(
        "containerd-uncovered",
        "containerd",
        {C: CONFIG_2, H: CLOSED},
        (("containerd-uncovered", "/etc/containerd/certs.d", 0),),
        V17,
        registries=("docker.io", "ghcr.io"),
    ),
    Tree(
        "containerd-misspelt-folder",
        "containerd",
        {C: CONFIG_2, "/etc/containerd/certs.d/registry-1.docker.io/hosts.toml": CLOSED},
        (("containerd-uncovered", "/etc/containerd/certs.d", 0),),
        V17,
    ),
    Tree(
        "containerd-no-config-path",
        "containerd",
        {C: 'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\n[plugins."io.containerd.grpc.v1.cri".registry]\n', H: CLOSED},
        (("containerd-no-config-path", C, 3),),
        V17,
    ),
    Tree("containerd-no-config", "containerd", {H: CLOSED}, (("containerd-no-config-path", C, 0),), V17),
    Tree(
        "containerd-another-file",
        "containerd",
        {
            "/lib/systemd/system/containerd.service": "[Service]\nExecStart=/usr/bin/containerd --config /opt/c.toml\n",
            C: CONFIG_2,
            "/opt/c.toml": "version = 2\n",
            H: CLOSED,
        },
        (("containerd-no-config-path", "/opt/c.toml", 0),),
        V17,
    ),
    Tree(
        "containerd-old-section-in-new-file",
        "containerd",
        {C: CONFIG_2.replace("version = 2", "version = 3"), H: CLOSED},
        (("containerd-wrong-section", C, 3),),
        V21,
    ),
    Tree(
        "containerd-file-without-version",
        "containerd",
        {C: CONFIG_2.replace("version = 2\n", ""), H: CLOSED},
        (("containerd-wrong-section", C, 2),),
        V16,
    ),
    Tree(
        "containerd-path-list",
        "containerd",
        {C: CONFIG_3.replace("certs.d'", "certs.d:/etc/docker/certs.d'"), H: CLOSED},
        (("containerd-path-list", C, 3),),
        V21,
    ),
    Tree("containerd-default-is-a-list", "containerd", {C: "version = 3\n", H: CLOSED}, (("containerd-path-list", C, 0),), V22),
    Tree(
        "containerd-import-replaces",
        "containerd",
        {
            C: 'imports = ["conf.d/*.toml"]\n' + CONFIG_2,
            "/etc/containerd/conf.d/nvidia.toml": 'version = 2\n\n[plugins."io.containerd.grpc.v1.cri".containerd]\na = 1\n',
            H: CLOSED,
        },
        (("containerd-import-replaces", "/etc/containerd/conf.d/nvidia.toml", 3),),
        V17,
    ),
    Tree(
        "containerd-registry-mirrors",
        "containerd",
        {
            C: f'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry.mirrors."docker.io"]\nendpoint = ["{PROXY}"]\n',
            H: CLOSED,
        },
        (("containerd-registry-mirrors", C, 2),),
        V17,
    ),
    Tree(
        "containerd-config-undecodable",
        "containerd",
        {C: "version = \n", H: CLOSED},
        (("containerd-config-undecodable", C, 1),),
        V17,
    ),
    Tree(
        "ctr-in-a-unit",
        "containerd",
        {
            C: CONFIG_2,
            H: CLOSED,
            "/etc/systemd/system/warm.service": "[Service]\nExecStart=ctr -n k8s.io \\\n  images pull docker.io/x:1\n",
        },
        (("ctr-hosts-dir", "/etc/systemd/system/warm.service", 2),),
        V17,
    ),
    Tree(
        "ctr-in-a-script",
        "containerd",
        {
            C: CONFIG_2,
            H: CLOSED,
            "/usr/local/bin/warm": "#!/bin/sh\n# ctr images pull x\nctr i pull --hosts-dir /etc x; ctr i pull y\n",
        },
        (("ctr-hosts-dir", "/usr/local/bin/warm", 3),),
        V17,
    ),
    Tree(
        "nerdctl-hosts-dir",
        "containerd",
        {C: CONFIG_2, H: CLOSED, "/etc/nerdctl/nerdctl.toml": 'debug = false\nhosts_dir = ["/etc/nerdctl/certs.d"]\n'},
        (("nerdctl-hosts-dir", "/etc/nerdctl/nerdctl.toml", 2),),
        V17,
    ),
)

# -- docker ----------------------------------------------------------------------------------------------------------------

D = "/etc/docker/daemon.json"
DH = "/etc/docker/certs.d/docker.io/hosts.toml"
STORE = '{\n  "features": {"containerd-snapshotter": true}\n}\n'
D28, D26 = {"docker": "28.5.2"}, {"docker": "26.1.5"}
DOCKER = (
    Tree(
        "docker-mirror",
        "docker",
        {D: f'{{\n  "registry-mirrors": [\n    "{PROXY}"\n  ]\n}}\n'},
        (("docker-registry-mirrors", D, 2),),
        D26,
    ),
    Tree(
        "docker-mirror-with-containerd-store",
        "docker",
        {D: f'{{"features": {{"containerd-snapshotter": true}},\n"registry-mirrors": ["{PROXY}"]}}\n', DH: CLOSED},
        (("docker-registry-mirrors", D, 2),),
        D28,
    ),
    Tree(
        "docker-mirror-by-flag",
        "docker",
        {"/etc/systemd/system/docker.service.d/mirror.conf": f"[Service]\n\nExecStart=dockerd --registry-mirror={PROXY}\n"},
        (("docker-registry-mirrors", "/etc/systemd/system/docker.service.d/mirror.conf", 3),),
        D26,
    ),
    Tree("docker-unmirrored", "docker", {D: "{}\n"}, (("docker-unmirrored", D, 0),), D26),
    Tree("docker-one-registry-without-a-folder", "docker", {D: STORE}, (("docker-unmirrored", "/etc/docker/certs.d", 0),), D28),
    Tree("docker-26-ignores-hosts", "docker", {D: STORE, DH: CLOSED}, (("docker-hosts-ignored", DH, 0),), D26),
    Tree("docker-graph-store", "docker", {D: "{}\n", DH: CLOSED}, (("docker-unmirrored", D, 0),), D28),
    Tree("docker-undecodable", "docker", {D: '{\n  "debug": true,\n}\n'}, (("docker-undecodable", D, 3),), D26),
    Tree(
        "docker-plain-http",
        "docker",
        {D: STORE, DH: CLOSED.replace("https", "http")},
        (("unproven-proxy", DH, 1), ("docker-plain-http", D, 0)),
        D28,
        "http://proxy.example:5000",
    ),
    Tree(
        "docker-insecure",
        "docker",
        {D: f'{{\n"insecure-registries": ["{HOST}"],\n"features": {{"containerd-snapshotter": true}}\n}}\n', DH: CLOSED},
        (("unproven-proxy", D, 2),),
        D28,
    ),
    Tree("docker-no-server", "docker", {D: STORE, DH: f'[host."{PROXY}"]\n'}, (("containerd-no-server", DH, 1),), D28),
)

B = "/etc/buildkit/buildkitd.toml"
BUILDKIT = (
    Tree(
        "buildkit-mirror",
        "buildkit",
        {B: f'debug = true\n[registry."docker.io"]\n  mirrors = ["{HOST}/docker.io"]\n'},
        (("buildkit-mirror", B, 3),),
    ),
    Tree("buildkit-undecodable", "buildkit", {B: "[registry\n"}, (("buildkit-undecodable", B, 1),)),
    Tree(
        "buildkit-plain-http", "buildkit", {B: f'[registry."{HOST}"]\n'}, (("buildkit-plain-http", B, 1),), proxy=f"http://{HOST}"
    ),
)

# -- podman ------------------------------------------------------------------------------------------------------------------

R = "/etc/containers/registries.conf"
P = "/etc/containers/policy.json"
REJECT = '{"default": [{"type": "reject"}], "transports": {"docker": {"docker.io": [{"type": "insecureAcceptAnything"}]}}}\n'
LED = f'[[registry]]\nprefix = "docker.io"\nlocation = "{HOST}/docker.io"\n'
MIRRORED = f'[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n[[registry.mirror]]\nlocation = "{HOST}/docker.io"\n'


def _podman(name: str, text: str, trap: str, line: int, file: str = R, proxy: str = PROXY, **files: str) -> Tree:
    return Tree(f"podman-{name}", "podman", {R: text, P: REJECT, **files}, ((trap, file, line),), {"podman": "4.3.1"}, proxy)


PODMAN = (
    _podman("mirror", MIRRORED, "podman-mirror-falls-back", 1),
    _podman("mirror-without-location", MIRRORED.replace('location = "docker.io"\n', "", 1), "podman-mirror-falls-back", 1),
    _podman(
        "by-digest-only",
        MIRRORED.replace("[[registry.mirror", "mirror-by-digest-only = true\n[[registry.mirror"),
        "podman-digest-only",
        4,
    ),
    _podman("digest-only", MIRRORED + 'pull-from-mirror = "digest-only"\n', "podman-digest-only", 6),
    _podman(
        "other-mirror",
        MIRRORED.replace("[[registry.mirror", "blocked = true\n[[registry.mirror")
        + '[[registry.mirror]]\nlocation = "cache.example"\n',
        "podman-other-mirror",
        7,
    ),
    _podman("nothing", "unqualified-search-registries = []\n", "podman-uncovered", 0),
    _podman("elsewhere", '\n[[registry]]\nlocation = "docker.io"\n', "podman-uncovered", 2),
    _podman(
        "narrower-prefix",
        LED + '[[registry]]\nprefix = "docker.io/library"\nlocation = "quay.io/library"\n',
        "podman-narrower-prefix",
        4,
    ),
    _podman(
        "drop-in-replaces",
        LED,
        "podman-uncovered",
        1,
        "/etc/containers/registries.conf.d/99-x.conf",
        **{"/etc/containers/registries.conf.d/99-x.conf": '[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\n'},
    ),
    Tree(
        "podman-no-registry-in-path",
        "podman",
        {R: f'[[registry]]\nprefix = "ghcr.io"\nlocation = "{HOST}"\n', P: REJECT},
        (("podman-no-registry-in-path", R, 3),),
        registries=("ghcr.io",),
    ),
    Tree(
        "podman-port-in-path",
        "podman",
        {R: f'[[registry]]\nprefix = "reg.example:5000"\nlocation = "{HOST}/reg.example:5000"\n', P: REJECT},
        (("podman-port-in-path", R, 3),),
        registries=("reg.example:5000",),
    ),
    _podman("plain-http", LED, "podman-plain-http", 3, proxy=f"http://{HOST}"),
    _podman("insecure", LED + "insecure = true\n", "unproven-proxy", 4),
    _podman(
        "user-file",
        LED,
        "podman-user-file",
        1,
        "/home/ann/.config/containers/registries.conf",
        **{"/home/ann/.config/containers/registries.conf": '[[registry]]\nlocation = "docker.io"\n'},
    ),
    _podman("search", 'unqualified-search-registries = ["docker.io", "quay.io"]\n' + LED, "podman-search-elsewhere", 1),
    _podman(
        "alias",
        LED + '[aliases]\n"nginx" = "docker.io/library/nginx"\n"fedora" = "quay.io/fedora"\n',
        "podman-alias-elsewhere",
        6,
    ),
    _podman(
        "recorded-alias",
        LED,
        "podman-alias-elsewhere",
        2,
        "/var/cache/containers/short-name-aliases.conf",
        **{"/var/cache/containers/short-name-aliases.conf": '[aliases]\nfedora = "quay.io/fedora"\n'},
    ),
    _podman("old-format", '[registries.search]\nregistries = ["docker.io"]\n', "podman-old-format", 1),
    _podman("undecodable", LED + "location =\n", "podman-undecodable", 4),
    _podman("policy", LED, "podman-policy-accepts", 2, P, **{P: '{\n"default": [{"type": "insecureAcceptAnything"}]}\n'}),
    _podman("policy-without-default", LED, "podman-policy-undecodable", 1, P, **{P: "{}\n"}),
    _podman("policy-undecodable", LED, "podman-policy-undecodable", 1, P, **{P: "[]\n"}),
)

# -- k3s, Talos --------------------------------------------------------------------------------------------------------------

K = "/etc/rancher/k3s/registries.yaml"
KC = "/etc/rancher/k3s/config.yaml"
KG = "/var/lib/rancher/k3s/agent/etc/containerd/certs.d/docker.io/hosts.toml"
MIRRORS = f'mirrors:\n  docker.io:\n    endpoint:\n      - "{PROXY}"\n'
NO_DEFAULT = "disable-default-registry-endpoint: true\n"
T = "/talos.yaml"
TALOS_OLD = f"version: v1alpha1\nmachine:\n  registries:\n    mirrors:\n      docker.io:\n        endpoints: [{PROXY}]\n"
TALOS_NEW = f"---\napiVersion: v1alpha1\nkind: RegistryMirrorConfig\nname: docker.io\nendpoints:\n  - url: {PROXY}\n"
KUBERNETES = (
    Tree("k3s-default-endpoint", "k3s", {K: MIRRORS}, (("k3s-default-endpoint", K, 2),)),
    Tree(
        "k3s-switched-back-by-drop-in",
        "k3s",
        {K: MIRRORS, KC: NO_DEFAULT, "/etc/rancher/k3s/config.yaml.d/a.yaml": NO_DEFAULT.replace("true", "false")},
        (("k3s-default-endpoint", K, 2),),
    ),
    Tree(
        "k3s-configs-entry",
        "k3s",
        {K: MIRRORS + "configs:\n  docker.io:\n    auth: {username: a, password: b}\n", KC: NO_DEFAULT},
        (("k3s-configs-entry", K, 6),),
    ),
    Tree(
        "k3s-other-endpoint", "k3s", {K: MIRRORS + "      - https://x.example\n", KC: NO_DEFAULT}, (("k3s-other-endpoint", K, 5),)
    ),
    Tree("k3s-uncovered", "k3s", {K: MIRRORS.replace("docker", "quay"), KC: NO_DEFAULT}, (("k3s-uncovered", K, 0),)),
    Tree(
        "k3s-another-name",
        "k3s",
        {K: MIRRORS.replace("docker.io", "registry-1.docker.io"), KC: NO_DEFAULT},
        (("k3s-uncovered", K, 0),),
    ),
    Tree("k3s-no-file", "k3s", {KC: NO_DEFAULT}, (("k3s-uncovered", K, 0),)),
    Tree("k3s-undecodable", "k3s", {K: "mirrors:\n  a: [\n", KC: NO_DEFAULT}, (("k3s-undecodable", K, 3),)),
    Tree("k3s-scheme", "k3s", {K: MIRRORS.replace("https", "http"), KC: NO_DEFAULT}, (("wrong-scheme", K, 4),)),
    Tree(
        "k3s-not-restarted",
        "k3s",
        {K: MIRRORS, KC: NO_DEFAULT, KG: f'# x\nserver = "https://registry-1.docker.io/v2"\n[host."{PROXY}/v2"]\n'},
        (("k3s-not-restarted", KG, 2),),
    ),
    Tree("talos-old-fallback", "talos", {T: TALOS_OLD}, (("talos-fallback", T, 5),)),
    Tree("talos-new-fallback", "talos", {T: TALOS_NEW}, (("talos-fallback", T, 4),)),
    Tree(
        "talos-other-endpoint",
        "talos",
        {T: TALOS_NEW + "  - url: https://x.example\nskipFallback: true\n"},
        (("talos-other-endpoint", T, 7),),
    ),
    Tree("talos-uncovered", "talos", {T: "version: v1alpha1\n"}, (("talos-uncovered", T, 0),)),
    Tree("talos-undecodable", "talos", {T: "machine: {\n"}, (("talos-undecodable", T, 2),)),
)
TRAPPED = CONTAINERD + DOCKER + BUILDKIT + PODMAN + KUBERNETES

# -- sound -------------------------------------------------------------------------------------------------------------------

SOUND = (
    Tree("containerd-1.6", "containerd", {C: CONFIG_2, H: CLOSED}, versions=V16),
    Tree("containerd-unknown-version", "containerd", {C: CONFIG_2, H: CLOSED}),
    Tree("containerd-2.2", "containerd", {C: CONFIG_3, H: CLOSED.replace("[host]\n", "")}, versions=V22),
    Tree(
        "containerd-format-1",
        "containerd",
        {C: '[plugins.cri.registry]\nconfig_path = "/etc/containerd/certs.d"\n', H: CLOSED},
        versions=V16,
    ),
    Tree(
        "containerd-default-folder",
        "containerd",
        {C: CONFIG_2, "/etc/containerd/certs.d/_default/hosts.toml": CLOSED},
        versions=V17,
    ),
    Tree(
        "containerd-both-names",
        "containerd",
        {C: CONFIG_2, H: f'server = "{PROXY}/v2/"\n[host."{PROXY}"]\ncapabilities = ["pull", "resolve"]\n'},
        versions=V17,
    ),
    Tree(
        "containerd-prefix-path",
        "containerd",
        {C: CONFIG_2, H: f'server = "{PROXY}/v2/docker.io"\noverride_path = true\n[host]\n'},
        versions=V17,
    ),
    Tree(
        "containerd-upstream-for-pushes",
        "containerd",
        {
            C: CONFIG_2,
            H: f'server = "https://registry-1.docker.io"\ncapabilities = ["push"]\n'
            f'[host."{PROXY}"]\ncapabilities = ["pull", "resolve"]\n',
        },
        versions=V17,
    ),
    Tree(
        "containerd-port",
        "containerd",
        {
            C: CONFIG_2,
            "/etc/containerd/certs.d/reg.example_5000_/hosts.toml": CLOSED,
            f"/etc/containerd/certs.d/{HOST}/ca.crt": "x",
        },
        versions=V17,
        registries=("reg.example:5000",),
    ),
    Tree(
        "containerd-2-merges-imports",
        "containerd",
        {
            C: 'imports = ["/etc/containerd/conf.d/a.toml"]\n' + CONFIG_2,
            "/etc/containerd/conf.d/a.toml": 'version = 2\n[plugins."io.containerd.grpc.v1.cri".cni]\na = 1\n',
            H: CLOSED,
        },
        versions=V21,
    ),
    Tree("containerd-without-cri", "containerd", {C: 'disabled_plugins = ["cri"]\n', H: CLOSED}, versions=V17),
    Tree("docker-28-containerd-store", "docker", {D: STORE, DH: CLOSED}, versions=D28),
    Tree("docker-29", "docker", {DH: CLOSED}, versions={"docker": "29.0.1"}),
    Tree("buildkit", "buildkit", {B: f'[registry."{HOST}"]\n  ca = ["/x.pem"]\n'}),
    Tree("podman-location", "podman", {R: 'unqualified-search-registries = ["docker.io"]\n' + LED, P: REJECT}),
    Tree("podman-blocked", "podman", {R: MIRRORED.replace("[[registry.mirror", "blocked = true\n[[registry.mirror"), P: REJECT}),
    Tree("podman-drop-in", "podman", {"/etc/containers/registries.conf.d/a.conf": LED, P: REJECT}, versions={"podman": "5.4.2"}),
    Tree(
        "podman-vendor-file",
        "podman",
        {
            "/usr/share/containers/registries.conf": "unqualified-search-registries = []\n",
            "/etc/containers/registries.conf.d/a.conf": LED,
            P: REJECT,
        },
        versions={"podman": "6.0.0"},
    ),
    Tree(
        "podman-port",
        "podman",
        {R: f'[[registry]]\nprefix = "reg.example:5000"\nlocation = "{HOST}/reg.example__5000"\n', P: REJECT},
        registries=("reg.example:5000",),
    ),
    Tree(
        "podman-bare-proxy-for-its-default",
        "podman",
        {R: f'[[registry]]\nprefix = "docker.io"\nlocation = "{HOST}"\n', P: REJECT},
    ),
    Tree("k3s", "k3s", {K: MIRRORS, KC: NO_DEFAULT, KG: f'server = "{PROXY}/v2"\n'}),
    Tree("k3s-all", "k3s", {K: MIRRORS.replace("docker.io", '"*"'), KC: NO_DEFAULT}),
    Tree(
        "k3s-by-flag",
        "k3s",
        {
            K: MIRRORS,
            "/etc/systemd/system/k3s.service": "[Service]\nExecStart=k3s \\\n  agent \\\n --disable-default-registry-endpoint\n",
        },
    ),
    Tree("talos-old", "talos", {T: TALOS_OLD + "        skipFallback: true\n"}),
    Tree("talos-new", "talos", {T: "version: v1alpha1\n" + TALOS_NEW.replace("docker.io", "'*'") + "skipFallback: true\n"}),
)
