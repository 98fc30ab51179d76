"""Where credentials come from, in which order, and what happens when they cannot be had."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from proxy.errors import UpstreamUnavailable
from proxy.settings import Auth, Upstream
from proxy.upstream.credentials import LIFE, Credential, CredentialSource
from proxy.upstream.registries import Endpoint
from tests.tools import PATIENCE, SOON
from tests.unit.upstream.servers import Clock

Program = Callable[..., Path]


def source(
    auth: dict[str, Any] | None = None,
    *,
    name: str = "reg.example",
    environment: Mapping[str, str] | None = None,
    clock: Clock | None = None,
    timeout: float = 5.0,
) -> CredentialSource:
    """The credentials of one upstream."""
    return CredentialSource(
        Endpoint.of(name, Upstream()),
        Auth.model_validate(auth or {}),
        environment=environment or {},
        clock=clock or Clock(),
        helper_timeout=timeout,
    )


async def test_nothing_is_anonymous() -> None:
    """Without anything configured there are no credentials, and that is known without looking."""
    nothing = source()
    assert (nothing.configured, await nothing.current()) == (False, None)


async def test_passwords(tmp_path: Path) -> None:
    """In the configuration, in a file (without its last line break), in an environment variable."""
    (tmp_path / "pw").write_text("from file\n")
    assert await source({"username": "u", "password": "p"}).current() == Credential("u", "p")
    assert await source({"username": "u", "password_file": tmp_path / "pw"}).current() == Credential("u", "from file")
    read = source({"username": "u", "password_env": "PW"}, environment={"PW": "from env"})
    assert await read.current() == Credential("u", "from env")


async def test_an_identity_token(tmp_path: Path) -> None:
    """A refresh token is marked as one; as Basic it goes with Azure's user unless one is given."""
    (tmp_path / "token").write_text("refresh\n")
    found = await source({"identity_token_file": tmp_path / "token"}).current()
    assert found == Credential("<token>", "refresh", identity=True)
    assert base64.b64decode(found.basic.removeprefix("Basic ")) == b"00000000-0000-0000-0000-000000000000:refresh"
    named = await source({"identity_token_file": tmp_path / "token", "username": "me"}).current()
    assert named is not None
    assert base64.b64decode(named.basic.removeprefix("Basic ")) == b"me:refresh"


async def test_secrets_do_not_show() -> None:
    """Neither the credential's repr nor its source's shows the secret."""
    assert "hidden" not in repr(Credential("u", "hidden"))


