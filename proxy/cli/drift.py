"""``tagstone drift``: what runs, held against what was approved.

Each command has a module of its own. The bare ``tagstone drift`` is ``tagstone drift workloads``.
"""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from proxy.cli import drift_processes, drift_rootfs, drift_workloads

_DEFAULT = "workloads"


class _ByDefault(TyperGroup):
    """A group in which everything that is not the name of a command is for its first one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # the type that typer gives it is not public
        """Name the command where it is not named."""
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_ByDefault,
    help="Compare what runs with what was approved. Without the name of a command: workloads.",
    epilog="Exit codes: 0 clean; 1 drift; 2 usage or configuration; 3 could not tell.",
)
app.command(_DEFAULT)(drift_workloads.workloads)
app.command("rootfs")(drift_rootfs.rootfs)
app.command("processes")(drift_processes.processes)
