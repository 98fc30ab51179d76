"""Places for connections, and whose share one counts to."""

from __future__ import annotations

import pytest

from proxy.web.places import Places, neighbourhood


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (("192.0.2.1", 1), ("192.0.2.1", 2), True),
        (("192.0.2.1", 1), ("192.0.2.2", 1), False),
        (("192.0.2.1", 1), ("::ffff:192.0.2.1", 1, 0, 0), True),
        (("2001:db8:0:1::1", 1, 0, 0), ("2001:db8:0:1:ffff::", 1, 0, 0), True),
        (("2001:db8:0:1::1", 1, 0, 0), ("2001:db8:0:2::1", 1, 0, 0), False),
        (("fe80::1%eth0", 1, 0, 2), ("fe80::2%eth1", 1, 0, 3), True),
        (("a name", 1), ("192.0.2.1", 1), False),
        (None, "", True),
        (None, ("192.0.2.1", 1), False),
    ],
)
def test_whose_share(one: object, other: object, same: bool) -> None:
    """An IPv4 address has one, also where it is written as IPv6; so has an IPv6 network of 64 bits, and all who have no name."""
    assert (neighbourhood(one) == neighbourhood(other)) is same


def test_there_are_so_many_in_all() -> None:
    """When all are taken nobody gets one, until one is left."""
    places = Places(2, 2)
    assert places.take("a")
    assert places.take("b")
    assert not places.take("c")
    places.leave("a")
    assert places.take("c")
    assert not places.take("a")


def test_there_are_so_many_for_each() -> None:
    """Who has its share gets no more, and others do."""
    places = Places(9, 2)
    assert places.take("a")
    assert places.take("a")
    assert not places.take("a")
    assert places.take("b")
    places.leave("a")
    assert places.take("a")
    assert not places.take("a")
