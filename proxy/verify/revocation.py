"""Whether the certificates of a chain are revoked: OCSP first, else lists (Notary Project, "Certificate Revocation Evaluation").

Pure: what is known is handed in (:data:`Answers`), and what is not known yet comes out as questions, for somebody who may use
the network. For each certificate below the root:

1. One that names neither OCSP server nor list cannot be revoked, as far as anybody can know.
2. Its OCSP servers are asked in its order, until one answers *good* or *revoked*. A delegate who signed the answer must himself
   not be on the lists, unless his certificate exempts him.
3. Else its lists are looked at: every place that it names, at each place the names in their order, until one holds. Where there
   is a freshest list, it completes the list. What stands on a list for good is proven by it, even if it is over or what changed
   since is out of reach; only what is on hold may have come off.
4. Revoked is revoked, whenever that was, unless the server says since when the key was in other hands, and the signature is
   proven to have been there before.
5. Everything else is not known.

Only ``http`` is asked: answers are signed, and certificates that would secure the way would have to be asked for in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum, auto
from itertools import pairwise

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from proxy.errors import EvidenceMalformed
from proxy.verify import chains
from proxy.verify.crl import Crl, CrlQuery, Point, freshest_of, places_of
from proxy.verify.ocsp import OcspAnswer, OcspQuery, Revoked, Status
from proxy.verify.parsing import shown, utc

#: How many servers, or names of one place, are tried for one certificate; how many places it may name.
_MOST_TRIED = 3
_MOST_PLACES = 8
_MOST_WORDS = 500
_SCHEME = "http://"
_HOLD, _REMOVED = x509.ReasonFlags.certificate_hold.value, x509.ReasonFlags.remove_from_crl.value


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer that holds, and why, for people."""

    reason: str


Query = OcspQuery | CrlQuery
Answer = OcspAnswer | Crl
#: What is known: a question that is not in there has not been asked.
Answers = Mapping[Query, Answer | Silence]
_Reader = Callable[[Crl], Revoked | None]


class Standing(Enum):
    """Of one certificate."""

    GOOD = auto()
    REVOKED = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Finding:
    """What is known of one certificate, with words for people. ``by_time``: it is good because of when it signed."""

    standing: Standing
    words: str
    by_time: bool = False


class _Untold(Exception):
    """Nothing that holds says anything."""


class _NotAsked(_Untold):
    """What would say something has not been asked yet."""


