"""Rules: which pattern wins, what a requirement needs, and what evidence amounts to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.patterns import Pattern, most_specific
from proxy.policy.rules import (
    DEFAULT_RULE,
    AllOf,
    AnyOf,
    AtLeast,
    AttestationBy,
    FirstUse,
    Never,
    OnOverwrite,
    Requirement,
    Root,
    Rule,
    SignatureBy,
    Store,
    TagRule,
    fingerprint,
    match,
    questions_of,
)
from proxy.policy.verdicts import Evidence, Outcome, evaluate
from storage.reference import Repository

# -- patterns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("ghcr.io/acme/app", "ghcr.io/acme/app", True),
        ("ghcr.io/acme/app", "ghcr.io/acme/app2", False),
        ("ghcr.io/acme/app", "xghcr.io/acme/app", False),
        ("ghcr.io/acme/app", "ghcrxio/acme/app", False),
        ("ghcr.io/acme/*", "ghcr.io/acme/app", True),
        ("ghcr.io/acme/*", "ghcr.io/acme/team/app", False),
        ("ghcr.io/acme/*", "ghcr.io/acme/", True),
        ("ghcr.io/acme/*", "ghcr.io/acme", False),
        ("ghcr.io/acme/**", "ghcr.io/acme/team/app", True),
        ("ghcr.io/acme/**", "ghcr.io/acme-evil/app", False),
        ("ghcr.io/acme**", "ghcr.io/acme-evil/app", True),
        ("ghcr.io/*/app", "ghcr.io/acme/app", True),
        ("ghcr.io/*/app", "ghcr.io/a/b/app", False),
        ("ghcr.io/**/app", "ghcr.io/a/b/app", True),
        ("ghcr.io/**/app", "ghcr.io/app", False),
        ("**/app", "docker.io/a/app", True),
        ("**", "docker.io/library/nginx", True),
        ("**", "", True),
        ("*", "docker.io/library/nginx", False),
        ("*", "latest", True),
        ("v*.*.*", "v1.2.3", True),
        ("v*.*.*", "v1.2", False),
        ("v*.*.*", "v1.2.3-rc.1", True),
        ("v?", "v1", True),
        ("v?", "v", False),
        ("v?", "v12", False),
        ("a?b", "a/b", False),
        ("?", "\n", True),
        ("a*", "a\nb", True),
        ("a**", "a\n/b", True),
        ("a.b", "axb", False),
        ("a+", "aa", False),
        ("a+", "a+", True),
        ("[ab]", "a", False),
        ("[ab]", "[ab]", True),
        ("(a|b)$", "a", False),
        ("***", "a/b", True),
        ("", "", True),
        ("", "a", False),
        ("latest", "latest\n", False),
    ],
)
def test_a_pattern_matches_whole_values(pattern: str, value: str, matches: bool) -> None:
    """``*`` and ``?`` stop at a slash, ``**`` crosses it, everything else stands for itself, and the whole value must match."""
    assert Pattern.compile(pattern).matches(value) is matches


def test_a_workflow_path_cannot_be_imitated_by_a_branch_name() -> None:
    """A branch may hold slashes: ``*`` does not reach across them."""
    pattern = Pattern.compile("https://forge.example/acme/*/.ci/release.yml@refs/tags/*")
    assert pattern.matches("https://forge.example/acme/app/.ci/release.yml@refs/tags/v1")
    assert not pattern.matches("https://forge.example/acme/app/.ci/evil.yml@refs/heads/x/.ci/release.yml@refs/tags/v1")


@dataclass(frozen=True)
class Named:
    """Anything with a pattern."""

    pattern: Pattern
    place: int = 0


def winner(value: str, *patterns: str) -> str | None:
    """The pattern that wins for ``value``, whatever order they stand in."""
    found = set()
    for order in permutations(patterns):
        chosen = most_specific([Named(Pattern.compile(text)) for text in order], value)
        found.add(None if chosen is None else chosen.pattern.text)
    assert len(found) == 1, f"the order in the file decides between {found}"
    return found.pop()


@pytest.mark.parametrize(
    ("value", "patterns", "wins"),
    [
        pytest.param("ghcr.io/acme/app", ["**", "ghcr.io/**"], "ghcr.io/**", id="some text beats none"),
        pytest.param(
            "ghcr.io/acme/app", ["ghcr.io/**", "ghcr.io/acme/**"], "ghcr.io/acme/**", id="longer text before the wildcard"
        ),
        pytest.param("ghcr.io/acme/app", ["ghcr.io/acme/**", "ghcr.io/acme/app"], "ghcr.io/acme/app", id="the name itself"),
        pytest.param("ghcr.io/acme/app", ["**/acme/app", "ghcr.io/**"], "ghcr.io/**", id="the beginning counts before the end"),
        pytest.param("ghcr.io/acme/app", ["ghcr.io/**", "ghcr.io/**/app"], "ghcr.io/**/app", id="more text in all"),
        pytest.param("ghcr.io/acme/app", ["ghcr.io/acme/**", "ghcr.io/acme/*"], "ghcr.io/acme/*", id="* beats **"),
        pytest.param("ghcr.io/acme/app", ["ghcr.io/**/a**", "ghcr.io/*/a*"], "ghcr.io/*/a*", id="* beats **, in several places"),
        pytest.param("v12", ["v*", "v??"], "v??", id="? beats *"),
        pytest.param("v12", ["v*", "v?*"], "v?*", id="one character more beats any number"),
        pytest.param("v1.2.3", ["*", "v*", "v*.*.*", "v1.*"], "v1.*", id="tags"),
        pytest.param("latest", ["v*", "latest*", "latest"], "latest", id="a tag by name"),
        pytest.param("docker.io/library/nginx", ["ghcr.io/**"], None, id="none matches"),
        pytest.param("docker.io/library/nginx", [], None, id="none at all"),
    ],
)
def test_the_most_specific_pattern_wins(value: str, patterns: list[str], wins: str | None) -> None:
    """A pattern that matches only part of what another one matches wins, in any order."""
    assert winner(value, *patterns) == wins


def test_what_makes_a_pattern_specific_is_counted() -> None:
    """Literals before the first wildcard and in all, then the wildcards, as the CLI shows them."""
    assert Pattern.compile("ab*/c?/**d?").specificity == (2, 6, -1, -1, 2)
    assert Pattern.compile("literal").specificity == (7, 7, 0, 0, 0)
    assert Pattern.compile("***").specificity == (0, 0, -1, -1, 0)


def test_of_equals_the_first_wins() -> None:
    """Where nothing tells two patterns apart the order of the file does."""
    one, other = Named(Pattern.compile("*ab*"), 1), Named(Pattern.compile("*ba*"), 2)
    assert most_specific([one, other], "xabba") is one
    assert most_specific([other, one], "xabba") is other


_literals = st.text("ab/", max_size=2)


@given(_literals, st.sampled_from([("**", "*"), ("*", "?"), ("**", "?"), ("**", "a"), ("*", "a"), ("?", "a")]), _literals)
def test_narrowing_a_wildcard_makes_a_pattern_more_specific(before: str, change: tuple[str, str], after: str) -> None:
    """Each step from ``**`` over ``*`` and ``?`` to a character wins over the step before."""
    wide, narrow = (Pattern.compile(before + wildcard + after) for wildcard in change)
    assert narrow.specificity > wide.specificity


@given(st.text("ab/*?.", max_size=8), st.text("ab/.", max_size=8))
def test_patterns_agree_with_a_naive_matcher(pattern: str, value: str) -> None:
    """The compiled pattern matches exactly what a matcher by recursion matches."""

    def naive(p: str, v: str) -> bool:
        if not p:
            return not v
        if p.startswith("**"):
            return any(naive(p[2:], v[i:]) for i in range(len(v) + 1))
        if p[0] == "*":
            return any(naive(p[1:], v[i:]) for i in range(len(v) + 1) if "/" not in v[:i])
        return bool(v) and (v[0] == p[0] or (p[0] == "?" and v[0] != "/")) and naive(p[1:], v[1:])

    assert Pattern.compile(pattern).matches(value) is naive(pattern, value)


# -- rules ----------------------------------------------------------------------------------------------------------


def rule(pattern: str, require: Requirement, *tags: tuple[str, OnOverwrite]) -> Rule:
    """A rule as the configuration would build it."""
    tag_rules = tuple(TagRule(Pattern.compile(text), answer) for text, answer in tags)
    return Rule(Pattern.compile(pattern), require, tag_rules, fingerprint(require, {}))


def test_a_repository_has_one_rule() -> None:
    """The most specific match over the canonical name; without any, a rule that denies."""
    wide, narrow = rule("docker.io/**", FirstUse()), rule("docker.io/library/*", SignatureBy("hub"))
    assert match([wide, narrow], Repository.of("index.docker.io", "nginx")) is narrow
    assert match([wide, narrow], Repository.of("docker.io", "acme/app")) is wide
    assert match([wide, narrow], Repository.of("ghcr.io", "acme/app")) is DEFAULT_RULE
    assert match([], Repository.of("ghcr.io", "acme/app")) is DEFAULT_RULE
    assert evaluate(DEFAULT_RULE.require, ()).outcome is Outcome.REFUSED


def test_a_tag_has_one_answer_to_an_overwrite() -> None:
    """The most specific tag pattern decides; a tag that none matches is refused."""
    held = rule(
        "**",
        FirstUse(),
        ("v*", OnOverwrite.SERVE_PINNED),
        ("v1.*", OnOverwrite.REFUSE),
        ("latest", OnOverwrite.SERVE_PINNED),
    )
    assert held.on_overwrite("v2.0") is OnOverwrite.SERVE_PINNED
    assert held.on_overwrite("v1.0") is OnOverwrite.REFUSE
    assert held.on_overwrite("latest") is OnOverwrite.SERVE_PINNED
    assert held.on_overwrite("nightly") is OnOverwrite.REFUSE
    assert rule("**", FirstUse()).on_overwrite("latest") is OnOverwrite.REFUSE
    assert str(held) == 'rule "**"'


def test_questions_of_a_requirement() -> None:
    """Every signer that is asked for anywhere in the tree, once, in the order of the file."""
    tree = AllOf(
        (SignatureBy("a"), AnyOf((SignatureBy("b"), FirstUse())), AtLeast(1, (SignatureBy("a"), Never(), SignatureBy("c"))))
    )
    assert questions_of(tree) == (SignatureBy("a"), SignatureBy("b"), SignatureBy("c"))
    assert questions_of(FirstUse()) == questions_of(Never()) == ()


@pytest.mark.parametrize(
    "build", [lambda: AllOf(()), lambda: AtLeast(0, (Never(),)), lambda: AtLeast(-1, (Never(),)), lambda: AtLeast(0, ())]
)
def test_a_requirement_that_would_let_everything_pass_cannot_be_built(build: Callable[[], Requirement]) -> None:
    """All of nothing and at least nothing are mistakes, not permissions."""
    with pytest.raises(ValueError, match="would let everything pass"):
        build()


def test_any_of_nothing_is_nothing() -> None:
    """It cannot be met."""
    assert evaluate(AnyOf(()), ()).outcome is Outcome.REFUSED
    assert evaluate(AnyOf(()), (), ("the registry",)).outcome is Outcome.REFUSED


# -- fingerprints ---------------------------------------------------------------------------------------------------

KEYS: dict[str | Root | Store, str] = {"a": "key-1", "b": "key-2", "alias-of-a": "key-1"}
A, B, ALIAS = SignatureBy("a"), SignatureBy("b"), SignatureBy("alias-of-a")
QUESTIONS: list[Requirement] = [
    FirstUse(),
    Never(),
    A,
    B,
    SignatureBy("missing"),
    AllOf((A,)),
    AllOf((A, B)),
    AnyOf((A, B)),
    AtLeast(1, (A, B)),
    AtLeast(2, (A, B)),
    AtLeast(2, (A, A, B)),
    AllOf((A, AnyOf((A, B)))),
    AllOf((AnyOf((A,)), B)),
    AllOf((A, FirstUse())),
    AllOf((A, Never())),
]


def test_another_question_has_another_fingerprint() -> None:
    """An old verdict is never taken for the answer to a changed rule."""
    prints = [fingerprint(question, KEYS) for question in QUESTIONS]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_changed_trust_is_another_question(question: Requirement) -> None:
    """A key that is replaced, or whose window moves, changes the fingerprint of what names it, and of nothing else."""
    changed = fingerprint(question, {**KEYS, "a": "key-1 with another window"})
    assert (changed != fingerprint(question, KEYS)) is (A in questions_of(question))
    assert fingerprint(question, {**KEYS, "unused": "key-9"}) == fingerprint(question, KEYS)


def test_the_same_question_keeps_its_fingerprint() -> None:
    """Other names for the same keys and another order do not make verdicts invalid."""
    assert fingerprint(ALIAS, KEYS) == fingerprint(A, KEYS)
    assert fingerprint(SignatureBy("renamed"), {"renamed": "key-1"}) == fingerprint(A, KEYS)
    for group in (AllOf, AnyOf, lambda of: AtLeast(2, of)):
        assert fingerprint(group((A, AllOf((B, Never())))), KEYS) == fingerprint(group((AllOf((Never(), B)), ALIAS)), KEYS)


def test_a_key_cannot_pass_for_one_that_is_missing() -> None:
    """The mark of an unknown name is not the fingerprint of any key that a test or an operator would have."""
    assert fingerprint(SignatureBy("x"), {}) != fingerprint(SignatureBy("y"), {})
    assert fingerprint(SignatureBy("x"), {}) != fingerprint(SignatureBy("x"), {"x": "x"})


# -- verdicts -------------------------------------------------------------------------------------------------------

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AUTHORITIES: dict[str, str] = {"a": "1", "b": "2", "c": "3", "alias": "1"}

TRUSTED: dict[str | Root | Store, str] = {key: authority for key, authority in AUTHORITIES.items()}  # noqa: C416 - wider keys


def good(key: str, until: int | None = None) -> Evidence:
    """Accepted evidence by ``key``; ``until`` in days from now."""
    end = None if until is None else NOW + timedelta(days=until)
    return Evidence("cosign signature", "signature tag", SignatureBy(key), AUTHORITIES[key], True, "verified", end)


def undecided(key: str) -> Evidence:
    """That nobody can tell now whether the key has signed."""
    reason = "makes no new decisions"
    return Evidence("root", "root corp", SignatureBy(key), None, accepted=False, reason=reason, undecided=True)


def bad(key: str | None, reason: str = "the signature does not match") -> Evidence:
    """Evidence that was judged and did not hold."""
    about, authority = (None, None) if key is None else (SignatureBy(key), AUTHORITIES[key])
    return Evidence("cosign signature", "signature tag", about, authority, False, reason)


ALICE, BOB, CAROL, AGAIN = SignatureBy("a"), SignatureBy("b"), SignatureBy("c"), SignatureBy("alias")
YES, NO, UNKNOWN = Outcome.ACCEPTED, Outcome.REFUSED, Outcome.UNKNOWN
DOWN = ("the signature tag: 503",)


@pytest.mark.parametrize(
    ("requirement", "signers", "answered", "outage"),
    [
        pytest.param(FirstUse(), "", YES, YES, id="first-use needs nothing"),
        pytest.param(Never(), "a", NO, NO, id="deny is no matter of evidence"),
        pytest.param(ALICE, "", NO, UNKNOWN, id="unsigned"),
        pytest.param(ALICE, "a", YES, YES, id="signed"),
        pytest.param(ALICE, "b", NO, UNKNOWN, id="signed by somebody else"),
        pytest.param(AGAIN, "a", NO, UNKNOWN, id="a name stands for its own evidence"),
        pytest.param(AllOf((ALICE, BOB)), "", NO, UNKNOWN, id="all: none"),
        pytest.param(AllOf((ALICE, BOB)), "a", NO, UNKNOWN, id="all: one"),
        pytest.param(AllOf((ALICE, BOB)), "ab", YES, YES, id="all: each"),
        pytest.param(AllOf((ALICE, Never())), "a", NO, NO, id="all: one can never be met"),
        pytest.param(AllOf((BOB, Never())), "a", NO, NO, id="all: a refusal outweighs what is unknown"),
        pytest.param(AllOf((ALICE, FirstUse())), "a", YES, YES, id="all: first-use adds nothing"),
        pytest.param(AnyOf((ALICE, BOB)), "", NO, UNKNOWN, id="any: none"),
        pytest.param(AnyOf((ALICE, BOB)), "b", YES, YES, id="any: one is enough in an outage, too"),
        pytest.param(AnyOf((ALICE, Never())), "", NO, UNKNOWN, id="any: the other one can never be met"),
        pytest.param(AnyOf((Never(), Never())), "ab", NO, NO, id="any: nothing can be met"),
        pytest.param(AnyOf((ALICE, FirstUse())), "", YES, YES, id="any: first-use is always met"),
        pytest.param(AtLeast(2, (ALICE, BOB, CAROL)), "a", NO, UNKNOWN, id="2 of 3: one"),
        pytest.param(AtLeast(2, (ALICE, BOB, CAROL)), "ac", YES, YES, id="2 of 3: two"),
        pytest.param(AtLeast(2, (ALICE, BOB, CAROL)), "abc", YES, YES, id="2 of 3: three"),
        pytest.param(AtLeast(2, (ALICE, Never())), "a", NO, NO, id="2 of 2: one can never be met"),
        pytest.param(AtLeast(3, (ALICE, BOB)), "ab", NO, NO, id="3 of 2"),
        pytest.param(AtLeast(1, (ALICE, BOB)), "b", YES, YES, id="1 of 2"),
        pytest.param(AtLeast(2, (ALICE, FirstUse())), "a", YES, YES, id="2: first-use counts as one"),
        pytest.param(AtLeast(2, (FirstUse(), FirstUse())), "", NO, UNKNOWN, id="2: first-use counts once"),
        pytest.param(AllOf((AnyOf((ALICE, BOB)), CAROL)), "bc", YES, YES, id="nested"),
        pytest.param(AllOf((AnyOf((ALICE, BOB)), CAROL)), "c", NO, UNKNOWN, id="nested: the inner one is missing"),
        pytest.param(AnyOf((AllOf((ALICE, BOB)), AllOf((ALICE, CAROL)))), "ac", YES, YES, id="nested: the second way"),
    ],
)
def test_what_evidence_amounts_to(requirement: Requirement, signers: str, answered: Outcome, outage: Outcome) -> None:
    """Three values: what is not met is refused when everything answered, and unknown while something did not."""
    evidence = [good(key) for key in signers]
    assert evaluate(requirement, evidence).outcome is answered
    assert evaluate(requirement, evidence, DOWN).outcome is outage
    assert evaluate(requirement, [bad("a"), bad(None), *evidence]).outcome is answered


@pytest.mark.parametrize(
    ("requirement", "signers", "outcome"),
    [
        pytest.param(AtLeast(2, (ALICE, AGAIN)), ["a", "alias"], NO, id="one key under two names"),
        pytest.param(AtLeast(2, (ALICE, ALICE)), ["a"], NO, id="one name twice"),
        pytest.param(AtLeast(2, (ALICE, AGAIN, BOB)), ["a", "alias"], NO, id="one key under two names, of three"),
        pytest.param(AtLeast(2, (ALICE, AGAIN, BOB)), ["a", "alias", "b"], YES, id="one key under two names, and another"),
        pytest.param(AtLeast(2, (AnyOf((ALICE, BOB)), ALICE)), ["a"], NO, id="one signer in two branches"),
        pytest.param(
            AtLeast(2, (AnyOf((ALICE, BOB)), ALICE)), ["a", "b"], YES, id="the branch that can take the other signer does"
        ),
        pytest.param(AtLeast(2, (ALICE, AnyOf((ALICE, BOB)))), ["a", "b"], YES, id="in any order"),
        pytest.param(AtLeast(2, (AnyOf((ALICE, BOB)), AnyOf((ALICE, BOB)))), ["b"], NO, id="two branches, one signer"),
        pytest.param(AtLeast(3, (AnyOf((ALICE, BOB)), AnyOf((BOB, CAROL)), ALICE)), ["a", "b", "c"], YES, id="three shift"),
        pytest.param(
            AtLeast(3, (AnyOf((ALICE, BOB)), AnyOf((ALICE, BOB)), AnyOf((ALICE, BOB)))), ["a", "b"], NO, id="three by two"
        ),
        pytest.param(
            AtLeast(2, (AllOf((ALICE, BOB)), AllOf((ALICE, BOB)))), ["a", "b"], YES, id="each branch has a signer of its own"
        ),
        pytest.param(
            AtLeast(2, (AtLeast(1, (ALICE,)), AtLeast(1, (AGAIN,)))), ["a", "alias"], NO, id="nested thresholds see through"
        ),
        pytest.param(AllOf((ALICE, AGAIN)), ["a", "alias"], YES, id="all does not count"),
    ],
)
def test_thresholds_count_authorities(requirement: Requirement, signers: list[str], outcome: Outcome) -> None:
    """GHSA-9vcr-p3rj-q5q6: who is named twice, or stands behind two names, is one authority still."""
    assert evaluate(requirement, [good(key) for key in signers]).outcome is outcome


def test_an_outage_may_hide_another_authority_of_what_is_met() -> None:
    """Two branches are met by one signer, and the second signer's evidence could not be fetched: unknown, not refused."""
    requirement = AtLeast(2, (AnyOf((ALICE, BOB)), AnyOf((ALICE, BOB))))
    assert evaluate(requirement, [good("a")], DOWN).outcome is UNKNOWN
    assert evaluate(requirement, [good("a"), good("b")], DOWN).outcome is YES


