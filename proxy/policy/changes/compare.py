"""The classification: two snapshots in, a :class:`Change` out. Pure, and total: it never raises for what an image says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.policy import signers
from proxy.policy.changes import layers
from proxy.policy.changes.config import Config
from proxy.policy.changes.model import (
    MEANINGS,
    Change,
    Child,
    Difference,
    Image,
    Kind,
    Pair,
    PlatformChange,
    Side,
    Snapshot,
    ordered,
    pairs,
    severity_of,
    worst,
)
from proxy.policy.changes.provenance import Provenance, same_builder
from proxy.policy.changes.words import hide, plain, size, variable

#: It grew or shrank much: to half as much again, or from that, and by at least so many bytes (of packed layers).
RATIO = 1.5
LEAST = 1 << 20
#: Differences of one platform that are kept.
_SHOWN = 100
#: Entries of one list that are shown.
_MANY = 20
#: Lines for people that are kept.
_LINES = 40
_ELSEWHERE = "(differs where it is not shown)"

#: Variables by which a process can be made to run code that is not its own.
_LOADERS = frozenset(
    {
        "PATH",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LD_AUDIT",
        "BASH_ENV",
        "ENV",
        "PROMPT_COMMAND",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "PYTHONHOME",
        "NODE_OPTIONS",
        "NODE_PATH",
        "PERL5LIB",
        "PERL5OPT",
        "RUBYLIB",
        "RUBYOPT",
        "CLASSPATH",
        "JAVA_TOOL_OPTIONS",
        "_JAVA_OPTIONS",
        "JDK_JAVA_OPTIONS",
        "CATALINA_OPTS",
        "PHP_INI_SCAN_DIR",
        "GCONV_PATH",
    }
)


def classify(before: Snapshot, after: Snapshot, unknown: Sequence[str] = ()) -> Change:
    """How ``after`` differs from ``before``. ``unknown``: what could not be asked for yet, and why."""
    own = _Found()
    same_signer = _signers(before, after, own)
    _provenance(before, after, own)
    platforms: list[PlatformChange] = []
    found: list[tuple[str, _Found]] = [("", own)]
    same: list[str] = []
    for pair in pairs(before.children, after.children):
        if pair.same:
            same.append(pair.platform)
            continue
        one = _platform(pair)
        found.append((plain(pair.platform, 60), one))
        kinds = ordered(one.kinds, same_signer=same_signer)
        ends = [None if child is None else child.digest for child in (pair.before, pair.after)]
        told = layers.lines_of(*(None if child is None else child.image for child in (pair.before, pair.after)))
        platforms.append(PlatformChange(pair.platform, ends[0], ends[1], kinds, tuple(one.differences[:_SHOWN]), told))
    _whole(before, after, own, platforms)
    if unknown:
        own.add(Kind.NOT_KNOWN_YET, *unknown)
    every = {kind for _, one in found for kind in one.kinds}
    kinds = ordered(every, same_signer=same_signer)
    return Change(
        before.digest,
        after.digest,
        kinds,
        worst(severity_of(kind, same_signer=same_signer) for kind in kinds),
        _lines(kinds, found),
        tuple(own.differences[:_SHOWN]),
        tuple(platforms),
        tuple(dict.fromkeys(same)),
        tuple(unknown),
    )


@dataclass(slots=True)
class _Found:
    """What is found, while it is being collected: kinds, each with what there is to say of it, and what differs."""

    kinds: dict[Kind, list[str]] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    def add(self, kind: Kind, *told: str) -> None:
        """Note a kind."""
        self.kinds.setdefault(kind, []).extend(told)

    def differs(self, name: str, before: str | None, after: str | None) -> None:
        """Note a difference; two values that look the same where they are cut or masked are told apart."""
        if before == after and after is not None:
            after = f"{after} {_ELSEWHERE}"
        self.differences.append(Difference(name, before, after))


def _lines(kinds: Sequence[Kind], found: Sequence[tuple[str, _Found]]) -> tuple[str, ...]:
    """What there is to say, each once, with the platforms that it is true of; in the order of the kinds."""
    lines: dict[str, list[str]] = {}
    for kind in kinds:
        for platform, one in found:
            if kind in one.kinds and kind is not Kind.PLATFORMS_CHANGED:
                for told in one.kinds[kind] or [MEANINGS[kind].words]:
                    lines.setdefault(told, []).append(platform)
    whole = [f"{line} ({', '.join(dict.fromkeys(places))})" if any(places) else line for line, places in lines.items()]
    return tuple(whole) if len(whole) <= _LINES else (*whole[:_LINES], f"and {len(whole) - _LINES} more")


# -- the image as a whole -------------------------------------------------------------------------------------------


def _whole(before: Snapshot, after: Snapshot, own: _Found, platforms: Sequence[PlatformChange]) -> None:
    """What is to be said of the index, and that nothing else was found where that is so."""
    one_of_many = len(before.children) > 1 or len(after.children) > 1
    if one_of_many and any(each.before is not None and each.after is not None for each in platforms):
        own.add(Kind.PLATFORMS_CHANGED)
    if before.digest == after.digest:
        return
    if before.media_type != after.media_type:
        own.differs("media type", plain(before.media_type), plain(after.media_type))
    _mapping(own, "annotation", before.annotations, after.annotations)
    if before.attestations != after.attestations:
        left, right = (_count(len(side.attestations), "attestation manifest") for side in (before, after))
        own.differs("attestation manifests", left, right)
    if not platforms:
        own.add(Kind.METADATA)


def _signers(before: Snapshot, after: Snapshot, own: _Found) -> bool:
    """Note what became of the signatures; whether everybody who signed the old image signed the new one."""
    old, new = before.signers, after.signers
    if old is None or new is None:
        return False
    lost, gained = (
        [line for line in old if not signers.belongs(line, new)],
        [line for line in new if not signers.belongs(line, old)],
    )
    if set(old) != set(new):
        own.differs("signers", *(signers.told(side) if side else None for side in (old, new)))
    if lost and gained:
        own.add(Kind.SIGNER_CHANGED, f"signed by {signers.told(gained)}, no longer by {signers.told(lost)}")
    elif lost:
        left = f"still by {signers.told(new)}" if new else "by nobody now"
        own.add(Kind.SIGNATURE_LOST, f"no longer signed by {signers.told(lost)}; {left}")
    elif gained:
        own.add(
            Kind.SIGNATURE_GAINED,
            f"also signed by {signers.told(gained)}" if old else f"signed by {signers.told(gained)}, by nobody before",
        )
    return bool(old) and not lost


def _provenance(before: Snapshot, after: Snapshot, own: _Found) -> None:
    if before.provenance is None or after.provenance is None:
        return
    old, new = before.provenance, after.provenance
    if sorted(old) == sorted(new):
        return
    if not old or not new:
        own.differs("provenance", "signed" if old else None, "signed" if new else None)
        own.add(Kind.PROVENANCE_GAINED if new else Kind.PROVENANCE_LOST)
        return

    def differing(name: str, of: Callable[[Provenance], str], kind: Kind, same: Callable[[str, str], bool]) -> bool:
        left, right = (sorted({of(each) for each in side} - {""}) for side in (old, new))
        if left != right:
            texts = ["; ".join(map(plain, side)) or None for side in (left, right)]
            own.differs(name, *texts)
            if not all(any(same(one, other) for other in left) for one in right) or (left and not right):
                own.add(kind, f"{name}: {texts[0] or 'not said'} before, {texts[1] or 'not said'} now")
        return left != right

    other_source = differing("source repository", lambda each: each.source, Kind.SOURCE_CHANGED, str.__eq__)
    differing("builder", lambda each: each.builder, Kind.BUILDER_CHANGED, same_builder)
    if not other_source:
        differing("source ref", lambda each: each.ref, Kind.SOURCE_REF_CHANGED, str.__eq__)


# -- one platform ---------------------------------------------------------------------------------------------------


def _platform(pair: Pair) -> _Found:
    found = _Found()
    before, after = pair.before, pair.after
    if after is None:
        found.add(Kind.PLATFORMS_REMOVED)
        return found
    if before is None:
        found.add(Kind.PLATFORMS_ADDED)
        if after.trouble or (after.image is not None and after.image.trouble):
            found.add(Kind.UNREADABLE, _trouble(after))
        if not after.platform:
            found.add(Kind.PLATFORM_MISMATCH, "the index does not say for which platform it is: clients may take it for theirs")
        _mismatch(None, after, found)
        return found
    if trouble := _trouble(after):
        found.add(Kind.UNREADABLE, f"the new image: {trouble}")
    if trouble := _trouble(before):
        found.add(Kind.NOT_COMPARED, f"the old image: {trouble}")
    if before.platform and after.platform and before.platform != after.platform:
        left, right = plain(before.platform), plain(after.platform)
        found.differs("platform", left, right)
        found.add(Kind.PLATFORMS_REMOVED, f"it is no longer for {left}")
        found.add(Kind.PLATFORMS_ADDED, f"it is for {right}")
    old, new = before.image, after.image
    if old is None or new is None:
        if not found.kinds and not before.pending and not after.pending:
            found.add(Kind.NOT_COMPARED, "more platforms differ than are compared")
        return found
    _mismatch(before, after, found)
    _type(old, new, found)
    _layers(old, new, found)
    if old.read is not None and new.read is not None:
        _config(old.read, new.read, found)
    elif old.config.digest != new.config.digest and not (
        Kind.ANOTHER_TYPE in found.kinds or any(each.trouble or each.pending for each in (old, new))
    ):
        found.add(Kind.NOT_COMPARED, f"their configs differ, and configs of type {plain(new.config.media_type)} are not read")
    _mapping(found, "annotation", old.annotations, new.annotations)
    # The digests differ: that is never nothing.
    if not found.kinds.keys() - {Kind.DOWNGRADE} and not old.pending and not new.pending:
        found.add(Kind.METADATA if old.config.digest == new.config.digest else Kind.CONFIG_METADATA)
    return found


def _trouble(child: Child) -> str:
    return child.trouble or ("" if child.image is None else child.image.trouble)


def _mismatch(before: Child | None, after: Child, found: _Found) -> None:
    """Whether the new image is for another platform than the index says, where that was not so before."""

    def says(child: Child | None) -> str:
        read = None if child is None or child.image is None else child.image.read
        if read is None or child is None or not child.platform or read.platform == child.platform:
            return ""
        return read.platform or "nothing"

    if (now := says(after)) and now != says(before):
        found.differs("platform in the config", plain(says(before)) or None, plain(now))
        found.add(Kind.PLATFORM_MISMATCH, f"the index says {plain(after.platform)}, its config {plain(now)}")


def _type(old: Image, new: Image, found: _Found) -> None:
    # Both count: what calls itself an artifact and has an image's config runs as one, and the other way round.
    left, right = ((image.artifact_type, _family(image.config.media_type)) for image in (old, new))
    if left != right:
        found.differs("type", *(plain(" of ".join(filter(None, each))) for each in (left, right)))
        found.add(Kind.ANOTHER_TYPE)


def _family(media_type: str) -> str:
    """The same for OCI's and Docker's name of the same thing."""
    return media_type.replace("vnd.docker.container.image.v1", "vnd.oci.image.config.v1")


def _layers(old: Image, new: Image, found: _Found) -> None:
    kinds = layers.kinds_of(old, new)
    lines = layers.lines_of(old, new) if kinds else ()
    for kind in kinds:
        match kind:
            case Kind.LAYERS_ADDED | Kind.LAYERS_REMOVED:
                side = Side.AFTER if kind is Kind.LAYERS_ADDED else Side.BEFORE
                moved = [line for line in lines if line.side is side]
                verb = "added on" if kind is Kind.LAYERS_ADDED else "taken from the"
                words = "; ".join(f"{line.command or 'by a step that the history does not tell'}" for line in moved[:3])
                more = f"; and {len(moved) - 3} more" if len(moved) > 3 else ""
                total = size(sum(line.size for line in moved))
                found.add(kind, f"{_count(len(moved), 'layer')} {verb} top, {total}: {words}{more}")
            case _:
                kept = sum(line.side is Side.SAME for line in lines)
                found.add(kind, f"{MEANINGS[kind].words} ({kept} of {len(new.layers)} layers are the same)")
    left, right = (sum(layer.size for layer in image.layers) for image in (old, new))
    if left != right:
        found.differs("size", size(left), size(right))
    if max(left, right) - min(left, right) >= LEAST and max(left, right) >= RATIO * min(left, right):
        found.add(Kind.GREW if right > left else Kind.SHRANK, f"from {size(left)} to {size(right)}")


def _config(old: Config, new: Config, found: _Found) -> None:
    _run(old, new, found)
    if old.user != new.user:
        found.differs("user", plain(old.user) or None, plain(new.user) or None)
        found.add(
            Kind.USER,
            f"user: {plain(old.user) or 'root (none is named)'} before, {plain(new.user) or 'root (none is named)'} now",
        )
        if new.root and not old.root:
            found.add(Kind.BECAME_ROOT)
    _environment(old, new, found)
    if _mapping(found, "label", old.labels, new.labels):
        found.add(Kind.LABELS)
    _dates(old, new, found)
    if old.author != new.author:
        found.differs("author", plain(old.author) or None, plain(new.author) or None)


def _run(old: Config, new: Config, found: _Found) -> None:
    """What is one value each."""

    def many(values: Sequence[str]) -> str | None:
        shown = ", ".join(f'"{hide(value)}"' for value in values[:_MANY])
        return f"[{shown}{', …' if len(values) > _MANY else ''}]" if values else None

    def one(value: str) -> str | None:
        return hide(value) or None

    rows: tuple[tuple[Kind | None, str, object, object, str | None, str | None], ...] = (
        (Kind.ENTRYPOINT, "entrypoint", old.entrypoint, new.entrypoint, many(old.entrypoint), many(new.entrypoint)),
        (Kind.COMMAND, "command", old.command, new.command, many(old.command), many(new.command)),
        (Kind.HEALTHCHECK, "health check", old.healthcheck, new.healthcheck, one(old.healthcheck), one(new.healthcheck)),
        (Kind.PORTS, "ports", old.ports, new.ports, many(old.ports), many(new.ports)),
        (Kind.WORKING_DIR, "working directory", old.working_dir, new.working_dir, one(old.working_dir), one(new.working_dir)),
        (Kind.VOLUMES, "volumes", old.volumes, new.volumes, many(old.volumes), many(new.volumes)),
        (Kind.STOP_SIGNAL, "stop signal", old.stop_signal, new.stop_signal, one(old.stop_signal), one(new.stop_signal)),
        (None, "shell", old.shell, new.shell, many(old.shell), many(new.shell)),
        (None, "on build", old.on_build, new.on_build, many(old.on_build), many(new.on_build)),
    )
    for kind, name, left, right, before, after in rows:
        if left != right:
            found.differs(name, before, after)
            if kind is not None:
                found.add(kind, f"{name}: {before or 'none'} before, {after or 'none'} now")


def _environment(old: Config, new: Config, found: _Found) -> None:
    if old.environment == new.environment:
        return
    left, right = dict(old.environment), dict(new.environment)
    # Of a name that comes twice, some processes take the first value and some the last.
    before, after = _values(old), _values(new)
    names = [name for name in dict.fromkeys((*left, *right)) if before.get(name) != after.get(name)]
    for name in names[:_SHOWN]:
        told = [variable(name, side[name]) if name in side else None for side in (left, right)]
        found.differs(f"environment {plain(name, 80)}", *told)
    loading = [name for name in names if name in _LOADERS]
    if not names:
        found.differs("environment", "in one order", "in another order")
    if loading:
        found.add(Kind.LOADS_CODE, *(f"{name}: {_shown(left, name)} before, {_shown(right, name)} now" for name in loading))
    shown = ", ".join(plain(name, 80) for name in names[:8]) or "their order"
    found.add(Kind.ENVIRONMENT, f"environment: {shown}" + (f", and {len(names) - 8} more" if len(names) > 8 else ""))


def _values(config: Config) -> Mapping[str, Sequence[str]]:
    found: dict[str, list[str]] = {}
    for name, value in config.environment:
        found.setdefault(name, []).append(value)
    return found


def _shown(side: Mapping[str, str], name: str) -> str:
    return variable(name, side[name]) if name in side else "not set"


def _dates(old: Config, new: Config, found: _Found) -> None:
    for name, left, right in (("created", old.created, new.created), ("newest step", old.newest, new.newest)):
        if left == right:
            continue
        told = [None if date is None else f"{date:%Y-%m-%d %H:%M} UTC" for date in (left, right)]
        found.differs(name, *told)
        if left is not None and right is not None and right < left:
            found.add(Kind.DOWNGRADE, f"{name}: {told[0]} before, {told[1]} now")


def _mapping(found: _Found, what: str, old: Mapping[str, str], new: Mapping[str, str]) -> bool:
    """Note what differs by name; whether anything does."""
    names = [name for name in dict.fromkeys((*old, *new)) if old.get(name) != new.get(name)]
    for name in names[:_SHOWN]:
        sides = [variable(name, side[name]) if name in side else None for side in (old, new)]
        found.differs(f"{what} {plain(name, 80)}", *sides)
    return bool(names)


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def child_platform(image: Image) -> str:
    """For what an image that no index lists is, as its config says."""
    return "" if image.read is None else image.read.platform
