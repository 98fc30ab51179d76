"""Where the credentials of an upstream come from: configuration, environment, Docker ``config.json``, credential helpers.

Precedence: what ``auth`` says itself (user with a password, an identity token), then the environment variables
``TAGSTONE_<REGISTRY>_USERNAME`` and ``TAGSTONE_<REGISTRY>_PASSWORD`` (the registry's name in capitals, everything but letters
and digits as ``_``: ``TAGSTONE_DOCKER_IO_USERNAME``), then the ``docker_config`` or the ``helper`` that ``auth`` names. Nothing
of these: anonymous. Something of these that cannot be read: :class:`UpstreamUnavailable`, never anonymous.

They are read when first needed, again at half-life (so that a token of an hour never gets old), and again when the upstream says
that they are no good any more.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
import re
import signal
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from proxy.errors import UpstreamUnavailable
from proxy.settings import Auth
from proxy.upstream.failures import clean
from proxy.upstream.registries import Endpoint

log = structlog.get_logger("tagstone.upstream")

#: Credentials are good for this long at least with every registry that issues them for a time; they are read again at half of it.
LIFE = 3600.0
#: Wait after a failed renewal of credentials that are still good, in seconds.
RENEWAL_PAUSE = 60.0
#: Bytes of a secret's file, a helper's output, a Docker configuration.
MAX_SECRET, MAX_OUTPUT, MAX_DOCKER_CONFIG = 64 << 10, 64 << 10, 4 << 20
#: The user name under which helpers hand out identity tokens, and the one that Azure wants with them.
TOKEN_USER, AZURE_USER = "<token>", "00000000-0000-0000-0000-000000000000"
#: How long a killed helper may take to be gone, in seconds.
END_TIME = 1.0
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Credential:
    """A user with a secret; ``identity`` says that the secret is an OAuth2 refresh token rather than a password."""

    username: str
    secret: str = field(repr=False)
    identity: bool = False

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        user = AZURE_USER if self.identity and self.username in {"", TOKEN_USER} else self.username
        return "Basic " + base64.b64encode(f"{user}:{self.secret}".encode()).decode()


class CredentialSource:
    """The credentials of one upstream. ``clock`` gives monotonic seconds, ``helper_timeout`` is how long a helper may take."""

    def __init__(
        self, endpoint: Endpoint, auth: Auth, *, environment: Mapping[str, str], clock: Callable[[], float], helper_timeout: float
    ) -> None:
        self._endpoint = endpoint
        self._auth = auth
        self._environment = environment
        self._clock = clock
        self._helper_timeout = helper_timeout
        self._loading = asyncio.Lock()
        self._held: Credential | None = None
        self._read_at = 0.0  # when ``_held`` was read
        self._again_at: float | None = None  # when it is to be read again; None: never read
        named = any(getattr(auth, each) is not None for each in type(auth).model_fields)
        #: Whether there is anything that credentials could come from.
        self.configured = named or any(endpoint.variable + end in environment for end in ("_USERNAME", "_PASSWORD"))

    async def current(self) -> Credential | None:
        """The credential to use now; None: anonymous. Raises :class:`UpstreamUnavailable` when it cannot be read."""
        if not self.configured:
            return None
        async with self._loading:
            if self._again_at is None:
                await self._read()
            elif self._clock() >= self._again_at:
                await self._renew()
            return self._held

    async def renewed(self, refused: Credential) -> Credential | None:
        """Read again because ``refused`` was refused; None when there is no other. Raises as :meth:`current`."""
        async with self._loading:
            if self._held == refused:  # else somebody else has already done it
                await self._read()
            return self._held if self._held != refused else None

    async def _read(self) -> None:
        self._held = await self._load()
        self._read_at = self._clock()
        self._again_at = self._read_at + LIFE / 2

    async def _renew(self) -> None:
        try:
            await self._read()
        except UpstreamUnavailable as error:
            if self._clock() >= self._read_at + LIFE:
                raise
            log.warning("upstream.credentials_not_renewed", upstream=self._endpoint.name, error=str(error))
            self._again_at = self._clock() + RENEWAL_PAUSE

    async def _load(self) -> Credential:
        auth, name = self._auth, self._endpoint.name
        if auth.identity_token_file is not None:
            return Credential(auth.username or TOKEN_USER, await self._file(auth.identity_token_file), identity=True)
        if (
            auth.username is not None
            or auth.password is not None
            or auth.password_file is not None
            or auth.password_env is not None
        ):
            return await self._configured()
        user, password = (self._environment.get(self._endpoint.variable + end) for end in ("_USERNAME", "_PASSWORD"))
        if user is not None or password is not None:
            if not user or not password:
                raise self._failure(f"{self._endpoint.variable}_USERNAME and {self._endpoint.variable}_PASSWORD go together")
            return Credential(user, password)
        if auth.docker_config is not None:
            return await self._docker(auth.docker_config)
        if auth.helper is not None:
            return await self._helper(auth.helper, self._endpoint.docker_keys[0])
        raise self._failure(f"`auth` of upstream {name} names no source that is known")

    async def _configured(self) -> Credential:
        auth = self._auth
        if auth.password is not None:
            password = auth.password
        elif auth.password_file is not None:
            password = await self._file(auth.password_file)
        elif auth.password_env is not None:
            password = self._environment.get(auth.password_env, "")
            if not password:
                raise self._failure(f"the environment variable {auth.password_env} is not set")
        else:
            raise self._failure("there is a username without a password")
        if not auth.username:
            raise self._failure("there is a password without a username")
        return Credential(auth.username, password)

    async def _file(self, path: Path) -> str:
        text = (await self._bytes(path, MAX_SECRET)).decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            raise self._failure(f"{path} is empty")
        return text

    async def _bytes(self, path: Path, limit: int) -> bytes:
        try:
            data = await asyncio.to_thread(_read_bounded, path, limit + 1)
        except OSError as error:
            raise self._failure(f"{path} cannot be read: {error.strerror or error}") from error
        if len(data) > limit:
            raise self._failure(f"{path} is larger than {limit} bytes")
        return data

    async def _docker(self, path: Path) -> Credential:
        """Docker's order: the registry's own helper, the store, the file itself."""
        try:
            document = json.loads(await self._bytes(path, MAX_DOCKER_CONFIG))
        except (ValueError, RecursionError) as error:
            raise self._failure(f"{path} is not JSON") from error
        if not isinstance(document, dict):
            raise self._failure(f"{path} is not a Docker configuration")
        helpers, auths = (_section(document, key) for key in ("credHelpers", "auths"))
        for key in self._endpoint.docker_keys:
            if isinstance(helper := helpers.get(key), str):
                return await self._helper(helper, key)
        if isinstance(store := document.get("credsStore"), str) and store:
            return await self._helper(store, self._endpoint.docker_keys[0])
        entry = next((found for key in self._endpoint.docker_keys if (found := _entry(auths, key)) is not None), {})
        if (credential := self._from_entry(entry, path)) is not None:
            return credential
        raise self._failure(f"{path} has none for {self._endpoint.name}")

    def _from_entry(self, entry: Mapping[str, Any], path: Path) -> Credential | None:
        """One entry of ``auths``; None when it holds nothing."""
        user, secret = entry.get("username", ""), entry.get("password", "")
        if encoded := entry.get("auth"):
            try:
                user, _, secret = base64.b64decode(str(encoded), validate=True).decode().partition(":")
            except (binascii.Error, ValueError) as error:
                raise self._failure(f"the `auth` for {self._endpoint.name} in {path} is not base64 of user:password") from error
        if token := entry.get("identitytoken"):
            return Credential(str(user) or TOKEN_USER, str(token), identity=True)
        secret = str(secret).rstrip("\0")
        return Credential(str(user), secret) if user and secret else None

    async def _helper(self, name: str, server: str) -> Credential:
        """Run ``docker-credential-<name> get`` (the protocol of docker-credential-helpers)."""
        if not _HELPER.fullmatch(name):
            raise self._failure(f"{clean(name, 60)!r} is not the name of a credential helper")
        program = f"docker-credential-{name}"
        environment = {key: value for key, value in self._environment.items() if not key.startswith("TAGSTONE_")}
        try:
            status, output = await _run(program, server, environment, self._helper_timeout)
        except FileNotFoundError:
            raise self._failure(f"{program} is not on the PATH") from None
        except TimeoutError:
            raise self._failure(f"{program} took longer than {self._helper_timeout:g} s") from None
        except (OSError, ValueError) as error:
            raise self._failure(f"{program} cannot be used: {clean(str(error), 120)}") from error
        if status != 0:
            raise self._failure(f"{program} failed with status {status}: {clean(output.decode('utf-8', 'replace'), 120)}")
        try:
            answer = json.loads(output)
            user, secret = answer["Username"], answer["Secret"]
        except (ValueError, RecursionError, KeyError, TypeError):
            raise self._failure(f"{program} did not answer with a user and a secret") from None
        if not isinstance(user, str) or not isinstance(secret, str) or not secret:
            raise self._failure(f"{program} has no secret for {server}")
        return Credential(user, secret, identity=user == TOKEN_USER)

    def _failure(self, reason: str) -> UpstreamUnavailable:
        return UpstreamUnavailable(f"no credentials for {self._endpoint.name}: {reason}")


def _read_bounded(path: Path, limit: int) -> bytes:
    with path.open("rb") as file:
        return file.read(limit)


def _section(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = document.get(key)
    return found if isinstance(found, dict) else {}


def _entry(auths: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    """The entry of ``auths`` for a registry, which old configurations write as a URL."""
    for each in (key, f"https://{key}", f"https://{key}/", f"https://{key}/v1/", f"https://{key}/v2/"):
        if isinstance(found := auths.get(each), dict):
            return found
    return None


async def _run(program: str, server: str, environment: Mapping[str, str], timeout: float) -> tuple[int, bytes]:
    """Ask a helper; its whole family is killed when it is late, talks too much, or nobody waits any more."""
    process = await _start(program, environment)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(timeout):
            process.stdin.write(server.encode())
            with suppress(ConnectionError):  # a helper need not read what it was sent
                await process.stdin.drain()
            process.stdin.close()
            output = b""
            while piece := await process.stdout.read(4096):
                output += piece
                if len(output) > MAX_OUTPUT:
                    raise ValueError(f"it wrote more than {MAX_OUTPUT} bytes")
            return await process.wait(), output
    finally:
        await _end(process)


async def _start(program: str, environment: Mapping[str, str]) -> asyncio.subprocess.Process:
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            program,
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,  # the protocol has errors on the standard output
            env=environment,
            start_new_session=True,
        )
    )
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        # A start that is cut off kills the helper alone and waits for its children: let it come about, then end them all.
        with suppress(OSError):
            await _end(await starting)
        raise


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):  # it ended just now
            os.killpg(process.pid, signal.SIGKILL)
        if process.stdin is not None:
            process.stdin.close()
        with suppress(TimeoutError):  # somebody who left the family may hold the pipe open
            async with asyncio.timeout(END_TIME):
                await process.communicate()  # the rest of its pipe, too, so that it is closed
