"""``tagstone doctor``: does anything on this node go around the proxy?"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, JsonOption

if TYPE_CHECKING:
    from proxy.clients.canary import Report
    from proxy.clients.traps.examine import Examination
    from proxy.clients.traps.node import Expected, Node, Target, Version
    from proxy.clients.traps.table import Finding
    from proxy.configuration import Configuration


def doctor(
    root: Annotated[Path, typer.Option("--root", metavar="DIR", help="Examine the file system below DIR.")] = Path("/"),
    client: Annotated[
        list[str] | None,
        typer.Option(
            "--client",
            metavar="NAME",
            help="containerd, nerdctl, docker, buildkit, podman (CRI-O too), k3s (RKE2 too) or talos; may be repeated. "
            "Default: those that are there.",
        ),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            "--proxy",
            metavar="URL",
            help="The proxy as clients name it. Default: where the configuration listens, else what the clients' files name.",
        ),
    ] = None,
    registry: Annotated[
        list[str] | None,
        typer.Option(
            "--registry",
            metavar="NAME",
            help="A registry that must come through the proxy. Default: those of the configuration, else those in the files.",
        ),
    ] = None,
    canary: Annotated[
        bool,
        typer.Option("--canary", help="Also pull, with every client, what the proxy always refuses, and judge what it does."),
    ] = False,
    bait: Annotated[
        list[str] | None,
        typer.Option(
            "--bait", metavar="IMAGE", help="With --canary: also an image that exists upstream and that the proxy refuses."
        ),
    ] = None,
    assume: Annotated[
        list[str] | None,
        typer.Option("--assume", metavar="CLIENT=VERSION", help="The version of a client that cannot be asked: containerd=1.7."),
    ] = None,
    talos: Annotated[Path | None, typer.Option("--talos", metavar="FILE", help="A Talos machine configuration.")] = None,
    ignore: Annotated[list[str] | None, typer.Option("--ignore", metavar="TRAP", help="Leave this trap out.")] = None,
    ca: Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="Authorities for the proxy's own certificate.")] = None,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what lets clients go around the proxy. Exit 0: sound; 1: traps found; 2: usage or configuration; 3: could not tell."""
    from proxy.clients.traps.examine import examine
    from proxy.clients.traps.node import Node

    if not root.is_dir():
        common.fail(f"{root} is not a folder", common.USAGE)
    resolved = root.resolve()
    node = Node(resolved, _versions(assume or []), dict(os.environ))
    chosen = _clients(client or [])
    configuration = _configuration(config, live=node.live)
    expected = _expected(node, configuration, proxy or [], registry or [])
    examination = examine(node, expected, chosen, talos=None if talos is None else str(talos), ignore=_traps(ignore or []))
    reports = _canary(node, expected, examination.clients, bait or [], ca) if canary else []
    if as_json:
        common.show_json(_json(node, expected, examination, reports))
    else:
        for line in _lines(node, expected, examination, reports, canary=canary):
            print(line)
    raise typer.Exit(_code(examination, reports, canary=canary))


# -- what is asked --------------------------------------------------------------------------------------------------------


def _clients(names: list[str]) -> tuple[str, ...]:
    from proxy.clients.traps.examine import ALIASES, CLIENTS

    chosen = tuple(ALIASES.get(name.lower(), name.lower()) for name in names)
    for name in chosen:
        if name not in CLIENTS:
            common.fail(f"{name} is no client that is known here; there are {', '.join(CLIENTS)}", common.USAGE)
    return chosen


def _traps(names: list[str]) -> list[str]:
    from proxy.clients.traps.table import TRAPS

    for name in names:
        if name not in TRAPS:
            common.fail(f"there is no trap {name}; docs/clients/doctor.md lists them", common.USAGE)
    return names