async def test_precedence(tmp_path: Path) -> None:
    """What the configuration says itself comes first, then the environment, then the Docker configuration."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {"reg.example": {"username": "docker", "password": "p"}}}))
    environment = {"TAGSTONE_REG_EXAMPLE_USERNAME": "env", "TAGSTONE_REG_EXAMPLE_PASSWORD": "p"}
    for auth, given, user in (
        ({"username": "file", "password": "p"}, environment, "file"),
        ({}, environment, "env"),
        ({"docker_config": config}, environment, "env"),
        ({"docker_config": config}, {}, "docker"),
    ):
        found = await source(auth, environment=given).current()
        assert found is not None
        assert found.username == user


@pytest.mark.parametrize(
    ("auth", "environment", "words"),
    [
        ({"username": "u"}, {}, "a username without a password"),
        ({"password": "p"}, {}, "a password without a username"),
        ({"username": "u", "password_file": "/missing/pw"}, {}, "/missing/pw cannot be read: No such file"),
        ({"username": "u", "password_env": "PW"}, {}, "the environment variable PW is not set"),
        ({"identity_token_file": "/missing/token"}, {}, "/missing/token cannot be read"),
        ({}, {"TAGSTONE_REG_EXAMPLE_USERNAME": "u"}, "_USERNAME and TAGSTONE_REG_EXAMPLE_PASSWORD go together"),
        ({}, {"TAGSTONE_REG_EXAMPLE_PASSWORD": "p"}, "go together"),
        ({"docker_config": "/missing/config.json"}, {}, "/missing/config.json cannot be read"),
        ({"helper": "../../bin/sh"}, {}, "is not the name of a credential helper"),
        ({"helper": "nowhere"}, {"PATH": "/nonexistent"}, "docker-credential-nowhere is not on the PATH"),
    ],
)
async def test_never_silently_anonymous(auth: dict[str, Any], environment: dict[str, str], words: str) -> None:
    """Credentials that are configured and cannot be had are an error that says why."""
    broken = source(auth, environment=environment)
    assert broken.configured
    with pytest.raises(UpstreamUnavailable, match=r"^no credentials for reg\.example: ") as caught:
        await broken.current()
    assert words in str(caught.value)


async def test_files_are_bounded_and_not_empty(tmp_path: Path) -> None:
    """A secret is neither nothing nor a large file."""
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "large").write_bytes(b"x" * (65 << 10))
    with pytest.raises(UpstreamUnavailable, match="empty is empty"):
        await source({"username": "u", "password_file": tmp_path / "empty"}).current()
    with pytest.raises(UpstreamUnavailable, match="larger than 65536 bytes"):
        await source({"username": "u", "password_file": tmp_path / "large"}).current()


# -- Docker's configuration -----------------------------------------------------------------------------------------


def packed(text: str) -> str:
    """Base64, as Docker writes it."""
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("name", "auths", "expected"),
    [
        ("docker.io", {"https://index.docker.io/v1/": {"auth": packed("u:p:w")}}, Credential("u", "p:w")),
        ("docker.io", {"docker.io": {"auth": packed("u:p")}}, Credential("u", "p")),
        ("reg.example", {"https://reg.example/v1/": {"auth": packed("u:p\0\0")}}, Credential("u", "p")),
        ("reg.example", {"reg.example": {"username": "u", "password": "p"}}, Credential("u", "p")),
        ("reg.example", {"reg.example": {"auth": packed("u:"), "identitytoken": "t"}}, Credential("u", "t", identity=True)),
        ("reg.example", {"reg.example": {"identitytoken": "t"}}, Credential("<token>", "t", identity=True)),
        ("reg.example:5000", {"reg.example": {"auth": "x"}, "reg.example:5000": {"auth": packed("u:p")}}, Credential("u", "p")),
    ],
)
async def test_docker_config_entries(tmp_path: Path, name: str, auths: dict[str, Any], expected: Credential) -> None:
    """All ways in which Docker and its like have written an entry."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": auths, "credHelpers": {"other.example": "x"}}))
    assert await source({"docker_config": config}, name=name).current() == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a Docker configuration"),
        ("{}", "has none for reg.example"),
        ('{"auths": {"other.example": {"auth": "dTpw"}}}', "has none for reg.example"),
        ('{"auths": {"reg.example": {}}}', "has none for reg.example"),
        ('{"auths": {"reg.example": {"auth": "###"}}}', "is not base64 of user:password"),
        ('{"auths": {"reg.example": {"auth": "/w=="}}}', "is not base64 of user:password"),
        ('{"auths": 7, "credHelpers": []}', "has none for reg.example"),
    ],
)
async def test_docker_configs_without_credentials(tmp_path: Path, text: str, words: str) -> None:
    """A named configuration that does not know the registry is an error, not anonymity."""
    config = tmp_path / "config.json"
    config.write_text(text)
    with pytest.raises(UpstreamUnavailable) as caught:
        await source({"docker_config": config}).current()
    assert words in str(caught.value)


# -- helpers --------------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Make a credential helper ``docker-credential-<name>`` out of a shell script; its folder is the PATH to use."""

    def make(script: str, name: str = "test") -> Path:
        path = tmp_path / f"docker-credential-{name}"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return tmp_path

    return make


def path_of(folder: Path) -> dict[str, str]:
    """The environment in which its helpers are found."""
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def echo(user: str = "u", secret: str = "s") -> str:
    """A script that answers with these."""
    return f"""cat > /dev/null; echo '{{"ServerURL":"x","Username":"{user}","Secret":"{secret}"}}'"""


async def test_a_helper(program: Program) -> None:
    """It is run with ``get``, reads the server from its input, and never sees Tagstone's own variables."""
    folder = program('read -r server; echo "{\\"Username\\":\\"$server $1\\",\\"Secret\\":\\"x$TAGSTONE_OTHER_PASSWORD$KEPT\\"}"')
    environment = path_of(folder) | {"TAGSTONE_OTHER_PASSWORD": "secret", "KEPT": "kept"}
    assert await source({"helper": "test"}, environment=environment).current() == Credential("reg.example get", "xkept")
    hub = await source({"helper": "test"}, name="docker.io", environment=path_of(folder)).current()
    assert hub is not None
    assert hub.username == "https://index.docker.io/v1/ get"


async def test_a_helper_with_an_identity_token(program: Program) -> None:
    """The user ``<token>`` marks a refresh token."""
    folder = program(echo("<token>", "refresh"))
    found = await source({"helper": "test"}, environment=path_of(folder)).current()
    assert found == Credential("<token>", "refresh", identity=True)


