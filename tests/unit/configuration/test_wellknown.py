"""``extends: well-known``: every signer that is shipped checks out, and stands behind the file's own rules."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from jsonschema import Draft202012Validator
from yarl import URL

from proxy.configuration import Configuration
from proxy.configuration.report import Report
from proxy.configuration.schema import json_schema
from proxy.configuration.source import parse
from proxy.configuration.trust import Names
from proxy.configuration.wellknown import FILE, ROOT, Signer, WellKnown, extend, read_signers, shipped_signers
from proxy.errors import ConfigurationError
from proxy.policy.rules import FirstUse, Identity, Never, Question, Rule, SignatureBy, match, questions_of
from proxy.policy.verdicts import Evidence, evaluate
from proxy.settings import Limits
from proxy.verify.cosign import CosignSignatures
from proxy.verify.model import Subject, Trusted
from proxy.verify.roots import Demands, Root, public_good
from proxy.verify.second import SecondVerdict
from storage.reference import Repository
from tests.simulator.sigstore import PrivateSigstore, Signing
from tests.unit.configuration.files import NOW, RULES, Folder
from tests.unit.verify.evidence import IMAGE, document

SIGNERS, _ = read_signers(shipped_signers())
#: Where all of them can be pulled from.
REGISTRIES = sorted({pattern.partition("/")[0].replace("*", "oci") for signer in SIGNERS for pattern in signer.match})
UPSTREAMS = f"upstreams: {{{', '.join(f'{name}: {{}}' for name in REGISTRIES)}}}\n"
EXTENDED = f"extends: {ROOT}\n{UPSTREAMS}"
KUBE_PROXY = Repository.of("registry.k8s.io", "kube-proxy")
SIGSTORE = PrivateSigstore()
SOMEBODY = "{root: well-known, issuer: https://accounts.example.test, identity: somebody@example.test}"


def rule_for(configuration: Configuration, image: str) -> Rule:
    """The rule that an image comes under."""
    registry, _, repository = image.partition("/")
    return match(configuration.rules, Repository.of(registry, repository))


def signers(rule: Rule) -> Iterator[str | Identity]:
    """Who may sign, by a rule."""
    for question in questions_of(rule.require):
        assert isinstance(question, SignatureBy)
        assert isinstance(question.by, str | Identity)
        yield question.by


def bound_to(who: str) -> str:
    """The owner or the domain that an identity is tied to."""
    github = "https://github.com/"
    return who.removeprefix(github).partition("/")[0] if who.startswith(github) else who.rpartition("@")[2]


def extended(text: str, report: Report) -> WellKnown:
    """The rules that other signers than the shipped ones bring to a file without rules of its own."""
    return extend((), Trusted(), Names((), (), ()), frozenset({"ghcr.io"}), report, text)


def mistakes(text: str) -> list[str]:
    """What is wrong with such signers."""
    report = Report("tagstone.yaml", parse("", "tagstone.yaml")[0])
    try:
        extended(text, report)
    except ConfigurationError as error:
        return [str(problem) for problem in error.problems]
    return [str(problem) for problem in report.errors]


# -- what is shipped


@pytest.mark.parametrize("signer", SIGNERS, ids=lambda signer: signer.name)
def test_every_signer_is_somebody_and_has_a_page(signer: Signer) -> None:
    """A page on the web that says so, an issuer in full, and never everybody whom that issuer or a whole host knows."""
    page = URL(signer.page)
    assert page.scheme == "https"
    assert page.host
    assert len(page.path) > 1
    for pattern in signer.match:
        assert not pattern.startswith(("**", "*/")), "a registry is named"
    if signer.keyless is None:
        return
    issuer = URL(signer.keyless.issuer)
    assert issuer.scheme == "https"
    assert "*" not in str(issuer)
    for who in (signer.keyless.identity or signer.keyless.identity_re2 or "").replace("\\", "").split("|"):
        assert re.fullmatch(r"[a-z0-9.-]+", bound_to(who)), who


@pytest.mark.parametrize("signer", SIGNERS, ids=lambda signer: signer.name)
def test_open_identities_name_on_whose_behalf_they_signed(signer: Signer) -> None:
    """A workflow that anyone may call signs for anyone: where the workflow is left open, its caller is not."""
    keyless = signer.keyless
    if keyless is not None and "github.com" in (who := keyless.identity or keyless.identity_re2 or "") and "*" in who:
        claim = keyless.source_repository or keyless.owner
        assert claim
        assert "*" not in claim
        assert who.replace("\\", "").startswith(f"{claim}/")


def test_all_of_them_become_rules(folder: Folder) -> None:
    """With every registry configured: a rule for each pattern, none twice, without a word of warning."""
    configuration = folder.load(EXTENDED + RULES)
    patterns = [pattern for signer in SIGNERS for pattern in signer.match]
    assert [rule.pattern.text for rule in configuration.rules] == ["**", *patterns]
    assert len(set(patterns)) == len(patterns)
    assert len({signer.name for signer in SIGNERS}) == len(SIGNERS)
    assert configuration.warnings == ()
    assert configuration.rule_lines == (3, *[1] * len(patterns))
    assert configuration.pages == {pattern: signer.page for signer in SIGNERS for pattern in signer.match}
    assert all(list(signers(rule)) for rule in configuration.rules[1:])


def test_keyless_signers_are_under_the_root_of_sigstore_dev(folder: Folder) -> None:
    """By a name of its own, with all that is demanded of such a root; keys go by names that say where they come from."""
    configuration = folder.load(EXTENDED + RULES)
    who = {by if isinstance(by, str) else by.root for rule in configuration.rules for by in signers(rule)}
    assert who == {ROOT, "well-known.litellm"}
    assert configuration.trusted.roots.keys() == {ROOT}
    assert configuration.trusted.roots[ROOT].demands == Demands(log=True, sct=True, timestamp=False)
    assert configuration.trusted.roots[ROOT].identity == Root.load("other", public_good(), Demands()).identity
    assert configuration.trusted.keys.keys() == {"well-known.litellm"}


# -- beside the file's own rules


@pytest.mark.parametrize("written", [ROOT, f"[{ROOT}]", f"[{ROOT}, {ROOT}]"])
def test_a_word_or_a_list(folder: Folder, written: str) -> None:
    """Both say the same, to the server and to an editor."""
    configuration = folder.load(f"extends: {written}\nupstreams: {{gcr.io: {{}}}}\n{RULES}")
    assert [rule.pattern.text for rule in configuration.rules] == ["**", "gcr.io/distroless/**"]
    plain = parse(folder.file.read_text(encoding="utf-8"), "f")[0].plain()
    assert Draft202012Validator(json_schema()).is_valid(plain)
    assert not Draft202012Validator(json_schema()).is_valid({**plain, "extends": "well-knwn"})


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("well-knwn", "1: extends: `well-knwn` is not known here; did you mean `well-known`?"),
        ("[well_known]", "1: extends[0]: `well_known` is not known here; did you mean `well-known`?"),
        ("[x]", "1: extends[0]: `x` is not known here; the values here are: `well-known`"),
        ("{a: b}", "1: extends: is a mapping; write a list here, such as `[one, two]`"),
    ],
)
def test_unknown_words_are_told(folder: Folder, written: str, message: str) -> None:
    """With the word that was meant, where there is one."""
    assert folder.errors(f"extends: {written}\n{RULES}") == [message]


@pytest.mark.parametrize("written", ["", "extends: []\n"])
def test_nothing_is_brought_that_is_not_asked_for(folder: Folder, written: str) -> None:
    """Neither rules nor trust."""
    configuration = folder.load(f"{written}{UPSTREAMS}{RULES}")
    assert len(configuration.rules) == 1
    assert configuration.trusted == Trusted()
    assert configuration.pages == {}


def test_registries_that_are_no_upstreams_are_left_out(folder: Folder) -> None:
    """Silently, with the trust that only they would need."""
    configuration = folder.load(f"extends: well-known\nupstreams: {{registry.corp.example: {{}}}}\n{RULES}")
    assert len(configuration.rules) == 1
    assert configuration.trusted == Trusted()
    assert configuration.warnings == ()


def test_a_rule_of_the_file_wins_where_it_is_as_specific_or_more(folder: Folder) -> None:
    """The same pattern stands in place of the well-known one; a more specific one wins by being so; a wider one does not."""
    configuration = folder.load(
        EXTENDED
        + """\
        rules:
          - {match: registry.k8s.io/kube-proxy, require: first-use}
          - {match: cgr.dev/chainguard/static, require: deny}
          - {match: "quay.io/**", require: first-use}
        """.replace("        ", "")
    )
    assert [rule.pattern.text for rule in configuration.rules].count("registry.k8s.io/kube-proxy") == 1
    assert "registry.k8s.io/kube-proxy" not in configuration.pages
    assert rule_for(configuration, "registry.k8s.io/kube-proxy").require == FirstUse()
    assert rule_for(configuration, "cgr.dev/chainguard/static").require == Never()
    assert isinstance(rule_for(configuration, "cgr.dev/chainguard/nginx").require, SignatureBy)
    assert rule_for(configuration, "quay.io/prometheus/prometheus").require == FirstUse()
    assert isinstance(rule_for(configuration, "quay.io/cilium/cilium").require, SignatureBy)


def test_equally_specific_patterns_go_to_the_file(folder: Folder) -> None:
    """Of equals the first wins, and the file's own come first."""
    report = Report("tagstone.yaml", parse("", "tagstone.yaml")[0])
    own = folder.load("upstreams: {ghcr.io: {}}\nrules: [{match: ghcr.io/a??b, require: first-use}]\n").rules
    signer = f"{{name: a, match: ['ghcr.io/a?b?'], keyless: {SOMEBODY}, page: 'https://example.test/a'}}"
    (brought,) = extended(f"signers: [{signer}]", report).rules
    assert brought.pattern.specificity == own[0].pattern.specificity
    image = Repository.of("ghcr.io", "axbb")
    assert match([brought], image) is brought
    assert match([*own, brought], image) is own[0]
    assert report.errors == []


