"""What is compared, and what comes of it: images as far as they were read, kinds of changes, and their severities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from proxy.policy.changes.config import Config
from proxy.policy.changes.provenance import Provenance
from storage.digest import Digest
from storage.records import Descriptor, Severity

# -- what is compared -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Image:
    """One manifest that could be run, as far as it was read."""

    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict)
    artifact_type: str = ""
    read: Config | None = None  #: None: of a type that is no image's, or for ``trouble``, or ``pending``
    trouble: str = ""  #: why its config says nothing, for good: "its config …"
    pending: bool = False  #: its config could not be had yet


@dataclass(frozen=True, slots=True)
class Child:
    """What an index lists for one platform; of an image without an index, the image itself.

    ``image`` None: not looked at (it is the same on both sides, or they are too many), or for ``trouble``, or ``pending``.
    """

    platform: str  #: as the index says, else as the config does; empty where neither does
    digest: Digest
    size: int
    image: Image | None = None
    trouble: str = ""  #: why it says nothing, for good: "its manifest …"
    pending: bool = False  #: its manifest could not be had yet


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One side of a comparison: what a digest stands for."""

    digest: Digest
    media_type: str
    annotations: Mapping[str, str]
    children: tuple[Child, ...]
    attestations: tuple[Digest, ...] = ()  #: manifests in the index that are nothing but evidence
    signers: tuple[str, ...] | None = None  #: who vouches for it, by the rule; None: that is not known
    provenance: tuple[Provenance, ...] | None = None  #: as signed attestations say, that the rule asks for; None: not known


@dataclass(frozen=True, slots=True)
class Pair:
    """What both sides have for one platform."""

    platform: str
    before: Child | None
    after: Child | None

    @property
    def same(self) -> bool:
        """Whether nothing changed for it."""
        return self.before is not None and self.after is not None and self.before.digest == self.after.digest


def pairs(before: Sequence[Child], after: Sequence[Child]) -> tuple[Pair, ...]:
    """Which child of one side stands against which of the other: by platform, and one against one whatever they are for.

    Where a platform comes more than once clients take the first: so the first stand against each other, then those with the same
    digest, then the others in their order.
    """
    if len(before) == len(after) == 1:
        return (Pair(after[0].platform, before[0], after[0]),)
    found: list[Pair] = []
    sides: dict[str, tuple[list[Child], list[Child]]] = {}
    for number, children in enumerate((before, after)):
        for child in children:
            sides.setdefault(child.platform, ([], []))[number].append(child)
    for platform, (ours, theirs) in sides.items():
        left, right = ours, theirs
        if left and right:
            found.append(Pair(platform, left.pop(0), right.pop(0)))
        twins: dict[Digest, list[Child]] = {}
        for child in reversed(right):
            twins.setdefault(child.digest, []).append(child)
        alike = [Pair(platform, child, twins[child.digest].pop()) for child in left if twins.get(child.digest)]
        found += alike
        taken = Counter(pair.before.digest for pair in alike if pair.before is not None)
        left, right = _without(left, taken), _without(right, taken)
        both = min(len(left), len(right))
        found += [Pair(platform, *two) for two in zip(left, right, strict=False)]
        found += [Pair(platform, child, None) for child in left[both:]]
        found += [Pair(platform, None, child) for child in right[both:]]
    return tuple(found)


def _without(children: Sequence[Child], taken: Mapping[Digest, int]) -> list[Child]:
    """All but the first so many of each digest."""
    left, seen = [], Counter[Digest]()
    for child in children:
        seen[child.digest] += 1
        if seen[child.digest] > taken.get(child.digest, 0):
            left.append(child)
    return left


# -- kinds ----------------------------------------------------------------------------------------------------------


