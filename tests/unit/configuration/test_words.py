"""Errors are told by line and key, in words of the file's own, with the way out."""

# ruff: noqa: E501  # a row of a table is one line

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from proxy.configuration import load
from proxy.configuration.source import parse
from proxy.configuration.words import nearest, problems_of, suggestion
from proxy.errors import ConfigurationError
from tests.unit.configuration.files import RULES, Folder

FORMS = "`first-use`, `deny`, or a mapping with one of `signature`, `attestation`, `all`, `any`, `at_least`, `of`"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        # unknown keys, at every depth
        ("chek_interval: 5s", "1: chek_interval: unknown key `chek_interval`; did you mean `check_interval`?"),
        ("log: {colour: red}", "1: log.colour: unknown key `colour`; the keys here are: `format`, `level`, `pulls`"),
        ("upstreams:\n  docker.io:\n    allow-private: true", "3: upstreams.docker.io.allow-private: unknown key `allow-private`; did you mean `allow_private`?"),
        ("upstreams: {docker.io: {auth: {user: x}}}", "1: upstreams.docker.io.auth.user: unknown key `user`; did you mean `username`?"),
        ("trust: {keys: {k: {fil: one.pub}}}", "1: trust.keys.k.fil: unknown key `fil`; did you mean `file`?"),
        # enumerated values
        ("log: {level: warn}", "1: log.level: `warn` is not known here; did you mean `warning`?"),
        ("cache: {serve: fast}", "1: cache.serve: `fast` is not known here; the values here are: `sealed`, `rehash`"),
        ("trust: {roots: {x: public-god}}", "1: trust.roots.x: `public-god` is not known here; did you mean `public-good`?"),
        ("trust: {roots: {x: []}}", "1: trust.roots.x: is a list; write a mapping here, with keys such as `file`, `tuf`, `root`, `target`"),
        # another kind of value
        ("log: loud", "1: log: is a text; write a mapping here, with keys such as `format`, `level`, `pulls`"),
        ("upstreams: [docker.io]", "1: upstreams: is a list; write a mapping here, `key: value` lines or `{}`"),
        ("hosts: {a.example: {b: c}}", "1: hosts.a.example: is a mapping; write a text here"),
        ("data_dir: [x]", "1: data_dir: is a list; write a path here"),
        ("data_dir:", "1: data_dir: has no value; write a path here"),
        ("default_registry: ~", "1: default_registry: has no value; write a text here"),
        ("workers: many", "1: workers: write a whole number here"),
        ("workers: 1.5", "1: workers: write a whole number here"),
        ("workers: {}", "1: workers: is a mapping; write a whole number here"),
        (f"workers: {'9' * 5000}", "1: workers: write a whole number here"),
        ("upstreams: {docker.io: {realm_hosts: auth.example}}", "1: upstreams.docker.io.realm_hosts: is a text; write a list here, such as `[one, two]`"),
        # values that are out of bounds, or in no known form
        ("workers: 0", "1: workers: must be at least 1"),
        ("workers: 1000", "1: workers: must be at most 256"),
        ("check_interval: 60", "1: check_interval: write a duration with its unit, such as 500ms, 60s, 15m, 72h or 7d"),
        ("limits: {manifest_size: 4MB}", "1: limits.manifest_size: write a size in bytes, such as 65536, 64KiB, 4MiB or 2GiB"),
        ("watch: {jitter: 0.1}", "1: watch.jitter: write a share, such as 10% or 50%"),
        ("watch: {jitter: 26%}", "1: watch.jitter: must be at most 25%"),
        ("watch: {rate: 10}", "1: watch.rate: write a rate with its unit, such as 10/s, 30/m or 500/h, of at most 1000/s"),
        ("watch: {rate: 0}", "1: watch.rate: must be more than 0; to watch nothing: `interval: never`"),
        ("limits: {request_timeout: 0}", "1: limits.request_timeout: must be longer than 0: every wait has an end, and some time until then"),
        ("upstreams: {docker.io: {allow_private: 1}}", "1: upstreams.docker.io.allow_private: write true or false"),
        ("trust: {keys: {a b: {file: one.pub}}}", "1: trust.keys.a b: is not a name: up to 64 of A–Z a–z 0–9 . _ -, starting with a letter or a digit"),
        ("trust: {keys: {k: {valid_until: 2025-01-01}}}", "1: trust.keys.k: `file` is required: the PEM file that holds the public key; or `gpg`, OpenPGP public keys"),
        ("trust: {keys: {k: {file: one.pub, valid_until: 2025-02-30}}}", "1: trust.keys.k.valid_until: is no day of the calendar, or no time of a day"),
        ("trust: {keys: {k: {file: one.pub, valid_from: 2025-01-02, valid_until: 2025-01-01}}}", "1: trust.keys.k: `valid_from` is later than `valid_until`, so the key would never count"),
        ("trust: {notation: {n: {ca: []}}}", "1: trust.notation.n: give `ca`, PEM files of certificate authorities or signing certificates, or `signing_authority`"),
        ("trust: {notation: {n: {}}}", "1: trust.notation.n: give `ca`, PEM files of certificate authorities or signing certificates, or `signing_authority`"),
        # problems of the file as YAML, told beside the others
        ("workers: 1\nworkers: 2", "2: workers: `workers` stands here a second time; the first is in line 1"),
    ],
)  # fmt: skip
def test_every_mistake_has_its_line_its_key_and_a_way_out(folder: Folder, text: str, told: str) -> None:
    """One mistake, one message."""
    assert folder.errors(f"{text}\n{RULES}") == [told]


