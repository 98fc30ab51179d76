"""``tagstone pins diff``: what is pinned and what the upstream names, side by side. Writes nothing, serves nothing."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, DataDirOption, House, JsonOption
from proxy.errors import UpstreamAbsent, UpstreamError
from storage.digest import Digest
from storage.errors import MalformedName
from storage.records import Severity
from storage.reference import Reference

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from proxy.configuration import Configuration
    from proxy.drift.between import FileChange
    from proxy.policy.changes import Change, Difference, PlatformChange
    from proxy.services.classification import Classifier
    from proxy.services.snapshots import Snapshots
    from storage.reference import Repository

#: Columns where the output is no terminal, which has none.
_WIDE = 160
_COLOUR = {Severity.INFO: "green", Severity.WARNING: "yellow", Severity.CRITICAL: "bold red"}
_FILE_MARK = {"added": "+", "removed": "-", "changed": "~"}
#: Files that are shown.
_FILES = 500
_MARK = {"same": " ", "before": "-", "after": "+"}


def diff(
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="registry/repository:tag, or registry/repository with --from, --to")
    ],
    before: Annotated[
        str | None, typer.Option("--from", metavar="DIGEST", help="Default: what is pinned.", show_default=False)
    ] = None,
    after: Annotated[
        str | None, typer.Option("--to", metavar="DIGEST", help="Default: what the upstream names instead.", show_default=False)
    ] = None,
    platform: Annotated[
        str | None,
        typer.Option("--platform", metavar="OS/ARCH", help="Show the details of this platform only.", show_default=False),
    ] = None,
    files: Annotated[
        bool, typer.Option("--files", help="Show which files differ, too. Layers that are not stored are fetched for it.")
    ] = False,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what changed between what is pinned and what the upstream names, side by side.

    Exit 0: nothing; 1: something; 2: usage or configuration; 3: could not tell (all of it).
    """
    configuration = common.load(config, data_dir)
    reference = common.parse_reference(image, configuration)
    asked = _Asked(reference, _digest(before), _digest(after) or reference.digest)

    async def work() -> tuple[Change | str, _Files | None]:
        async with common.house(configuration, data_dir, dry=True) as house:
            classifier = classifier_of(house)
            try:
                pair = await _pair(house, configuration, asked)
                if isinstance(pair, str):
                    return pair, None
                change = await classifier.of(reference.repository, *pair)
                if platform is not None:
                    change = _of_platform(change, platform)
                return change, await _listed(house, reference.repository, change) if files else None
            finally:
                await classifier.close()

    change, listed = common.run(work)
    if isinstance(change, str):
        if as_json:
            common.show_json({"image": image, "severity": None, "summary": change})
        else:
            print(change)
        raise typer.Exit(0)
    if as_json:
        from proxy.policy.changes import document_of

        told = {} if listed is None else {"files": listed.told()}
        common.show_json({"image": str(reference), **document_of(change), **told})
    else:
        labels = ("pinned" if asked.before is None else "from", "upstream" if asked.after is None else "to")
        _show(str(reference), change, labels)
        for line in () if listed is None else listed.lines():
            print(line)
    if listed is not None and listed.trouble:
        raise typer.Exit(common.UNKNOWN)
    known_different = any(kind != "not-known-yet" for kind in change.kinds)
    raise typer.Exit(1 if known_different else 0 if change.settled else common.UNKNOWN)


@dataclass(frozen=True, slots=True)
class _Asked:
    reference: Reference
    before: Digest | None
    after: Digest | None


@dataclass(frozen=True, slots=True)
class _Files:
    """Which files differ for one platform, or why that cannot be said."""

    platform: str
    changes: tuple[FileChange, ...] = ()
    trouble: str = ""

    def told(self) -> dict[str, object]:
        """As scripts read it."""
        return {"platform": self.platform, "trouble": self.trouble or None, "changes": [each.told() for each in self.changes]}

    def lines(self) -> list[str]:
        """For people."""
        if self.trouble:
            return ["", f"files: cannot be told: {self.trouble}"]
        shown = [f"  {_FILE_MARK[each.mark]} {each.path}  {each.what}" for each in self.changes[:_FILES]]
        more = [f"  and {len(self.changes) - _FILES} more (--json has all)"] if len(self.changes) > _FILES else []
        differ = "1 file differs" if len(self.changes) == 1 else f"{len(self.changes)} files differ"
        return ["", f"{self.platform or 'image'}: {differ}", *shown, *more]


async def _listed(house: House, repository: Repository, change: Change) -> _Files:
    from proxy.cli.pins_files import FileLists, Unlisted, chosen

    one = chosen(change.platforms)
    if one is None:
        those = ", ".join(each.platform or "the image" for each in change.platforms)
        told = f"say which platform's: --platform ({those})" if those else "no image differs"
        return _Files("", trouble=told)
    try:
        return _Files(one.platform, tuple(await FileLists(house, snapshots_of(house), repository).between(one)))
    except Unlisted as error:
        return _Files(one.platform, trouble=str(error))


