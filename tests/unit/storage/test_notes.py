"""Signed notes and checkpoints, as the specifications have them and as another program makes them."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.merkle import EMPTY_ROOT
from storage.notes import (
    MAX_NOTE,
    MAX_SIGNATURES,
    Checkpoint,
    MalformedNote,
    Note,
    SignerKey,
    UnverifiedNote,
    VerifierKey,
)

SUMDB = json.loads((Path(__file__).parent / "data" / "sumdb.json").read_text())
KEY = SignerKey.parse(SUMDB["signer_key"])
OTHER = SignerKey.generate(KEY.name)


def test_notes_and_keys_are_those_of_gos_checksum_database() -> None:
    """A key pair and a signed checkpoint that another implementation made: read, verified, and made again to the byte."""
    assert str(KEY.verifier) == SUMDB["verifier_key"]
    assert VerifierKey.parse(SUMDB["verifier_key"]) == KEY.verifier
    assert KEY.secret() == SUMDB["signer_key"]
    written = SUMDB["note"].encode()
    note = Note.parse(written)
    assert note.verified_by([KEY.verifier]) == (KEY.verifier,)
    checkpoint = Checkpoint.parse(note.text)
    assert (checkpoint.origin, checkpoint.size, checkpoint.root.hex()) == (KEY.name, 1000, SUMDB["roots"]["1000"])
    assert bytes(Note.signed(checkpoint.text(), [KEY])) == bytes(note) == written


def test_the_example_of_the_specification_is_read() -> None:
    """A text with an empty line in it, and letters beyond ASCII: the last empty line parts text and signatures."""
    text = "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n"
    signature = "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc="
    line = f"— quasimodo.example/salvatore {signature}\n"
    note = Note.parse(f"{text}\n{line}".encode())
    assert note.text == text
    assert [each.name for each in note.signatures] == ["quasimodo.example/salvatore"]
    assert bytes(note).decode() == f"{text}\n{line}"


def test_a_secret_is_not_shown() -> None:
    """Neither by the key's representation nor by the error over a broken one."""
    assert "PRIVATE" not in repr(KEY)
    with pytest.raises(MalformedNote) as caught:
        SignerKey.parse(KEY.secret()[:-4] + "AAAA")
    assert KEY.secret()[-20:-4] not in str(caught.value)


def test_signatures_of_others_are_passed_over_and_a_wrong_one_of_ours_is_not() -> None:
    """Keys change and witnesses sign beside the log; but what our key is said to have signed, it must have signed."""
    note = Note.signed("text\n", [OTHER, KEY])
    assert note.verified_by([KEY.verifier]) == (KEY.verifier,)
    assert note.verified_by([KEY.verifier, OTHER.verifier]) == (OTHER.verifier, KEY.verifier)
    forged = Note("other text\n", note.signatures)
    with pytest.raises(UnverifiedNote, match="wrong"):
        forged.verified_by([KEY.verifier])
    with pytest.raises(UnverifiedNote, match="no key that is known"):
        Note.signed("text\n", [OTHER]).verified_by([KEY.verifier])
    renamed = VerifierKey("another/name", KEY.verifier.public)
    with pytest.raises(UnverifiedNote, match="no key that is known"):
        note.verified_by([renamed])


def test_a_note_of_sixteen_large_signatures_is_read_and_one_of_very_many_is_not() -> None:
    """The specification asks for sixteen; somewhere there must be an end."""
    blob = base64.b64encode(bytes(5000)).decode()
    assert len(Note.parse(("x\n\n" + f"— w {blob}\n" * 16).encode()).signatures) == 16
    with pytest.raises(MalformedNote, match="signatures"):
        Note.parse(("x\n\n" + "— w AAAAAAA=\n" * (MAX_SIGNATURES + 1)).encode())
    with pytest.raises(MalformedNote, match="bytes"):
        Note.parse(b"x" * (MAX_NOTE + 1))


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"text\n",
        b"text\n\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAA=",
        b"text\n\n- name AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 name\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAA= more\n",
        b"text\n\n\xe2\x80\x94 na+me AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94  AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 na\xc2\xa0me AAAAAAA=\n",
        b"text\n\n\xe2\x80\x94 name AAAA\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAA\n",
        b"text\n\n\xe2\x80\x94 name AAAAAAB=\n",
        b"text\n\n\xe2\x80\x94 name AAAA*AAA=\n",
        b"te\rxt\n\n\xe2\x80\x94 name AAAAAAA=\n",
        b"te\xffxt\n\n\xe2\x80\x94 name AAAAAAA=\n",
    ],
)
def test_what_is_no_note_is_refused(note: bytes) -> None:
    """Whatever is not written as the specification says, to the last bit of the base64."""
    with pytest.raises(MalformedNote):
        Note.parse(note)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "name",
        "name+8e2eb353",
        SUMDB["verifier_key"].replace("8e2eb353", "8e2eb354"),
        SUMDB["verifier_key"].replace("8e2eb353", "8E2EB353"),
        SUMDB["verifier_key"].replace("example.com", "example com"),
        SUMDB["verifier_key"].replace("example.com/tagstone", ""),
        SUMDB["verifier_key"].replace("+AQ", "+Ag"),
        SUMDB["verifier_key"] + "AAAA",
        "x" * 300 + "+00000000+AAAA",
    ],
)
def test_what_is_no_key_is_refused(key: str) -> None:
    """Another type, another id, another name: a key is what all of it says together."""
    with pytest.raises(MalformedNote):
        VerifierKey.parse(key)
    with pytest.raises(MalformedNote):
        SignerKey.parse("PRIVATE+KEY+" + key)
    with pytest.raises(MalformedNote):
        SignerKey.parse(SUMDB["verifier_key"])


@given(
    origin=st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="+"), min_size=1, max_size=30),
    size=st.integers(0, 2**63 - 1),
    root=st.binary(min_size=32, max_size=32),
)
def test_a_checkpoint_reads_back(origin: str, size: int, root: bytes) -> None:
    """Any origin, any size, any root; also through a signed note."""
    checkpoint = Checkpoint(origin, size, root, ("an extension",))
    note = Note.parse(bytes(Note.signed(checkpoint.text(), [KEY])))
    assert Checkpoint.parse(note.text) == checkpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "origin\n1\n",
        "origin\n01\n" + "A" * 43 + "=\n",
        "origin\n-1\n" + "A" * 43 + "=\n",
        "origin\n१\n" + "A" * 43 + "=\n",
        "origin\n9223372036854775808\n" + "A" * 43 + "=\n",
        "origin\n1\nAAAA\n",
        "\n1\n" + "A" * 43 + "=\n",
        "origin\n1\n" + "A" * 43 + "=\n\nmore\n",
        "origin\n1\n" + "A" * 43 + "=",
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    """Three lines at least, none of them empty, the size in its one spelling, the root of a whole hash."""
    with pytest.raises(MalformedNote):
        Checkpoint.parse(text)


def test_the_empty_tree_has_a_checkpoint() -> None:
    """Its size is 0."""
    assert Checkpoint.parse(Checkpoint("o", 0, EMPTY_ROOT).text()).size == 0