class Kind(StrEnum):
    """What changed. Several may be true at once."""

    METADATA = "metadata"
    PLATFORMS_ADDED = "platforms-added"
    PLATFORMS_REMOVED = "platforms-removed"
    PLATFORMS_CHANGED = "platforms-changed"
    CONFIG_METADATA = "config-metadata"
    BASE_REBUILT = "base-rebuilt"
    LAYERS_ADDED = "layers-added"
    LAYERS_REMOVED = "layers-removed"
    LAYERS_REPLACED = "layers-replaced"
    LAYERS_REPACKED = "layers-repacked"
    ANOTHER_IMAGE = "another-image"
    ANOTHER_TYPE = "another-type"
    ENTRYPOINT = "entrypoint"
    COMMAND = "command"
    USER = "user"
    BECAME_ROOT = "became-root"
    ENVIRONMENT = "environment"
    LOADS_CODE = "environment-loads-code"
    PORTS = "ports"
    WORKING_DIR = "working-dir"
    VOLUMES = "volumes"
    LABELS = "labels"
    STOP_SIGNAL = "stop-signal"
    HEALTHCHECK = "healthcheck"
    DOWNGRADE = "downgrade"
    GREW = "grew"
    SHRANK = "shrank"
    PLATFORM_MISMATCH = "platform-mismatch"
    SIGNER_CHANGED = "signer-changed"
    SIGNATURE_LOST = "signature-lost"
    SIGNATURE_GAINED = "signature-gained"
    SOURCE_CHANGED = "source-changed"
    SOURCE_REF_CHANGED = "source-ref-changed"
    BUILDER_CHANGED = "builder-changed"
    PROVENANCE_LOST = "provenance-lost"
    PROVENANCE_GAINED = "provenance-gained"
    UNREADABLE = "unreadable"
    NOT_COMPARED = "not-compared"
    NOT_KNOWN_YET = "not-known-yet"


@dataclass(frozen=True, slots=True)
class Meaning:
    """How a kind is told, and how much it matters: where whoever signed the old image signed the new one, too, and else."""

    words: str
    same_signer: Severity
    otherwise: Severity


_INFO, _WARNING, _CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL

#: A change is as severe as the most severe of its kinds.
MEANINGS: Mapping[Kind, Meaning] = {
    Kind.METADATA: Meaning("only annotations, attestation manifests or the form of manifests changed", _INFO, _INFO),
    Kind.PLATFORMS_ADDED: Meaning("platforms were added", _INFO, _WARNING),
    Kind.PLATFORMS_REMOVED: Meaning("platforms were removed", _WARNING, _WARNING),
    Kind.PLATFORMS_CHANGED: Meaning("what some platforms run changed; its other kinds say how", _INFO, _INFO),
    Kind.CONFIG_METADATA: Meaning("only dates, author, history or the like changed in the config", _INFO, _INFO),
    Kind.BASE_REBUILT: Meaning(
        "the base was rebuilt: lower layers differ, what was done above them is the same", _INFO, _WARNING
    ),
    Kind.LAYERS_ADDED: Meaning("layers were added on top of the same image", _WARNING, _CRITICAL),
    Kind.LAYERS_REMOVED: Meaning("layers were taken from the top", _WARNING, _WARNING),
    Kind.LAYERS_REPLACED: Meaning("layers were replaced", _WARNING, _WARNING),
    Kind.LAYERS_REPACKED: Meaning("the same layers were packed anew, as the config says", _INFO, _WARNING),
    Kind.ANOTHER_IMAGE: Meaning(
        "it is another image altogether: no layer and no step of the history in common", _CRITICAL, _CRITICAL
    ),
    Kind.ANOTHER_TYPE: Meaning("it is content of another type", _CRITICAL, _CRITICAL),
    Kind.ENTRYPOINT: Meaning("the entrypoint changed", _CRITICAL, _CRITICAL),
    Kind.COMMAND: Meaning("the command changed", _WARNING, _CRITICAL),
    Kind.USER: Meaning("the user changed", _CRITICAL, _CRITICAL),
    Kind.BECAME_ROOT: Meaning("it runs as root now", _CRITICAL, _CRITICAL),
    Kind.ENVIRONMENT: Meaning("environment variables changed", _INFO, _WARNING),
    Kind.LOADS_CODE: Meaning("environment variables that decide which code is loaded changed", _CRITICAL, _CRITICAL),
    Kind.PORTS: Meaning("exposed ports changed", _INFO, _WARNING),
    Kind.WORKING_DIR: Meaning("the working directory changed", _WARNING, _WARNING),
    Kind.VOLUMES: Meaning("volumes changed", _INFO, _WARNING),
    Kind.LABELS: Meaning("labels changed", _INFO, _INFO),
    Kind.STOP_SIGNAL: Meaning("the stop signal changed", _INFO, _INFO),
    Kind.HEALTHCHECK: Meaning("the health check, which is a command that is run, changed", _WARNING, _CRITICAL),
    Kind.DOWNGRADE: Meaning("its dates go backwards: an older image", _CRITICAL, _CRITICAL),
    Kind.GREW: Meaning("it grew much", _WARNING, _WARNING),
    Kind.SHRANK: Meaning("it shrank much", _WARNING, _WARNING),
    Kind.PLATFORM_MISMATCH: Meaning("an image is for another platform than the index says", _WARNING, _CRITICAL),
    Kind.SIGNER_CHANGED: Meaning("somebody else signed it", _CRITICAL, _CRITICAL),
    Kind.SIGNATURE_LOST: Meaning("a signature is missing", _CRITICAL, _CRITICAL),
    Kind.SIGNATURE_GAINED: Meaning("it has a signature that was not there", _INFO, _INFO),
    Kind.SOURCE_CHANGED: Meaning("it was built from another repository", _CRITICAL, _CRITICAL),
    Kind.SOURCE_REF_CHANGED: Meaning("it was built from another branch, tag or commit", _INFO, _WARNING),
    Kind.BUILDER_CHANGED: Meaning("something else built it", _CRITICAL, _CRITICAL),
    Kind.PROVENANCE_LOST: Meaning("signed provenance is missing", _WARNING, _CRITICAL),
    Kind.PROVENANCE_GAINED: Meaning("it has signed provenance that was not there", _INFO, _INFO),
    Kind.UNREADABLE: Meaning("the new image cannot be read", _CRITICAL, _CRITICAL),
    Kind.NOT_COMPARED: Meaning("not all of it could be compared", _WARNING, _WARNING),
    Kind.NOT_KNOWN_YET: Meaning("not all of it could be asked for yet; it is tried again", _WARNING, _WARNING),
}

