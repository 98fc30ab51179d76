"""Upstreams, host names and credentials: one spelling, endpoints that can be dialled, no secret where it does not belong."""

# ruff: noqa: E501  # a row of a table is one line

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from proxy.settings import Upstream
from tests.unit.configuration.files import RULES, Folder


def test_registries_are_known_by_their_canonical_names(folder: Folder) -> None:
    """However Docker Hub is spelled, however letters are cased; an empty entry has all defaults."""
    upstreams = folder.load(
        f"upstreams:\n  registry-1.docker.io:\n  GHCR.io: {{}}\n  '[::1]:5000': {{allow_private: yes}}\n{RULES}"
    ).upstreams
    assert dict(upstreams) == {"docker.io": Upstream(), "ghcr.io": Upstream(), "[::1]:5000": Upstream(allow_private=True)}


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://a.example", "https://a.example"),
        ("https://a.example/", "https://a.example"),
        ("https://a.example:5443", "https://a.example:5443"),
        ("HTTPS://A.example", "https://A.example"),
    ],
)
def test_endpoints_are_kept_without_a_slash(folder: Folder, url: str, kept: str) -> None:
    """A slash at the end makes no other endpoint."""
    assert folder.load(f"upstreams: {{a.example: {{url: {url}}}}}\n{RULES}").upstreams["a.example"].url == kept


@pytest.mark.parametrize(
    ("upstream", "told"),
    [
        ("https://a.example: {}", "https://a.example: `https://a.example` is not a registry: write only its host, `a.example`, without scheme and path"),
        ("a.example/library: {}", "a.example/library: `a.example/library` is not a registry: write only its host, `a.example`, without scheme and path"),
        ("-a: {}", "-a: '-a' is not a registry: write host or host:port"),
        ("'a.example:99999': {}", "a.example:99999: 'a.example:99999' has a port outside 1-65535"),
        ("a.example: {url: a.example/}", "a.example.url: has no scheme: write https://a.example"),
        ("a.example: {url: ftp://a.example}", "a.example.url: has the scheme `ftp`: only https and http are spoken"),
        ("a.example: {url: https://}", "a.example.url: is not an endpoint: write https://host or https://host:port"),
        ("a.example: {url: 'https://a.example:x'}", "a.example.url: is not an endpoint: write https://host or https://host:port"),
        ("a.example: {url: 'https://[::1'}", "a.example.url: is not an endpoint: write https://host or https://host:port"),
        ("a.example: {url: 'https://u:secret@a.example'}", "a.example.url: holds credentials: put them under `auth:` and write https://a.example"),
        ("a.example: {url: https://a.example/v2}", "a.example.url: goes on after the host: write https://a.example; the path of an image belongs into the rules"),
        ("a.example: {url: 'https://a.example?'}", "a.example.url: goes on after the host: write https://a.example; the path of an image belongs into the rules"),
        ("a.example: {url: 'https://a.example#x'}", "a.example.url: goes on after the host: write https://a.example; the path of an image belongs into the rules"),
        ("a.example: {url: http://a.example}", "a.example.url: plain HTTP can be read and changed on its way; use https, or write `allow_private: true`"),
        ("a.example: {url: https://10.0.0.1:5000}", "a.example.url: `10.0.0.1:5000` is a private address; to allow it, write `allow_private: true`"),
        ("a.example: {url: 'https://[::1]'}", "a.example.url: `[::1]` is a private address; to allow it, write `allow_private: true`"),
        ("a.example: {url: https://localhost}", "a.example.url: `localhost` is a private address; to allow it, write `allow_private: true`"),
        ("127.0.0.1:5000: {}", "127.0.0.1:5000: `127.0.0.1:5000` is a private address; to allow it, write `allow_private: true`"),
        ("a.localhost: {}", "a.localhost: `a.localhost` is a private address; to allow it, write `allow_private: true`"),
        ("a.example: {realm_hosts: [b.example, https://c.example/token]}", "a.example.realm_hosts[1]: `https://c.example/token` is not a registry: write only its host, `c.example`, without scheme and path"),
        ("a.example: {auth: {username: u}}", "a.example.auth: `username` needs `password_file`, `password_env` or `password`"),
        ("a.example: {auth: {password_env: HOME}}", "a.example.auth: `password_env` needs a `username`"),
        ("a.example: {auth: {username: 'a:b', password_env: HOME}}", "a.example.auth.username: is no user name: it must not be empty or hold a colon or control characters"),
        ("a.example: {auth: {username: '', password_env: HOME}}", "a.example.auth.username: is no user name: it must not be empty or hold a colon or control characters"),
        ("a.example: {auth: {username: u, password: p, password_env: HOME}}", "a.example.auth: holds `password` and `password_env`; keep one of them"),
        ("a.example: {auth: {username: u, password_env: HOME, helper: ecr-login}}", "a.example.auth: holds `username` and `helper`; keep one kind of credentials"),
        ("a.example: {auth: {docker_config: one.pub, identity_token_file: one.pub}}", "a.example.auth: holds `identity_token_file` and `docker_config`; keep one kind of credentials"),
        ("a.example: {auth: {username: u, password_env: 'A-B'}}", "a.example.auth.password_env: `A-B` is not the name of an environment variable"),
        ("a.example: {auth: {helper: docker-credential-gcr}}", "a.example.auth.helper: leave the prefix out: write `gcr`"),
        ("a.example: {auth: {helper: ../evil}}", "a.example.auth.helper: write the helper's name alone: `ecr-login` stands for docker-credential-ecr-login"),
    ],
)  # fmt: skip
def test_upstreams_that_make_no_sense_are_told(folder: Folder, upstream: str, told: str) -> None:
    """Names, endpoints and credentials, each with its way out."""
    assert folder.errors(f"upstreams:\n  {upstream}\n{RULES}") == [f"2: upstreams.{told}"]


