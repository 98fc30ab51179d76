"""Keys and rules: what is written becomes what decides, and what could never match or never pass is told."""

# ruff: noqa: E501  # a row of a table is one line

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest

from proxy.configuration.trust import identities
from proxy.policy.patterns import Pattern, Regex
from proxy.policy.rules import (
    AllOf,
    AnyOf,
    AtLeast,
    AttestationBy,
    Continuity,
    FirstUse,
    Identity,
    Never,
    OnOverwrite,
    Requirement,
    Rotation,
    SignatureBy,
    fingerprint,
    match,
)
from proxy.policy.windows import Window
from storage.reference import Repository
from tests.simulator.notation import issue
from tests.unit.configuration.files import NOW, RULES, UPSTREAM, Folder

KEYS = "trust: {keys: {release-key: {file: one.pub}, other: {file: two.pub}}}\n"


def errors_of(folder: Folder, rule: str) -> list[str]:
    """What is wrong with one rule, on line 4."""
    return folder.errors(f"{UPSTREAM}{KEYS}rules:\n  - {{{rule}}}\n")


def warnings_of(folder: Folder, rule: str) -> list[str]:
    """What there is to say about one rule, on line 4."""
    return folder.warnings(f"{UPSTREAM}{KEYS}rules:\n  - {{{rule}}}\n")


# -- keys


def test_keys_are_loaded_with_their_window(folder: Folder) -> None:
    """By name, from files beside the configuration; a date as an end includes its day."""
    keys = folder.load(
        "trust: {keys: {a: {file: one.pub, valid_from: 2025-01-01, valid_until: 2027-06-30}}}\n" + RULES
    ).trusted.keys
    key = keys["a"]
    assert key.name == "a"
    assert key.valid_from == datetime(2025, 1, 1, tzinfo=UTC)
    assert key.valid_until == datetime(2027, 7, 1, tzinfo=UTC) - timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("file: gone.pub", ".file: {folder}/gone.pub cannot be read: No such file or directory"),
        ("file: .", ".file: {folder} cannot be read: Is a directory"),
        ("file: tagstone.yaml", '.file: {folder}/tagstone.yaml: this is no PEM public key: it must have a line "-----BEGIN PUBLIC KEY-----"'),
    ],
)  # fmt: skip
def test_keys_that_cannot_be_used_are_told(folder: Folder, key: str, told: str) -> None:
    """In the line of the file, with what is in there instead."""
    assert folder.errors(f"trust:\n  keys:\n    k: {{{key}}}\n{RULES}") == [f"3: trust.keys.k{told.format(folder=folder.path)}"]


def test_a_key_that_does_not_load_is_not_told_again_by_its_rules(folder: Folder) -> None:
    """One mistake, one message."""
    text = f'{UPSTREAM}trust: {{keys: {{k: {{file: gone.pub}}}}}}\nrules: [{{match: "**", require: {{signature: {{key: k}}}}}}]\n'
    assert [told.split(": ")[1] for told in folder.errors(text)] == ["trust.keys.k.file"]


def test_keys_out_of_their_time_are_warned_about(folder: Folder) -> None:
    """At the end of the window, not before; the same key under two names, and a root that is not used."""

    def told(now: datetime) -> list[str]:
        keys = "{a: {file: one.pub, valid_until: 2026-05-31}, b: {file: two.pub, valid_from: 2026-05-31T12:00:00+02:00}}"
        return folder.warnings(f"{UPSTREAM}trust: {{keys: {keys}}}\n{RULES}", now)

    assert told(NOW) == ["2: trust.keys.a.valid_until: is in the past: no signature by this key counts any more"]
    assert told(datetime(2026, 5, 31, 23, 59, 59, tzinfo=UTC)) == []
    assert told(datetime(2026, 5, 31, 9, 59, tzinfo=UTC)) == [
        "2: trust.keys.b.valid_from: is in the future: until then no signature by this key counts"
    ]


