"""The canary: every client of the node pulls what the proxy always refuses, and what it says then is judged.

What proves that a client did not go on to the upstream is not the same for all of them: the proxy does not see what a client does
elsewhere, and clients tell their user only a part of it (:class:`Tells`):

- a trace: ctr, nerdctl and podman print every request when asked to. Whom they asked is known, and nothing is left to infer;
- the last error: dockerd's graph store reports what the last of its endpoints said. The proxy's words, which nobody else can know
  (:func:`proxy.policy.canary.token`), mean that it was the last one asked;
- the first error: containerd's CRI and docker's containerd store report the first refusal other than a 404. The proxy's words
  mean only that it was asked. So a second tag is asked for, which the proxy answers 404: any other error is then somebody else's.
  An upstream that answers 404 as well stays unseen.

A *bait*, an image that exists upstream and that the proxy refuses, needs no inference at all: whoever has it went around.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from proxy.clients.traps.node import Expected, Target
from proxy.policy import canary
from proxy.routing import component

_COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_MAX_OUTPUT = 1 << 20
#: Requests in the traces of containerd's and of containers/image's libraries.
_REQUESTS = (
    re.compile(r'\burl=\\?"?(https?://[^\s"\\]+)'),
    re.compile(r'\bmsg="(?:GET|HEAD|Ping) (https?://[^\s"\\]+)'),
)
_NOT_FOUND = re.compile(r"not found|manifest unknown|MANIFEST_UNKNOWN|\b404\b", re.IGNORECASE)


class Tells(StrEnum):
    """What of its requests a client lets its user know."""

    TRACE = "trace"
    LAST = "last"
    FIRST = "first"


class Verdict(StrEnum):
    """What the canary says about a client."""

    CLOSED = "closed"  #: it asked the proxy, was refused, and asked nobody else
    OPEN = "open"  #: it asked somebody else, or has what it must not have
    REFUSED = "refused"  #: the refusal came through; that it asked nobody else is likely, not proven
    UNKNOWN = "unknown"  #: the pull says nothing


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one command ended, and everything that it printed."""

    ok: bool
    output: str

    @property
    def last_line(self) -> str:
        """What a person would look at."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip() and "level=debug" not in line]
        return next((line for line in reversed(lines) if "DEBU" not in line), "it said nothing")[-600:]


class Runner(Protocol):
    """Runs a program of the node. ``None``: it could not be run, or did not end in time."""

    def __call__(self, command: Sequence[str], env: Mapping[str, str]) -> Outcome | None:
        """Run a command."""
        ...


@dataclass(frozen=True, slots=True)
class Driver:
    """How to pull with one client, look whether it has an image, and remove it."""

    name: str
    tells: Tells
    pull: tuple[str, ...]
    held: tuple[str, ...]
    remove: tuple[str, ...]
    env: Mapping[str, str]
    after: tuple[str, ...] = ()  #: run at the end, whatever came of it
    #: Whether ``held`` answers by its exit code, or by printing something.
    by_code: bool = True
    #: Asks whether its daemon is there at all: what it says without one is nobody's refusal.
    daemon: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one pull."""

    client: str
    reference: str
    verdict: Verdict
    why: str
    said: str
    asked: tuple[str, ...] | None = None  #: hosts, where the client traces them


def nonce() -> str:
    """A tag that nobody has used."""
    return secrets.token_hex(10)


def clean(raw: bytes) -> str:
    """A client's output as text, without colours, bounded."""
    return _COLOURS.sub("", raw[:_MAX_OUTPUT].decode("utf-8", "replace"))


def asked(output: str) -> tuple[str, ...]:
    """The hosts that a trace names, in order."""
    found: dict[str, None] = {}
    for pattern in _REQUESTS:
        for each in pattern.finditer(output):
            if (target := Target.parse(each[1])) is not None:
                found[target.host] = None
    return tuple(found)


