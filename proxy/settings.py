"""The settings: one frozen tree of typed values, read from one YAML file (design of the keys: docs/configuration.md).

Durations are seconds (``float``), sizes are bytes (``int``); in the file they are written ``60s``, ``15m``, ``72h``, ``7d`` and
``64KiB``, ``4MiB``, ``2GiB``. Every key has a default but ``rules`` and what they name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)\s*(B|KiB|MiB|GiB|TiB)?", re.ASCII)
_BYTES = {None: 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}


def parse_duration(value: Any) -> Any:
    """``60s`` → 60.0. Text needs a unit (only 0 goes without): a bare number's would be a guess. Numbers, from code, are seconds."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if value == "0":
        return 0.0
    if isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        return float(found[1]) * _SECONDS[found[2]]
    raise ValueError("write a duration with its unit, such as 500ms, 60s, 15m, 72h or 7d")


def parse_size(value: Any) -> Any:
    """``4MiB`` → 4194304; a bare number is bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        return int(found[1]) * _BYTES[found[2]]
    raise ValueError("write a size in bytes, such as 65536, 64KiB, 4MiB or 2GiB")


Duration = Annotated[float, BeforeValidator(parse_duration, json_schema_input_type=str), Field(ge=0)]
Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=str | int), Field(ge=0)]


class Model(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Auth(Model):
    """Credentials for one upstream. At most one of the kinds; without any, the upstream is asked anonymously."""

    username: str | None = None
    password: str | None = Field(None, repr=False)
    password_file: Path | None = None
    password_env: str | None = None
    identity_token_file: Path | None = None  #: an OAuth2 refresh token, exchanged by POST
    docker_config: Path | None = None  #: a Docker config.json, its ``auths``, ``credHelpers`` and ``credsStore``
    helper: str | None = None  #: a Docker credential helper: ``ecr-login`` runs ``docker-credential-ecr-login``


class ClientCertificate(Model):
    """A certificate that Tagstone shows to an upstream."""

    cert: Path
    key: Path


class Upstream(Model):
    """One registry that Tagstone fetches from; its key in ``upstreams`` is the name that images carry."""

    url: str | None = None  #: endpoint; well-known registries have theirs, others default to https://<name>
    ca: Path | None = None  #: PEM bundle trusted instead of the system's
    client_certificate: ClientCertificate | None = None
    auth: Auth = Auth()
    allow_private: bool = False  #: may it (its realm, its redirects) live at loopback, private or link-local addresses?
    realm_hosts: tuple[str, ...] = ()  #: hosts besides its own where its token endpoint may be
    connect_timeout: Duration = 10.0
    header_timeout: Duration = 20.0
    stall_timeout: Duration = 30.0  #: longest silence in the middle of a body
    retries: int = Field(3, ge=0, le=10)
    connections: int = Field(16, ge=1, le=1000)
    breaker_failures: int = Field(5, ge=1)
    breaker_cooldown: Duration = 10.0


class Limits(Model):
    """Bounds on what others may make Tagstone hold, read or wait for."""

    manifest_size: Size = 4 << 20
    json_depth: int = Field(32, ge=4, le=200)
    index_depth: int = Field(3, ge=1, le=8)
    index_manifests: int = Field(1000, ge=1)
    layers: int = Field(500, ge=1)
    blob_size: Size = 64 << 30
    signatures: int = Field(64, ge=1)  #: signatures judged for one image
    attestation_size: Size = 32 << 20
    evidence_total: Size = 64 << 20  #: bytes of evidence fetched for one image
    referrers: int = Field(256, ge=1)
    tag_pages: int = Field(200, ge=1)
    token_size: Size = 64 << 10
    error_body: Size = 64 << 10
    redirects: int = Field(10, ge=0, le=20)
    retry_after: Duration = 60.0  #: longest Retry-After that is obeyed
    refusal_ttl: Duration = 5.0  #: how long a definite refusal is remembered (never longer than check_interval)
    memory_manifests: Size = 64 << 20
    memory_blobs: Size = 32 << 20
    memory_blob_size: Size = 256 << 10  #: blobs up to this size may be answered from memory
    request_timeout: Duration = 25.0  #: a manifest answer is decided within this time (clients give up at 30 s)
    drain_timeout: Duration = 30.0  #: after SIGTERM, how long answers in flight may take
    client_stall_timeout: Duration = 60.0  #: longest time a client may take no byte


class Admin(Model):
    """The listener for health and metrics: loopback only."""

    listen: str = "127.0.0.1:5001"


class Log(Model):
    """How the log is written."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


class Cache(Model):
    """How stored blobs are served."""

    serve: Literal["sealed", "rehash"] = "sealed"  #: ``rehash`` hashes every response and holds back its last chunk
