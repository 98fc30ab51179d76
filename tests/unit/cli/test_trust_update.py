"""``tagstone trust`` on roots of TUF repositories: asking them, and telling how they stand."""

from __future__ import annotations

import json
import os
import pwd
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from proxy.cli.main import app
from tests.simulator.sigstore import PrivateSigstore
from tests.simulator.sigstore.tuf import TufRepository
from tests.simulator.sigstore.tufserver import Answer, TufServer
from tests.unit.configuration.files import Folder

SIGSTORE = PrivateSigstore()
BEGIN, END = datetime(2022, 1, 1, tzinfo=UTC), datetime(2090, 1, 1, tzinfo=UTC)
RULE = "{signature: {keyless: {root: corp, issuer: https://i.test, identity: a@b.test}}}"


class Setting:
    """A configuration with the root ``corp`` of a repository, and ``own`` of a file."""

    def __init__(self, folder: Path, server: TufServer, published: TufRepository) -> None:
        self.server = server
        self.published = published
        (folder / "root.json").write_bytes(published.bootstrap)
        SIGSTORE.write_trusted_root(folder / "own.json")
        self.data_dir = folder / "data"
        self.write = Folder(folder).write
        self.file = self.text()

    def text(self, more: str = "") -> Path:
        """Write the file."""
        roots = f"roots: {{corp: {{tuf: '{self.server.url}', root: root.json{more}}}, own: {{file: own.json}}}}"
        rules = f"rules: [{{match: '**', require: {RULE}}}]\n"
        return self.write(
            f"data_dir: {self.data_dir}\nupstreams: {{docker.io: {{}}}}\ntrust: {{refresh: never, {roots}}}\n{rules}"
        )

    def run(self, *words: str, code: int = 0) -> Result:
        """Run ``tagstone``; it must end with ``code``."""
        result = CliRunner().invoke(app, [*words, "--config", str(self.file)])
        assert result.exit_code == code, result.output
        return result

    def json(self, *words: str, code: int = 0) -> Any:
        """What it prints with ``--json``."""
        return json.loads(self.run(*words, "--json", code=code).stdout)

    def metadata(self) -> Any:
        """What ``trust show`` tells of the repository."""
        (found,) = [item for item in self.json("trust", "show") if item["kind"] == "TUF metadata"]
        return found


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    """With a first version."""
    published = SIGSTORE.tuf_repository(tmp_path / "repository")
    with TufServer(published.folder) as server:
        yield Setting(tmp_path, server, published)


def test_update_tells_what_changed(setting: Setting) -> None:
    """What is new, what is gone, what counts for another time; and that nothing did."""
    first = setting.run("trust", "update").stdout.splitlines()
    assert first[0] == f"roots.corp: refreshed from {setting.server.url} (root 1, timestamp 1), good until 2100-01-01 00:00 UTC"
    assert {line.split()[0] for line in first[1:]} == {"+"}
    assert any("certificate transparency log" in line for line in first)
    assert setting.run("trust", "update", "corp").stdout.splitlines()[0].endswith("; nothing changed")
    later = SIGSTORE.trusted_root("no TSA", windows={"CT": (BEGIN, END)})
    setting.published.publish({"trusted_root.json": later})
    (told,) = setting.json("trust", "update")["roots"]
    assert (told["result"], told["name"], told["versions"]["timestamp"]) == ("refreshed", "corp", 2)
    assert [item["kind"] for item in told["removed"]] == ["timestamp authority"]
    assert told["added"] == []
    assert [(item["kind"], item["state"]) for item in told["changed"]] == [("certificate transparency log", "valid")]
    setting.published.publish({"trusted_root.json": SIGSTORE.trusted_root()})
    told = setting.run("trust", "update").stdout
    assert "  + timestamp authority" in told
    assert "  ~ certificate transparency log" in told