class Canary:
    """Pulls through the clients of one node. ``run`` runs programs; ``refuses`` asks the proxy itself about a reference."""

    def __init__(self, expected: Expected, run: Runner, refuses: Callable[[str, str], str | None]) -> None:
        self._expected = expected
        self._run = run
        self._refuses = refuses

    def try_out(self, driver: Driver, registries: Sequence[str], baits: Sequence[str] = ()) -> list[Report]:
        """Pull the canary of every registry, and every bait. Nothing of it stays with the client."""
        reports = []
        if (said := self._missing(driver)) is not None:
            why = "its daemon does not answer"
            names = (*(f"{registry}/{canary.REPOSITORY}" for registry in registries), *baits)
            return [Report(driver.name, name, Verdict.UNKNOWN, why, said) for name in names]
        try:
            for registry in registries:
                tag = nonce()
                if (trouble := self._refuses(f"{registry}/{canary.REPOSITORY}:{tag}", canary.token(tag))) is not None:
                    name = f"{registry}/{canary.REPOSITORY}:{tag}"
                    reports.append(Report(driver.name, name, Verdict.UNKNOWN, trouble, ""))
                    continue
                reports.append(self._canary(driver, f"{registry}/{canary.REPOSITORY}", tag))
                if driver.tells is Tells.LAST:
                    reports.append(self._canary(driver, f"{self._prefixed(registry)}/{canary.REPOSITORY}", nonce()))
            reports += [self._bait(driver, bait) for bait in baits]
        finally:
            if driver.after:
                self._run(driver.after, driver.env)
        return reports

    def _missing(self, driver: Driver) -> str | None:
        """What a client says whose daemon does not answer; None where there is nothing amiss."""
        if not driver.daemon:
            return None
        answer = self._run(driver.daemon, driver.env)
        return None if answer is not None and answer.ok else "" if answer is None else answer.last_line

    def _prefixed(self, registry: str) -> str:
        return f"{self._expected.proxies[0].host}/{component(registry)}"

    def _pull(self, driver: Driver, name: str) -> tuple[Outcome | None, bool]:
        """The pull, and whether the client had the image afterwards; then it has it no more."""
        outcome = self._run((*driver.pull, name), driver.env)
        held = self._held(driver, name)
        if held:
            self._run((*driver.remove, name), driver.env)
        return outcome, held

    def _held(self, driver: Driver, name: str) -> bool:
        answer = self._run((*driver.held, name), driver.env)
        return answer is not None and answer.ok and (driver.by_code or bool(answer.output.strip()))

    def _canary(self, driver: Driver, repository: str, tag: str) -> Report:
        name = f"{repository}:{tag}"
        outcome, held = self._pull(driver, name)
        if outcome is None:
            return Report(driver.name, name, Verdict.UNKNOWN, "the client could not be run, or did not end in time", "")
        said = outcome.last_line
        if outcome.ok or held:
            return Report(driver.name, name, Verdict.OPEN, "it was given what the proxy refuses", said)
        refused = canary.token(tag) in outcome.output
        if driver.tells is Tells.TRACE:
            return self._traced(driver, name, outcome, refused=refused)
        if not refused:
            why = "what it says is not the proxy's refusal: it did not ask the proxy, or asked somebody else after it"
            return Report(driver.name, name, Verdict.OPEN, why, said)
        if driver.tells is Tells.LAST:
            return Report(driver.name, name, Verdict.CLOSED, "its last word is the proxy's refusal", said)
        return self._absent(driver, repository, name, said)

    def _traced(self, driver: Driver, name: str, outcome: Outcome, *, refused: bool) -> Report:
        hosts, said = asked(outcome.output), outcome.last_line
        others = [host for host in hosts if not self._expected.is_proxy(host)]
        if others:
            order = "after the proxy had refused" if len(others) < len(hosts) else "not the proxy"
            why = f"it asked {', '.join(others)}, {order}"
            return Report(driver.name, name, Verdict.OPEN, why, said, hosts)
        if not hosts:
            return Report(driver.name, name, Verdict.UNKNOWN, "its trace names no request", said, hosts)
        if not refused:
            return Report(driver.name, name, Verdict.UNKNOWN, "it asked the proxy alone, but shows no refusal", said, hosts)
        return Report(driver.name, name, Verdict.CLOSED, "it asked the proxy, was refused, and asked nobody else", said, hosts)

    def _absent(self, driver: Driver, repository: str, name: str, said: str) -> Report:
        """The second tag for a client that tells its first error: whatever is not a 404 is somebody else's."""
        second = f"{repository}:{canary.ABSENT}{nonce()}"
        outcome, held = self._pull(driver, second)
        if outcome is None:
            return Report(driver.name, name, Verdict.UNKNOWN, "the client did not end in time", said)
        if outcome.ok or held or not _NOT_FOUND.search(outcome.last_line):
            why = "where the proxy said 404 the client tells of another error: it asked somebody else"
            return Report(driver.name, second, Verdict.OPEN, why, outcome.last_line)
        why = "the proxy's refusal came through; an upstream that says 404 would not be seen (a bait shows it)"
        return Report(driver.name, name, Verdict.REFUSED, why, said)

    def _bait(self, driver: Driver, name: str) -> Report:
        if self._held(driver, name):
            return Report(driver.name, name, Verdict.UNKNOWN, "the client has this image already, from wherever", "")
        if (trouble := self._refuses(name, "")) is not None:
            return Report(driver.name, name, Verdict.UNKNOWN, trouble, "")
        outcome, held = self._pull(driver, name)
        if outcome is None:
            return Report(driver.name, name, Verdict.UNKNOWN, "the client could not be run, or did not end in time", "")
        if outcome.ok or held:
            return Report(driver.name, name, Verdict.OPEN, "it was given what the proxy refuses", outcome.last_line)
        hosts = asked(outcome.output) if driver.tells is Tells.TRACE else None
        if hosts is not None and not hosts:
            return Report(driver.name, name, Verdict.UNKNOWN, "its trace names no request", outcome.last_line, hosts)
        if hosts and (others := [host for host in hosts if not self._expected.is_proxy(host)]):
            return Report(driver.name, name, Verdict.OPEN, f"it asked {', '.join(others)}", outcome.last_line, hosts)
        return Report(driver.name, name, Verdict.CLOSED, "it was not given what its upstream has", outcome.last_line, hosts)
