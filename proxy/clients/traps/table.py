"""Every trap that ``tagstone doctor`` knows: what it is called, what happens, and how it is mended.

This table is the documentation: :mod:`proxy.clients.traps.page` writes it into docs/clients/doctor.md, and a test compares. An
examiner (a module beside this one) finds a trap in files; what it found is a :class:`Finding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Effect(StrEnum):
    """What a trap does to a refusal, or to a pull."""

    OPEN = "open"  #: the client goes around the proxy: a refusal is worth nothing
    BROKEN = "broken"  #: nothing gets around, but pulls fail
    ADVICE = "advice"  #: it holds as it stands; it could hold better


@dataclass(frozen=True, slots=True)
class Trap:
    """One entry of the table. Texts are whole sentences, for the person who runs the node."""

    id: str
    client: str
    effect: Effect
    title: str
    happens: str
    mend: str


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """A trap in a file of this node; ``line`` is 0 where the file as a whole, or its absence, is meant."""

    file: str
    line: int
    id: str
    what: str

    @property
    def trap(self) -> Trap:
        """The entry of the table."""
        return TRAPS[self.id]


_O, _B, _A = Effect.OPEN, Effect.BROKEN, Effect.ADVICE
_FORM = '`server = "URL"`, `capabilities = ["pull", "resolve"]` and an empty `[host]` table'

_ENTRIES = (
    # -- containerd and what reads its hosts.toml
    Trap(
        "containerd-no-host-table",
        "containerd",
        _O,
        "hosts.toml without a `[host]` table (containerd 1.x)",
        "The file does not decode (“invalid `host` tree”); the mirror is never asked and every pull goes to the upstream.",
        "Add a line `[host]` at the end of the file.",
    ),
    Trap(
        "containerd-undecodable",
        "containerd",
        _O,
        "hosts.toml that does not decode",
        "containerd logs it once and goes on without the file: every pull goes to the upstream, on every version.",
        f"Write the file anew: {_FORM}.",
    ),
    Trap(
        "containerd-referrers",
        "containerd",
        _O,
        "Capability `referrers` in hosts.toml (containerd up to 2.1)",
        "These versions do not know the word, so the file does not decode and every pull goes to the upstream.",
        'Write `capabilities = ["pull", "resolve"]`.',
    ),
    Trap(
        "containerd-no-server",
        "containerd",
        _O,
        "hosts.toml without `server`",
        "containerd puts the upstream itself at the end of the list: what the proxy refuses comes from there.",
        'Add `server = "URL of the proxy"` before the first table.',
    ),
    Trap(
        "containerd-server-elsewhere",
        "containerd",
        _O,
        "`server` in hosts.toml names something else than the proxy",
        "It is asked after the hosts of the file: what the proxy refuses comes from there.",
        'Write `server = "URL of the proxy"`.',
    ),
    Trap(
        "containerd-other-host",
        "containerd",
        _O,
        "A `[host]` in hosts.toml that is not the proxy",
        "It is asked as well: what one of them refuses comes from the other.",
        "Remove the table of that host.",
    ),
    Trap(
        "containerd-pull-only",
        "containerd",
        _O,
        "The proxy may not resolve tags (`capabilities` without `resolve`)",
        "The upstream says what a tag names, and the proxy is asked for that digest only: pins mean nothing.",
        'Write `capabilities = ["pull", "resolve"]`, and the proxy as `server`.',
    ),
    Trap(
        "containerd-empty-directory",
        "containerd",
        _O,
        "A folder in certs.d without a hosts.toml, or with an empty one",
        "The folder alone decides: `_default` is not looked at, and every pull of this registry goes to the upstream.",
        "Remove the folder, or put a hosts.toml into it.",
    ),
    Trap(
        "containerd-uncovered",
        "containerd",
        _O,
        "A registry without a folder in certs.d",
        "containerd asks it directly.",
        "Write `certs.d/REGISTRY/hosts.toml` (a port as `host_5000_`), or `_default/hosts.toml` for all others.",
    ),
    Trap(
        "containerd-path",
        "containerd",
        _B,
        "The path of the proxy's URL in hosts.toml leads nowhere",
        "containerd appends `/v2` to a path unless `override_path` is set; the proxy answers 404, and every pull fails (or goes "
        "to the upstream where the file has another trap).",
        "Name the proxy without a path: the registry comes in the request.",
    ),
    Trap(
        "containerd-no-config-path",
        "containerd",
        _O,
        "CRI without `config_path`",
        "The kubelet's pulls read no hosts.toml at all: every one of them goes to the upstream.",
        'Set `config_path = "/etc/containerd/certs.d"` in the `registry` table of the CRI plugin and restart containerd.',
    ),
    Trap(
        "containerd-wrong-section",
        "containerd",
        _O,
        "`config_path` in a section that this version of the file does not have",
        "containerd ignores it: the kubelet's pulls read no hosts.toml, and every one of them goes to the upstream.",
        '`version = 3`: `[plugins."io.containerd.cri.v1.images".registry]`; `version = 2`: '
        '`[plugins."io.containerd.grpc.v1.cri".registry]`; without `version` (1.x): `[plugins.cri.registry]`.',
    ),
    Trap(
        "containerd-path-list",
        "containerd",
        _O,
        "`config_path` with several folders (containerd 2.1 and later)",
        "The transfer service, which these versions pull with, takes the list for the name of one folder, which does not exist: "
        "every pull goes to the upstream. It is also the default of containerd 2.2.",
        'Name one folder: `config_path = "/etc/containerd/certs.d"`.',
    ),
    Trap(
        "containerd-import-replaces",
        "containerd",
        _O,
        "An imported file takes `config_path` away (containerd 1.x)",
        "Imports replace the section of a plugin as a whole: one that sets a runtime of the CRI plugin drops its `registry`.",
        "Repeat the `registry` table in the imported file that is read last.",
    ),
    Trap(
        "containerd-registry-mirrors",
        "containerd",
        _O,
        "`registry.mirrors` in config.toml",
        "The upstream is always asked after the endpoints: what the proxy refuses comes from there.",
        "Remove the table and use `config_path` with a hosts.toml. (Both together keep the CRI plugin from starting.)",
    ),
    Trap(
        "containerd-config-undecodable",
        "containerd",
        _B,
        "config.toml that does not decode",
        "containerd does not start with it.",
        "Mend the file; `containerd config dump` shows what it means.",
    ),
    Trap(
        "ctr-hosts-dir",
        "containerd",
        _O,
        "`ctr` pulls without `--hosts-dir`",
        "ctr reads no mirror configuration of its own accord: it asks the upstream.",
        "Add `--hosts-dir /etc/containerd/certs.d`.",
    ),
    Trap(
        "nerdctl-hosts-dir",
        "containerd",
        _O,
        "`hosts_dir` in nerdctl.toml leads elsewhere",
        "nerdctl does not read the hosts.toml of containerd: it asks the upstream.",
        'Write `hosts_dir = ["/etc/containerd/certs.d"]`, or remove the key.',
    ),
    # -- docker
    Trap(
        "docker-registry-mirrors",
        "docker",
        _O,
        "`registry-mirrors` of dockerd",
        "What the mirror refuses, or does not send whole, dockerd asks Docker Hub for, on every version and with both stores.",
        "Remove it. Use prefix names (`PROXY/docker.io/library/nginx`) and block the way out; or, from docker 28 with the "
        "containerd store, /etc/docker/certs.d/docker.io/hosts.toml.",
    ),
    Trap(
        "docker-unmirrored",
        "docker",
        _O,
        "Nothing leads plain names to the proxy",
        "`docker pull nginx` asks Docker Hub; only names with the proxy in front (`PROXY/docker.io/…`) go through it. With the "
        "graph store no file can change that.",
        "Block the way out for dockerd, and use prefix names; or docker 28 with the containerd store "
        '(`"features": {"containerd-snapshotter": true}`) and /etc/docker/certs.d/REGISTRY/hosts.toml.',
    ),
    Trap(
        "docker-hosts-ignored",
        "docker",
        _O,
        "A hosts.toml that dockerd does not read",
        "Before docker 28, and with the graph store, `docker pull` ignores /etc/docker/certs.d/REGISTRY/hosts.toml: every pull "
        "goes to the upstream. (From 28 `docker build` heeds it with either store.)",
        'Docker 28 or later with `"features": {"containerd-snapshotter": true}`; else prefix names.',
    ),
    Trap(
        "docker-undecodable",
        "docker",
        _B,
        "daemon.json that does not decode",
        "dockerd does not start with it.",
        "Mend the file; `dockerd --validate` checks it.",
    ),
    Trap(
        "docker-plain-http",
        "docker",
        _B,
        "Plain HTTP, and the proxy is not among `insecure-registries`",
        "Prefix names fail (“server gave HTTP response to HTTPS client”), and a mirror is passed over.",
        "Give the proxy a certificate, or name its HOST:PORT in `insecure-registries`.",
    ),
    # -- BuildKit
    Trap(
        "buildkit-mirror",
        "buildkit",
        _O,
        "`mirrors` in buildkitd.toml",
        "BuildKit always puts the registry itself at the end of the list: what the proxy refuses comes from there.",
        "There is no switch. Use prefix names in FROM, a source policy, or block the way out.",
    ),
    Trap(
        "buildkit-undecodable",
        "buildkit",
        _B,
        "buildkitd.toml that does not decode",
        "buildkitd does not start with it.",
        "Mend the file.",
    ),
    Trap(
        "buildkit-plain-http",
        "buildkit",
        _B,
        "Plain HTTP, and buildkitd.toml does not say so",
        "Prefix names fail, and a mirror is passed over.",
        'Give the proxy a certificate, or add `[registry."HOST:PORT"]` with `http = true`.',
    ),
    # -- podman, CRI-O, buildah, skopeo
    Trap(
        "podman-mirror-falls-back",
        "podman",
        _O,
        "A `[[registry.mirror]]` beside an upstream that may be asked",
        "When the mirror fails or refuses in any way, the upstream is asked.",
        '`location = "PROXY/REGISTRY"` without a mirror table; or `blocked = true` beside it.',
    ),
    Trap(
        "podman-digest-only",
        "podman",
        _O,
        "A mirror for digests only (`mirror-by-digest-only`, `pull-from-mirror`)",
        "Tags go straight to the upstream, and the proxy is asked for the digest that came out: pins mean nothing.",
        'Remove the key; better, `location = "PROXY/REGISTRY"` without a mirror table.',
    ),
    Trap(
        "podman-other-mirror",
        "podman",
        _O,
        "A mirror that is not the proxy",
        "It is asked as well: what one of them refuses comes from the other.",
        "Remove that `[[registry.mirror]]`.",
    ),
    Trap(
        "podman-uncovered",
        "podman",
        _O,
        "A registry that registries.conf does not lead to the proxy",
        "podman and CRI-O ask it directly.",
        'Add `[[registry]]` with `prefix = "REGISTRY"` and `location = "PROXY/REGISTRY"`.',
    ),
    Trap(
        "podman-narrower-prefix",
        "podman",
        _O,
        "A `[[registry]]` with a longer prefix leads elsewhere",
        "The longest prefix wins: these images do not come through the proxy.",
        "Remove it, or give it the same `location` with its path.",
    ),
    Trap(
        "podman-no-registry-in-path",
        "podman",
        _O,
        "The proxy is named without the registry in its path",
        "podman does not tell the proxy which registry it means, so the proxy takes its default registry: another image than was "
        "named.",
        '`location = "PROXY/REGISTRY"`, for instance `proxy:5000/ghcr.io`.',
    ),
    Trap(
        "podman-port-in-path",
        "podman",
        _B,
        "A registry with a port in the path of the proxy",
        "No image name has a colon there (“invalid reference format”): the proxy is not asked, and the upstream is where a "
        "mirror table leaves it open.",
        'Write the colon as two underscores: `location = "PROXY/HOST__PORT"`.',
    ),
    Trap(
        "podman-plain-http",
        "podman",
        _B,
        "Plain HTTP without `insecure = true`",
        "The proxy is not reached; a mirror is passed over, and the upstream is asked where it is not blocked.",
        "Give the proxy a certificate, or set `insecure = true` beside its location.",
    ),
    Trap(
        "podman-user-file",
        "podman",
        _O,
        "A user's own registries.conf",
        "It stands instead of the system's, drop-ins included: this user's pulls do not come through the proxy.",
        "Remove it, or write the same `[[registry]]` tables into it.",
    ),
    Trap(
        "podman-search-elsewhere",
        "podman",
        _O,
        "Short names are also sought where the proxy is not",
        "`podman pull nginx` tries one registry of `unqualified-search-registries` after the other: what the proxy refuses may "
        "come from the next.",
        "Name only registries that are led to the proxy, or `unqualified-search-registries = []`.",
    ),
    Trap(
        "podman-alias-elsewhere",
        "podman",
        _A,
        "Short names that stand for registries which are not led to the proxy",
        "`podman pull NAME` asks those registries directly.",
        "Lead them to the proxy, set policy.json to `reject` by default, or remove the aliases.",
    ),
    Trap(
        "podman-old-format",
        "podman",
        _O,
        "registries.conf of the old format (`[registries.search]`)",
        "It knows no mirrors and no locations: every registry is asked directly. Beside `[[registry]]` tables it is refused.",
        "Rewrite it: `unqualified-search-registries = […]` and `[[registry]]` tables.",
    ),
    Trap(
        "podman-undecodable",
        "podman",
        _B,
        "registries.conf that does not decode",
        "podman and CRI-O refuse every pull.",
        "Mend the file.",
    ),
    Trap(
        "podman-policy-accepts",
        "podman",
        _A,
        "policy.json accepts what it does not know",
        "Images of registries that nothing leads to the proxy are pulled from wherever they are.",
        '`"default": [{"type": "reject"}]`, and under `transports.docker` the registries that are led to the proxy.',
    ),
    Trap(
        "podman-policy-undecodable",
        "podman",
        _B,
        "policy.json that does not decode, or has no `default`",
        "podman and CRI-O refuse every pull.",
        "Mend the file.",
    ),
    # -- k3s, RKE2, Talos
    Trap(
        "k3s-default-endpoint",
        "k3s",
        _O,
        "Mirrors without `disable-default-registry-endpoint`",
        "k3s and RKE2 put the upstream at the end of the list: what the proxy refuses comes from there.",
        "`disable-default-registry-endpoint: true` in config.yaml of every node, and restart.",
    ),
    Trap(
        "k3s-configs-entry",
        "k3s",
        _O,
        "An entry under `configs` for a registry that is mirrored",
        "It keeps the upstream at the end of the list, in spite of `disable-default-registry-endpoint`.",
        "Remove the entry; what the proxy needs (TLS, login) stands under the proxy's own name.",
    ),
    Trap(
        "k3s-other-endpoint",
        "k3s",
        _O,
        "An endpoint in registries.yaml that is not the proxy",
        "It is asked as well: what one of them refuses comes from the other.",
        "Remove it.",
    ),
    Trap(
        "k3s-uncovered",
        "k3s",
        _O,
        "A registry that registries.yaml does not lead to the proxy",
        "It is asked directly.",
        'Add it under `mirrors`, or `"*"` for all.',
    ),
    Trap(
        "k3s-undecodable",
        "k3s",
        _B,
        "registries.yaml or config.yaml that does not decode",
        "k3s and RKE2 do not start with it.",
        "Mend the file.",
    ),
    Trap(
        "k3s-not-restarted",
        "k3s",
        _O,
        "The hosts.toml that k3s generated is older than its settings",
        "It still names the upstream as `server`, whatever registries.yaml and config.yaml say: what the proxy refuses comes "
        "from there.",
        "Restart k3s or RKE2 on this node.",
    ),
    Trap(
        "talos-fallback",
        "talos",
        _O,
        "A mirror without `skipFallback`",
        "What the proxy refuses comes from the upstream.",
        "`skipFallback: true` in the mirror.",
    ),
    Trap(
        "talos-other-endpoint",
        "talos",
        _O,
        "An endpoint of a mirror that is not the proxy",
        "It is asked as well: what one of them refuses comes from the other.",
        "Remove it.",
    ),
    Trap(
        "talos-uncovered",
        "talos",
        _O,
        "A registry that the machine configuration does not lead to the proxy",
        "It is asked directly.",
        "Add a mirror for it, or `*` for all.",
    ),
    Trap(
        "talos-undecodable",
        "talos",
        _B,
        "A machine configuration that does not decode",
        "Talos does not take it.",
        "Mend the file; `talosctl validate` checks it.",
    ),
    # -- all
    Trap(
        "wrong-scheme",
        "any",
        _B,
        "`http` for `https`, or the other way round",
        "The proxy is not reached under this URL: every pull fails (or goes to the upstream where the file has another trap).",
        "Name the proxy as it is.",
    ),
    Trap(
        "unproven-proxy",
        "any",
        _A,
        "The proxy need not prove who it is",
        "Over plain HTTP, or without a check of its certificate, whoever is on the way to it can answer in its place.",
        "Give the proxy a certificate that the node trusts (`ca = …`, certs.d), and take the exception out.",
    ),
)
TRAPS: Final = MappingProxyType({trap.id: trap for trap in _ENTRIES})
