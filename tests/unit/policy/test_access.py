"""Grants: by whom, from where, for what. What no rule gives is refused."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.access import ANONYMOUS, Access, AccessRule, Kind, Principal
from proxy.policy.patterns import Pattern
from storage.reference import Repository

ALICE = Principal(Kind.USER, "alice")
ROBOT = Principal(Kind.OIDC, "k8s:system:serviceaccount:web:app")
HUB = Repository.of("docker.io", "library/alpine")
TEAM = Repository.of("registry.corp.example", "team/app")


def access(*rules: tuple[str, str, str]) -> Access:
    """Rules of (who, from, pull), each a list with spaces between."""
    return Access(
        tuple(
            AccessRule(
                tuple(map(Pattern.compile, who.split())),
                tuple(map(ip_network, where.split())),
                tuple(map(Pattern.compile, pull.split())),
            )
            for who, where, pull in rules
        )
    )


@pytest.mark.parametrize(
    ("rule", "principal", "address", "repository", "allowed"),
    [
        (("anyone", "", "**"), ANONYMOUS, "192.0.2.1", HUB, True),
        (("anyone", "", "docker.io/**"), ANONYMOUS, "192.0.2.1", TEAM, False),
        (("authenticated", "", "**"), ANONYMOUS, "192.0.2.1", HUB, False),
        (("authenticated", "", "**"), ALICE, "192.0.2.1", HUB, True),
        (("anonymous", "", "**"), ANONYMOUS, "192.0.2.1", HUB, True),
        (("anonymous", "", "**"), ALICE, "192.0.2.1", HUB, False),
        (("**", "", "**"), ANONYMOUS, "192.0.2.1", HUB, False),
        (("anon*", "", "**"), ANONYMOUS, "192.0.2.1", HUB, False),
        (("user:*", "", "**"), ALICE, "192.0.2.1", HUB, True),
        (("user:alice", "", "**"), ALICE, "192.0.2.1", HUB, True),
        (("user:bob token:*", "", "**"), ALICE, "192.0.2.1", HUB, False),
        (("user:ali", "", "**"), ALICE, "192.0.2.1", HUB, False),
        (("token:alice", "", "**"), ALICE, "192.0.2.1", HUB, False),
        (("oidc:k8s:system:serviceaccount:web:*", "", "**"), ROBOT, None, HUB, True),
        (("anyone", "10.0.0.0/8", "**"), ANONYMOUS, "10.1.2.3", HUB, True),
        (("anyone", "10.0.0.0/8", "**"), ANONYMOUS, "::ffff:10.1.2.3", HUB, True),
        (("anyone", "10.0.0.0/8", "**"), ANONYMOUS, "11.1.2.3", HUB, False),
        (("anyone", "10.0.0.0/8 fd00::/8", "**"), ANONYMOUS, "fd00::1%eth0", HUB, True),
        (("anyone", "10.0.0.0/8", "**"), ANONYMOUS, None, HUB, False),
        (("anyone", "10.0.0.0/8", "**"), ANONYMOUS, "nonsense", HUB, False),
    ],
)
def test_a_rule_gives_what_it_says(
    rule: tuple[str, str, str], principal: Principal, address: str | None, repository: Repository, allowed: bool
) -> None:
    """Each part of a rule must match; wildcards never reach those who have not shown who they are."""
    assert access(rule).allows(principal, address, repository) is allowed


def test_one_rule_that_matches_suffices() -> None:
    """Rules only give; what one does not, another may."""
    both = access(("user:alice", "", "registry.corp.example/team/**"), ("anyone", "", "docker.io/**"))
    assert both.allows(ALICE, None, TEAM)
    assert both.allows(ALICE, None, HUB)
    assert both.allows(ANONYMOUS, None, HUB)
    assert not both.allows(ANONYMOUS, None, TEAM)
    assert both.welcomes(ANONYMOUS, None)
    assert not access(("authenticated", "", "**")).welcomes(ANONYMOUS, None)


@given(st.sampled_from([ANONYMOUS, ALICE, ROBOT]), st.sampled_from([HUB, TEAM]))
def test_no_rules_give_nothing(principal: Principal, repository: Repository) -> None:
    """An empty list is no open door."""
    assert not Access(()).allows(principal, "127.0.0.1", repository)
    assert not Access(()).welcomes(principal, "127.0.0.1")


def test_principals_have_one_spelling() -> None:
    """What logs show is what rules match."""
    assert [str(each) for each in (ANONYMOUS, ALICE, ROBOT)] == [
        "anonymous",
        "user:alice",
        "oidc:k8s:system:serviceaccount:web:app",
    ]