async def test_helpers_of_a_docker_config(tmp_path: Path, program: Program) -> None:
    """The registry's own helper comes before the store, the store before the file."""
    program(echo("own"), "own")
    folder = program(echo("store"), "store")
    config = tmp_path / "config.json"
    document = {
        "auths": {"reg.example": {"auth": packed("file:p")}},
        "credsStore": "store",
        "credHelpers": {"reg.example": "own"},
    }
    for user in ("own", "store", "file"):
        config.write_text(json.dumps(document))
        found = await source({"docker_config": config}, environment=path_of(folder)).current()
        assert found is not None
        assert found.username == user
        document.pop({"own": "credHelpers", "store": "credsStore", "file": "auths"}[user])


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (
            "echo credentials not found in native keychain; exit 1",
            "failed with status 1: credentials not found in native keychain",
        ),
        ("echo '{'", "did not answer with a user and a secret"),
        ("echo '[]'", "did not answer with a user and a secret"),
        ("true", "did not answer with a user and a secret"),
        ("""echo '{"Username":"u","Secret":""}'""", "has no secret for reg.example"),
        ("""echo '{"Username":7,"Secret":"x"}'""", "has no secret for reg.example"),
        ("yes", "wrote more than 65536 bytes"),
    ],
)
async def test_helpers_that_fail(program: Program, script: str, words: str) -> None:
    """A failing helper is an error with its own words; what it wrote is bounded."""
    with pytest.raises(UpstreamUnavailable) as caught:
        await source({"helper": "test"}, environment=path_of(program(script))).current()
    assert words in str(caught.value)


async def test_a_helper_that_cannot_run(program: Program) -> None:
    """A file that is no program is said to be unusable."""
    folder = program("x")
    (folder / "docker-credential-test").write_bytes(b"\x7fELF nonsense")
    with pytest.raises(UpstreamUnavailable, match="docker-credential-test cannot be used"):
        await source({"helper": "test"}, environment=path_of(folder)).current()


def gone(pid: int) -> bool:
    """Whether a process no longer runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("cancelled", [False, True], ids=["late", "cancelled"])
async def test_a_helper_that_hangs_is_killed_with_its_children(program: Program, tmp_path: Path, cancelled: bool) -> None:
    """After its time, or when nobody waits any more, nothing of it is left."""
    folder = program(f"sleep 60 & echo $! > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; wait")
    task = asyncio.create_task(
        source({"helper": "test"}, environment=path_of(folder), timeout=60 if cancelled else 1.5).current()
    )
    if cancelled:
        async with asyncio.timeout(PATIENCE):
            while not (tmp_path / "pid").exists():
                await asyncio.sleep(0.01)
        task.cancel()
    with pytest.raises(asyncio.CancelledError if cancelled else UpstreamUnavailable):
        await task
    async with asyncio.timeout(SOON):
        while not gone(int((tmp_path / "pid").read_text())):
            await asyncio.sleep(0.01)


# -- renewal --------------------------------------------------------------------------------------------------------


async def test_credentials_are_read_again_at_half_life(tmp_path: Path) -> None:
    """Kept until half-life, then read again; a failure then is tolerated as long as the old ones may live."""
    path, clock = tmp_path / "pw", Clock()
    path.write_text("one")
    kept = source({"username": "u", "password_file": path}, clock=clock)
    assert await kept.current() == Credential("u", "one")
    path.write_text("two")
    clock.now += LIFE / 2 - 1
    assert await kept.current() == Credential("u", "one")
    clock.now += 1
    assert await kept.current() == Credential("u", "two")
    path.unlink()
    clock.now += LIFE / 2
    assert await kept.current() == Credential("u", "two")
    clock.now += LIFE / 2
    with pytest.raises(UpstreamUnavailable, match="cannot be read"):
        await kept.current()
    path.write_text("three")
    assert await kept.current() == Credential("u", "three")


async def test_refused_credentials_are_read_again_once_for_all(tmp_path: Path) -> None:
    """Whoever comes with a refusal of what is no longer held gets the new ones without another look."""
    path = tmp_path / "pw"
    path.write_text("one")
    kept = source({"username": "u", "password_file": path})
    one = await kept.current()
    assert one is not None
    assert await kept.renewed(one) is None
    path.write_text("two")
    two = await kept.renewed(one)
    assert two == Credential("u", "two")
    path.unlink()
    assert await kept.renewed(one) == two


async def test_one_helper_at_a_time(program: Program, tmp_path: Path) -> None:
    """Many who want the credentials at once run the helper once."""
    folder = program(f"echo x >> {tmp_path}/log; {echo()}")
    shared = source({"helper": "test"}, environment=path_of(folder))
    found = await asyncio.gather(*(shared.current() for _ in range(10)))
    assert set(found) == {Credential("u", "s")}
    assert os.fspath(tmp_path / "log")
    assert (tmp_path / "log").read_text() == "x\n"
