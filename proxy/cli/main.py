"""The ``tagstone`` command. Subcommands are imported when they run, so that each starts fast."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from proxy import __version__

#: Every command, in the order of the help, and where it is: the module here, and the function or the group in it.
_COMMANDS = {
    "serve": ("serve", "serve"),
    "verify": ("verify", "verify"),
    "pins": ("pins", "app"),
    "block": ("block", "block"),
    "unblock": ("block", "unblock"),
    "pulls": ("pulls", "pulls"),
    "alerts": ("alerts", "app"),
    "ledger": ("ledger", "app"),
    "trust": ("trust", "app"),
    "access": ("access", "app"),
    "client": ("client", "client"),
    "config": ("config", "app"),
    "doctor": ("doctor", "doctor"),
    "drift": ("drift", "app"),
    "demo": ("demo", "demo"),
}


class _Commands(TyperGroup):
    """Imports what a command needs when it is that one's turn."""

    def list_commands(self, ctx: Any) -> list[str]:  # the type that typer gives it is not public
        """The names of all."""
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """One of them; None where there is none of this name."""
        if cmd_name in _COMMANDS and cmd_name not in self.commands:
            self.commands[cmd_name] = _command(cmd_name)
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: Sequence[str]) -> Any:
        """The one that is meant; who misspelled it is told of all that are like it."""
        if args[0] not in _COMMANDS:
            for name in _COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, list(args))


def _command(name: str) -> Any:
    module, attribute = _COMMANDS[name]
    found = getattr(import_module(f"proxy.cli.{module}"), attribute)
    if not isinstance(found, typer.Typer):
        single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        single.command(name)(found)
        return typer.main.get_command(single)
    command = typer.main.get_group(found)
    command.name = name
    return command


app = typer.Typer(
    name="tagstone",
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An OCI distribution proxy that makes tags immutable.",
    epilog="Exit codes: 0 done or passes; 1 refused; 2 usage or configuration; 3 could not tell.",
)


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
