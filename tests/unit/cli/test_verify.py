"""``tagstone verify --evidence``: a digest judged by files alone."""

from __future__ import annotations

import json
from pathlib import Path

import pysequoia
import pytest
from typer.testing import CliRunner, Result

from proxy.cli.main import app
from proxy.policy.patterns import Pattern
from proxy.policy.rules import AttestationBy, Identity, On
from proxy.settings import Limits
from proxy.verify.model import Subject, Trusted
from proxy.verify.pipeline import judge_alone
from storage.reference import Repository
from tests.simulator import images
from tests.simulator.openpgp import text
from tests.simulator.sigstore import PrivateSigstore, Signing
from tests.unit.configuration.files import Folder
from tests.unit.verify.reading import root_of

SIGSTORE = PrivateSigstore()
IMAGE = images.image("app")
WHO = Signing()
TYPE = "https://slsa.dev/provenance/v1"
REFERENCE = f"reg.example/team/app@{IMAGE.digest}"


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A configuration that asks for an attestation by the private Sigstore."""
    made = Folder(tmp_path)
    root = SIGSTORE.write_trusted_root(tmp_path / "root.json")
    by = f"{{root: own, issuer: '{WHO.issuer}', identity: '{WHO.identity}'}}"
    made.write(
        f"upstreams: {{reg.example: {{url: 'http://127.0.0.1:9', allow_private: true}}}}\n"
        f"trust: {{roots: {{own: {{file: {root}}}}}}}\n"
        f'rules: [{{match: "**", require: {{attestation: {{type: "{TYPE}", by: {by}, when: "predicate.good == true"}}}}}}]\n'
    )
    return made


def verify(folder: Folder, *words: str | Path) -> Result:
    """Run ``tagstone verify`` with the folder's configuration."""
    return CliRunner().invoke(app, ["verify", "--config", str(folder.file), *map(str, words)])


def bundle(folder: Folder, name: str, **predicate: object) -> Path:
    """A file with an attestation of the image."""
    file = folder.path / name
    file.write_bytes(SIGSTORE.attestation_bundle(IMAGE.digest, TYPE, predicate))
    return file


def test_a_digest_passes_by_a_bundle_in_a_file(folder: Folder) -> None:
    """Exit 0, without a network; with --explain the steps and what each saw."""
    file = bundle(folder, "good.json", good=True)
    result = verify(folder, REFERENCE, "--evidence", file, "--explain")
    assert result.exit_code == 0, result.output
    assert f"{REFERENCE}: PASSES" in result.output
    assert "1. certificate of release@example.test" in result.output
    assert "its condition holds" in result.output
    shown = json.loads(verify(folder, REFERENCE, "--evidence", file, "--json").stdout)
    assert shown["verdict"] == "accepted"
    assert shown["evidence"][0]["steps"]


def test_one_good_line_of_many_suffices(folder: Folder) -> None:
    """JSON lines, as ``gh attestation download`` writes them: each is judged by itself, and named by its line."""
    file = folder.path / "lines.jsonl"
    bad, good = bundle(folder, "bad.json", good=False), bundle(folder, "good.json", good=True)
    file.write_bytes(bad.read_bytes() + b"\n" + good.read_bytes() + b"\n")
    result = verify(folder, REFERENCE, "--evidence", file)
    assert result.exit_code == 0, result.output
    assert "lines.jsonl, line 1: " in result.output


@pytest.mark.parametrize("words", [["bad.json"], ["junk.json"], ["empty.json"]])
def test_what_does_not_hold_is_refused(folder: Folder, words: list[str]) -> None:
    """Exit 1: a condition that does not hold, something that is no bundle, nothing at all."""
    bundle(folder, "bad.json", good=False)
    (folder.path / "junk.json").write_bytes(b"\xff{not json")
    (folder.path / "empty.json").write_bytes(b"")
    result = verify(folder, REFERENCE, *(part for word in words for part in ("--evidence", folder.path / word)))
    assert result.exit_code == 1, result.output
    assert "REFUSED" in result.output


