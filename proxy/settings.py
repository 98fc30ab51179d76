"""The settings: one frozen tree of typed values, read from one YAML file (design of the keys: docs/configuration.md).

Durations are seconds (``float``), sizes are bytes (``int``); in the file they are written ``60s``, ``15m``, ``72h``, ``7d`` and
``64KiB``, ``4MiB``, ``2GiB``. Every key has a default but ``rules`` and what they name. The descriptions of the fields are
the documentation: the JSON Schema and docs/configuration.md are made from them.

What holds between keys is checked by :mod:`proxy.configuration`, which knows the lines of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag

from proxy.manifest import Bounds
from proxy.policy.document import RuleSettings, Trust
from proxy.policy.sinks import AlertsSettings
from proxy.schema import (
    Duration,
    EmptyMapping,
    End,
    FilePath,
    Interval,
    Listen,
    Model,
    Name,
    Rate,
    Secret,
    Share,
    Size,
    Switch,
    Timeout,
)

# -- upstreams ------------------------------------------------------------------------------------------------------


class Auth(Model):
    """Credentials for one upstream. At most one of the kinds; without any, the upstream is asked anonymously."""

    username: str | None = Field(
        None, description="User name, with one of the three `password…` keys, or with `identity_token_file` where it is wanted."
    )
    password: Secret | None = Field(
        None, repr=False, description="Password in the file itself; better is `password_file` or `password_env`."
    )
    password_file: FilePath | None = Field(None, description="File whose content, without the last line break, is the password.")
    password_env: str | None = Field(None, description="Environment variable that holds the password.")
    identity_token_file: FilePath | None = Field(
        None, description="File that holds an OAuth2 refresh token, which is exchanged for access tokens."
    )
    docker_config: FilePath | None = Field(
        None, description="A Docker `config.json`: its `auths`, `credHelpers` and `credsStore` are used."
    )
    helper: str | None = Field(
        None, description="A Docker credential helper: `ecr-login` runs `docker-credential-ecr-login`, found on PATH."
    )


class ClientCertificate(Model):
    """A certificate that Tagstone shows to an upstream."""

    cert: FilePath = Field(description="PEM file with the certificate and its intermediates.")
    key: FilePath = Field(description="PEM file with its private key, not encrypted.")


class Upstream(Model):
    """One registry that Tagstone fetches from; its key in ``upstreams`` is the name that images carry."""

    url: str | None = Field(
        None,
        description="Endpoint, `https://host` or `https://host:port`. Well-known registries have theirs, "
        "for others it is `https://` and the name. `http://` needs `allow_private`.",
    )
    ca: FilePath | None = Field(None, description="PEM file of certificate authorities, trusted instead of the system's.")
    client_certificate: ClientCertificate | None = Field(None, description="Certificate shown to the upstream.")
    auth: Auth = Field(Auth(), description="Credentials. Without any, the upstream is asked anonymously.")
    allow_private: Switch = Field(
        False,
        description="Whether it, its token endpoint and its redirects may live at loopback, private or link-local addresses, "
        "or speak plain HTTP.",
    )
    realm_hosts: tuple[str, ...] = Field(
        (), description="Hosts besides its own where its token endpoint may be; credentials are sent to no others."
    )
    connect_timeout: Timeout = Field(10.0, description="Longest wait for a connection, TLS included.")
    header_timeout: Timeout = Field(20.0, description="Longest wait for the head of an answer.")
    stall_timeout: Timeout = Field(30.0, description="Longest silence in the middle of a body.")
    min_rate: Size = Field(1 << 10, description="Bytes a second below which a body, over `stall_timeout`, counts as stalled.")
    retries: int = Field(3, ge=0, le=10, description="How often a request that failed is tried again, where that is safe.")
    connections: int = Field(16, ge=1, le=1000, description="Most connections at a time.")
    watch_rate: Rate | None = Field(None, description="`watch.rate` for this upstream. 0: its tags are not watched.")
    queue_timeout: Timeout = Field(300.0, description="Longest wait of a blob for one of them.")
    breaker_failures: int = Field(5, ge=1, le=1000, description="Failures in a row after which the upstream is left alone.")
    breaker_cooldown: Duration = Field(10.0, description="How long it is left alone.")


# -- bounds ---------------------------------------------------------------------------------------------------------


class Limits(Model):
    """Bounds on what others may make Tagstone hold, read or wait for."""

    manifest_size: Size = Field(4 << 20, description="Largest manifest. The specification asks for at least 4MiB.")
    json_depth: int = Field(32, ge=4, le=200, description="Deepest nesting of a manifest's JSON.")
    index_depth: int = Field(3, ge=1, le=8, description="Deepest nesting of indexes.")
    index_manifests: int = Field(1000, ge=1, le=100_000, description="Most manifests in one index.")
    layers: int = Field(500, ge=1, le=100_000, description="Most layers in one manifest.")
    blob_size: Size = Field(64 << 30, description="Largest blob.")
    signatures: int = Field(
        64,
        ge=1,
        le=10_000,
        description="Most signatures judged for one image from each of the places where they may be.",
    )
    signature_size: Size = Field(1 << 20, description="Largest signature, with all that comes beside it.")
    attestation_size: Size = Field(32 << 20, description="Largest attestation or signature document.")
    log_entries: int = Field(32, ge=1, le=10_000, description="Most entries of transparency logs beside one signature.")
    timestamps: int = Field(32, ge=1, le=10_000, description="Most timestamps beside one signature.")
    subjects: int = Field(1024, ge=1, le=1_000_000, description="Most subjects that one attestation may speak of.")
    evidence_total: Size = Field(
        100 << 20,
        description="Most bytes of evidence fetched for one image, in equal shares from the places where it may be.",
    )
    platforms: int = Field(
        64,
        ge=1,
        le=1000,
        description="Most manifests of an index that are judged each by attestations of its own (`on: platform`, `on: either`); "
        "they share `evidence_total`. An image with more does not pass by them.",
    )
    evidence_timeout: Timeout = Field(
        15.0, description="How long an image's signatures are looked for; what did not answer by then counts as unavailable."
    )
    ocsp_size: Size = Field(64 << 10, description="Largest answer of an OCSP server.")
    crl_size: Size = Field(8 << 20, description="Largest certificate revocation list.")
    revocation_timeout: Timeout = Field(
        10.0,
        description="How long revocation servers are asked about the certificates of one image: one OCSP server a fifth of it, "
        "for one list half of it. What did not answer by then counts as unavailable.",
    )
    memory_revocation: Size = Field(
        32 << 20, description="Memory for answers of revocation servers, which are kept until they end, for a day at most."
    )
    referrers: int = Field(256, ge=1, le=10_000, description="Most referrers read for one image.")
    tag_pages: int = Field(200, ge=1, le=100_000, description="Most pages of an upstream's tag list that are followed.")
    token_size: Size = Field(64 << 10, description="Largest answer of a token endpoint.")
    error_body: Size = Field(64 << 10, description="How much of an upstream's error body is read.")
    redirects: int = Field(10, ge=0, le=20, description="Most redirects followed for one request.")
    retry_after: Duration = Field(60.0, description="Longest `Retry-After` of an upstream that is obeyed.")
    refusal_ttl: Duration = Field(
        5.0, description="How long a definite refusal is remembered, but never longer than `check_interval`."
    )
    memory_manifests: Size = Field(64 << 20, description="Memory for manifests of warm pulls.")
    memory_blobs: Size = Field(32 << 20, description="Memory for small blobs of warm pulls.")
    memory_blob_size: Size = Field(256 << 10, description="Largest blob that is answered from memory.")
    request_timeout: Timeout = Field(
        25.0, description="A manifest pull is answered within this time; clients give up after 30 seconds."
    )
    drain_timeout: Duration = Field(30.0, description="After SIGTERM, how long answers that are under way may take.")
    client_requests: int = Field(
        1024,
        ge=0,
        le=100_000,
        description="Most requests of one client (principal, else address) that one worker answers at a time; more wait. 0: any.",
    )
    client_rate: int = Field(
        0, ge=0, le=1_000_000, description="Most requests of one client in a second, in one worker; more wait. 0: any."
    )
    client_connections: int = Field(
        8192,
        ge=1,
        le=1_000_000,
        description="Most connections of clients to one worker, unfinished TLS handshakes included; beyond that the newest is "
        "closed at once.",
    )
    client_connections_each: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Most of them from one address (IPv6: one /64), which may be all nodes behind a NAT or a proxy. By default "
        "half of `client_connections`.",
    )
    client_header_size: Size = Field(16 << 10, ge=1024, le=1 << 20, description="Longest line in the head of a client's request.")
    client_headers: int = Field(64, ge=16, le=1000, description="Most header fields in a client's request.")
    client_first_timeout: Timeout = Field(
        20.0, description="How long a client may take from connecting to its first whole request, TLS included."
    )
    client_idle_timeout: Timeout = Field(75.0, description="How long a connection is kept between requests.")
    client_stall_timeout: Timeout = Field(60.0, description="Longest time for which a client may take no byte.")

    def bounds(self) -> Bounds:
        """The part of the limits that reading a manifest needs."""
        return Bounds(
            manifest_size=self.manifest_size,
            json_depth=self.json_depth,
            index_manifests=self.index_manifests,
            layers=self.layers,
            blob_size=self.blob_size,
            index_depth=self.index_depth,
        )


# -- the server -----------------------------------------------------------------------------------------------------


class Tls(Model):
    """TLS on a listener. The files are read again when they change; no restart is needed."""

    certificate: FilePath = Field(description="PEM file with the server's certificate, and the intermediate ones after it.")
    key: FilePath = Field(description="PEM file with its private key, without a passphrase.")
    client_ca: FilePath | None = Field(
        None, description="PEM file with the authorities whose certificates clients may show (mutual TLS)."
    )
    client_certificates: Literal["optional", "required"] = Field(
        "required", description="With `client_ca`: whether a client without a certificate is turned away at once."
    )
    min_version: Literal["1.2", "1.3"] = Field("1.2", description="Oldest version of TLS that is spoken.")


class StaticTokenSettings(Model):
    """A token for a robot. `tagstone access token NAME` makes one and prints its hash for here."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] = Field(description="SHA-256 of the token, in hex.")
    expires: End | None = Field(None, description="Last moment at which it is good.")