def test_what_is_undecided_is_open_and_nothing_else_is() -> None:
    """One question that nobody can answer now: it is unknown, and in its words; the others are decided as ever."""
    waits = undecided("b")
    words = "a signature by key b is required; found: root corp: makes no new decisions"
    assert evaluate(BOB, [waits]).outcome is UNKNOWN
    assert evaluate(BOB, [waits]).reasons == (words,)
    assert evaluate(AnyOf((ALICE, BOB)), [good("a"), waits]).outcome is YES
    assert evaluate(AnyOf((ALICE, BOB)), [bad("a"), waits]).outcome is UNKNOWN
    assert evaluate(AllOf((ALICE, BOB)), [good("a"), waits]).outcome is UNKNOWN
    assert evaluate(AllOf((ALICE, BOB)), [bad("a"), waits]).outcome is NO
    assert evaluate(AtLeast(2, (ALICE, BOB, CAROL)), [good("a"), waits]).outcome is UNKNOWN
    assert evaluate(AtLeast(2, (AnyOf((ALICE, BOB)), AnyOf((ALICE, BOB)))), [good("a"), waits]).outcome is UNKNOWN


@pytest.mark.parametrize(
    "piece",
    [
        replace(good("a"), about=None),
        replace(good("a"), authority=None),
        replace(good("a"), about=SignatureBy("b")),
        replace(good("a"), accepted=False),
    ],
    ids=["no key", "no authority", "another key", "not accepted"],
)
def test_an_acceptance_needs_a_key_and_its_authority(piece: Evidence) -> None:
    """Evidence that does not say whose it is accepts nothing."""
    assert evaluate(ALICE, [piece]).outcome is NO
    assert evaluate(AtLeast(1, (ALICE,)), [piece]).outcome is NO


