"""How far the candidate of a pin has come, for people and for scripts: ``tagstone pins show`` and ``list``."""

from __future__ import annotations

from datetime import datetime

from proxy.cli import common
from proxy.policy.rotation import Hold, Progress, known, progress, told
from proxy.policy.rules import Rule, TagRule
from proxy.policy.signers import told as signers_told
from storage.records import Judgement, Pin


def candidate_json(pin: Pin, rule: Rule, now: datetime) -> dict[str, object] | None:
    """The candidate as scripts read it; None where there is none."""
    if pin.candidate is None:
        return None
    tags, judgement, far = _looked_at(pin, rule, now)
    rotation = tags.rotation
    return {
        "digest": str(pin.candidate),
        "seen_at": common.moment(pin.candidate_seen_at),
        "rejected": pin.rejected == pin.candidate,
        "verdict": "unknown" if judgement is None else judgement.standing.value,
        "judged_at": None if judgement is None else common.moment(judgement.at),
        "reasons": [] if judgement is None else list(judgement.reasons),
        "on_overwrite": tags.on_overwrite.value,
        "waits_for": None if far.hold is None else far.hold.value,
        "cooldown_until": common.moment(far.cooldown_until),
        "window": None if rotation is None or rotation.window is None else str(rotation.window),
        "rotates_from": common.moment(far.opens),
        "approvals": [{"by": each.by, "at": common.moment(each.at), "reason": each.reason} for each in far.approvals],
        "approvals_needed": far.needed,
        "stale_since": common.moment(pin.stale_at),
    }


def candidate_lines(pin: Pin, rule: Rule, now: datetime) -> list[str]:
    """The candidate as people read it, each line with a word before it; none where there is none."""
    if pin.candidate is None:
        return []
    tags, judgement, far = _looked_at(pin, rule, now)
    lines = [f"  judged      {_verdict(pin, judgement)}"]
    if tags.rotation is not None:
        lines.append(f"  waits       {told(far, judgement)}")
        lines.append(f"  cooldown    until {common.moment(far.cooldown_until)}")
        if tags.rotation.window is not None:
            lines.append(f"  window      {tags.rotation.window}; next at {common.moment(far.opens)}")
    if far.needed > 1 or far.approvals or (far.needed and tags.rotation is not None):
        people = ", ".join(f"{each.by} ({common.moment(each.at)})" for each in far.approvals) or "nobody yet"
        lines.append(f"  approved    by {people}; {len(far.approvals)} of {far.needed}")
    if pin.stale_at is not None:
        lines.append(f"  stale       since {common.moment(pin.stale_at)}: it waits for somebody")
    return lines


def passable(pin: Pin, rule: Rule, now: datetime) -> bool:
    """Whether an approval could do anything now, as far as is known: it does not stand for a verdict."""
    return _looked_at(pin, rule, now)[2].hold is not Hold.FAILS


def signers_line(pin: Pin) -> str | None:
    """Who vouched for the pinned digest; None where that is not known."""
    return None if pin.signers is None else f"  signed by   {signers_told(pin.signers)}"


def in_short(pin: Pin, rule: Rule, now: datetime) -> str:
    """The candidate in a listing; empty where there is none."""
    if pin.candidate is None:
        return ""
    tags, judgement, far = _looked_at(pin, rule, now)
    words = ["unknown" if judgement is None else judgement.standing.value]
    if far.hold is not None and far.hold.value not in words:
        words.append(far.hold.value)
    if tags.rotation is not None and far.due is not None:
        words.append(f"until {common.moment(far.due)}")
    if far.needed > 1 or (far.needed and tags.rotation is not None):
        words.append(f"{len(far.approvals)} of {far.needed} approvals")
    return f"  upstream: {pin.candidate} ({', '.join(words)})"


def _looked_at(pin: Pin, rule: Rule, now: datetime) -> tuple[TagRule, Judgement | None, Progress]:
    tags = rule.tag_rule(pin.tag)
    judgement = known(pin, rule, tags)
    return tags, judgement, progress(pin, tags, None if judgement is None else judgement.standing, now)


def _verdict(pin: Pin, judgement: Judgement | None) -> str:
    if judgement is None:
        return f"unknown, since it was first seen at {common.moment(pin.candidate_seen_at)}"
    words = {"passes": "passes", "fails": "does not pass", "other-signer": "passes, by another signer"}
    return f"{words[judgement.standing.value]}, since {common.moment(judgement.at)}: {'; '.join(judgement.reasons)}"
