"""What is not told: paths that runtimes write themselves, and those that the operator names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from proxy.drift.model import Facts, Kind
from proxy.policy.patterns import Pattern

#: Of files with patterns.
MAX_FILE = 1 << 20
MAX_PATTERNS = 10_000
MADE_FOR_A_MOUNT = "made for what is mounted in it"


class Only(StrEnum):
    """What a default leaves out at its path: never a file that can be executed."""

    PLAIN = "files that cannot be executed"
    EMPTY = "empty files, and folders"
    MTAB = "a link to /proc/mounts or /proc/self/mounts"


@dataclass(frozen=True, slots=True)
class Ignore:
    """One pattern, and why. ``only`` None: everything at the path and below it (an operator's)."""

    text: str
    reason: str
    only: Only | None = None
    pattern: Pattern = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        text = self.text if self.text.startswith("/") else f"**/{self.text}"
        object.__setattr__(self, "pattern", Pattern.compile(text.rstrip("/") or "/"))

    def covers(self, path: str) -> bool:
        """Whether the pattern is about a path (as it is shown), whatever stands there."""
        return self.pattern.matches(path)

    def leaves_out(self, expected: Facts | None, actual: Facts | None, *, executable: bool) -> bool:
        """Whether a difference at such a path is left out."""
        if self.only is None:
            return True
        if executable or (actual is not None and actual.mode & 0o6000):
            return False
        match self.only:
            case Only.PLAIN:
                return all(facts is None or facts.kind is Kind.FILE for facts in (expected, actual))
            case Only.EMPTY:
                made = actual is not None and (actual.kind is Kind.DIRECTORY or (actual.kind is Kind.FILE and actual.size == 0))
                return made and expected is None
            case Only.MTAB:
                return actual is not None and actual.target in {b"/proc/mounts", b"/proc/self/mounts"} and expected is None


_FOR_EACH = "runtimes write it for each container"
_MOUNTED = "runtimes make what they mount over"
DEFAULTS = (
    Ignore("/etc/hosts", _FOR_EACH, Only.PLAIN),
    Ignore("/etc/hostname", _FOR_EACH, Only.PLAIN),
    Ignore("/etc/resolv.conf", _FOR_EACH, Only.PLAIN),
    Ignore("/etc/mtab", "docker and podman make this link", Only.MTAB),
    Ignore("/.dockerenv", "docker marks its containers by it", Only.PLAIN),
    Ignore("/run/.containerenv", "podman marks its containers by it", Only.PLAIN),
    Ignore("/run", "podman makes it for its mark", Only.EMPTY),
    Ignore("/dev", _MOUNTED, Only.EMPTY),
    Ignore("/dev/**", _MOUNTED, Only.EMPTY),
    Ignore("/proc", _MOUNTED, Only.EMPTY),
    Ignore("/sys", _MOUNTED, Only.EMPTY),
    Ignore("/run/secrets", "secrets are mounted there", Only.EMPTY),
    Ignore("/run/secrets/**", "secrets are mounted there", Only.EMPTY),
    Ignore("/var/run/secrets", "Kubernetes mounts service accounts there", Only.EMPTY),
    Ignore("/var/run/secrets/**", "Kubernetes mounts service accounts there", Only.EMPTY),
)


def of_operator(patterns: Sequence[str]) -> tuple[Ignore, ...]:
    """What the operator names: a glob from the root, or (without a leading slash) a name or path at any depth."""
    return tuple(Ignore(text, "ignored on request") for text in patterns)


def read_patterns(text: str) -> tuple[str, ...]:
    """The patterns in a file: one a line, blank lines and those that begin with ``#`` aside. Raises ValueError for too many."""
    lines = [line.strip() for line in text.splitlines()]
    patterns = tuple(line for line in lines if line and not line.startswith("#"))
    if len(patterns) > MAX_PATTERNS:
        raise ValueError(f"it holds {len(patterns)} patterns; at most {MAX_PATTERNS} are read")
    return patterns
