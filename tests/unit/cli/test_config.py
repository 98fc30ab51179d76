"""``tagstone config``: what it prints, where, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

import config
from proxy.cli.config import app
from proxy.configuration import load
from proxy.configuration.schema import json_schema
from tests.unit.configuration.files import Folder

SHIPPED = Path(config.__file__).parent / "tagstone.yaml"
GOOD = """\
listen: 127.0.0.1:0
upstreams:
  docker.io: {}
  GHCR.io: {auth: {username: ann, password: hunter2}}
  reg.example: {url: "http://127.0.0.1:9/", allow_private: true}
hosts: {Mirror.example: docker.io}
trust: {keys: {acme: {file: one.pub, valid_from: 2025-01-01, valid_until: 2099-12-31}}}
rules:
  - match: ghcr.io/acme/**
    require: {any: [{signature: {key: acme}}, {all: [deny]}]}
    tags: [{match: "v*", on_overwrite: serve-pinned}]
  - match: ghcr.io/acme/a*
    require: deny
  - match: docker.io/**
    require: first-use
"""
BAD = 'chek_interval: 5s\nworkers: many\nrules: [{match: "**", require: deny}]\n'


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder with a file that checks out, and the key that it names."""
    made = Folder(tmp_path)
    made.write(GOOD)
    return made


def tagstone_config(*words: str | Path) -> Result:
    """Run ``tagstone config`` with these words."""
    return CliRunner().invoke(app, [str(word) for word in words])


def shown(*words: str | Path) -> Any:
    """What the command prints as JSON."""
    result = tagstone_config(*words, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return json.loads(result.stdout)


def test_check_of_a_good_file_ends_with_0(folder: Folder) -> None:
    """One line on standard output that counts; warnings on standard error."""
    result = tagstone_config("check", "--config", folder.file)
    assert result.exit_code == 0
    assert result.stdout == f"{folder.file} checks out: 3 rules, 3 upstreams, 1 key; 1 warning\n"
    (warning,) = result.stderr.splitlines()
    assert warning.startswith(f"{folder.file}:4: upstreams.GHCR.io.auth.password: a password stands in the file")
    assert warning.endswith("(warning)")


def test_check_of_the_shipped_default_says_that_it_is_fine() -> None:
    """Nothing but the line that counts."""
    result = tagstone_config("check", "--config", SHIPPED)
    assert (result.exit_code, result.stderr) == (0, "")
    assert "warning" not in result.stdout


def test_check_of_a_bad_file_ends_with_2_and_lists_everything(folder: Folder) -> None:
    """Each with file, line and key, on standard error; nothing on standard output."""
    folder.write(BAD)
    result = tagstone_config("check", "--config", folder.file)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.splitlines() == [
        f"{folder.file}:1: chek_interval: unknown key `chek_interval`; did you mean `check_interval`?",
        f"{folder.file}:2: workers: write a whole number here",
        "tagstone: the configuration does not check out: 2 errors",
    ]


def test_check_as_json_says_the_same(folder: Folder) -> None:
    """For scripts: on standard output, whether the file is good or bad."""
    good = shown("check", "--config", folder.file)
    assert (good["file"], good["valid"], good["errors"]) == (str(folder.file), True, [])
    assert [(each["line"], each["key"]) for each in good["warnings"]] == [(4, "upstreams.GHCR.io.auth.password")]
    folder.write(BAD)
    result = tagstone_config("check", "--config", folder.file, "--json")
    bad = json.loads(result.stdout)
    assert (result.exit_code, bad["valid"], result.stderr) == (2, False, "")
    assert bad["errors"][1] == {"line": 2, "key": "workers", "message": "write a whole number here"}


def test_a_file_that_is_not_there_ends_with_2(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named or looked for, in words or as JSON."""
    gone = folder.path / "gone.yaml"
    result = tagstone_config("check", "--config", gone)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, f"{gone}: cannot be read: No such file or directory")
    assert tagstone_config("show", "--config", gone).exit_code == 2
    folder.file.unlink()
    monkeypatch.chdir(folder.path)
    monkeypatch.delenv("TAGSTONE_CONFIG", raising=False)
    monkeypatch.setattr("proxy.configuration.SYSTEM", folder.path / "etc.yaml")
    result = tagstone_config("check", "--json")
    assert result.exit_code == 2
    told = json.loads(result.stdout)
    assert (told["file"], told["errors"][0]["line"], told["errors"][0]["key"]) == (None, None, None)


def test_wrong_usage_ends_with_2() -> None:
    """As of every command."""
    assert tagstone_config("check", "--nonsense").exit_code == 2
    assert tagstone_config("nonsense").exit_code == 2


def test_show_fills_in_defaults_and_endpoints(folder: Folder) -> None:
    """Canonical names, endpoints that are dialled, absolute paths, durations and sizes as the file writes them."""
    effective = shown("show", "--config", folder.file)
    assert effective["check_interval"] == "60s"
    assert effective["limits"]["manifest_size"] == "4MiB"
    assert {name: upstream["url"] for name, upstream in effective["upstreams"].items()} == {
        "docker.io": "https://registry-1.docker.io",
        "ghcr.io": "https://ghcr.io",
        "reg.example": "http://127.0.0.1:9",
    }
    assert effective["hosts"] == {"mirror.example": "docker.io"}
    assert effective["trust"]["keys"]["acme"] == {
        "file": str(folder.path / "one.pub"),
        "valid_from": "2025-01-01T00:00:00Z",
        "valid_until": "2099-12-31T23:59:59.999999Z",
    }


@pytest.mark.parametrize("form", ["--json", None])
def test_promise_40_show_masks_secrets(folder: Folder, form: str | None) -> None:
    """In both forms, on both outputs."""
    result = tagstone_config("show", "--config", folder.file, *([form] if form else []))
    assert result.exit_code == 0
    assert "hunter2" not in result.output
    assert yaml.safe_load(result.stdout)["upstreams"]["ghcr.io"]["auth"] == {"username": "ann", "password": "***"}


def test_what_is_shown_can_be_read_back(folder: Folder) -> None:
    """Apart from the secret it is the same configuration, with everything written out."""
    folder.write(GOOD.replace("password: hunter2", "password_env: HOME"))
    before = load(folder.file)
    printed = tagstone_config("show", "--config", folder.file).stdout
    after = load(folder.write(printed))
    assert after.rules == before.rules
    assert after.trusted == before.trusted
    assert after.hosts == before.hosts
    assert after.settings.limits == before.settings.limits
    assert tagstone_config("show", "--config", folder.file).stdout == printed
    # Other readers of YAML see the same: nothing in it depends on how scalars are resolved.
    assert yaml.safe_load(printed)["rules"][0]["require"] == {"any": [{"signature": {"key": "acme"}}, {"all": ["deny"]}]}


def test_show_rule_says_which_rule_and_why(folder: Folder) -> None:
    """The rule with its line, what it requires, what overwrites of the tag are answered, and which others match."""
    result = tagstone_config("show", "--config", folder.file, "--rule", "ghcr.io/acme/app:v1")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "ghcr.io/acme/app:v1",
        f'  rule       "ghcr.io/acme/a*" ({folder.file}:12)',
        "  requires   nothing is allowed here (require: deny)",
        "  overwrite  refuse (no tag pattern matches)",
        "  because    it is the most specific of those that match:",
        f'               "ghcr.io/acme/a*" ({folder.file}:12): 14 characters before a wildcard, 14 in all',
        f'               "ghcr.io/acme/**" ({folder.file}:9): 13 characters before a wildcard, 13 in all',
    ]


def test_show_rule_as_json(folder: Folder) -> None:
    """The same for scripts; names are canonical."""
    told = shown("show", "--config", folder.file, "--rule", "ghcr.io/acme/team/app:v1")
    assert told["image"] == "ghcr.io/acme/team/app:v1"
    assert told["upstream"] is True
    assert told["rule"]["match"] == "ghcr.io/acme/**"
    assert told["rule"]["line"] == 9
    assert told["rule"]["characters"] == {"before_wildcard": 13, "literal": 13, "**": 1, "*": 0, "?": 0}
    assert (told["on_overwrite"], told["tag_pattern"]) == ("serve-pinned", "v*")
    assert [each["match"] for each in told["matching"]] == ["ghcr.io/acme/**"]
    assert shown("show", "--config", folder.file, "--rule", "nginx")["image"] == "docker.io/library/nginx:latest"


@pytest.mark.parametrize(
    ("image", "lines"),
    [
        (
            "quay.io/a/b",
            [
                "quay.io/a/b:latest",
                "  upstream   none: quay.io is not configured, so every pull is refused",
                "  rule       none matches, so every pull is refused",
            ],
        ),
        ("reg.example/a", ["reg.example/a:latest", "  rule       none matches, so every pull is refused"]),
    ],
)
def test_show_rule_says_what_no_rule_matches(folder: Folder, image: str, lines: list[str]) -> None:
    """And what is no upstream: both are refused."""
    assert tagstone_config("show", "--config", folder.file, "--rule", image).stdout.splitlines() == lines
    told = shown("show", "--config", folder.file, "--rule", image)
    assert (told["rule"], told["matching"]) == (None, [])


def test_show_rule_of_a_digest_speaks_of_no_tag(folder: Folder) -> None:
    """A digest cannot be overwritten."""
    image = f"docker.io/library/nginx@sha256:{'0' * 64}"
    lines = tagstone_config("show", "--config", folder.file, "--rule", image).stdout.splitlines()
    assert lines[1:] == [
        f'  rule       "docker.io/**" ({folder.file}:14)',
        "  requires   nothing on first use",
        "  because    no other rule matches",
    ]
    told = shown("show", "--config", folder.file, "--rule", image)
    assert (told["on_overwrite"], told["tag_pattern"]) == (None, None)


def test_show_rule_of_what_is_no_image_ends_with_2(folder: Folder) -> None:
    """With the grammar in words."""
    result = tagstone_config("show", "--config", folder.file, "--rule", "ghcr.io/Not/An Image")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is not a repository name" in result.stderr


def test_schema_prints_the_schema(folder: Folder) -> None:
    """With or without a file."""
    for words in ((), ("--config", folder.file)):
        result = tagstone_config("schema", *words)
        assert (result.exit_code, json.loads(result.stdout)) == (0, json_schema())


def test_well_known_rules_are_counted_and_shown_with_their_page(folder: Folder) -> None:
    """At the line of ``extends``, whose word stays what it is in the file that is printed."""
    folder.write('upstreams: {gcr.io: {}}\nextends: well-known\nrules: [{match: "gcr.io/**", require: first-use}]\n')
    checked = tagstone_config("check", "--config", folder.file).stdout
    assert checked == f"{folder.file} checks out: 1 rule, 1 upstream, 0 keys, 1 well-known rule\n"
    image, page = "gcr.io/distroless/static", "https://github.com/GoogleContainerTools/distroless/blob/main/README.md"
    result = tagstone_config("show", "--config", folder.file, "--rule", image)
    assert f'rule       "gcr.io/distroless/**" ({folder.file}:2)\n' in result.stdout
    assert f"known by   {page}\n" in result.stdout
    found = shown("show", "--config", folder.file, "--rule", image)
    assert [(each["line"], each["page"]) for each in found["matching"]] == [(2, page), (3, None)]
    assert shown("show", "--config", folder.file)["extends"] == "well-known"
