"""``tagstone trust``: what is believed, and until when; and asking TUF repositories for newer roots."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, DataDirOption, JsonOption

if TYPE_CHECKING:
    from pathlib import Path

    from proxy.configuration import Configuration
    from proxy.services.inventory import Changes, Item, Standing
    from proxy.tuf.refresh import Ended
    from proxy.tuf.repository import TufRepository
    from proxy.tuf.state import State

app = typer.Typer(no_args_is_help=True, help="What is trusted, and until when; newer roots.")


@app.command()
def show(config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """List the keys, roots and trust stores of the configuration, with what is in them and until when it counts."""
    from proxy.services.inventory import inventory

    configuration, now = common.load(config, data_dir), datetime.now(UTC)
    items, standings = inventory(configuration.trusted), _standings(configuration)
    if as_json:
        common.show_json([*(_json(item, now) for item in items), *(_standing_json(each, now) for each in standings)])
        return
    if not items and not standings:
        print("nothing is trusted: there is no entry under trust in the configuration")
    lines: dict[str, list[str]] = {}
    for item in items:
        lines.setdefault(f"{item.section}.{item.name}", []).append(_line(item, now))
    for each in standings:
        lines.setdefault(f"roots.{each.root.name}", []).extend(_standing_lines(each, now))
    for entry, told in lines.items():
        print("\n".join((entry, *(f"  {line}" for line in told))))


@app.command()
def check(config: ConfigOption = None, data_dir: DataDirOption = None, as_json: JsonOption = False) -> None:
    """Say what of it has ended or ends soon, and which roots make no decisions.

    Exit 0: nothing to do; 1: something is told; 2: configuration.
    """
    from proxy.services.inventory import inventory, worth_telling

    configuration, now = common.load(config, data_dir), datetime.now(UTC)
    told = list(worth_telling(inventory(configuration.trusted), now))
    told += [line for each in _standings(configuration) for line in each.worth_telling(now)]
    if as_json:
        common.show_json({"told": told})
    else:
        for line in told or ("nothing ends within 30 days",):
            print(line)
    raise typer.Exit(common.REFUSED if told else 0)


@app.command()
def update(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Entries of trust.roots. Default: all that TUF refreshes.")
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask TUF repositories for newer roots now, and say what changed; running servers notice.

    Exit 0: all were refreshed; 1: a repository answered with what does not hold, so that nothing new is decided by its root;
    2: usage or configuration; 3: a repository could not be reached, or the answer not be stored.
    """
    from proxy.services.inventory import changes
    from proxy.tuf.refresh import Ended
    from storage.errors import StorageError

    configuration = common.load(config, data_dir)
    chosen = _chosen(names, configuration)
    repositories = {each.folder: each for each in configuration.repositories}
    wanted = {configuration.sources[name].repository.folder for name in chosen}
    where = data_dir or configuration.settings.data_dir
    _check_owner(where)
    try:
        done = {folder: _refresh(repositories[folder], where) for folder in wanted}
    except StorageError as error:
        common.fail(str(error), common.UNKNOWN)
    new = configuration.knowing({folder: state for folder, (_, state) in done.items()})
    code, told = 0, list[dict[str, object]]()
    for each in _standings(new):
        if each.root.name not in chosen:
            continue
        ended = done[each.repository.folder][0]
        differs = changes(configuration.trusted.roots[each.root.name], each.root)
        told.append(_updated_json(each, ended, differs))
        if not as_json:
            print("\n".join(_updated_lines(each, ended, differs)))
        if ended is Ended.REFUSED or (ended is Ended.REFRESHED and each.root.suspended is not None):
            code = common.REFUSED
        elif ended is not Ended.REFRESHED:
            code = code or common.UNKNOWN
    if as_json:
        common.show_json({"roots": told})
    elif not told:
        print("nothing here is refreshed by TUF: no entry under trust.roots is public-good or has a tuf repository")
    raise typer.Exit(code)


def _check_owner(data_dir: Path) -> None:
    """End where root would leave files in there that the servers cannot read: by that they would be without their root."""
    try:
        owner = data_dir.stat().st_uid
    except OSError:  # it is not there yet, or cannot be used, which is told when it is
        return
    if os.geteuid() == 0 and owner != 0:
        who = f"#{owner}"
        with suppress(KeyError):
            who = pwd.getpwuid(owner).pw_name
        told = f"{data_dir} belongs to user {who}, and so must what is stored in it"
        common.fail(f"{told}: run this as that user (sudo -u '{who}' tagstone trust update)", common.USAGE)


def _chosen(names: list[str] | None, configuration: Configuration) -> set[str]:
    for name in names or ():
        if name not in configuration.trusted.roots:
            known = ", ".join(sorted(configuration.sources)) or "none"
            common.fail(f"no root {name} under trust.roots; those that TUF refreshes: {known}", common.USAGE)
        if name not in configuration.sources:
            common.fail(f"the root {name} is made of files: TUF does not refresh it", common.USAGE)
    return set(names or configuration.sources)


