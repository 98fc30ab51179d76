"""Who may pull what: principals, and rules that give them repositories. Pure values and functions.

A request is allowed when one rule matches whoever asks, from where, and for what. There are no rules that take away: what no rule
gives is refused. Verification (:mod:`proxy.policy.rules`) is a question of its own, asked afterwards; neither opens the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from proxy.policy.patterns import Pattern
from storage.reference import Repository

Network = IPv4Network | IPv6Network


class Kind(StrEnum):
    """How somebody showed who they are."""

    ANONYMOUS = "anonymous"
    USER = "user"  #: by password
    TOKEN = "token"  # noqa: S105 (a word, not a secret)
    CERTIFICATE = "certificate"
    OIDC = "oidc"  #: by a signed token of somebody who vouches for them


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever asks. ``str()`` is what rules match and logs show: ``user:alice``, ``oidc:k8s:system:serviceaccount:web:app``."""

    kind: Kind
    name: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind.value

    @property
    def known(self) -> bool:
        """Whether they showed who they are."""
        return self.kind is not Kind.ANONYMOUS


ANONYMOUS = Principal(Kind.ANONYMOUS)

#: Words that stand for many in ``who``.
AUTHENTICATED = "authenticated"
ANYONE = "anyone"


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One grant. Patterns of ``who`` are over :class:`Principal` as text; ``networks`` empty: from anywhere."""

    who: tuple[Pattern, ...]
    networks: tuple[Network, ...]
    pull: tuple[Pattern, ...]

    def holds_for(self, principal: Principal, address: str | None) -> bool:
        """Whether this rule gives anything to whoever asks from this address (None: not known, and in no network)."""
        return any(_is(pattern, principal) for pattern in self.who) and (not self.networks or _within(self.networks, address))


def _is(pattern: Pattern, principal: Principal) -> bool:
    if pattern.text == ANYONE:
        return True
    if pattern.text == AUTHENTICATED:
        return principal.known
    # Only words stand for people who have not shown who they are; no wildcard reaches them.
    return pattern.matches(str(principal)) and (principal.known or pattern.text == Kind.ANONYMOUS)


def _within(networks: Sequence[Network], address: str | None) -> bool:
    if address is None:
        return False
    try:
        place = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(place, IPv6Address) and place.ipv4_mapped is not None:
        place = place.ipv4_mapped
    return any(place in network for network in networks if _same_family(place, network))


def _same_family(place: IPv4Address | IPv6Address, network: Network) -> bool:
    return place.version == network.version


@dataclass(frozen=True, slots=True)
class Access:
    """All grants. Without any rule nobody may pull anything."""

    rules: tuple[AccessRule, ...]

    def allows(self, principal: Principal, address: str | None, repository: Repository) -> bool:
        """Whether somebody may pull from a repository."""
        name = str(repository)
        return any(
            rule.holds_for(principal, address) and any(pattern.matches(name) for pattern in rule.pull) for rule in self.rules
        )

    def welcomes(self, principal: Principal, address: str | None) -> bool:
        """Whether somebody may pull anything at all."""
        return any(rule.holds_for(principal, address) for rule in self.rules)