class OidcSettings(Model):
    """Whose signed tokens name principals: an OpenID Connect issuer, or a Kubernetes cluster."""

    issuer: str = Field(description="The issuer's name for itself (`iss`), exactly.")
    audience: tuple[str, ...] = Field(min_length=1, description="For whom tokens must be made (`aud`): one of these.")
    jwks: str | None = Field(None, description="Address of its key set. By default the issuer's discovery document says it.")
    jwks_file: FilePath | None = Field(None, description="File with its key set, instead of fetching it.")
    ca: FilePath | None = Field(None, description="PEM file with the authorities for the issuer's own TLS certificate.")
    bearer_file: FilePath | None = Field(
        None, description="File with a token to show when fetching the keys, as a Kubernetes API server wants one."
    )
    username: str = Field("sub", description="Which claim is the principal's name.")


class AccessRuleSettings(Model):
    """One grant: whoever matches, from these networks, may pull these repositories."""

    who: tuple[str, ...] = Field(
        ("authenticated",),
        min_length=1,
        description="Patterns for principals: `user:alice`, `token:ci`, `certificate:dns:*.nodes.example`, "
        "`oidc:k8s:system:serviceaccount:web:*`; `**` crosses `/`. The words `anonymous`, `authenticated` and `anyone` stand for "
        "many.",
    )
    networks: tuple[str, ...] = Field((), description="Networks that they must ask from, such as `10.0.0.0/8`; none: any.")
    pull: tuple[str, ...] = Field(("**",), min_length=1, description="Patterns for `registry/repository`, as in `rules`.")


