"""The ``tagstone`` command. Subcommands are imported when they run, so that each starts fast."""

from __future__ import annotations

from typing import Annotated

import typer

from proxy import __version__
from proxy.cli import access, alerts, block, client, config, demo, doctor, drift, ledger, pins, pulls, serve, trust, verify

app = typer.Typer(
    name="tagstone",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An OCI distribution proxy that makes tags immutable.",
    epilog="Exit codes: 0 done or passes; 1 refused; 2 usage or configuration; 3 could not tell.",
)
app.command()(serve.serve)
app.command()(verify.verify)
app.add_typer(pins.app, name="pins")
app.command()(block.block)
app.command()(block.unblock)
app.command()(pulls.pulls)
app.add_typer(alerts.app, name="alerts")
app.add_typer(ledger.app, name="ledger")
app.add_typer(trust.app, name="trust")
app.add_typer(access.app, name="access")
app.command()(client.client)
app.add_typer(config.app, name="config")
app.command()(doctor.doctor)
app.add_typer(drift.app, name="drift")
app.command()(demo.demo)


def _version(value: bool) -> None:  # the shape that typer calls
    if value:
        print(f"tagstone {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Take options that come before the command."""


def run() -> None:
    """Entry point of the console script."""
    app()