def test_one_key_under_two_names_is_warned_about(folder: Folder) -> None:
    """Two names would not make two signers."""
    text = f"{UPSTREAM}trust: {{keys: {{a: {{file: one.pub}}, b: {{file: one.pub}}}}}}\n{RULES}"
    assert folder.warnings(text) == ["2: trust.keys.b: is the same key as `a`; `at_least` counts them once"]


def test_a_key_may_have_a_root_that_proves_when_it_signed(folder: Folder) -> None:
    """The root is part of what the name stands for; one that is not there is told."""
    text = f"{UPSTREAM}trust: {{roots: {{r: public-good}}, keys: {{a: {{file: one.pub, root: ROOT}}}}}}\n{RULES}"
    loaded = folder.load(text.replace("ROOT", "r"))
    assert loaded.trusted.keys["a"].root == "r"
    assert identities(loaded.trusted)["a"] == f"{loaded.trusted.keys['a'].identity}/{loaded.trusted.roots['r'].identity}"
    assert folder.errors(text.replace("ROOT", "s")) == ["2: trust.keys.a.root: no root `s` under trust.roots; the roots are: `r`"]


@pytest.mark.parametrize(
    ("trust", "told"),
    [
        ("roots: {r: {file: gone.json}}", "roots.r: {folder}/gone.json cannot be read: No such file or directory"),
        ("roots: {r: {file: one.pub}}", "roots.r: {folder}/one.pub: "),
        ("roots: {r: {ca: [gone.pem]}}", "roots.r: {folder}/gone.pem cannot be read: No such file or directory"),
        ("notation: {s: {ca: [gone.pem]}}", "notation.s: {folder}/gone.pem cannot be read: No such file or directory"),
    ],
)
def test_trust_that_cannot_be_read_is_told(folder: Folder, trust: str, told: str) -> None:
    """By the file that it is in."""
    (error,) = folder.errors(f"{UPSTREAM}trust: {{{trust}}}\n{RULES}")
    assert error.startswith(f"2: trust.{told.format(folder=folder.path)}")


@pytest.mark.parametrize("mode", ["skip", "log", "enforce", None])
def test_what_a_store_does_about_revocation(folder: Folder, mode: str | None) -> None:
    """As written; told where nothing is."""
    (folder.path / "acme.pem").write_bytes(issue().root_pem)
    more = "" if mode is None else f", revocation: {mode}, allow_private: true"
    store = folder.load(f"{UPSTREAM}trust: {{notation: {{s: {{ca: [acme.pem]{more}}}}}}}\n{RULES}").trusted.stores["s"]
    assert (store.revocation.value, store.allow_private) == (mode or "log", mode is not None)


def test_other_words_for_revocation(folder: Folder) -> None:
    """There is no level but these three."""
    text = f"{UPSTREAM}trust: {{notation: {{s: {{ca: [acme.pem], revocation: audit}}}}}}\n{RULES}"
    error, *_ = folder.errors(text)
    told = "2: trust.notation.s.revocation: `audit` is not known here; the values here are: `skip`, `log`, `enforce`"
    assert error == told


# -- what is required