class AccessSettings(Model):
    """Who may pull what. Without this section everybody who reaches the port may pull what the rules let through."""

    htpasswd: FilePath | None = Field(
        None, description="Apache password file with bcrypt hashes (`htpasswd -B`); read again when it changes."
    )
    tokens: Annotated[Mapping[Name, StaticTokenSettings], EmptyMapping] = Field({}, description="Static tokens, by name.")
    oidc: Annotated[Mapping[Name, OidcSettings], EmptyMapping] = Field(
        {}, description="Issuers of signed tokens, by the name that their principals carry."
    )
    rules: tuple[AccessRuleSettings, ...] = Field(
        (AccessRuleSettings(),),
        description="Grants; one that matches suffices. By default everybody who logs in may pull everything.",
    )
    realm: str | None = Field(
        None,
        description="Address of the token endpoint as clients reach it, where that is not `/token` at the address that they ask: "
        "behind a proxy that ends TLS, say `https://mirror.example/token`.",
    )
    service: Name = Field("tagstone", description="Name of this service in tokens and challenges.")
    token_lifetime: Duration = Field(300.0, description="How long a token of the token endpoint is good.")


class AdmissionSettings(Model):
    """Kubernetes asks at `/admission/v1/validate` and `/admission/v1/mutate` of the registry listener whether workloads may run.

    Without this section it is not answered.
    """

    mutate: Literal["none", "digest", "mirror"] = Field(
        "digest",
        description="What the mutating webhook writes in place of an image's name. `digest`: the repository with the digest that "
        "was decided; `mirror`: the same below `mirror`; `none`: nothing.",
    )
    mirror: str | None = Field(
        None,
        description="Host and port under which nodes reach this proxy. Names below it, such as "
        "`mirror.example:5000/docker.io/library/nginx`, are judged as the image behind them.",
    )
    tags: Literal["resolve", "refuse"] = Field(
        "resolve",
        description="What the validating webhook makes of an image that is named by its tag alone: judge it, with a warning, or "
        "refuse it.",
    )
    images: int = Field(64, ge=1, le=10_000, description="Most different images in one workload.")
    who: tuple[str, ...] = Field(
        (),
        description="With `access`: who, besides those who may pull an image, may ask whether it passes, such as "
        "`certificate:cn:kube-apiserver`. They need not be allowed to pull anything.",
    )
    networks: tuple[str, ...] = Field((), description="Networks that `who` must ask from; none: any.")


