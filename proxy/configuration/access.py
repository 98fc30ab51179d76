"""From access as written to the values that decide who may pull: grants, credentials, issuers. Reads files, asks nobody."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from proxy.configuration.report import Report
from proxy.configuration.rules import explain_pattern
from proxy.configuration.source import Location
from proxy.policy.access import ANYONE, AUTHENTICATED, Access, AccessRule, Kind, Network
from proxy.policy.patterns import Pattern
from proxy.schema import Address
from proxy.settings import AccessSettings, OidcSettings, Settings, StaticTokenSettings, Tls

if TYPE_CHECKING:
    from proxy.services.credentials import Credentials
    from proxy.services.oidc import Issuer

_MAX_FILE = 1 << 20
_MAX_KEYS_FILE = 256 << 10
_WHO = re.compile(r"(?:user|token|certificate|oidc):.+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class AccessConfiguration:
    """All that decides who may pull; ``rules`` None: everybody may."""

    rules: Access | None
    credentials: Credentials
    issuers: tuple[Issuer, ...]
    admin: Credentials
    realm: str | None = None
    service: str = "tagstone"
    lifetime: timedelta = timedelta(minutes=5)
    htpasswd: Path | None = None


def build_access(settings: Settings, registries: frozenset[str], now: datetime, report: Report) -> AccessConfiguration:
    """What ``access``, ``tls`` and ``admin`` say. What does not check out is reported and left out."""
    from proxy.services.credentials import Credentials

    admin = Credentials({}, _tokens(settings.admin.tokens, ("admin", "tokens"), now, report))
    _check_admin(settings, report)
    for location, tls in ((("tls",), settings.tls), (("admin", "tls"), settings.admin.tls)):
        if tls is not None:
            _check_tls(tls, location, report)
    written = settings.access
    if written is None:
        return AccessConfiguration(None, Credentials(), (), admin)
    here: Location = ("access",)
    tokens = _tokens(written.tokens, (*here, "tokens"), now, report)
    credentials = Credentials(_passwords(written, report), tokens)
    issuers = tuple(_issuer(name, entry, (*here, "oidc", name), report) for name, entry in written.oidc.items())
    _check_distinct(issuers, report)
    rules = tuple(_rule(written, index, registries, report) for index in range(len(written.rules)))
    _check_reachable(written, settings, rules, report)
    if written.realm is not None and not _is_address(written.realm):
        report.error((*here, "realm"), "is no address: write https://host/token")
    elif written.realm is not None and not _is_safe(written.realm):
        report.error((*here, "realm"), "would have passwords cross the network in the clear: write https://host/token")
    lifetime = timedelta(seconds=written.token_lifetime)
    if not timedelta(seconds=10) <= lifetime <= timedelta(hours=24):
        report.error((*here, "token_lifetime"), "must be between 10s and 24h")
    return AccessConfiguration(
        Access(rules), credentials, issuers, admin, written.realm, written.service, lifetime, written.htpasswd
    )


def read_passwords(path: Path) -> dict[str, bytes]:
    """Users and hashes of a password file. Raises OSError, and ValueError with words for who wrote the file."""
    from proxy.services.credentials import read_htpasswd

    with path.open("rb") as file:
        body = file.read(_MAX_FILE + 1)
    if len(body) > _MAX_FILE:
        raise ValueError(f"has more than {_MAX_FILE} bytes")
    try:
        return read_htpasswd(body.decode())
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 text") from None


def _passwords(written: AccessSettings, report: Report) -> dict[str, bytes]:
    if written.htpasswd is None:
        return {}
    location = ("access", "htpasswd")
    try:
        users = read_passwords(written.htpasswd)
    except OSError as error:
        report.error(location, f"{written.htpasswd} cannot be read: {error.strerror or error}")
        return {}
    except ValueError as error:
        report.error(location, f"{written.htpasswd}: {error}")
        return {}
    if not users:
        report.warn(location, f"{written.htpasswd} has no users")
    return users


def _tokens(written: Mapping[str, StaticTokenSettings], location: Location, now: datetime, report: Report) -> Mapping[str, Any]:
    from proxy.services.credentials import StaticToken

    tokens: dict[str, StaticToken] = {}
    for name, entry in written.items():
        if (other := tokens.get(entry.sha256)) is not None:
            report.error((*location, name, "sha256"), f"is the same token as `{other.name}`")
        if entry.expires is not None and entry.expires < now:
            report.warn((*location, name, "expires"), "is in the past: this token is not good any more")
        tokens[entry.sha256] = StaticToken(name, entry.sha256, entry.expires)
    return tokens


def _issuer(name: str, written: OidcSettings, location: Location, report: Report) -> Issuer:
    from proxy.services.oidc import Issuer
    from proxy.upstream.keysets import KeySetPlace

    if not _is_address(written.issuer):
        report.error((*location, "issuer"), "is no address: write it as its tokens do, such as https://issuer.example")
    elif urlsplit(written.issuer).scheme == "http" and written.jwks_file is None:
        report.error(
            (*location, "issuer"), "is asked without TLS: whoever stands between could name anybody; use https, or `jwks_file`"
        )
    if written.jwks is not None and urlsplit(written.jwks).scheme != "https":
        report.error((*location, "jwks"), "must be an https address")
    if written.jwks is not None and written.jwks_file is not None:
        report.error((*location, "jwks_file"), "stands beside `jwks`; keep one of them")
    keys = None if written.jwks_file is None else _key_set(written.jwks_file, (*location, "jwks_file"), report)
    for field_name in ("ca", "bearer_file"):
        path = getattr(written, field_name)
        if path is not None and not path.is_file():
            report.error((*location, field_name), f"{path} is not there")
    place = KeySetPlace(written.issuer, written.jwks, written.ca, written.bearer_file)
    return Issuer(name, place, written.audience, written.username, keys)


def _check_distinct(issuers: tuple[Issuer, ...], report: Report) -> None:
    """A token says whose it is by the issuer's name alone: two entries for one would be a guess."""
    names: dict[str, str] = {}
    for issuer in issuers:
        if (other := names.setdefault(issuer.place.issuer, issuer.name)) != issuer.name:
            told = f"is the same issuer as `{other}`; name all audiences in one entry"
            report.error(("access", "oidc", issuer.name, "issuer"), told)


