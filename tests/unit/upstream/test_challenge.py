"""``WWW-Authenticate`` as registries write it, and as they must not."""

from __future__ import annotations

import time

import pytest

from proxy.upstream.challenge import MAX_CHALLENGES, Challenge, narrowed, parse_challenges


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull"',
            {"realm": "https://auth.docker.io/token", "service": "registry.docker.io", "scope": "repository:library/nginx:pull"},
        ),
        ('bearer REALM="https://a/t", Service="SUSE Linux Docker"', {"realm": "https://a/t", "service": "SUSE Linux Docker"}),
        ('Bearer realm="/v2/auth?a=b,c" , service=x', {"realm": "/v2/auth?a=b,c", "service": "x"}),
        ("Bearer realm=https://a.example/token?x=1,service=s", {"realm": "https://a.example/token?x=1", "service": "s"}),
        (r'Bearer realm="https://a/\"t\\"', {"realm": 'https://a/"t\\'}),
        ('Bearer  ,, realm = "r" ;x', {"realm": "r"}),
        ('Bearer realm="one",realm="two"', {"realm": "one"}),
        ('Bearer realm="",service=""', {"realm": "", "service": ""}),
        ('Bearer realm="r",scope="repository:a:pull,push"', {"realm": "r", "scope": "repository:a:pull,push"}),
        ("Bearer", {}),
        ('Bearer realm="never closed', {}),
    ],
)  # fmt: skip
def test_parameters(value: str, expected: dict[str, str]) -> None:
    """Names in any case, quoted values with commas, spaces and escapes, bare values, odd white space."""
    (challenge,) = parse_challenges([value])
    assert challenge == Challenge("bearer", expected)


def test_several_challenges_in_one_field_and_in_many() -> None:
    """Each challenge is found, in order, with its own parameters."""
    found = parse_challenges(['Negotiate dG9rZW4=, Basic realm="a, b", Bearer realm="r",service="s"', 'Digest realm="d"'])
    assert [each.scheme for each in found] == ["negotiate", "basic", "bearer", "digest"]
    assert found[0].parameters == {}
    assert (found[1].realm, found[2].realm, found[2].service, found[3].realm) == ("a, b", "r", "s", "d")


@pytest.mark.parametrize("value", ["", "   ", ",,,", '"realm"', "=x", '=" Bearer', "\x00", "realm=x"])
def test_what_is_no_challenge(value: str) -> None:
    """Nothing raises, and nothing is made up."""
    assert all(not each.realm for each in parse_challenges([value]))


def test_the_number_of_challenges_and_the_work_are_bounded() -> None:
    """An endless header costs neither memory nor time."""
    began = time.process_time()
    assert len(parse_challenges(["Basic x," * 5000] * 3)) == MAX_CHALLENGES
    assert parse_challenges(['Bearer realm="' + "\\" * 60_000])[0].realm == ""
    assert parse_challenges(["Bearer " + "a= " * 20_000])[0].realm == ""
    assert time.process_time() - began < 5


@pytest.mark.parametrize(
    ("scope", "asked"),
    [
        ("repository:library/nginx:pull", "repository:library/nginx:pull"),
        ("repository:a/b:pull,push", "repository:a/b:pull"),
        ("repository:a/b:push,delete,*", "repository:a/b:pull"),
        ("repository:a/b:*", "repository:a/b:pull"),
        ("repository:host:5000/a:pull,push", "repository:host:5000/a:pull"),
        ("repository:a:metadata_read", "repository:a:metadata_read"),
        ("registry:catalog:* repository:a:pull repository:b:pull", "repository:a:pull"),
        ("aws", "aws"),
        ("", ""),
        ("  ", ""),
        ("a:b", "a:b"),
    ],
)
def test_scopes_are_narrowed_to_reading_one_thing(scope: str, asked: str) -> None:
    """One scope, and no action but reading, whatever the challenge names."""
    assert narrowed(scope) == asked
    assert Challenge("bearer", {"scope": scope}).scope == asked


def test_missing_parameters_are_empty() -> None:
    """A bare challenge has neither realm, service, scope nor error."""
    bare = Challenge("bearer")
    assert (bare.realm, bare.service, bare.scope, bare.error) == ("", "", "", "")
    assert Challenge("bearer", {"error": "insufficient_scope"}).error == "insufficient_scope"
