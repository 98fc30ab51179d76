"""``trust.keys`` with OpenPGP: what is loaded, what a rule makes of it, and each mistake in its line."""

# ruff: noqa: E501  # a row of a table is one line

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pysequoia
import pytest

from proxy.content import Lookaside
from proxy.policy.rules import AtLeast, OpenPgp, SignatureBy
from tests.unit.configuration.files import RULES, UPSTREAM, Folder

SIGNED = 'rules: [{match: "docker.io/**", require: {signature: {key: acme}}}]\n'


def certificate(user: str, seconds: int | None = None) -> bytes:
    """A public key in ASCII armor."""
    key = pysequoia.Tsk.generate(user) if seconds is None else pysequoia.Tsk.generate(user, validity_seconds=seconds)
    return str(key.extract_certificate()).encode()


ACME, BEN = certificate("Acme <acme@acme.test>"), certificate("Ben <ben@acme.test>")


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A folder with two OpenPGP keys, one by one and together."""
    made = Folder(tmp_path)
    for name, body in (("acme", ACME), ("ben", BEN), ("both", ACME + BEN)):
        (tmp_path / f"{name}.asc").write_bytes(body)
    return made


def keys(*entries: str) -> str:
    """The section, from line 2 on."""
    return "trust: {keys: {" + ", ".join(entries) + "}}\n"


def test_a_key_is_loaded_with_its_lookaside_and_its_window(folder: Folder) -> None:
    """Not among the other keys, though under the same names; a rule asks for it as for any key."""
    entry = "acme: {gpg: acme.asc, lookaside: https://sigs.example/a/, valid_until: 2027-06-30}"
    found = folder.load(UPSTREAM + keys(entry) + SIGNED)
    assert not found.trusted.keys
    key = found.trusted.openpgp["acme"]
    assert key.lookaside == Lookaside("https://sigs.example/a")
    assert key.valid_until == datetime(2027, 7, 1, tzinfo=UTC) - timedelta(microseconds=1)
    assert [each.user for each in key.certificates] == ["Acme <acme@acme.test>"]
    assert found.rules[0].require == SignatureBy(OpenPgp("acme"))
    assert str(found.rules[0].require) == "a signature by key acme"


def test_a_lookaside_may_be_private_or_none(folder: Folder) -> None:
    """With the words of upstreams; without one the registry is asked."""
    entries = (
        "acme: {gpg: acme.asc, lookaside: 'http://127.0.0.1:8080/x', allow_private: true, ca: one.pub}",
        "ben: {gpg: ben.asc}",
    )
    (folder.path / "one.pub").write_bytes(_authority())
    found = folder.load(UPSTREAM + keys(*entries) + RULES).trusted.openpgp
    assert found["acme"].lookaside == Lookaside("http://127.0.0.1:8080/x", True, folder.path / "one.pub")
    assert found["ben"].lookaside == Lookaside()


def _authority() -> bytes:
    import trustme

    return trustme.CA().cert_pem.bytes()


def test_what_a_key_stands_for_is_part_of_the_question(folder: Folder) -> None:
    """Other bytes in the file or another window: another fingerprint. Where signatures are found is none of it."""

    def fingerprint(entry: str) -> str:
        return folder.load(UPSTREAM + keys(entry) + SIGNED).rules[0].fingerprint

    plain = fingerprint("acme: {gpg: acme.asc}")
    assert fingerprint("acme: {gpg: acme.asc, lookaside: https://sigs.example}") == plain
    assert fingerprint("acme: {gpg: acme.asc, valid_from: 2025-01-01}") != plain
    assert fingerprint("acme: {gpg: both.asc}") != plain
    assert fingerprint("acme: {file: one.pub}") != plain


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ("gpg: gone.asc", ".gpg: {folder}/gone.asc cannot be read: No such file or directory"),
        ("gpg: one.pub", ".gpg: {folder}/one.pub: this is a PEM public key, not OpenPGP: give it under `file`"),
        ("gpg: tagstone.yaml", ".gpg: {folder}/tagstone.yaml: this is no OpenPGP key (unexpected EOF)"),
        ("file: one.pub, gpg: acme.asc", ": `file` and `gpg` stand side by side; give each a name of its own"),
        ("file: one.pub, lookaside: https://a.example", ": `lookaside` goes with `gpg`: other signatures are found in the registry"),
        ("gpg: acme.asc, allow_private: true", ": `ca` and `allow_private` are about a `lookaside`, and there is none"),
        ("gpg: acme.asc, root: r", ": `root` goes with `file`: nothing proves when an OpenPGP signature was made"),
        ("gpg: acme.asc, lookaside: sigs.example/x", ".lookaside: has no scheme: write https://sigs.example/x"),
        ("gpg: acme.asc, lookaside: 'ftp://sigs.example'", ".lookaside: has the scheme `ftp`: only https and http are spoken"),
        ("gpg: acme.asc, lookaside: 'http://sigs.example'", ".lookaside: plain HTTP can be read and changed on its way; use https, or write `allow_private: true`"),
        ("gpg: acme.asc, lookaside: 'https://10.0.0.1/x'", ".lookaside: `10.0.0.1` is a private address; to allow it, write `allow_private: true`"),
        ("gpg: acme.asc, lookaside: 'https://u:p@sigs.example'", ".lookaside: holds credentials: a lookaside is asked without any"),
        ("gpg: acme.asc, lookaside: 'https://sigs.example/x?y'", ".lookaside: is more than a host and a path of plain ASCII: write https://host/path"),
        ("gpg: acme.asc, lookaside: 'https://sigs.example/a b'", ".lookaside: is more than a host and a path of plain ASCII: write https://host/path"),
        ("gpg: acme.asc, lookaside: 'https://'", ".lookaside: is not an endpoint: write https://host or https://host:port"),
        ("gpg: acme.asc, lookaside: 'https://sigs.example', ca: one.pub", ".ca: {folder}/one.pub holds no certificates in PEM form"),
    ],
)  # fmt: skip
def test_each_mistake_is_told(folder: Folder, entry: str, told: str) -> None:
    """In the line of the file, with the way out."""
    assert folder.errors(f"trust:\n  keys:\n    k: {{{entry}}}\n{RULES}") == [f"3: trust.keys.k{told.format(folder=folder.path)}"]


def test_without_the_library_the_command_is_told(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that needs it does not load; one that does not, does."""
    monkeypatch.setitem(sys.modules, "pysequoia", None)
    (told,) = folder.errors(keys("acme: {gpg: acme.asc}") + SIGNED + UPSTREAM)
    assert told == "1: trust.keys.acme.gpg: OpenPGP keys need a library that is not installed: pip install 'tagstone[gpg]'"
    assert folder.load(UPSTREAM + keys("acme: {file: one.pub}") + SIGNED).trusted.keys


