"""``tagstone drift``: the images that run, held against the pins, verdicts and blocks of a data directory."""

from __future__ import annotations

import asyncio
import json
import os
import platform
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, DataDirOption, JsonOption
from proxy.cli.drift_watch import LooksOption, RecordOption, WatchOption
from proxy.drift.standings import Finding, Names, Status, judge, mirrors, question
from proxy.errors import Unexaminable, WorkloadsMalformed
from proxy.policy.patterns import Pattern
from storage.errors import MalformedName, StorageError

if TYPE_CHECKING:
    from proxy.cli.common import House
    from proxy.cli.drift_sources import Source
    from proxy.cli.drift_told import Recorder
    from proxy.configuration import Configuration
    from proxy.drift.workloads import Inventory, Workload
    from storage.events import EventStore


def workloads(
    files: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[FILE]...",
            help="JSON of kubectl get pods, crictl ps, crictl images, docker inspect or podman inspect; - is standard input.",
            show_default=False,
        ),
    ] = None,
    command: Annotated[
        list[str] | None,
        typer.Option(
            "--command", metavar="COMMAND", help="Run this, without a shell, and read what it prints.", show_default=False
        ),
    ] = None,
    docker: Annotated[
        list[Path] | None,
        typer.Option("--docker", metavar="SOCKET", help="Ask docker's or podman's API on this socket.", show_default=False),
    ] = None,
    containerd: Annotated[
        list[Path] | None,
        typer.Option("--containerd", metavar="SOCKET", help="Ask containerd on this socket, by ctr.", show_default=False),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option("--ignore", metavar="GLOB", help="Leave out namespace/pod/container, or image, by this glob."),
    ] = None,
    accept: Annotated[
        list[Status] | None,
        typer.Option("--accept", help="Count this standing as approved, too.", show_default=False),
    ] = None,
    ended: Annotated[bool, typer.Option("--ended", help="Also what does not run any more, or not yet.")] = False,
    mirror: Annotated[
        list[str] | None,
        typer.Option("--mirror", metavar="HOST", help="A name under which nodes reach the proxy, besides those configured."),
    ] = None,
    origin: Annotated[
        str | None, typer.Option("--origin", help="Where this runs, in events. Default: this host's name.", show_default=False)
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds that a live source may take.")] = 60.0,
    watch: WatchOption = None,
    looks: LooksOption = None,
    record: RecordOption = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the images that run with those that are approved: a standing for each container.

    Exit 0: all approved; 1: something else; 2: usage or configuration; 3: could not tell.
    """
    from proxy.cli.drift_sources import Command, Containerd, Docker, Files

    sources: list[Source] = []
    if files:
        sources.append(Files(tuple(files)))
    try:
        sources += [Command.parse(each, timeout) for each in command or ()]
    except ValueError as error:
        common.fail(f"--command: {error}", common.USAGE)
    sources += [Docker(each, timeout, ended) for each in docker or ()]
    sources += [Containerd(each, timeout) for each in containerd or ()]
    if not sources:
        common.fail("name a FILE (- for standard input), --command, --docker or --containerd", common.USAGE)
    if watch is not None and files:
        common.fail("--watch asks again and again: give it --command, --docker or --containerd, not files", common.USAGE)
    configuration = common.load(config, data_dir)
    try:
        names = _names(configuration, mirror or [])
    except MalformedName as error:
        common.fail(f"--mirror: {error}", common.USAGE)
    choice = _Choice(tuple(map(Pattern.compile, ignore or ())), frozenset({Status.APPROVED, *(accept or ())}), ended)
    wanted = (watch is not None) if record is None else record
    about = _Watch(watch, looks, origin or platform.node() or "localhost", as_json)

    async def work() -> int:
        async with common.house(configuration, data_dir, dry=not wanted or not _writable(configuration, data_dir)) as house:
            events = _events(house, configuration, data_dir) if wanted else None
            return await _Drift(house, tuple(sources), names, choice, about, events).run()

    raise typer.Exit(common.run(work))


def _names(configuration: Configuration, more: list[str]) -> Names:
    from proxy.app import router_of

    known = mirrors(more)
    if configuration.reviews is not None and configuration.reviews.mirror is not None:
        known += (configuration.reviews.mirror,)
    return Names(router_of(configuration), known)


def _writable(configuration: Configuration, data_dir: Path | None) -> bool:
    from proxy.app import DATABASE

    root = data_dir or configuration.settings.data_dir
    return os.access(root / DATABASE, os.W_OK) and os.access(root, os.W_OK)


def _events(house: House, configuration: Configuration, data_dir: Path | None) -> EventStore | None:
    from storage.events import EventStore

    if not _writable(configuration, data_dir):
        common.warn("the data directory cannot be written to: no events are raised")
        return None
    return EventStore(house.database)


@dataclass(frozen=True, slots=True)
class _Choice:
    """What is looked at, and what of it is well."""

    ignore: tuple[Pattern, ...]
    accepted: frozenset[Status]
    ended: bool

    def takes(self, workload: Workload) -> bool:
        """Whether a workload is looked at."""
        return not any(each.matches(workload.name) or each.matches(workload.image) for each in self.ignore)


@dataclass(frozen=True, slots=True)
class _Watch:
    """How often is looked, and how it is told."""

    seconds: float | None
    looks: int | None
    origin: str
    as_json: bool


@dataclass(frozen=True, slots=True)
class Look:
    """All that runs at one time. ``trouble``: what could not be asked."""

    at: datetime
    findings: tuple[Finding, ...]
    accepted: frozenset[Status]
    ignored: int = 0
    ended: int = 0
    skipped: int = 0
    trouble: tuple[str, ...] = ()

    @property
    def drifted(self) -> tuple[Finding, ...]:
        """What is not as it should be, as far as that can be told."""
        return tuple(each for each in self.findings if each.status not in self.accepted and each.status is not Status.UNKNOWN)

    @property
    def result(self) -> str:
        """``drift``, else ``unknown`` where anything could not be told, else ``approved``."""
        if self.drifted:
            return "drift"
        untold = any(each.status is Status.UNKNOWN and each.status not in self.accepted for each in self.findings)
        nothing = self.skipped and not (self.findings or self.ignored or self.ended)  # such as a list of deployments
        return "unknown" if untold or self.trouble or nothing else "approved"

    def beside(self, before: Look) -> Look:
        """With what ``before`` had of whatever could not be asked: nobody knows that it is gone, or well."""
        told = {each.workload.key for each in self.findings}
        return replace(self, findings=(*self.findings, *(each for each in before.findings if each.workload.key not in told)))

    @property
    def exit_code(self) -> int:
        """For scripts."""
        return {"approved": 0, "drift": common.REFUSED, "unknown": common.UNKNOWN}[self.result]


@dataclass(slots=True)
class _Drift:
    """Looks at what runs, once or again and again."""

    house: House
    sources: tuple[Source, ...]
    names: Names
    choice: _Choice
    about: _Watch
    events: EventStore | None
    _recorder: Recorder | None = field(default=None, init=False)

    async def run(self) -> int:
        """The exit code, which is that of the last look."""
        from proxy.cli.drift_told import Recorder, changes, document, news, show, tell

        if self.events is not None:
            self._recorder = await Recorder.over(self.events, self.about.origin)
        before = await self._look()
        if self.about.as_json and self.about.seconds is None:
            common.show_json(document(before))
        elif self.about.as_json:
            print(json.dumps(document(before)), flush=True)
        else:
            show(before)
        looks = 1
        while self.about.seconds is not None and (self.about.looks is None or looks < self.about.looks):
            await asyncio.sleep(self.about.seconds)
            looks += 1
            try:
                after = await self._look()
            except StorageError as error:
                after = Look(datetime.now(UTC), (), self.choice.accepted, trouble=(str(error),))
            if after.trouble:
                if after.trouble != before.trouble:
                    for line in after.trouble:
                        common.warn(common.plain(line))
                after = after.beside(before)
            appeared, over = changes(before, after)
            if appeared or over or (before.trouble and not after.trouble):
                if self.about.as_json:
                    print(json.dumps(news(after, appeared, over)), flush=True)
                else:
                    tell(after, appeared, over)
            before = after
        return before.exit_code

    async def _look(self) -> Look:
        """Ask every source, and the database about all of it at once. Raises StorageError."""
        at = datetime.now(UTC)
        found: list[Inventory] = []
        trouble: list[str] = []
        for source in self.sources:
            try:
                found.append(await source.ask())
            except (Unexaminable, WorkloadsMalformed) as error:
                trouble.append(f"{source}: {error}")
        inventory = await asyncio.to_thread(_together, found)
        running = [each for each in inventory if each.running or self.choice.ended]
        taken = [each for each in running if self.choice.takes(each)]
        findings = await self._judged(taken, at)
        skipped = sum(each.skipped for each in found)
        look = Look(
            at,
            findings,
            self.choice.accepted,
            len(running) - len(taken),
            len(inventory) - len(running),
            skipped,
            tuple(trouble),
        )
        if self._recorder is not None:
            await self._recorder.tell(look)
        return look

    async def _judged(self, taken: list[Workload], at: datetime) -> tuple[Finding, ...]:
        from storage.running import RunningStore

        store = RunningStore(self.house.database)
        nameless = {claim.digest for each in taken for claim in each.claims}
        places = await store.places(nameless)
        asked = await asyncio.to_thread(lambda: [question(each, self.names, places) for each in taken])
        named = {repository for each in asked for repository in each.repositories}
        rules = {repository: self.house.revision.rule(repository) for repository in named}
        fingerprints = {repository: rule.fingerprint for repository, rule in rules.items()}
        picture = await store.look({pair for each in asked for pair in each.pairs}, fingerprints, named)
        findings = await asyncio.to_thread(lambda: [judge(each, picture, rules.__getitem__, at) for each in asked])
        return tuple(sorted(findings, key=lambda each: (-list(Status).index(each.status), each.workload.name)))


def _together(found: list[Inventory]) -> tuple[Workload, ...]:
    from proxy.drift.workloads import Inventory

    return sum(found, Inventory()).complete()