def test_denying_a_registry_is_warned_about(folder: Folder) -> None:
    """What is well-known in it is allowed; `**` says nothing of the kind."""
    text = EXTENDED + 'rules: [{match: "gcr.io/**", require: deny}, {match: "ghcr.io/**", require: deny}]\n'
    first, second = folder.warnings(text)
    assert first == (
        "3: rules[0].match: denies images that `extends: well-known` allows when they are signed: "
        '"gcr.io/distroless/**"; write these patterns with `require: deny` to deny them as well'
    )
    assert '"ghcr.io/fluxcd/flux-cli"' in second
    assert " more; write" in second
    assert folder.warnings(EXTENDED + 'rules: [{match: "gcr.io/distroless/**", require: deny}]\n') == []


def test_names_that_are_taken_are_told(folder: Folder) -> None:
    """The file's own trust never stands in for what a well-known rule names, nor the other way round."""
    trust = "trust: {roots: {well-known: public-good}, keys: {well-known.litellm: {file: one.pub}}}\n"
    message = "is the name of what `extends: well-known` brings; give yours another"
    assert folder.errors(f"{EXTENDED}{trust}{RULES}") == [
        f"3: trust.roots.well-known: {message}",
        f"3: trust.keys.well-known.litellm: {message}",
    ]
    assert folder.load(f"{UPSTREAMS}{trust}{RULES}").trusted.keys.keys() == {"well-known.litellm"}
    named = f'rules: [{{match: "**", require: {{signature: {{keyless: {SOMEBODY}}}}}}}]\n'
    assert folder.errors(EXTENDED + named) == [
        "3: rules[0].require.signature.keyless.root: no root `well-known` under trust.roots; there is none yet, add it there"
    ]


