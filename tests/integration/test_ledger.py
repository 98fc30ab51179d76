"""The ledger of a running server with two workers: entered once, signed, proven by the commands, and every edit found."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.notes import SignerKey
from tests.integration.conftest import Upstream, config_of
from tests.integration.processes import Tagstone, tagstone, until
from tests.simulator import images
from tests.tools import PATIENCE

pytestmark = pytest.mark.client

KEEPS = "ledger: {interval: 100ms, origin: test.example/ledger, public: true}\n"


@pytest.fixture(scope="module")
def server(base: Path, upstream: Upstream, keys: Path) -> Iterator[Tagstone]:
    """A server with two workers, with a history: pins, an overwrite, an approval, a block and its end."""
    with Tagstone(base / "ledger", KEEPS + config_of(keys, reg=upstream.registry.host), workers=2) as server:
        first = upstream.signed("acme/kept", "v1", images.image("kept/first"))
        assert server.manifest("reg.example/acme/kept", "v1").digest == str(first.digest)
        upstream.signed("acme/kept", "v2", images.image("kept/other"))
        assert server.manifest("reg.example/acme/kept", "v2").status == 200
        second = upstream.signed("acme/kept", "v1", images.image("kept/second"))
        until(lambda: server.manifest("reg.example/acme/kept", "v1").status == 403)
        approve = (
            "pins",
            "approve",
            "reg.example/acme/kept:v1",
            "--digest",
            str(second.digest),
            "--by",
            "olga",
            "--reason",
            "new",
        )
        assert server.run(*approve).returncode == 0
        assert server.run("block", str(first.digest), "--by", "olga", "--reason", "old").returncode == 0
        assert server.run("unblock", str(first.digest), "--by", "otto", "--reason", "fine").returncode == 0
        until(lambda: of_kind(server, "refusal"))
        until(lambda: settled(server))
        yield server


def signed(server: Tagstone) -> int:
    """How many entries the newest checkpoint is over."""
    reply = server.ask("GET", "/ledger/checkpoint")
    return int(reply.body.splitlines()[1]) if reply.status == 200 else -1


def entries(server: Tagstone) -> list[dict[str, object]]:
    """Every entry, out of the database."""
    with sqlite3.connect(server.data / "tagstone.db") as connection:
        found = [json.loads(body) for (body,) in connection.execute("SELECT body FROM ledger ORDER BY number")]
    connection.close()
    return found


def of_kind(server: Tagstone, kind: str) -> list[dict[str, object]]:
    """The entries of a kind."""
    return [entry for entry in entries(server) if entry["kind"] == kind]


def settled(server: Tagstone) -> bool:
    """Whether everything is signed for."""
    return signed(server) == len(entries(server))


def copied(server: Tagstone, folder: Path) -> sqlite3.Connection:
    """A copy of the data that belong to the ledger, to be edited."""
    copy = sqlite3.connect(folder / "tagstone.db")
    with sqlite3.connect(server.data / "tagstone.db") as source:
        source.backup(copy)
    source.close()
    shutil.copy(server.data / "ledger.key", folder)
    return copy


def test_what_happened_is_there_once_whoever_did_it(server: Tagstone) -> None:
    """By either worker or a command; the policy of both workers is one entry, also after they reloaded the same file."""
    kinds = [str(entry["kind"]) for entry in entries(server)]
    for kind in ("ledger.key", "policy", "pin.overwritten", "pin.approved", "block", "unblock"):
        assert kinds.count(kind) == 1, kind
    assert kinds.count("pin.pinned") == 2
    server.signal(signal.SIGHUP)
    until(lambda: server.log.count("reloaded") >= 2)
    until(lambda: settled(server))
    assert len(of_kind(server, "policy")) == 1
    shown = server.run("ledger", "show", "--image", "reg.example/acme/kept:v1", "--kind", "pin.approved", "--since", "1h").stdout
    assert "by olga: new" in shown
    assert "1 entry" in shown
    done = server.run("ledger", "show", "--json", "--kind", "pin")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        entry for entry in entries(server) if str(entry["kind"]).startswith("pin.")
    ]


def test_an_entry_is_proven_to_somebody_who_has_nothing_but_a_key(server: Tagstone, tmp_path: Path) -> None:
    """The proof stands by itself; with another key, or changed, it proves nothing."""
    [approved] = of_kind(server, "pin.approved")
    proof, key = tmp_path / "entry.tlog-proof", tmp_path / "key"
    assert server.run("ledger", "prove", str(approved["index"]), "--output", str(proof)).returncode == 0
    key.write_text(server.run("ledger", "key").stdout)

    def verify(*words: str) -> subprocess.CompletedProcess[str]:
        command = (tagstone(), "ledger", "verify", "--proof", str(proof), *words)
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE, check=False)

    done = verify("--key", str(key), "--json")
    assert done.returncode == 0, done.stderr
    proven = json.loads(done.stdout)
    assert (proven["origin"], proven["entry"]) == ("test.example/ledger", approved)
    proof.write_text(proof.read_text().replace(f"index {approved['index']}", "index 0"))
    done = verify("--key", str(key))
    assert (done.returncode, "proves nothing" in done.stderr) == (1, True)


EDITS = {
    "a row": ("UPDATE ledger SET body = replace(body, 'olga', 'nobody') WHERE kind = 'pin.approved'", "pin.approved"),
    "a row deleted": ("DELETE FROM ledger WHERE kind = 'pin.overwritten'", "pin.overwritten"),
    "a pin": ("UPDATE pins SET digest = (SELECT digest FROM pins WHERE tag = 'v2') WHERE tag = 'v1'", "pin.approved"),
    "the tail": ("DELETE FROM ledger WHERE number >= (SELECT max(number) FROM ledger)", "last"),
}


@pytest.mark.parametrize("edited", EDITS)
def test_what_sqlite3_changes_is_found_at_its_entry(server: Tagstone, tmp_path: Path, edited: str) -> None:
    """On a copy of the database of a running server."""
    statement, kind = EDITS[edited]
    everything = entries(server)
    copy = copied(server, tmp_path)
    copy.execute(statement)
    copy.commit()
    copy.close()
    finding = server.json("ledger", "verify", "--data-dir", str(tmp_path), code=1)["finding"]
    if kind == "last":
        expected = len(everything) - 1
    else:
        [expected] = [int(str(entry["index"])) for entry in everything if entry["kind"] == kind]
    assert finding["index"] == expected, finding


def test_two_entries_that_change_places_are_found_at_the_first(server: Tagstone, tmp_path: Path) -> None:
    """Each is whole; only where they are is wrong. Before, everything fits."""
    copy = copied(server, tmp_path)
    assert server.json("ledger", "verify", "--data-dir", str(tmp_path))["fits"] is True
    for old, new in ((2, -1), (4, 2), (-1, 4)):
        copy.execute("UPDATE ledger SET number = ? WHERE number = ?", (new, old))
    copy.commit()
    copy.close()
    done = server.run("ledger", "verify", "--data-dir", str(tmp_path))
    assert (done.returncode, done.stdout.strip()) == (1, "entry 2 does not fit: it says that it is entry 4")


def test_an_observer_elsewhere_is_told_by_its_own_file(server: Tagstone, tmp_path: Path) -> None:
    """Looked at once, and again: it extends what was seen; by another key, or somewhere else, it is not believed."""
    url, state = f"http://{server.host}/ledger", tmp_path / "seen"

    def watch(*words: str) -> subprocess.CompletedProcess[str]:
        command = (tagstone(), "ledger", "watch", url, "--once", "--state", str(state), *words)
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=PATIENCE, check=False)

    key = server.run("ledger", "key").stdout.splitlines()[0]
    done = watch("--key", key)
    assert (done.returncode, "remembered" in done.stdout) == (0, True), done.stderr
    assert server.run("ledger", "key", "rotate", "--by", "olga", "--reason", "yearly", "--overlap", "1h").returncode == 0
    done = watch("--entries")
    assert (done.returncode, "extends the" in done.stdout, "ledger.key" in done.stdout) == (0, True, True), done.stderr
    until(lambda: server.ask("GET", "/ledger/checkpoint").body.count("— test.example/ledger".encode()) == 2)
    state = tmp_path / "other"
    done = watch("--key", str(SignerKey.generate("test.example/ledger").verifier))
    assert (done.returncode, "ALARM" in done.stderr) == (1, True), done.stderr
