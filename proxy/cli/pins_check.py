"""``tagstone pins check``: what became of pinned tags, asked now."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, DataDirOption, JsonOption

if TYPE_CHECKING:
    from proxy.services.checks import Checked


def check(
    pattern: Annotated[
        str | None, typer.Argument(help='Only tags that match this glob, e.g. "docker.io/library/*:*".', show_default=False)
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask the upstreams now what pinned tags name, and record it as a pull or the watcher would.

    Exit 0: all are as they were; 1: something changed; 3: something could not be told, and nothing changed.
    """
    configuration = common.load(config, data_dir)

    async def work() -> Counter[str]:
        from proxy.services.revision import utc_now
        from proxy.services.watching.sweep import Sweep
        from storage.watching import WatchStore

        async with common.house(configuration, data_dir) as house:
            rates = {name: upstream.watch_rate for name, upstream in configuration.upstreams.items()}
            store, settings = WatchStore(house.database), configuration.settings.watch
            sweep = Sweep(house.gate, house.pins, store, house.upstreams, settings, rates, utc_now)
            counts: Counter[str] = Counter()
            shown: list[dict[str, object]] = []
            async for checked in sweep.run(pattern):
                counts[checked.result.value] += 1
                if as_json:
                    shown.append(check_json(checked))
                else:
                    print(_line(checked))
            await house.gate.judged()  # or the end of the command would leave candidates to the next pull
            if as_json:
                common.show_json({"checks": shown, "counts": dict(counts)})
            return counts

    counts = common.run(work)
    if not as_json:
        told = ", ".join(f"{count} {result}" for result, count in counts.most_common())
        print(f"{counts.total()} checked{': ' if told else ''}{told}")
    if pattern is not None and not counts:
        common.fail(common.NO_MATCH.format(pattern=pattern), common.UNKNOWN)
    raise typer.Exit(_exit(counts))


def check_json(checked: Checked) -> dict[str, object]:
    """A check as scripts read it."""
    pin = checked.pin
    return {
        "name": checked.name,
        "result": checked.result.value,
        "digest": None if pin is None else str(pin.digest),
        "candidate": None if pin is None or pin.candidate is None else str(pin.candidate),
        "message": checked.message,
    }


def _line(checked: Checked) -> str:
    from proxy.services.checks import QUIET

    line = f"{checked.result.value:<11} {checked.name}"
    return line if checked.result in QUIET else f"{line}\n            {common.plain(checked.message)}"


def _exit(counts: Counter[str]) -> int:
    from proxy.services.checks import QUIET, UNTOLD

    if set(counts) - QUIET - UNTOLD:
        return common.REFUSED
    return common.UNKNOWN if set(counts) & UNTOLD else 0
