"""What runs, held against what is known: one standing for each workload. Pure.

A source may give several digests for one image: the index that was pulled, the image in it, the image's config. Each of them
stands for the same content, and the best that can be said of any of them is said of the workload.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from proxy.drift.workloads import Workload, is_id
from proxy.errors import MalformedRequest
from proxy.policy.rules import Never, Rule
from proxy.routing import Router, component
from storage.digest import Digest
from storage.errors import MalformedName
from storage.lineage import accepted_root, blocked
from storage.records import Block, Known, Picture, Pin, PinChange, PinState, StoredVerdict
from storage.reference import Reference, Repository, parse_registry, spellings

_UTC = "%Y-%m-%d %H:%M UTC"


class Status(StrEnum):
    """What can be said of a workload, the best first."""

    APPROVED = "approved"  #: a pin of its repository holds what runs
    BY_DIGEST = "approved-by-digest"  #: it is admitted, and no pin holds it
    OVERWRITTEN = "overwritten-since"  #: its tag is pinned to something else now, or what runs was a pin before
    REVOKED = "revoked"  #: it was accepted, and is not any more
    CANDIDATE = "candidate"  #: what its tag was overwritten with, and which is not approved
    BLOCKED = "blocked"
    REFUSED = "refused"  #: it was judged here, and never accepted
    UNKNOWN = "unknown"  #: it cannot be told
    NEVER_SEEN = "never-seen"  #: this database knows nothing of it


#: The best is said.
_RANK = {status: rank for rank, status in enumerate(Status)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One workload, and what can be said of it. ``digest``: what runs, in the form that decided.

    ``pin``: the pin that holds it, or the one that its tag has and that does not; ``moved_at`` and ``moved_by``: when that ceased
    to hold it, and who did it.
    """

    workload: Workload
    status: Status
    reason: str
    repository: Repository | None = None
    tag: str | None = None
    digest: Digest | None = None
    pin: str | None = None
    pinned: Digest | None = None
    moved_at: datetime | None = None
    moved_by: str | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """How names of images are read: as the runtimes do, and below this proxy's own names as its router does."""

    router: Router
    mirrors: Collection[str] = ()  #: further registry names under which nodes reach this proxy, canonical

    def read(self, text: str) -> Reference:
        """The image that a name means upstream. Raises :class:`MalformedName` where it is none."""
        written = Reference.parse(text)
        registry, name = written.repository.registry, written.repository.name
        if registry in self.mirrors or (registry not in self.router.upstreams and self.router.stands_for(registry) is not None):
            try:
                return Reference(self.router.route(name, None, registry), written.tag, written.digest)
            except MalformedRequest as error:
                raise MalformedName(str(error)) from None
        if registry in self.router.upstreams:
            return written
        # A name that nobody configured, before one that is: as prefixes are written (mirror:5000/docker.io/library/nginx).
        head, _, rest = name.partition("/")
        for upstream in self.router.upstreams:
            if rest and head in {component(spelling) for spelling in spellings(upstream)}:
                return Reference(Repository.of(upstream, rest), written.tag, written.digest)
        return written


@dataclass(frozen=True, slots=True)
class Question:
    """One workload with what it has to be held against: where its image may be, and what it may be."""

    workload: Workload
    repositories: tuple[Repository, ...]
    tag: str | None
    digests: tuple[Digest, ...]
    problem: str = ""  #: why nothing can be told

    @property
    def pairs(self) -> tuple[tuple[Repository, Digest], ...]:
        """All that has to be looked up."""
        return tuple((repository, digest) for repository in self.repositories for digest in self.digests)


def mirrors(configured: Iterable[str]) -> tuple[str, ...]:
    """These names, canonical. Raises :class:`MalformedName`."""
    return tuple(parse_registry(each) for each in configured)


