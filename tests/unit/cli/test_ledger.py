"""``tagstone ledger``: what it prints, and how it ends."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from proxy.cli.ledger import app
from storage.catalog import Catalog
from storage.database import Database
from storage.notes import SignerKey
from storage.pins import PinStore
from storage.records import Block
from tests.unit.storage.values import AT, digest, first_pin, overwrite, pinned

CONFIG = 'ledger: {origin: test.example/ledger}\nrules: [{match: "**", require: deny}]\n'


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and a database that holds a pin, an overwrite and a block; nothing is signed yet."""
    folder = tmp_path_factory.mktemp("ledger")
    (folder / "tagstone.yaml").write_text(CONFIG)

    async def fill() -> None:
        database = Database(folder / "data" / "tagstone.db")
        await database.open()
        pins = PinStore(database)
        await pins.apply(overwrite(await pinned(pins, first_pin()), "two"))
        await Catalog(database).block(Block(digest("bad"), "miner\x1b[1m", "olga", AT))
        await database.close()

    asyncio.run(fill())
    return folder


@pytest.fixture
def folder(template: Path, tmp_path: Path) -> Path:
    """A copy of one's own."""
    return Path(shutil.copytree(template, tmp_path / "house"))


def ledger(folder: Path, *words: str) -> Result:
    """Run ``tagstone ledger`` with these words."""
    where = ("--config", str(folder / "tagstone.yaml"), "--data-dir", str(folder / "data"))
    return CliRunner().invoke(app, [*words, *where])


def test_entries_are_shown_and_found(folder: Path) -> None:
    """All of them, those of a kind or an image, or since then; what others wrote cannot steer a terminal."""
    shown = ledger(folder, "show")
    assert shown.exit_code == 0
    assert shown.stdout.splitlines()[-1] == "3 entries"
    assert "pin.overwritten  ghcr.io/acme/app:v1" in shown.stdout
    assert "by olga: miner\\u{1b}[1m" in shown.stdout
    found = ledger(folder, "show", "--json", "--kind", "pin", "--image", "ghcr.io/acme/app")
    assert [json.loads(line)["kind"] for line in found.stdout.splitlines()] == ["pin.pinned", "pin.overwritten"]
    assert "1 entry" in ledger(folder, "show", "--image", str(digest("bad"))).stdout
    assert "0 entries" in ledger(folder, "show", "--since", "2030-01-01").stdout
    assert ledger(folder, "show", "--image", "sha256:short").exit_code == 2
    assert ledger(folder, "show", "--since", "yesterday").exit_code == 2
    unknown = ledger(folder, "show", "--kind", "pins")
    assert (unknown.exit_code, "--kind pins: there are pin, pin.pinned" in unknown.stderr) == (2, True)


def test_before_anything_is_signed_nothing_can_be_proven(folder: Path) -> None:
    """And it is said what to do about it."""
    assert ledger(folder, "checkpoint").exit_code == 1
    assert ledger(folder, "key").exit_code == 1
    proof = ledger(folder, "prove", "0")
    assert (proof.exit_code, "tagstone ledger checkpoint --sign" in proof.stderr) == (3, True)
    assert ledger(folder, "prove", "9").exit_code == 1
    verified = ledger(folder, "verify")
    assert (verified.exit_code, "no checkpoint has been signed" in verified.stdout) == (0, True)
    demanded = ledger(folder, "verify", "--key", str(SignerKey.generate("test.example/ledger").verifier))
    assert (demanded.exit_code, "no checkpoint is kept" in demanded.stdout) == (1, True)


def test_what_is_signed_is_proven_and_verified(folder: Path, tmp_path: Path) -> None:
    """From the first signature to a proof that stands by itself, and over a new key."""
    signed = ledger(folder, "checkpoint", "--sign")
    assert signed.stdout.startswith("test.example/ledger\n4\n"), "the key has an entry of its own"
    old = ledger(folder, "key").stdout.strip()
    assert old.startswith("test.example/ledger+")
    proof = tmp_path / "proof"
    assert ledger(folder, "prove", "1", "--output", str(proof)).exit_code == 0
    assert ledger(folder, "prove", "1").stdout == proof.read_text()
    done = CliRunner().invoke(app, ["verify", "--proof", str(proof), "--key", old])
    assert (done.exit_code, "under its checkpoint of 4 entries" in done.stdout) == (0, True)
    as_json = CliRunner().invoke(app, ["verify", "--proof", str(proof), "--key", old, "--json"])
    assert json.loads(as_json.stdout)["entry"]["kind"] == "pin.overwritten"
    for words, code in (((), 2), (("--key", "nonsense"), 2), (("--key", str(SignerKey.generate("x").verifier)), 1)):
        assert CliRunner().invoke(app, ["verify", "--proof", str(proof), *words]).exit_code == code
    assert CliRunner().invoke(app, ["verify", "--proof", str(tmp_path / "none"), "--key", old]).exit_code == 2
    rotated = ledger(folder, "key", "rotate", "--by", "olga", "--reason", "yearly", "--overlap", "1h")
    assert "also by " + old in rotated.stdout
    assert ledger(folder, "key", "rotate", "--overlap", "soon").exit_code == 2
    keys = ledger(folder, "key").stdout.split()
    assert (len(keys), keys[1]) == (2, old)
    verified = ledger(folder, "verify")
    assert (verified.exit_code, "5 entries" in verified.stdout, "1 pin and 1 block are" in verified.stdout) == (0, True, True)
    found = json.loads(ledger(folder, "verify", "--json", "--key", old).stdout)
    assert (found["fits"], found["signed"], found["keys"]) == (True, 5, [old])
    (folder / "data" / "ledger.key").unlink()
    assert "give --key" in ledger(folder, "verify").stdout
    assert ledger(folder, "prove", "1", "--output", str(tmp_path / "no" / "folder")).exit_code == 2