@pytest.mark.parametrize(
    ("require", "expected"),
    [
        ("first-use", FirstUse()),
        ("deny", Never()),
        ("{signature: {key: other}}", SignatureBy("other")),
        ("{all: [{signature: {key: other}}, first-use]}", AllOf((SignatureBy("other"), FirstUse()))),
        ("{any: [deny, {signature: {key: other}}]}", AnyOf((Never(), SignatureBy("other")))),
        ("{at_least: 2, of: [{signature: {key: other}}, {signature: {key: release-key}}, deny]}", AtLeast(2, (SignatureBy("other"), SignatureBy("release-key"), Never()))),
        ("{all: [{any: [{all: [deny]}]}]}", AllOf((AnyOf((AllOf((Never(),)),)),))),
        ("{signature: {key: other, docker_reference: match}}", SignatureBy("other", docker_reference=True)),
        ("{signature: {keyless: {root: r, issuer: i, identity: x*}}}", SignatureBy(Identity("r", "i", Pattern.compile("x*")))),
        ("{signature: {keyless: {root: r, issuer: i, identity_re2: 'x+', owner_id: 7}}}", SignatureBy(Identity("r", "i", Regex.compile("x+"), (("owner_id", Pattern.compile("7")),)))),
        ("{attestation: {type: t, by: {key: other}, when: predicate.a == 1}}", AttestationBy("t", "other", "predicate.a == 1")),
        ("{attestation: {type: t, by: {root: r, issuer: i, identity: x}, max_age: 7d}}", AttestationBy("t", Identity("r", "i", Pattern.compile("x")), None, timedelta(days=7))),
    ],
)  # fmt: skip
def test_requirements_become_values(folder: Folder, require: str, expected: Requirement) -> None:
    """Every form, nested; the fingerprint is that of the keys behind the names."""
    keys = KEYS.replace("trust: {", "trust: {roots: {r: public-good}, ")
    loaded = folder.load(f'{UPSTREAM}{keys}rules: [{{match: "**", require: {require}}}]\n')
    (rule,) = loaded.rules
    assert rule.require == expected
    assert rule.fingerprint == fingerprint(expected, identities(loaded.trusted))
    assert loaded.warnings == ()


def test_the_fingerprint_changes_with_the_key_behind_the_name(folder: Folder) -> None:
    """Another key, or another window, is another question; another name of the same key is not."""

    def of(keys: str, name: str = "k") -> str:
        text = f'{UPSTREAM}trust: {{keys: {{{keys}}}}}\nrules: [{{match: "**", require: {{signature: {{key: {name}}}}}}}]\n'
        return folder.load(text).rules[0].fingerprint

    first = of("k: {file: one.pub}")
    assert first == of("n: {file: one.pub}", "n")
    assert first != of("k: {file: two.pub}")
    assert first != of("k: {file: one.pub, valid_until: 2030-01-01}")


@pytest.mark.parametrize(
    ("require", "told"),
    [
        ("{signature: {key: relase-key}}", "signature.key: no key `relase-key` under trust.keys; did you mean `release-key`?"),
        ("{signature: {key: zzz}}", "signature.key: no key `zzz` under trust.keys; the keys are: `release-key`, `other`"),
        ("{any: [deny, {signature: {key: zzz}}]}", "any[1].signature.key: no key `zzz` under trust.keys; the keys are: `release-key`, `other`"),
        ("{signature: {keyless: {root: r, issuer: i, identity: x}}}", "signature.keyless.root: no root `r` under trust.roots; there is none yet, add it there"),
        ("{signature: {notation: {store: s}}}", "signature.notation.store: no trust store `s` under trust.notation; there is none yet, add it there"),
        ("{attestation: {type: t, by: {key: othr}}}", "attestation.by.key: no key `othr` under trust.keys; did you mean `other`?"),
        ("{attestation: {type: t, by: {key: other}, when: '1 +'}}", "attestation.when: is no condition in CEL: Syntax error: mismatched input '<EOF>' (line 1, character 4)"),
        ("{attestation: {type: t, by: {key: other}, max_age: 1d}}", "attestation.max_age: needs the time of signing, which nothing proves for key `other`: give it a `root` under trust.keys"),
        ("{attestation: {type: 'https://sigstore.dev/cosign/sign/v1', by: {key: other}}}", "attestation.type: is what a signature says; use `signature:` for it"),
    ],
)  # fmt: skip
def test_requirements_that_cannot_be_met_are_told(folder: Folder, require: str, told: str) -> None:
    """A key that is not there, and what this version does not know how to check: never read as less than it says."""
    assert errors_of(folder, f'match: "**", require: {require}') == [f"4: rules[0].require.{told}"]


