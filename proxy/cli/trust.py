"""``tagstone trust``: what is believed, and until when."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from proxy.cli import common
from proxy.cli.common import ConfigOption, JsonOption

if TYPE_CHECKING:
    from proxy.services.inventory import Item

app = typer.Typer(no_args_is_help=True, help="What is trusted, and until when.")


@app.command()
def show(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """List the keys, roots and trust stores of the configuration, with what is in them and until when it counts."""
    from proxy.services.inventory import inventory

    items, now = inventory(common.load(config).trusted), datetime.now(UTC)
    if as_json:
        common.show_json([_json(item, now) for item in items])
        return
    if not items:
        print("nothing is trusted: there is no entry under trust in the configuration")
    entry = None
    for item in items:
        if entry != (item.section, item.name):
            entry = (item.section, item.name)
            print(f"{item.section}.{item.name}")
        print(f"  {item.kind:<30}{item.state(now):<9}{_window(item):<26}{item.fingerprint[:16]}  {item.what}".rstrip())


@app.command()
def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Say what of it has ended or ends within 30 days. Exit 0: nothing to do; 1: something is told; 2: configuration."""
    from proxy.services.inventory import inventory, worth_telling

    items, now = inventory(common.load(config).trusted), datetime.now(UTC)
    told = worth_telling(items, now)
    if as_json:
        common.show_json({"told": list(told)})
    else:
        for line in told or ("nothing ends within 30 days",):
            print(line)
    raise typer.Exit(common.REFUSED if told else 0)


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


def _window(item: Item) -> str:
    start, end = (None if each is None else f"{each.astimezone(UTC):%Y-%m-%d}" for each in (item.valid_from, item.valid_until))
    match start, end:
        case None, None:
            return "always"
        case _, None:
            return f"since {start}"
        case None, _:
            return f"until {end}"
        case _:
            return f"{start} to {end}"