def question(workload: Workload, names: Names, places: Mapping[Digest, tuple[Repository, ...]]) -> Question:
    """What has to be asked about a workload. ``places``: where each digest is recorded, for workloads that name no image."""
    digests = tuple(dict.fromkeys(claim.digest for claim in workload.claims))
    reference: Reference | None = None
    if not is_id(workload.image, workload.claims):
        try:
            reference = names.read(workload.image)
        except MalformedName as error:
            return Question(workload, (), None, digests, f"the name of its image means nothing: {error}")
    if not digests:
        told = workload.missing or "the source does not say which digest it is"
        return Question(workload, () if reference is None else (reference.repository,), _tag(reference), (), told)
    if reference is not None:
        return Question(workload, (reference.repository,), _tag(reference), digests)
    # It was started by an image's ID: then from where its digests come.
    found: dict[Repository, None] = {}
    for claim in workload.claims:
        if claim.name:
            try:
                found[names.read(claim.name).repository] = None
            except MalformedName:
                continue  # the other claims have names, too
    for digest in digests:
        found |= dict.fromkeys(places.get(digest, ()))
    return Question(workload, tuple(found), None, digests)


def _tag(reference: Reference | None) -> str | None:
    """The tag that it was started from: none where a digest was named, which alone counts."""
    return None if reference is None or reference.digest is not None else reference.tag


def judge(asked: Question, picture: Picture, rule: Callable[[Repository], Rule], now: datetime) -> Finding:
    """What can be said of a workload."""
    workload = asked.workload
    repository = asked.repositories[0] if asked.repositories else None
    if asked.problem:
        return Finding(workload, Status.UNKNOWN, asked.problem, repository, asked.tag)
    if not asked.pairs:
        return Finding(workload, Status.NEVER_SEEN, "nothing is known of it in any repository", digest=asked.digests[0])
    found = [
        _judge(workload, known, asked.tag, digest, picture, rule(known.lineage.repository), now)
        for repository, digest in asked.pairs
        for known in picture.known[repository, digest]
    ]
    return min(found, key=lambda finding: _RANK[finding.status])


def _judge(
    workload: Workload, known: Known, tag: str | None, reported: Digest, picture: Picture, rule: Rule, now: datetime
) -> Finding:
    """What one digest in one repository amounts to."""
    repository, digest = known.lineage.repository, known.lineage.digest
    pins = picture.pins.get(repository, ())
    own = next((pin for pin in pins if pin.tag == tag), None)
    holding = [pin for pin in pins if pin.digest in known.digests]
    judged = known.lineage.verdicts
    # What was accepted for a time that is over is to be judged again: nobody has refused it.
    refused = None if any(each.accepted for each in judged) else next(iter(judged), None)

    def said(status: Status, reason: str, pin: Pin | None = None, at: datetime | None = None, by: str | None = None) -> Finding:
        name, held = (None, None) if pin is None else (pin.name, pin.digest)
        return Finding(workload, status, reason, repository, tag, digest, name, held, at, by)

    if (block := blocked(known.lineage)) is not None:
        return said(Status.BLOCKED, _blocked(block, digest), own)
    if (waiting := _candidate(own, holding, pins, known.digests)) is not None:
        return said(Status.CANDIDATE, _refused(waiting), waiting)
    holder = own if own in holding else next(iter(holding), None) if own is None else None
    if holder is not None:
        if (why := _revoked(holder, rule, refused)) is not None:
            return said(Status.REVOKED, why, holder)
        if known.below:
            return said(Status.UNKNOWN, _partly(known.below[0]), holder)
        return said(Status.APPROVED, f"{holder.name} is pinned to it", holder)
    if (move := _moved(picture.moves.get(repository, ()), known.digests, tag, own)) is not None:
        now_held = own or next((pin for pin in pins if pin.tag == move.tag), None)
        state = f"is pinned to {now_held.digest} now" if now_held else "is not pinned any more"
        told = f"{repository}:{move.tag} {state}; what runs was its pin until {move.at:{_UTC}}, when {move.by} moved it"
        return said(Status.OVERWRITTEN, told, now_held, move.at, move.by)
    elsewhere = _elsewhere(picture, reported, repository)
    if not known.recorded:
        beside = f"; {own.name} is pinned to {own.digest}" if own is not None else ""
        return said(Status.NEVER_SEEN, f"nothing is known of {digest} in {repository}{beside}{elsewhere}", own)
    if not known.once_accepted:
        if refused is not None:
            return said(Status.REFUSED, f"it was judged, and refused: {'; '.join(refused.reasons)}", own)
        return said(Status.NEVER_SEEN, f"{digest} is listed in {repository}, and was never judged{elsewhere}", own)
    if (why := _revoked(None, rule, refused)) is not None:
        return said(Status.REVOKED, why, own)
    if own is not None:
        told = (
            f"{own.name} is pinned to {own.digest} since {own.pinned_at:{_UTC}}, by {own.pinned_by}; what runs never was its pin"
        )
        other = f", and is that of {holding[0].name}" if holding else ""
        return said(Status.OVERWRITTEN, told + other, own, own.pinned_at, own.pinned_by)
    if accepted_root(known.lineage, now) is None:
        return said(Status.UNKNOWN, "it was accepted before, and has not been judged by today's rules and trust: tagstone verify")
    if known.below:
        return said(Status.UNKNOWN, _partly(known.below[0]))
    return said(Status.BY_DIGEST, "it is admitted, and no pin holds it")


