"""``tagstone pins verify``: whether what is pinned still passes, judged now."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, DataDirOption, JsonOption

if TYPE_CHECKING:
    from proxy.services.verifying.pins import Verified

#: An upstream that wants to be left alone for longer than so many seconds is not waited for.
PATIENCE = 10.0


def verify(
    pattern: Annotated[
        str | None, typer.Argument(help='Only tags that match this glob, e.g. "docker.io/library/*:*".', show_default=False)
    ] = None,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge again now what is pinned, by the evidence that the upstreams have, and record it as the verifier would.

    Exit 0: all pass; 1: some are refused, or pass only by what was kept; 3: some could not be told, the others pass.
    """
    configuration = common.load(config, data_dir)

    async def work() -> Counter[str]:
        from proxy.services.metrics import Metrics
        from proxy.services.revision import utc_now
        from proxy.services.verifying.leave import Leave
        from proxy.services.verifying.pins import PinVerifier
        from proxy.services.verifying.sweep import Sweep
        from storage.events import EventStore
        from storage.watching import WatchStore

        async with common.house(configuration, data_dir) as house:
            settings, watch = configuration.settings.verification, configuration.settings.watch
            leaves = {
                name: Leave(name, house.upstreams, upstream.watch_rate or watch.rate, watch.reserve, PATIENCE)
                for name, upstream in configuration.upstreams.items()
            }
            verifier = PinVerifier(house.gate, EventStore(house.database), Metrics(), utc_now)
            sweep = Sweep(verifier, house.pins, WatchStore(house.database), leaves, settings.concurrency, utc_now)
            counts: Counter[str] = Counter()
            shown: list[dict[str, object]] = []
            async for verified in sweep.run(pattern):
                counts[verified.result.value] += 1
                if as_json:
                    shown.append(verified_json(verified))
                else:
                    print(_line(verified))
            await house.gate.judged()  # or the end of the command would leave candidates to the next pull
            if as_json:
                common.show_json({"pins": shown, "counts": dict(counts)})
            return counts

    counts = common.run(work)
    if not as_json:
        told = ", ".join(f"{count} {result}" for result, count in counts.most_common())
        print(f"{counts.total()} judged{': ' if told else ''}{told}")
    if pattern is not None and not counts:
        common.fail(common.NO_MATCH.format(pattern=pattern), common.UNKNOWN)
    raise typer.Exit(_exit(counts))


def verified_json(verified: Verified) -> dict[str, object]:
    """A pin that was judged as scripts read it."""
    pin = verified.pin
    return {
        "name": verified.name,
        "result": verified.result.value,
        "digest": None if pin is None else str(pin.digest),
        "state": None if pin is None else pin.state.value,
        "reasons": list(verified.reasons),
        "gone": list(verified.gone),
    }


def _line(verified: Verified) -> str:
    from proxy.services.verifying.pins import Result

    line = f"{verified.result.value:<9} {verified.name}"
    if verified.result in {Result.PASSES, Result.UNPINNED}:
        return line
    return "\n".join((line, *(f"          {common.plain(reason)}" for reason in verified.reasons)))


def _exit(counts: Counter[str]) -> int:
    from proxy.services.verifying.pins import Result

    if counts[Result.LOST] or counts[Result.REFUSED]:
        return common.REFUSED
    return common.UNKNOWN if counts[Result.UNKNOWN] else 0
