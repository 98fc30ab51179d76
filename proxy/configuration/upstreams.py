"""From the settings to the upstreams that are used: canonical names, endpoints, credentials that make sense."""

from __future__ import annotations

import ipaddress
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from proxy.configuration.report import Report
from proxy.configuration.source import Location
from proxy.configuration.words import suggestion
from proxy.settings import Auth, ClientCertificate, Settings, Upstream
from storage.errors import MalformedName
from storage.reference import DOCKER_HUB, parse_registry

_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
#: Registries that are never at private addresses.
_PUBLIC = frozenset(
    {"docker.io", "ghcr.io", "quay.io", "registry.k8s.io", "gcr.io", "public.ecr.aws", "mcr.microsoft.com", "cgr.dev"}
)
_PATH = re.compile(r"[\x21-\x7e]*", re.ASCII)
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def canonical(names: Iterable[str]) -> frozenset[str]:
    """The registries among ``names``, spelled the one way; what is no registry is left out (and reported elsewhere)."""
    found = set()
    for name in names:
        try:
            found.add(parse_registry(name))
        except MalformedName:
            continue
    return frozenset(found)


def build_upstreams(settings: Settings, report: Report) -> dict[str, Upstream]:
    """Upstreams by canonical name. What does not check out is reported and left out."""
    built: dict[str, Upstream] = {}
    spelled: dict[str, str] = {}
    for name, upstream in settings.upstreams.items():
        location = ("upstreams", name)
        registry = _registry(name, location, report)
        if registry is None:
            continue
        if registry in built:
            line = report.line(("upstreams", spelled[registry]))
            report.error(location, f"is the same registry as `{spelled[registry]}` in line {line}; keep one of them")
            continue
        spelled[registry] = name
        built[registry] = upstream.model_copy(update={"url": _endpoint(registry, upstream, location, report)})
        _check_auth(upstream.auth, (*location, "auth"), report)
        _check_tls(upstream, location, report)
        for index, host in enumerate(upstream.realm_hosts):
            _registry(host, (*location, "realm_hosts", index), report)
    if not settings.upstreams:
        report.warn(("upstreams",), "there is no upstream, so nothing can be pulled; add one, such as `docker.io: {}`")
    return built


def build_hosts(settings: Settings, known: frozenset[str], report: Report) -> dict[str, str]:
    """Host names in lower case → canonical registry, each of them one of ``known``."""
    built: dict[str, str] = {}
    for name, target in settings.hosts.items():
        location = ("hosts", name)
        if _registry(name, location, report) is None:
            continue
        if name.lower() in built:
            report.error(location, "stands here twice: host names do not differ by case")
        if (registry := _registry(target, location, report)) is None:
            continue
        if registry not in known:
            report.error(location, _no_upstream(registry, known))
        built[name.lower()] = registry
    return built


def build_default_registry(settings: Settings, known: frozenset[str], report: Report) -> str:
    """The canonical name of the registry of pulls that name none."""
    registry = _registry(settings.default_registry, ("default_registry",), report)
    if registry is not None and registry not in known and "default_registry" in settings.model_fields_set:
        report.warn(("default_registry",), _no_upstream(registry, known))
    return registry or DOCKER_HUB


def _no_upstream(registry: str, known: frozenset[str]) -> str:
    way = suggestion(registry, sorted(known), "the upstreams are")
    return f"no upstream `{registry}`{way}" if way.endswith("?") else f"no upstream `{registry}`; add it under `upstreams:`"


def _registry(text: str, location: Location, report: Report) -> str | None:
    try:
        return parse_registry(text)
    except MalformedName as error:
        shown = urlsplit(text).netloc if "://" in text else text.partition("/")[0]
        if shown and shown != text:
            report.error(location, f"`{text[:100]}` is not a registry: write only its host, `{shown}`, without scheme and path")
        else:
            report.error(location, str(error))
        return None


# -- endpoints ------------------------------------------------------------------------------------------------------


def _endpoint(registry: str, upstream: Upstream, location: Location, report: Report) -> str | None:
    """The URL without a trailing slash; None where the settings name none, or none that can be used."""
    if upstream.url is None:
        if _private(registry) and not upstream.allow_private:
            report.error(location, f"`{registry}` is a private address; to allow it, write `allow_private: true`")
        if registry in _PUBLIC and upstream.allow_private:
            told = f"lets `{registry}`, its token endpoint and its redirects lead into private networks; it needs none of that"
            report.warn((*location, "allow_private"), told)
        return None
    location = (*location, "url")
    url = _url(upstream.url, location, report, allow_private=upstream.allow_private)
    if url is not None and url.startswith("http://") and upstream.auth != Auth():
        report.warn(location, "credentials go over plain HTTP and can be read on their way")
    return url


def lookaside_url(text: str, location: Location, report: Report, *, allow_private: bool) -> str | None:
    """The URL of a lookaside, which may have a path, without a trailing slash; None, told in ``report``, where it is none."""
    return _url(text, location, report, allow_private=allow_private, with_path=True)


