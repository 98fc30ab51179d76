"""``tagstone trust``: what is believed, and what is about to end."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pysequoia
from typer.testing import CliRunner, Result

from proxy.cli.trust import app
from proxy.services.inventory import inventory, worth_telling
from tests.simulator.sigstore import PrivateSigstore
from tests.unit.configuration.files import RULES, Folder

UPSTREAM = "upstreams: {docker.io: {}}\n"


def trust(*words: str | Path) -> Result:
    """Run ``tagstone trust`` with these words."""
    return CliRunner().invoke(app, [str(word) for word in words])


def test_show_tells_everything_that_is_believed(tmp_path: Path) -> None:
    """Keys with their window, and of a root its authorities and logs, for people and for scripts."""
    folder = Folder(tmp_path)
    root = PrivateSigstore().write_trusted_root(tmp_path / "root.json")
    entries = (
        f"keys: {{old: {{file: one.pub, valid_until: 2020-01-01}}, always: {{file: two.pub}}}}, roots: {{own: {{file: {root}}}}}"
    )
    file = folder.write(f"{UPSTREAM}trust: {{{entries}}}\n{RULES}")
    result = trust("show", "--config", file)
    assert result.exit_code == 0
    for words in ("keys.old", "ended", "until 2020-01-01", "keys.always", "always", "roots.own", "certificate transparency log"):
        assert words in result.stdout
    shown = json.loads(trust("show", "--config", file, "--json").stdout)
    assert {(item["section"], item["name"]) for item in shown} == {("keys", "old"), ("keys", "always"), ("roots", "own")}
    assert {item["kind"] for item in shown if item["section"] == "roots"} >= {
        "certificate authority",
        "log",
        "certificate transparency log",
        "timestamp authority",
    }
    assert {item["state"] for item in shown if item["name"] == "old"} == {"ended"}


def test_openpgp_keys_are_shown_one_by_one(tmp_path: Path) -> None:
    """With fingerprint and user ID; the end is the certificate's or the entry's, and a revoked one has ended."""
    folder, entries, prints = Folder(tmp_path), [], {}
    for name in ("plain", "short", "gone"):
        private = pysequoia.Tsk.generate(f"{name} <{name}@acme.test>", validity_seconds=86400 * 365)
        found = private.extract_certificate()
        body = bytes(found) if name != "gone" else bytes(found) + bytes(found.revoke(private.certifier()))
        (tmp_path / name).write_bytes(body)
        entries.append(f"{name}: {{gpg: {name}{', valid_until: 2020-01-01' if name == 'short' else ''}}}")
        prints[name] = found.fingerprint
    file = folder.write(f"{UPSTREAM}trust: {{keys: {{{', '.join(entries)}}}}}\n{RULES}")
    shown = json.loads(trust("show", "--config", file, "--json").stdout)
    assert {item["name"]: item["state"] for item in shown} == {"plain": "valid", "short": "ended", "gone": "ended"}
    assert {item["name"]: item["fingerprint"] for item in shown} == prints
    assert {item["kind"] for item in shown} == {"OpenPGP key"}
    assert "plain <plain@acme.test>" in trust("show", "--config", file).stdout
    assert trust("check", "--config", file).exit_code == 1


def test_show_of_nothing_says_so(tmp_path: Path) -> None:
    """An empty list would look like a mistake."""
    result = trust("show", "--config", Folder(tmp_path).write(f"{UPSTREAM}{RULES}"))
    assert "nothing is trusted" in result.stdout


def test_check_ends_with_1_where_something_ends(tmp_path: Path) -> None:
    """Exit 0 and a word where all is well, 1 and the entry where it is not."""
    folder = Folder(tmp_path)
    soon = datetime.now(UTC).date() + timedelta(days=10)
    entries = "trust: {{keys: {{k: {{file: one.pub{}}}}}}}\n"
    result = trust("check", "--config", folder.write(UPSTREAM + entries.format("") + RULES))
    assert (result.exit_code, result.stdout) == (0, "nothing ends within 30 days\n")
    file = folder.write(UPSTREAM + entries.format(f", valid_until: {soon}") + RULES)
    result = trust("check", "--config", file)
    assert (result.exit_code, result.stdout) == (1, f"trust.keys.k: the last key ends on {soon} 23:59 UTC\n")
    assert json.loads(trust("check", "--config", file, "--json").stdout) == {
        "told": [f"trust.keys.k: the last key ends on {soon} 23:59 UTC"]
    }


def test_old_ones_beside_new_ones_are_nobodys_worry(tmp_path: Path) -> None:
    """Of several keys of a kind, one that is valid suffices; none that is valid any more, or none yet, is told."""
    folder = Folder(tmp_path)
    loaded = folder.load(f"{UPSTREAM}trust: {{roots: {{sigstore: public-good}}}}\n{RULES}")
    items = inventory(loaded.trusted)
    today = datetime(2026, 1, 1, tzinfo=UTC)
    assert "ended" in {item.state(today) for item in items}
    assert worth_telling(items, today) == ()
    assert "no certificate authority is valid any more" in " ".join(worth_telling(items, datetime(2100, 1, 1, tzinfo=UTC)))
    assert "no certificate authority is valid yet" in " ".join(worth_telling(items, datetime(2000, 1, 1, tzinfo=UTC)))