def test_promise_49_update_ends_with_1_where_an_answer_does_not_hold(setting: Setting) -> None:
    """And says which root makes no decisions; check does so from then on, and verify cannot tell."""
    setting.run("trust", "update")
    setting.published.publish(SIGSTORE.tuf_targets(), "timestamp expired")
    told = setting.run("trust", "update", code=1).stdout
    assert told.startswith("roots.corp: refused\n  makes no new decisions: its TUF repository")
    (json_told,) = setting.json("trust", "update", code=1)["roots"]
    assert json_told["result"] == "refused"
    assert "timestamp.json is expired" in json_told["suspended"]
    assert "trust.roots.corp: makes no new decisions" in setting.run("trust", "check", code=1).stdout
    shown = setting.run("trust", "show").stdout
    assert "suspended" in shown
    assert "    makes no new decisions" in shown
    assert setting.metadata()["state"] == "suspended"
    evidence = setting.published.folder / "bundle.json"
    evidence.write_text("{}")
    image = f"docker.io/library/app@sha256:{'0' * 64}"
    told = setting.run("verify", image, "--evidence", str(evidence), code=3).stdout
    assert f"{image}: CANNOT TELL" in told
    assert "root corp: makes no new decisions" in told
    setting.published.publish(SIGSTORE.tuf_targets())
    setting.published.publish(SIGSTORE.tuf_targets())
    setting.run("trust", "update")
    setting.run("trust", "check")
    setting.run("verify", image, "--evidence", str(evidence), code=1)


def test_update_ends_with_3_where_nobody_answers(setting: Setting) -> None:
    """The last good root counts on; without one there is nothing that could."""
    setting.server.all_else = Answer(503)
    told = setting.run("trust", "update", code=3).stdout
    assert "answers 503" in told
    assert "counts on" not in told
    assert "there is none yet" in told
    setting.server.all_else = None
    setting.run("trust", "update")
    setting.server.all_else = Answer(503)
    assert "the last good root counts on" in setting.run("trust", "update", code=3).stdout
    assert "its TUF repository cannot be reached" in setting.run("trust", "check", code=1).stdout
    assert "cannot be reached" in setting.run("trust", "show").stdout
    assert setting.metadata()["state"] == "fresh"


