"""``tagstone client``: the configuration that makes a container client pull through Tagstone and through nothing else."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, JsonOption
from proxy.clients.kinds import Client, Store

if TYPE_CHECKING:
    from proxy.clients.install import Installed, Plan
    from proxy.clients.model import Rendering, Wish
    from proxy.configuration import Configuration

_LONGEST_AUTHORITY = 1 << 20


def client(
    name: Annotated[Client, typer.Argument(metavar="CLIENT", help="One of: " + ", ".join(Client) + ".", show_default=False)],
    registries: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REGISTRY]...", help="Registries to send to Tagstone. Default: every configured upstream."),
    ] = None,
    more: Annotated[
        list[str] | None, typer.Option("--registry", metavar="REGISTRY", help="The same as an option.", show_default=False)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all-registries", help="Send every other registry to Tagstone, too, which then refuses it.")
    ] = False,
    proxy: Annotated[
        str | None,
        typer.Option(
            "--proxy",
            metavar="URL",
            help="Where the client reaches Tagstone. Default: guessed from `listen`.",
            show_default=False,
        ),
    ] = None,
    authority: Annotated[
        Path | None,
        typer.Option("--ca", metavar="FILE", help="Certificates (PEM) by which Tagstone's own is checked.", show_default=False),
    ] = None,
    release: Annotated[
        str | None,
        typer.Option(
            "--client-version",
            metavar="VERSION",
            help="Version of the client. Default: a form that works for every version that is covered.",
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        Store | None, typer.Option("--store", help="docker: the image store. Default: what its version starts with.")
    ] = None,
    write: Annotated[
        Path | None,
        typer.Option("--write", metavar="DIR", help="Install below DIR (`/` for this machine).", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --write: show what would change, and change nothing.")] = False,
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print a client's configuration that fails closed, or install it. Exit 1: a file is in the way, and nothing was written."""
    from proxy.clients.rendering import render_client

    if dry_run and write is None:
        common.fail("--dry-run shows what --write would change: name the folder with --write, `/` for this machine", common.USAGE)
    named = [*(registries or ()), *(more or ())]
    configuration = _load(config, optional=bool(named or everything) and proxy is not None)
    wish, told = _wish(configuration, name, named, proxy, authority, release, store, everything)
    try:
        rendering = render_client(wish)
    except ValueError as error:
        common.fail(str(error), common.USAGE)
    warnings = (*told, *rendering.warnings)
    if write is None:
        _show(rendering, warnings, as_json=as_json)
        return
    plan = _prepare(rendering, write)
    installed: tuple[Installed, ...] = ()
    if not dry_run:
        installed = _install(plan)
    _report(rendering, plan, installed, (*warnings, *plan.warnings), dry_run=dry_run, as_json=as_json)


def _load(config: Path | None, *, optional: bool) -> Configuration | None:
    """The configuration; None where none is named and none is there, and nothing of it is needed."""
    from proxy import configuration
    from proxy.errors import ConfigurationError

    if optional and config is None:
        try:
            configuration.find(None)
        except ConfigurationError:
            return None
    return common.load(config)


def _wish(
    configuration: Configuration | None,
    client: Client,
    named: list[str],
    proxy: str | None,
    authority: Path | None,
    release: str | None,
    store: Store | None,
    everything: bool,
) -> tuple[Wish, tuple[str, ...]]:
    """What is wished for, and what to say about it; ends with 2 where it makes no sense."""
    from proxy.clients.endpoint import Endpoint, Release
    from proxy.clients.model import Wish
    from storage.errors import MalformedName

    told: list[str] = []
    known = () if configuration is None else sorted(configuration.upstreams)
    try:
        if proxy is None and configuration is not None:
            endpoint = Endpoint.guess(configuration.listen, socket.gethostname(), tls=configuration.settings.tls is not None)
            told.append(f"the address {endpoint.url} is a guess from `listen: {configuration.listen}`; name it with --proxy")
        else:
            endpoint = Endpoint.parse(proxy or "")
        wish = Wish(
            client,
            endpoint,
            tuple(named or known),
            None if release is None else Release.parse(release),
            None if authority is None else _authority(authority),
            everything,
            store,
        )
    except (MalformedName, ValueError) as error:
        common.fail(str(error), common.USAGE)
    if configuration is None:
        return wish, tuple(told)
    told += [
        f"{registry} is no upstream in {configuration.path}: every pull from it will be refused"
        for registry in wish.registries
        if registry not in known
    ]
    tls = configuration.settings.tls
    if tls is not None and tls.client_ca is not None and tls.client_certificates == "required":
        told.append("Tagstone turns away clients without a certificate (tls.client_certificates): add the client's by hand")
    return wish, tuple(told)


