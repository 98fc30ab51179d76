"""What is true of every command, whichever it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from proxy.cli.main import app
from tests.tools import PATIENCE


def commands(command: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, by the words that name it."""
    yield names, command
    if isinstance(command, TyperGroup):
        context: Any = None
        for name in command.list_commands(context):
            yield from commands(command.get_command(context, name), *names, name)


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(words: tuple[str, ...]) -> None:
    """``--help`` ends well and says what is written of each option, brackets and all, which would be markup."""
    result = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": "400"})
    assert result.exit_code == 0, result.exception
    shown = " ".join(result.output.split())
    for option in COMMANDS[words].params:
        told = (getattr(option, "help", None) or "").replace("\\[", "[")
        assert " ".join(told.split()) in shown


def test_only_what_a_command_needs_is_imported() -> None:
    """Somebody who asks for the version waits for no other command."""
    code = "import sys; from proxy.cli.main import app; app(['--version'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE)
    version, _, modules = done.stdout.partition("\n")
    assert version.startswith("tagstone ")
    assert "proxy.cli.main" in modules.split()
    assert not {"proxy.cli.common", "pydantic", "sqlalchemy", "aiohttp", "asyncio"} & set(modules.split())


def test_a_command_that_is_misspelled_is_guessed() -> None:
    """Though none has been imported by then."""
    result = CliRunner().invoke(app, ["pinns"])
    assert result.exit_code == 2
    assert "Did you mean 'pins'?" in " ".join(result.output.split())
