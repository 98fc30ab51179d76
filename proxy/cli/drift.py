"""``tagstone drift``: what runs, held against what was approved.

Each command has a module of its own. What the bare ``tagstone drift`` does is written in :func:`drift`.
"""

from __future__ import annotations

import typer

from proxy.cli import common, drift_processes, drift_rootfs

app = typer.Typer(
    invoke_without_command=True,
    help="Compare what runs with what was approved.",
    epilog="Exit codes: 0 clean; 1 drift; 2 usage or configuration; 3 could not tell.",
)
app.command("rootfs")(drift_rootfs.rootfs)
app.command("processes")(drift_processes.processes)


@app.callback()
def drift(context: typer.Context) -> None:
    """Compare what runs with what was approved."""
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(common.USAGE)