@pytest.mark.parametrize(
    ("require", "told"),
    [
        ("first_use", "2: rules[0].require: `first_use` is not known here; did you mean `first-use`?"),
        ("allow", "2: rules[0].require: `allow` is not known here; the values here are: `first-use`, `deny`"),
        ("", f"2: rules[0].require: has no value; write {FORMS}"),
        ("[deny]", f"2: rules[0].require: cannot be a list; write {FORMS}"),
        ("{}", f"2: rules[0].require: is empty; write {FORMS}"),
        ("{signatures: {key: a}}", "2: rules[0].require.signatures: unknown key `signatures`; did you mean `signature`?"),
        ("{signature: {kye: a}}", "2: rules[0].require.signature.kye: unknown key `kye`; did you mean `key`?"),
        ("{signature: {}}", "2: rules[0].require.signature: name one signer: `key`, `keyless` or `notation`"),
        ("{signature: a}", "2: rules[0].require.signature: is a text; write a mapping here, with keys such as `key`, `keyless`, `notation`, `docker_reference`"),
        ("{signature: {key: a, notation: {store: b}}}", "2: rules[0].require.signature: name one signer: `key`, `keyless` or `notation`"),
        ("{signature: {key: a}, all: [deny]}", "2: rules[0].require: `signature` and `all` stand side by side; write each as an item of a list under `all:` or `any:`"),
        ("{all: []}", "2: rules[0].require.all: must not be empty"),
        ("{any: []}", "2: rules[0].require.any: must not be empty"),
        ("{all: deny}", "2: rules[0].require.all: is a text; write a list here, such as `[one, two]`"),
        ("{all: [deny, {any: [denny]}]}", "2: rules[0].require.all[1].any[0]: `denny` is not known here; did you mean `deny`?"),
        ("{at_least: 2, of: [deny]}", "2: rules[0].require: asks for 2 of 1: no image could ever pass"),
        ("{at_least: 0, of: [deny]}", "2: rules[0].require.at_least: must be at least 1"),
        ("{at_least: 2}", "2: rules[0].require.of: is required"),
        ("{of: [deny]}", "2: rules[0].require.at_least: is required"),
        ("{at_least: 1, off: [deny]}", "2: rules[0].require.off: unknown key `off`; did you mean `of`?"),
    ],
)  # fmt: skip
def test_requirements_are_told_by_their_forms(folder: Folder, require: str, told: str) -> None:
    """The union's branches do not show: what is told is what a person wrote."""
    assert folder.errors(f'rules:\n  - {{match: "**", require: {require}}}\n') == [told]