def _key_set(path: Path, location: Location, report: Report) -> str:
    from proxy.services.oidc import usable

    try:
        with path.open("rb") as file:
            body = file.read(_MAX_KEYS_FILE + 1)
        document = json.loads(body) if len(body) <= _MAX_KEYS_FILE else None
    except OSError as error:
        report.error(location, f"{path} cannot be read: {error.strerror or error}")
        return "{}"
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not usable(document):
        report.error(location, f'{path} is no key set: a JSON object with "keys", of which one signs (RSA, EC or OKP)')
        return "{}"
    return json.dumps(document, sort_keys=True)


def _rule(written: AccessSettings, index: int, registries: frozenset[str], report: Report) -> AccessRule:
    rule, location = written.rules[index], ("access", "rules", index)
    networks: list[Network] = []
    for number, text in enumerate(rule.networks):
        try:
            network = ip_network(text)
        except ValueError as error:
            report.error((*location, "networks", number), f"is no network: {error}; write 10.0.0.0/8 or fd00::/8")
            continue
        if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
            told = f"stands for IPv4 addresses, which are matched as such: write {network.network_address.ipv4_mapped}/…"
            report.error((*location, "networks", number), told)
        networks.append(network)
    for number, text in enumerate(rule.pull):
        if (wrong := explain_pattern(text, registries)) is not None:
            report.error((*location, "pull", number), wrong)
    for number, text in enumerate(rule.who):
        wrong = explain_who(text, written)
        if wrong is not None:
            report.error((*location, "who", number), wrong)
    return AccessRule(tuple(map(Pattern.compile, rule.who)), tuple(networks), tuple(map(Pattern.compile, rule.pull)))