# -- how long a verdict holds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requirement", "evidence", "days"),
    [
        pytest.param(FirstUse(), [], None, id="first-use"),
        pytest.param(ALICE, [good("a")], None, id="a key without end"),
        pytest.param(ALICE, [good("a", 5)], 5, id="a key with an end"),
        pytest.param(ALICE, [good("a", 5), good("a", 9)], 9, id="the piece that lasts longest"),
        pytest.param(ALICE, [good("a", 5), good("a")], None, id="one piece without end"),
        pytest.param(AllOf((ALICE, BOB)), [good("a", 5), good("b", 9)], 5, id="all: until the first ends"),
        pytest.param(AllOf((ALICE, BOB)), [good("a"), good("b", 9)], 9, id="all: until the only one ends"),
        pytest.param(AnyOf((ALICE, BOB)), [good("a", 5), good("b", 9)], 9, id="any: until the last ends"),
        pytest.param(AnyOf((ALICE, BOB)), [good("a", 5), good("b")], None, id="any: one without end"),
        pytest.param(AnyOf((ALICE, BOB)), [good("a", 5)], 5, id="any: the one that is met"),
        pytest.param(AnyOf((ALICE, FirstUse())), [good("a", 5)], None, id="any: first-use never ends"),
        pytest.param(AtLeast(2, (ALICE, BOB)), [good("a", 5), good("b", 9)], 5, id="2 of 2: until the first ends"),
        pytest.param(AtLeast(2, (ALICE, BOB, CAROL)), [good("a", 5), good("b", 9), good("c")], 5, id="2 of 3: judged again then"),
        pytest.param(
            AtLeast(2, (AnyOf((ALICE, BOB)), BOB)),
            [good("a", 5), good("b")],
            5,
            id="a threshold that leans on the short-lived signer of a branch",
        ),
        pytest.param(
            AllOf((AtLeast(2, (AnyOf((ALICE, BOB)), BOB)), CAROL)),
            [good("a", 5), good("b"), good("c", 3)],
            3,
            id="nested, the earliest",
        ),
    ],
)
def test_a_verdict_ends_with_what_it_leans_on(requirement: Requirement, evidence: list[Evidence], days: int | None) -> None:
    """Until ``valid_until`` the verdict stays accepted whatever expires."""
    verdict = evaluate(requirement, evidence)
    assert verdict.accepted
    assert verdict.valid_until == (None if days is None else NOW + timedelta(days=days))