def test_update_waits_for_nobody_else_for_ever(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else who asks at the same moment is waited for, within bounds."""
    import fcntl

    from proxy.configuration import load
    from proxy.tuf.state import folder_of

    folder = folder_of(setting.data_dir, load(setting.file).repositories[0])
    folder.mkdir(parents=True)
    monkeypatch.setattr("proxy.tuf.refresh.PATIENCE", 0.1)
    with (folder / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "somebody else is asking" in setting.run("trust", "update", code=3).stdout


def test_a_root_that_cannot_meet_its_demands(setting: Setting) -> None:
    """Refreshed all the same, and told."""
    setting.published.publish({"trusted_root.json": SIGSTORE.trusted_root("no log")})
    told = setting.run("trust", "update", code=1).stdout
    assert "roots.corp: refreshed" in told
    assert "has no transparency log" in told


def test_only_what_is_refreshed_can_be_named(setting: Setting) -> None:
    """A name that is none, a root of files, and a configuration without repositories."""
    assert (
        "no root crop under trust.roots; those that TUF refreshes: corp" in setting.run("trust", "update", "crop", code=2).stderr
    )
    assert "made of files" in setting.run("trust", "update", "own", code=2).stderr
    setting.file = setting.write("upstreams: {docker.io: {}}\nrules: [{match: '**', require: deny}]\n")
    assert "nothing here is refreshed by TUF" in setting.run("trust", "update").stdout
    assert setting.json("trust", "update") == {"roots": []}


def test_storage_that_refuses(setting: Setting) -> None:
    """Ends with 3, and says why."""
    setting.data_dir.write_text("a file")
    assert "cannot keep TUF metadata" in setting.run("trust", "update", code=3).stderr


def test_show_tells_how_fresh_a_root_is(setting: Setting) -> None:
    """Before the first refresh, after it, when the metadata is about to expire, and when it has expired."""
    before = setting.metadata()
    assert (before["state"], before["source"], before["versions"], before["asked_at"]) == ("suspended", "none", None, None)
    assert "never refreshed" in setting.run("trust", "show").stdout
    setting.run("trust", "update")
    fresh = setting.metadata()
    assert (fresh["state"], fresh["source"], fresh["valid_until"]) == ("fresh", "tuf", "2100-01-01T00:00:00Z")
    assert fresh["suspended"] is None
    assert "(root 1, timestamp 1)" in setting.run("trust", "show").stdout
    setting.published.expires = datetime.now(UTC) + timedelta(hours=2)
    setting.published.publish(SIGSTORE.tuf_targets())
    setting.run("trust", "update")
    assert setting.metadata()["state"] == "ending"
    assert "its TUF metadata expires on" in setting.run("trust", "check", code=1).stdout


def test_metadata_that_has_expired_is_told(setting: Setting) -> None:
    """It counts on while the repository cannot be reached, but a person should know."""
    from dataclasses import replace

    from proxy.configuration import load
    from proxy.tuf.state import folder_of, read, write

    setting.run("trust", "update")
    folder = folder_of(setting.data_dir, load(setting.file).repositories[0])
    state = read(folder)
    assert state.accepted is not None
    write(folder, replace(state, accepted=replace(state.accepted, expires=datetime(2026, 1, 1, tzinfo=UTC))))
    assert setting.metadata()["state"] == "expired"
    assert "its TUF metadata expired on 2026-01-01 00:00 UTC" in setting.run("trust", "check", code=1).stdout


def test_the_embedded_root_needs_no_network(tmp_path: Path) -> None:
    """Air gaps: it counts from the start, and nobody complains that it was never refreshed."""
    roots = "trust: {refresh: never, roots: {sigstore: public-good}}"
    text = f"data_dir: {tmp_path}/data\nupstreams: {{docker.io: {{}}}}\n{roots}\nrules: [{{match: '**', require: deny}}]\n"
    file = Folder(tmp_path).write(text)
    shown = CliRunner().invoke(app, ["trust", "show", "--config", str(file)]).stdout
    assert "embedded  never refreshed" in shown
    assert CliRunner().invoke(app, ["trust", "check", "--config", str(file)]).exit_code == 0


@pytest.mark.parametrize(("name", "who"), [("tagstone", "tagstone"), (None, "#4321")])
def test_root_leaves_nothing_that_servers_cannot_read(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, name: str | None, who: str
) -> None:
    """In a data directory that is another's nothing is asked and nothing made; it says as whom to run."""

    def named(number: int) -> SimpleNamespace:
        if name is None:
            raise KeyError(number)
        return SimpleNamespace(pw_name=name)

    setting.data_dir.mkdir()
    setting.run("trust", "update")
    made = sorted(setting.data_dir.rglob("*"))
    setting.server.asked.clear()
    owner = os.stat_result((0o40700, 1, 1, 1, 4321, 4321, 0, 0, 0, 0))
    found = Path.stat
    monkeypatch.setattr(pwd, "getpwuid", named)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(Path, "stat", lambda path, **more: owner if path == setting.data_dir else found(path, **more))
    told = setting.run("trust", "update", code=2).stderr
    assert f"{setting.data_dir} belongs to user {who}, and so must what is stored in it" in told
    assert f"sudo -u '{who}' tagstone trust update" in told
    assert (setting.server.asked, sorted(setting.data_dir.rglob("*"))) == ([], made)


def test_the_data_directory_may_be_named(setting: Setting, tmp_path: Path) -> None:
    """As for ``serve``: what is stored there is what is told."""
    elsewhere = str(tmp_path / "elsewhere")
    setting.run("trust", "update", "--data-dir", elsewhere)
    assert setting.metadata()["source"] == "none"
    told = setting.json("trust", "show", "--data-dir", elsewhere)
    assert [item["source"] for item in told if item["kind"] == "TUF metadata"] == ["tuf"]
