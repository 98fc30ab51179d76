"""What the newer clients document about their files, as JSON Schemas that know every key and allow no other.

Written from the documentation of containerd 2.x (hosts.toml, config.toml version 3), Docker 28 (daemon.json), containers-image
(registries.conf, policy.json), BuildKit (buildkitd.toml, source policies), k3s (registries.yaml) and Talos (machine
configuration 1.9 and 1.12), Kubernetes (NetworkPolicy). Parts that a registry has nothing to do with are open.
"""

from __future__ import annotations

from typing import Any

import jsonschema

Schema = dict[str, Any]
_ANY: Schema = {}
_TEXT: Schema = {"type": "string", "minLength": 1}
_STRING: Schema = {"type": "string"}
_OBJECT: Schema = {"type": "object"}
_FLAG: Schema = {"type": "boolean"}
_NUMBER: Schema = {"type": "integer"}
_URL: Schema = {"type": "string", "pattern": r"^https?://[a-z0-9.\[\]:-]+(/[A-Za-z0-9._/-]*)?$"}


def _list(item: Schema, least: int = 0) -> Schema:
    return {"type": "array", "items": item, "minItems": least}


def _table(keys: dict[str, Schema], required: tuple[str, ...] = ()) -> Schema:
    return {"type": "object", "properties": keys, "additionalProperties": False, "required": list(required)}


def _named(value: Schema, key: str = ".") -> Schema:
    return {"type": "object", "patternProperties": {key: value}, "additionalProperties": False}


_STRINGS = {"anyOf": [_TEXT, _list(_TEXT)]}
_HOST: dict[str, Schema] = {
    "capabilities": _list({"enum": ["pull", "resolve", "push"]}, 1),
    "ca": _STRINGS,
    "client": {"anyOf": [_TEXT, _list({"anyOf": [_TEXT, _list({"type": "string"}, 2)]})]},
    "skip_verify": _FLAG,
    "header": _named(_STRINGS),
    "override_path": _FLAG,
    "dial_timeout": _TEXT,
    "proxy": _URL,
}
HOSTS_TOML = _table({"server": _URL, **_HOST, "host": _named(_table(_HOST), r"^https?://")}, ("server", "capabilities", "host"))

_REGISTRY = _table({"config_path": _TEXT, "headers": _named(_ANY)})
_IMAGES = _table(
    {
        "registry": _REGISTRY,
        **dict.fromkeys(("snapshotter", "image_pull_progress_timeout"), _TEXT),
        **dict.fromkeys(("max_concurrent_downloads", "stats_collect_period", "max_concurrent_unpacks"), _NUMBER),
        **dict.fromkeys(("disable_snapshot_annotations", "discard_unpacked_layers", "use_local_image_pull"), _FLAG),
        **dict.fromkeys(("pinned_images", "image_decryption", "runtime_platforms"), _named(_ANY)),
    }
)
_CONTAINERD_TABLES = ("grpc", "ttrpc", "debug", "metrics", "cgroup", "proxy_plugins", "timeouts", "stream_processors")


def _containerd(version: int, plugin: str, settings: Schema) -> Schema:
    plugins = {"type": "object", "properties": {plugin: settings}, "patternProperties": {r"^io\.containerd\.": _ANY}}
    keys: dict[str, Schema] = {
        "version": {"const": version},
        "plugins": {**plugins, "additionalProperties": False},
        **dict.fromkeys(("root", "state", "temp", "plugin_dir"), _TEXT),
        **dict.fromkeys(("disabled_plugins", "required_plugins", "imports"), _list(_TEXT)),
        **dict.fromkeys(_CONTAINERD_TABLES, _ANY),
        "oom_score": _NUMBER,
    }
    return _table(keys, ("version", "plugins"))


#: containerd 2.x: version 3. The CRI plugin is split, and its images have a plugin of their own.
CONFIG_3 = _containerd(3, "io.containerd.cri.v1.images", _IMAGES)
#: containerd 1.x, read and migrated by 2.x.
CONFIG_2 = _containerd(2, "io.containerd.grpc.v1.cri", {"type": "object", "properties": {"registry": _REGISTRY}})