def _authority(path: Path) -> str:
    """The certificates in a file, and nothing else that may stand there (a private key, say). Raises ValueError."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        with path.open("rb") as opened:
            content = opened.read(_LONGEST_AUTHORITY + 1)
        if len(content) > _LONGEST_AUTHORITY:
            raise ValueError(f"{path} has more than {_LONGEST_AUTHORITY} bytes")
        certificates = x509.load_pem_x509_certificates(content)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, x509.InvalidVersion) as error:
        raise ValueError(f"{path} holds no certificates in PEM form: {error}") from error
    return "".join(certificate.public_bytes(Encoding.PEM).decode() for certificate in certificates)


def _prepare(rendering: Rendering, root: Path) -> Plan:
    from proxy.clients.install import CannotInstall, prepare

    if not root.is_dir():
        common.fail(f"{root} is no folder; --write takes the folder that stands for the client's `/`", common.USAGE)
    try:
        return prepare(rendering, root)
    except CannotInstall as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        common.fail("nothing was written; change what stands above and run this again", common.REFUSED)


def _install(plan: Plan) -> tuple[Installed, ...]:
    from proxy.clients.install import apply

    try:
        return apply(plan)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        common.fail(f"{place}{error.strerror or error}; everything is as it was before", common.REFUSED)


def _content(rendering: Rendering, warnings: tuple[str, ...]) -> dict[str, object]:
    return {
        "client": rendering.client.value,
        "covers": rendering.covers,
        "files": [{"path": str(file.path), "content": file.content} for file in rendering.files],
        "warnings": list(warnings),
        "steps": list(rendering.steps),
        "proof": {"command": rendering.proof.command, "expect": rendering.proof.expect},
    }


def _show(rendering: Rendering, warnings: tuple[str, ...], *, as_json: bool) -> None:
    if as_json:
        common.show_json(_content(rendering, warnings))
        return
    print(f"# Configuration of {rendering.client} that pulls through Tagstone and through nothing else.")
    print(f"# For {rendering.covers}.")
    for line in _told(rendering, warnings):
        print(f"# {line}")
    for file in rendering.files:
        print(f"\n# ---- {file.path}\n{file.content}", end="" if file.content.endswith("\n") else "\n")


def _told(rendering: Rendering, warnings: tuple[str, ...]) -> list[str]:
    return [
        *(f"Warning: {warning}." for warning in warnings),
        *(f"Then: {step}." for step in rendering.steps),
        f"Proof: {rendering.proof.command}",
        f"       {rendering.proof.expect}.",
    ]


def _report(
    rendering: Rendering,
    plan: Plan,
    installed: tuple[Installed, ...],
    warnings: tuple[str, ...],
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    if as_json:
        changed = [str(change.path) for change in plan.changes if change.needed]
        written = [{"path": str(each.path), "backup": None if each.backup is None else str(each.backup)} for each in installed]
        common.show_json({**_content(rendering, warnings), "changes": changed, "diff": plan.diff(), "written": written})
        return
    if dry_run:
        print(plan.diff(), end="")
    for each in installed:
        kept = "" if each.backup is None else f" (before: {each.backup})"
        print(f"written {each.path}{kept}")
    if not any(change.needed for change in plan.changes):
        print("nothing to change: all of it is there")
    for line in _told(rendering, warnings):
        print(line)