@pytest.mark.parametrize(
    ("keyless", "told"),
    [
        ("issuer: i, identity: '**'", "identity: matches whoever the issuer knows; write whose signatures count"),
        ("issuer: i, identity: '*'", "identity: matches whoever the issuer knows; write whose signatures count"),
        ("issuer: i, identity: '**/**'", "identity: matches whoever the issuer knows; write whose signatures count"),
        ("issuer: i, identity: '?**'", "identity: matches whoever the issuer knows; write whose signatures count"),
        ("issuer: i, identity: '*@*'", "identity: matches whoever the issuer knows; write whose signatures count"),
        ("issuer: i, identity: 'https://**'", "identity: matches whoever the issuer knows; write whose signatures count"),
        ("issuer: i, identity_re2: '.*'", "identity_re2: matches whoever the issuer knows; write whose signatures count"),
        ("issuer: i, identity_re2: '.+@.+'", "identity_re2: matches whoever the issuer knows; write whose signatures count"),
        ("issuer: 'https://*', identity: x", "issuer: is no pattern: write the issuer in full"),
        ("issuer: i, identity_re2: '(x'", "identity_re2: is no regular expression in RE2: missing ): (x"),
    ],
)
def test_identities_that_would_not_hold_anybody_are_told(folder: Folder, keyless: str, told: str) -> None:
    """An identity that everybody has is none."""
    text = f"""\
        {UPSTREAM.strip()}
        trust: {{roots: {{r: public-good}}}}
        rules:
          - {{match: "**", require: {{signature: {{keyless: {{root: r, {keyless}}}}}}}}}
        """
    assert folder.errors(text) == [f"4: rules[0].require.signature.keyless.{told}"]


def test_there_may_be_no_key_at_all(folder: Folder) -> None:
    """Then there is none to suggest."""
    text = f'{UPSTREAM}rules: [{{match: "**", require: {{signature: {{key: k}}}}}}]\n'
    assert folder.errors(text) == [
        "2: rules[0].require.signature.key: no key `k` under trust.keys; there is none yet, add it there"
    ]


def test_requirements_are_nested_within_bounds(folder: Folder) -> None:
    """Eight levels are more than anyone can read; the ninth is told."""
    deep = "deny"
    for _ in range(8):
        deep = f"{{all: [{deep}]}}"
    assert len(folder.load(f'rules: [{{match: "**", require: {deep}}}]\n').rules) == 1
    (told,) = folder.errors(f'rules: [{{match: "**", require: {{any: [{deep}]}}}}]\n')
    assert told.endswith(": is nested too deep: 8 levels of `all`, `any` and `at_least` at most")


@pytest.mark.parametrize(
    ("require", "told"),
    [
        ("{at_least: 2, of: [{signature: {key: other}}, {signature: {key: other}}]}", "at_least: asks for 2 distinct signers, but names only 1: no image could ever pass"),
        ("{any: [first-use, {signature: {key: other}}]}", "any: holds `first-use`, which every image meets: the other items are never needed"),
    ],
)  # fmt: skip
def test_requirements_that_are_worth_a_word(folder: Folder, require: str, told: str) -> None:
    """They are what they are, but hardly what was meant."""
    assert warnings_of(folder, f'match: "**", require: {require}') == [f"4: rules[0].require.{told}"]


# -- patterns