def snapshots_of(house: House) -> Snapshots:
    """What reads images for comparison."""
    from proxy.services.snapshots import Snapshots

    return Snapshots(house.catalog, house.admission.holdings, house.blobs)


def classifier_of(house: House) -> Classifier:
    """What compares, with what is kept of earlier comparisons; keeps nothing itself."""
    from proxy.services.classification import Classifier
    from proxy.services.revision import utc_now
    from storage.classifications import ClassificationStore

    return Classifier(ClassificationStore(house.database), snapshots_of(house), house.revision, utc_now, record=False)


async def _pair(house: House, configuration: Configuration, asked: _Asked) -> tuple[Digest, Digest] | str:
    """The two digests, or why there is nothing to compare; ends with an exit code where that cannot be told."""
    reference, before, after = asked.reference, asked.before, asked.after
    tag = reference.tag or "latest"
    name = f"{reference.repository}:{tag}"
    pin = await house.pins.get(reference.repository, tag)
    if before is None:
        if pin is None:
            common.fail(f"{name} is not pinned; say what to compare with: --from DIGEST", common.USAGE)
        before = pin.digest
    if after is None and pin is not None and pin.candidate is not None:
        after = pin.candidate
    if after is None:
        if reference.repository.registry not in configuration.upstreams:
            common.fail(f"the registry {reference.repository.registry} is not configured; say --to DIGEST", common.USAGE)
        try:
            after = (await house.upstreams.manifest(reference.repository, tag)).digest
        except UpstreamAbsent:
            common.fail(f"{name} does not exist upstream; say what to compare with: --to DIGEST", common.UNKNOWN)
        except UpstreamError as error:
            common.fail(f"what {name} names upstream cannot be told now: {error}", common.UNKNOWN)
    if before == after:
        return f"{name}: nothing differs; {before} on both sides"
    return before, after


def _digest(text: str | None) -> Digest | None:
    if text is None:
        return None
    try:
        return Digest.parse(text)
    except MalformedName as error:
        common.fail(str(error), common.USAGE)


def _of_platform(change: Change, text: str) -> Change:
    from proxy.policy.changes import canonical

    wanted = canonical(text)
    there = sorted({each.platform for each in change.platforms} | set(change.same))
    if wanted not in there:
        common.fail(f"--platform {text}: neither image has it; they have {', '.join(there) or 'none'}", common.USAGE)
    return change.only(wanted)


# -- for people -----------------------------------------------------------------------------------------------------


def _show(name: str, change: Change, labels: tuple[str, str]) -> None:
    """``labels``: what the two sides are called."""
    from rich.console import Console
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else _WIDE, markup=False, highlight=False)
    console.print(Text(name, "bold"))
    for label, digest in zip(labels, (change.before, change.after), strict=True):
        console.print(f"  {label:<9} {digest}")
    style = "" if change.severity is None else _COLOUR[change.severity]
    console.print(Text.assemble("  ", (change.summary, style)))
    for line in change.lines:
        console.print(Text(f"    - {line}"))
    for line in change.unknown:
        console.print(Text(f"  not known yet: {line}", "yellow"))
    if change.differences:
        console.print(_fields("image", labels, change.differences))
    for each in change.platforms:
        _platform(console, labels, each)
    if change.same:
        console.print(Text(f"  the same on both sides: {', '.join(each or 'the image' for each in change.same)}"))


def _platform(console: Console, labels: tuple[str, str], one: PlatformChange) -> None:
    from rich.text import Text

    ends = "added" if one.before is None else "removed" if one.after is None else ", ".join(one.kinds)
    console.print()
    console.print(Text.assemble((one.platform or "image", "bold"), f": {ends}"))
    if one.differences:
        console.print(_fields("", labels, one.differences))
    if one.layers:
        console.print(_layers(one))


def _fields(title: str, labels: tuple[str, str], differences: tuple[Difference, ...]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in (title, *labels):
        table.add_column(column, overflow="fold")
    for each in differences:
        table.add_row(*(Text("-" if text is None else text) for text in (each.name, each.before, each.after)))
    return table


def _layers(one: PlatformChange) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from proxy.policy.changes.words import size

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in ("", "layer", "size", "made by"):
        table.add_column(column, overflow="fold", justify="right" if column == "size" else "left")
    styles = {"same": "dim", "before": "red", "after": "green"}
    for line in one.layers:
        cells = (_MARK[line.side], line.digest.short, size(line.size), line.command)
        table.add_row(*(Text(cell, styles[line.side]) for cell in cells))
    return table
