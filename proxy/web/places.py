"""Places for connections: so many in all, and so many for each address, counted from the moment in which one is accepted."""

from __future__ import annotations

import ipaddress
from collections import Counter


def neighbourhood(peer: object) -> str:
    """Whose share a connection counts to, from the socket's name of its peer: an IPv4 address, or an IPv6 network of 64 bits.

    Whoever has one IPv6 address commonly has all of its /64.
    """
    if not isinstance(peer, tuple) or not peer:
        return ""
    try:
        address = ipaddress.ip_address(str(peer[0]))
    except ValueError:
        return str(peer[0])
    if isinstance(address, ipaddress.IPv6Address):
        return str(address.ipv4_mapped or address.packed[:8].hex())
    return str(address)


class Places:
    """``most`` in all, ``each`` for one address. What was taken must be left once."""

    def __init__(self, most: int, each: int) -> None:
        self._most = most
        self._each = each
        self._taken: Counter[str] = Counter()
        self._open = 0

    def take(self, whose: str) -> bool:
        """A place, if there is one."""
        if self._open >= self._most or self._taken.get(whose, 0) >= self._each:
            return False
        self._open += 1
        self._taken[whose] += 1
        return True

    def leave(self, whose: str) -> None:
        """The place is free again."""
        self._open -= 1
        self._taken[whose] -= 1
        if not self._taken[whose]:
            del self._taken[whose]