def test_a_refusal_leans_on_nothing() -> None:
    """Only an acceptance has an end."""
    assert evaluate(AllOf((ALICE, BOB)), [good("a", 5)]).valid_until is None
    assert evaluate(AtLeast(2, (ALICE, BOB)), [good("a", 5)], DOWN).valid_until is None


# -- words ----------------------------------------------------------------------------------------------------------

REQUIRED = "a signature by key a is required; found: "


@pytest.mark.parametrize(
    ("evidence", "unavailable", "reasons"),
    [
        pytest.param([good("a")], (), ("a signature by key a: cosign signature from the signature tag",), id="accepted"),
        pytest.param([], (), (f"{REQUIRED}no signature at all",), id="unsigned"),
        pytest.param([good("b")], (), (f"{REQUIRED}no signature at all",), id="by nobody we asked for"),
        pytest.param(
            [bad("a"), bad("a"), bad("b", "never shown"), bad(None, "is no JSON")],
            (),
            (f"{REQUIRED}signature tag: the signature does not match; signature tag: is no JSON",),
            id="judged, each reason once",
        ),
        pytest.param(
            [bad("a", f"reason {number}") for number in range(3)],
            (),
            (f"{REQUIRED}signature tag: reason 0; signature tag: reason 1; signature tag: reason 2",),
            id="three reasons, all of them",
        ),
        pytest.param(
            [bad("a", f"reason {number}") for number in range(5)],
            (),
            (f"{REQUIRED}signature tag: reason 0; signature tag: reason 1; signature tag: reason 2; and 2 more",),
            id="many reasons, a few of them",
        ),
        pytest.param(
            [*(replace(bad("a", "not by a"), source=f"signature {number}") for number in range(64)), bad(None, "2000 are there")],
            (),
            (f"{REQUIRED}signature 0 (and 63 more): not by a; signature tag: 2000 are there",),
            id="one reason of many, and what comes after it",
        ),
        pytest.param(
            [],
            DOWN,
            (
                f"{REQUIRED}the signatures could not be fetched",
                "could not ask: the signature tag: 503",
            ),
            id="an outage is not unsigned",
        ),
        pytest.param(
            [bad("a")],
            DOWN,
            (
                f"{REQUIRED}not among what could be fetched (signature tag: the signature does not match)",
                "could not ask: the signature tag: 503",
            ),
            id="an outage, and something that did not hold",
        ),
    ],
)
def test_promise_46_what_is_said_of_a_signature(
    evidence: list[Evidence], unavailable: tuple[str, ...], reasons: tuple[str, ...]
) -> None:
    """What was required in the rule's words, what was found; "unavailable" and "unsigned" are different words."""
    assert evaluate(ALICE, evidence, unavailable).reasons == reasons