# -- signers that do not check out


@pytest.mark.parametrize(
    ("signer", "message"),
    [
        (f"match: [ghcr.io/a], keyless: {SOMEBODY}, page: p", ":1: signers[0].name: is required"),
        (f"name: a, match: [], keyless: {SOMEBODY}, page: p", ":1: signers[0].match: must not be empty"),
        ("name: a, match: [ghcr.io/a], page: p", ":1: signers[0]: needs either `keyless` or `key`"),
        (f"name: a, match: [ghcr.io/a], key: k, keyless: {SOMEBODY}, page: p", ":1: signers[0]: needs either `keyless` or `key`"),
        ("name: a, match: [ghcr.io/a], keyless: {issuer: i, identity: '**'}, page: p", "matches whoever the issuer knows"),
        ("name: a, match: [ghcr.io/a], keyless: {issuer: '*', identity: a}, page: p", "write the issuer in full"),
        ("name: a, match: [ghcr.io/A], keyless: {issuer: i, identity: a}, page: p", "names of images are lower-case"),
        ("name: a, match: [ghcr.io/a], key: k, page: p", "the key of a: this is no PEM public key"),
        ("name: a, name: a", "stands here"),
    ],
)
def test_mistakes_in_the_signers_are_never_passed_over(signer: str, message: str) -> None:
    """They are errors of the configuration, told with the file that they are in."""
    (told_once, *more) = mistakes(f"signers: [{{{signer}}}]")
    assert told_once.startswith(FILE)
    assert message in told_once
    assert all(problem.startswith(FILE) for problem in more)