class Admin(Model):
    """The listener for health and metrics."""

    listen: Listen = Field(
        "127.0.0.1:5001",
        description="Address for health and metrics. Reachable from elsewhere it needs `tokens`, or `tls` with `client_ca`.",
    )
    tls: Tls | None = Field(None, description="TLS on this listener.")
    tokens: Annotated[Mapping[Name, StaticTokenSettings], EmptyMapping] = Field(
        {},
        description="Who may ask, by a Bearer token, or as a password: name → token. `/healthz` and `/readyz` say ok to anybody.",
    )


class Log(Model):
    """How the log is written."""

    format: Literal["console", "json"] = Field("console", description="Lines for people, or one JSON object per line.")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least important level that is written.")
    pulls: Literal["all", "decided", "none"] = Field(
        "decided",
        description="One line for each request: who asked for what, by which rule, the answer and why, bytes, milliseconds, and "
        "where it came from. `decided` leaves out what was answered from memory, `none` all but refusals. That somebody "
        "without credentials was asked to log in is only said by `all`: every login begins with it.",
    )


class LedgerSettings(Model):
    """The ledger: every decision that changed something, in a Merkle tree whose checkpoints are signed."""

    origin: Annotated[str, Field(pattern=r"^[!-*,-~]{1,255}$")] | None = Field(
        None,
        description="The log's name, which its first key is made for and which stays: by custom the address of the ledger "
        "without scheme, such as `mirror.example/ledger`. By default a name that nobody else has.",
    )
    interval: Timeout = Field(60.0, description="How often a checkpoint is signed, where anything was entered since the last.")
    public: bool = Field(
        False,
        description="Serve the ledger below `/ledger/` of the registry listener too, to anybody who reaches it. The admin "
        "listener always does.",
    )
    refusals: int = Field(
        100,
        ge=0,
        le=1_000_000,
        description="Most refusals that are entered in an hour, each once for its image, digest and cause. 0 enters none.",
    )


class Cache(Model):
    """How stored blobs are served."""

    serve: Literal["sealed", "rehash"] = Field(
        "sealed",
        description="`sealed` checks a file's size, inode and times against those at its verification, and hashes again where "
        "they differ. `rehash` hashes every response and holds back its last chunk.",
    )


class PullRecords(Model):
    """Who was handed which image: what `tagstone pulls` shows."""

    record: Switch = Field(
        True, description="Whether pulls are recorded: client, image, digest, times. Written in batches, off their way."
    )
    keep: Timeout = Field(90 * 86400.0, description="How long a record is kept, also when none are made any more.")
    most: int = Field(
        10_000_000,
        ge=1000,
        le=1_000_000_000,
        description="Most records that are kept. Beyond that the oldest are forgotten before their time, and the log says so.",
    )


class Scrub(Model):
    """Stored blobs are hashed again, one after the other; what is damaged is quarantined, fetched again, and told."""

    interval: Interval = Field(7 * 86400.0, description="How often everything stored is gone through.")
    rate: Annotated[Size, Field(ge=4096)] = Field(20 << 20, description="Most bytes that are read for it in a second.")


def _check_jitter(value: float) -> float:
    if value > 0.25:
        raise ValueError("must be at most 25%")
    return value


def _check_rate(value: float) -> float:
    if value == 0:
        raise ValueError("must be more than 0; to watch nothing: `interval: never`")
    return value