@pytest.mark.parametrize(
    "requirement",
    [
        ALICE,
        AllOf((ALICE, BOB)),
        AnyOf((ALICE, BOB)),
        AtLeast(2, (ALICE, BOB)),
        AllOf((AnyOf((ALICE, BOB)), AtLeast(1, (CAROL,)))),
    ],
    ids=str,
)
def test_a_refusal_names_every_key_that_was_asked_for(requirement: Requirement) -> None:
    """Refusals use the words of the rule, down to the last key."""
    told = " ".join(evaluate(requirement, []).reasons)
    for question in questions_of(requirement):
        assert str(question) in told
        assert str(question) in str(requirement)


def test_a_refusal_says_how_many_were_needed() -> None:
    """Groups say what would have been enough; what is met is not held against the image."""
    assert evaluate(AnyOf((ALICE, BOB)), []).reasons[0] == "one of these 2 is required, and none is met"
    verdict = evaluate(AtLeast(2, (ALICE, BOB, CAROL)), [good("b")])
    assert verdict.reasons[0] == "at least 2 of these 3 are required, by distinct signers; 1 met"
    assert not any("key b" in line for line in verdict.reasons)
    assert evaluate(Never(), []).reasons == ("the rule allows nothing here (require: deny)",)
    assert evaluate(FirstUse(), []).reasons == ("first use: no signature is required",)