# -- what a well-known rule decides


def judged(rule: Rule, trusted: Trusted, how: Signing) -> tuple[Evidence, ...]:
    """A cosign signature of the private Sigstore, judged for what a rule asks."""
    questions: tuple[Question, ...] = questions_of(rule.require)
    subject = Subject(KUBE_PROXY, IMAGE.digest, IMAGE.body)
    signature = document(SIGSTORE.signature_image(IMAGE.digest, how))
    return CosignSignatures(Limits(), SecondVerdict()).judge(signature, subject, questions, trusted, NOW)


def test_the_right_name_under_another_root_is_refused(folder: Folder) -> None:
    """Whoever runs a Sigstore can write any name into a certificate: without the root it is nothing, and the refusal says whose
    signature was wanted."""
    configuration = folder.load(EXTENDED + RULES)
    rule = match(configuration.rules, KUBE_PROXY)
    (by,) = signers(rule)
    assert isinstance(by, Identity)
    forged = Signing(identity=by.identity.text, issuer=by.issuer)
    verdict = evaluate(rule.require, judged(rule, configuration.trusted, forged))
    assert not verdict.accepted
    (reason,) = verdict.reasons
    assert reason.startswith(
        "a signature by krel-trust@k8s-releng-prod.iam.gserviceaccount.com of https://accounts.google.com (root well-known) is "
        "required; found: "
    )
    # The same signature passes where that Sigstore is the root: nothing else is wrong with it.
    root = Root.load(ROOT, SIGSTORE.trusted_root(), Demands())
    assert evaluate(rule.require, judged(rule, Trusted(roots={ROOT: root}), forged)).accepted
    other = Signing(identity="krel-staging@k8s-releng-prod.iam.gserviceaccount.com", issuer=by.issuer)
    assert not evaluate(rule.require, judged(rule, Trusted(roots={ROOT: root}), other)).accepted


def test_a_reusable_workflow_called_by_others_is_refused() -> None:
    """The identity is that of the workflow; on whose behalf it ran is what tells the images apart."""
    report = Report("tagstone.yaml", parse("", "tagstone.yaml")[0])
    brought = extend((), Trusted(), Names((), (), ()), frozenset({"ghcr.io"}), report)
    rule = match(brought.rules, Repository.of("ghcr.io", "fluxcd/source-controller"))
    trusted = Trusted(roots={ROOT: Root.load(ROOT, SIGSTORE.trusted_root(), Demands())})
    (by,) = signers(rule)
    assert isinstance(by, Identity)
    issuer = by.issuer

    def accepted(
        owner: str, identity: str = "https://github.com/fluxcd/source-controller/.github/workflows/r.yml@refs/tags/v1"
    ) -> bool:
        how = Signing(identity, "uri", issuer, {"owner": owner})
        return evaluate(rule.require, judged(rule, trusted, how)).accepted

    assert accepted("https://github.com/fluxcd")
    assert not accepted("https://github.com/somebody")
    assert not accepted("https://github.com/fluxcd", "https://github.com/fluxcd-else/a/.github/workflows/r.yml@refs/tags/v1")
    assert report.errors == []