@pytest.mark.parametrize(
    "pattern",
    ["**", "docker.io/**", "docker.io/library/*", "docker.io/library/ngin?", "ghcr.io/acme/app", "ghcr.io/acme/**/x", "*.io/**", "**/nginx", "ghcr.io/*",
     "docker.io/**x", "ghcr.io/a__b/c--d.e"],
)  # fmt: skip
def test_patterns_that_can_match_pass_without_a_word(folder: Folder, pattern: str) -> None:
    """Globs in every place where they make sense."""
    assert warnings_of(folder, f'match: "{pattern}", require: first-use') == []


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("", 'is empty; write `registry/repository`, or "**" for every image'),
        ("docker.io/nginx", "official images of Docker Hub are in `library/`; write `docker.io/library/nginx`"),
        ("docker.io/*", "official images of Docker Hub are in `library/`; write `docker.io/library/*`"),
        ("index.docker.io/nginx", "official images of Docker Hub are in `library/`; write `docker.io/library/nginx`"),
        ("registry-1.docker.io/acme/app", "`registry-1.docker.io` is another name of `docker.io`; write `docker.io/acme/app`"),
        ("index.docker.io/**", "`index.docker.io` is another name of `docker.io`; write `docker.io/**`"),
        ("nginx", "names of images begin with their registry; write `docker.io/library/nginx`"),
        ("acme/app", "names of images begin with their registry; write `docker.io/acme/app`, or `**/acme/app` for any"),
        ("acme/**", "names of images begin with their registry; write `docker.io/acme/**`, or `**/acme/**` for any"),
        ("docker.io", "names a registry without a repository; write `docker.io/**` for all of its images"),
        ("quay.io", "names a registry without a repository; write `quay.io/**` for all of its images"),
        ("*", '`*` stops at `/`, so no image matches; write "**"'),
        ("docker.io**", "`**` would cross into other registries' names; in the registry's part write `*`, or `**` alone"),
        ("**nginx", "`**` would cross into other registries' names; in the registry's part write `*`, or `**` alone"),
        ("docker.io/library/nginx:1.27", "a rule names repositories: tags belong under `tags:`; write `docker.io/library/nginx`"),
        ("ghcr.io/a/b@sha256:abc", "a rule names repositories: digests are pulled under the same rule as tags; write `ghcr.io/a/b`"),
        ("ghcr.io/Acme/**", "names of images are lower-case; write `ghcr.io/acme/**`"),
        ("https://ghcr.io/acme/**", "names of images have no scheme; write `ghcr.io/acme/**`"),
        ("ghcr.io/", "is no pattern for `registry/repository`: lower-case components of a–z 0–9 . _ - with `/` between them"),
        ("ghcr.io/a//b", "is no pattern for `registry/repository`: lower-case components of a–z 0–9 . _ - with `/` between them"),
        ("ghcr.io/a/ b", "is no pattern for `registry/repository`: lower-case components of a–z 0–9 . _ - with `/` between them"),
        ("ghcr..io/a", "'ghcr..io' is not a registry: write host or host:port"),
        ("ghcr.io/" + "a" * 600, "is too long: 510 characters at most"),
    ],
)  # fmt: skip
def test_patterns_that_never_match_are_told(folder: Folder, pattern: str, told: str) -> None:
    """With the spelling that was meant: else the image would silently come under another rule."""
    assert errors_of(folder, f'match: "{pattern}", require: first-use') == [f"4: rules[0].match: {told}"]


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("ghrc.io/**", "no upstream `ghrc.io`, so nothing can be pulled by this rule; did you mean `ghcr.io`?"),
        ("registry.example:5000/**", "no upstream `registry.example:5000`, so nothing can be pulled by this rule; add `upstreams: {registry.example:5000: {}}`"),
        ("*.example/**", "no upstream matches `*.example`, so nothing can be pulled by this rule"),
    ],
)  # fmt: skip
def test_patterns_for_registries_that_are_no_upstream_are_warned_about(folder: Folder, pattern: str, told: str) -> None:
    """Nothing could be pulled by them; of a rule that denies, nothing is expected."""
    assert warnings_of(folder, f'match: "{pattern}", require: first-use') == [f"4: rules[0].match: {told}"]
    assert warnings_of(folder, f'match: "{pattern}", require: deny') == []


def test_a_registry_without_a_dot_is_one_where_it_is_an_upstream(folder: Folder) -> None:
    """`harbor/acme` is an image of `harbor` then."""
    text = "upstreams: {harbor: {}}\nrules: [{match: harbor/acme/**, require: first-use}]\n"
    assert folder.load(text).rules[0].pattern.text == "harbor/acme/**"


def test_a_pattern_stands_once(folder: Folder) -> None:
    """Of two equal patterns one would never count."""
    text = f"{UPSTREAM}rules:\n  - {{match: ghcr.io/**, require: deny}}\n  - {{match: ghcr.io/**, require: first-use}}\n"
    assert folder.errors(text) == ['4: rules[1].match: "ghcr.io/**" stands here a second time; the first is in line 3']


# -- tags


