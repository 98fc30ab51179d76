"""Image configs, read for what they make of a container (OCI image specification 1.1, "Image Configuration"; Docker's own).

Nothing is served or refused by what is read here; it is only told. So a config is read as clients read it: keys in whatever
case, as Go's JSON does, a text where a list of texts may stand. What could be read in two ways is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType

from proxy.errors import ConfigMalformed, ManifestRefused
from proxy.manifest import strict_json

#: Bytes of the largest config that is read. True ones have a few thousand; buildpacks put some hundred thousand into labels.
MAX_CONFIG = 4 << 20
#: Most lines of history, and most layers; clients stop at 127 layers.
MAX_HISTORY = 2000
#: Most entries of any other list or mapping.
MAX_ENTRIES = 10_000
CONFIG_TYPES = frozenset({"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"})

_DEPTH = 32
_TOP = ("created", "author", "architecture", "os", "variant", "config", "rootfs", "history")
_RUN = (
    "Entrypoint",
    "Cmd",
    "User",
    "ExposedPorts",
    "Env",
    "WorkingDir",
    "Volumes",
    "Labels",
    "StopSignal",
    "Healthcheck",
    "Shell",
    "OnBuild",
)
_STEP = ("created", "created_by", "author", "comment", "empty_layer")
_ROOTFS = ("type", "diff_ids")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,31}", re.ASCII)
#: Other names of architectures, with the variant that they mean; None: whichever is said.
_ALIASES: Mapping[str, tuple[str, str | None]] = {
    "x86_64": ("amd64", None),
    "x86-64": ("amd64", None),
    "aarch64": ("arm64", None),
    "i386": ("386", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
}
_IMPLIED = {"arm64": "v8", "amd64": "v1"}
#: Fractions of seconds are written with up to nine digits; Python reads six.
_FRACTION = re.compile(r"(\.\d{6})\d+")
#: Dates before this are no dates: reproducible builds write the epoch, or the first day that a ZIP file knows.
_FIRST_DAY = datetime(1980, 1, 2, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Step:
    """One line of an image's history: what the image says that made a layer, or only changed the config."""

    created: datetime | None
    command: str
    empty: bool  #: it made no layer


@dataclass(frozen=True, slots=True)
class Config:
    """What an image's config says. All of it is the publisher's word; texts are as they came, not yet fit to be shown."""

    platform: str  #: ``linux/amd64``; empty where it says none
    created: datetime | None  #: None also for the dates that reproducible builds write
    author: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    user: str = ""
    ports: tuple[str, ...] = ()  #: sorted
    environment: tuple[tuple[str, str], ...] = ()  #: in its order; a name may come twice
    working_dir: str = ""
    volumes: tuple[str, ...] = ()  #: sorted
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    healthcheck: str = ""  #: as JSON with sorted keys
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
    diff_ids: tuple[str, ...] = ()
    history: tuple[Step, ...] = ()

    @property
    def root(self) -> bool:
        """Whether its processes begin as root."""
        return self.user.partition(":")[0].strip() in {"", "root"} or bool(re.fullmatch(r"0+", self.user.partition(":")[0]))

    @property
    def newest(self) -> datetime | None:
        """The newest date in its history."""
        return max((step.created for step in self.history if step.created is not None), default=None)

    def commands(self, layers: int) -> tuple[str, ...] | None:
        """What made each of ``layers`` layers; None where the history does not say it of as many."""
        made = tuple(step.command for step in self.history if not step.empty)
        return made if len(made) == layers else None


def platform(os: str, architecture: str, variant: str = "") -> str:
    """One spelling for one platform, as clients read it (containerd's ``platforms.Normalize``).

    Names of the same architecture are one, and variants that are meant without being named are left out, or named (arm is v7).
    Empty where it is not said in plain words.
    """
    if not (_PLAIN.fullmatch(os) and _PLAIN.fullmatch(architecture) and (not variant or _PLAIN.fullmatch(variant))):
        return ""
    os, architecture, variant = os.lower(), architecture.lower(), variant.lower()
    os = "darwin" if os == "macos" else os
    architecture, meant = _ALIASES.get(architecture, (architecture, None))
    variant = variant if meant is None else meant
    variant = f"v{variant}" if variant.isdecimal() else variant
    if architecture == "arm":
        variant = variant or "v7"
    elif variant == _IMPLIED.get(architecture):
        variant = ""
    return f"{os}/{architecture}" + (f"/{variant}" if variant else "")


def canonical(text: str) -> str:
    """The same for ``os/architecture[/variant]``, as an index says it; empty stays empty."""
    os, _, rest = text.partition("/")
    architecture, _, variant = rest.partition("/")
    return platform(os, architecture, variant)