def test_a_secret_in_a_url_is_not_repeated(folder: Folder) -> None:
    """The message goes to logs."""
    assert "hunter2" not in str(folder.errors(f"upstreams: {{a.example: {{url: 'https://u:hunter2@a.example'}}}}\n{RULES}"))


def test_two_spellings_of_one_registry_are_told(folder: Folder) -> None:
    """Which of them would count?"""
    text = f"upstreams:\n  docker.io: {{}}\n  index.docker.io: {{}}\n{RULES}"
    assert folder.errors(text) == [
        "3: upstreams.index.docker.io: is the same registry as `docker.io` in line 2; keep one of them"
    ]


@pytest.mark.parametrize(
    ("upstream", "told"),
    [
        ("docker.io: {allow_private: true}", "docker.io.allow_private: lets `docker.io`, its token endpoint and its redirects lead into private networks; it needs none of that"),
        ("a.example: {auth: {username: u, password: p}}", "a.example.auth.password: a password stands in the file; `password_file` or `password_env` keep it out"),
        ("a.example: {auth: {username: u, password_env: TAGSTONE_NOT_SET}}", "a.example.auth.password_env: the environment variable TAGSTONE_NOT_SET is not set here and now"),
        ("a.example: {auth: {helper: nobody-has-this}}", "a.example.auth.helper: docker-credential-nobody-has-this is not on PATH here and now"),
        ("a.example: {auth: {docker_config: /nowhere/config.json}}", "a.example.auth.docker_config: /nowhere/config.json cannot be read here and now"),
        ("a.example: {url: http://a.example, allow_private: true, auth: {username: u, password_env: HOME}}", "a.example.url: credentials go over plain HTTP and can be read on their way"),
    ],
)  # fmt: skip
def test_upstreams_that_are_worth_a_word_are_warned_about(folder: Folder, upstream: str, told: str) -> None:
    """They may be meant, and secrets may only be where the server runs."""
    assert folder.warnings(f"upstreams:\n  {upstream}\n{RULES}") == [f"2: upstreams.{told}"]


@pytest.mark.parametrize(
    "auth",
    ["username: u, password_file: one.pub", "identity_token_file: one.pub", "username: u, identity_token_file: one.pub", "docker_config: one.pub", "helper: here", ""],
)  # fmt: skip
def test_one_kind_of_credentials_is_fine(folder: Folder, monkeypatch: pytest.MonkeyPatch, auth: str) -> None:
    """Without a word, where the files, the helper or nothing at all are there."""
    helper = folder.path / "docker-credential-here"
    helper.touch(0o755)
    monkeypatch.setenv("PATH", str(folder.path))
    assert folder.warnings(f"upstreams: {{a.example: {{auth: {{{auth}}}}}}}\n{RULES}") == []


def test_no_upstream_at_all_is_warned_about(folder: Folder) -> None:
    """Nothing could be pulled."""
    assert folder.warnings(RULES) == [
        "1: upstreams: there is no upstream, so nothing can be pulled; add one, such as `docker.io: {}`"
    ]


