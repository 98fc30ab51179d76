"""Access as written: what keeps everybody out, what lets too many in, and what names nobody is told with its line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from proxy.policy.access import Kind, Principal
from storage.reference import Repository
from tests.unit.configuration.files import Folder

REST = 'upstreams: {docker.io: {}}\nrules: [{match: "**", require: deny}]\n'
HASH = hashlib.sha256(b"tagstone_x").hexdigest()
USERS = "alice:$2y$05$" + "a" * 53 + "\n"


@pytest.fixture(autouse=True)
def files(folder: Folder) -> None:
    """What the examples name."""
    (folder.path / "users").write_text(USERS)
    (folder.path / "keys.json").write_text(json.dumps({"keys": [{"kty": "oct", "k": "AAAA"}]}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("access:", "access: has nothing in it: remove the key, or say what is meant"),
        ("access: {}", "access: nobody can log in: add `htpasswd`, `tokens` or `oidc`"),
        ("access: {htpasswd: none}", "access.htpasswd: "),
        ("access: {htpasswd: users, realm: here}", "access.realm: is no address"),
        ("access: {htpasswd: users, token_lifetime: 1s}", "access.token_lifetime: must be between 10s and 24h"),
        (f"access: {{tokens: {{a: {{sha256: {HASH}}}, b: {{sha256: {HASH}}}}}}}", "is the same token as `a`"),
        ("access: {tokens: {a: {sha256: abc}}}", "access.tokens.a.sha256: "),
        ("access: {oidc: {c: {issuer: x, audience: [a]}}}", "access.oidc.c.issuer: is no address"),
        ("access: {oidc: {c: {issuer: 'http://x.example', audience: [a]}}}", "is asked without TLS"),
        (
            "access: {oidc: {c: {issuer: 'https://x.example', audience: [a], jwks: 'http://x.example/k'}}}",
            "must be an https address",
        ),
        ("access: {oidc: {c: {issuer: 'https://x.example', audience: [a], jwks_file: users}}}", "is no key set"),
        ("access: {oidc: {c: {issuer: 'https://x.example', audience: [a], jwks_file: none}}}", "cannot be read"),
        ("access: {oidc: {c: {issuer: 'https://x.example', audience: [a], ca: none}}}", "is not there"),
        ("access: {oidc: {c: {issuer: 'https://x.example', audience: []}}}", "access.oidc.c.audience: "),
        ("access: {htpasswd: users, rules: [{who: [alice]}]}", "names nobody: write user:"),
        ("access: {oidc: {c: {issuer: 'https://x.example', audience: [a], jwks_file: keys.json}}}", "of which one signs"),
        ("access: {oidc: {c: &c {issuer: 'https://x.example', audience: [a]}, d: *c}}", "is the same issuer as `c`"),
        (
            "access: {htpasswd: users, realm: 'http://mirror.example/token'}",
            "would have passwords cross the network in the clear",
        ),
        ("access: {tokens: {}, rules: [{who: ['user:alice']}]}", "there are no users: name their file in `htpasswd`"),
        ("access: {htpasswd: users, rules: [{who: ['certificate:a.example']}]}", "says not which name of a certificate is meant"),
        ("access: {htpasswd: users, rules: [{networks: ['::ffff:10.0.0.0/104']}]}", "stands for IPv4 addresses"),
        ("access: {htpasswd: users, rules: [{who: ['token:ci']}]}", "no token `ci` under access.tokens"),
        ("access: {htpasswd: users, rules: [{who: ['oidc:k8s:x']}]}", "no issuer `k8s` under access.oidc"),
        ("access: {htpasswd: users, rules: [{who: ['oidc:x']}]}", "names no issuer"),
        ("access: {htpasswd: users, rules: [{networks: [10.0.0.1/8]}]}", "is no network"),
        ("access: {htpasswd: users, rules: [{pull: [alpine]}]}", "write `docker.io/library/alpine`"),
        ("access: {htpasswd: users, rules: [{from: [10.0.0.0/8]}]}", "unknown key `from`"),
        ("tls: {certificate: none, key: none}", "tls: "),
        ("tls: {certificate: users, key: users}", "are no PEM certificate with its key"),
        ("admin: {tls: {certificate: users, key: users}}", "admin.tls: "),
    ],
)
def test_mistakes_are_told(folder: Folder, text: str, told: str) -> None:
    """In the words of the file, with the way out."""
    errors = folder.errors(f"{text}\n{REST}")
    assert any(told in error for error in errors), errors


@pytest.mark.parametrize(
    ("users", "told"),
    [
        (
            "alice:$apr1$abc$def\n",
            "line 1: the password of alice is not hashed by bcrypt; write it with `htpasswd -B FILE alice`",
        ),
        ("alice:{SHA}abc\n", "not hashed by bcrypt"),
        ("alice:plain\n", "not hashed by bcrypt"),
        ("alice\n", "line 1 is not user:hash"),
        ("# comment\n\nal ice:x\n", "line 3 is not user:hash"),
        (USERS + USERS, "line 2: alice stands here a second time"),
        (USERS.replace("$05$", "$17$"), "the bcrypt cost of alice is 17; 4 to 15 are accepted"),
        ("\udcff", "is not UTF-8 text"),
        ("#" * (1 << 20) + "\n", "has more than"),
    ],
)
def test_password_files_are_read_strictly(folder: Folder, users: str, told: str) -> None:
    """What is not bcrypt is refused with the command that writes it."""
    (folder.path / "users").write_bytes(users.encode("utf-8", "surrogateescape"))
    assert any(told in error for error in folder.errors(f"access: {{htpasswd: users}}\n{REST}"))


def test_the_default_is_that_who_logs_in_may_pull(folder: Folder) -> None:
    """And nobody else."""
    rules = folder.load(f"access: {{htpasswd: users}}\n{REST}").access.rules
    assert rules is not None
    repository = Repository.of("docker.io", "library/alpine")
    assert rules.allows(Principal(Kind.USER, "alice"), None, repository)
    assert not rules.allows(Principal(Kind.ANONYMOUS), None, repository)


def test_secrets_in_the_clear_are_warned_of(folder: Folder, tmp_path: Path) -> None:
    """On an address that others reach, without TLS and without a word that something in front has it."""
    text = f"access: {{htpasswd: users{{more}}}}\nlisten: {{listen}}\n{REST}"

    def warnings(listen: str, more: str = "") -> list[str]:
        written = text.replace("{more}", more).replace("{listen}", listen)
        return [str(each) for each in folder.load(written).warnings if "in the clear" in str(each)]

    assert warnings("0.0.0.0:5000")
    assert not warnings("127.0.0.1:5000")
    assert not warnings("0.0.0.0:5000", ", realm: 'https://mirror.example/token'")


def test_without_the_section_everybody_may(folder: Folder) -> None:
    """As before there was one."""
    assert folder.load(REST).access.rules is None
