"""From admission as written to how reviews are answered."""

from __future__ import annotations

from ipaddress import ip_network

from proxy.configuration.access import explain_who
from proxy.configuration.report import Report
from proxy.policy.access import AccessRule, Network
from proxy.policy.patterns import Pattern
from proxy.policy.reviews import Mutation, ReviewPolicy
from proxy.schema import Address
from proxy.settings import AdmissionSettings, Settings
from storage.errors import MalformedName
from storage.reference import parse_registry


def build_reviews(settings: Settings, registries: frozenset[str], report: Report) -> ReviewPolicy | None:
    """What ``admission`` says; None without it. What does not check out is reported and left out."""
    written = settings.admission
    if written is None:
        return None
    _check_reachable(settings, report)
    mirror = _mirror(written, registries, report)
    return ReviewPolicy(
        Mutation(written.mutate), mirror, written.tags == "resolve", written.images, _askers(written, settings, report)
    )


def _mirror(written: AdmissionSettings, registries: frozenset[str], report: Report) -> str | None:
    if written.mirror is None:
        if written.mutate == "mirror":
            report.error(
                ("admission", "mutate"), "needs `mirror`: the name under which nodes reach this proxy, such as mirror.example"
            )
        return None
    location = ("admission", "mirror")
    try:
        mirror = parse_registry(written.mirror)
    except MalformedName as error:
        report.error(location, f"{error}, without scheme and path")
        return None
    if mirror in registries:
        report.error(location, f"`{mirror}` is an upstream: a name below it would mean two things")
    if "." not in mirror and ":" not in mirror and mirror != "localhost":
        report.error(location, f"names below `{mirror}` would be read as ones of docker.io: it needs a dot or a port")
    if written.mutate == "mirror" and (ports := sorted(registry for registry in registries if ":" in registry)):
        told = f"images of {', '.join(ports)} keep their registry: below another name there is no place for a port"
        report.warn(("admission", "mutate"), told)
    return mirror


def _askers(written: AdmissionSettings, settings: Settings, report: Report) -> AccessRule | None:
    if not written.who:
        if written.networks:
            report.error(("admission", "networks"), "limits `who`, and there is none: add it, such as `who: [anyone]`")
        return None
    if settings.access is None:
        report.error(("admission", "who"), "needs `access`: without it nobody is asked, and everybody may pull and ask")
        return None
    networks: list[Network] = []
    for number, text in enumerate(written.networks):
        try:
            networks.append(ip_network(text))
        except ValueError as error:
            report.error(("admission", "networks", number), f"is no network: {error}; write 10.0.0.0/8 or fd00::/8")
    for number, text in enumerate(written.who):
        if (wrong := explain_who(text, settings.access)) is not None:
            report.error(("admission", "who", number), wrong)
    return AccessRule(tuple(map(Pattern.compile, written.who)), tuple(networks), ())


def _check_reachable(settings: Settings, report: Report) -> None:
    """What would keep the API server out: it fails then, and with it every pod."""
    here = ("admission",)
    if settings.tls is None and not Address.parse(settings.listen).loopback:
        report.warn(here, "Kubernetes asks by https alone: add `tls`, unless something in front of this listener ends it")
    if settings.tls is not None and settings.tls.client_ca is not None and settings.tls.client_certificates == "required":
        told = (
            "every client must show a certificate (tls.client_certificates), and so must the API server; see docs/kubernetes.md"
        )
        report.warn(here, told)
