"""Whether the chain of a notation signature held when it counts, and whether it was revoked: steps 10 and 12.

See :mod:`proxy.verify.notation`, and the specification "Trust Store and Trust Policy", "Signature Verification". Everything
raises :class:`proxy.errors.EvidenceMalformed` with a text that continues "this signature …".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509

from proxy.errors import EvidenceMalformed
from proxy.verify import chains
from proxy.verify.envelopes import Envelope
from proxy.verify.notation_store import NotationStore, Revocation
from proxy.verify.parsing import utc
from proxy.verify.revocation import LookUp, Standing
from proxy.verify.roots import Authority, Window
from proxy.verify.timestamps import Timestamp, verify_timestamp

#: Leaf first, root last.
Chain = tuple[x509.Certificate, ...]


@dataclass(frozen=True, slots=True)
class Held:
    """By what a chain holds."""

    until: datetime | None = None  #: the end of what the acceptance leans on; None where that has none
    moment: datetime | None = None  #: the authentic signing time, where it is believed
    stamp: Timestamp | None = None  #: the timestamp, where the chain holds by that alone

    @property
    def signed_by(self) -> datetime | None:
        """When the signature is proven to have been there at the latest."""
        return self.moment if self.stamp is None else self.stamp.time + self.stamp.accuracy


class Unanswered(EvidenceMalformed):
    """Nobody told what must be known: neither an acceptance nor a refusal."""


def check_time(envelope: Envelope, chain: Chain, store: NotationStore, now: datetime, believed: bool, steps: list[str]) -> Held:
    """Step 10."""
    if envelope.authentic_time is not None:
        moment = envelope.authentic_time
        chains.check_windows(chain, moment, moment, "at its authentic signing time")
        if believed:
            steps.append(f"the chain held at the authentic signing time {utc(moment)}")
            return Held(moment=moment)
        chains.check_windows(chain, now, now, f"now, and notation store {store.name} believes no other time")
        steps.append(f"the chain held at the signing time {utc(moment)}, and holds now")
        return Held(_end(chain))
    if all(chains.window(certificate).holds(now) for certificate in chain):
        steps.append("the chain holds now")
        return Held(_end(chain))
    if not store.tsa or envelope.timestamp is None:
        lacks = f"notation store {store.name} has no tsa" if not store.tsa else "there is no timestamp"
        chains.check_windows(chain, now, now, f"now, and {lacks}")
    assert envelope.timestamp is not None
    stamp = _stamp(envelope.timestamp, envelope, store)
    chains.check_windows(chain, stamp.time - stamp.accuracy, stamp.time + stamp.accuracy, "at the time of its timestamp")
    steps.append(f"the chain held at the timestamp {utc(stamp.time)}, give or take {stamp.accuracy}")
    return Held(stamp=stamp)


def _stamp(token: bytes, envelope: Envelope, store: NotationStore) -> Timestamp:
    return verify_timestamp(token, envelope.signature, [Authority((root,), Window()) for root in store.tsa])


def check_revocation(
    envelope: Envelope, chain: Chain, store: NotationStore, held: Held, look_up: LookUp, steps: list[str]
) -> tuple[str, ...]:
    """Step 12: what is worth a warning, where the store wants no more."""
    if store.revocation is Revocation.SKIP:
        steps.append(f"notation store {store.name} does not ask whether certificates are revoked")
        return ()
    token, stamp = envelope.timestamp, held.stamp
    findings = look_up.chain(chain, held.signed_by)
    if any(each.standing is Standing.REVOKED for each in findings) and held.signed_by is None and store.tsa and token is not None:
        # Nothing leaned on the timestamp so far; now it may prove that the signature was there before.
        try:
            stamp = _stamp(token, envelope, store)
        except EvidenceMalformed as error:
            steps.append(f"its timestamp says nothing: it {error}")
        else:
            findings = look_up.chain(chain, stamp.time + stamp.accuracy)
    if stamp is not None and (held.stamp is not None or any(each.by_time for each in findings)):
        findings += look_up.chain(stamp.chain, None)
    bad = [each for each in findings if each.standing is not Standing.GOOD]
    steps += [each.words for each in findings]
    if store.revocation is Revocation.LOG:
        return tuple(each.words for each in bad)
    if (revoked := next((each for each in bad if each.standing is Standing.REVOKED), None)) is not None:
        raise EvidenceMalformed(f"is by {chains.named(chain[0])}: {revoked.words}")
    if bad:
        raise Unanswered(f"is by {chains.named(chain[0])}: {bad[0].words}")
    return ()


def _end(chain: Sequence[x509.Certificate]) -> datetime:
    return min(certificate.not_valid_after_utc for certificate in chain)