def test_another_digest_is_refused(folder: Folder) -> None:
    """The bundle is good, but about something else."""
    other = images.image("other")
    result = verify(folder, f"reg.example/team/app@{other.digest}", "--evidence", bundle(folder, "good.json", good=True))
    assert result.exit_code == 1
    assert "signed another image" in result.output


@pytest.mark.parametrize(
    ("on", "good", "code"),
    [
        ("index", True, 0),
        ("index", False, 1),
        ("platform", True, 3),
        ("platform", False, 3),
        ("either", True, 0),
        ("either", False, 3),
    ],
)
def test_platforms_cannot_be_told_by_a_digest(folder: Folder, on: str, good: bool, code: int) -> None:
    """It may be an index, whose platforms would need attestations of their own: only what suffices for any image passes."""
    folder.file.write_text(folder.file.read_text().replace("when:", f"on: {on}, when:"))
    result = verify(folder, REFERENCE, "--evidence", bundle(folder, "it.json", good=good))
    assert result.exit_code == code, result.output
    assert ("it takes its manifest to know the platforms" in result.output) is (on != "index")


def test_an_image_that_is_known_to_be_one_is_its_own_platform() -> None:
    """With the type of its manifest nothing is left open."""
    asked = AttestationBy(TYPE, Identity("own", WHO.issuer, Pattern.compile(WHO.identity)), on=On.PLATFORM)
    trusted = Trusted(roots={"own": root_of(SIGSTORE)})
    body = SIGSTORE.attestation_bundle(IMAGE.digest, TYPE, {})
    repository = Repository.of("reg.example", "team/app")
    for media_type, accepted in ((IMAGE.media_type, True), (images.OCI_INDEX, False), ("", False)):
        of = Subject(repository, IMAGE.digest, b"", media_type)
        (found,) = judge_alone(Limits(), "a file", body, of, [asked], trusted, SIGSTORE.now)
        assert (found.accepted, found.undecided) == (accepted, not accepted)


@pytest.mark.parametrize(
    ("reference", "file", "told"),
    [
        ("reg.example/team/app:v1", "good.json", "--evidence judges a digest"),
        (REFERENCE, "gone.json", "cannot be read: No such file or directory"),
    ],
)
def test_mistakes_in_the_command_are_told(folder: Folder, reference: str, file: str, told: str) -> None:
    """Exit 2."""
    bundle(folder, "good.json", good=True)
    result = verify(folder, reference, "--evidence", folder.path / file)
    assert result.exit_code == 2
    assert told in result.output


def test_an_openpgp_signature_is_judged_as_a_file(tmp_path: Path) -> None:
    """``signature-1`` as it lies in a lookaside, which is not asked: the JSON names the key of the file."""
    private = pysequoia.Tsk.generate("Acme <acme@acme.test>")
    folder = Folder(tmp_path)
    (tmp_path / "acme.asc").write_text(str(private.extract_certificate()))
    folder.write(
        "upstreams: {reg.example: {}}\n"
        "trust: {keys: {acme: {gpg: acme.asc, lookaside: 'https://127.0.0.1:9', allow_private: true}}}\n"
        'rules: [{match: "**", require: {signature: {key: acme}}}]\n'
    )
    signed = text(IMAGE.digest, "reg.example/team/app:1.0")
    file = tmp_path / "signature-1"
    file.write_bytes(pysequoia.sign(private.signer(), signed, armor=False))
    shown = json.loads(verify(folder, REFERENCE, "--evidence", file, "--json").stdout)
    assert shown["verdict"] == "accepted"
    assert (shown["evidence"][0]["key"], shown["evidence"][0]["signer"]) == ("acme", "Acme <acme@acme.test>")
    other = verify(folder, REFERENCE.replace("team/app", "team/other"), "--evidence", file, "--explain")
    assert other.exit_code == 1
    assert "names another repository: reg.example/team/app:1.0, not reg.example/team/other" in other.output
    assert "1. the signature holds by OpenPGP key" in other.output