def test_requirements_in_words() -> None:
    """As ``tagstone config show`` prints them."""
    assert str(AllOf((ALICE, FirstUse()))) == "all of: a signature by key a; nothing on first use"
    assert str(AnyOf((ALICE, Never()))) == "any of: a signature by key a; nothing is allowed here (require: deny)"
    assert str(AtLeast(2, (ALICE, BOB))) == "at least 2 of: a signature by key a; a signature by key b"


def test_checks_are_the_tree_line_by_line() -> None:
    """Each requirement of the tree with its outcome, in order, with its depth; and the evidence as it was judged."""
    evidence = [good("a"), bad("c")]
    tree = AllOf((ALICE, AnyOf((BOB, CAROL)), FirstUse(), Never(), AtLeast(2, (ALICE, AnyOf((ALICE, FirstUse()))))))
    verdict = evaluate(tree, evidence, retry_after=7.0)
    assert [(check.depth, check.requirement, check.outcome.value, check.found) for check in verdict.checks] == [
        (0, "all of 5", "refused", "3 of 5 met"),
        (1, "a signature by key a", "accepted", "cosign signature from the signature tag"),
        (1, "any of 2", "refused", "0 of 2 met"),
        (2, "a signature by key b", "refused", "no signature at all"),
        (2, "a signature by key c", "refused", "signature tag: the signature does not match"),
        (1, "nothing on first use", "accepted", "first use needs no evidence"),
        (1, "nothing is allowed here (require: deny)", "refused", "no evidence would help"),
        (1, "at least 2 of 2, by distinct signers", "accepted", "2 of 2 met"),
        (2, "a signature by key a", "accepted", "cosign signature from the signature tag"),
        (2, "any of 2", "accepted", "1 of 2 met"),
        (3, "a signature by key a", "accepted", "cosign signature from the signature tag"),
        (3, "nothing on first use", "accepted", "first use needs no evidence"),
    ]
    assert verdict.evidence == tuple(evidence)
    assert verdict.retry_after == 7.0


