"""What is trusted, and until when: the lines of ``tagstone trust``. Reads values only, no network and no clock."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509

from proxy.tuf.repository import TufRepository
from proxy.tuf.state import State
from proxy.verify.model import Trusted
from proxy.verify.openpgp import Certificate, OpenPgpKey
from proxy.verify.roots import Authority, LogKey, Root

_NEVER = datetime.min.replace(tzinfo=UTC)
#: How long before its end something is told to be ending.
SOON = timedelta(days=30)
#: The same for TUF metadata, which lives for days only, and is replaced as a matter of course.
SOON_METADATA = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that is believed."""

    section: str  #: ``keys``, ``roots`` or ``notation``
    name: str  #: of the entry
    kind: str  #: key, certificate authority, log, certificate transparency log, timestamp authority
    what: str  #: which one, for people
    fingerprint: str  #: sha256 in hex: of the key, the certificate, or the log's id
    valid_from: datetime | None
    valid_until: datetime | None

    def state(self, now: datetime) -> str:
        """``valid``, ``ending`` (within :data:`SOON`), ``ended`` or ``not yet``."""
        if self.valid_from is not None and now < self.valid_from:
            return "not yet"
        if self.valid_until is None:
            return "valid"
        if now > self.valid_until:
            return "ended"
        return "ending" if self.valid_until - now <= SOON else "valid"


@dataclass(frozen=True, slots=True)
class Standing:
    """How a root of a TUF repository stands."""

    root: Root
    repository: TufRepository
    known: State

    @property
    def sha256(self) -> str | None:
        """Hash of the trusted root that counts, hex; None where there is none."""
        return None if self.root.document is None else hashlib.sha256(self.root.document).hexdigest()

    @property
    def source(self) -> str:
        """``tuf`` where the last one fetched counts, ``embedded`` where that of this version does, ``none``."""
        if self.root.document is None:
            return "none"
        return "tuf" if self.known.accepted is not None and self.root.document == self.known.accepted.body else "embedded"

    def state(self, now: datetime) -> str:
        """``suspended``, ``embedded``, ``fresh``, ``ending`` (within :data:`SOON_METADATA`), ``expired`` (but it counts on)."""
        if self.root.unusable(now) is not None:
            return "suspended"
        if self.source == "embedded" or self.known.accepted is None:
            return "embedded"
        if now > self.known.accepted.expires:
            return "expired"
        return "ending" if self.known.accepted.expires - now <= SOON_METADATA else "fresh"

    def endings(self, now: datetime) -> tuple[Ending, ...]:
        """That its TUF metadata expires soon or has expired, and that it therefore decides nothing."""
        entry, found = f"trust.roots.{self.root.name}", list[Ending]()
        if (why := self.root.unusable(now)) is not None:
            found.append(Ending(entry, why, None, ended=True))
        if self.known.accepted is not None and (state := self.state(now)) in {"ending", "expired"}:
            expires = self.known.accepted.expires
            told = f"its TUF metadata {'expires' if state == 'ending' else 'expired'} on {expires:%Y-%m-%d %H:%M} UTC"
            found.append(Ending(entry, told, expires, ended=False))
        return tuple(found)

    def worth_telling(self, now: datetime) -> tuple[str, ...]:
        """What a person should act on: :meth:`endings`, and that its repository cannot be reached."""
        if self.known.unreachable is None:
            return tuple(map(str, self.endings(now)))
        away = f"trust.roots.{self.root.name}: its TUF repository cannot be reached: {self.known.unreachable}"
        return (*map(str, self.endings(now)), away)


@dataclass(frozen=True, slots=True)
class Changes:
    """What became of a root."""

    added: tuple[Item, ...]
    removed: tuple[Item, ...]
    changed: tuple[Item, ...]  #: as they are now; when they count was another time before

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)


def changes(before: Root, after: Root) -> Changes:
    """What is believed under a root now, held against what was before."""
    old, new = ({(item.kind, item.fingerprint): item for item in _of_root(root.name, root)} for root in (before, after))
    return Changes(
        tuple(item for key, item in new.items() if key not in old),
        tuple(item for key, item in old.items() if key not in new),
        tuple(item for key, item in new.items() if key in old and _window(old[key]) != _window(item)),
    )


def _window(item: Item) -> tuple[datetime | None, datetime | None]:
    return item.valid_from, item.valid_until


