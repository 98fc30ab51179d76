"""From trust as written to the values that verification believes: keys, roots and trust stores, read from their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.configuration.report import Report
from proxy.configuration.source import Location
from proxy.configuration.tuf import TARGET, Source, public_good_source, root_of
from proxy.configuration.upstreams import check_authorities, lookaside_url
from proxy.configuration.words import suggestion
from proxy.content import Lookaside
from proxy.policy.document import KeySettings, NotationSettings, RootSettings
from proxy.policy.rules import Root as RootName
from proxy.policy.rules import Rule, fingerprint
from proxy.policy.rules import Store as StoreName
from proxy.settings import Settings
from proxy.tuf.repository import MAX_METADATA, TufRepository
from proxy.tuf.state import State

if TYPE_CHECKING:
    from proxy.verify.model import Trusted
    from proxy.verify.notation import NotationStore
    from proxy.verify.openpgp import OpenPgpKey
    from proxy.verify.roots import Demands, Root
    from proxy.verify.trust import Key

_MAX_PEM = 64 << 10
#: Bundles of authorities are longer: those that systems ship have a few hundred kilobytes.
_MAX_BUNDLE = 1 << 20
_MAX_ROOT = 4 << 20


@dataclass(frozen=True, slots=True)
class Names:
    """All entries of ``trust`` that the file names, sound or not: one mistake is told once."""

    keys: tuple[str, ...]
    roots: tuple[str, ...]
    notation: tuple[str, ...]

    def of(self, section: str) -> tuple[str, ...]:
        """The entries of ``keys``, ``roots`` or ``notation``."""
        return {"keys": self.keys, "roots": self.roots, "notation": self.notation}[section]


def identities(trusted: Trusted) -> dict[str | RootName | StoreName, str]:
    """What each name stands for, for fingerprints: changes whenever an old verdict would no longer answer the question."""
    found: dict[str | RootName | StoreName, str] = {}
    found.update({name: key.identity for name, key in trusted.openpgp.items()})
    for name, key in trusted.keys.items():
        root = None if key.root is None else trusted.roots.get(key.root)
        found[name] = key.identity if root is None else f"{key.identity}/{root.identity}"
    found.update({RootName(name): root.identity for name, root in trusted.roots.items()})
    found.update({StoreName(name): store.identity for name, store in trusted.stores.items()})
    return found


def lasting(rule: Rule, trusted: Trusted, sources: Mapping[str, Source]) -> Rule:
    """The rule with :attr:`Rule.lasting`, where it names a root of ``sources``; else the rule as it is."""
    owners = {
        name: replace(trusted.roots[name], identity=f"{source.repository.folder} {source.demands}")
        for name, source in sources.items()
    }
    question = fingerprint(rule.require, identities(replace(trusted, roots={**trusted.roots, **owners})))
    return rule if question == rule.fingerprint else replace(rule, lasting=question)


def build_trust(settings: Settings, names: Names, now: datetime, report: Report) -> tuple[Trusted, dict[str, Source]]:
    """Everything under ``trust`` by name, and which roots come from TUF repositories: those are as if nothing were stored.

    What does not check out is reported and left out.
    """
    from proxy.verify.model import Trusted

    sources = _build_sources(settings, report)
    roots = _build_roots(settings, sources, report)
    keys = _build_keys(settings, names, report)
    openpgp = _build_openpgp(settings, now, report)
    for name, written in settings.trust.keys.items():
        _check_window(written, now, ("trust", "keys", name), report)
    return Trusted(keys, roots, _build_stores(settings, report), openpgp), sources


def _build_keys(settings: Settings, named: Names, report: Report) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    names: dict[str, str] = {}  # by fingerprint
    for name, written in settings.trust.keys.items():
        location = ("trust", "keys", name)
        if written.root is not None and written.root not in named.roots:
            known = suggestion(written.root, named.roots, "the roots are") or "; there is none yet, add it there"
            report.error((*location, "root"), f"no root `{written.root[:100]}` under trust.roots{known}")
        if written.file is not None and (key := _load_key(name, written, written.file, location, report)) is not None:
            keys[name] = key
            if (other := names.setdefault(key.fingerprint, name)) != name:
                report.warn(location, f"is the same key as `{other}`; `at_least` counts them once")
    return keys


def _build_openpgp(settings: Settings, now: datetime, report: Report) -> dict[str, OpenPgpKey]:
    keys: dict[str, OpenPgpKey] = {}
    names: dict[str, str] = {}  # by fingerprint
    for name, written in settings.trust.keys.items():
        location = ("trust", "keys", name)
        if written.gpg is None:
            continue
        lookaside = _lookaside(written, location, report)
        if (key := _load_openpgp(name, written, written.gpg, lookaside, location, report)) is None:
            continue
        keys[name] = key
        others = {names.setdefault(fingerprint, name) for fingerprint in sorted(key.fingerprints)} - {name}
        for other in sorted(others):
            report.warn(location, f"holds an OpenPGP key that `{other}` holds as well; `at_least` counts it once")
        for certificate in key.certificates:
            if certificate.revoked:
                report.warn(
                    (*location, "gpg"), f"the key {certificate.fingerprint} of {certificate.user} was revoked: it counts no more"
                )
            elif certificate.expires is not None and certificate.expires < now:
                told = f"the key {certificate.fingerprint} of {certificate.user} expired on {certificate.expires:%Y-%m-%d}"
                report.warn((*location, "gpg"), f"{told}: it counts no more")
    return keys


def _lookaside(written: KeySettings, location: Location, report: Report) -> Lookaside:
    if written.lookaside is None:
        return Lookaside()
    if written.ca is not None:
        check_authorities(written.ca, (*location, "ca"), report)
    url = lookaside_url(written.lookaside, (*location, "lookaside"), report, allow_private=bool(written.allow_private))
    return Lookaside(url, bool(written.allow_private), written.ca)


def _load_openpgp(
    name: str, written: KeySettings, path: Path, lookaside: Lookaside, location: Location, report: Report
) -> OpenPgpKey | None:
    from proxy.verify.openpgp import ExtraMissing, OpenPgpKey

    location = (*location, "gpg")
    try:
        return OpenPgpKey.load(name, _read(path, _MAX_ROOT), lookaside, written.valid_from, written.valid_until)
    except ExtraMissing as error:
        report.error(location, str(error))
    except OSError as error:
        report.error(location, f"{path} cannot be read: {error.strerror or error}")
    except ValueError as error:
        report.error(location, f"{path}: {error}")
    return None


def _load_key(name: str, written: KeySettings, path: Path, location: Location, report: Report) -> Key | None:
    from proxy.verify.trust import Key

    try:
        return Key.load(name, _read(path, _MAX_PEM), written.valid_from, written.valid_until, written.root)
    except OSError as error:
        report.error((*location, "file"), f"{path} cannot be read: {error.strerror or error}")
    except ValueError as error:
        report.error((*location, "file"), f"{path}: {error}")
    return None


def _check_window(written: KeySettings, now: datetime, location: Location, report: Report) -> None:
    # Where a root proves when it signed, signatures of that time count on.
    told = "" if written.root is None else ", unless it was made in time"
    if written.valid_until is not None and written.valid_until < now:
        report.warn((*location, "valid_until"), f"is in the past: no signature by this key counts any more{told}")
    if written.valid_from is not None and written.valid_from > now:
        report.warn((*location, "valid_from"), "is in the future: until then no signature by this key counts")


def _build_sources(settings: Settings, report: Report) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for name, written in settings.trust.roots.items():
        location = ("trust", "roots", name)
        if isinstance(written, str):
            sources[name] = public_good_source()
            continue
        if written.tuf is None or written.root is None:
            continue
        try:
            root = _contents([written.root], MAX_METADATA)[0]
        except (_Unreadable, ValueError) as error:
            report.error((*location, "root"), str(error))
            continue
        try:
            repository = TufRepository.of(written.tuf, root, written.target or TARGET)
        except ValueError as error:
            report.error(location, str(error))
            continue
        sources[name] = Source(repository, _demands(written))
        if repository.exposed:
            told = "is not encrypted: who stands between can keep this root from making decisions, though not change it"
            report.warn((*location, "tuf"), told)
    return sources


def _build_roots(settings: Settings, sources: Mapping[str, Source], report: Report) -> dict[str, Root]:
    roots: dict[str, Root] = {}
    for name, written in settings.trust.roots.items():
        location = ("trust", "roots", name)
        if name in sources:
            roots[name] = root_of(name, sources[name], State(), required=settings.trust.freshness == "required")
            continue
        if isinstance(written, str) or written.tuf is not None:
            continue  # what is wrong with it is told already
        try:
            roots[name] = _load_root(name, written)
        except _Unreadable as error:
            report.error(location, str(error))
        except ValueError as error:
            report.error(location, str(error))
    return roots


class _Unreadable(Exception):
    """A file that cannot be read."""


def _demands(written: RootSettings) -> Demands:
    from proxy.verify.roots import Demands

    whole = not written.ca
    return Demands(
        log=whole if written.log is None else written.log == "required",
        sct=whole if written.sct is None else written.sct == "required",
        timestamp=written.timestamp == "required",
    )


def _load_root(name: str, written: RootSettings) -> Root:
    """Raises :class:`ValueError` and :class:`_Unreadable` with words for the configuration's author."""
    from proxy.verify.roots import Root

    demands = _demands(written)
    if written.file is not None:
        body = _contents([written.file], _MAX_ROOT)[0]
        try:
            return Root.load(name, body, demands)
        except ValueError as error:
            raise ValueError(f"{written.file}: {error}") from error
    return Root.of_ca(name, _contents(written.ca, _MAX_BUNDLE), demands, _contents(written.tsa, _MAX_BUNDLE))


def _build_stores(settings: Settings, report: Report) -> dict[str, NotationStore]:
    stores: dict[str, NotationStore] = {}
    for name, written in settings.trust.notation.items():
        try:
            stores[name] = _load_store(name, written)
        except (_Unreadable, ValueError) as error:
            report.error(("trust", "notation", name), str(error))
    return stores


def _load_store(name: str, written: NotationSettings) -> NotationStore:
    from proxy.verify.notation_store import NotationStore, Revocation

    ca, tsa, signing_authority = (_contents(paths, _MAX_BUNDLE) for paths in (written.ca, written.tsa, written.signing_authority))
    return NotationStore.load(
        name,
        ca,
        tsa,
        written.identities,
        signing_authority,
        revocation=Revocation(written.revocation),
        allow_private=written.allow_private,
    )


def _contents(paths: Iterable[Path], limit: int) -> list[bytes]:
    bodies = []
    for path in paths:
        try:
            bodies.append(_read(path, limit))
        except OSError as error:
            raise _Unreadable(f"{path} cannot be read: {error.strerror or error}") from error
        if len(bodies[-1]) > limit:
            raise ValueError(f"{path} has more than {limit} bytes")
    return bodies


def _read(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit + 1)
