"""``tagstone ledger watch``: remember what another proxy signed, and say so when it is not true any more."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common

if TYPE_CHECKING:
    from collections.abc import Sequence

    from proxy.services.monitor import Look
    from storage.entries import Entry
    from storage.notes import VerifierKey

_ALARM = "ALARM: the ledger at {url} cannot be believed"


def watch(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the ledger is, such as https://mirror.example:5001/ledger.")],
    key: Annotated[
        list[str] | None,
        typer.Option("--key", help="Its verifier key, or a file with it; needed at the first time.", show_default=False),
    ] = None,
    state: Annotated[Path, typer.Option("--state", help="File in which its checkpoints are kept.")] = Path("ledger.watch"),
    interval: Annotated[str, typer.Option("--interval", help="How often to look: 30s, 5m.")] = "60s",
    once: Annotated[bool, typer.Option("--once", help="Look once; exit code 3 where it does not answer.")] = False,
    entries: Annotated[bool, typer.Option("--entries", help="Print every new entry.")] = False,
    ca: Annotated[
        Path | None, typer.Option("--ca", help="PEM file with the authorities for its TLS.", show_default=False)
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with one of its admin.tokens.", show_default=False)
    ] = None,
) -> None:
    """Keep the checkpoints of another proxy, and prove that each extends the one before.

    Ends with exit code 1, and an alarm, where one does not: the log was rolled back, or written anew. Both notes are kept in the
    state file; together they prove it to anybody.
    """
    from proxy.cli.ledger import read_keys
    from proxy.schema import parse_timeout

    try:
        pause: float = parse_timeout(interval)
    except ValueError as error:
        common.fail(f"--interval {interval}: {error}", common.USAGE)
    if not url.startswith(("http://", "https://")):
        common.fail(f"{url} is no address: https://…/ledger", common.USAGE)
    keys = read_keys(key or ())
    try:
        token = None if token_file is None else token_file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        common.fail(f"--token-file {token_file}: {error}", common.USAGE)
    asyncio.run(_watch(url, keys, state, pause, ca, token, once=once, entries=entries))


async def _watch(
    url: str,
    keys: Sequence[VerifierKey],
    state: Path,
    pause: float,
    ca: Path | None,
    token: str | None,
    *,
    once: bool,
    entries: bool,
) -> None:
    from proxy.services.monitor import Forked, Monitor
    from proxy.services.revision import utc_now
    from proxy.upstream.tiledlog import LogUnreachable, TiledLog
    from storage.watchbook import Watchbook, WatchbookUnusable

    try:
        async with TiledLog(url, ca=ca, token=token) as log:
            with Watchbook(state) as book:
                for each in keys:
                    book.trust(each, utc_now())
                if not book.keys:
                    common.fail(f"whose signatures count? Give --key, as tagstone ledger key prints it on {url}", common.USAGE)
                monitor = Monitor(log, book, utc_now, _print if entries else None)
                while True:
                    try:
                        _tell(await monitor.look())
                    except LogUnreachable as error:
                        if once:
                            common.fail(str(error), common.UNKNOWN)
                        common.warn(str(error))
                    if once:
                        return
                    await asyncio.sleep(pause)
    except Forked as error:
        common.warn(_ALARM.format(url=url))
        common.warn(common.plain(str(error)))
        common.warn(f"both notes are in {state}: keep that file, and ask whoever runs that proxy")
        raise typer.Exit(common.REFUSED) from error
    except WatchbookUnusable as error:
        common.fail(str(error), common.USAGE)
    except OSError as error:
        common.fail(f"--ca {ca}: {error.strerror or error}", common.USAGE)


def _tell(look: Look) -> None:
    now, before = look.now, look.before
    root = f"{now.size} entries, root {now.root.hex()[:16]}…"
    if before is None:
        print(f"{common.plain(now.origin)}: {root}; remembered", flush=True)
    elif before.size == now.size:
        print(f"{common.plain(now.origin)}: {root}; as before", flush=True)
    else:
        print(f"{common.plain(now.origin)}: {root}; extends the {before.size} of before", flush=True)


def _print(index: int, body: bytes, entry: Entry | None) -> None:
    from proxy.cli.ledger import print_entry

    if entry is None:
        print(f"{index:>7}  {common.plain(body.decode('utf-8', 'replace'))[:500]}", flush=True)
    else:
        print_entry(index, entry)