@dataclass(slots=True)
class LookUp:
    """Looks certificates up in what is known. ``missing`` collects what would have to be asked to know more, in order."""

    answers: Answers
    now: datetime
    private: bool  #: whether servers may be at private addresses
    missing: dict[Query, bool] = field(default_factory=dict)  #: True: the verdict depends on it
    decides: bool = True  #: whether what is found decides anything

    def chain(self, chain: Sequence[x509.Certificate], signed_by: datetime | None) -> tuple[Finding, ...]:
        """What is known of each certificate of a chain (leaf first) but the root.

        ``signed_by``: a moment by which the signature is proven to have been there. Never raises for what anybody sent.
        """
        return tuple(self._finding(each, issuer, signed_by) for each, issuer in pairwise(chain))

    def _finding(self, certificate: x509.Certificate, issuer: x509.Certificate, signed_by: datetime | None) -> Finding:
        name = chains.named(certificate)
        try:
            return self._certificate(name, certificate, issuer, signed_by)
        except (_Untold, EvidenceMalformed) as error:
            return Finding(Standing.UNKNOWN, f"whether {name} is revoked cannot be told: {shown(str(error), _MOST_WORDS)}")

    def _certificate(
        self, name: str, certificate: x509.Certificate, issuer: x509.Certificate, signed_by: datetime | None
    ) -> Finding:
        servers, places = _servers(certificate), places_of(certificate)
        if not servers and not places:
            return Finding(Standing.GOOD, f"{name} names nobody who could revoke it")
        silent: list[str] = []
        for url in servers[:_MOST_TRIED]:
            try:
                answer = self._ocsp(url, certificate, issuer)
            except _NotAsked:
                raise
            except _Untold as error:
                silent.append(f"{_place(url)}: {error}")
            else:
                return _judged(name, answer.revoked, f"says {_place(url)}, until {utc(answer.until)}", signed_by)
        if not places:
            raise _Untold("; ".join(silent))
        try:
            revoked = self._on_lists(places, certificate, issuer)
        except _NotAsked:
            raise
        except _Untold as error:
            raise _Untold("; ".join([*silent, str(error)])) from error
        return _judged(name, revoked, "say the lists of its issuer", signed_by)

    def _known(self, query: Query) -> Answer:
        answer = self.answers.get(query)
        if answer is None:
            self.missing[query] = self.decides or self.missing.get(query, False)
            raise _NotAsked(f"{_place(query.url)} has not been asked")
        if isinstance(answer, Silence):
            raise _Untold(answer.reason)
        return answer

    # -- OCSP -----------------------------------------------------------------------------------------------------------

    def _ocsp(self, url: str, certificate: x509.Certificate, issuer: x509.Certificate) -> OcspAnswer:
        """Step 2: an answer that says something, by somebody who may give it."""
        _check_scheme(url)
        answer = self._known(OcspQuery(url, certificate, issuer, self.private))
        assert isinstance(answer, OcspAnswer)  # what questions of this kind are answered with
        if answer.until < self.now:
            raise _Untold(f"the answer held until {utc(answer.until)}")
        if answer.status is Status.UNKNOWN:
            raise _Untold("the certificate is not known there")
        if answer.delegate is not None and (places := places_of(answer.delegate)):
            signer = chains.named(answer.delegate)
            try:
                revoked = self._on_lists(places, answer.delegate, issuer)
            except _NotAsked:
                raise
            except _Untold as error:
                raise _Untold(f"whether {signer}, who signed the answer, is revoked cannot be told: {error}") from error
            if revoked is not None:
                raise _Untold(f"{signer}, who signed the answer, is revoked")
        return answer

    # -- lists ----------------------------------------------------------------------------------------------------------

    def _on_lists(self, places: Sequence[Point], certificate: x509.Certificate, issuer: x509.Certificate) -> Revoked | None:
        """Step 3: what the lists say. All of them must be there to say that there is nothing."""
        if len(places) > _MOST_PLACES:
            raise _Untold(f"it names {len(places)} places of lists; the limit is {_MOST_PLACES}")
        silent: list[str] = []
        for place in places:
            try:
                entry = self._entry(place, certificate, issuer)
            except _NotAsked:
                raise
            except _Untold as error:
                silent.append(str(error))
            else:
                if entry is not None:
                    return entry
        if silent:
            raise _Untold("; ".join(silent))
        return None

    def _entry(self, place: Point, certificate: x509.Certificate, issuer: x509.Certificate) -> Revoked | None:
        """What the list at one place says, with what changed since."""
        base, entry = self._first(place, issuer, lambda crl: self._base(crl, place, certificate))
        # Only what is on hold can come off again: what changed since cannot undo the rest (RFC 5280, section 5.3.1). Of a list
        # that is over, nothing else has come here.
        if base.until < self.now or (entry is not None and entry.reason != _HOLD):
            return entry
        for freshest in base.freshest or freshest_of(certificate):
            _, changed = self._first(freshest, issuer, lambda crl: self._change(crl, base, certificate))
            if changed is not None:
                entry = None if changed.reason == _REMOVED else changed
        return entry

    def _first(self, place: Point, issuer: x509.Certificate, read: _Reader) -> tuple[Crl, Revoked | None]:
        """The first list under one of the place's names that is right, and what it says."""
        if place.problem is not None:
            raise _Untold(place.problem)
        silent: list[str] = []
        for url in place.names[:_MOST_TRIED]:
            try:
                _check_scheme(url)
                crl = self._known(CrlQuery(url, issuer, self.private))
                assert isinstance(crl, Crl)  # what questions of this kind are answered with
                return crl, read(crl)
            except _NotAsked:
                raise
            except (_Untold, EvidenceMalformed) as error:
                silent.append(f"{_place(url)}: {error}")
        raise _Untold("; ".join(silent) or "a list has no place that can be asked")

    def _base(self, crl: Crl, place: Point, certificate: x509.Certificate) -> Revoked | None:
        if crl.since is not None:
            raise _Untold("it is a list of changes, where a whole list should be")
        if (reason := crl.refusal(certificate, place)) is not None:
            raise _Untold(f"it {reason}")
        entry = crl.entry(certificate)
        if crl.until < self.now and (entry is None or entry.reason == _HOLD):
            raise _Untold(f"the list held until {utc(crl.until)}")
        return entry

    def _change(self, crl: Crl, base: Crl, certificate: x509.Certificate) -> Revoked | None:
        """RFC 5280, section 5.2.4: which changes go with which list."""
        if crl.since is None or crl.scope != base.scope:
            raise _Untold("it is no list of changes to the whole list")
        if base.number is None or crl.number is None or not crl.since <= base.number <= crl.number:
            raise _Untold("its changes do not follow the whole list")
        if crl.until < self.now:
            raise _Untold(f"the list of changes held until {utc(crl.until)}")
        return crl.entry(certificate)


def _judged(name: str, revoked: Revoked | None, who: str, signed_by: datetime | None) -> Finding:
    """Step 4."""
    if revoked is None:
        return Finding(Standing.GOOD, f"{name} is not revoked, {who}")
    told = f"{name} was revoked at {utc(revoked.at)} ({revoked.reason}), {who}"
    since = revoked.invalid_since
    if since is None:
        return Finding(Standing.REVOKED, told)
    if signed_by is None or signed_by >= since:
        return Finding(Standing.REVOKED, f"{told}; it is invalid since {utc(since)}")
    return Finding(Standing.GOOD, f"{told}; but it is invalid only since {utc(since)}, and signed before", by_time=True)


def _servers(certificate: x509.Certificate) -> list[str]:
    """The OCSP servers that a certificate names."""
    access = chains.extension(certificate, x509.AuthorityInformationAccess)
    return [
        each.access_location.value
        for each in (() if access is None else access.value)
        if each.access_method == AuthorityInformationAccessOID.OCSP
        and isinstance(each.access_location, x509.UniformResourceIdentifier)
    ]


def _check_scheme(url: str) -> None:
    if not url.lower().startswith(_SCHEME):
        raise _Untold(f"only {_SCHEME} is asked")


def _place(url: str) -> str:
    """A URL for people, without what may follow its path."""
    return shown(url.partition("?")[0].partition("#")[0])