def test_tag_rules_become_values(folder: Folder) -> None:
    """The most specific wins, wherever it stands; what nothing matches is refused."""
    tags = '[{match: "*"}, {match: "v*", on_overwrite: serve-pinned}, {match: v1, on_overwrite: refuse}]'
    (rule,) = folder.load(f'{UPSTREAM}rules: [{{match: "**", require: deny, tags: {tags}}}]\n').rules
    assert [rule.on_overwrite(tag) for tag in ("latest", "v2", "v1")] == [
        OnOverwrite.REFUSE,
        OnOverwrite.SERVE_PINNED,
        OnOverwrite.REFUSE,
    ]


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ("match: v1, cooldown: 72h", "cooldown: `cooldown` goes with `on_overwrite: rotate`; remove it, or let the tag rotate"),
        ("match: v1, otherwise: refuse", "otherwise: `otherwise` goes with `on_overwrite: rotate`; remove it, or let the tag rotate"),
        ("match: v1, on_overwrite: serve-pinned, signer: any", "signer: `signer` goes with `on_overwrite: rotate`; remove it, or let the tag rotate"),
        ("match: v1, window: {}", "window: `window` goes with `on_overwrite: rotate`; remove it, or let the tag rotate"),
        ("match: v1, stale_after: 1d", "stale_after: `stale_after` goes with `on_overwrite: rotate`; remove it, or let the tag rotate"),
        ("match: v1, approvers: 0", "approvers: without anybody's approval no pin moves under `refuse`; write 1 or 2, or `on_overwrite: rotate`"),
        ("match: v1, approvers: 3", "approvers: must be at most 2"),
        ("match: v1, approvers: two", "approvers: write a whole number here"),
        ("match: v1, on_overwrite: rotate, cooldown: 72", "cooldown: write a duration with its unit, such as 500ms, 60s, 15m, 72h or 7d"),
        ("match: v1, on_overwrite: rotate, signer: other", "signer: `other` is not known here; the values here are: `same`, `any`"),
        ("match: v1, on_overwrite: rotate, otherwise: rotate", "otherwise: `rotate` is not known here; the values here are: `refuse`, `serve-pinned`"),
        ("match: v1, on_overwrite: rotate, window: {days: []}", "window.days: must not be empty"),
        ("match: v1, on_overwrite: rotate, window: {days: [monday]}", "window.days[0]: `monday` is not known here; did you mean `mon`?"),
        ("match: v1, on_overwrite: rotate, window: {from: 22:00, to: 22:00}", "window.to: is when it opens: it would be open for no time; for whole days write `from: 00:00` and `to: 24:00`"),
        ("match: v1, on_overwrite: rotate, window: {from: 24:00, to: 06:00}", "window.from: is the end of a day; write 00:00 for the beginning of the next one"),
        ("match: v1, on_overwrite: rotate, window: {from: 25:00}", "window.from: write a time of the day such as 06:30 or 22:00, or 24:00 for its end"),
        ("match: v1, on_overwrite: rotate, window: {to: 6}", "window.to: write a time of the day such as 06:30 or 22:00, or 24:00 for its end"),
        ("match: v1, on_overwrite: rotate, window: {timezone: Europe/Berln}", "window.timezone: no time zone `Europe/Berln` is known here; did you mean `Europe/Berlin`?"),
        ("match: v1, on_overwrite: rotate, window: {timezone: ../../etc/passwd}", "window.timezone: no time zone `../../etc/passwd` is known here"),
        ("match: v1, on_overwrite: rotate, window: {form: 22:00}", "window.form: unknown key `form`; did you mean `from`?"),
        ("match: a/b", 'match: "a/b" matches no tag: tags are made of A–Z a–z 0–9 _ . -, and `*` and `?` stand for some'),
        ("match: ''", 'match: "" matches no tag: tags are made of A–Z a–z 0–9 _ . -, and `*` and `?` stand for some'),
        ("match: 'sha256:abc'", 'match: "sha256:abc" matches no tag: tags are made of A–Z a–z 0–9 _ . -, and `*` and `?` stand for some'),
    ],
)  # fmt: skip
def test_tags_that_cannot_be_are_told(folder: Folder, tag: str, told: str) -> None:
    """What goes with another rule, what no clock or calendar knows, patterns that no tag can match: each with its way out."""
    (error,) = errors_of(folder, f'match: "**", require: deny, tags: [{{{tag}}}]')
    assert error.startswith(f"4: rules[0].tags[0].{told}")


