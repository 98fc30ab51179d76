"""Who vouched: one line each, compared by who it is and not by what it is called."""

from __future__ import annotations

import pytest

from proxy.policy.patterns import Pattern
from proxy.policy.platforms import each_platform
from proxy.policy.rules import (
    AllOf,
    AnyOf,
    AtLeast,
    AttestationBy,
    FirstUse,
    Identity,
    OpenPgp,
    Question,
    Requirement,
    SignatureBy,
    Store,
)
from proxy.policy.signers import belongs, continues, signer_line, told
from proxy.policy.verdicts import Evidence, Outcome, Verdict, evaluate

ISSUER = "https://token.actions.githubusercontent.com"
WORKFLOW = "https://github.com/acme/app/.github/workflows/release.yml"
ONE, TWO, THREE = SignatureBy("one"), SignatureBy("two"), SignatureBy("three")
SBOM = AttestationBy("https://spdx.dev/Document", "two")


def found(question: Question, authority: str, *, accepted: bool = True) -> Evidence:
    """A piece of evidence for a question."""
    return Evidence("cosign signature", "signature tag", question, authority, accepted, "fine" if accepted else "broken")


@pytest.mark.parametrize(
    ("question", "authority", "line"),
    [
        (ONE, "ab12", "key one ab12"),
        (SBOM, "cd34", "key two cd34"),
        (SignatureBy(OpenPgp("redhat")), "FEED", "openpgp redhat FEED"),
        (SignatureBy(Store("corp")), "x509.subject:beef", "notation corp x509.subject:beef"),
        (
            SignatureBy(Identity("sigstore", ISSUER, Pattern.compile("**acme**"))),
            f"{ISSUER} {WORKFLOW}@refs/heads/main",
            f"keyless {ISSUER} {WORKFLOW}@refs/heads/main",
        ),
    ],
    ids=["key", "key of an attestation", "OpenPGP", "notation", "keyless"],
)
def test_every_kind_of_signer_has_a_line(question: Question, authority: str, line: str) -> None:
    """Kind, name as the operator gave it, and who it is."""
    assert signer_line(question, authority) == line


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        (["key a aa"], ["key a aa"], True),
        (["key a aa"], ["key renamed aa"], True),
        (["key a aa"], ["key a bb"], False),
        (["key a aa"], ["openpgp a aa"], False),
        (["key a aa", "key b bb"], ["key b bb"], True),
        (["key a aa"], ["key a aa", "key b bb"], False),
        (["key a aa"], [], False),
        ([], ["key a aa"], False),
        ([], [], True),
        ([f"keyless {ISSUER} me@acme.example"], [f"keyless {ISSUER} me@acme.example"], True),
        ([f"keyless {ISSUER} me@acme.example"], [f"keyless {ISSUER} you@acme.example"], False),
        ([f"keyless {ISSUER} me@acme.example"], ["keyless https://accounts.example me@acme.example"], False),
        ([f"keyless {ISSUER} {WORKFLOW}@refs/tags/v1"], [f"keyless {ISSUER} {WORKFLOW}@refs/tags/v2"], True),
        ([f"keyless {ISSUER} {WORKFLOW}@refs/tags/v1"], [f"keyless {ISSUER} {WORKFLOW}@refs/heads/v1"], False),
        ([f"keyless {ISSUER} {WORKFLOW}@refs/heads/main"], [f"keyless {ISSUER} {WORKFLOW}@refs/heads/evil"], False),
        ([f"keyless {ISSUER} {WORKFLOW}@refs/tags/v1"], [f"keyless {ISSUER} {WORKFLOW}x@refs/tags/v1"], False),
    ],
)
def test_who_continues_whom(before: list[str], now: list[str], same: bool) -> None:
    """Nobody new, and somebody where there was somebody. The git tag of a release is no part of who made it; a branch is."""
    assert continues(before, now) is same
    for line in now:
        assert belongs(line, before) or not same


def test_what_is_told_is_short_and_printable() -> None:
    """Whatever a certificate held."""
    assert told([]) == "nobody"
    assert told(["key release 0123456789abcdef"]) == "key release (0123456789ab…)"
    assert told(["openpgp redhat 0123456789ABCDEF"]) == "OpenPGP key redhat (0123456789AB…)"
    assert told(["notation corp x509.subject:0123456789abcdef"]) == "signer 0123456789ab… of notation store corp"
    assert told([f"keyless {ISSUER} me@acme.example", "key a bb"]) == f"me@acme.example of {ISSUER} and key a (bb…)"
    nasty = told([f"keyless {ISSUER} x\n\x1b[31m{'y' * 1000}"])
    assert nasty.isprintable()
    assert len(nasty) < 350


@pytest.mark.parametrize(
    ("requirement", "evidence", "signers"),
    [
        (FirstUse(), [], ()),
        (ONE, [found(ONE, "aa")], ("key one aa",)),
        (ONE, [found(ONE, "bb", accepted=False), found(ONE, "aa")], ("key one aa",)),
        (AllOf((ONE, SBOM)), [found(ONE, "aa"), found(SBOM, "bb")], ("key one aa", "key two bb")),
        (AnyOf((ONE, TWO)), [found(TWO, "bb")], ("key two bb",)),
        (AnyOf((ONE, TWO)), [found(ONE, "aa"), found(TWO, "bb")], ("key one aa", "key two bb")),
        (AnyOf((AllOf((ONE, TWO)), THREE)), [found(ONE, "aa"), found(THREE, "cc")], ("key three cc",)),
        (AtLeast(2, (ONE, TWO, THREE)), [found(ONE, "aa"), found(THREE, "cc")], ("key one aa", "key three cc")),
        (AnyOf((ONE, FirstUse())), [], ()),
        (ONE, [found(ONE, "aa", accepted=False)], None),
    ],
    ids=["first use", "one", "a broken one", "all", "any", "both of any", "a group not met", "threshold", "or nobody", "no"],
)  # fmt: skip
def test_an_acceptance_says_who_vouched(
    requirement: Requirement, evidence: list[Evidence], signers: tuple[str, ...] | None
) -> None:
    """Those of the branches that are met, and of these only who was accepted; a refusal names nobody."""
    assert evaluate(requirement, evidence).signers == signers


def test_platforms_are_vouched_for_by_all_of_theirs() -> None:
    """Each platform's signers count; where one platform's are not known, nobody knows them all."""
    one = Verdict(Outcome.ACCEPTED, ("a",), signers=("key a aa",))
    two = Verdict(Outcome.ACCEPTED, ("b",), signers=("key a aa", "key b bb"))
    assert each_platform([("amd64", one), ("arm64", two)]).signers == ("key a aa", "key b bb")
    assert each_platform([("amd64", one), ("arm64", Verdict(Outcome.ACCEPTED, ("b",)))]).signers is None
    assert each_platform([("amd64", one), ("arm64", Verdict(Outcome.REFUSED, ("b",)))]).signers is None