def _refresh(repository: TufRepository, data_dir: Path) -> tuple[Ended, State]:
    from proxy.services.refresher import is_trusted_root
    from proxy.tuf.fetcher import Fetcher
    from proxy.tuf.refresh import PATIENCE, refresh

    with Fetcher(PATIENCE) as fetcher:
        return refresh(repository, data_dir, fetcher, is_trusted_root, wait=PATIENCE)


def _standings(configuration: Configuration) -> list[Standing]:
    from proxy.services.inventory import Standing

    return [
        Standing(configuration.trusted.roots[name], source.repository, configuration.states[source.repository.folder])
        for name, source in configuration.sources.items()
    ]


# -- for scripts ----------------------------------------------------------------------------------------------------


def _json(item: Item, now: datetime) -> dict[str, object]:
    return {
        "section": item.section,
        "name": item.name,
        "kind": item.kind,
        "what": item.what,
        "fingerprint": item.fingerprint,
        "valid_from": common.moment(item.valid_from),
        "valid_until": common.moment(item.valid_until),
        "state": item.state(now),
    }


def _standing_json(each: Standing, now: datetime) -> dict[str, object]:
    accepted, unreachable = each.known.accepted, each.known.unreachable
    return {
        "section": "roots",
        "name": each.root.name,
        "kind": "TUF metadata",
        "what": each.repository.url,
        "fingerprint": each.sha256,
        "valid_from": None if accepted is None else common.moment(accepted.at),
        "valid_until": None if accepted is None else common.moment(accepted.expires),
        "state": each.state(now),
        "source": each.source,
        "versions": None if accepted is None else _versions(each),
        "asked_at": common.moment(each.known.asked_at),
        "suspended": each.root.unusable(now),
        "unreachable": None if unreachable is None else str(unreachable),
    }


def _versions(each: Standing) -> dict[str, int]:
    assert each.known.accepted is not None
    versions = each.known.accepted.versions
    return {role: getattr(versions, role) for role in ("root", "timestamp", "snapshot", "targets")}


def _updated_json(each: Standing, ended: Ended, differs: Changes) -> dict[str, object]:
    now = datetime.now(UTC)
    groups = {"added": differs.added, "removed": differs.removed, "changed": differs.changed}
    lists = {word: [_json(item, now) for item in items] for word, items in groups.items()}
    return {"result": ended.value, **_standing_json(each, now), **lists}


# -- for people -----------------------------------------------------------------------------------------------------


def _line(item: Item, now: datetime) -> str:
    window = _window(item.valid_from, item.valid_until)
    return f"{item.kind:<30}{item.state(now):<10}{window:<26}{item.fingerprint[:16]}  {item.what}".rstrip()


def _standing_lines(each: Standing, now: datetime) -> list[str]:
    accepted = each.known.accepted
    window = "never refreshed" if accepted is None else _window(accepted.at, accepted.expires)
    versions = "" if accepted is None else f" (root {accepted.versions.root}, timestamp {accepted.versions.timestamp})"
    digest = (each.sha256 or "none yet")[:16]
    lines = [f"{'TUF metadata':<30}{each.state(now):<10}{window:<26}{digest:<16}  {each.repository.url}{versions}"]
    if (why := each.root.unusable(now)) is not None:
        lines.append(f"  {why}")
    if each.known.unreachable is not None:
        lines.append(f"  cannot be reached: {each.known.unreachable}")
    return lines


def _updated_lines(each: Standing, ended: Ended, differs: Changes) -> list[str]:
    known, now = each.known, datetime.now(UTC)
    line = f"roots.{each.root.name}: {ended.value}"
    match ended.value:
        case "refreshed":
            assert known.accepted is not None
            versions = f"root {known.accepted.versions.root}, timestamp {known.accepted.versions.timestamp}"
            line += f" from {each.repository.url} ({versions}), good until {known.accepted.expires:%Y-%m-%d %H:%M} UTC"
            line += "" if differs else "; nothing changed"
        case "unreachable":
            line += f": {known.unreachable}" + ("; the last good root counts on" if each.root.unusable(now) is None else "")
        case "skipped":
            line += f": somebody else is asking {each.repository.url}"
    lines = [line]
    if (why := each.root.unusable(now)) is not None:
        lines.append(f"  {why}")
    for sign, items in (("+", differs.added), ("-", differs.removed), ("~", differs.changed)):
        lines += [f"  {sign} {_line(item, now)}" for item in items]
    return lines


def _window(valid_from: datetime | None, valid_until: datetime | None) -> str:
    start, end = (None if each is None else f"{each.astimezone(UTC):%Y-%m-%d}" for each in (valid_from, valid_until))
    match start, end:
        case None, None:
            return "always"
        case _, None:
            return f"since {start}"
        case None, _:
            return f"until {end}"
        case _:
            return f"{start} to {end}"
