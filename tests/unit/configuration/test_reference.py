"""docs/configuration.md and the models say the same."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.configuration import load, reference
from tests.unit.configuration.files import Folder

PAGE = Path(__file__).resolve().parents[3] / "docs" / "configuration.md"
TEXT = PAGE.read_text(encoding="utf-8")
#: Models of what is only known by name in this version, and those whose one key the page explains in a table of its own.
NOT_SHOWN = {
    "AllForm", "AnyForm", "SignatureForm", "AttestationForm", "CertificateClaims",
}  # fmt: skip


def test_the_tables_are_those_of_the_models() -> None:
    """Changed a key? ``python -m proxy.configuration.reference docs/configuration.md`` writes the tables anew."""
    assert reference.render(TEXT) == TEXT


def test_every_model_has_its_table() -> None:
    """What can be configured can be looked up."""
    shown = set(re.findall(r"<!-- keys: (\w+) -->", TEXT))
    assert shown == set(reference.models()) - NOT_SHOWN


def test_the_examples_of_the_page_check_out(folder: Folder) -> None:
    """A whole file as it stands, a part with what it needs."""
    for name in ("acme", "acme-security"):
        (folder.path / f"{name}.pub").write_bytes((folder.path / ("one.pub" if name == "acme" else "two.pub")).read_bytes())
    examples = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)
    assert len(examples) == 4
    (folder.path / "users.htpasswd").write_text("alice:$2y$05$" + "a" * 53 + "\n")
    (folder.path / "cluster-ca.crt").write_bytes(b"looked at when it is used")
    for example in examples:
        rest = (
            ""
            if re.search("^rules:", example, re.MULTILINE)
            else 'upstreams: {docker.io: {}, ghcr.io: {}}\nrules: [{match: "**", require: deny}]\n'
        )
        assert load(folder.write(example + rest)).rules


def test_tables_are_written_between_their_marks(tmp_path: Path) -> None:
    """Everything else on the page stays as it is."""
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- keys: Log -->\nold\n<!-- end -->\nafter\n")
    subprocess.run(
        [sys.executable, "-m", "proxy.configuration.reference", str(page)], check=True, timeout=60, cwd=PAGE.parents[1]
    )
    written = page.read_text()
    assert written.startswith("before\n<!-- keys: Log -->\n| key | value | default | meaning |\n")
    assert "| `format` | `console`, `json` | `console` | " in written
    assert "old" not in written
    assert written.endswith("|\n<!-- end -->\nafter\n")


def test_a_mark_without_a_model_is_an_error() -> None:
    """A model that was renamed is noticed."""
    with pytest.raises(KeyError):
        reference.render("<!-- keys: Nothing -->\n<!-- end -->\n")


def test_values_are_named_in_words() -> None:
    """The kinds of value of which the page speaks."""
    rows = {
        key: row
        for name in reference.models()
        for key, row in re.findall(r"^\| `(\w+)` \| (.*?) \|", reference.table(name), re.MULTILINE)
    }
    assert rows["check_interval"] == "duration"
    assert rows["manifest_size"] == "size"
    assert rows["valid_until"] == "date or time"
    assert rows["data_dir"] == "path"
    assert rows["workers"] == "number, 1–256"
    assert rows["at_least"] == "number from 1"
    assert rows["rules"] == "list of mappings"
    assert rows["realm_hosts"] == "list of texts"
    assert rows["require"] == "word or mapping"
    assert rows["upstreams"] == "mapping by name"
    assert rows["allow_private"] == "`true` or `false`"