_DOCKER_FLAGS = (
    *("allow-direct-routing", "debug", "experimental", "icc", "init", "ip-forward", "ip-forward-no-drop", "ip-masq", "iptables"),
    *("ip6tables", "ipv6", "live-restore", "no-new-privileges", "raw-logs", "selinux-enabled", "tls", "tlsverify"),
    *("userland-proxy", "bridge-accept-fwmark", "validate"),
)
_DOCKER_WORDS = (
    *("api-cors-header", "bip", "bip6", "bridge", "cgroup-parent", "containerd", "containerd-namespace", "data-root"),
    *("containerd-plugin-namespace", "default-cgroupns-mode", "default-gateway", "default-gateway-v6", "default-ipc-mode"),
    *(
        "default-runtime",
        "default-shm-size",
        "exec-root",
        "firewall-backend",
        "fixed-cidr",
        "fixed-cidr-v6",
        "group",
        "init-path",
    ),
    *("ip", "log-driver", "log-format", "log-level", "metrics-addr", "min-api-version", "pidfile", "seccomp-profile"),
    *("storage-driver", "swarm-default-advertise-addr", "tlscacert", "tlscert", "tlskey", "userland-proxy-path", "userns-remap"),
)
_DOCKER_LISTS = (
    *("authorization-plugins", "cdi-spec-dirs", "dns", "dns-opts", "dns-search", "exec-opts", "host-gateway-ips", "hosts"),
    *("insecure-registries", "labels", "node-generic-resources", "registry-mirrors", "storage-opts"),
)
_DOCKER_NUMBERS = (
    *("max-concurrent-downloads", "max-concurrent-uploads", "max-download-attempts", "mtu", "network-control-plane-mtu"),
    *("oom-score-adjust", "shutdown-timeout"),
)
_DOCKER_TABLES = ("builder", "default-network-opts", "default-ulimits", "log-opts", "proxies", "runtimes")
DAEMON_JSON = _table(
    {
        **dict.fromkeys(_DOCKER_FLAGS, _FLAG),
        **dict.fromkeys(_DOCKER_WORDS, _STRING),
        **dict.fromkeys(_DOCKER_LISTS, _list(_TEXT)),
        **dict.fromkeys(_DOCKER_NUMBERS, _NUMBER),
        **dict.fromkeys(_DOCKER_TABLES, _OBJECT),
        "default-address-pools": _list({"type": "object"}),
        "features": _named(_FLAG),
    }
)

#: ``mirror`` is part of the format, but not of anything that fails closed.
REGISTRIES_CONF = _table(
    {
        "unqualified-search-registries": _list(_TEXT),
        "short-name-mode": {"enum": ["enforcing", "permissive", "disabled"]},
        "credential-helpers": _list(_TEXT),
        "aliases": _named(_TEXT),
        "registry": _list(
            _table({"prefix": _TEXT, "location": _TEXT, "insecure": _FLAG, "blocked": _FLAG}, ("prefix", "location"))
        ),
    }
)
_REQUIREMENTS = _list(_table({"type": {"enum": ["insecureAcceptAnything", "reject"]}}, ("type",)), 1)
POLICY_JSON = _table({"default": _REQUIREMENTS, "transports": _named(_named(_REQUIREMENTS))}, ("default",))

_BUILDKIT_REGISTRY = _table(
    {
        "mirrors": _list(_TEXT),
        "http": _FLAG,
        "insecure": _FLAG,
        "ca": _list(_TEXT),
        "keypair": _list(_ANY),
        "tlsconfigdir": _list(_TEXT),
    }
)
BUILDKITD_TOML = _table(
    {
        "registry": _named(_BUILDKIT_REGISTRY),
        **dict.fromkeys(("root",), _TEXT),
        **dict.fromkeys(("debug", "trace"), _FLAG),
        **dict.fromkeys(("insecure-entitlements",), _list(_TEXT)),
        **dict.fromkeys(("log", "dns", "grpc", "otel", "cdi", "history", "worker", "frontend", "system", "ghacache"), _ANY),
    }
)
_IDENTIFIER = {"type": "string", "pattern": r"^docker-image://[^\s]+$"}
_SELECTOR = _table({"identifier": _IDENTIFIER, "matchType": {"enum": ["WILDCARD", "EXACT", "REGEX"]}}, ("identifier",))
_JUDGING = _table({"action": {"enum": ["ALLOW", "DENY"]}, "selector": _SELECTOR}, ("action", "selector"))
_CONVERTING = _table(
    {"action": {"const": "CONVERT"}, "selector": _SELECTOR, "updates": _table({"identifier": _IDENTIFIER}, ("identifier",))},
    ("action", "selector", "updates"),
)
SOURCE_POLICY = _table({"version": _NUMBER, "rules": _list({"oneOf": [_JUDGING, _CONVERTING]}, 1)}, ("rules",))