def _versions(assumed: list[str]) -> dict[str, Version]:
    from proxy.clients.traps.examine import ALIASES, CLIENTS
    from proxy.clients.traps.node import parse_version

    found = {}
    for each in assumed:
        name, _, text = each.partition("=")
        version = parse_version(text if "." in text else f"{text}.0")
        name = ALIASES.get(name, name)
        if version is None or name not in CLIENTS:
            common.fail(f"--assume takes CLIENT=VERSION, such as containerd=1.7, not {each}", common.USAGE)
        found[name] = version
    return found


def _configuration(explicit: Path | None, *, live: bool) -> Configuration | None:
    """The proxy's configuration, where one is named, or where this machine has one."""
    from proxy import configuration
    from proxy.errors import ConfigurationError

    if explicit is not None:
        return common.load(explicit)
    try:
        return common.load(configuration.find(None)) if live else None
    except ConfigurationError:
        return None  # most nodes have none


def _expected(node: Node, configuration: Configuration | None, urls: list[str], names: list[str]) -> Expected:
    from proxy.clients.traps.examine import guess
    from proxy.clients.traps.node import Expected, Target
    from storage.errors import MalformedName
    from storage.reference import DOCKER_HUB, parse_registry

    proxies: list[Target] = []
    for url in urls:
        target = Target.parse(url)
        if target is None or target.path or target.scheme not in {"http", "https"}:
            common.fail(f"--proxy takes a URL without a path, such as https://proxy.example:5000, not {url}", common.USAGE)
        proxies.append(target)
    if not proxies and configuration is not None:
        proxies = [each for each in (_listening(configuration),) if each is not None]
    if not proxies:
        guessed = guess(node)
        if len(guessed) != 1:
            named = "; its files name " + ", ".join(map(str, guessed)) if guessed else ""
            common.fail(f"which proxy this node is to use is not known{named}: say --proxy URL", common.USAGE)
        proxies = list(guessed)
    try:
        registries = [parse_registry(name) for name in names]
    except MalformedName as error:
        common.fail(str(error), common.USAGE)
    if not registries and configuration is not None:
        registries = list(configuration.upstreams)
    default = DOCKER_HUB if configuration is None else configuration.default_registry
    return Expected(tuple(proxies), tuple(dict.fromkeys(registries)), default)


def _listening(configuration: Configuration) -> Target | None:
    """Where the proxy of this configuration is reached from its own machine; None where it does not say."""
    import ipaddress

    from proxy.clients.traps.node import Target

    try:
        anywhere = ipaddress.ip_address(configuration.listen.host).is_unspecified
    except ValueError:
        anywhere = False
    if anywhere or not configuration.listen.port:
        return None
    return Target.parse(f"{'http' if configuration.settings.tls is None else 'https'}://{configuration.listen}")


# -- the canary -----------------------------------------------------------------------------------------------------------


def _canary(node: Node, expected: Expected, clients: tuple[str, ...], baits: list[str], authority: Path | None) -> list[Report]:
    from proxy.clients.canary import Canary
    from proxy.clients.canary_clients import ProxyItself, Subprocesses, drivers
    from storage.errors import MalformedName
    from storage.reference import DOCKER_HUB, Reference

    for bait in baits:
        try:
            Reference.parse(bait)
        except MalformedName as error:
            common.fail(f"--bait: {error}", common.USAGE)
    environment = dict(node.environment)
    if not node.live and node.exists("/etc/containers/registries.conf"):
        environment.setdefault("CONTAINERS_REGISTRIES_CONF", str(node.path("/etc/containers/registries.conf")))
    run = Subprocesses(environment)
    proxy = expected.proxies[0]
    trial = Canary(expected, run, ProxyItself(proxy, expected, authority))
    registries = expected.registries or (DOCKER_HUB,)
    # Programs are this machine's, whatever root is examined.
    programs = type(node)(Path("/"), node.assumed, node.environment)
    reports: list[Report] = []
    for driver in drivers(node, programs, run, clients):
        reports += trial.try_out(driver, registries, baits)
    return reports


# -- what is told ---------------------------------------------------------------------------------------------------------


