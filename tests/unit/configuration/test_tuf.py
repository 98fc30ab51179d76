"""Roots of TUF repositories as they are written, and what becomes of them by what is known of the repositories."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.configuration import Configuration
from proxy.configuration.schema import json_schema
from proxy.configuration.tuf import public_good_source
from proxy.tuf.repository import TufRepository
from proxy.tuf.state import Accepted, State, Trouble, Versions, folder_of, write
from proxy.verify.roots import Demands, Root, public_good
from tests.simulator.sigstore import PrivateSigstore
from tests.unit.configuration.files import UPSTREAM, Folder
from tests.unit.tuf.test_refresh import unreadable

SIGSTORE, OTHER = PrivateSigstore(), PrivateSigstore("other")
NOW = datetime(2026, 6, 1, tzinfo=UTC)
RULES = """\
rules:
  - match: "**"
    require: {signature: {keyless: {root: corp, issuer: https://i.test, identity: a@b.test}}}
"""


class Written(Protocol):
    """Writes the text of a file with the one root ``corp``."""

    def __call__(self, root: str = ..., trust: str = ...) -> str: ...


@pytest.fixture
def text(tmp_path: Path) -> Written:
    """A file with one root, ``corp``, whose bootstrap is there."""
    published = SIGSTORE.tuf_repository(tmp_path / "repository")
    (tmp_path / "root.json").write_bytes(published.bootstrap)
    (tmp_path / "trusted_root.json").write_bytes(SIGSTORE.trusted_root())

    def make(root: str = "{tuf: https://tuf.corp.test, root: root.json}", trust: str = "") -> str:
        return f"data_dir: {tmp_path}/data\n{UPSTREAM}trust: {{roots: {{corp: {root}}}{trust}}}\n{RULES}"

    return make


def accepted(body: bytes, root: int = 1, expires: datetime = NOW + timedelta(days=7)) -> Accepted:
    """What a good answer leaves."""
    return Accepted(body, Versions(root, 5, 5, 5), expires, NOW)


def store(configuration: Configuration, state: State) -> None:
    """Write what is known of its one repository."""
    folder = folder_of(configuration.settings.data_dir, configuration.repositories[0])
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, state)


def test_a_repository_that_nobody_has_asked(tmp_path: Path, text: Written) -> None:
    """Checks out, and vouches for nobody until it was asked: its questions stay open."""
    loaded = Folder(tmp_path).load(text())
    root = loaded.trusted.roots["corp"]
    assert (root.authorities, dict(root.logs)) == ((), {})
    why = root.unusable(NOW)
    assert why is not None
    assert "there is none yet from its TUF repository https://tuf.corp.test: nobody has asked it" in why
    assert [each.url for each in loaded.repositories] == ["https://tuf.corp.test"]
    assert loaded.settings.trust.refresh == 86400


def test_what_was_refreshed_counts(tmp_path: Path, text: Written) -> None:
    """From the data directory, with the demands that are written; rules have other fingerprints by it."""
    folder = Folder(tmp_path)
    before = folder.load(text())
    store(before, State(NOW, accepted(SIGSTORE.trusted_root())))
    after = folder.load(text())
    assert after.trusted.roots["corp"].identity == Root.load("corp", SIGSTORE.trusted_root(), Demands()).identity
    assert after.trusted.roots["corp"].unusable(NOW) is None
    assert after.rules[0].fingerprint != before.rules[0].fingerprint
    assert before.knowing(after.states) == after
    assert after.knowing(after.states) is after
    assert after.knowing({}) is after
    lax = folder.load(text("{tuf: https://tuf.corp.test, root: root.json, log: none, sct: none, timestamp: required}"))
    assert lax.trusted.roots["corp"].demands == Demands(log=False, sct=False, timestamp=True)
    assert lax.repositories == after.repositories


def test_promise_49_a_suspended_root_changes_no_fingerprint(tmp_path: Path, text: Written) -> None:
    """What was decided before goes on to count, and nothing new is decided, also after a restart."""
    folder = Folder(tmp_path)
    good = State(NOW, accepted(SIGSTORE.trusted_root()))
    store(folder.load(text()), good)
    before = folder.load(text())
    store(before, replace(good, refused=Trouble(NOW, "it answers with what does not hold")))
    after = folder.load(text())
    assert after.rules == before.rules
    assert after.trusted.roots["corp"].identity == before.trusted.roots["corp"].identity
    why = after.trusted.roots["corp"].unusable(NOW)
    assert why == "makes no new decisions: it answers with what does not hold (since 2026-06-01 00:00 UTC)"


def test_a_question_outlasts_what_a_repository_has(tmp_path: Path, text: Written) -> None:
    """The same for the same requirement by the same repository's root; another with another requirement, repository or demand."""
    folder, owner = Folder(tmp_path), "{tuf: https://tuf.corp.test, root: root.json%s}"
    loaded = folder.load(text())
    later = loaded.knowing({loaded.repositories[0].folder: State(NOW, accepted(SIGSTORE.trusted_root()))})
    question = loaded.rules[0].lasting
    assert (later.rules[0].lasting, later.rules[0].fingerprint == loaded.rules[0].fingerprint) == (question, False)
    others = [
        text(owner % ", log: none, sct: none, timestamp: required"),
        text(owner % ", target: other.json"),
        text().replace("identity: a@b.test", "identity: c@b.test"),
    ]
    questions = [folder.load(other).rules[0].lasting for other in others]
    assert len({question, *questions, ""}) == 5


def test_what_no_repository_vouches_for_has_no_question_that_lasts(tmp_path: Path, text: Written) -> None:
    """Such roots are never suspended; a key whose times a repository's root proves may be."""
    folder = Folder(tmp_path)
    assert folder.load(text("{file: trusted_root.json}")).rules[0].lasting == ""
    pem = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pub").write_bytes(pem)
    for root, lasts in (("", False), (", root: corp", True)):
        written = text(trust=f", keys: {{release: {{file: key.pub{root}}}}}")
        by_key = f"{written.partition('rules:')[0]}rules: [{{match: '**', require: {{signature: {{key: release}}}}}}]\n"
        assert bool(folder.load(by_key).rules[0].lasting) is lasts


def test_what_cannot_be_read_now_suspends_until_it_can(tmp_path: Path, text: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server starts all the same; what is there might say that nothing may be decided."""
    folder = Folder(tmp_path)
    store(folder.load(text()), State(NOW, accepted(SIGSTORE.trusted_root())))
    good = folder.load(text())
    with monkeypatch.context() as patch:
        unreadable(patch)
        root = folder.load(text()).trusted.roots["corp"]
    assert re.search(r"there is none yet .*state\.json, cannot be read: Too many open files$", root.unusable(NOW) or "")
    assert folder.load(text()) == good


def test_another_trusted_root_is_another_question(tmp_path: Path, text: Written) -> None:
    """Verdicts of before do not answer it."""
    loaded = Folder(tmp_path).load(text())
    key = loaded.repositories[0].folder
    one = loaded.knowing({key: State(NOW, accepted(SIGSTORE.trusted_root()))})
    other = loaded.knowing({key: State(NOW, accepted(OTHER.trusted_root()))})
    assert one.rules[0].fingerprint != other.rules[0].fingerprint


def test_a_root_that_cannot_meet_its_demands_is_no_mistake_of_the_file(tmp_path: Path, text: Written) -> None:
    """A repository may change its mind; a server must be able to start all the same."""
    loaded = Folder(tmp_path).load(text())
    known = {loaded.repositories[0].folder: State(NOW, accepted(SIGSTORE.trusted_root("no log")))}
    why = loaded.knowing(known).trusted.roots["corp"].unusable(NOW)
    assert why is not None
    assert "has no transparency log" in why


def test_freshness_ends_decisions_with_the_metadata(tmp_path: Path, text: Written) -> None:
    """Where it is required: at the expiry, without anybody doing anything; else the root counts on."""
    folder = Folder(tmp_path)
    state = State(NOW, accepted(SIGSTORE.trusted_root()))
    store(folder.load(text()), state)
    late = NOW + timedelta(days=7, seconds=1)
    assert folder.load(text()).trusted.roots["corp"].unusable(late) is None
    strict = folder.load(text(trust=", freshness: required")).trusted.roots["corp"]
    assert strict.unusable(late - timedelta(seconds=1)) is None
    why = strict.unusable(late)
    assert why == "makes no new decisions: it has not been refreshed, and its TUF metadata expired 2026-06-08 00:00 UTC"


@pytest.mark.parametrize("extends", ["", "extends: well-known\n"])
def test_the_public_good_root_counts_from_the_start(tmp_path: Path, extends: str) -> None:
    """The embedded one, until one is fetched; where freshness is required, not until then."""
    folder = Folder(tmp_path)

    def text(more: str = "") -> str:
        trust = f"trust: {{roots: {{corp: public-good}}, refresh: never{more}}}\n"
        return f"data_dir: {tmp_path}/data\nupstreams: {{docker.io: {{}}, gcr.io: {{}}}}\n{extends}{trust}{RULES}"

    loaded = folder.load(text())
    names = {"corp", "well-known"} if extends else {"corp"}
    assert set(loaded.sources) == set(loaded.trusted.roots) == names
    assert [each.url for each in loaded.repositories] == ["https://tuf-repo-cdn.sigstore.dev"]
    assert loaded.settings.trust.refresh == 0
    embedded = Root.load("corp", public_good(), Demands())
    for name in names:
        assert loaded.trusted.roots[name].identity == embedded.identity
        assert loaded.trusted.roots[name].unusable(NOW) is None
        why = folder.load(text(", freshness: required")).trusted.roots[name].unusable(NOW)
        assert why is not None
        assert "has not been refreshed from https://tuf-repo-cdn.sigstore.dev yet" in why
    newer = accepted(SIGSTORE.trusted_root(), root=loaded.repositories[0].root_version)
    store(loaded, State(NOW, newer))
    stored = Root.load("corp", SIGSTORE.trusted_root(), Demands()).identity
    assert {root.identity for root in folder.load(text()).trusted.roots.values()} == {stored}
    # A later version of Tagstone brings newer root metadata than the stored root was accepted by.
    store(loaded, State(NOW, replace(newer, versions=Versions(1, 5, 5, 5))))
    assert {root.identity for root in folder.load(text()).trusted.roots.values()} == {embedded.identity}


@pytest.mark.parametrize(
    ("root", "told"),
    [
        ("{tuf: https://t.test}", "trust.roots.corp: `root` is required beside `tuf`"),
        ("{tuf: https://t.test, root: root.json, file: trusted_root.json}", "give either `file`"),
        ("{file: trusted_root.json, root: root.json}", "`root` and `target` go with `tuf`"),
        ("{file: trusted_root.json, target: x}", "`root` and `target` go with `tuf`"),
        ("{tuf: https://t.test, root: root.json, tsa: [one.pub]}", "`tsa` goes with `ca`"),
        ("{tuf: https://t.test, root: gone.json}", "trust.roots.corp.root: {folder}/gone.json cannot be read"),
        ("{tuf: https://t.test, root: one.pub}", "this is no TUF root metadata: it is no JSON"),
        ("{tuf: https://t.test, root: trusted_root.json}", "this is the trusted root itself, which goes under `file`"),
        ("{tuf: t.test, root: root.json}", "`tuf` is the address of a TUF repository"),
        ("{tuf: 'https://t.test?x=1', root: root.json}", "`tuf` is the address of a TUF repository"),
        ("{tuf: 'https://u:p@t.test', root: root.json}", "`tuf` is the address of a TUF repository"),
        ("{tuf: 'https://t.test:x', root: root.json}", "`tuf` is no address"),
        ("{tuf: 'ftp://t.test', root: root.json}", "`tuf` is the address of a TUF repository"),
        ("{tuf: https://t.test, root: root.json, target: ../x}", "`target` names no target"),
    ],
)
def test_mistakes(tmp_path: Path, text: Written, root: str, told: str) -> None:
    """Each is told once, with a way out."""
    (error,) = Folder(tmp_path).errors(text(root))
    assert told.format(folder=tmp_path) in error


@pytest.mark.parametrize("signed", ["[]", '{"_type": "timestamp"}', '{"_type": "root"}', '{"_type": "root", "version": true}'])
def test_what_is_no_root_metadata(signed: str) -> None:
    """By its shape; whether it is rightly signed is seen when the repository is asked."""
    with pytest.raises(ValueError, match="TUF root metadata"):
        TufRepository.of("https://t.test", f'{{"signed": {signed}}}'.encode(), "x")
    with pytest.raises(ValueError, match="more than"):
        TufRepository.of("https://t.test", b" " * 600_000, "x")


def test_repositories_have_folders_of_their_own() -> None:
    """By address, target and the operator's root metadata; the public-good one keeps its own over all versions."""
    body = json.dumps({"signed": {"_type": "root", "version": 1}}).encode()
    one = TufRepository.of("https://Tuf.test/a/", body, "x")
    folders = {
        one.folder,
        TufRepository.of("https://Tuf.test/b", body, "x").folder,
        TufRepository.of("https://Tuf.test/a", body, "y").folder,
        TufRepository.of("https://Tuf.test/a", body + b" ", "x").folder,
    }
    assert len(folders) == 4
    assert TufRepository.of("https://Tuf.test/a", body, "x").folder == one.folder
    assert one.folder.startswith("tuf.test-")
    public = public_good_source().repository
    assert replace(public, root=body, embedded=b"newer").folder == public.folder


@pytest.mark.parametrize(
    ("written", "seconds", "shown"),
    [("never", 0, "never"), ("0", 0, "never"), ("90m", 5400, "90m"), ("1d", 86400, "24h"), ("daily", None, ""), ("24", None, "")],
)
def test_how_often_is_written(tmp_path: Path, text: Written, written: str, seconds: float | None, shown: str) -> None:
    """A duration or a word; editors know both, and what is shown can be read back."""
    folder, file = Folder(tmp_path), text(trust=f", refresh: {written}")
    pattern = json_schema()["$defs"]["Trust"]["properties"]["refresh"]["pattern"]
    assert bool(re.search(pattern, written)) == (seconds is not None)
    if seconds is None:
        assert "write a duration with its unit, such as 500ms, 60s, 15m, 72h or 7d; or never" in " ".join(folder.errors(file))
    else:
        settings = folder.load(file).settings.trust
        assert (settings.refresh, settings.model_dump(mode="json")["refresh"]) == (seconds, shown)


def test_plain_http_is_worth_a_warning(tmp_path: Path, text: Written) -> None:
    """Nobody can forge it, but anybody between can suspend it."""
    folder = Folder(tmp_path)
    (told,) = folder.warnings(text("{tuf: 'http://tuf.corp.test', root: root.json}"))
    assert "is not encrypted" in told
    assert folder.warnings(text("{tuf: 'http://127.0.0.1:1', root: root.json}")) == []