def explain_who(text: str, written: AccessSettings) -> str | None:
    """Why nobody can match a pattern of ``who``; None when somebody can."""
    if text in {ANYONE, AUTHENTICATED, Kind.ANONYMOUS}:
        return None
    if not _WHO.fullmatch(text):
        return (
            f"names nobody: write user:…, token:…, certificate:…, oidc:…, or one of {ANYONE}, {AUTHENTICATED}, {Kind.ANONYMOUS}"
        )
    kind, _, name = text.partition(":")
    if kind == Kind.OIDC:
        provider, colon, _ = name.partition(":")
        if not colon and "*" not in provider:
            return f"names no issuer: write oidc:{'|'.join(written.oidc) or 'NAME'}:…"
        if not any(Pattern.compile(provider).matches(known) for known in written.oidc):
            return f"no issuer `{provider[:100]}` under access.oidc"
    if kind == Kind.USER and written.htpasswd is None:
        return "there are no users: name their file in `htpasswd`"
    if kind == Kind.CERTIFICATE and not re.match(r"(?:uri|dns|email|cn|\*)", name):
        return "says not which name of a certificate is meant: write certificate:uri:…, certificate:dns:…, email: or cn:"
    if kind == Kind.TOKEN and not any(Pattern.compile(name).matches(known) for known in written.tokens):
        return f"no token `{name[:100]}` under access.tokens"
    return None


def _check_reachable(written: AccessSettings, settings: Settings, rules: tuple[AccessRule, ...], report: Report) -> None:
    """What would keep everybody out, or let a secret out."""
    by_header = bool(written.htpasswd or written.tokens or written.oidc)
    by_certificate = settings.tls is not None and settings.tls.client_ca is not None
    needs = [index for index, rule in enumerate(rules) if not {ANYONE, Kind.ANONYMOUS.value} & {each.text for each in rule.who}]
    if needs and not by_header and not by_certificate:
        way = "add `htpasswd`, `tokens` or `oidc`, or let `who: [anyone]` in from a network"
        report.error(
            ("access", "rules", needs[0]) if "rules" in written.model_fields_set else ("access",), f"nobody can log in: {way}"
        )
    local = Address.parse(settings.listen).loopback
    behind = written.realm is not None and written.realm.startswith("https://")
    if by_header and settings.tls is None and not local and not behind:
        told = "passwords and tokens would cross the network in the clear: add `tls`, or say the https address in `access.realm`"
        report.warn(("access",), told)


def _check_admin(settings: Settings, report: Report) -> None:
    admin = settings.admin
    certificates = admin.tls is not None and admin.tls.client_ca is not None and admin.tls.client_certificates == "required"
    address = Address.parse(admin.listen)
    if not address.loopback and not admin.tokens and not certificates:
        way = f"write 127.0.0.1:{address.port}, or add `tokens`, or `tls` with `client_ca`"
        report.error(("admin", "listen"), f"can be reached from elsewhere, and asks nobody who they are: {way}")
    if not address.loopback and admin.tokens and admin.tls is None:
        report.warn(("admin", "tokens"), "would cross the network in the clear: add `tls`")


def _check_tls(tls: Tls, location: Location, report: Report) -> None:
    from proxy.web.tls import context_of

    try:
        context_of(tls)
    except ValueError as error:
        report.error(location, str(error))


def _is_safe(text: str) -> bool:
    """Whether what is sent there is read by nobody in between: TLS, or this machine."""
    parts = urlsplit(text)
    try:
        local = ip_address(parts.hostname or "").is_loopback
    except ValueError:
        local = parts.hostname == "localhost"
    return parts.scheme == "https" or local


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return (
        parts.scheme in {"http", "https"} and bool(parts.hostname) and text.isascii() and text.isprintable() and '"' not in text
    )
