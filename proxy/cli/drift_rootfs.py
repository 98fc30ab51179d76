"""``tagstone drift rootfs``: a container's root filesystem held against the verified layers of its image."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, DataDirOption, JsonOption
from proxy.cli.drift_watch import LooksOption, PlatformOption, RecordOption, WatchOption

if TYPE_CHECKING:
    from contextlib import AsyncExitStack

    from proxy.cli.drift_image import Images
    from proxy.cli.drift_report import Look
    from proxy.drift.compare import Executable, Report
    from proxy.drift.rootfs import Options
    from proxy.drift.tree import FileList


def rootfs(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="registry/repository:tag, or registry/repository@digest")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The merged root: a mounted snapshot, or /proc/PID/root.")],
    platform: PlatformOption = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore",
            metavar="GLOB",
            help="Leave out what matches, and all below it: from the root with a leading slash, else at any depth.",
        ),
    ] = None,
    ignore_file: Annotated[
        list[Path] | None, typer.Option("--ignore-file", metavar="FILE", help="The same, one glob a line.")
    ] = None,
    default_ignores: Annotated[
        bool, typer.Option("--default-ignores/--no-default-ignores", help="Leave out what runtimes write themselves.")
    ] = True,
    owners: Annotated[bool, typer.Option("--owners/--no-owners", help="Compare owners.")] = True,
    cross_mounts: Annotated[
        bool, typer.Option("--cross-mounts", help="Look below mount points, too (never /dev, /proc, /sys).")
    ] = False,
    watch: WatchOption = None,
    looks: LooksOption = None,
    record: RecordOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a root filesystem with the image's verified layers: what was added or changed, what is missing.

    Exit 0: clean; 1: drift; 2: usage or configuration; 3: could not tell.
    """
    from proxy.cli.drift_progress import Progress
    from proxy.cli.drift_report import Subject
    from proxy.cli.drift_watch import Looker, Watching, examine
    from proxy.drift.disk import Disk

    configuration = common.load(config, data_dir)
    reference = common.parse_reference(image, configuration)
    options = _options(ignore or [], ignore_file or [], defaults=default_ignores, owners=owners, cross=cross_mounts)

    async def prepare(source: Images, _: AsyncExitStack) -> tuple[Subject, Looker]:
        with Progress() as progress, Disk.open(path) as disk:
            approved = await source.approved(reference, platform)
            files = await source.file_list(approved, disk, progress.layers)
        return Subject("rootfs", approved, str(path)), _Seer(path, files, options, lambda: source.sboms(approved)).look

    examine(configuration, data_dir, prepare, Watching(watch, looks, record, as_json))


def _options(patterns: list[str], files: list[Path], *, defaults: bool, owners: bool, cross: bool) -> Options:
    from proxy.drift.ignores import DEFAULTS, MAX_FILE, of_operator, read_patterns
    from proxy.drift.rootfs import Options

    for file in files:
        try:
            with file.open("rb") as opened:
                body = opened.read(MAX_FILE + 1)
            if len(body) > MAX_FILE:
                raise ValueError(f"it has more than {MAX_FILE} bytes")
            patterns = [*patterns, *read_patterns(body.decode())]
        except OSError as error:
            common.fail(f"{file} cannot be read: {error.strerror or error}", common.USAGE)
        except ValueError as error:
            common.fail(f"{file} cannot be read: {error}", common.USAGE)
    return Options((*of_operator(patterns), *(DEFAULTS if defaults else ())), owners=owners, cross=cross)


class _Seer:
    """Looks at one root."""

    def __init__(
        self,
        path: Path,
        files: FileList,
        options: Options,
        sboms: Callable[[], Awaitable[tuple[Mapping[bytes, str], tuple[str, ...]]]],
    ) -> None:
        self._path = path
        self._files = files
        self._options = options
        self._ask = sboms
        self._sboms: Mapping[bytes, str] | None = None  #: None: nobody asked yet

    async def look(self) -> Look:
        """Look once. Raises :class:`Unexaminable`."""
        from proxy.cli.drift_image import in_thread
        from proxy.cli.drift_progress import Progress
        from proxy.drift.disk import Disk
        from proxy.drift.rootfs import Examination

        with Disk.open(self._path) as disk, Progress() as progress:
            examination = Examination(disk, self._files, self._options, progress.entries)
            report = await in_thread(examination.run, examination.stop)
        return self._told(report, [await self._annotated(executable) for executable in report.executables])

    async def _annotated(self, executable: Executable) -> Executable:
        """With the SBOM that lists it, if one does. SBOMs are read when there is something to look up."""
        if self._sboms is None:
            self._sboms, troubles = await self._ask()
            for trouble in troubles:
                common.warn(trouble)
        return replace(executable, sbom=None if executable.sha256 is None else self._sboms.get(executable.sha256))

    @staticmethod
    def _told(report: Report, executables: Sequence[Executable]) -> Look:
        from proxy.cli.drift_report import Look
        from proxy.drift.names import absolute

        ignored = [{"pattern": each.text, "reason": each.reason, "count": count} for each, count in report.ignored.items()]
        document: dict[str, object] = {
            "executables": [executable.told() for executable in executables],
            "mounts": [absolute(path) for path in report.mounts],
            "ignored": ignored,
            "entries": report.entries,
            "hashed": report.hashed,
            "truncated": report.truncated,
        }
        lines = []
        for each in executables:
            noted = f", listed by the SBOM {each.sbom}" if each.sbom else ""
            lines.append(f"no layer knows  {absolute(each.path)}  {each.kind}{noted}")
        if report.mounts:
            lines.append(f"not looked below {len(report.mounts)} mounts: {' '.join(map(absolute, report.mounts))}")
        lines += [f"left out: {count} by {each.text} ({each.reason})" for each, count in report.ignored.items()]
        lines.append(f"{report.entries} entries, {report.hashed} bytes hashed")
        return Look(datetime.now(UTC), report.findings, report.unread, document, lines)