def test_such_a_key_signs_no_attestations(folder: Folder) -> None:
    """The format has none."""
    require = "{attestation: {type: https://slsa.dev/provenance/v1, by: {key: acme}}}"
    (told,) = folder.errors(keys("acme: {gpg: acme.asc}") + f'rules: [{{match: "**", require: {require}}}]\n')
    assert told == (
        "2: rules[0].require.attestation.by.key: names `acme`, an OpenPGP key: such keys sign images, not attestations"
    )


def test_the_same_key_under_two_names_is_told(folder: Folder) -> None:
    """Both alone and among others; a rule that needs two of them could never be met."""
    entries = keys("acme: {gpg: acme.asc}", "again: {gpg: acme.asc}", "both: {gpg: both.asc}")
    rule = 'rules: [{match: "docker.io/**", require: {at_least: 2, of: [{signature: {key: acme}}, {signature: {key: again}}]}}]\n'
    assert folder.warnings(UPSTREAM + entries + rule) == [
        "2: trust.keys.again: holds an OpenPGP key that `acme` holds as well; `at_least` counts it once",
        "2: trust.keys.both: holds an OpenPGP key that `acme` holds as well; `at_least` counts it once",
        "3: rules[0].require.at_least: asks for 2 distinct signers, but names only 1: no image could ever pass",
    ]
    two = rule.replace("key: again", "key: both")
    assert isinstance(folder.load(UPSTREAM + entries + two).rules[0].require, AtLeast)
    assert len(folder.warnings(UPSTREAM + entries + two)) == 2


def test_keys_that_count_no_more_are_told(folder: Folder) -> None:
    """Revoked ones, and those whose time is over; windows as for all keys."""
    private = pysequoia.Tsk.generate("Gone <gone@acme.test>")
    revocation = private.extract_certificate().revoke(private.certifier())
    revoked = pysequoia.Cert.from_bytes(bytes(private.extract_certificate()) + bytes(revocation))
    (folder.path / "gone.asc").write_bytes(str(revoked).encode())
    (folder.path / "late.asc").write_bytes(certificate("Late <late@acme.test>", 60))
    entries = keys("gone: {gpg: gone.asc}", "late: {gpg: late.asc}", "acme: {gpg: acme.asc, valid_until: 2020-01-01}")
    told = folder.warnings(UPSTREAM + entries + RULES, datetime.now(UTC) + timedelta(days=1))
    assert [line.partition(" of ")[2].partition(" on ")[0] for line in told[:2]] == [
        "Gone <gone@acme.test> was revoked: it counts no more",
        "Late <late@acme.test> expired",
    ]
    assert told[2] == "2: trust.keys.acme.valid_until: is in the past: no signature by this key counts any more"
