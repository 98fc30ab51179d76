"""``tagstone drift processes``: what executes in a container, held against the verified layers of its image."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, DataDirOption, JsonOption
from proxy.cli.drift_container import Runtime
from proxy.cli.drift_watch import LooksOption, PlatformOption, RecordOption, WatchOption

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from proxy.cli.drift_image import Approved, Images
    from proxy.cli.drift_report import Look
    from proxy.drift.processes import ProcessReport
    from proxy.drift.tree import FileList
    from storage.reference import Reference


def processes(
    pid: Annotated[
        int | None, typer.Option("--pid", metavar="P", min=1, help="Any process of the container.", show_default=False)
    ] = None,
    container: Annotated[
        str | None, typer.Option("--container", metavar="ID", help="The container's ID or name.", show_default=False)
    ] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", metavar="IMAGE", help="What it should be. Default: what its runtime says.", show_default=False),
    ] = None,
    runtime: Annotated[Runtime, typer.Option("--runtime", help="Who is asked about the container.")] = Runtime.AUTO,
    allow_anonymous: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-anonymous",
            metavar="GLOB",
            help="Programs that compile at run time, by their paths: their executable memory is no finding.",
        ),
    ] = None,
    platform: PlatformOption = None,
    watch: WatchOption = None,
    looks: LooksOption = None,
    record: RecordOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare what executes in a container with its image's verified layers: programs, libraries, memory, scripts.

    Exit 0: clean; 1: drift; 2: usage or configuration; 3: could not tell.
    """
    from proxy.cli.drift_container import find, of_process, references
    from proxy.cli.drift_progress import Progress
    from proxy.cli.drift_report import Subject
    from proxy.cli.drift_watch import Looker, Watching, examine
    from proxy.drift.containers import Container
    from proxy.drift.disk import Disk
    from proxy.drift.group import PROC, held

    if (pid is None) == (container is None):
        common.fail("say which container: --pid P, or --container ID", common.USAGE)
    configuration = common.load(config, data_dir)
    named = None if image is None else common.parse_reference(image, configuration)

    def found() -> tuple[int, Sequence[Reference]]:
        if container is not None:
            known = find(container, runtime)
        else:
            known = Container(pid or 0) if named is not None else of_process(pid or 0, runtime)
        return known.pid, [named] if named is not None else references(known, configuration)

    async def prepare(source: Images, exits: AsyncExitStack) -> tuple[Subject, Looker]:
        process, candidates = await asyncio.to_thread(found)
        alive = exits.enter_context(held(process))
        with Progress() as progress, Disk.open(PROC / str(process) / "root") as disk:
            approved = await _approved(source, candidates, platform)
            files = await source.file_list(approved, disk, progress.layers)
        seer = _Seer(process, alive, files, tuple(allow_anonymous or ()))
        return Subject("processes", approved, container or f"pid {pid}"), seer.look

    examine(configuration, data_dir, prepare, Watching(watch, looks, record, as_json))


async def _approved(source: Images, candidates: Sequence[Reference], platform: str | None) -> Approved:
    """The first of the names that this data directory vouches for. Raises what the last one raises."""
    from proxy.errors import Unexaminable

    *others, last = candidates
    for each in others:
        try:
            return await source.approved(each, platform)
        except Unexaminable as error:
            common.warn(f"{error}; it is compared with {last}")
    return await source.approved(last, platform)


@dataclass(frozen=True, slots=True)
class _Seer:
    """Looks at the processes of one container. ``alive`` raises :class:`Unexaminable` once ``pid`` has ended."""

    pid: int
    alive: Callable[[], None]
    files: FileList
    anonymous: tuple[str, ...]

    async def look(self) -> Look:
        """Look once. Raises :class:`proxy.errors.Unexaminable`."""
        from proxy.cli.drift_image import in_thread
        from proxy.cli.drift_progress import Progress
        from proxy.drift.processes import Inspection

        self.alive()
        members = await asyncio.to_thread(_members, self.pid)
        with Progress() as progress:
            inspection = Inspection(members, self.files, self.anonymous, progress.processes)
            report = await in_thread(inspection.run, inspection.stop)
        return _told(report)


def _members(pid: int) -> tuple[int, ...]:
    import os

    from proxy.drift.group import everyone, group, identity
    from proxy.errors import Unexaminable

    own = identity(os.getpid())
    if own is None:
        raise Unexaminable("/proc does not show this process: is it mounted?")
    return group(pid, everyone(), own)


def _told(report: ProcessReport) -> Look:
    from proxy.cli.drift_report import Look

    document: dict[str, object] = {
        "processes": [running.told() for running in report.processes],
        "gone": list(report.gone),
        "hashed": report.hashed,
    }
    lines = [f"{len(report.processes)} processes, {report.hashed} bytes hashed"]
    if report.gone:
        lines.append(f"ended meanwhile: {' '.join(map(str, report.gone))}")
    return Look(datetime.now(UTC), report.findings, report.unread, document, lines)
