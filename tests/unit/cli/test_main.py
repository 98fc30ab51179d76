"""What is true of every command, whichever it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from proxy.cli.main import app


def commands(command: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command, by the words that name it."""
    yield names, command
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, *names, name)


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
