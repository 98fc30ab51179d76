"""The data directory that commands look into: another one than the server's must not look like one in which all is well."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.cli.main import app
from storage.database import FILE_NAME

BAD = f"sha256:{'0' * 64}"
READING = {
    "pins list": ("pins", "list"),
    "pins show": ("pins", "show", "nginx:1.27"),
    "pins diff": ("pins", "diff", "nginx:1.27"),
    "block": ("block",),
    "pulls": ("pulls", "--image", "nginx"),
    "alerts list": ("alerts", "list", "--open"),
    "ledger show": ("ledger", "show"),
    "ledger verify": ("ledger", "verify"),
    "drift": ("drift", "-"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A configuration, and no data directory."""
    text = f"data_dir: {tmp_path}/data\nupstreams: {{docker.io: {{}}}}\nrules: [{{match: '**', require: first-use}}]\n"
    (tmp_path / "tagstone.yaml").write_text(text)
    return tmp_path


def run(folder: Path, *words: str) -> Result:
    """Run a command with that configuration."""
    return CliRunner().invoke(app, [*words, "--config", str(folder / "tagstone.yaml")], input="[]")


@pytest.mark.parametrize("words", READING.values(), ids=READING)
def test_a_folder_without_data_is_no_answer(folder: Path, words: tuple[str, ...]) -> None:
    """What only reads ends with 3 there, names the folder, and makes nothing."""
    result = run(folder, *words)
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"{folder}/data holds no database" in result.stderr
    assert "--data-dir" in result.stderr
    assert not (folder / "data").exists()


def test_a_folder_that_may_not_be_looked_into_is_no_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is not the server's user is told so, without a traceback."""
    (folder / "data").mkdir()
    found = Path.stat

    def stat(path: Path, **more: bool) -> object:
        if path.name == FILE_NAME:
            raise PermissionError(13, "Permission denied")
        return found(path, **more)

    monkeypatch.setattr(Path, "stat", stat)
    result = run(folder, "pins", "list")
    assert result.exit_code == 3
    assert f"the data directory {folder}/data cannot be looked into: Permission denied" in result.stderr


def test_an_act_where_no_server_ran_is_done_with_a_warning(folder: Path) -> None:
    """A digest may be blocked before the first start; whoever forgot --data-dir learns that the server does not heed it."""
    result = run(folder, "block", BAD, "--by", "olga")
    assert result.exit_code == 0, result.output
    assert f"{folder}/data holds no database" in result.stderr
    assert run(folder, "block").stdout.startswith(BAD)
    assert run(folder, "block", BAD, "--by", "otto").stderr == ""


@pytest.mark.parametrize("command", ["check", "verify"])
def test_a_pattern_that_matches_nothing_is_not_well(folder: Path, command: str) -> None:
    """What was mistyped ends with 3; that there are no pins at all is well."""
    run(folder, "block", BAD)
    assert run(folder, "pins", command).exit_code == 0
    result = run(folder, "pins", command, "ngimx:*")
    assert (result.exit_code, "no pin matches ngimx:*" in result.stderr) == (3, True)


def test_the_demo_is_kept_in_a_folder(tmp_path: Path) -> None:
    """A file is none, and that is said before anything is played."""
    (tmp_path / "kept").write_text("a file")
    result = CliRunner().invoke(app, ["demo", "--keep", str(tmp_path / "kept")])
    assert (result.exit_code, result.stderr) == (2, f"tagstone: --keep {tmp_path / 'kept'}: File exists\n")