def test_rotation_becomes_a_value(folder: Folder) -> None:
    """As it is written, and as it is where nothing is."""
    window = "{days: [fri, sat], from: 22:00, to: 06:00, timezone: Europe/Berlin}"
    whole = f"cooldown: 1h, signer: any, otherwise: serve-pinned, approvers: 2, window: {window}, stale_after: 1d"
    tags = (
        f'[{{match: latest, on_overwrite: rotate, {whole}}}, {{match: "*", on_overwrite: rotate}}, {{match: v1, approvers: 2}}]'
    )
    (rule,) = folder.load(f'{UPSTREAM}rules: [{{match: "**", require: deny, tags: {tags}}}]\n').rules
    latest, others, v1 = (rule.tag_rule(tag) for tag in ("latest", "x", "v1"))
    nights = Window(frozenset({4, 5}), time(22), time(6), ZoneInfo("Europe/Berlin"), "Europe/Berlin")
    assert latest.rotation == Rotation(timedelta(hours=1), Continuity.ANY, OnOverwrite.SERVE_PINNED, nights, timedelta(days=1))
    assert others.rotation == Rotation(timedelta(hours=72), Continuity.SAME, OnOverwrite.REFUSE, None, timedelta(days=7))
    assert (latest.approvers, others.approvers, v1.approvers) == (2, 0, 2)
    assert (v1.on_overwrite, v1.rotation) == (OnOverwrite.REFUSE, None)


def test_a_window_is_every_day_and_all_of_it_where_nothing_is_written(folder: Folder) -> None:
    """In UTC; an empty mapping is one."""
    tags = '[{match: "*", on_overwrite: rotate, window: {}}]'
    (rule,) = folder.load(f'{UPSTREAM}rules: [{{match: "**", require: deny, tags: {tags}}}]\n').rules
    rotation = rule.tag_rule("x").rotation
    assert rotation is not None
    assert str(rotation.window) == "every day 00:00–24:00 UTC"


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        (
            "cooldown: 0s",
            "cooldown: is no wait at all, and the rule requires nothing: whatever the upstream names is served, as without pins",
        ),
        ("signer: same", "signer: makes no difference: nobody vouches for images on first use"),
    ],
)
def test_what_rotates_without_any_hold_is_worth_a_word(folder: Folder, tag: str, told: str) -> None:
    """On first use only time and people hold a candidate back."""
    rule = f"match: ghcr.io/acme/**, require: first-use, tags: [{{match: x, on_overwrite: rotate, {tag}}}]"
    assert warnings_of(folder, rule) == [f"4: rules[0].tags[0].{told}"]


def test_a_tag_pattern_stands_once(folder: Folder) -> None:
    """Within its rule; another rule may have the same."""
    tags = 'tags: [{match: "*"}, {match: x}, {match: "*"}]'
    assert errors_of(folder, f'match: "**", require: deny, {tags}') == [
        '4: rules[0].tags[2].match: "*" stands here a second time; the first is in line 4'
    ]


def test_the_most_specific_rule_wins_wherever_it_stands(folder: Folder) -> None:
    """As :func:`proxy.policy.rules.match` has it; no match is refused."""
    rules = folder.load(
        f"{UPSTREAM}rules:\n  - {{match: ghcr.io/**, require: first-use}}\n  - {{match: ghcr.io/acme/**, require: deny}}\n"
    ).rules
    assert match(rules, Repository.of("ghcr.io", "acme/app")).require == Never()
    assert match(rules, Repository.of("ghcr.io", "other/app")).require == FirstUse()
    assert match(rules, Repository.of("docker.io", "nginx")).pattern.text == "**"
