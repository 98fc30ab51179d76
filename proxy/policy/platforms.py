"""Images of several platforms: which questions are asked of the index, which of what it lists, and the verdict over all of it.

A rule with a question about platforms must hold for each of them by itself, with what was found about the index and what was
found about this one. So a threshold of distinct signers is met on every platform or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.policy.rules import AttestationBy, On, Question
from proxy.policy.verdicts import Check, Outcome, Verdict

#: How many different lines are told; the rest are counted.
_TOLD = 8


def of_index(questions: Sequence[Question]) -> tuple[Question, ...]:
    """What is asked about the index itself."""
    return tuple(question for question in questions if _on(question) is not On.PLATFORM)


def of_platforms(questions: Sequence[Question]) -> tuple[Question, ...]:
    """What is asked about each manifest that the index lists."""
    return tuple(question for question in questions if _on(question) is not On.INDEX)


def _on(question: Question) -> On:
    return question.on if isinstance(question, AttestationBy) else On.INDEX


def each_platform(verdicts: Sequence[tuple[str, Verdict]]) -> Verdict:
    """One verdict of those on every platform, each with a name for people; there is at least one.

    A single refusal refuses, whatever else could not be told; the first that ends ends all. Raises :class:`ValueError` for none.
    """
    if not verdicts:
        raise ValueError("a verdict on each of no platforms would let everything pass")
    outcomes = [verdict.outcome for _, verdict in verdicts]
    outcome = next((each for each in (Outcome.REFUSED, Outcome.UNKNOWN) if each in outcomes), Outcome.ACCEPTED)
    met = outcomes.count(Outcome.ACCEPTED)
    checks = [Check(0, f"each of {len(verdicts)} platforms", outcome, f"{met} of {len(verdicts)} met")]
    for name, verdict in verdicts:
        checks.append(Check(1, f"platform {name}", verdict.outcome, verdict.outcome))
        checks += [Check(check.depth + 2, check.requirement, check.outcome, check.found) for check in verdict.checks]
    ends = [verdict.valid_until for _, verdict in verdicts if verdict.valid_until is not None]
    waits = [verdict.retry_after for _, verdict in verdicts if verdict.retry_after is not None]
    return Verdict(
        outcome,
        _reasons([(name, verdict.reasons) for name, verdict in verdicts if verdict.outcome is outcome], len(verdicts)),
        tuple(checks),
        tuple(dict.fromkeys(piece for _, verdict in verdicts for piece in verdict.evidence)),
        min(ends, default=None) if outcome is Outcome.ACCEPTED else None,
        max(waits, default=None),
        _signers([verdict for _, verdict in verdicts]) if outcome is Outcome.ACCEPTED else None,
    )


def _signers(verdicts: Sequence[Verdict]) -> tuple[str, ...] | None:
    """All who vouched for a platform; unknown where it is so for one of them."""
    known = [verdict.signers for verdict in verdicts if verdict.signers is not None]
    return tuple(sorted({line for lines in known for line in lines})) if len(known) == len(verdicts) else None


def _reasons(told: Sequence[tuple[str, Sequence[str]]], platforms: int) -> tuple[str, ...]:
    """Each reason once, with the platforms that it holds for where these are not all."""
    names: dict[str, list[str]] = {}
    for name, reasons in told:
        for reason in reasons:
            names.setdefault(reason, []).append(name)
    lines = []
    for reason, those in names.items():
        more = f" and {len(those) - 1} more" if len(those) > 1 else ""
        lines.append(reason if len(those) == platforms else f"platform {those[0]}{more}: {reason}")
    return (*lines[:_TOLD], *([f"and {len(lines) - _TOLD} more like these"] if len(lines) > _TOLD else []))
