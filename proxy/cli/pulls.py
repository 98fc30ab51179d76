"""``tagstone pulls``: which clients were handed what, when, and by which tag."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, DataDirOption, JsonOption
from proxy.cli.pins import parse_digest
from proxy.configuration import Configuration
from storage.digest import Digest
from storage.records import PullRecord
from storage.reference import Reference

#: Columns where nobody looks at a terminal.
_WIDE = 500


def pulls(
    digest: Annotated[
        str | None,
        typer.Option(
            "--digest", help="Who was handed this digest, or a manifest that reaches it: an index, an image.", show_default=False
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", help="Who was handed this image: registry/repository[:tag]\\[@digest].", show_default=False),
    ] = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only since then: 2h, 7d, or a date or time.", show_default=False)
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="At most so many records, the newest.")] = 1000,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tell which clients were handed an image, when, and by which tag.

    A client that has an image already may ask for its digest alone: that counts as resolved. Exit code 1 where nobody was.
    """
    configuration = common.load(config, data_dir)
    wanted = None if digest is None else parse_digest(digest)
    reference = None if image is None else image_of(image, configuration)
    if reference is not None and reference.digest is not None:
        if wanted not in {None, reference.digest}:
            common.fail(f"--digest {wanted} and --image {image} name two digests", common.USAGE)
        wanted = reference.digest
    start = None if since is None else moment_of(since)
    found = common.run(lambda: _find(configuration, data_dir, wanted, reference, start, limit))
    if as_json:
        common.show_json({"pulls": [_json(record) for record in found], "complete": len(found) < limit})
    else:
        _show(found, complete=len(found) < limit)
    if not found:
        raise typer.Exit(common.REFUSED)


def image_of(text: str, configuration: Configuration) -> Reference:
    """As everywhere, but that an image without a tag means all of its tags."""
    reference = common.parse_reference(text, configuration)
    named = ":" in text.rpartition("/")[2].partition("@")[0]
    return Reference(reference.repository, reference.tag if named else None, reference.digest)


def moment_of(text: str) -> datetime:
    """A moment, or how long ago it was; ends with 2 for anything else."""
    from proxy.schema import parse_duration, parse_start

    try:
        return datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    except ValueError:
        pass  # then it is a moment
    try:
        start: datetime = parse_start(text)
    except ValueError:
        common.fail(f"--since {text}: write how long ago (90m, 2h, 7d), a date (2026-01-31) or a time (2026-01-31T12:00:00Z)", 2)
    return start


async def _find(
    configuration: Configuration,
    data_dir: Path | None,
    digest: Digest | None,
    reference: Reference | None,
    since: datetime | None,
    limit: int,
) -> list[PullRecord]:
    from storage.pulls import PullStore

    async with common.records(configuration, data_dir) as records:
        repository, tag = (None, None) if reference is None else (reference.repository, reference.tag)
        return await PullStore(records.database).find(digest=digest, repository=repository, tag=tag, since=since, limit=limit)


def _json(record: PullRecord) -> dict[str, Any]:
    return {
        "registry": record.repository.registry,
        "repository": record.repository.name,
        "tag": record.tag,
        "digest": str(record.digest),
        "contains": record.contains,
        "principal": record.principal,
        "address": record.address,
        "agent": record.agent,
        "first": common.moment(record.first_at),
        "last": common.moment(record.last_at),
        "fetched": record.fetched,
        "resolved": record.resolved,
    }


def _show(found: list[PullRecord], *, complete: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("last", "who", "address", "agent", "image", "digest", "fetched", "resolved"):
        table.add_column(name, justify="right" if name in {"fetched", "resolved"} else "left", overflow="fold")
    for record in found:
        table.add_row(
            common.moment(record.last_at),
            common.plain(record.principal),
            record.address or "-",
            common.plain(record.agent) or "-",
            str(Reference(record.repository, record.tag)),
            record.digest.short + (" (reaches it)" if record.contains else ""),
            str(record.fetched),
            str(record.resolved),
        )
    Console(width=None if sys.stdout.isatty() else _WIDE, markup=False, highlight=False).print(table)
    clients = {(record.principal, record.address, record.agent) for record in found}
    more = "" if complete else "; there are more: --limit, --since"
    print(f"{len(found)} record{'' if len(found) == 1 else 's'} of {len(clients)} client{'' if len(clients) == 1 else 's'}{more}")