def read_config(body: bytes) -> Config:
    """Read an image's config. Raises :class:`ConfigMalformed` with a text that continues "its config …"."""
    if len(body) > MAX_CONFIG:
        raise ConfigMalformed(f"has {len(body)} bytes; at most {MAX_CONFIG} are read")
    try:
        document = strict_json(body, _DEPTH)
    except ManifestRefused as error:
        raise ConfigMalformed(f"cannot be read: {error}") from error
    top = _members(document, _TOP, "the config")
    run = _members({} if top.get("config") is None else top["config"], _RUN, "its member config")
    rootfs = _members({} if top.get("rootfs") is None else top["rootfs"], _ROOTFS, "its member rootfs")
    named = [_text(top, key) for key in ("os", "architecture", "variant")]
    check = run.get("Healthcheck")
    if check is not None and not isinstance(check, dict):
        raise ConfigMalformed("has a health check that is no object")
    return Config(
        platform(*named),
        _date(top.get("created")),
        _text(top, "author"),
        _texts(run, "Entrypoint"),
        _texts(run, "Cmd"),
        _text(run, "User"),
        _set(run, "ExposedPorts"),
        tuple(_assigned(each) for each in _texts(run, "Env")),
        _text(run, "WorkingDir"),
        _set(run, "Volumes"),
        _labels(run),
        _text(run, "StopSignal"),
        json.dumps(check, sort_keys=True, ensure_ascii=False) if check else "",
        _texts(run, "Shell"),
        _texts(run, "OnBuild"),
        _texts(rootfs, "diff_ids", MAX_HISTORY),
        tuple(_step(each) for each in _list(top, "history", MAX_HISTORY)),
    )


@lru_cache
def _folded(names: tuple[str, ...]) -> Mapping[str, str]:
    return MappingProxyType({name.casefold(): name for name in names})


def _members(node: object, names: tuple[str, ...], where: str) -> Mapping[str, object]:
    """Those of ``names`` that ``node`` has in whatever case: so they are read by clients written in Go."""
    if not isinstance(node, dict):
        raise ConfigMalformed(f"is broken: {where} is no object")
    known, found = _folded(names), dict[str, object]()
    for key, value in node.items():
        if (name := known.get(key.casefold())) is None:
            continue
        if name in found:
            raise ConfigMalformed(f"has {name} in two spellings, and would be read in two ways")
        found[name] = value
    return found


def _text(node: Mapping[str, object], key: str) -> str:
    value = node.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigMalformed(f"has a {key} that is no text")
    return value


def _list(node: Mapping[str, object], key: str, most: int = MAX_ENTRIES) -> Sequence[object]:
    value = node.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ConfigMalformed(f"has a {key} that is no list")
    if len(value) > most:
        raise ConfigMalformed(f"has {len(value)} entries in {key}; at most {most} are read")
    return value


def _texts(node: Mapping[str, object], key: str, most: int = MAX_ENTRIES) -> tuple[str, ...]:
    value = node.get(key)
    if isinstance(value, str):  # Docker reads a lone text as a list of one
        return (value,)
    found = _list(node, key, most)
    texts = tuple(each for each in found if isinstance(each, str))
    if len(texts) != len(found):
        raise ConfigMalformed(f"has a {key} that is no list of texts")
    return texts


def _set(node: Mapping[str, object], key: str) -> tuple[str, ...]:
    """The keys of an object that stands for a set."""
    value = node.get(key)
    if value is None:
        return ()
    if not isinstance(value, dict) or len(value) > MAX_ENTRIES:
        raise ConfigMalformed(f"has a {key} that is no object, or a very large one")
    return tuple(sorted(value))


def _labels(node: Mapping[str, object]) -> Mapping[str, str]:
    value = node.get("Labels")
    if value is None:
        return MappingProxyType({})
    if not isinstance(value, dict) or not all(each is None or isinstance(each, str) for each in value.values()):
        raise ConfigMalformed("has Labels that are no texts by name")
    return MappingProxyType({name: text or "" for name, text in value.items()})


def _assigned(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _step(node: object) -> Step:
    members = _members(node, _STEP, "a line of its history")
    empty = members.get("empty_layer")
    if empty is not None and not isinstance(empty, bool):
        raise ConfigMalformed("has a line of history of which cannot be said whether it made a layer")
    return Step(_date(members.get("created")), _text(members, "created_by"), bool(empty))


def _date(value: object) -> datetime | None:
    """A moment (RFC 3339); None where there is none, or nothing that could be read as one."""
    if not isinstance(value, str) or len(value) > 64:
        return None
    try:
        moment = datetime.fromisoformat(_FRACTION.sub(r"\1", value))
        moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if moment >= _FIRST_DAY else None
