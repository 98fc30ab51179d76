"""One revision of the policy: everything a decision depends on besides the evidence, frozen together.

A decision takes the revision once, at its start, and uses nothing else; a reload swaps the whole value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from proxy.policy.rules import Rule, match
from proxy.verify.pipeline import Pipeline
from storage.reference import Repository


@dataclass(frozen=True, slots=True)
class Revision:
    """Rules, trust (inside the pipeline) and the interval at which pinned tags are checked (seconds)."""

    number: int
    rules: tuple[Rule, ...]
    pipeline: Pipeline
    check_interval: float

    def rule(self, repository: Repository) -> Rule:
        """The one rule that holds for a repository."""
        return match(self.rules, repository)


Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The wall clock, aware."""
    return datetime.now(UTC)