def test_a_key_that_is_missing_because_it_is_misspelled_is_told_once(folder: Folder) -> None:
    """`requires` is the mistake; that `require` is missing is only its consequence."""
    told = folder.errors('rules:\n  - match: "**"\n    requires: deny\n')
    assert told == ["3: rules[0].requires: unknown key `requires`; did you mean `require`?"]


def test_on_overwrite_is_told_with_the_nearest_value(folder: Folder) -> None:
    """In the line of the value."""
    text = 'rules:\n  - match: "**"\n    require: deny\n    tags:\n      - match: "*"\n        on_overwrite: refused\n'
    assert folder.errors(text) == ["6: rules[0].tags[0].on_overwrite: `refused` is not known here; did you mean `refuse`?"]


@pytest.mark.parametrize("text", ["", "rules:", "rules: []", "log: {}"])
def test_rules_are_required(folder: Folder, text: str) -> None:
    """A file without rules would refuse everything, which nobody means."""
    (told,) = folder.errors(text)
    assert re.fullmatch(
        r"1: rules: (is required|must not be empty|has no value; write a list here, such as `\[one, two\]`)", told
    )


def _mutations(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every variant of a tree with one value in it turned into something of another kind."""
    others: tuple[Any, ...] = (None, "-x", [[]], {"x": "y"})
    for other in others:
        yield f"{path} = {other}", other
    if isinstance(value, dict):
        for key, inner in value.items():
            for name, changed in _mutations(inner, f"{path}.{key}"):
                yield name, {**value, key: changed}
            yield f"{path} without {key}", {each: kept for each, kept in value.items() if each != key}
        yield f"{path} with more", {**value, "more": "1"}
    if isinstance(value, list):
        for index, inner in enumerate(value):
            for name, changed in _mutations(inner, f"{path}[{index}]"):
                yield name, [*value[:index], changed, *value[index + 1 :]]


WHOLE = """
listen: 127.0.0.1:0
admin: {listen: "127.0.0.1:0"}
check_interval: 1s
hosts: {a.example: docker.io}
upstreams:
  docker.io:
    url: https://registry-1.docker.io
    allow_private: "no"
    auth: {username: a, password: b}
    client_certificate: {cert: a, key: b}
    realm_hosts: [a.example]
trust:
  keys: {k: {file: one.pub, valid_from: "2025-01-01"}}
  roots: {r: public-good, s: {file: x, log: none}}
  notation: {n: {ca: [x]}}
rules:
  - match: "**"
    require:
      all:
        - signature: {key: k}
        - signature: {keyless: {root: r, issuer: i, identity: x}}
        - any: [first-use, deny]
        - at_least: "1"
          of: [{signature: {notation: {store: n}}}]
        - attestation: {type: t, by: {key: k}, max_age: 1d}
    tags:
      - {match: "*", on_overwrite: rotate, cooldown: 1s, otherwise: refuse, signer: any, approvers: "1", stale_after: 1d, window: {days: [mon], from: "01:00"}}
log: {level: info}
workers: "1"
"""
JARGON = re.compile(
    r"pydantic|Input|Extra|Field required|Value error|valid (string|integer|dictionary|tuple)|instance of|discriminator|"
    r"is not accepted here|Traceback|None|<\w+>|\[key\]|NoneType"
)


def test_no_mistake_is_told_in_the_words_of_the_library(folder: Folder) -> None:
    """Whatever stands in the place of whatever: the error is one of ours, with a line, and without jargon."""
    seen = 0
    for name, changed in _mutations(yaml.safe_load(WHOLE)):
        folder.file.write_text(json.dumps(changed))  # which is YAML, too
        try:
            load(folder.file)
        except ConfigurationError as error:
            seen += len(error.problems)
            for problem in error.problems:
                assert not JARGON.search(str(problem)), f"{name}: {problem}"
                assert problem.line > 0, f"{name}: {problem}"
                assert problem.message == problem.message.strip(), f"{name}: {problem}"
    assert seen > 500


def test_all_mistakes_are_told_at_once_in_the_order_of_the_lines(folder: Folder) -> None:
    """What does not check out does not hide what else is wrong, nor make what is right look wrong."""
    told = folder.errors("""\
        listen: 5000
        upstreams:
          docker.io: {urll: x}
          index.docker.io: {}
          ghcr.io: {url: "http://ghcr.io"}
        trust:
          keys:
            broken: {fil: one.pub}
            sound: {file: one.pub}
        rules:
          - {match: docker.io/nginx, require: {signature: {key: broken}}}
          - {match: "**", require: {signature: {key: brokn}}, requires: 1}
          - {match: "**", require: {all: [x]}}
          - {match: quay.io/a/b, require: {signature: {key: sound}}, tags: [{match: x, cooldown: 1s}]}
    """)
    assert [line.partition(": ")[0] + " " + line.split(": ")[1] for line in told] == [
        "1 listen",
        "3 upstreams.docker.io.urll",
        "4 upstreams.index.docker.io",
        "5 upstreams.ghcr.io.url",
        "8 trust.keys.broken.fil",
        "11 rules[0].match",
        "12 rules[1].requires",
        "12 rules[1].require.signature.key",
        "13 rules[2].require.all[0]",
        "14 rules[3].tags[0].cooldown",
    ]


def test_the_rest_is_looked_at_even_where_no_rule_is_left(folder: Folder) -> None:
    """Rules are required; without them the upstreams are checked all the same."""
    assert folder.errors("upstreams: {UPPER_case: {}}\n") == [
        "1: rules: is required",
        "1: upstreams.UPPER_case: 'UPPER_case' is not a registry: write host or host:port",
    ]


def test_what_is_left_is_looked_at_however_much_falls_away(folder: Folder) -> None:
    """A mistake deep inside empties one list after the other; what stands beside them is still checked."""
    deep = "{signature: {}}"
    for _ in range(7):
        deep = f"{{at_least: 1, of: [{deep}]}}"
    told = folder.errors(f'upstreams: {{-a: {{}}}}\nrules:\n  - {{match: "**", require: {deep}}}\n')
    assert [line.partition(": ")[0] for line in told] == ["1", "3"]


def test_what_cannot_be_mended_is_told_all_the_same(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking on is a service; where it leads nowhere, the mistakes that are known are told."""
    monkeypatch.setattr("proxy.configuration._ROUNDS", 1)
    assert folder.errors(f"workers: x\nupstreams: {{-a: {{}}}}\n{RULES}") == ["1: workers: write a whole number here"]


def test_an_error_that_has_no_words_yet_is_told_by_its_place() -> None:
    """Should the library learn to find something new, the line and the key are there, and nothing of what was written."""
    root, _ = parse("a: secret\n", "f")
    (told,) = problems_of([{"type": "brand_new", "loc": ("a",), "msg": "Input is secret"}], root, "f")
    assert str(told) == "f:1: a: is not accepted here (brand new)"


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("requires", ("require", "tags"), "require"),
        ("allow-private", ("allow_private",), "allow_private"),
        ("ON_OVERWRITE", ("on_overwrite",), "on_overwrite"),
        ("xyz", ("require",), None),
        ("", ("require",), None),
    ],
)
def test_the_nearest_word_is_found(word: str, known: tuple[str, ...], expected: str | None) -> None:
    """Dashes for underscores, capitals, a letter more or less."""
    assert nearest(word, known) == expected


def test_suggestions_list_what_there_is() -> None:
    """The nearest, else all of few, else the first of many; nothing where there is nothing."""
    assert suggestion("tgs", ["tags"]) == "; did you mean `tags`?"
    assert suggestion("x", ["tags", "match"]) == "; known here: `tags`, `match`"
    assert suggestion("x", [f"key{number}" for number in range(20)]).endswith("`key15`, …")
    assert suggestion("x", []) == ""
