"""The one verification core of all Sigstore-like formats: who signed these bytes, and since when that is proven.

A format's reader takes a :class:`Signed` out of its bytes; nothing of it is believed yet. What must be there the root says
(:class:`proxy.verify.roots.Demands`), which the operator wrote; the evidence never chooses. The steps:

0. Bounds: at most ``limits.log_entries`` and ``limits.timestamps``, none of them twice (GHSA-cq38-jh5f-37mq).
1. The certificate: what it says (:mod:`proxy.verify.certificates`). A managed key has none.
2. The log: each entry of a log that the root knows holds (:mod:`proxy.verify.tlog`) and is about this signature, this signer and
   these bytes (:mod:`proxy.verify.bodies`). Entries of other logs say nothing. A log's promise proves a time.
3. The timestamps (:mod:`proxy.verify.timestamps`): of those by the root's authorities one at least holds, if there are any.
   Timestamps of other authorities say nothing. Each that holds proves a time.
4. Every log entry's log was trusted at the times that are proven; at its own time, if it has one; now, if there is none.
5. The chain: the root vouches for the certificate at every time that is proven, for every certificate up to the root; now,
   if there is none, and then the proof ends with the certificate.
6. Certificate transparency (:mod:`proxy.verify.sct`), for certificates only.
7. The signature holds over the message. For a managed key the caller has seen to that.

Everything raises :class:`proxy.errors.EvidenceMalformed` with a text that continues "this signature …".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from proxy.errors import EvidenceMalformed
from proxy.settings import Limits
from proxy.verify.bodies import Deed, check_body
from proxy.verify.certificates import Chain, SignerCertificate, verify_chain
from proxy.verify.keys import holds
from proxy.verify.parsing import shown, utc
from proxy.verify.roots import LogKey, Root
from proxy.verify.sct import verify_scts
from proxy.verify.timestamps import UntrustedAuthority, verify_timestamp
from proxy.verify.tlog import LogEntry, verify_entry


@dataclass(frozen=True, slots=True)
class Signed:
    """What a format's reader took from the bytes; nothing of it is believed yet."""

    signature: bytes = field(repr=False)
    message: bytes = field(repr=False)  #: exactly what the signature is over (the PAE for DSSE)
    payload: bytes | None = field(repr=False)  #: the DSSE payload; None for plain signatures
    envelope: bytes | None = field(repr=False)  #: the DSSE envelope's JSON as it came, where a log entry hashes that (cosign v2)
    chain: tuple[bytes, ...] = field(repr=False)  #: DER, leaf first; empty: made with a bare key
    entries: tuple[LogEntry, ...]
    timestamps: tuple[bytes, ...] = field(repr=False)
    stamped: bytes = field(repr=False)  #: what a timestamp's imprint is over (the signature, or cosign v2's whole envelope)
    bundle: bytes | None = field(repr=False)  #: the whole Sigstore bundle's JSON, for the second verdict; None for cosign v2


@dataclass(frozen=True, slots=True)
class Proof:
    """What a root vouches for."""

    times: tuple[datetime, ...]  #: each proven by a log or a timestamp authority, earliest first; none: only known by now
    certificate: SignerCertificate | None
    valid_until: datetime | None  #: the end of what this leans on, where it leans on the present time; else None


@dataclass(frozen=True, slots=True)
class _Logged:
    """An entry that holds."""

    log: LogKey
    time: datetime | None  #: that its log promised


def prove_certificate(signed: Signed, root: Root, limits: Limits, now: datetime, steps: list[str]) -> Proof:
    """Prove a keyless signature by a root of trust. Raises :class:`EvidenceMalformed`.

    ``steps`` collects what each step saw, also when a later one fails.
    """
    _check_bounds(signed, limits)  # step 0
    if not signed.chain:
        raise EvidenceMalformed("is made with a bare key, not with a certificate")
    leaf = SignerCertificate.parse(signed.chain[0])  # step 1
    steps.append(
        f"certificate of {', '.join(map(shown, leaf.identities)) or 'nobody'}, issuer {shown(leaf.issuer or 'none')}, valid from"
        f" {utc(leaf.certificate.not_valid_before_utc)} to {utc(leaf.certificate.not_valid_after_utc)}"
    )
    if not leaf.identities:
        raise EvidenceMalformed("was made with a certificate that names nobody")
    if len(leaf.identities) > 1:  # one signer would count as several where a rule asks for several
        raise EvidenceMalformed(f"was made with a certificate that names {len(leaf.identities)} signers; one is expected")
    deed = Deed(signed.signature, signed.message, signed.payload, signed.envelope, leaf.der, by_certificate=True)
    logged = _log(signed, deed, root, steps)  # step 2
    if root.demands.log and not logged:
        raise EvidenceMalformed(f"has no entry in a transparency log of root {root.name}, which is required")
    stamps = _timestamps(signed, root, steps)  # step 3
    if root.demands.timestamp and not stamps:
        raise EvidenceMalformed(f"has no timestamp by an authority of root {root.name}, which is required")
    times = _times(logged, stamps)
    _check_logs(logged, times or (now,), root)  # step 4
    chain = _vouched(signed, leaf, root, times, now)  # step 5
    ends = [entry.log.window.end for entry in logged if entry.log.window.end is not None]
    valid_until = None if times else min(leaf.certificate.not_valid_after_utc, chain.until, *ends)
    told = ", ".join(map(utc, times)) or f"now ({utc(now)}), since no time is proven"
    steps.append(f"root {root.name} vouches for the certificate at {told}")
    promises = verify_scts(leaf.certificate, chain.issuers[0], root)  # step 6
    if root.demands.sct and not promises:
        raise EvidenceMalformed(f"was made with a certificate that no certificate transparency log of root {root.name} has seen")
    if promises:
        steps.append(f"the certificate was made public at {', '.join(map(utc, promises))}")
    if not holds(leaf.key, signed.signature, signed.message):  # step 7
        raise EvidenceMalformed("is not made with the key of its certificate")
    steps.append("the signature holds by the key of the certificate")
    return Proof(times, leaf, valid_until)