_K3S_MIRROR = _table({"endpoint": _list(_URL, 1), "rewrite": _named(_TEXT)}, ("endpoint",))
_K3S_TLS = _table({"ca_file": _TEXT, "cert_file": _TEXT, "key_file": _TEXT, "insecure_skip_verify": _FLAG})
K3S_REGISTRIES = _table(
    {"mirrors": _named(_K3S_MIRROR), "configs": _named(_table({"auth": _ANY, "tls": _K3S_TLS}))}, ("mirrors",)
)
#: The one key that is written; a misspelt one would be an unknown flag, and k3s would not start.
K3S_CONFIG = _table({"disable-default-registry-endpoint": _FLAG}, ("disable-default-registry-endpoint",))

_TALOS_MIRROR = _table({"endpoints": _list(_URL, 1), "overridePath": _FLAG, "skipFallback": _FLAG}, ("endpoints",))
_TALOS_TLS = _table(
    {"ca": {"type": "string", "pattern": "^[A-Za-z0-9+/]+=*$"}, "clientIdentity": _ANY, "insecureSkipVerify": _FLAG}
)
_TALOS_REGISTRIES = _table({"mirrors": _named(_TALOS_MIRROR), "config": _named(_table({"tls": _TALOS_TLS, "auth": _ANY}))})
TALOS_MACHINE = _table({"machine": _table({"registries": _TALOS_REGISTRIES}, ("registries",))}, ("machine",))
_DOCUMENT = {"apiVersion": {"const": "v1alpha1"}, "name": _TEXT}
TALOS_DOCUMENTS: Schema = {
    "oneOf": [
        _table(
            {
                **_DOCUMENT,
                "kind": {"const": "RegistryMirrorConfig"},
                "endpoints": _list(_table({"url": _URL, "overridePath": _FLAG}, ("url",)), 1),
                "skipFallback": _FLAG,
            },
            ("apiVersion", "kind", "name", "endpoints"),
        ),
        _table(
            {
                **_DOCUMENT,
                "kind": {"const": "RegistryTLSConfig"},
                "ca": {"type": "string", "pattern": "^-----BEGIN CERTIFICATE-----\n"},
                "clientIdentity": _ANY,
                "insecureSkipVerify": _FLAG,
            },
            ("apiVersion", "kind", "name"),
        ),
    ]
}

_LABELS = _table({"matchLabels": _named(_TEXT), "matchExpressions": _list(_ANY)})
_PEER = _table({"ipBlock": _table({"cidr": _TEXT, "except": _list(_TEXT)}), "namespaceSelector": _LABELS, "podSelector": _LABELS})
_PORT = _table({"protocol": {"enum": ["TCP", "UDP", "SCTP"]}, "port": {"type": ["integer", "string"]}, "endPort": _NUMBER})
_EGRESS = _list(_table({"to": _list(_PEER, 1), "ports": _list(_PORT)}, ("to",)))
NETWORK_POLICY = _table(
    {
        "apiVersion": {"const": "networking.k8s.io/v1"},
        "kind": {"const": "NetworkPolicy"},
        "metadata": _table({"name": _TEXT, "namespace": _TEXT}, ("name",)),
        "spec": _table({"podSelector": _LABELS, "policyTypes": _list({"enum": ["Egress", "Ingress"]}), "egress": _EGRESS}),
    },
    ("apiVersion", "kind", "metadata", "spec"),
)


def check(document: object, grammar: Schema) -> None:
    """Raise jsonschema.ValidationError where the document is none of the grammar."""
    jsonschema.Draft202012Validator(grammar).validate(document)