def inventory(trusted: Trusted) -> tuple[Item, ...]:
    """Everything under ``trust``, in the order of the file."""
    items: list[Item] = []
    for name, key in trusted.keys.items():
        items.append(Item("keys", name, "key", "", key.fingerprint, key.valid_from, key.valid_until))
    for openpgp in trusted.openpgp.values():
        items += [_openpgp(openpgp, each) for each in openpgp.certificates]
    for name, root in trusted.roots.items():
        items += _of_root(name, root)
    for name, store in trusted.stores.items():
        items += [_certificate("notation", name, "certificate authority", each) for each in store.ca]
        items += [_certificate("notation", name, "timestamp authority", each) for each in store.tsa]
    return tuple(items)


def _openpgp(key: OpenPgpKey, certificate: Certificate) -> Item:
    """Believed within the entry's window, while the certificate has not ended. A revoked one has ended whenever that was."""
    end = _NEVER if certificate.revoked else _earliest([key.valid_until, certificate.expires])
    return Item("keys", key.name, "OpenPGP key", certificate.user, certificate.fingerprint, key.valid_from, end)


def _of_root(name: str, root: Root) -> Iterable[Item]:
    for authority in root.authorities:
        yield _authority(name, "certificate authority", authority)
    for log in root.logs.values():
        yield _log(name, "log", log)
    for log in root.ct_logs.values():
        yield _log(name, "certificate transparency log", log)
    for authority in root.timestamp_authorities:
        yield _authority(name, "timestamp authority", authority)


def _authority(name: str, kind: str, authority: Authority) -> Item:
    """Believed while its window and all of its certificates hold."""
    chain = authority.chain
    starts = [authority.window.start, *(each.not_valid_before_utc for each in chain)]
    ends = [authority.window.end, *(each.not_valid_after_utc for each in chain)]
    first = chain[0]
    what = authority.uri or first.subject.rfc4514_string()
    return Item("roots", name, kind, what, _fingerprint(first), _latest(starts), _earliest(ends))


def _log(name: str, kind: str, log: LogKey) -> Item:
    return Item("roots", name, kind, log.url, log.log_id.hex(), log.window.start, log.window.end)


def _certificate(section: str, name: str, kind: str, certificate: x509.Certificate) -> Item:
    subject = certificate.subject.rfc4514_string()
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return Item(section, name, kind, subject, _fingerprint(certificate), start, end)


def _fingerprint(certificate: x509.Certificate) -> str:
    from cryptography.hazmat.primitives.hashes import SHA256

    return certificate.fingerprint(SHA256()).hex()


def _latest(moments: Sequence[datetime | None]) -> datetime | None:
    return max((each for each in moments if each is not None), default=None)


def _earliest(moments: Sequence[datetime | None]) -> datetime | None:
    return min((each for each in moments if each is not None), default=None)


@dataclass(frozen=True, slots=True)
class Ending:
    """What a person should act on in one entry of ``trust``, in words, since it ends soon or has ended."""

    entry: str  #: ``trust.keys.acme``
    told: str
    until: datetime | None  #: None: nothing says when
    ended: bool

    def __str__(self) -> str:
        return f"{self.entry}: {self.told}"


def endings(items: Sequence[Item], now: datetime) -> tuple[Ending, ...]:
    """What ends soon, and entries of which a needed kind has nothing left that is valid.

    Of several authorities or logs under one root, old ones end as a matter of course: they are needed for old signatures.
    """
    found: list[Ending] = []
    for (where, kind), states in _kinds(items, now).items():
        ends = [item.valid_until for item in states.get("ending", ()) if item.valid_until is not None]
        if "valid" in states:
            continue
        if ends:
            found.append(Ending(where, f"the last {kind} ends on {max(ends):%Y-%m-%d %H:%M} UTC", max(ends), ended=False))
        elif "not yet" not in states:
            told = f"no {kind} is valid any more; signatures of today cannot pass by it"
            found.append(Ending(where, told, None, ended=True))
    return tuple(found)


def worth_telling(items: Sequence[Item], now: datetime) -> tuple[str, ...]:
    """What a person should act on: :func:`endings`, and what does not count yet."""
    early = [
        f"{where}: no {kind} is valid yet"
        for (where, kind), states in _kinds(items, now).items()
        if "not yet" in states and not {"valid", "ending"} & states.keys()
    ]
    return (*map(str, endings(items, now)), *early)


def _kinds(items: Sequence[Item], now: datetime) -> dict[tuple[str, str], dict[str, list[Item]]]:
    """(entry, kind) → state → items."""
    groups: dict[tuple[str, str], dict[str, list[Item]]] = {}
    for item in items:
        states = groups.setdefault((f"trust.{item.section}.{item.name}", item.kind), {})
        states.setdefault(item.state(now), []).append(item)
    return groups