def _url(text: str, location: Location, report: Report, *, allow_private: bool, with_path: bool = False) -> str | None:
    if "://" not in text:
        report.error(location, f"has no scheme: write https://{text.strip('/')}")
        return None
    try:
        parts = urlsplit(text)
        host = parts.netloc.rpartition("@")[2]
        parse_registry(host)
    except (MalformedName, ValueError):
        report.error(location, "is not an endpoint: write https://host or https://host:port")
        return None
    plain = f"{parts.scheme}://{host}"
    path, more = parts.path.rstrip("/"), parts.query or parts.fragment or text.endswith(("?", "#"))
    if parts.scheme not in ("http", "https"):
        report.error(location, f"has the scheme `{parts.scheme}`: only https and http are spoken")
    elif "@" in parts.netloc:
        way = "a lookaside is asked without any" if with_path else f"put them under `auth:` and write {plain}"
        report.error(location, f"holds credentials: {way}")
    elif not with_path and (path or more):
        report.error(location, f"goes on after the host: write {plain}; the path of an image belongs into the rules")
    elif more or not _PATH.fullmatch(path):
        report.error(location, "is more than a host and a path of plain ASCII: write https://host/path")
    elif parts.scheme == "http" and not allow_private:
        report.error(location, "plain HTTP can be read and changed on its way; use https, or write `allow_private: true`")
    elif _private(host) and not allow_private:
        report.error(location, f"`{host}` is a private address; to allow it, write `allow_private: true`")
    else:
        return f"{plain}{path}"
    return None


def _private(host: str) -> bool:
    """Whether the host is, by its spelling alone, not on the public internet. What names resolve to is checked when dialled."""
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return not ipaddress.ip_address(name.strip("[]")).is_global
    except ValueError:
        return False


# -- credentials and certificates -----------------------------------------------------------------------------------


def _check_auth(auth: Auth, location: Location, report: Report) -> None:
    passwords = [key for key in ("password", "password_file", "password_env") if getattr(auth, key) is not None]
    kinds = [key for key in ("identity_token_file", "docker_config", "helper") if getattr(auth, key) is not None]
    if passwords or (auth.username is not None and auth.identity_token_file is None):
        kinds.insert(0, "username")
    if len(kinds) > 1:
        report.error(location, f"holds {' and '.join(f'`{kind}`' for kind in kinds)}; keep one kind of credentials")
    if len(passwords) > 1:
        report.error(location, f"holds {' and '.join(f'`{key}`' for key in passwords)}; keep one of them")
    if passwords and auth.username is None:
        report.error(location, f"`{passwords[0]}` needs a `username`")
    if auth.username is not None and not passwords and auth.identity_token_file is None:
        report.error(location, "`username` needs `password_file`, `password_env` or `password`")
    if auth.username is not None and (not auth.username or ":" in auth.username or not auth.username.isprintable()):
        report.error((*location, "username"), "is no user name: it must not be empty or hold a colon or control characters")
    if auth.password is not None:
        report.warn((*location, "password"), "a password stands in the file; `password_file` or `password_env` keep it out")
    if auth.password_env is not None:
        check_variable(auth.password_env, (*location, "password_env"), report)
    if auth.helper is not None:
        _check_helper(auth.helper, (*location, "helper"), report)
    for key in ("password_file", "identity_token_file", "docker_config"):
        path = getattr(auth, key)
        # Secrets are often mounted where the server runs, and nowhere else: a warning, and a refusal when it is needed.
        if path is not None and not (path.is_file() and os.access(path, os.R_OK)):
            report.warn((*location, key), f"{path} cannot be read here and now")


def check_variable(name: str, location: Location, report: Report) -> None:
    """Report a name that no environment variable has; warn of one that is not set."""
    if not _VARIABLE.fullmatch(name):
        report.error(location, f"`{name[:60]}` is not the name of an environment variable")
    elif name not in os.environ:
        report.warn(location, f"the environment variable {name} is not set here and now")


def _check_helper(name: str, location: Location, report: Report) -> None:
    if not _HELPER.fullmatch(name):
        report.error(location, "write the helper's name alone: `ecr-login` stands for docker-credential-ecr-login")
    elif name.startswith("docker-credential-"):
        report.error(location, f"leave the prefix out: write `{name.removeprefix('docker-credential-')}`")
    elif shutil.which(f"docker-credential-{name}") is None:
        report.warn(location, f"docker-credential-{name} is not on PATH here and now")


def _check_tls(upstream: Upstream, location: Location, report: Report) -> None:
    if upstream.ca is not None:
        check_authorities(upstream.ca, (*location, "ca"), report)
    if upstream.client_certificate is not None:
        _check_client_certificate(upstream.client_certificate, (*location, "client_certificate"), report)


def check_authorities(path: Path, location: Location, report: Report) -> None:
    """Report a file of certificate authorities that cannot be used."""
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError:
        report.error(location, f"{path} holds no certificates in PEM form")
    except OSError as error:
        report.error(location, f"{path} cannot be read: {error.strerror or error}")


def _check_client_certificate(certificate: ClientCertificate, location: Location, report: Report) -> None:
    import ssl

    for key, path in (("cert", certificate.cert), ("key", certificate.key)):
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            report.error((*location, key), f"{path} cannot be read: {error.strerror or error}")
            return
    try:
        # Without the callable, an encrypted key would make OpenSSL ask at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(certificate.cert, certificate.key, password=lambda: "")
    except ssl.SSLError:
        report.error(location, "is no certificate with its own private key, both in PEM form and not encrypted")