def _code(examination: Examination, reports: list[Report], *, canary: bool) -> int:
    verdicts = {report.verdict.value for report in reports}
    if examination.trapped or "open" in verdicts:
        return common.REFUSED
    untold = not examination.clients or examination.troubles or "unknown" in verdicts or (canary and not reports)
    return common.UNKNOWN if untold else 0


def _place(finding: Finding) -> str:
    return f"{finding.file}:{finding.line}" if finding.line else finding.file


def _lines(node: Node, expected: Expected, examination: Examination, reports: list[Report], *, canary: bool) -> list[str]:
    from proxy.clients.traps.node import shown_version

    def named(client: str) -> str:
        version = node.version(client)
        return client if version is None else f"{client} {shown_version(version)}"

    wanted = ", ".join(expected.registries) or "whatever registries the files name"
    lines = [f"proxy      {', '.join(map(str, expected.proxies))}", f"registries {wanted}"]
    lines.append(f"clients    {', '.join(map(named, examination.clients)) or 'none found'}")
    for finding in examination.findings:
        trap = finding.trap
        lines += [
            "",
            f"{_place(finding)}: {trap.effect.value.upper()} {trap.id}",
            f"  {trap.title}",
            f"  found:   {finding.what}",
        ]
        lines += [f"  happens: {trap.happens}", f"  mend:    {trap.mend}"]
    for trouble in examination.troubles:
        lines += ["", f"{_place(trouble)}: NOT EXAMINED", f"  {trouble.what}"]
    for report in reports:
        lines += ["", f"{report.client} pull {report.reference}: {report.verdict.value.upper()}", f"  {report.why}"]
        lines += [f"  it said: {report.said}"] if report.said else []
    if canary and not reports:
        lines += ["", "canary: none of the clients has a program here to pull with"]
    return [*lines, "", _summary(examination, reports)]


def _summary(examination: Examination, reports: list[Report]) -> str:
    traps = [finding for finding in examination.findings if finding.trap.effect.value != "advice"]
    opened = [report for report in reports if report.verdict.value == "open"]
    told = [f"{len(traps)} trap{'' if len(traps) == 1 else 's'} found" if traps else "no traps found"]
    untold = [report for report in reports if report.verdict.value == "unknown"]
    if opened:
        told.append(f"{len(opened)} of {len(reports)} pulls went around the proxy")
    elif len(untold) < len(reports):
        told.append("no pull went around the proxy")
    if untold:
        told.append(f"{len(untold)} of {len(reports)} pulls could not tell")
    if examination.troubles:
        told.append(f"{len(examination.troubles)} not examined")
    return "; ".join(told)


def _json(node: Node, expected: Expected, examination: Examination, reports: list[Report]) -> dict[str, object]:
    from proxy.clients.traps.node import shown_version

    def version(client: str) -> str | None:
        known = node.version(client)
        return None if known is None else shown_version(known)

    return {
        "root": str(node.root),
        "proxies": [str(each) for each in expected.proxies],
        "registries": list(expected.registries),
        "clients": [{"client": name, "version": version(name)} for name in examination.clients],
        "files": list(examination.files),
        "sound": _code(examination, reports, canary=False) == 0,
        "findings": [
            {
                "trap": finding.id,
                "client": finding.trap.client,
                "effect": finding.trap.effect.value,
                "file": finding.file,
                "line": finding.line or None,
                "found": finding.what,
                "title": finding.trap.title,
                "happens": finding.trap.happens,
                "mend": finding.trap.mend,
            }
            for finding in examination.findings
        ],
        "not_examined": [{"file": each.file, "line": each.line or None, "why": each.what} for each in examination.troubles],
        "canary": [
            {
                "client": report.client,
                "image": report.reference,
                "verdict": report.verdict.value,
                "why": report.why,
                "said": report.said,
                "asked": None if report.asked is None else list(report.asked),
            }
            for report in reports
        ],
    }