class Watch(Model):
    """Pinned tags are asked about on a schedule, so that an overwrite is told also where nobody pulls."""

    interval: Interval = Field(
        3600.0, description="Within this time the upstream is asked what each pinned tag names. `never`: pulls alone ask."
    )
    jitter: Annotated[Share, AfterValidator(_check_jitter)] = Field(
        0.1,
        description="By what share of `interval` it varies when a tag is asked about. A tag that was asked about for a pull, so "
        "short a time before, is not asked about again. 25% at most.",
    )
    tags_interval: Interval = Field(
        21600.0,
        description="How often the lists of tags of repositories with pins are read, for tags that are new there. `never`: not "
        "at all.",
    )
    tags: int = Field(
        20_000, ge=1, le=1_000_000, description="Of how many tags of one repository notice is taken: the first by their names."
    )
    rate: Annotated[Rate, AfterValidator(_check_rate)] = Field(
        10.0, description="Most requests to one upstream. An upstream may have its own, `watch_rate`."
    )
    concurrency: int = Field(4, ge=1, le=64, description="Most requests to one upstream at a time.")
    reserve: Share = Field(
        0.5,
        description="Which share of an upstream's rate limit, where it tells of one, is left to pulls: when no more is left, it "
        "is asked once a minute at most.",
    )
    unreachable_after: Duration = Field(
        600.0, description="How long an upstream must have answered nothing that was asked until that is told."
    )


class Verification(Model):
    """What is pinned is judged again: by the evidence that the upstream has now, and by what was kept when it was accepted."""

    interval: Interval = Field(
        86400.0,
        description="Within this time every pinned digest is judged again, evenly spread; those that a change of rules, trust or "
        "blocks concerns at once. `never`: pulls alone do that.",
    )
    concurrency: int = Field(2, ge=1, le=64, description="Most pins of one upstream that are judged at a time.")


def _extends_form(value: Any) -> str:
    return "<word>" if isinstance(value, str) else "<list>"


#: Sets of rules that come with Tagstone.
WellKnown = Literal["well-known"]
Extends = Annotated[
    Annotated[WellKnown, Tag("<word>")] | Annotated[tuple[WellKnown, ...], Tag("<list>")], Discriminator(_extends_form)
]


class Settings(Model):
    """Configuration of Tagstone: one file for `serve`, `verify` and the operator's commands."""

    listen: Listen = Field("127.0.0.1:5000", description="Address for container clients. Port 0 takes any free one.")
    tls: Tls | None = Field(None, description="TLS for container clients.")
    refusal: Literal["status", "tombstone"] = Field(
        "status",
        description="How a refused HEAD of a tag is answered. `status`: 403 or 503. `tombstone`: 200 with the digest of the "
        "refusal itself, which is nowhere to be had, so that clients that would go on to the upstream end there; a GET of it is "
        "refused. A demand to log in stays 401, for it has to be answered: clients that go on after it need credentials that "
        "hold, or what `anyone` may pull.",
    )
    access: AccessSettings | None = Field(None, description="Who may pull what.")
    admission: AdmissionSettings | None = Field(None, description="Kubernetes admission: may a workload run with its images?")
    admin: Admin = Field(Admin(), description="The listener for health and metrics.")
    data_dir: FilePath = Field(
        Path("/var/lib/tagstone"), description="Folder for the database and the cached blobs. Made if it is missing."
    )
    check_interval: Duration = Field(
        60.0, description="How long an upstream's word on a tag is good, before a pull asks it again. 0 asks each time."
    )
    default_registry: str = Field("docker.io", description="Registry of pulls that name none.")
    hosts: Annotated[Mapping[str, str], EmptyMapping] = Field(
        {}, description="Which registry is meant by the `Host` header that a client sends: host name → registry."
    )
    upstreams: Annotated[Mapping[str, Upstream], EmptyMapping] = Field(
        {}, description="Registries that Tagstone fetches from, by the name that images carry. No others are ever asked."
    )
    trust: Trust = Field(Trust(), description="Who is believed.")
    rules: tuple[RuleSettings, ...] = Field(
        min_length=1, description="Which image needs what. An image that no rule matches is refused. Required."
    )
    extends: Extends = Field(
        (),
        description="Rules that come with Tagstone and stand behind those of the file. `well-known`: the signers of well-known "
        "public images, as their own pages state them.",
    )
    alerts: AlertsSettings = Field(AlertsSettings(), description="Who is told of events.")
    limits: Limits = Field(Limits(), description="Bounds on what others may make Tagstone hold, read or wait for.")
    pulls: PullRecords = Field(PullRecords(), description="Records of who was handed which image.")
    scrub: Scrub = Field(Scrub(), description="Stored blobs are hashed again in the background.")
    log: Log = Field(Log(), description="How the log is written.")
    verification: Verification = Field(Verification(), description="Judging again what is pinned.")
    watch: Watch = Field(Watch(), description="Asking about pinned tags on a schedule.")
    cache: Cache = Field(Cache(), description="How stored blobs are served.")
    ledger: LedgerSettings = Field(LedgerSettings(), description="The log of decisions.")
    workers: int = Field(1, ge=1, le=256, description="Processes that share the port and the data directory.")