def _moved(moves: Iterable[PinChange], digests: Collection[Digest], tag: str | None, own: Pin | None) -> PinChange | None:
    """The last change that took one of these digests away from the tag; where that is not pinned, from any."""
    found = [change for change in moves if change.from_digest in digests and (own is None or change.tag == tag)]
    return next((change for change in reversed(found) if change.tag == tag), found[-1] if found else None)


def _candidate(own: Pin | None, holding: Collection[Pin], pins: Iterable[Pin], digests: Collection[Digest]) -> Pin | None:
    """The pin whose tag was overwritten with it. Where the tag is not known: any, unless another pin holds it."""
    asked = [own] if own is not None else [] if holding else pins
    return next((pin for pin in asked if pin not in holding and {pin.candidate, pin.rejected} & set(digests)), None)


def _refused(pin: Pin) -> str:
    seen = f" since {pin.candidate_seen_at:{_UTC}}" if pin.candidate_seen_at else ""
    said_no = "; an operator rejected it" if pin.rejected is not None and pin.rejected == (pin.candidate or pin.rejected) else ""
    return f"{pin.name} was overwritten upstream with it{seen}, and is pinned to {pin.digest}{said_no}"


def _revoked(pin: Pin | None, rule: Rule, refused: StoredVerdict | None) -> str | None:
    """Why what was accepted is not any more; None where it is."""
    if isinstance(rule.require, Never):
        return f"it was accepted before, and {rule} denies it now"
    if refused is not None:
        return f"it was accepted before, and does not pass any more: {'; '.join(refused.reasons)}"
    if pin is not None and pin.state is PinState.REVOKED:
        return f"{pin.name} is pinned to it, and does not pass any more"
    return None


def _blocked(block: Block, digest: Digest) -> str:
    what = "it" if block.digest == digest else str(block.digest)
    return f"{what} was blocked by {block.by} at {block.at:{_UTC}}: {block.reason or 'no reason was given'}"


def _partly(block: Block) -> str:
    why = block.reason or "no reason was given"
    which = "which of its platforms runs is not said: ask on the node (crictl, docker, podman)"
    return f"{block.digest}, blocked by {block.by} ({why}), belongs to one of its platforms; {which}"


def _elsewhere(picture: Picture, digest: Digest, repository: Repository) -> str:
    others = [str(place) for place in picture.places.get(digest, ()) if place != repository]
    if not others:
        return ""
    return f"; the same digest is known in {', '.join(others[:3])}{' and others' if len(others) > 3 else ''}"
