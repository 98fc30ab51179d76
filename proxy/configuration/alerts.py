"""From alerts as written to the sinks that are served."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec
from pathlib import Path

from proxy.configuration.report import Report
from proxy.configuration.source import Location
from proxy.configuration.upstreams import check_authorities, check_variable
from proxy.policy.alerts import (
    Alertmanager,
    AlertPolicy,
    Apprise,
    CloudEvents,
    Digest,
    Filter,
    Http,
    SecretSource,
    SinkPolicy,
)
from proxy.policy.patterns import Pattern
from proxy.policy.sinks import AppriseSettings, CloudEventsSettings, HttpSettings, SinkSettings
from proxy.settings import Settings
from storage.records import EventType, Severity

_LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
#: Labels that every alert has: one from the configuration could not be seen.
_OWN_LABELS = frozenset({"alertname", "severity", "type", "subject", "repository", "tag", "digest"})
_URI = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]{1,2000}", re.ASCII)


def build_alerts(settings: Settings, report: Report) -> AlertPolicy:
    """What ``alerts`` says. What does not check out is reported and left out."""
    written = settings.alerts
    if not _URI.fullmatch(written.source):
        report.error(
            ("alerts", "source"), "is no URI reference: write the address of this proxy, such as https://tagstone.example"
        )
    sinks = []
    for name, sink in written.sinks.items():
        location = ("alerts", "sinks", name)
        if (target := _target(sink, location, report)) is not None:
            digest = None if sink.digest is None else Digest.parse(sink.digest)
            sinks.append(SinkPolicy(name, target, _filter(sink, location, report), digest, sink.timeout))
    return AlertPolicy(tuple(sinks), written.source, written.give_up, written.keep, written.history)


def _filter(sink: SinkSettings, location: Location, report: Report) -> Filter:
    types = tuple(map(Pattern.compile, sink.types))
    for number, pattern in enumerate(types):
        if not any(pattern.matches(each.value) for each in EventType):
            from proxy.configuration.words import suggestion

            way = suggestion(pattern.text, sorted(each.value for each in EventType), "the types are")
            report.error((*location, "types", number), f"no event is of a type like `{pattern.text}`{way}")
    return Filter(types, Severity(sink.severity), tuple(map(Pattern.compile, sink.images)))


def _target(sink: SinkSettings, location: Location, report: Report) -> CloudEvents | Alertmanager | Apprise | None:
    if (cloudevents := sink.cloudevents) is not None:
        location = (*location, "cloudevents")
        http = _http(cloudevents, location, report)
        return None if http is None else CloudEvents(http, _signing(cloudevents, http, location, report))
    if (alertmanager := sink.alertmanager) is not None:
        location = (*location, "alertmanager")
        for name in alertmanager.labels:
            if not _LABEL.fullmatch(name):
                report.error((*location, "labels", name), "is no name of a label: letters, digits and _, not first a digit")
            elif name in _OWN_LABELS:
                report.error((*location, "labels", name), "is set by Tagstone itself")
        http = _http(alertmanager, location, report)
        return None if http is None else Alertmanager(http, dict(alertmanager.labels), alertmanager.resend, alertmanager.hold)
    return None if sink.apprise is None else _apprise(sink.apprise, (*location, "apprise"), report)


def _http(written: HttpSettings, location: Location, report: Report) -> Http | None:
    source = _secret(written, "url", location, report)
    if (written.url is None) == (source is None):
        found = "none of them" if source is None else "`url` and another"
        report.error(location, f"needs one of `url`, `url_file` and `url_env`; here is {found}")
        return None
    bearer = _secret(written, "bearer", location, report)
    if written.ca is not None:
        check_authorities(written.ca, (*location, "ca"), report)
    if written.url is not None and not _check_url(written.url, (*location, "url"), report, bearer=bearer is not None):
        return None
    return Http(None if written.url is None else written.url.strip(), source, bearer, written.ca)


def _check_url(text: str, location: Location, report: Report, *, bearer: bool) -> bool:
    from proxy.sinks.http import parse_url

    try:
        url = parse_url(text)
    except ValueError:
        report.error(location, "is no address of a sink: write https://host/path")
        return False
    if url.user is not None or url.password is not None:
        if bearer:
            report.error(location, "holds a user, and there is a `bearer_…`: keep one of them")
            return False
        report.warn(location, "credentials stand in the file; `url_file` or `url_env` keep them out")
    return True


def _signing(written: CloudEventsSettings, http: Http, location: Location, report: Report) -> SecretSource | None:
    from proxy.sinks.secrets import SecretUnreadable, read_now
    from proxy.sinks.webhooks import parse_secrets

    secret = _secret(written, "secret", location, report)
    if secret is None:
        report.warn(location, "events are not signed, so that anybody can send some; add `secret_file` or `secret_env`")
        return None
    try:
        parse_secrets(read_now(secret))
    except SecretUnreadable:
        return secret  # told already; secrets are often where the server runs, and nowhere else
    except ValueError as error:
        report.error((*location, "secret_file" if secret.file is not None else "secret_env"), str(error))
    if http.url is not None and http.url.startswith("http://"):
        report.warn((*location, "url"), "events can be read on their way over plain HTTP; their signatures still hold")
    return secret


def _apprise(written: AppriseSettings, location: Location, report: Report) -> Apprise | None:
    from proxy.sinks.people import parse_urls
    from proxy.sinks.secrets import SecretUnreadable, read_now

    if find_spec("apprise") is None:
        report.error(location, "apprise is not installed: pip install 'tagstone[apprise]'")
        return None
    urls = _secret(written, "urls", location, report)
    if urls is None:
        report.error(location, "needs `urls_file` or `urls_env`: the URLs hold secrets, and stay out of this file")
        return None
    try:
        parse_urls(read_now(urls))
    except SecretUnreadable:
        return Apprise(urls)
    except ValueError as error:
        report.error((*location, "urls_file" if urls.file is not None else "urls_env"), str(error))
        return None
    return Apprise(urls)


def _secret(written: HttpSettings | AppriseSettings, what: str, location: Location, report: Report) -> SecretSource | None:
    """Where a secret is; a warning where it is not to be had here and now."""
    file: Path | None = getattr(written, f"{what}_file")
    variable: str | None = getattr(written, f"{what}_env")
    if file is not None and variable is not None:
        report.error(location, f"holds `{what}_file` and `{what}_env`; keep one of them")
        return None
    if variable is not None:
        check_variable(variable, (*location, f"{what}_env"), report)
        return SecretSource(variable=variable)
    if file is None:
        return None
    if not (file.is_file() and os.access(file, os.R_OK)):
        report.warn((*location, f"{what}_file"), f"{file} cannot be read here and now")
    return SecretSource(file)