def test_certificates_are_read_when_the_file_is_checked(folder: Folder) -> None:
    """Authorities and a client certificate with its key, relative to the file."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder.path / "ca.pem")
    issued = authority.issue_cert("client.example")
    issued.cert_chain_pems[0].write_to_path(folder.path / "cert.pem")
    issued.private_key_pem.write_to_path(folder.path / "key.pem")
    upstream = folder.load(f"""\
        upstreams: {{a.example: {{ca: ca.pem, client_certificate: {{cert: cert.pem, key: key.pem}}}}}}
        {RULES}""").upstreams["a.example"]
    assert upstream.ca == folder.path / "ca.pem"
    assert upstream.client_certificate is not None
    assert upstream.client_certificate.key == folder.path / "key.pem"
    trustme.CA().issue_cert("other.example").private_key_pem.write_to_path(folder.path / "other.pem")
    wrong = "is no certificate with its own private key, both in PEM form and not encrypted"
    for certificate, told in {
        "cert: cert.pem, key: other.pem": f": {wrong}",
        "cert: one.pub, key: key.pem": f": {wrong}",
        "cert: gone.pem, key: key.pem": f".cert: {folder.path}/gone.pem cannot be read: No such file or directory",
        "cert: cert.pem, key: .": f".key: {folder.path} cannot be read: Is a directory",
    }.items():
        text = f"upstreams: {{a.example: {{client_certificate: {{{certificate}}}}}}}\n{RULES}"
        assert folder.errors(text) == [f"1: upstreams.a.example.client_certificate{told}"]


def test_an_encrypted_key_is_told_without_asking_at_the_terminal(folder: Folder) -> None:
    """A check must not wait for somebody to type a password."""
    from cryptography.hazmat.primitives import serialization

    issued = trustme.CA().issue_cert("client.example")
    issued.cert_chain_pems[0].write_to_path(folder.path / "cert.pem")
    private = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"hunter2")
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    (folder.path / "key.pem").write_bytes(pem)
    (told,) = folder.errors(f"upstreams: {{a.example: {{client_certificate: {{cert: cert.pem, key: key.pem}}}}}}\n{RULES}")
    assert "not encrypted" in told


def test_authorities_that_are_none_are_told(folder: Folder) -> None:
    """A file without certificates, and one that is not there."""
    for name, told in (
        ("one.pub", "holds no certificates in PEM form"),
        ("gone.pem", "cannot be read: No such file or directory"),
    ):
        assert folder.errors(f"upstreams: {{a.example: {{ca: {name}}}}}\n{RULES}") == [
            f"1: upstreams.a.example.ca: {Path(folder.path, name)} {told}"
        ]
    assert issubclass(ssl.SSLError, OSError)  # which is why the order of the two matters


def test_hosts_are_canonical_on_both_sides(folder: Folder) -> None:
    """Host names in lower case, with their port if any; registries as the upstreams have them."""
    text = f"upstreams: {{docker.io: , ghcr.io: }}\nhosts: {{Hub.Mirror.example: index.docker.io, 'index.docker.io:5000': ghcr.io}}\n{RULES}"
    assert dict(folder.load(text).hosts) == {"hub.mirror.example": "docker.io", "index.docker.io:5000": "ghcr.io"}


@pytest.mark.parametrize(
    ("hosts", "told"),
    [
        ("{a.example: ghrc.io}", ["2: hosts.a.example: no upstream `ghrc.io`; did you mean `ghcr.io`?"]),
        ("{a.example: quay.example}", ["2: hosts.a.example: no upstream `quay.example`; add it under `upstreams:`"]),
        ("{a_b: ghcr.io}", ["2: hosts.a_b: 'a_b' is not a registry: write host or host:port"]),
        ("{a.example: 'x y'}", ["2: hosts.a.example: 'x y' is not a registry: write host or host:port"]),
        ("{a.example: ghcr.io, A.example: ghcr.io}", ["2: hosts.A.example: stands here twice: host names do not differ by case"]),
    ],
)
def test_hosts_that_lead_nowhere_are_told(folder: Folder, hosts: str, told: list[str]) -> None:
    """A host name stands for one registry, and for one that can be asked."""
    assert folder.errors(f"upstreams: {{ghcr.io: {{}}}}\nhosts: {hosts}\n{RULES}") == told


def test_the_default_registry_is_canonical(folder: Folder) -> None:
    """Docker Hub where nothing is said, even where it is no upstream; one that is named should be one."""
    upstreams = f"upstreams: {{ghcr.io: {{}}}}\n{RULES}"
    assert folder.load(upstreams).default_registry == "docker.io"
    assert folder.load(f"default_registry: GHCR.io\n{upstreams}").default_registry == "ghcr.io"
    assert folder.warnings(upstreams) == []
    assert folder.warnings(f"default_registry: ghcr.oi\n{upstreams}") == [
        "1: default_registry: no upstream `ghcr.oi`; did you mean `ghcr.io`?"
    ]
    assert folder.errors(f"default_registry: https://ghcr.io\n{upstreams}") == [
        "1: default_registry: `https://ghcr.io` is not a registry: write only its host, `ghcr.io`, without scheme and path"
    ]