def prove_times(
    signed: Signed, key_der: bytes, root: Root, limits: Limits, now: datetime, steps: list[str]
) -> tuple[datetime, ...]:
    """Steps 0, 2, 3 and 4 for a managed key (DER SubjectPublicKeyInfo): when its signature is proven to have been there.

    Log entries and timestamps are not demanded of managed keys: without any of them no time is proven, and the key's window is
    judged now. Those that are there must hold. Raises :class:`EvidenceMalformed`.
    """
    _check_bounds(signed, limits)
    deed = Deed(signed.signature, signed.message, signed.payload, signed.envelope, key_der, by_certificate=False)
    logged = _log(signed, deed, root, steps)
    times = _times(logged, _timestamps(signed, root, steps))
    _check_logs(logged, times or (now,), root)
    return times


# -- the steps ------------------------------------------------------------------------------------------------------


def _check_bounds(signed: Signed, limits: Limits) -> None:
    """Step 0."""
    for what, count, limit in (
        ("log entries", len(signed.entries), limits.log_entries),
        ("timestamps", len(signed.timestamps), limits.timestamps),
    ):
        if count > limit:
            raise EvidenceMalformed(f"has {count} {what}; the limit is {limit}")
    if len({(entry.log_id, entry.index) for entry in signed.entries}) != len(signed.entries):
        raise EvidenceMalformed("has the same log entry twice")
    if len(set(signed.timestamps)) != len(signed.timestamps):
        raise EvidenceMalformed("has the same timestamp twice")


def _log(signed: Signed, deed: Deed, root: Root, steps: list[str]) -> list[_Logged]:
    """Step 2."""
    found: list[_Logged] = []
    for entry in signed.entries:
        log = root.logs.get(entry.log_id)
        if log is None:
            steps.append(f"log entry {entry.index} is of log {entry.log_id.hex()[:16]}, which root {root.name} does not know")
            continue
        time = verify_entry(entry, log)
        kind = check_body(entry.body, entry.kind, deed)
        told = "" if time is None else f" since {utc(time)}"
        steps.append(f"log {log.url or log.log_id.hex()[:16]} has this signature as entry {entry.index} ({kind}){told}")
        found.append(_Logged(log, time))
    return found


def _timestamps(signed: Signed, root: Root, steps: list[str]) -> list[datetime]:
    """Step 3."""
    if signed.timestamps and not root.timestamp_authorities:
        steps.append(f"{len(signed.timestamps)} timestamps, but root {root.name} has no timestamp authority")
        return []
    found: list[datetime] = []
    told: EvidenceMalformed | None = None
    for token in signed.timestamps:
        try:
            stamp = verify_timestamp(token, signed.stamped, root.timestamp_authorities)
        except UntrustedAuthority as error:
            steps.append(f"a timestamp says nothing: it {error}")
        except EvidenceMalformed as error:
            steps.append(f"a timestamp does not hold: it {error}")
            told = told or error
        else:
            steps.append(f"timestamp of {utc(stamp.time)} by {stamp.authority.uri or 'an authority of the root'}")
            found.append(stamp.time)
    if told is not None and not found:
        raise told
    return found


def _times(logged: Sequence[_Logged], stamps: Sequence[datetime]) -> tuple[datetime, ...]:
    return tuple(sorted({*stamps, *(entry.time for entry in logged if entry.time is not None)}))


def _vouched(signed: Signed, leaf: SignerCertificate, root: Root, times: Sequence[datetime], now: datetime) -> Chain:
    """Step 5."""
    if times:
        return [verify_chain(leaf, signed.chain[1:], root, moment) for moment in times][-1]
    try:
        return verify_chain(leaf, signed.chain[1:], root, now)
    except EvidenceMalformed as error:
        raise EvidenceMalformed(f"{error} (judged now: no time of signing is proven)") from error


def _check_logs(logged: Sequence[_Logged], times: Sequence[datetime], root: Root) -> None:
    """Step 4."""
    for entry in logged:
        for moment in times if entry.time is None else (entry.time,):
            if not entry.log.window.holds(moment):
                raise EvidenceMalformed(
                    f"is logged in a log that root {root.name} does not trust at {utc(moment)}: {entry.log.url}"
                )