def test_what_does_not_fit_is_named(folder: Path) -> None:
    """By every command that comes upon it, with exit code 1."""
    assert ledger(folder, "checkpoint", "--sign").exit_code == 0
    with sqlite3.connect(folder / "data" / "tagstone.db") as connection:
        connection.execute("UPDATE ledger SET body = replace(body, 'moved', 'MOVED') WHERE number = 1")
    connection.close()
    verified = ledger(folder, "verify")
    assert verified.exit_code == 1
    assert verified.stdout.startswith("entry 1 does not fit: its bytes are not")
    found = json.loads(ledger(folder, "verify", "--json").stdout)
    assert (found["fits"], found["finding"]["index"]) == (False, 1)
    proof = ledger(folder, "prove", "1")
    assert (proof.exit_code, proof.stdout) == (1, "")
    assert "not what was signed for" in proof.stderr
    with sqlite3.connect(folder / "data" / "tagstone.db") as connection:
        connection.execute("UPDATE ledger SET body = 'x' WHERE number = 1")
    connection.close()
    assert (ledger(folder, "show").exit_code, ledger(folder, "prove", "0").exit_code) == (1, 0)


def test_a_lost_key_is_said_and_replaced(folder: Path) -> None:
    """The words of what fails name the way out, and it is one."""
    assert ledger(folder, "checkpoint", "--sign").exit_code == 0
    refused = ledger(folder, "key", "rotate", "--lost")
    assert (refused.exit_code, "not lost" in refused.stderr) == (3, True)
    (folder / "data" / "ledger.key").unlink()
    gone = ledger(folder, "key", "rotate")
    assert (gone.exit_code, "rotate --lost" in gone.stderr) == (3, True)
    replaced = ledger(folder, "key", "rotate", "--lost", "--by", "olga", "--reason", "disk failure")
    assert (replaced.exit_code, replaced.stdout.startswith("checkpoints are signed by test.example/ledger+")) == (0, True)
    assert ledger(folder, "verify").exit_code == 0
    assert len(ledger(folder, "key").stdout.splitlines()) == 2


def test_a_policy_has_one_hash(folder: Path) -> None:
    """That of what decides, and not of how it is written."""
    one = ledger(folder, "policy").stdout
    (folder / "tagstone.yaml").write_text("# a comment\n" + CONFIG.replace("ledger: {", "ledger: {interval: 1h, "))
    assert ledger(folder, "policy").stdout == one
    (folder / "tagstone.yaml").write_text(CONFIG.replace("**", "docker.io/**"))
    assert ledger(folder, "policy").stdout != one


def test_to_watch_takes_an_address_and_a_key(tmp_path: Path) -> None:
    """Usage is 2; that nobody answers is 3."""
    key, state = str(SignerKey.generate("log.example").verifier), str(tmp_path / "seen")

    def watch(*words: str) -> int:
        return CliRunner().invoke(app, ["watch", *words, "--once", "--state", state]).exit_code

    assert watch("somewhere") == 2
    assert watch("http://127.0.0.1:1/ledger") == 2
    assert watch("http://127.0.0.1:1/ledger", "--key", key, "--interval", "often") == 2
    assert watch("http://127.0.0.1:1/ledger", "--key", key, "--token-file", str(tmp_path / "none")) == 2
    assert watch("http://127.0.0.1:1/ledger", "--key", key, "--ca", str(tmp_path / "none")) == 2
    assert watch("http://127.0.0.1:1/ledger", "--key", key) == 3
    assert watch("http://127.0.0.1:1/ledger") == 3, "the key is remembered"