_ORDER = {kind: number for number, kind in enumerate(Kind)}


def severity_of(kind: Kind, *, same_signer: bool) -> Severity:
    """How much a kind matters."""
    meaning = MEANINGS[kind]
    return meaning.same_signer if same_signer else meaning.otherwise


def worst(severities: Iterable[Severity]) -> Severity | None:
    """The most severe; None of none."""
    return max(severities, key=lambda severity: severity.rank, default=None)


def ordered(kinds: Collection[Kind], *, same_signer: bool) -> tuple[Kind, ...]:
    """Each kind once, the most severe first, else in the order of the list."""
    return tuple(sorted(set(kinds), key=lambda kind: (-severity_of(kind, same_signer=same_signer).rank, _ORDER[kind])))


# -- what came of it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that differs, side by side, fit to be shown. None: it is not there on that side."""

    name: str  #: ``entrypoint``, ``environment PATH``, ``signers``
    before: str | None
    after: str | None


class Side(StrEnum):
    """On which side a layer is."""

    SAME = "same"
    BEFORE = "before"
    AFTER = "after"


@dataclass(frozen=True, slots=True)
class LayerLine:
    """One layer of either side, from the bottom up, with the step of the history that made it (empty: unknown)."""

    side: Side
    digest: Digest
    size: int
    command: str


@dataclass(frozen=True, slots=True)
class PlatformChange:
    """What changed for one platform. ``before`` or ``after`` None: it was added or removed."""

    platform: str
    before: Digest | None
    after: Digest | None
    kinds: tuple[Kind, ...]
    differences: tuple[Difference, ...] = ()
    layers: tuple[LayerLine, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """How one image differs from another one: the whole answer. Without kinds nothing does."""

    before: Digest
    after: Digest
    kinds: tuple[Kind, ...]  #: the most severe first
    severity: Severity | None  #: None where nothing changed
    lines: tuple[str, ...]  #: for people, the most severe first
    differences: tuple[Difference, ...] = ()  #: of the image as a whole: signers, provenance, annotations
    platforms: tuple[PlatformChange, ...] = ()  #: those that changed
    same: tuple[str, ...] = ()  #: platforms for which nothing did
    unknown: tuple[str, ...] = ()  #: what could not be asked for yet, and why: to be tried again

    @property
    def settled(self) -> bool:
        """Whether asking again would tell no more."""
        return not self.unknown

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.severity is None:
            return "nothing differs"
        told = [MEANINGS[kind].words.partition(":")[0] for kind in self.kinds if kind is not Kind.PLATFORMS_CHANGED]
        more = f"; and {len(told) - 4} more" if len(told) > 4 else ""
        return f"{self.severity}: {'; '.join(told[:4]) or MEANINGS[Kind.PLATFORMS_CHANGED].words}{more}"

    def only(self, platform: str) -> Change:
        """The same, with the details of one platform alone (for showing); kinds and severity stay those of the whole."""
        platforms = tuple(each for each in self.platforms if each.platform == platform)
        return Change(
            self.before,
            self.after,
            self.kinds,
            self.severity,
            self.lines,
            self.differences,
            platforms,
            tuple(each for each in self.same if each == platform),
            self.unknown,
        )


def not_known_yet(before: Digest, after: Digest, reasons: Sequence[str]) -> Change:
    """Nothing could be compared, and why: that is not nothing."""
    kind = Kind.NOT_KNOWN_YET
    return Change(before, after, (kind,), MEANINGS[kind].otherwise, tuple(reasons), unknown=tuple(reasons))