# -- properties -----------------------------------------------------------------------------------------------------

_keys = st.sampled_from(sorted(AUTHORITIES))
_evidence = st.lists(st.builds(good, _keys, st.none() | st.integers(1, 9)) | st.builds(bad, st.none() | _keys), max_size=6)
_requirements: st.SearchStrategy[Requirement] = st.recursive(
    st.builds(SignatureBy, _keys) | st.builds(SignatureBy, _keys) | st.just(FirstUse()) | st.just(Never()),
    lambda inner: (
        st.builds(AllOf, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(AnyOf, st.lists(inner, max_size=3).map(tuple))
        | st.builds(AtLeast, st.integers(1, 3), st.lists(inner, min_size=1, max_size=3).map(tuple))
    ),
    max_leaves=6,
)


def authorities(requirement: Requirement, held: frozenset[str]) -> frozenset[str] | None:
    """Oracle: the authorities behind an accepted requirement when these keys have signed; None when it is not met."""
    match requirement:
        case FirstUse():
            return frozenset({"first-use"})
        case Never():
            return None
        case SignatureBy(str() as key):
            return frozenset({AUTHORITIES[key]}) if key in held else None
        case SignatureBy() | AttestationBy():
            raise NotImplementedError
        case AllOf(of):
            found = [authorities(node, held) for node in of]
            return None if None in found else frozenset[str]().union(*(one for one in found if one is not None))
        case AnyOf(of) | AtLeast(_, of):
            met = [one for one in (authorities(node, held) for node in of) if one is not None]
            count = requirement.count if isinstance(requirement, AtLeast) else 1
            return frozenset[str]().union(*met) if any(each_its_own(chosen) for chosen in combinations(met, count)) else None


def each_its_own(sets: Sequence[frozenset[str]]) -> bool:
    """Oracle: whether each set can give a member that no other one gives, by trying everything."""
    if not sets:
        return True
    return any(each_its_own([other - {member} for other in sets[1:]]) for member in sets[0])


@given(_requirements, _evidence)
def test_evaluation_agrees_with_trying_everything(requirement: Requirement, evidence: list[Evidence]) -> None:
    """Accepted exactly where an exhaustive search finds enough distinct authorities; never unknown when everything answered."""
    held = frozenset(
        piece.about.by for piece in evidence if piece.accepted and piece.about is not None and isinstance(piece.about.by, str)
    )
    expected = Outcome.REFUSED if authorities(requirement, held) is None else Outcome.ACCEPTED
    verdict = evaluate(requirement, evidence)
    assert verdict.outcome is expected
    assert verdict.reasons


@given(_requirements, _evidence, _evidence)
def test_more_accepted_evidence_never_harms(requirement: Requirement, evidence: list[Evidence], more: list[Evidence]) -> None:
    """Whatever else is found or could not be fetched, what was accepted stays accepted."""
    if evaluate(requirement, evidence).accepted:
        assert evaluate(requirement, [*more, *evidence]).accepted
        assert evaluate(requirement, evidence, DOWN).accepted


@given(_requirements, _evidence, _evidence)
def test_an_outage_is_no_refusal(requirement: Requirement, fetched: list[Evidence], hidden: list[Evidence]) -> None:
    """Where something could not be asked, a refusal stands only if nothing that was hidden could have changed it."""
    if evaluate(requirement, fetched, DOWN).outcome is Outcome.REFUSED:
        assert not evaluate(requirement, [*fetched, *hidden]).accepted


@given(_requirements, _evidence, st.sets(_keys))
def test_what_is_undecided_is_no_refusal(requirement: Requirement, evidence: list[Evidence], waits: set[str]) -> None:
    """A verdict stands only if nothing that waits could change it, whichever way it is decided later."""
    pieces = [piece for piece in evidence if piece.about is None or piece.about.by not in waits]
    verdict = evaluate(requirement, [*pieces, *map(undecided, waits)])
    if verdict.outcome is not Outcome.UNKNOWN:
        later = [good(key) for key in waits] if verdict.outcome is Outcome.REFUSED else []
        assert evaluate(requirement, [*pieces, *later]).outcome is verdict.outcome


@given(_requirements, _evidence, st.integers(0, 10))
def test_a_verdict_holds_until_its_end(requirement: Requirement, evidence: list[Evidence], day: int) -> None:
    """Up to ``valid_until`` what has not expired suffices by itself."""
    verdict = evaluate(requirement, evidence)
    then = NOW + timedelta(days=day)
    lasting = [piece for piece in evidence if piece.valid_until is None or then <= piece.valid_until]
    if verdict.accepted and (verdict.valid_until is None or then <= verdict.valid_until):
        assert evaluate(requirement, lasting).accepted


@given(_requirements, _requirements)
def test_fingerprints_tell_questions_apart(one: Requirement, other: Requirement) -> None:
    """Two requirements with one fingerprint are answered alike by all evidence."""
    if fingerprint(one, TRUSTED) == fingerprint(other, TRUSTED):
        for size in range(len(AUTHORITIES) + 1):
            for signers in combinations(AUTHORITIES.values(), size):
                # The same key signs under each of its names.
                held = [good(key) for key, authority in AUTHORITIES.items() if authority in signers]
                assert evaluate(one, held).outcome is evaluate(other, held).outcome


# -- evidence that leans on what could not be asked ----------------------------------------------------------------


def untold(key: str) -> Evidence:
    """Evidence that may hold; whoever could tell was silent."""
    return replace(bad(key, "whether the certificate is revoked cannot be told"), undecided=True)


@pytest.mark.parametrize(
    ("requirement", "evidence", "outcome"),
    [
        pytest.param(ALICE, [untold("a")], UNKNOWN, id="neither yes nor no"),
        pytest.param(ALICE, [untold("a"), bad("a")], UNKNOWN, id="beside one that fails"),
        pytest.param(ALICE, [untold("a"), good("a")], YES, id="beside one that holds"),
        pytest.param(BOB, [untold("a")], NO, id="a matter of that question alone"),
        pytest.param(AllOf((ALICE, BOB)), [untold("a"), good("b")], UNKNOWN, id="all: one of them"),
        pytest.param(AllOf((ALICE, BOB)), [untold("a")], NO, id="all: the other fails"),
        pytest.param(AnyOf((ALICE, BOB)), [untold("a")], UNKNOWN, id="any: one of them"),
        pytest.param(AnyOf((ALICE, BOB)), [untold("a"), good("b")], YES, id="any: the other holds"),
        pytest.param(AtLeast(2, (ALICE, BOB, CAROL)), [untold("a"), good("b")], UNKNOWN, id="two of three: perhaps"),
        pytest.param(AtLeast(2, (ALICE, BOB, CAROL)), [untold("a")], NO, id="two of three: not even then"),
        pytest.param(AtLeast(2, (ALICE, BOB, CAROL)), [untold("a"), good("b"), good("c")], YES, id="two of three: without it"),
    ],
)
def test_what_leans_on_an_outage(requirement: Requirement, evidence: list[Evidence], outcome: Outcome) -> None:
    """An outage is neither yes nor no, and only for what it is about; its reason is the first to be told."""
    verdict = evaluate(requirement, evidence)
    assert verdict.outcome is outcome
    if outcome is UNKNOWN:
        assert any("whether the certificate is revoked cannot be told" in reason for reason in verdict.reasons)
